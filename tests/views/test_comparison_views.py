"""Two attributions side by side: the same pairs on the page, in the terminal, in the figure and in the table."""

import io
import math
from typing import Any

import pytest
from fake_attribution import HOSTILE_TOKENS, fake_attribution
from html_document import Document
from page_blocks import blocks, plain, section, table
from rich.console import Console

import lens_scopes as ls
from lens_scopes.errors import ResultError
from lens_scopes.views import figure_of, notebook_html, page_of, print_result, to_html
from lens_scopes.views.words.attribution import number


def france_and_italy(**fields: Any) -> ls.Comparison:
    a = fake_attribution(["<bos>", "The", " France", " is"], [9.0, 1.0, 2.0, 3.0], n_layers=0, token_ids=[0, 1, 2, 4])
    tokens = ["<bos>", "The", " old", " Italy", " is"]
    b = fake_attribution(tokens, [9.0, 4.0, 5.0, 6.0, 2.0], n_layers=0, **{"token_ids": [0, 1, 5, 6, 4]} | fields)
    return a.compare(b)


def test_the_page_has_every_pair_with_its_change() -> None:
    comparison = france_and_italy()
    rows = table(section(comparison, "difference"), "Scores of each token in A and in B")["rows"]
    drop_colours = [[plain(cell["text"]) for cell in row[:4]] for row in rows]
    assert drop_colours == [
        ["<bos>", number(9.0), number(9.0), "—"],
        ["The", number(1.0), number(4.0), f"+{number(3.0)}"],
        ["␣France", number(2.0), "—", "—"],
        ["␣old", "—", number(5.0), "—"],
        ["␣Italy", "—", number(6.0), "—"],
        ["␣is", number(3.0), number(2.0), f"−{number(1.0)}"],
    ]
    assert [row[4].get("text") or row[4]["bar"] for row in rows] == [
        *("outside the scale", 1.0, "only in A", "only in B", "only in B"),
        pytest.approx(-1 / 3),
    ]
    (strip,) = blocks(section(comparison, "difference"), "strip")
    assert strip["values"] == [None, 3.0, None, None, None, -1.0] and len(strip["about"]) == 6


def test_each_side_has_its_own_tokens_and_numbers() -> None:
    comparison = france_and_italy()
    content = page_of(comparison).content()
    assert [part["labels"] for part in content["parts"][1:]] == [
        ["<bos>", "The", "␣France", "␣is"],
        ["<bos>", "The", "␣old", "␣Italy", "␣is"],
    ]
    assert [part["data"]["scores"] for part in content["parts"][1:]] == [
        comparison.a.scores.tolist(),
        comparison.b.scores.tolist(),
    ]


def test_where_the_contracts_differ_both_are_named() -> None:
    own = france_and_italy().a.contract
    first = next(iter(own))
    comparison = france_and_italy(contract=own | {first: "something else"})
    assert comparison.contract == own | {first: f"A: {own[first]}. B: something else"}
    assert france_and_italy(contract=own).contract == own


def test_other_units_are_compared_relative_to_the_strongest() -> None:
    comparison = france_and_italy(scope="fisher")
    assert not comparison.same_unit and not comparison.to_dict()["same_unit"]
    assert comparison.pairs[1].change == pytest.approx(4 / 6 - 1 / 3)
    console = Console(file=io.StringIO(), width=120)
    print_result(comparison, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "different units" in shown and "only in A" in shown and f"+{number(1 / 3)}" in shown


def test_the_figure_has_a_strip_for_each_and_one_for_the_difference() -> None:
    comparison = france_and_italy()
    (axes,) = [axes for axes in figure_of(comparison).axes if axes.get_label() == "comparison"]
    drawn = axes.get_images()[0].get_array()
    assert drawn is not None and drawn.shape == (3, 6)
    assert drawn[2, 1] == pytest.approx(1.0) and drawn[2, 5] == pytest.approx(-1 / 3)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["A", "B", "B − A"]


def test_scores_that_are_not_finite_have_no_change() -> None:
    a = fake_attribution(["a", " b"], [math.nan, 1.0], n_layers=0)
    comparison = a.compare(fake_attribution(["a", " b"], [1.0, math.inf], n_layers=0))
    assert [pair.change for pair in comparison.pairs] == [None, None]
    assert "not finite" in to_html(comparison) and figure_of(comparison)


def test_the_notebook_has_both_strips_without_a_frame() -> None:
    strips = notebook_html(france_and_italy()).partition("<iframe")[0]
    assert len(Document(strips).named("span")) == 9
    assert len(notebook_html(france_and_italy())) < 100_000


def test_hostile_text_stays_text() -> None:
    evil = "<img src=x onerror=window.executed=1>"
    one = fake_attribution(HOSTILE_TOKENS, objective=evil, model={"name": evil}, warnings=[evil])
    document = Document(to_html(one.compare(fake_attribution())))
    ordinary = Document(to_html(fake_attribution(warnings=["x"]).compare(fake_attribution())))
    assert {name for name, _ in document.tags} <= {name for name, _ in ordinary.tags} and document.open == []


def test_only_attributions_are_compared() -> None:
    with pytest.raises(ResultError, match="compared with another; got str"):
        fake_attribution().compare("x")  # type: ignore[arg-type]
