"""Evaluations of whole answers: every number against a literal loop over the answer's predictions."""

import json
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
from command_line import tokenizer
from tiny_models import gpt2_like, llama_like
from torch import Tensor

import lens_scopes as ls
from lens_scopes.errors import EvaluationError, FileError
from lens_scopes.evaluation.evaluator import Evaluator
from lens_scopes.evaluation.passages.read import Passage, Passages, read_passages
from lens_scopes.evaluation.passages.selection import PassagePrompt, TooLong, read_passage
from lens_scopes.evaluation.protocol import PAPER
from lens_scopes.evaluation.report import report
from lens_scopes.evaluation.storage.results import read_results
from lens_scopes.views.words.evaluation import facts

PROMPT = [1, 17, 0, 8, 11, 6, 13, 2, 9, 20]
OTHER = [21, 3, 14, 18, 7, 10, 5, 15, 4, 19]
ANSWER = [22, 3, 5]
ROWS = [{"text": PROMPT, "answer": ANSWER}, {"text": PROMPT[::-1], "answer": [4, 4]}]


def predictions(model: Any, replaced: list[int], answer: list[int] = ANSWER, other: list[int] | None = None) -> Tensor:
    """The log-probabilities [token, vocabulary] of the answer's predictions, embeddings of some tokens zeroed, or those
    of another prompt."""
    embeddings = reference.site_activation(model, [*PROMPT, *answer[:-1]], "hook_embed")
    embeddings[replaced] = 0 if other is None else reference.site_activation(model, other, "hook_embed")[replaced]
    return from_embeddings(model, embeddings, answer)


def from_embeddings(model: Any, embeddings: Tensor, answer: list[int] = ANSWER) -> Tensor:
    ids = [*PROMPT, *answer[:-1]]
    states = [reference.final_state(model, embeddings, ids, len(PROMPT) - 1 + n) for n in range(len(answer))]
    return torch.stack([reference.logits_from_final_state(model, y).log_softmax(-1) for y in states])


def log_probability(model: Any, replaced: list[int], other: list[int] | None = None) -> float:
    return float(predictions(model, replaced, other=other)[range(len(ANSWER)), ANSWER].sum())


def divergence(model: Any, replaced: list[int], other: list[int] | None = None) -> float:
    clean, after = predictions(model, []), predictions(model, replaced, other=other)
    return float((clean.exp() * (clean - after)).sum())


def measured(model: Any, methods: list[Any], metrics: list[str], **settings: Any) -> dict[tuple[str, str], list[float]]:
    evaluator = Evaluator(model, methods, metrics, ["zero"], with_answers=True, **settings)
    _, rows = evaluator.measure(evaluator.passage(PROMPT), None, index=0, answer=tuple(ANSWER))
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        found.setdefault((row.method, row.metric), []).append(row.value)
    return found


@pytest.mark.parametrize("build", [gpt2_like, llama_like])
def test_metrics_measure_the_whole_answer(build: Any) -> None:
    model = build()
    scores = [0.3, -2.0, 0.1, 1.5, 0.0, -0.4, 0.9, 0.2, 0.7, -0.1]
    by_value = sorted(range(len(PROMPT)), key=lambda t: -scores[t])
    by_size = sorted(range(len(PROMPT)), key=lambda t: -abs(scores[t]))
    metrics = ["aopc", "aopc-kl", "deletion", "insertion", "comprehensiveness", "sufficiency-kl", "loo-kl"]
    found = measured(model, [("mine", scores)], metrics)
    clean = log_probability(model, [])

    def top(order: list[int], fraction: float) -> list[int]:
        return order[: 0 if fraction == 0 else max(1, round(fraction * len(PROMPT)))]

    fractions = (0.05, 0.10, 0.20)
    falls = [log_probability(model, top(by_value, f)) - clean for f in fractions]
    assert found["mine", "aopc"] == pytest.approx([0.05 * (falls[0] + falls[1]) / 2 + 0.1 * (falls[1] + falls[2]) / 2])
    kls = [divergence(model, top(by_size, f)) for f in fractions]
    assert found["mine", "aopc-kl"] == pytest.approx(
        [0.05 * (kls[0] + kls[1]) / 2 + 0.1 * (kls[1] + kls[2]) / 2], abs=1e-10
    )
    curve = (0.0, 0.05, 0.10, 0.20, 0.35, 0.50, 0.75, 1.0)
    expected = [log_probability(model, top(by_value, f)) - clean for f in curve]
    assert found["mine", "deletion-logprob"] == pytest.approx(expected, abs=1e-9)
    assert found["mine", "deletion-kl"] == pytest.approx([divergence(model, top(by_size, f)) for f in curve], abs=1e-9)
    kept = [log_probability(model, [t for t in by_value if t not in top(by_value, f)]) - clean for f in curve]
    assert found["mine", "insertion-logprob"] == pytest.approx(kept, abs=1e-9)
    of_eraser = (0.01, 0.05, 0.10, 0.20, 0.50)
    p = torch.tensor([clean - 0.0, *(log_probability(model, top(by_value, f)) for f in of_eraser)]).exp()
    assert found["mine", "comprehensiveness"] == pytest.approx([float((p[0] - p[1:]).mean())], rel=1e-6, abs=1e-10)
    alone = [divergence(model, [t for t in by_size if t not in top(by_size, f)]) for f in of_eraser]
    assert found["mine", "sufficiency-kl"] == pytest.approx([sum(alone) / len(alone)], abs=1e-10)


