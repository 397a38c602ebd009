"""`lens-scopes evaluate` and `report`: what they measure, keep, print and write, and one line for what does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import TEXTS, Loader, Run, as_json
from fake_evaluator import FakeEvaluator

import lens_scopes as ls
from lens_scopes.cli.commands.evaluate import _names

OPTIONS = ("--methods", "fisher,random", "--metrics", "aopc", "--ablations", "zero,mean", "--out", "results")


@pytest.fixture(autouse=True)
def evaluator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lens_scopes.evaluation.evaluator.Evaluator", FakeEvaluator)


@pytest.fixture
def passages(folder: Path) -> str:
    (folder / "passages.json").write_text(json.dumps(TEXTS))
    return "passages.json"


def test_it_measures_prints_and_writes(run: Callable[..., Run], folder: Path, passages: str) -> None:
    names = ["a.html", "a.png", "a.svg", "a.pdf", "a.md", "a.tex", "a.csv", "a.json"]
    reports = [argument for name in names for argument in ("--report", name)]
    done = run("evaluate", passages, *OPTIONS, "--limit", "8", *reports)
    assert done.status == 0, done.err
    assert "aopc" in done.out and "method − fisher" in done.out and "8 of passages.json measured" in done.out
    assert sorted(path.name for path in folder.iterdir()) == sorted([*names, "passages.json", "results"])
    rows = ls.load_results("results")
    assert set(rows.passage) == set(range(8)) and set(rows.method) == {"fisher", "random"}
    assert len((folder / "a.csv").read_text().splitlines()) == len(rows) + 1
    assert json.loads((folder / "a.json").read_text())["reference"] == "fisher"


def test_the_same_command_goes_on_and_a_report_needs_no_model(
    run: Callable[..., Run],
    loader: Loader,
    folder: Path,
    passages: str,
) -> None:
    first = as_json(run("evaluate", passages, *OPTIONS, "--limit", "7", "--json"))
    kept = (folder / "results" / "results-000.jsonl").read_bytes()
    assert as_json(run("evaluate", passages, *OPTIONS, "--limit", "7", "--json")) == first
    assert (folder / "results" / "results-000.jsonl").read_bytes() == kept
    loaded = len(loader.calls)
    assert as_json(run("report", "results", "--json")) == first
    other = as_json(run("report", "results", "--json", "--reference", "random"))
    assert other["reference"] == "random" and len(loader.calls) == loaded
    assert run("report", "results", "--report", "page.html").status == 0
    assert (folder / "page.html").read_text().startswith("<!DOCTYPE html>")


def test_of_several_processes_the_last_one_reports(
    run: Callable[..., Run],
    passages: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        done = run("evaluate", passages, *OPTIONS)
        assert done.status == 0 and bool(done.out) == (rank == "0"), done.err
    assert "12 of passages.json measured" in done.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluate", "absent.json", *OPTIONS], "there is no such file"),
        (["evaluate", "passages.json"], "--out"),
        (["evaluate", "passages.json", *OPTIONS, "--target", "first"], "unknown target 'first'"),
        (
            ["evaluate", "passages.json", *OPTIONS, "--methods", "fishr"],
            "unknown method 'fishr'; did you mean 'fisher'",
        ),
        (["evaluate", "passages.json", *OPTIONS, "--metrics", "aop"], "unknown metric 'aop'; did you mean 'aopc'"),
        (["evaluate", "passages.json", *OPTIONS, "--ablations", "zer"], "unknown ablation 'zer'; did you mean 'zero'"),
        (["evaluate", "passages.json", *OPTIONS, "--reference", "fishr"], "did you mean 'fisher'"),
        (["evaluate", "passages.json", *OPTIONS, "--report", "a.docx"], "suffixes .html"),
        (["evaluate", "passages.json", *OPTIONS, "--report", "no/a.html"], "cannot write no/a.html"),
        (["evaluate", "passages.json", *OPTIONS, "--skip", "12"], "leaves none of the 12"),
        (["evaluate", "passages.json", *OPTIONS[:-1], "passages.json"], "passages.json"),
        (["report", "."], "holds no evaluation"),
        (["report", "absent"], "holds no evaluation"),
    ],
)
def test_bad_input_is_one_line_with_nothing_written(
    run: Callable[..., Run],
    loader: Loader,
    folder: Path,
    passages: str,
    arguments: list[str],
    words: str,
) -> None:
    failed = run(*arguments)
    assert failed.status == 2 and words in failed.err, failed.err
    assert len(failed.err.splitlines()) == 1 and not failed.out
    assert not loader.calls or "--skip" in arguments or "passages.json" in arguments[-1]
    assert [path.name for path in folder.iterdir()] == ["passages.json"]


def test_names_are_separated_by_commas_outside_parentheses() -> None:
    assert _names("fisher@8, ig(steps=4,start=0.1),,random") == ["fisher@8", "ig(steps=4,start=0.1)", "random"]


def test_answers_come_from_a_field_or_from_the_model(
    run: Callable[..., Run], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    eligible: list[Any] = []

    class Recorded(FakeEvaluator):
        def measure(self, prompt: Any, target: Any, *, index: int, answer: Any = None, **parts: Any) -> Any:
            asked.append((target, answer))
            eligible.append(parts["within"])
            return super().measure(prompt, target, index=index)

    monkeypatch.setattr("lens_scopes.evaluation.evaluator.Evaluator", Recorded)
    rows = [{"text": "The dog sleeps", "answer": " on the sofa"}, {"text": "The sofa", "answer": " sleeps"}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("evaluate", "rows.jsonl", *OPTIONS, "--answer-field", "answer").status == 0
    assert [target for target, _ in asked] == [None, None] and [len(answer) for _, answer in asked] == [3, 1]
    assert eligible == [None, None]
    shown = run("report", "results")
    assert "the answer after it" in shown.out, shown.out
    assert run("evaluate", "rows.jsonl", *OPTIONS[:-1], "made", "--generate", "2").status == 0
    assert asked[2:] == [(None, 2), (None, 2)]
    for words in (["--answer-field", "answer", "--generate", "2"], ["--answer-field", "answer", "--target", "last"]):
        refused = run("evaluate", "rows.jsonl", *OPTIONS, *words)
        assert refused.status == 2 and "answer" in refused.err
    parts = [{**row, "part": "The dog" if index == 0 else "The sofa"} for index, row in enumerate(rows)]
    (folder / "parts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in parts))
    words = [*OPTIONS[:-1], "parts", "--answer-field", "answer", "--within-field", "part"]
    assert run("evaluate", "parts.jsonl", *words).status == 0 and eligible[4:] == [(1, 3), (1, 3)]
    assert "a part of each passage" in run("report", "parts").out
    refused = run("evaluate", "parts.jsonl", *words, "--protocol", "arXiv:2601.16407")
    assert refused.status == 2 and "no part of it alone is eligible" in refused.err
