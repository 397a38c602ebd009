"""An inspected series in its views: the numbers are the result's."""

import io
from dataclasses import replace

import pytest
import torch
from html_document import Document
from number_models import SERIES, with_numbers
from page_blocks import blocks, section, written
from rich.console import Console
from tiny_models import llama_like

import lens_scopes as ls
from lens_scopes.views import figure_bytes, figure_of, page_of, print_result, to_html
from lens_scopes.views.words.numbers import number, percent
from lens_scopes.views.words.series import likely_values, number_rows, strongest_numbers


@pytest.fixture(scope="module")
def series() -> ls.SeriesInspection:
    return ls.inspect_series(with_numbers(llama_like()), SERIES, ls.Semantic(), readout="dot")


def test_the_page_tells_the_influence_of_every_number(series: ls.SeriesInspection) -> None:
    Document(to_html(series))
    assert [part.key for part in page_of(series).sections] == ["series", "forecast", "contract", "details"]
    said = written(section(series, "series"))
    assert all(number(value) in said for value in series.influence().tolist())
    (chart,) = blocks(section(series, "series"), "chart")
    (line,) = chart["lines"]
    assert [point[1] for point in line["points"]] == series.numbers and max(line["sizes"]) == 1
    assert [point[0] for point in line["points"]] == [-7, -6, -5, -4, -3, -2, -1]
    assert {level[0] for level in line["levels"]} <= {"p", "n"}


def test_the_page_tells_the_forecast(series: ls.SeriesInspection) -> None:
    said = written(section(series, "forecast"))
    for value, probability in likely_values(series.forecast):
        assert value in said and percent(probability) in said
    chart = blocks(section(series, "forecast"), "chart")[0]
    assert max(point[1] for point in chart["lines"][0]["points"]) == max(series.forecast.probabilities)
    assert chart["mark"] == series.forecast.quantile(0.5)


def test_a_forecast_without_values_and_scores_that_are_not_finite_are_said(series: ls.SeriesInspection) -> None:
    nothing = ls.ValueDistribution([], [], [], 0.0, 1.0, 1)
    broken = replace(series, forecast=nothing, scores=torch.full_like(series.scores, torch.nan))
    page = to_html(broken)
    assert "No value was reached" in page and "No number has an influence" in page
    assert figure_bytes(broken, "png").startswith(b"\x89PNG") and "No value was reached" in printed(broken)


def test_the_strongest_numbers_come_first(series: ls.SeriesInspection) -> None:
    rows = strongest_numbers(series)
    assert [row.index for row in rows] == [item.index for item in series.top(len(rows))]
    assert rows[0].relative == 1 and [row.back for row in number_rows(series)] == [7, 6, 5, 4, 3, 2, 1]


def test_the_figure_draws_the_series_and_the_forecast(series: ls.SeriesInspection) -> None:
    left, right = figure_of(series).axes
    assert left.lines[0].get_ydata().tolist() == series.numbers
    assert len(right.collections[-1].get_segments()) == len(series.forecast.values)
    assert figure_bytes(series, "svg") == figure_bytes(series, "svg")


def printed(series: ls.SeriesInspection, width: int = 100) -> str:
    output = io.StringIO()
    print_result(series, Console(file=output, width=width))
    return output.getvalue()


@pytest.mark.parametrize("width", [60, 100])
def test_the_terminal_has_the_numbers_and_the_forecast(series: ls.SeriesInspection, width: int) -> None:
    text = printed(series, width)
    assert "The forecast rests on" in text and percent(max(series.forecast.probabilities)) in text
    assert max(map(len, text.splitlines())) <= width
