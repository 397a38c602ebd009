"""Source × target as a page: rows on their own scale, chart or table by size, sources of predictions, span totals."""

import json
import math
import re
from typing import Any

import pytest
import torch
from fake_attribution import GERMAN_TOKENS, HOSTILE_TOKENS
from fake_results import fake_matrix
from html_document import Document

import lens_scopes as ls
from lens_scopes.results.matrix import AttributionMatrix
from lens_scopes.views import page_of, to_html
from lens_scopes.views.page.attention import MOST_TOKENS_OF_ONE
from lens_scopes.views.words.attribution import number
from lens_scopes.views.words.token_text import printable_token


def section(matrix: AttributionMatrix, key: str) -> Any:
    (found,) = [part for part in page_of(matrix).sections if part.key == key]
    return found


def chart(matrix: AttributionMatrix) -> Any:
    (view,) = section(matrix, "matrix").views
    return json.loads(re.search(r'"AttentionPattern",(.*)\)\);$', view.script).group(1))  # type: ignore[union-attr]


def long(n: int) -> list[str]:
    return ["<bos>", *[f" word{i}" for i in range(n - 1)]]


def test_the_chart_shows_each_row_relative_to_its_largest_outside_bos() -> None:
    matrix = fake_matrix()
    props = chart(matrix)
    assert props["tokens"] == [printable_token(token) for token in GERMAN_TOKENS]
    assert props["maxValue"] == 1
    for dest, row in enumerate(props["attention"]):
        assert len(row) == dest + 1 and row[0] == 0
        scores = matrix.matrix[dest, 1 : dest + 1]
        if dest:
            expected = (scores / scores.abs().max()).tolist()
            assert row[1:] == pytest.approx([v if abs(v) >= 0.005 else 0 for v in expected], rel=5e-3)
    html = section(matrix, "matrix").html
    assert "relative to the largest magnitude in the same row, outside the special tokens" in html
    assert "Columns of special tokens are blank" in html


def test_every_score_is_in_the_table_beside_the_chart() -> None:
    matrix = fake_matrix()
    html = section(matrix, "matrix").html
    for dest in range(18):
        for src in range(18):
            value = number(float(matrix.matrix[dest, src]))
            assert (
                f"· {printable_token(GERMAN_TOKENS[src])} · {value}".replace("<", "&lt;").replace(">", "&gt;") in html
            )
    assert "17 ␣the → ␣sofa" in html


def test_texts_too_long_for_a_chart_get_a_cropped_table_that_says_so() -> None:
    assert section(fake_matrix(long(MOST_TOKENS_OF_ONE)), "matrix").views
    matrix = fake_matrix(long(MOST_TOKENS_OF_ONE + 1))
    for row in range(161, 201):
        matrix.matrix[row, 77] = 9.0
    part = section(matrix, "matrix")
    assert part.views == ()
    assert f"Charts of more than {MOST_TOKENS_OF_ONE} tokens are slow" in part.html
    assert "The last 40 of 201 predictions are in it" in part.html
    rows = re.findall(r'<th scope="row" class="name"><bdi>(\d+) ', part.html)
    assert [int(row) for row in rows] == list(range(161, 201))
    shown = re.findall(r'<th scope="col" title="#\d+"', part.html)
    assert f"Of 201 tokens it has the {len(shown)} that matter most" in part.html
    assert len(shown) == 2500 // 40
    assert "word76</bdi>" in part.html
    assert len(part.html) < 400_000


def test_few_destinations_of_a_text_are_a_table() -> None:
    part = section(fake_matrix(generated=3), "matrix")
    assert part.views == () and "are slow" not in part.html
    assert part.html.count('<tr><th scope="row"') == 3
    assert section(fake_matrix(generated=10), "matrix").views
    assert "not explained are blank." in section(fake_matrix(generated=10), "matrix").html


def test_the_list_names_what_each_prediction_came_from() -> None:
    matrix = fake_matrix(generated=4)
    html = section(matrix, "predictions").html
    lines = re.findall(r"<tr>(.*?)</tr>", html[html.index("<tbody>") :])
    assert len(lines) == 4
    for line, dest in zip(lines, matrix.destinations, strict=True):
        scores = matrix.matrix[matrix.destinations.index(dest), : dest + 1].clone()
        scores[0] = 0
        texts = re.sub("<[^>]*>", "", line)
        names = [printable_token(GERMAN_TOKENS[i]) for i in scores.topk(3).indices.tolist()]
        values = [number(v) for v in scores.topk(3).values.tolist()]
        assert texts.endswith(", ".join(f"{name} {value}" for name, value in zip(names, values, strict=True)))
        assert (
            f"{dest}{printable_token(GERMAN_TOKENS[dest])}{printable_token(GERMAN_TOKENS[dest + 1])} generated25.0%"
            in texts
        )
    same = fake_matrix(targets=fake_matrix().predicted)
    assert section(same, "predictions").html.count(">the same<") == 18


def test_span_totals_are_those_of_the_result() -> None:
    matrix = fake_matrix(generated=4)
    html = section(matrix, "spans").html
    totals = matrix.span_totals()
    rows = re.findall(r'<tr><th scope="row"><bdi>(.*?)</bdi>(.*?)(?=<tr>|</tbody>)', html)
    assert [name for name, _ in rows] == ["English", "generated"]
    for name, row in rows:
        assert re.findall(r"<span>(.*?)</span>", row) == [number(value) for value in totals.loc[name]]
    plain = fake_matrix(spans={})
    assert "spans" not in [part.key for part in page_of(plain).sections]


def test_spans_outside_the_text_are_said_in_words() -> None:
    html = section(fake_matrix(spans={"x": (3, 99)}), "spans").html
    assert "span &#x27;x&#x27; is tokens 3 to 99, outside" in html


def test_zero_and_broken_rows_are_said_in_words() -> None:
    assert "Every score is exactly zero" in to_html(fake_matrix(matrix=torch.zeros(18, 18)))
    values = fake_matrix().matrix.clone()
    values[4] = 0
    values[7, 3], values[9, 9] = math.nan, math.inf
    matrix = fake_matrix(matrix=values)
    html = to_html(matrix)
    assert "not finite (NaN or infinite): after position 7, 9." in html
    assert "Predictions on which no token has an influence: after position 4." in html
    props = chart(matrix)
    assert props["attention"][7][3] == 0 and props["attention"][9][9] == 0
    assert props["attention"][4] == [0] * 5


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
