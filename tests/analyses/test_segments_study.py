"""The study of segments: its documents, its faded attention, and its ContextCite, which shares draws between sizes."""

from typing import Any

import pytest
import segments as study
import torch
from docstring_examples import example_model
from records import FIGURES, RESULTS, load_record
from segment_documents import ATTRIBUTES, PLACE, document
from torch.testing import assert_close

import lens_scopes as ls
from lens_scopes.prompts.groups import segments
from lens_scopes.scopes.comparisons.ablation_method import spread

TEXT = "The capital of France is Paris. Paris is of Italy. Rome is the capital. The capital of Italy is"
ANSWER = [9, 4, 12]


@pytest.fixture(autouse=True)
def _exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "MATMUL", None)


def test_documents_are_drawn_from_their_number_and_hold_what_is_asked() -> None:
    for index in range(60):
        item = document(index)
        assert item == document(index) and 10 <= len(item.sentences) <= 20
        assert item.expected in item.sentences[item.evidence]
        assert sum(item.expected in text.split() or f"{item.expected}." in text for text in item.sentences) == 1
        assert item.prompt.startswith(item.text) and item.prompt.endswith(item.beginning)
        assert len(set(item.sentences)) == len(item.sentences)
    assert len({document(index).text for index in range(60)}) == 60
    assert all(text.endswith(".") for text in PLACE) and len(ATTRIBUTES) == 7


def test_fewer_ablations_are_the_first_of_the_same_draws() -> None:
    model = example_model()
    prompt = ls.read_prompt(model, TEXT)
    sentences = segments(prompt, "sentence")
    scores, cost = study.ablation_scores(model, prompt, ANSWER, sentences, index=0)
    for count in study.ABLATIONS:
        one = ls.attribute(model, prompt, ls.ContextCite(count), answer=ANSWER).scores
        assert_close(spread(scores[f"ContextCite-{count}"], sentences, len(prompt)), one)
        assert cost[f"ContextCite-{count}"]["forwards"] == 1 + count
    out = ls.attribute(model, prompt, ls.LeaveOneOut("logprob", "remove", by="sentence"), answer=ANSWER).scores
    assert_close(spread(scores["leave one out"], sentences, len(prompt)), out)
    assert "ContextCite-256" not in study.ablation_scores(model, prompt, ANSWER, sentences, index=1)[0]


def test_trivial_scores_know_place_length_and_shared_words() -> None:
    texts, sentences = ["Anna has a red car.", "He has a dog."], [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10]]
    found = study.trivial_scores(texts, "What colour is the car of Anna?", sentences, 3)
    assert found["closeness"].tolist() == [0, 1] and found["length"].tolist() == [6, 4]
    assert found["overlap"].tolist() == [2, 0]
    assert torch.equal(found["random"], study.trivial_scores(texts, "", sentences, 3)["random"])


def test_findings_pair_methods_with_context_cite_on_the_same_documents() -> None:
    def record(index: int) -> dict[str, Any]:
        value = {"lds": 0.1 * index, **{f"top-{k}-drop": float(index) for k in study.TOP}}
        better = {name: item + 1 + 0.01 * index for name, item in value.items()}
        return {
            "index": 10 + index, "correct": index != 0, "sentences": 12, "tokens": 100, "evidence": 1,
            "scores": {study.REFERENCE: [0.0, 1.0], "other": [1.0, 0.0]},
            "cost": {study.REFERENCE: {"forwards": 65, "backwards": 0, "seconds": 2.0}},
            "judged": {study.REFERENCE: value, "other": better},
        }  # fmt: skip

    found = study.findings([record(index) for index in range(8)])
    assert found["documents"] == 8 and found["correct"] == 7
    assert found["methods"]["other"]["cost"] is None
    assert found["methods"][study.REFERENCE]["cost"]["passes"] == 65
    assert found["methods"][study.REFERENCE]["evidence first"] == {
        "mean": 1.0,
        "low": 1.0,
        "high": 1.0,
        "n": 7,
        "left_out": 1,
    }
    assert [test["difference"] for test in found["tests"]] == pytest.approx([1.035] * 4)
    assert all(test["p_holm"] == pytest.approx(4 * 2 / 2**8) for test in found["tests"])


def test_the_answer_ends_with_its_line() -> None:
    model = example_model()
    prompt = ls.read_prompt(model, "The capital of France is")
    answer = study.own_answer(model, prompt)
    assert len(answer) == study.ANSWER_TOKENS, "the example model writes no line break"
    assert answer[0] == ls.attribute(model, prompt, ls.Semantic()).prediction.top[0].token_id


def test_the_saved_results_are_of_documents_no_setting_was_chosen_on_and_draw_the_figure() -> None:
    record = load_record(RESULTS, "segments")
    found, methods = record["findings"], record["findings"]["methods"]
    assert found["documents"] >= 6 and record["settings"]["chosen on"].startswith("the first")
    assert {*study.SCOPES, *study.FADED, *study.TRIVIAL, study.REFERENCE, "leave one out"} <= methods.keys()
    assert all(methods[name]["lds"]["n"] == found["documents"] for name in study.FADED)
    assert all((FIGURES / f"{stem}.{kind}").is_file() for stem in study.draw(record) for kind in ("png", "svg"))
    assert len(study.summary(record)) == 1 + len(methods)


def test_the_gallerys_table_is_that_of_the_saved_results() -> None:
    record = load_record(RESULTS, "segments")
    assert study.ROWS.keys() == record["findings"]["methods"].keys()
    assert "\n".join(study.table(record)) in (RESULTS.parent / "README.md").read_text(encoding="utf-8")
