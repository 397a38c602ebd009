"""Source × target as a page: rows on their own scale, chart or table by size, sources of predictions, span totals."""

import math
from typing import Any

import pytest
import torch
from fake_attribution import GERMAN_TOKENS, HOSTILE_TOKENS
from fake_results import fake_matrix
from html_document import Document
from page_blocks import blocks, plain, section, table, written

import lens_scopes as ls
from lens_scopes.views import page_of, to_html
from lens_scopes.views.words.attribution import number
from lens_scopes.views.words.pages.matrix import MOST_TOKENS_OF_ONE
from lens_scopes.views.words.token_text import printable_token


def long(n: int) -> list[str]:
    return ["<bos>", *[f" word{i}" for i in range(n - 1)]]


def test_the_chart_shows_each_row_relative_to_its_largest_outside_bos() -> None:
    matrix = fake_matrix()
    part = section(matrix, "matrix")
    (chart,) = blocks(part, "pattern")
    assert chart["bound"] == 1
    for dest, row in enumerate(chart["rows"]):
        assert len(row) == dest + 1 and row[0] == 0
        scores = matrix.matrix[dest, 1 : dest + 1]
        if dest:
            expected = (scores / scores.abs().max()).tolist()
            assert row[1:] == pytest.approx([v if abs(v) >= 0.005 else 0 for v in expected], rel=5e-3)
    assert "relative to the largest magnitude in the same row, outside the special tokens" in written(part)
    assert "Columns of special tokens are blank" in written(part)


def test_every_score_is_in_the_table_beside_the_chart() -> None:
    matrix = fake_matrix()
    (scores,) = blocks(section(matrix, "matrix"), "map")
    assert scores["columns"] == [printable_token(token) for token in GERMAN_TOKENS]
    assert scores["values"] == [matrix.matrix[dest, : dest + 1].tolist() for dest in range(18)]
    assert scores["rows"][17] == "17 ␣the → ␣sofa"


def test_texts_too_long_for_a_chart_get_a_cropped_table_that_says_so() -> None:
    assert blocks(section(fake_matrix(long(MOST_TOKENS_OF_ONE)), "matrix"), "pattern")
    matrix = fake_matrix(long(MOST_TOKENS_OF_ONE + 1))
    for row in range(161, 201):
        matrix.matrix[row, 77] = 9.0
    part = section(matrix, "matrix")
    assert not blocks(part, "pattern")
    assert f"Charts of more than {MOST_TOKENS_OF_ONE} tokens are slow" in written(part)
    assert "The last 40 of 201 predictions are in it" in written(part)
    (scores,) = blocks(part, "map")
    assert [int(name.split()[0]) for name in scores["rows"]] == list(range(161, 201))
    shown = scores["columns"]
    assert f"Of 201 tokens it has the {len(shown)} that matter most" in written(part)
    assert len(shown) == 2500 // 40 and "␣word76" in shown


def test_few_destinations_of_a_text_are_a_table() -> None:
    part = section(fake_matrix(generated=3), "matrix")
    assert not blocks(part, "pattern") and "are slow" not in written(part)
    assert len(blocks(part, "map")[0]["rows"]) == 3
    assert blocks(section(fake_matrix(generated=10), "matrix"), "pattern")
    assert "not explained are blank." in written(section(fake_matrix(generated=10), "matrix"))


def test_the_list_names_what_each_prediction_came_from() -> None:
    matrix = fake_matrix(generated=4)
    rows = table(section(matrix, "predictions"), "The strongest sources of each prediction")["rows"]
    for row, dest in zip(rows, matrix.destinations, strict=True):
        scores = matrix.matrix[matrix.destinations.index(dest), : dest + 1].clone()
        scores[0] = 0
        texts = [plain(cell["text"]) for cell in row]
        best = scores.topk(3)
        expected = [
            f"{printable_token(GERMAN_TOKENS[i])} {number(v)}"
            for i, v in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
        assert texts[5] == ", ".join(expected)
        assert texts[:3] == [
            str(dest),
            printable_token(GERMAN_TOKENS[dest]),
            f"{printable_token(GERMAN_TOKENS[dest + 1])} generated",
        ]
        assert texts[3] == "25.0%"
    same = fake_matrix(targets=fake_matrix().predicted)
    assert written(section(same, "predictions")).splitlines().count("the same") == 18


def test_span_totals_are_those_of_the_result() -> None:
    matrix = fake_matrix(generated=4)
    totals = matrix.span_totals()
    rows = table(section(matrix, "spans"), "Influence of each span on each")["rows"]
    assert [row[0]["text"] for row in rows] == ["English", "generated"]
    for name, *row in rows:
        assert [cell["text"] for cell in row] == [number(value) for value in totals.loc[name["text"]]]
    plain_matrix = fake_matrix(spans={})
    assert "spans" not in [part.key for part in page_of(plain_matrix).sections]


def test_spans_outside_the_text_are_said_in_words() -> None:
    assert "span 'x' is tokens 3 to 99, outside" in written(section(fake_matrix(spans={"x": (3, 99)}), "spans"))


def test_zero_and_broken_rows_are_said_in_words() -> None:
    assert "Every score is exactly zero" in to_html(fake_matrix(matrix=torch.zeros(18, 18)))
    values = fake_matrix().matrix.clone()
    values[4] = 0
    values[7, 3], values[9, 9] = math.nan, math.inf
    matrix = fake_matrix(matrix=values)
    html = to_html(matrix)
    assert "not finite (NaN or infinite): after position 7, 9." in html
    assert "Predictions on which no token has an influence: after position 4." in html
    (chart,) = blocks(section(matrix, "matrix"), "pattern")
    assert chart["rows"][7][3] == 0 and chart["rows"][9][9] == 0
    assert chart["rows"][4] == [0] * 5


def test_hostile_text_stays_text() -> None:
    evil = "<img src=x onerror=window.executed=1>"
    matrix = fake_matrix(
        HOSTILE_TOKENS, spans={evil: (1, 9), "b": (9, 20)}, objective=evil, model={"name": evil}, warnings=[evil]
    )
    document = Document(to_html(matrix))
    plain = Document(to_html(fake_matrix(warnings=["x"])))
    assert {name for name, _ in document.tags} <= {name for name, _ in plain.tags}
    assert not [name for _, attributes in document.tags for name in attributes if name.startswith("on")]
    assert document.open == []


def test_a_real_matrix_has_its_page(tiny: Any) -> None:
    found = ls.attribute_all(tiny, [3, 7, 1, 7, 4, 9], ls.Fisher())
    html = to_html(found)
    for dest in range(6):
        assert number(float(found.matrix[dest, dest])) in html
    assert "<b>Fisher</b> · 6 predictions" in html
