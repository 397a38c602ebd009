"""An inspected series in the terminal: the numbers that the forecast rests on, and its likeliest values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Column
from rich.text import Text

from lens_scopes.views.terminal.parts import (
    ScoreStyle,
    TerminalView,
    add_gap,
    blocks,
    grid,
    heading,
    plain_table,
    right,
    warning_lines,
    whole_right,
)
from lens_scopes.views.words.attribution import prompt_text
from lens_scopes.views.words.numbers import percent, short_number
from lens_scopes.views.words.series import (
    back_words,
    forecast_facts,
    forecast_words,
    likely_values,
    series_caveat,
    series_interpretation,
    series_summary,
    strongest_numbers,
)
from lens_scopes.views.words.token_text import inline_token

if TYPE_CHECKING:
    from lens_scopes.results.series import SeriesInspection

_MAX = 10


class SeriesReport(TerminalView["SeriesInspection"]):
    """A rich renderable of an inspected series; fits the width of the console it is printed on."""

    def parts(self, styles: ScoreStyle, width: int) -> Iterator[RenderableType]:
        series = self.result
        yield heading("Series of numbers", series, f" · {inline_token(series.objective)}")
        yield Text(prompt_text(series))
        yield from warning_lines(series.warnings)
        yield add_gap(Text(series_summary(series)))
        yield add_gap(_numbers(series, styles, width))
        yield add_gap(Text(forecast_words(series.forecast)))
        yield add_gap(_forecast(series, styles, width))
        yield add_gap(Text(series_interpretation(series), "dim"))
        yield add_gap(Text(series_caveat(series), "dim"))


def _numbers(series: SeriesInspection, styles: ScoreStyle, width: int) -> RenderableType:
    number = right("number", overflow="fold", max_width=max(8, width // 4))
    table = plain_table(number, Column(no_wrap=True), whole_right("influence"), "")
    for row in strongest_numbers(series)[:_MAX]:
        bar = blocks(row.relative or 0.0, max(4, min(24, width - 50)))
        table.add_row(
            Text(row.written),
            Text(back_words(row.back), "dim"),
            Text(short_number(row.influence)),
            Text(bar, styles.bar_style(row.influence)),
        )
    return table


def _forecast(series: SeriesInspection, styles: ScoreStyle, width: int) -> RenderableType:
    table = grid(right(overflow="fold", max_width=max(8, width // 4)), whole_right(), "")
    likely = likely_values(series.forecast)
    largest = max((probability for _, probability in likely), default=0.0) or 1.0
    for written, probability in likely:
        bar = blocks(probability / largest, max(4, min(24, width - 40)))
        table.add_row(Text(written), Text(percent(probability)), Text(bar, styles.bar))
    facts = " · ".join(f"{name} {value}" for name, value in forecast_facts(series.forecast).items())
    return Group(table, Text(facts, "dim"))
