"""A span information flow as sections of a page: the spans with both values, their curves over σ, and each
prediction's part."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from lens_scopes.views.page.document import Page, Section
from lens_scopes.views.page.heat_table import heat_table, token_html
from lens_scopes.views.page.parts import (
    alert,
    bar,
    contract_section,
    heading,
    number_cell,
    provenance_section,
    sortable_table,
    text,
    text_cell,
)
from lens_scopes.views.page.svg_curves import log_curves
from lens_scopes.views.words.attribution import number, percent, prompt_text
from lens_scopes.views.words.flow import (
    CURVE_SIGMAS,
    beyond,
    flow_caution,
    flow_kind,
    flow_oddities,
    flow_reading,
    prediction_names,
    span_curves,
    strongest_spans,
)
from lens_scopes.views.words.numbers import short_number
from lens_scopes.views.words.token_text import running

if TYPE_CHECKING:
    from lens_scopes.results.flow import InformationFlow, SpanFlow


def flow_page(flow: InformationFlow) -> Page:
    """The flow as a page of its own."""
    prompt = prompt_text(flow)
    name = text(flow.model.get("name", "a model"))
    top = heading(
        flow, f"Span information flow · {name} · {text(flow_kind(flow))}", None if flow.answer else flow.predicted[0]
    )
    sections = [_spans(flow), _curves(flow)]
    if flow.answer:
        sections.append(_predictions(flow))
    return Page(
        title=f"Flow: {prompt if len(prompt) <= 80 else '…' + prompt[-79:]} · lens_scopes",
        header=(
            f"{top}{alert('Warnings', flow.warnings)}{alert('About these values', flow_oddities(flow))}"
            f'<p class="lead">{escape(flow_reading(flow))}</p>'
            f'<p class="lead caution">{escape(flow_caution(flow))}</p>'
        ),
        sections=(
            *sections,
            contract_section(flow.contract),
            provenance_section(flow),
        ),
    )


def _spans(flow: InformationFlow) -> Section:
    totals = flow.totals()
    largest = max((item.bound for item in totals if math.isfinite(item.bound)), default=0.0)
    bars = "".join(_bars(totals[row], largest) for row, _ in strongest_spans(flow))
    html = (
        f'<p class="marked">{_marked(flow)}</p>'
        '<p class="note">Upper bar: bound; lower bar: channel; in nats, relative to the largest bound.</p>'
        f'<ol class="bars wide named">{bars}</ol>{_table(flow, totals)}'
    )
    return Section("spans", "What each span could tell", html)


def _bars(item: SpanFlow, largest: float) -> str:
    def share(value: float) -> float:
        return value / largest if largest and math.isfinite(value) else 0.0

    return (
        f'<li><span class="token"><bdi>{text(item.name)}</bdi></span>'
        f'<span class="double">{bar(share(item.bound))}{bar(share(item.channel), negative=True)}</span>'
        f'<span class="value">{short_number(item.bound)}<br>{short_number(item.channel)}</span></li>'
    )


def _marked(flow: InformationFlow) -> str:
    """The text with its spans set off and named; the answer underlined."""
    begins = {start: name for name, (start, _) in flow.spans.items()}
    ends = {stop for _, stop in flow.spans.values()}
    answered = len(flow.tokens) - flow.answer
    parts = []
    for index, token in enumerate([*flow.tokens, ""]):
        if index in ends:
            parts.append("</mark>")
        if index in begins:
            parts.append(f"<mark><small>{text(begins[index])}</small> ")
        if index == answered and flow.answer:
            parts.append("<u>")
        if index < len(flow.tokens) and not flow.special[index]:
            parts.append(escape(running(token)))
    return "".join(parts) + ("</u>" if flow.answer else "")


def _table(flow: InformationFlow, totals: list[SpanFlow]) -> str:
    several = len(flow.destinations) > 1
    rows = []
    for item in totals:
        cells = [
            text_cell(f"<bdi>{text(item.name)}</bdi>", item.name),
            number_cell(f"{item.start}–{item.stop - 1}", item.start),
            number_cell(number(item.bound), item.bound),
            number_cell(f"± {number(item.bound_error)}" if flow.samples else "exact", item.bound_error),
            number_cell(number(item.channel), item.channel),
        ]
        if several:
            cells.append(number_cell(number(item.joint), item.joint))
        share = beyond(item)
        cells.append(number_cell(percent(share) if math.isfinite(share) else "—", share))
        cells.append(text_cell(f"<bdi>{token_html(item.text)}</bdi>", item.text))
        rows.append(cells)
    headings = [("span", "text"), ("tokens", "number"), ("bound", "number"), ("error", "number"), ("channel", "number")]
    if several:
        headings.append(("together", "number"))
    headings += [("beyond rank", "number"), ("text", "text")]
    return (
        f"{sortable_table('Information flow of each span, in nats', headings, rows)}"
        f'<p class="note">Error: one standard error of the bound. Beyond rank: the share of the bound outside the'
        f" {flow.rank} leading directions of each prediction"
        f"{f', which {flow.samples} random ones stand for' if flow.samples else ', all there are'}.</p>"
    )


def _curves(flow: InformationFlow) -> Section:
    curves = span_curves(flow)
    if not curves:
        return Section("sigma", "Over σ", '<p class="note">There is nothing to draw: every value is zero.</p>')
    headings = [
        ("σ", "number"),
        *((f"{curve.name}: {kind}", "number") for curve in curves for kind in ("bound", "channel")),
    ]
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
    html = (
        '<p class="note">Solid: bound, which grows as σ². Dashed: channel, which leaves it where the noise is no longer'
        " small for the strongest directions. The upright line is the σ of the values above.</p>"
        f"{log_curves(CURVE_SIGMAS, curves, flow.sigma)}"
        f"<details><summary>The curves as a table</summary>{sortable_table('Values over σ', headings, rows)}</details>"
    )
    return Section("sigma", "Over σ", html)


def _predictions(flow: InformationFlow) -> Section:
    tokens = [(target or own).token for target, own in zip(flow.targets, flow.predicted, strict=True)]
    table = heat_table(
        "flow-predictions",
        "Bound of each span and prediction, in nats",
        list(flow.spans),
        "span",
        tokens,
        [False] * len(tokens),
        flow.bound().tolist(),
    )
    bounds, channels = flow.bound().tolist(), flow.channel().tolist()
    rows = []
    for column, name in enumerate(prediction_names(flow)):
        target, own = flow.targets[column], flow.predicted[column]
        cells = [
            number_cell(str(flow.destinations[column]), flow.destinations[column]),
            text_cell(f"<bdi>{escape(name.split(' ', 1)[1])}</bdi>", name),
            number_cell(percent((target or own).probability), (target or own).probability),
        ]
        for row in range(len(flow.spans)):
            for values in (bounds, channels):
                cells.append(number_cell(number(values[row][column]), values[row][column]))
        rows.append(cells)
    headings = [("#", "number"), ("after → answer", "text"), ("probability", "number")]
    headings += [(f"{name}: {kind}", "number") for name in flow.spans for kind in ("bound", "channel")]
    html = (
        '<p class="note">A column is a token of the answer; the bound of each span at the prediction of that token, its'
        f" earlier tokens given.</p>{table}"
        f"<details><summary>Every number</summary>{sortable_table('Each prediction', headings, rows)}</details>"
    )
    return Section("predictions", "Token by token", html)
