"""Sections of an inspected series: the numbers that the forecast rests on, and the forecast over values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lens_scopes.views.charts import line_style, round_ticks
from lens_scopes.views.words.attribution import following, prompt_text
from lens_scopes.views.words.numbers import number, percent, short_number
from lens_scopes.views.words.pages.attribution import about, prompt
from lens_scopes.views.words.pages.parts.blocks import (
    Block,
    Section,
    alerts,
    axis,
    bar_cell,
    bars,
    columns,
    contract_section,
    definitions,
    fold,
    heading,
    kind,
    lead,
    level,
    note,
    number_cell,
    plain_scale,
    provenance_section,
    table,
    text_cell,
)
from lens_scopes.views.words.series import (
    NumberRow,
    back_words,
    forecast_facts,
    forecast_words,
    likely_values,
    number_rows,
    series_caveat,
    series_interpretation,
    series_summary,
    strongest_numbers,
)
from lens_scopes.views.words.token_text import inline_token

if TYPE_CHECKING:
    from lens_scopes.results.series import SeriesInspection

_BARS = 10


def page_title(series: SeriesInspection) -> str:
    """The title of the window."""
    text = prompt_text(series)
    return f"Series: {text if len(text) <= 80 else '…' + text[-79:]}"


def header(series: SeriesInspection) -> list[Block]:
    """What was inspected."""
    return [
        kind("Series of numbers · ", *about(series)),
        prompt(series, following(series)),
    ]


def sections(series: SeriesInspection) -> list[Section]:
    """Sections `series`, `forecast`, `contract`, `details`."""
    return [_numbers(series), _forecast(series), contract_section(series.contract), provenance_section(series)]


def _numbers(series: SeriesInspection) -> Section:
    rows = number_rows(series)
    strongest = [
        {
            "label": f"{row.written} · {back_words(row.back)}",
            "values": [short_number(row.influence)],
            "shares": [math.copysign(row.relative or 0.0, row.influence)],
        }
        for row in strongest_numbers(series)[:_BARS]
    ]
    shown = [
        note("The series; the larger and darker a point, the more the forecast rests on that number."),
        _curve(series, rows),
    ]
    ranked = [heading("Strongest"), bars(strongest, "named") if strongest else note("No number has an influence.")]
    blocks = [
        *alerts("Warnings", series.warnings),
        columns(shown, ranked),
        lead(series_interpretation(series)),
        lead(series_caveat(series), quiet=True),
        fold("Every number", _table(rows)),
    ]
    return Section("series", "What the forecast rests on", blocks, summary=series_summary(series))


def _curve(series: SeriesInspection, rows: list[NumberRow]) -> Block:
    ticks = round_ticks(min(series.numbers), max(series.numbers))
    scale = plain_scale([row.influence for row in rows])
    steps = len(rows)
    every = max(1, round(steps / 6))
    return {
        "type": "chart",
        "label": f"The {steps} numbers of the series in order; the table below has their influence",
        "x": axis(
            "numbers before the forecast", -steps - 0.5, 0.5, [(-float(n), str(n)) for n in range(1, steps + 1, every)]
        ),
        "y": axis("value", ticks[0], ticks[-1], [(tick, short_number(tick)) for tick in ticks]),
        "lines": [
            {
                "points": [[-row.back, row.number] for row in rows],
                "colour": "var(--quiet)",
                "titles": [f"{row.written}, {back_words(row.back)}: {number(row.influence)}" for row in rows],
                "sizes": [row.relative or 0.0 for row in rows],
                "levels": [level(row.influence, False, scale) for row in rows],
            }
        ],
    }


def _table(rows: list[NumberRow]) -> Block:
    scale = plain_scale([row.influence for row in rows])
    cells = [
        [
            number_cell(str(row.back), row.back),
            text_cell(inline_token(row.written), row.written),
            number_cell(number(row.influence), row.influence, level(row.influence, False, scale)),
            bar_cell(math.copysign(row.relative or 0.0, row.influence), "graph", middle=False),
        ]
        for row in rows
    ]
    names = [("back", "number"), ("number", "text"), ("influence", "number"), ("", "")]
    return table("Influence of every number", names, cells)


def _forecast(series: SeriesInspection) -> Section:
    forecast = series.forecast
    blocks: list[Block] = [note(forecast_words(forecast))]
    if forecast.values:
        largest = max(forecast.probabilities) or 1.0
        items = [
            {"label": written, "values": [percent(p)], "shares": [p / largest]}
            for written, p in likely_values(forecast)
        ]
        ticks, heights = round_ticks(min(forecast.values), max(forecast.values)), round_ticks(0.0, largest)
        # One line goes up and down at every value.
        spikes = [point for v, p in zip(forecast.values, forecast.probabilities, strict=True) for point in _spike(v, p)]
        chart: Block = {
            "type": "chart",
            "label": f"The probability of {len(forecast.values)} values as the next number; the likeliest are listed",
            "x": axis("value of the next number", ticks[0], ticks[-1], [(tick, short_number(tick)) for tick in ticks]),
            "y": axis("probability", 0.0, heights[-1], [(tick, f"{100 * tick:.6g}%") for tick in heights]),
            "lines": [{"points": spikes, "colour": line_style(0).colour}],
            "mark": forecast.quantile(0.5),
        }
        told = [note("The upright line is the median."), chart]
        blocks.append(columns(told, [heading("Likeliest"), bars(items, "named")]))
    blocks.append(definitions(forecast_facts(forecast), compact=True))
    text = (
        "A probability sums over all the ways to spell the value in tokens. Beginnings below the least probability are"
        " not followed."
    )
    blocks.append(note(text))
    return Section("forecast", "The forecast", blocks, summary=forecast_words(forecast))


def _spike(value: float, probability: float) -> list[list[float]]:
    return [[value, 0.0], [value, probability], [value, 0.0]]
