"""Source × target as a page: one map of bounded size, sources of predictions, span totals."""

import math
from typing import Any

import torch
from fake_attribution import GERMAN_TOKENS, HOSTILE_TOKENS
from fake_results import fake_matrix
from html_document import Document
from page_blocks import blocks, plain, section, table, written

import lens_scopes as ls
from lens_scopes.views import page_of, to_html
from lens_scopes.views.words.attribution import number
from lens_scopes.views.words.pages.matrix import MAX_COLUMNS, MAX_ROWS
from lens_scopes.views.words.token_text import printable_token


def long(n: int) -> list[str]:
    return ["<bos>", *[f" word{i}" for i in range(n - 1)]]


def test_every_score_is_in_the_map() -> None:
    matrix = fake_matrix()
    (scores,) = blocks(section(matrix, "matrix"), "map")
    assert scores["columns"] == [printable_token(token) for token in GERMAN_TOKENS]
    assert scores["values"] == [matrix.matrix[dest, : dest + 1].tolist() for dest in range(18)]
    assert scores["rows"][17] == "17 ␣the → ␣sofa"


def test_a_long_text_has_a_cropped_map_that_says_so() -> None:
    whole = section(fake_matrix(long(MAX_ROWS)), "matrix")
    assert len(blocks(whole, "map")[0]["rows"]) == MAX_ROWS and "are in it" not in written(whole)
    n = MAX_ROWS + 72
    matrix = fake_matrix(long(n))
    matrix.matrix[n - MAX_ROWS :, 17] = 9.0
    part = section(matrix, "matrix")
    assert f"The last {MAX_ROWS} of {n} predictions are in it" in written(part)
    (scores,) = blocks(part, "map")
    assert [int(name.split()[0]) for name in scores["rows"]] == list(range(72, n))
    assert f"Of {n} tokens it has the {MAX_COLUMNS} that matter most" in written(part)
    assert len(scores["columns"]) == MAX_COLUMNS and "␣word16" in scores["columns"]


def test_few_destinations_of_a_text_have_a_row_each() -> None:
    for generated in (3, 10):
        part = section(fake_matrix(generated=generated), "matrix")
        assert len(blocks(part, "map")[0]["rows"]) == generated


def test_the_list_names_what_each_prediction_came_from() -> None:
    matrix = fake_matrix(generated=4)
    rows = table(section(matrix, "matrix-predictions"), "The strongest sources of each prediction")["rows"]
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
    assert written(section(same, "matrix-predictions")).splitlines().count("the same") == 18


def test_span_totals_are_those_of_the_result() -> None:
    matrix = fake_matrix(generated=4)
    totals = matrix.span_totals()
    rows = table(section(matrix, "matrix-spans"), "Influence of each span on each")["rows"]
    assert [row[0]["text"] for row in rows] == ["English", "generated"]
    for name, *row in rows:
        assert [cell["text"] for cell in row] == [number(value) for value in totals.loc[name["text"]]]
    plain_matrix = fake_matrix(spans={})
    assert "matrix-spans" not in [part.key for part in page_of(plain_matrix).sections]
    # What was generated is a span by itself, and its total over itself alone says nothing.
    assert "matrix-spans" not in [part.key for part in page_of(fake_matrix(spans={}, generated=4)).sections]


def test_spans_outside_the_text_are_said_in_words() -> None:
    assert "span 'x' is tokens 3 to 99, outside" in written(section(fake_matrix(spans={"x": (3, 99)}), "matrix-spans"))


def test_zero_and_broken_rows_are_said_in_words() -> None:
    assert "Every score is exactly zero" in to_html(fake_matrix(matrix=torch.zeros(18, 18)))
    values = fake_matrix().matrix.clone()
    values[4] = 0
    values[7, 3], values[9, 9] = math.nan, math.inf
    matrix = fake_matrix(matrix=values)
    html = to_html(matrix)
    assert "not finite (NaN or infinite): after position 7, 9." in html
    assert "Predictions on which no token has an influence: after position 4." in html
    (scores,) = blocks(section(matrix, "matrix"), "map")
    assert scores["values"][7][3] is None and scores["values"][9][9] is None
    assert scores["values"][4] == [0] * 5


def test_a_page_of_a_matrix_needs_no_scripts_of_circuitsvis() -> None:
    html = to_html(fake_matrix())
    assert "CircuitsVis=" not in html and len(html) < 160_000


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