def test_methods_explain_the_objective_summed_over_the_answer() -> None:
    model = llama_like()
    objectives = {
        "logprob+dot": ls.attribute(model, PROMPT, ls.LogProb(), answer=ANSWER, readout="dot"),
        "fisher@2": ls.attribute(model, PROMPT, ls.Fisher(2), answer=ANSWER),
        "leave-one-out": ls.attribute(model, PROMPT, ls.LeaveOneOut(), answer=ANSWER),
        "context-cite+by=token": ls.attribute(model, PROMPT, ls.ContextCite(by="token"), answer=ANSWER),
    }
    same = {f"given {name}": att.scores.tolist() for name, att in objectives.items()}
    found = measured(model, [*objectives, *same.items()], ["aopc", "loo-kl"])
    for name in objectives:
        for metric in ("aopc", "loo-kl-spearman", "loo-kl-kendall"):
            assert found[name, metric] == pytest.approx(found[f"given {name}", metric], nan_ok=True)
    assert found["leave-one-out", "loo-kl-spearman"] == pytest.approx([1.0])
    # What knows of no prediction scores the passage as it is.
    alone = measured(model, ["attention-rollout", "random", "closeness", "embedding-norm"], ["first-token"])
    assert {values[0] for values in alone.values()} >= {0.0}


@pytest.mark.parametrize("build", [gpt2_like, llama_like])
def test_a_passage_has_an_answer_and_another_prompt(build: Any) -> None:
    model = build()
    # ∂ log P(answer | prompt) by each embedding, token by token, times the step from the other prompt's.
    n, beside = len(PROMPT), [*OTHER, *ANSWER[:-1]]
    x = reference.site_activation(model, [*PROMPT, *ANSWER[:-1]], "hook_embed").requires_grad_()
    (gradient,) = torch.autograd.grad(from_embeddings(model, x)[range(len(ANSWER)), ANSWER].sum(), x)
    scores = ((x - reference.site_activation(model, beside, "hook_embed")) * gradient).sum(-1)[:n].detach()
    # What the metrics measure, with tokens replaced by the other prompt's.
    order = scores.argsort(descending=True).tolist()
    falls = [log_probability(model, order[:k], OTHER) - log_probability(model, []) for k in (1, 1, 2)]
    aopc = 0.05 * (falls[0] + falls[1]) / 2 + 0.1 * (falls[1] + falls[2]) / 2
    effects = torch.tensor([divergence(model, [place], OTHER) for place in range(n)])
    ranks = torch.stack([scores.abs().argsort().argsort(), effects.argsort().argsort()]).double()

    rows = ls.evaluate(
        model,
        [{"clean": PROMPT, "answer": ANSWER, "corrupted": OTHER}],
        methods=["logprob+dot-prompt", "loo-kl@prompt"],
        metrics=["aopc", "loo-kl"],
        ablations=["prompt"],
        field="clean",
        answer_field="answer",
        other_field="corrupted",
    )
    values = rows.set_index(["method", "metric"])["value"]
    assert values["logprob+dot-prompt", "aopc"] == pytest.approx(aopc)
    assert values["logprob+dot-prompt", "loo-kl-spearman"] == pytest.approx(float(torch.corrcoef(ranks)[0, 1]))
    assert values["loo-kl@prompt", "loo-kl-spearman"] == pytest.approx(1)
    assert rows["answer_log_probability"].unique() == pytest.approx([log_probability(model, [])])


