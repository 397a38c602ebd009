"""The words and numbers of a span information flow, for all its views."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lens_scopes.views.words.matrix import prediction_name
from lens_scopes.views.words.numbers import short_number
from lens_scopes.views.words.token_text import inline_token

if TYPE_CHECKING:
    from lens_scopes.results.flow import InformationFlow, SpanFlow

CURVE_SIGMAS = tuple(10 ** (step / 8 - 2) for step in range(25))
"""0.01 to 10: below it every value is its bound."""

DECADES = 6.0
"""The most that is drawn below the largest value: what is smaller tells nothing to a reader."""


@dataclass(frozen=True)
class SpanCurve:
    """Both values of one span over `CURVE_SIGMAS`, in nats, summed over the predictions."""

    name: str
    bound: list[float]
    channel: list[float]


def span_curves(flow: InformationFlow) -> list[SpanCurve]:
    """The curves of the spans that tell something, the strongest first."""
    by_sigma = [flow.totals(sigma) for sigma in CURVE_SIGMAS]
    return [
        SpanCurve(name, [total[row].bound for total in by_sigma], [total[row].channel for total in by_sigma])
        for row, name in strongest_spans(flow)
        if 0 < by_sigma[0][row].bound < math.inf
    ]


def reach(curves: Sequence[SpanCurve]) -> tuple[float, float]:
    """The exponents of ten between which the values of curves are drawn: at most `DECADES` of them."""
    highest = math.ceil(math.log10(max(max(curve.bound) for curve in curves)))
    lowest = math.floor(math.log10(min(min(curve.channel) for curve in curves)))
    return max(float(lowest), highest - DECADES), float(highest)


def strongest_spans(flow: InformationFlow) -> list[tuple[int, str]]:
    """The row and name of each span, by bound, the largest first; those that are not finite last."""
    totals = flow.totals()
    order = sorted(range(len(totals)), key=lambda row: -totals[row].bound if math.isfinite(totals[row].bound) else 1.0)
    return [(row, totals[row].name) for row in order]


def flow_kind(flow: InformationFlow) -> str:
    """How many predictions, and at which σ."""
    count = len(flow.destinations)
    if not flow.answer:
        return f"the next-token prediction · σ = {flow.sigma:g}"
    made = "generated" if flow.generated else "given"
    return f"{count} prediction{'' if count == 1 else 's'} of an answer that was {made} · σ = {flow.sigma:g}"


def flow_interpretation(flow: InformationFlow) -> str:
    return (
        f"Random noise on the embeddings of one span at a time, {flow.sigma:g} times as long as the median"
        " embedding of the vocabulary: how many nats could the predictions tell about it? Bound is ½ σ² tr(M Mᵀ), to"
        " second order how far the noise moves the predictions on average (Kullback–Leibler divergence), and so, to"
        " second order, the most that they can tell. Channel is ½ log det(I + σ² M Mᵀ), the information of the"
        " Gaussian channel that fits; it is never above the bound."
    )


def flow_caveat(flow: InformationFlow) -> str:
    ceiling = math.log(flow.model["d_vocab"])
    together = (
        " Values are summed over the predictions; “together” is one channel to all of them, which counts nothing twice."
        if len(flow.destinations) > 1
        else ""
    )
    return (
        "Both describe small changes around this very text: they say what the predictions are sensitive to, not what"
        " would happen without the span, nor whether its words are repeated. They hold for small σ; no prediction can"
        f" tell more than log d_vocab = {ceiling:.1f} nats, and values near that are out of their range.{together}"
    )


def flow_data_warnings(flow: InformationFlow) -> list[str]:
    """Sentences on values that a picture cannot show: none at all, not finite. Usually empty."""
    totals = flow.totals()
    broken = [item.name for item in totals if not math.isfinite(item.bound)]
    notes = []
    if broken:
        notes.append(f"Spans whose values are not finite (NaN or infinite): {', '.join(broken)}.")
    if not any(item.bound for item in totals):
        notes.append("Nothing flows from any span: the predictions do not depend on them at all.")
    return notes


def beyond(item: SpanFlow) -> float:
    """The share of the bound that random directions stand for."""
    return item.omitted / item.bound if item.bound else 0.0


def prediction_names(flow: InformationFlow) -> list[str]:
    """`18 ␣the → ␣sofa` for each prediction."""
    return [
        prediction_name(dest, flow.tokens[dest], (target or predicted).token)
        for dest, target, predicted in zip(flow.destinations, flow.targets, flow.predicted, strict=True)
    ]


def flow_summary(flow: InformationFlow) -> str:
    """The finding in a sentence: the span that could tell most, beside its value for ten times the noise."""
    totals, wider = flow.totals(), flow.totals(10 * flow.sigma)
    row = next((row for row, _ in strongest_spans(flow) if 0 < totals[row].bound < math.inf), None)
    if row is None:
        return "Nothing flows from any span."
    here, there = short_number(totals[row].channel), short_number(wider[row].channel)
    name = inline_token(totals[row].name)
    return f"Channel of “{name}”: {here} nats at σ = {flow.sigma:g}, {there} at σ = {10 * flow.sigma:g}."


def busiest(flow: InformationFlow) -> str:
    """The prediction that could tell most about the strongest span, in a sentence."""
    row, name = strongest_spans(flow)[0]
    bounds = flow.bound()[row].tolist()
    largest = max((value for value in bounds if math.isfinite(value)), default=0.0)
    if not largest:
        return "Nothing flows to any prediction."
    column = bounds.index(largest)
    token = inline_token((flow.targets[column] or flow.predicted[column]).token).strip()
    return f"The prediction of “{token}” could tell most about “{inline_token(name)}”: {short_number(largest)} nats."
