"""What leaving segments out does, foretold by true, opposite and useless scores of an additive model."""

import math
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
from command_line import TEXTS, tokenizer
from tiny_models import gpt2_like, linear_toy
from torch import Tensor

import lens_scopes as ls
from lens_scopes.errors import EvaluationError, ObjectiveError
from lens_scopes.evaluation.evaluator import Evaluator
from lens_scopes.evaluation.metrics.segments import _SEED_OFFSET, segment_agreement
from lens_scopes.scopes.comparisons.context_cite import random_subsets

IDS, TOKEN = [1, 17, 0, 8, 22, 3, 8, 11], 5
LINES = [(1, 3), (3, 4), (4, 7), (7, 8)]
TOKENS = ("<bos>", "a", "a\n", "a\n", "a", "a", "a\n", "a")
PROMPT = ls.Prompt(None, tuple(IDS), TOKENS, None, (True, *[False] * 7), "ids")


def additive() -> tuple[Any, Tensor]:
    """A model whose logit of one token's probability adds up over the tokens, and what each adds."""
    model, jacobian = linear_toy()
    others = [index for index in range(model.cfg.d_vocab_out) if index != TOKEN]
    model.W_U.data[:, others] = model.W_U.data[:, others[:1]].clone()
    model.b_U.data[others] = model.b_U.data[others[0]].clone()
    x = reference.site_activation(model, IDS, "hook_embed")
    effects = torch.einsum("o,toi,ti->t", model.W_U[:, TOKEN] - model.W_U[:, others[0]], jacobian(len(IDS)), x)
    effects[0] = 0
    return model, effects


def log_probability(model: Any, left_out: list[int]) -> float:
    embeddings = reference.site_activation(model, IDS, "hook_embed")
    for line in left_out:
        embeddings[slice(*LINES[line])] = 0
    logits = reference.logits_from_final_state(model, reference.final_state(model, embeddings, IDS))
    return float(logits.log_softmax(-1)[TOKEN])


def values(scores: dict[str, Tensor], **settings: Any) -> dict[tuple[str, str], float]:
    model, _ = additive()
    table = segment_agreement(model, PROMPT, [TOKEN], scores, **{"by": "line", "ablation": "zero", **settings})
    return {(method, metric): value for method, metric, value in table.itertuples(index=False)}


def test_true_scores_foretell_everything_and_opposite_ones_the_opposite() -> None:
    model, effects = additive()
    found = values({"true": effects, "opposite": -effects, "same": torch.zeros(8)}, top=(1, 3, 4))
    assert found["true", "lds"] == pytest.approx(1) and found["opposite", "lds"] == pytest.approx(-1)
    assert math.isnan(found["same", "lds"])
    by_line = [float(effects[slice(*line)].sum()) for line in LINES]
    order = sorted(range(4), key=lambda line: -by_line[line])
    clean = log_probability(model, [])
    for k in (1, 3):
        assert found["true", f"top-{k}-drop"] == pytest.approx(clean - log_probability(model, order[:k]))
        assert found["opposite", f"top-{k}-drop"] == pytest.approx(clean - log_probability(model, order[::-1][:k]))
    assert ("true", "top-4-drop") not in found, "nothing would be left"


def test_the_outcomes_are_those_of_the_whole_answer() -> None:
    model, effects = additive()
    table = segment_agreement(model, PROMPT, [4, TOKEN], {"true": effects}, by="line", ablation="zero", top=(1,))
    left_out = ls.attribute(model, PROMPT, ls.LeaveOneOut("logprob", "zero", by="line"), answer=[4, TOKEN])
    by_line = [float(effects[slice(*line)].sum()) for line in LINES]
    start, stop = LINES[by_line.index(max(by_line))]
    assert table["value"].tolist()[1] == pytest.approx(float(left_out.scores[start:stop].sum()))


def test_scores_of_another_length_are_refused() -> None:
    with pytest.raises(EvaluationError, match="'short' scores 3 tokens; the prompt has 8"):
        values({"short": torch.zeros(3)})


# The same as metrics of an evaluation


def measured(scores: dict[str, Tensor], **settings: Any) -> dict[tuple[str, str], Any]:
    model, _ = additive()
    evaluator = Evaluator(
        model, list(scores.items()), ["lds", "top-k-drop"], ["zero"], with_answers=True, **{"by": "line", **settings}
    )
    _, found = evaluator.measure(PROMPT, None, index=0, answer=(TOKEN,))
    return {(item.method, item.metric): item for item in found}


def test_metrics_are_those_of_the_function_on_the_same_draws() -> None:
    _, effects = additive()
    scores = {"true": effects, "opposite": -effects, "other": torch.linspace(-1, 1, 8, dtype=torch.float64) ** 3}
    found = measured(scores)
    expected = values(scores, seed=_SEED_OFFSET, top=(1, 3, 5))
    for key, value in expected.items():
        assert found[key].value == pytest.approx(value, abs=1e-12) and found[key].note is None
    assert found["true", "lds"].value == pytest.approx(1)
    assert (
        math.isnan(found["true", "top-5-drop"].value)
        and found["true", "top-5-drop"].note == "the passage has 4 segments"
    )


def test_the_held_out_ablations_are_not_those_that_context_cite_draws() -> None:
    """Passage 0 of seed 0 has the seed that ContextCite has by default."""
    drawn = random_subsets(64, 4, 0, with_empty=True)
    held_out = random_subsets(64, 4, _SEED_OFFSET, with_empty=True)
    assert not torch.equal(drawn, held_out)


def test_passages_of_one_segment_have_no_number_and_say_why() -> None:
    _, effects = additive()
    found = measured({"true": effects}, by="paragraph")
    for metric in ("lds", "top-1-drop", "top-3-drop", "top-5-drop"):
        item = found["true", metric]
        assert math.isnan(item.value) and "was given as ids" in str(item.note)


def test_an_evaluation_measures_sentences_of_texts_with_answers(tmp_path: Path) -> None:
    model = gpt2_like()
    model.tokenizer = tokenizer()
    texts = [f"{first} {second}" for first, second in zip(TEXTS, TEXTS[1:], strict=False)][:3]
    settings: dict[str, Any] = {
        "methods": ["fisher", "context-cite@200+by=word+ablation=mean"],
        "metrics": ["lds", "top-k-drop"],
    }
    rows = ls.evaluate(model, texts, **settings, ablations=["mean"], by="word", generate=2, out=tmp_path / "a")
    table = rows[rows["metric"] == "lds"].pivot(index="passage", columns="method", values="value")
    assert table.shape == (3, 2) and bool(
        table["context-cite@200+by=word+ablation=mean"].mean() > table["fisher"].mean()
    )
    with pytest.raises(EvaluationError, match="by"):
        ls.evaluate(model, texts, **settings, ablations=["mean"], by="line", generate=2, out=tmp_path / "a")
    with pytest.raises(ObjectiveError, match="'turn'; got 'chapter'"):
        ls.evaluate(model, texts, **settings, by="chapter")
