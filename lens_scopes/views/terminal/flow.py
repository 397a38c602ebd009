"""A span information flow in the terminal: both values of each span, and each prediction's part."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from lens_scopes.views.terminal.parts import (
    ScoreStyle,
    TerminalView,
    add_gap,
    blocks,
    folded,
    heading,
    plain_table,
    right,
    warning_lines,
    whole_right,
)
from lens_scopes.views.words.attribution import percent, prompt_text
from lens_scopes.views.words.flow import (
    beyond,
    flow_caveat,
    flow_data_warnings,
    flow_interpretation,
    flow_kind,
    prediction_names,
    strongest_spans,
)
from lens_scopes.views.words.numbers import short_number
from lens_scopes.views.words.token_text import inline_token

if TYPE_CHECKING:
    from lens_scopes.results.flow import InformationFlow

_SIGMAS = (0.03, 0.1, 0.3, 1.0, 3.0)
_MAX_PREDICTIONS = 24


class FlowReport(TerminalView["InformationFlow"]):
    """A rich renderable of a span information flow; fits the width of the console it is printed on."""

    def parts(self, styles: ScoreStyle, width: int) -> Iterator[RenderableType]:
        flow = self.result
        yield heading("Span information flow", flow, f" · {flow_kind(flow)}")
        yield Text(prompt_text(flow))
        yield from warning_lines((*flow.warnings, *flow_data_warnings(flow)))
        yield add_gap(Text(flow_interpretation(flow), "dim"))
        yield add_gap(_spans(flow, styles, width))
        yield add_gap(_over_sigma(flow))
        if flow.answer:
            yield add_gap(_predictions(flow))
        yield add_gap(Text(flow_caveat(flow), "dim"))


def _spans(flow: InformationFlow, styles: ScoreStyle, width: int) -> RenderableType:
    totals = flow.totals()
    largest = max((item.bound for item in totals if math.isfinite(item.bound)), default=0.0) or 1.0
    several = len(flow.destinations) > 1
    values = ("tokens", "bound", "channel", *(["together"] if several else []), "beyond rank")
    table = plain_table(folded("span"), *map(whole_right, values), "")
    room = max(4, min(24, width - 70))
    for row, _ in strongest_spans(flow):
        item = totals[row]
        error = f" ± {short_number(item.bound_error)}" if flow.samples else ""
        share = beyond(item)
        table.add_row(
            Text(inline_token(item.name), "bold"),
            Text(f"{item.start}–{item.stop - 1}", "dim"),
            Text(f"{short_number(item.bound)}{error}"),
            Text(short_number(item.channel)),
            *([Text(short_number(item.joint))] if several else []),
            Text(percent(share) if math.isfinite(share) else "—", "dim"),
            Text(blocks(item.bound / largest if math.isfinite(item.bound) else 0.0, room), styles.bar),
        )
    return Group(Text("nats, summed over the predictions" if several else "nats", "dim"), table)


def _over_sigma(flow: InformationFlow) -> RenderableType:
    table = plain_table(folded("σ"), *(whole_right(f"{sigma:g}") for sigma in _SIGMAS))
    totals = [flow.totals(sigma) for sigma in _SIGMAS]
    for row, name in strongest_spans(flow):
        values = [f"{short_number(total[row].bound)}/{short_number(total[row].channel)}" for total in totals]
        table.add_row(Text(inline_token(name)), *map(Text, values))
    return Group(Text("bound/channel over σ, in nats", "dim"), table)


def _predictions(flow: InformationFlow) -> RenderableType:
    spans = (right(Text(inline_token(name)), overflow="fold") for name in flow.spans)
    table = plain_table(folded("bound of each prediction"), *spans)
    names, columns = prediction_names(flow), flow.bound().T.tolist()
    places = range(len(names))[-_MAX_PREDICTIONS:]
    for index in places:
        table.add_row(Text(names[index]), *(Text(short_number(value)) for value in columns[index]))
    which = f"the last {len(places)} of {len(names)}" if len(places) < len(names) else ""
    return Group(table, Text(which, "dim")) if which else table
