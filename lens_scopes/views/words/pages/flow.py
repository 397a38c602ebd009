"""Sections of a span information flow: the spans with both values, their curves over σ, and each prediction's part."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lens_scopes.views.charts import decades, line_style
from lens_scopes.views.words.attribution import next_token, prompt_text
from lens_scopes.views.words.flow import (
    CURVE_SIGMAS,
    beyond,
    busiest,
    flow_caveat,
    flow_data_warnings,
    flow_interpretation,
    flow_kind,
    flow_summary,
    prediction_names,
    reach,
    span_curves,
    strongest_spans,
)
from lens_scopes.views.words.numbers import number, percent, short_number
from lens_scopes.views.words.pages.attribution import prompt
from lens_scopes.views.words.pages.parts.blocks import (
    Block,
    Section,
    alerts,
    axis,
    bars,
    contract_section,
    fold,
    heat_map,
    kind,
    lead,
    note,
    number_cell,
    provenance_section,
    table,
    text_cell,
    token,
)
from lens_scopes.views.words.token_text import inline_token

if TYPE_CHECKING:
    from lens_scopes.results.flow import InformationFlow, SpanFlow


def page_title(flow: InformationFlow) -> str:
    """The title of the window."""
    text = prompt_text(flow)
    return f"Flow: {text if len(text) <= 80 else '…' + text[-79:]}"


def header(flow: InformationFlow) -> list[Block]:
    """What was measured."""
    name = inline_token(str(flow.model.get("name", "a model")))
    return [
        kind(f"Span information flow · {name} · {inline_token(flow_kind(flow))}"),
        prompt(flow, None if flow.answer else next_token(flow.predicted[0])),
    ]


def sections(flow: InformationFlow) -> list[Section]:
    """Sections `spans`, `sigma`, `predictions` where there is an answer, `contract`, `details`."""
    parts = [_spans(flow), _curves(flow)]
    if flow.answer:
        parts.append(_predictions(flow))
    return [*parts, contract_section(flow.contract), provenance_section(flow)]


def _spans(flow: InformationFlow) -> Section:
    totals = flow.totals()
    largest = max((item.bound for item in totals if math.isfinite(item.bound)), default=0.0)
    items = [_bar(totals[row], largest) for row, _ in strongest_spans(flow)]
    blocks = [
        *alerts("Warnings", flow.warnings),
        *alerts("About these values", flow_data_warnings(flow)),
        {"type": "marked", "pieces": _mark(flow)},
        note("Upper bar: bound; lower bar: channel; in nats, relative to the largest bound."),
        bars(items, "wide named"),
        lead(flow_interpretation(flow)),
        lead(flow_caveat(flow), quiet=True),
        *_table(flow, totals),
    ]
    return Section("spans", "What each span could tell", blocks)


def _bar(item: SpanFlow, largest: float) -> Block:
    shares = [value / largest if largest and math.isfinite(value) else 0.0 for value in (item.bound, item.channel)]
    values = [short_number(item.bound), short_number(item.channel)]
    return {"label": inline_token(item.name), "values": values, "shares": [shares[0], -shares[1]]}


def _mark(flow: InformationFlow) -> list[dict[str, Any]]:
    """The text in pieces: the name of the span each is in, if any, and whether it is of the answer."""
    answered = len(flow.tokens) - flow.answer
    pieces: list[dict[str, Any]] = []
    for index, text in enumerate(flow.tokens):
        if flow.special[index]:
            continue
        name = next((name for name, (start, stop) in flow.spans.items() if start <= index < stop), "")
        answer = index >= answered
        if pieces and (pieces[-1]["name"], pieces[-1]["answer"]) == (inline_token(name), answer):
            pieces[-1]["text"] += inline_token(text)
        else:
            pieces.append({"text": inline_token(text), "name": inline_token(name) if name else "", "answer": answer})
    return pieces


def _table(flow: InformationFlow, totals: list[SpanFlow]) -> list[Block]:
    several = len(flow.destinations) > 1
    rows = []
    for item in totals:
        cells = [
            text_cell(inline_token(item.name), item.name),
            number_cell(f"{item.start}–{item.stop - 1}", item.start),
            number_cell(number(item.bound), item.bound),
            number_cell(f"± {number(item.bound_error)}" if flow.samples else "exact", item.bound_error),
            number_cell(number(item.channel), item.channel),
        ]
        if several:
            cells.append(number_cell(number(item.joint), item.joint))
        share = beyond(item)
        cells.append(number_cell(percent(share) if math.isfinite(share) else "—", share))
        rows.append([*cells, text_cell(token(item.text), item.text)])
    names = [("span", "text"), ("tokens", "number"), ("bound", "number"), ("error", "number"), ("channel", "number")]
    names += [("together", "number")] if several else []
    names += [("beyond rank", "number"), ("text", "text")]
    ending = f", which {flow.samples} random ones stand for" if flow.samples else ", all there are"
    text = (
        "Error: one standard error of the bound. Beyond rank: the share of the bound outside the"
        f" {flow.rank} leading directions of each prediction{ending}."
    )
    return [table("Information flow of each span, in nats", names, rows), note(text)]


def _curves(flow: InformationFlow) -> Section:
    curves = span_curves(flow)
    if not curves:
        return Section(
            "sigma", "Over σ, the size of the noise", [note("There is nothing to draw: every value is zero.")]
        )
    # The table has every fourth σ of the curves; the chart has them all.
    names = [("σ", "number"), *((f"{curve.name}: {part}", "number") for curve in curves for part in _PARTS)]
    rows = [
        [
            number_cell(short_number(sigma), sigma),
            *(
                number_cell(short_number(values[index]), values[index])
                for curve in curves
                for values in (curve.bound, curve.channel)
            ),
        ]
        for index, sigma in enumerate(CURVE_SIGMAS)
        if index % 4 == 0
    ]
    # Log axes: values below the lowest decade that matters are not drawn.
    low, high = (10.0**power for power in reach(curves))
    lines = []
    for place, curve in enumerate(curves):
        for values, part in ((curve.bound, "bound"), (curve.channel, "channel")):
            points = [[s, v] for s, v in zip(CURVE_SIGMAS, values, strict=True) if v >= low]
            line = {"points": points, "colour": line_style(place).colour}
            name = curve.name if len(curve.name) <= 16 else curve.name[:15] + "…"
            lines.append(line | ({"dashes": "6 4", "name": name} if part == "channel" else {}))
    # The chart, with an upright line at the σ that was measured.
    ends = (CURVE_SIGMAS[0], CURVE_SIGMAS[-1])
    chart: Block = {
        "type": "chart",
        "label": f"Bound and channel of {len(curves)} spans over σ; the numbers are in the table",
        "x": axis("σ, in embeddings", *ends, [(tick, short_number(tick)) for tick in decades(*ends)], "log"),
        "y": axis("nats", low, high, [(tick, short_number(tick)) for tick in decades(low, high)], "log"),
        "lines": lines,
        "mark": flow.sigma if ends[0] <= flow.sigma <= ends[1] else None,
        "names": True,
    }
    text = (
        "Solid: bound, which grows as σ². Dashed: channel, which leaves it where the noise is no longer small for the"
        " strongest directions. The upright line is the σ of the values above."
    )
    blocks = [note(text), chart, fold("The curves as a table", table("Values over σ", names, rows))]
    return Section("sigma", "Over σ, the size of the noise", blocks, summary=flow_summary(flow))


_PARTS = ("bound", "channel")


def _predictions(flow: InformationFlow) -> Section:
    tokens = [(target or own).token for target, own in zip(flow.targets, flow.predicted, strict=True)]
    bounds, channels = flow.bound().tolist(), flow.channel().tolist()
    bound_map = heat_map(
        "flow-predictions", "Bound of each span and prediction, in nats", "span", list(flow.spans), bounds, tokens
    )
    rows = []
    for column, name in enumerate(prediction_names(flow)):
        target, own = flow.targets[column], flow.predicted[column]
        cells = [
            number_cell(str(flow.destinations[column]), flow.destinations[column]),
            text_cell(name.split(" ", 1)[1], name),
            number_cell(percent((target or own).probability), (target or own).probability),
        ]
        for row in range(len(flow.spans)):
            cells += [number_cell(number(values[row][column]), values[row][column]) for values in (bounds, channels)]
        rows.append(cells)
    names = [("#", "number"), ("after → answer", "text"), ("probability", "number")]
    names += [(f"{name}: {part}", "number") for name in flow.spans for part in _PARTS]
    text = (
        "A column is a token of the answer; the bound of each span at the prediction of that token, its earlier tokens"
        " given."
    )
    every = fold("Every number", table("Each prediction", names, rows))
    return Section("predictions", "Prediction by prediction", [note(text), bound_map, every], summary=busiest(flow))