def test_a_part_that_some_passages_lack_or_have_no_field_for_is_refused() -> None:
    fields: dict[str, Any] = {"answer_field": "answer", "other_field": "corrupted"}
    row = {"text": PROMPT, "answer": ANSWER, "corrupted": OTHER}
    assert read_passages([row], **fields).items == (Passage(tuple(PROMPT), tuple(ANSWER), tuple(OTHER)),)
    assert read_passages([row]).items == (Passage(tuple(PROMPT)),)
    for given, words in (
        ([{"text": "a", "answer": "b"}], r"name the other prompt's \(--other-field NAME\)"),
        ([("a", "b")], "so it has no field 'answer'; expected an object with the fields 'text' and 'answer' and 'corr"),
        ([{**row, "corrupted": 3.5}], "passage 0 has 3.5 as 'corrupted'; expected a text or token ids"),
    ):
        with pytest.raises(FileError, match=words):
            read_passages(given, **fields)
    with pytest.raises(FileError, match="passage 1 brings no answer, and others do"):
        Passages("given", (Passage("a", "b"), Passage("c")))


def test_directions_of_an_answer_are_counted_as_passes() -> None:
    model = gpt2_like()
    methods = ["logprob", "fisher@2", ("sampled", ls.Fisher(2, samples=6))]
    evaluator = Evaluator(model, methods, ["first-token"], with_answers=True)
    _, rows = evaluator.measure(evaluator.passage(PROMPT), None, index=0, answer=tuple(ANSWER))
    assert [(row.method, row.backwards) for row in rows] == [("logprob", 1), ("fisher@2", 6), ("sampled", 6)]


def test_scores_of_an_answer_change_with_noise_and_redrawn_blocks() -> None:
    model = gpt2_like()
    found = measured(model, ["logprob", "fisher"], ["stability", "randomization"])
    assert all(0 < found[name, "stability"][0] < 1 for name in ("logprob", "fisher"))
    assert len(found["fisher", "randomization-all-blocks"]) == 1


def test_facts_say_what_the_answer_is() -> None:
    model = gpt2_like()
    evaluator = Evaluator(model, ["random"], ["first-token"], with_answers=True)
    prompt = evaluator.passage(PROMPT)
    facts, _ = evaluator.measure(prompt, None, index=0, answer=tuple(ANSWER))
    assert (facts["answer"], facts["answer_tokens"], facts["answer_generated"]) == ("#22#3#5", 3, False)
    assert facts["answer_log_probability"] == pytest.approx(log_probability(model, []))
    assert facts["correct"] is False
    made, _ = evaluator.measure(prompt, None, index=0, answer=2)
    own = ls.attribute(model, PROMPT, ls.LogProb(), answer=2).answer
    assert own is not None and (made["answer"], made["correct"]) == (own.text, None)
    given, _ = evaluator.measure(prompt, None, index=0, answer=tuple(own.token_ids))
    assert given["correct"] is True


