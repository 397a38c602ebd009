"""The sections of every kind of page as plain data: ready for JSON, numbers by reference, and none left out."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_attribution import HOSTILE_TOKENS, fake_attribution
from fake_evaluation import fake_evaluation
from fake_results import fake_cells, fake_heads, fake_matrix, fake_modes, fake_story
from number_models import SERIES, with_numbers
from page_blocks import mappings, table
from tiny_models import gpt2_like, llama_like

import lens_scopes as ls
from lens_scopes.evaluation.report import report
from lens_scopes.results.base import AnswerRecord
from lens_scopes.views import attribution_page, page_of
from lens_scopes.views.words.changes import head_lines
from lens_scopes.views.words.numbers import number
from lens_scopes.views.words.pages import attribution, evaluation, flow, heads, matrix, modes
from lens_scopes.views.words.token_text import printable_token

SITES = {"a": torch.rand(18), "z": torch.rand(18, 3)}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, Any]]:
    answered = ls.information_flow(gpt2_like(), [3, 7, 1, 7, 4], {"<b>": range(1, 3)}, generate=2)
    folder: Path = tmp_path_factory.mktemp("evaluation") / "results"
    return [
        (attribution, fake_attribution(sites=SITES)),
        (heads, fake_heads()),
        (matrix, fake_matrix()),
        (modes, fake_modes()),
        (flow, answered),
        (evaluation, report(fake_evaluation(folder))),
    ]


def test_every_kind_of_page_is_plain_data_with_the_sections_of_its_page(results: list[tuple[Any, Any]]) -> None:
    for module, result in results:
        sections = module.sections(result)
        text = json.dumps([module.header(result), [section.blocks for section in sections]], allow_nan=False)
        assert json.loads(text)
        assert [section.key for section in sections] == [section.key for section in page_of(result).sections]
        assert page_of(result).title == f"{module.page_title(result)} · lens_scopes"


def test_all_results_stand_on_one_page(results: list[tuple[Any, Any]]) -> None:
    story = fake_story(spans={"a": (1, 3)})
    found = {
        "heads": fake_heads(),
        "cells": fake_cells(),
        "matrix": story,
        "influence": story.total_influence(),
        "modes": fake_modes(),
        "flow": results[4][1],
        "series": ls.inspect_series(with_numbers(llama_like()), SERIES),
    }
    page = attribution_page(fake_attribution(), **found)
    blocks = list(mappings(page.content()["sections"]))
    ids = [block["id"] for block in blocks if "id" in block]
    assert len(ids) == len(set(ids))
    # Each of them has all its sections, and what influence passes through is told once.
    own = [section.key for result in found.values() for section in page_of(result).sections]
    keys = [section.key for section in page.sections]
    assert {*own} <= {*keys} and keys.count("chain") == 1
    alone = attribution_page(fake_attribution(), matrix=story)
    assert "chain" in [section.key for section in alone.sections]


def test_references_lead_to_numbers_of_the_result(results: list[tuple[Any, Any]]) -> None:
    count = 0
    for module, result in results[:5]:
        plain = result.to_dict()
        for block in mappings(module.sections(result)):
            if "at" in block:
                value: Any = plain
                for key in block["at"]:
                    value = value[key]
                assert value and isinstance(value, list)
                count += 1
    assert count > 70


def test_scores_are_in_their_table_in_the_order_of_the_text() -> None:
    result = fake_attribution(HOSTILE_TOKENS, standard_error=torch.linspace(0.01, 0.5, 26))
    rows = table(attribution.sections(result), "Score of every token")["rows"]
    assert [row[1]["text"] for row in rows] == [[{"token": printable_token(token)}] for token in HOSTILE_TOKENS]
    assert [row[3]["text"] for row in rows] == [number(score) for score in result.scores.tolist()]
    assert [row[3]["value"] for row in rows] == result.scores.tolist()
    assert rows[0][3]["level"] == "s" and rows[1][4]["text"] == "± 0.02960"


def test_broken_scores_have_words_and_no_place_in_the_order() -> None:
    result = fake_attribution(scores=[1.0, math.nan, math.inf] + [1.0] * 15, n_layers=0)
    rows = table(attribution.sections(result), "Score of every token")["rows"]
    assert [row[3]["text"] for row in rows[1:3]] == ["not a number", "infinite"]
    assert [row[3]["value"] for row in rows[1:3]] == [None, None]
    assert [row[3]["level"] for row in rows[1:3]] == ["x", "x"]


def test_each_head_has_a_strip_of_its_own_numbers_and_a_point() -> None:
    result = fake_heads()
    sections = heads.sections(result)
    (strips,) = [block for block in mappings(sections) if block.get("type") == "strips"]
    assert [item["key"] for item in strips["items"]] == [line.key for line in head_lines(result)]
    assert strips["items"][0]["values"] == {"at": ["by_source", 13, 1]}
    (chart,) = [block for block in mappings(sections) if block.get("type") == "chart"]
    assert [(point["x"], point["y"]) for point in chart["points"]] == [
        (item.predicted, item.actual) for item in result.ablations
    ]
    assert sum(point["shape"] == "square" for point in chart["points"]) == 18


def test_later_tokens_have_no_cell_in_the_matrix() -> None:
    result = fake_matrix()
    (scores,) = [block for block in mappings(matrix.sections(result)) if block.get("key") == "matrix-scores"]
    for dest, row in enumerate(scores["values"]):
        assert row == result.matrix[dest, : dest + 1].tolist()


def test_an_answer_stands_on_the_page_token_by_token() -> None:
    hostile = AnswerRecord(["</script>", "lin"], [5, 6], [math.log(0.25), -0.5])
    result = fake_attribution(answer=hostile, other_answer=AnswerRecord([" Rome"], [7], [-3.0]))
    blocks = [*attribution.header(result), *mappings(attribution.sections(result))]
    (heading,) = [block for block in blocks if block.get("type") == "prompt"]
    assert heading["token"] == "</script>lin" and "log P" in heading["small"]
    text = json.dumps(blocks, ensure_ascii=False)
    assert "log P(answer | prompt) = -1.886 nats" in text and "The answer contrasted" in text and "25.0%" in text
    assert "</script>lin" not in result.to_html()
