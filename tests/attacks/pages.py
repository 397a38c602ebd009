"""Attacks by what a model and its reader write: hostile tokens, names and spans in every view of every result."""

from __future__ import annotations

import io
import json
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from fake_attribution import HOSTILE_TOKENS, fake_attribution
from fake_evaluation import fake_evaluation
from fake_results import fake_cells, fake_heads, fake_influence, fake_matrix, fake_modes
from functions import results_of_every_kind
from html_document import Document
from outcome import RIGHT, Outcome, Target
from rich.console import Console
from values import OTHER_TEXTS, USUAL_TEXTS

import lens_scopes as ls
from lens_scopes.engine.final_state import PredictedToken
from lens_scopes.views import notebook_html, print_result

TEXTS = [*HOSTILE_TOKENS, *USUAL_TEXTS, *OTHER_TEXTS]
_BITS = (
    "<", ">", "&", '"', "'", "`", "/", "\\", "script", "img", "style", "onerror=", "javascript:", "-->", "<!--", "]]>",
    "${", "{{", "\0", "\n", "\r", "\t", "\x1b[31m", "\u202e", "\u2028", "\ud800", "\U0001f600", "é", "\u0301", "&#",
    "x" * 300,
)  # fmt: skip
MAKERS = (fake_attribution, fake_heads, fake_cells, fake_matrix, fake_influence, fake_modes)
_TOKENS = 18


def attacks(target: Target, share: float) -> Iterator[Outcome]:
    """The outcome of every page."""
    draw = random.Random(0)
    plain = {make: _shape(make([f"word{n}" for n in range(_TOKENS)]).to_html()) for make in MAKERS}
    flow: Any = results_of_every_kind(target.model)["flow"]
    for number in range(max(1, round(120 * share))):
        for make in MAKERS:
            words = [hostile_text(draw) for _ in range(_TOKENS)]
            result = _named(make(["<bos>", *words[1:]]), words)
            yield target.ended(f"{result.kind} {number}", lambda result=result, make=make: _shown(result, plain[make]))
        words = [hostile_text(draw) for _ in range(len(flow.tokens))]
        spanned = replace(_named(flow, words), spans={words[0]: (1, 2)})
        yield target.ended(f"flow {number}", lambda result=spanned: _shown(result, None))
        yield target.ended(f"evaluation {number}", lambda number=number: _reported(target.folder, number, draw))


def hostile_text(draw: random.Random) -> str:
    """One of the listed texts, or bits of markup in any order."""
    if draw.random() < 0.3:
        return draw.choice(TEXTS)
    return "".join(draw.choice(_BITS) for _ in range(draw.randrange(1, 6)))


def _named(result: Any, words: list[str]) -> Any:
    """The result with hostile texts wherever it holds a text."""
    changes: dict[str, Any] = {
        "tokens": [result.tokens[0], *words[1 : len(result.tokens)]],
        "objective": words[0],
        "warnings": words[:2],
        "contract": {name: words[index] for index, name in enumerate(result.contract)},
        "model": result.model | {"name": words[2]},
        "turns": {words[0] + "t": (0, 1)},
        "text": None,
        "offsets": None,
        "prediction": replace(result.prediction, top=[PredictedToken(1, words[0], 0.5), *result.prediction.top[1:]]),
    }
    if getattr(result, "target", None) is not None and result.kind in ("attribution", "heads", "cells"):
        changes["target"] = PredictedToken(1, words[0], 0.5)
    if result.kind == "matrix":
        changes["spans"] = {words[0]: (1, 3)}
    return replace(result, **changes)


def _shown(result: Any, plain: Any) -> str:
    """Every view is made; the page has the elements that it has for plain words, and nothing that runs or loads."""
    page = result.to_html()
    shape = _shape(page)
    assert plain is None or shape["script"] == plain["script"], "a script that a text made"
    page.encode("utf-8")
    notebook_html(result)
    printed = io.StringIO()
    print_result(result, Console(file=printed, width=100, force_terminal=False, color_system=None))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\x9b]", printed.getvalue()), "a control character on the terminal"
    result.to_pandas().to_csv()
    json.dumps(result.to_dict())
    assert type(result).from_dict(result.to_dict()).tokens == result.tokens
    return RIGHT


def _shape(page: str) -> dict[str, int]:
    """How many elements of each kind a page has, none of which runs or loads what it should not."""
    counts: dict[str, int] = {}
    for tag, attributes in Document(page).tags:
        counts[tag] = counts.get(tag, 0) + 1
        assert tag not in ("img", "iframe", "object", "embed", "base", "form"), f"an element {tag}"
        for name, value in attributes.items():
            assert not name.startswith("on"), f"an attribute {name}"
            assert name not in ("src", "href") or (value or "").startswith(("#", "data:", "https://arxiv.org/")), value
    return counts


def _reported(folder: Path, number: int, draw: random.Random) -> str:
    """An evaluation whose methods, reasons and passages have hostile names."""
    path = fake_evaluation(folder / f"evaluation-{number}", passages=6)
    words = {method: hostile_text(draw) + str(index) for index, method in enumerate(("fisher", "fisher@8+dot-mean"))}
    lines = [json.loads(line) for line in (path / "results-000.jsonl").read_text().splitlines()]
    for line in lines:
        for row in line.get("measurements", []):
            row[0] = words.get(row[0], row[0])
        if "reason" in line:
            line["reason"] = hostile_text(draw)
    (path / "results-000.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = ls.report(path)
    _shape(report.to_html())
    for suffix in (".html", ".md", ".tex"):
        report.save(folder / f"report-{number}{suffix}")
    printed = io.StringIO()
    print_result(report, Console(file=printed, width=100, force_terminal=False, color_system=None))
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\x9b]", printed.getvalue()), "a control character on the terminal"
    return RIGHT