@pytest.mark.parametrize("source", ["given", "jsonl", "parquet", "generated"])
def test_a_run_over_answers_is_resumed_and_reported(tmp_path: Path, source: str) -> None:
    model: Any = gpt2_like()
    passages: Any = ROWS
    settings: dict[str, Any] = {"answer_field": "answer"}
    if source == "generated":
        passages, settings = [PROMPT, PROMPT[::-1]], {"generate": 2}
    elif source != "given":
        model = reading()
        texts = [{"text": "The dog sleeps", "answer": " on the sofa"}, {"text": "The sofa", "answer": " sleeps"}]
        passages = tmp_path / f"rows.{source}"
        if source == "jsonl":
            passages.write_text("".join(json.dumps(row) + "\n" for row in texts))
        else:
            import pandas

            pandas.DataFrame(texts).to_parquet(passages)
    choices: dict[str, Any] = {"methods": ["logprob", "random"], "metrics": ["aopc", "loo-kl"], **settings}
    first = ls.evaluate(model, passages, **choices, out=tmp_path / "folder", limit=1)
    assert set(first["passage"]) == {0}
    rows = ls.evaluate(model, passages, **choices, out=tmp_path / "folder")
    at_once = ls.evaluate(model, passages, **choices)
    assert rows.equals(at_once) and set(rows["passage"]) == {0, 1}
    assert rows["answer_generated"].eq(source == "generated").all()
    results = read_results(tmp_path / "folder")
    words = "2 tokens that the model generates" if source == "generated" else "given"
    assert results.manifest["passages"]["answers"] == words
    assert results.manifest["laboratory"]["explained"].startswith("the answer after each passage")
    said = facts(report(tmp_path / "folder"))
    assert words in said["read"] and "answer" in said["explained"]
    # Other answers are another evaluation.
    with pytest.raises(EvaluationError, match="another evaluation"):
        ls.evaluate(model, passages, **{**choices, **OTHERS[source == "generated"]}, out=tmp_path / "folder")


OTHERS = [{"answer_field": None}, {"generate": 3}]


def reading() -> Any:
    model = gpt2_like()
    model.tokenizer = tokenizer()
    return model


def test_segments_of_a_text_are_left_out_with_its_answer() -> None:
    texts = [{"text": "The dog sleeps. The sofa", "answer": " sleeps"}]
    methods = ["leave-one-out+by=sentence", "context-cite@8"]
    rows = ls.evaluate(reading(), texts, methods=methods, metrics=["aopc"], answer_field="answer")
    assert rows["value"].notna().all() and rows["answer"].tolist() == [" sleeps"] * len(rows)


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        (ROWS, {"target": "last"}, "target='last' does not apply"),
        (ROWS, {"generate": 2}, "ask for one of them"),
        (ROWS, {"generate": -1}, "from 0"),
        (ROWS, {"answer_field": "reply"}, "name the answer's (--answer-field answer)"),
        (["text"], {}, "an object with the fields 'text' and 'answer'"),
        (ROWS, {"methods": [("mine", ls.Semantic(5))]}, "names its own token"),
        (ROWS, {"methods": [("two", ls.LogProbDiff([1], [2]))]}, "its own two answers"),
        (ROWS, {"methods": ["logprob+answer=#4"]}, "leave the method's own out"),
        (ROWS, {"methods": ["ig-semantic"]}, "explains one next token"),
        (ROWS, {"methods": ["semantic"], "protocol": PAPER}, "says nothing of answers"),
    ],
)
def test_what_does_not_go_with_answers_is_refused(rows: Any, more: dict[str, Any], message: str) -> None:
    settings: dict[str, Any] = {"methods": ["random"], "metrics": ["aopc"], "answer_field": "answer", **more}
    with pytest.raises((EvaluationError, FileError)) as raised:
        ls.evaluate(gpt2_like(), rows, **settings)
    assert message in str(raised.value)


def test_answers_count_in_the_context_window_and_the_digest() -> None:
    model = gpt2_like()
    ids = tuple(range(1, 21)) * 2
    passage = Passage(ids[:30], answer=(4, 5, 6))
    assert read_passage(model, passage, "own", truncate=False) == TooLong(33, 32)
    assert read_passage(model, passage, "own", truncate=True) == PassagePrompt(ids[1:30], None, 1, (4, 5, 6))
    assert read_passage(model, Passage(ids[:30]), "own", truncate=True, generate=31) == TooLong(61, 32)
    digests = {Passages("a", (Passage(ids, *more),)).digest() for more in ((), ((4,),), ((5,),), (None, (4,)))}
    assert len(digests) == 4
    assert read_passages(ROWS, answer_field="answer").items == (
        Passage(tuple(PROMPT), tuple(ANSWER)),
        Passage(tuple(PROMPT[::-1]), (4, 4)),
    )
