"""The studies of attribution patching and of chains: prompts, sums, saved results, and what the documentation tells."""

from pathlib import Path
from random import Random
from typing import Any

import chains
import patching
import pytest
from intervals import shown
from records import RESULTS, load_record

ROOT = Path(__file__).resolve().parents[2]
ANSWERS, STUDIES = (
    (ROOT / path).read_text(encoding="utf-8") for path in ("docs/pages/answers.md", "analyses/README.md")
)


def told(interval: Any) -> str:
    """An interval as the documentation writes it."""
    return shown(interval).replace("-", "−")


def test_pairs_differ_in_the_name_that_comes_twice() -> None:
    assert len(patching.PAIRS) == 12 and len({text for *_, text in patching.PAIRS}) == 12
    for first, second, text in patching.PAIRS:
        prompt, other = patching.prompts_of((first, second, text))
        assert (prompt.count(second), prompt.count(first)) == (2, 1) == (other.count(first), other.count(second))
        words = list(zip(prompt.split(), other.split(), strict=True))
        assert [pair for pair in words if pair[0] != pair[1]] == [(second, first)]
        assert prompt.rsplit(" ", 1)[1] in ("to", "for"), "the name comes next"


def test_agreement_is_over_all_or_over_the_strongest_predictions() -> None:
    changes = [(3.0, 3.0), (-2.0, -2.0), (1.0, 0.5), (0.1, 9.0), (0.2, -9.0)]
    assert patching.agreement(changes, 3) == pytest.approx(1) and patching.agreement(changes) < 0.9


def test_the_saved_patches_are_those_that_the_documentation_tells() -> None:
    found = load_record(RESULTS, "patching")["findings"]
    assert [item["prompt"] for item in found["items"]] == [patching.prompts_of(pair)[0] for pair in patching.PAIRS]
    assert found["right"] == 10 and [item["top"] for item in found["items"] if not item["right"]] == [" his", " $"]
    for name in patching.KINDS:
        assert told(found["strongest"][name]) in ANSWERS.replace("\n", " "), name
        assert f"{told(found['agreement'][name])} | {told(found['strongest'][name])} |" in STUDIES, name
    assert told(found["path_minus_one_gradient"]) in STUDIES and found["cells"]["low"] >= 86


def test_a_run_continues_a_record_of_the_same_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"tokens": 16, "answer": 5, "scope": "semantic", "seed": 0}
    saved = {"settings": {"prompts": 3, **settings}, "findings": {"items": [1, 2, 3]}}
    monkeypatch.setattr(chains, "load_record", lambda folder, name: saved)
    assert chains.saved_items(RESULTS, "chains", settings) == [1, 2, 3]
    assert chains.saved_items(RESULTS, "chains", settings | {"tokens": 32}) == []
    monkeypatch.undo()
    assert chains.saved_items(RESULTS, "no such study", settings) == []


def test_riddles_are_drawn_one_after_the_other_and_ask_for_one_fact() -> None:
    draw, again = Random(0), Random(0)
    for _ in range(5):
        sentences, cue = chains.write_prompt(draw)
        assert (sentences, cue) == chains.write_prompt(again) and len(sentences) == 5
        place = sentences[-1].removeprefix("Who should go to the ").removesuffix("?")
        assert sum(place in sentence for sentence in sentences[:-1]) == 1


def test_a_method_that_ranks_as_the_truth_does_agrees_with_it() -> None:
    item = {
        "scores": {"total": [3, 2, 1], "direct": [1, 2, 3], "length": [1, 3, 2], "closeness": [0, 1, 2]},
        "drops": {"written anew": [9.0, 4.0, 0.5], "kept": [0.5, 4.0, 9.0]},
        "through_text": 0.3,
        "changed": 1,
        "sentences": ["a", "b", "c"],
    }
    found = chains.findings_of([item] * 3)
    assert found["agreement"]["written anew"]["total"]["mean"] == pytest.approx(1)
    assert found["agreement"]["kept"]["total"]["mean"] == pytest.approx(-1)
    assert found["total_minus_direct"]["written anew"]["mean"] == pytest.approx(2)
    assert found["same_first"]["kept"] == {"total": 0, "direct": 3, "length": 0, "closeness": 3}
    assert len(chains.summary({"findings": found})) == 2 * (len(chains.METHODS) + 1) + 1


def test_the_saved_riddles_are_those_that_the_documentation_tells() -> None:
    record = load_record(RESULTS, "chains")
    found, count = record["findings"], record["settings"]["prompts"]
    assert count == len(found["items"]) >= 16
    anew = found["agreement"]["written anew"]
    assert f"{told(anew['total'])} against {told(anew['direct'])}" in ANSWERS
    assert told(found["total_minus_direct"]["written anew"]) in ANSWERS and f"--prompts {count} " in ANSWERS
