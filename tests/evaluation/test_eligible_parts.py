"""Passages of which a part alone is eligible, such as the document before a question: nothing else is ablated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import tokenizer
from scipy.stats import spearmanr
from tiny_models import gpt2_like

import lens_scopes as ls
from lens_scopes.engine.model import ScopedModel
from lens_scopes.engine.token_ablation import AblatedPrompt
from lens_scopes.errors import EvaluationError, FileError, PromptError
from lens_scopes.evaluation.evaluator import Evaluator
from lens_scopes.evaluation.methods.names import as_method
from lens_scopes.evaluation.metrics.segments import _SEED_OFFSET, segment_agreement
from lens_scopes.evaluation.passages.read import Passage, read_passages
from lens_scopes.evaluation.passages.selection import PassagePrompt, read_passage
from lens_scopes.evaluation.report import report
from lens_scopes.views.words.evaluation import facts

TEXT = "The dog sleeps on the sofa. The sofa sleeps. The dog. The sofa sleeps on"
PART = "The sofa sleeps. The dog."
START, STOP = 8, 15  # with BOS
ANSWER = [4, 11]
PAPER = "arXiv:2601.16407"


@pytest.fixture(scope="module")
def model() -> Any:
    read = gpt2_like()
    read.tokenizer = tokenizer()
    return read


def measured(model: Any, methods: Any, metrics: list[str], **settings: Any) -> dict[tuple[str, str], Any]:
    evaluator = Evaluator(model, methods, metrics, ["mean"], with_answers=True, **settings)
    prompt = evaluator.passage(TEXT)
    _, found = evaluator.measure(prompt, None, index=0, answer=tuple(ANSWER), within=(START, STOP))
    return {(item.method, item.metric): item for item in found}


def test_ranks_and_ablations_are_those_of_the_part(model: Any) -> None:
    found = measured(model, ["fisher", "logprob+dot-mean"], ["loo-kl", "aopc", "first-token"])
    prompt = ls.read_prompt(model, TEXT)
    ablated = AblatedPrompt(ScopedModel.of(model), prompt.token_ids, prompt.special, ANSWER, "mean")
    part = list(range(START, STOP))
    effects = ablated.outcomes(ablated.masks([[index] for index in part])).divergence
    for name in ("fisher", "logprob+dot-mean"):
        scores = ls.attribute(model, prompt, name, answer=ANSWER).scores[START:STOP]
        agreement = spearmanr(scores.abs(), effects).statistic  # pyright: ignore[reportAttributeAccessIssue]
        assert found[name, "loo-kl-spearman"].value == pytest.approx(float(agreement), abs=1e-12)
        order = [part[index] for index in scores.argsort(descending=True, stable=True).tolist()]
        after = ablated.outcomes(ablated.masks([order[:1]])).log_probability  # 5, 10 and 20% of 7 tokens are one
        fall = float(after - ablated.clean_log_probability)
        assert found[name, "aopc"].value == pytest.approx(fall * 0.15, abs=1e-12)
        below = (scores.abs() < scores[0].abs()).double().sum() / (len(part) - 1)
        assert found[name, "first-token"].value == pytest.approx(float(below))


def test_segments_are_those_of_the_part_for_metrics_and_for_methods_that_take_one(model: Any) -> None:
    names = ["fisher", "context-cite@8", "leave-one-out+measure=logprob+by=sentence", "faded-attention"]
    found = measured(model, names, ["lds", "top-k-drop"])
    prompt = ls.read_prompt(model, TEXT)
    scores = {}
    for name in names:
        method = as_method(name).within((START, STOP))
        scores[name] = ls.attribute(model, prompt, method.spec, answer=ANSWER).scores
        if name != "fisher":
            assert not scores[name][:START].any() and not scores[name][STOP:].any() and scores[name].any()
    settings: dict[str, Any] = {"within": (START, STOP), "ablation": "mean", "seed": _SEED_OFFSET}
    expected = segment_agreement(model, prompt, ANSWER, scores, top=(1, 3, 5), **settings)
    assert len(expected) == 2 * len(names)
    for method, metric, value in expected.itertuples(index=False):
        assert found[method, metric].value == pytest.approx(value, abs=1e-10, nan_ok=True)
    assert found["leave-one-out+measure=logprob+by=sentence", "lds"].forwards == 1 + 2
    own = as_method("context-cite@8+within=1:7")
    assert own.within((START, STOP)) == own, "a method's own part stays"


def test_the_whole_passage_as_the_part_changes_no_number(model: Any) -> None:
    settings: dict[str, Any] = {
        "methods": ["fisher", "random"],
        "ablations": ["mean"],
        "metrics": ["loo-kl", "aopc", "lds"],
    }
    plain = ls.evaluate(model, [TEXT], target="own", **settings)
    whole = ls.evaluate(model, [{"text": TEXT, "all": TEXT}], target="own", within_field="all", **settings)
    assert whole["value"].tolist() == pytest.approx(plain["value"].tolist(), nan_ok=True)
    assert set(whole["eligible_start"]) == {1} and "eligible_start" not in plain


def test_a_field_brings_the_part_of_each_passage(model: Any, tmp_path: Path) -> None:
    rows = [{"text": TEXT, "document": PART}, {"text": TEXT, "document": [1, 8]}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings: dict[str, Any] = {
        "methods": ["fisher", "context-cite@8+by=word"],
        "metrics": ["aopc", "lds"],
        "ablations": ["mean"],
    }
    settings |= {"within_field": "document", "generate": 2, "by": "word"}
    found = ls.evaluate(model, rows, **settings)
    assert found.drop_duplicates("passage")[["eligible_start", "eligible_stop"]].values.tolist() == [
        [START, STOP],
        [1, 8],
    ]
    again = ls.evaluate(model, tmp_path / "a.jsonl", **settings, out=tmp_path / "out")
    assert again["value"].tolist() == found["value"].tolist() and found["value"].notna().all()
    read = read_passages(rows, within_field="document")
    assert read.items == (Passage(TEXT, within=PART), Passage(TEXT, within=(1, 8)))
    assert read.digest() != read_passages(rows).digest()
    assert facts(report(tmp_path / "out"))["eligible"] == "a part of each passage; the rest of it is never ablated"


@pytest.mark.parametrize(
    ("rows", "more", "error", "message"),
    [
        ([{"text": TEXT, "part": "Rome"}], {}, EvaluationError, "neither a span's name nor a part"),
        ([{"text": TEXT, "part": " sofa"}], {}, EvaluationError, "occurs"),
        ([{"text": TEXT, "part": "on the sofa. The"}, {"text": TEXT}], {}, FileError, "no field 'part'"),
        ([{"text": TEXT, "part": 3}], {}, FileError, "expected a text or (start, stop) in tokens"),
        ([{"text": TEXT, "part": (3, 4)}], {}, EvaluationError, "needs at least two tokens to rank"),
        ([{"text": TEXT, "part": PART}], {"protocol": PAPER}, EvaluationError, "no part of it alone"),
        ([TEXT], {}, FileError, "an object with the fields 'text' and 'part'"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_refused(
    model: Any, rows: Any, more: dict[str, Any], error: type[Exception], message: str
) -> None:
    settings: dict[str, Any] = {"methods": ["fisher"], "metrics": ["aopc"], "within_field": "part", **more}
    with pytest.raises(error) as raised:
        ls.evaluate(model, rows, **settings)
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_a_part_is_moved_with_a_passage_that_is_cut_and_refused_where_it_is_cut_itself(model: Any) -> None:
    ids = (0, *range(2, 12)) * 4  # 44, of which the window holds 32
    cut = read_passage(model, Passage(ids, within=(35, 41)), "own", truncate=True)
    assert isinstance(cut, PassagePrompt) and cut.within == (23, 29) and cut.token_ids[23:29] == ids[35:41]
    with pytest.raises(PromptError, match="the eligible part begins at token 5, and 12 tokens are cut off"):
        read_passage(model, Passage(ids, within=(5, 41)), "own", truncate=True)
