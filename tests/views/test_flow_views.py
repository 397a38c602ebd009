"""A span information flow in its views: the numbers are the result's, and every name is escaped."""

import io
from dataclasses import replace

import pytest
import torch
from html_document import Document
from page_blocks import blocks, section, written
from rich.console import Console
from tiny_models import gpt2_like

import lens_scopes as ls
from lens_scopes.views import figure_bytes, figure_of, page_of, print_result, to_html
from lens_scopes.views.charts import name_places
from lens_scopes.views.words.attribution import number
from lens_scopes.views.words.flow import CURVE_SIGMAS, span_curves
from lens_scopes.views.words.numbers import short_number

IDS = [3, 7, 1, 7, 4, 9, 2]
SPANS = {"secret": range(1, 3), "<b>&\n": range(4, 5), "after": range(6, 7)}


@pytest.fixture(scope="module")
def flow() -> ls.InformationFlow:
    return ls.information_flow(gpt2_like(), IDS, SPANS, rank=4, samples=3, position=5)


@pytest.fixture(scope="module")
def answered() -> ls.InformationFlow:
    return ls.information_flow(gpt2_like(), IDS, SPANS, generate=3)


def test_the_page_tells_both_values_of_every_span(flow: ls.InformationFlow, answered: ls.InformationFlow) -> None:
    for found in (flow, answered):
        said = written(section(found, "spans"))
        for item in found.totals():
            assert number(item.bound) in said and number(item.channel) in said and short_number(item.bound) in said
        (marked,) = blocks(section(found, "spans"), "marked")
        names = [piece["name"] for piece in marked["pieces"] if piece["name"]]
        assert names == [name.replace("\n", "↵\n") for name in found.spans][: len(names)] and len(names) >= 2
        columns = [name for name, _ in blocks(section(found, "spans"), "table")[0]["columns"]]
        assert ("together" in columns) == (found is answered)
    assert "±" in written(section(flow, "spans")) and "exact" in written(section(answered, "spans"))
    assert [part.key for part in page_of(flow).sections] == ["spans", "sigma", "contract", "details"]
    assert "predictions" in [part.key for part in page_of(answered).sections]


def test_the_page_is_a_document_in_which_every_name_is_escaped(answered: ls.InformationFlow) -> None:
    page = to_html(answered)
    Document(page)
    assert "<b>&\n" not in page and "&lt;b&gt;&amp;" in page


def test_each_prediction_has_its_numbers(answered: ls.InformationFlow) -> None:
    said = written(section(answered, "predictions"))
    for values in (answered.bound(), answered.channel()):
        for value in values.flatten().tolist():
            assert number(value) in said


def test_curves_end_where_the_values_do(flow: ls.InformationFlow) -> None:
    curves = span_curves(flow)
    assert [curve.name for curve in curves] == [
        item.name for item in sorted(flow.totals(), key=lambda item: -item.bound) if item.bound
    ]
    expected = {item.name: item for item in flow.totals(CURVE_SIGMAS[-1])}
    for curve in curves:
        assert curve.bound[-1] == expected[curve.name].bound and curve.channel[-1] == expected[curve.name].channel
    (chart,) = blocks(section(flow, "sigma"), "chart")
    assert len(chart["lines"]) == 2 * len(curves)
    assert chart["lines"][0]["points"][-1] == [CURVE_SIGMAS[-1], curves[0].bound[-1]]


def test_names_at_curves_keep_apart() -> None:
    places = name_places([5.0, 5.0, 40.0, 4.0], 10.0)
    assert sorted(places) == [4.0, 14.0, 24.0, 40.0] and places[2] == 40.0


def test_nothing_that_flows_is_said_in_words(flow: ls.InformationFlow) -> None:
    silent = replace(
        flow,
        eigenvalues=torch.zeros_like(flow.eigenvalues),
        omitted=torch.zeros_like(flow.omitted),
        omitted_error=torch.zeros_like(flow.omitted_error),
    )
    assert "do not depend on them" in to_html(silent) and "nothing to draw" in to_html(silent)
    assert figure_bytes(silent, "png").startswith(b"\x89PNG")
    broken = replace(flow, eigenvalues=torch.full_like(flow.eigenvalues, torch.nan))
    assert "not finite" in to_html(broken) and "not finite" in printed(broken)
    assert figure_bytes(broken, "png").startswith(b"\x89PNG")


def test_the_figure_draws_both_values_and_their_curves(flow: ls.InformationFlow) -> None:
    figure = figure_of(flow)
    bars, curves = figure.axes
    widths = sorted(patch.get_width() for patch in bars.patches)
    expected = sorted(value for item in flow.totals() for value in (item.bound, item.channel))
    assert widths == pytest.approx(expected)
    assert len([line for line in curves.lines if len(line.get_xdata()) == len(CURVE_SIGMAS)]) == 4
    assert figure_bytes(flow, "svg") == figure_bytes(flow, "svg")


def printed(flow: ls.InformationFlow, width: int = 100) -> str:
    output = io.StringIO()
    print_result(flow, Console(file=output, width=width))
    return output.getvalue()


@pytest.mark.parametrize("width", [60, 100])
def test_the_terminal_has_every_span_and_prediction(answered: ls.InformationFlow, width: int) -> None:
    text = printed(answered, width)
    for item in answered.totals():
        assert short_number(item.bound) in text
    for value in answered.bound()[0].tolist():
        assert short_number(value) in text
    assert max(map(len, text.splitlines())) <= width
