"""The scopes on Gemma 3 270M: equal to an implementation on Transformers alone, and the picture a reader should get."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
from scipy.stats import spearmanr
from torch.testing import assert_close

import lens_scopes as ls
from lens_scopes.errors import NumericsError

pytestmark = [pytest.mark.gemma, pytest.mark.xdist_group("gemma")]

SOFA = "German: Der Hund schläft auf dem Sofa. English: The dog sleeps on the"
PROMPTS = {
    "translation": SOFA,
    "code": "def area(width, height):\n    return width *",
    "other scripts": "東京は日本の首都です。😀 Москва — столица",
}
SCOPES = {"semantic": ls.Semantic(), "temperature": ls.Temperature(), "fisher": ls.Fisher()}


@pytest.fixture(scope="module", autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def results(gemma: Any) -> dict[tuple[str, str], ls.Attribution]:
    """Each prompt under each scope, at the embedding and at every layer."""
    return {
        (name, scope): ls.attribute(gemma, prompt, objective, layers=True)
        for name, prompt in PROMPTS.items()
        for scope, objective in SCOPES.items()
    }


@pytest.fixture(scope="module")
def transformers_model(gemma_folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(gemma_folder, dtype=torch.float32)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("name", PROMPTS)
def test_scores_equal_those_of_transformers_alone(results: Any, transformers_model: Any, name: str, scope: str) -> None:
    att = results[name, scope]
    with torch.no_grad():
        logits = transformers_model(torch.tensor([att.token_ids]), logits_to_keep=1).logits[0, -1]
    assert att.prediction.top[0].token_id == int(logits.argmax())
    assert att.prediction.top[0].probability == pytest.approx(float(logits.softmax(-1).max()), rel=1e-4)
    expected = reference.transformers_scope(transformers_model, att.token_ids, scope)
    assert_close(att.scores, expected, rtol=1e-3, atol=1e-5 * float(expected.max()))


def test_the_demonstration_is_predicted_and_read_as_expected(results: Any) -> None:
    next_best = {}
    for scope in SCOPES:
        att = results["translation", scope]
        first, second = att.prediction.top[:2]
        assert first.token == " sofa" and first.probability == pytest.approx(0.78, abs=0.01)
        assert second.probability < 0.2
        assert att.target is None or att.target.token == " sofa"
        assert att.tokens[0] == "<bos>" and att.special == [True] + [False] * 18 and att.position == 18
        (_, leader, top), (_, follower, following) = att.top(2)
        assert (leader, follower) == (" Sofa", "ft")
        next_best[scope] = following / top
    assert next_best["fisher"] == pytest.approx(0.28, abs=0.02)
    assert next_best["semantic"] == pytest.approx(0.70, abs=0.02)
    assert next_best["temperature"] < 0.7


def test_influence_moves_from_the_copied_word_to_the_last_token(results: Any) -> None:
    for scope in SCOPES:
        att = results["translation", scope]
        assert att.layer_names == [f"blocks.{layer}.hook_resid_pre" for layer in range(18)]
        assert att.layers.shape == (18, 19) and bool(att.layers.isfinite().all())
        assert_close(att.layers[0], att.scores, rtol=1e-6, atol=0)  # hook_embed is after Gemma's scaling
        sofa = att.tokens.index(" Sofa")
        assert att.layers[0][1:].argmax() + 1 == sofa and att.layers[-1].argmax() == 18


def test_words_and_spans_add_up(gemma: Any, results: Any) -> None:
    att = results["translation", "fisher"]
    words = att.group("word").set_index("label")["score"]
    # the verb is three tokens, whose squared norms add up
    assert list(words.index) == ["<bos>", *SOFA.split()]
    assert words["schläft"] == pytest.approx(sum(att.scores[5:8].tolist()), rel=1e-6)
    assert float(words.sum()) == pytest.approx(float(att.scores.sum()), rel=1e-6)


def test_a_position_in_the_middle_equals_the_text_up_to_there(gemma: Any, results: Any) -> None:
    whole = ls.attribute(gemma, SOFA + " sofa. It is an old dog.", ls.Fisher(), position=18)
    assert_close(whole.scores, results["translation", "fisher"].scores, rtol=1e-5, atol=0)
    explained = ls.attribute(gemma, SOFA + " couch", position=18)
    assert explained.target is not None and explained.target.token == " couch"
    named = ls.attribute(gemma, SOFA, ls.Semantic(" couch"))
    assert_close(explained.scores, named.scores, rtol=1e-5, atol=0)


def test_a_batch_equals_single_calls(gemma: Any, results: Any) -> None:
    for name, att in zip(PROMPTS, ls.attribute_batch(gemma, list(PROMPTS.values()), ls.Fisher()), strict=True):
        single = results[name, "fisher"].scores
        assert_close(att.scores, single, rtol=1e-3, atol=1e-5 * float(single.max()))


def test_an_answer_is_explained_by_the_word_it_repeats(gemma: Any) -> None:
    """Either city leads its own answer; the answer's probability is that of its tokens, one by one."""
    prompt = "Anna lives in Paris. Peter lives in Rome. Where does Peter live? Peter lives in"
    for city in (" Rome", " Paris"):
        att = ls.attribute(gemma, prompt, ls.LogProb(), answer=f"{city}.")
        assert att.answer is not None and att.answer.tokens == [city, "."]
        assert att.top(1)[0].label == city
    whole, last = [*att.token_ids, *att.answer.token_ids], len(att) - 1
    single = [ls.attribute(gemma, whole, ls.LogProb(), position=last + index).target for index in range(2)]
    expected = torch.tensor([target.probability for target in single if target is not None])
    assert_close(torch.tensor(att.answer.log_probabilities).exp(), expected, rtol=1e-4, atol=1e-6)


def test_the_sampled_trace_is_within_a_few_percent(gemma: Any, results: Any) -> None:
    att = ls.attribute(gemma, SOFA, ls.Fisher(rank="trace"))
    assert att.standard_error is not None and att.warnings == []
    assert bool((att.standard_error <= 0.04 * att.scores).all())
    assert att.top(1)[0][1] == " Sofa"
    share = results["translation", "fisher"].scores / att.scores
    assert bool((share < 1.001).all()), "one term of F cannot hold more than its trace"
    assert 0.2 < float(share.median()) < 0.9


def test_a_bridge_gives_the_scores_of_a_hooked_transformer(results: Any) -> None:
    bridge = ls.load_model("gemma-3-270m", backend="bridge")
    for scope, objective in SCOPES.items():
        att, expected = ls.attribute(bridge, SOFA, objective, layers=True), results["translation", scope]
        assert att.model["backend"] == "bridge" and att.tokens == expected.tokens
        assert att.layer_names == expected.layer_names
        for found, scores in ((att.scores, expected.scores), (att.layers, expected.layers)):
            assert found is not None
            assert_close(found, scores, rtol=2e-5, atol=2e-5 * float(expected.scores.max()))


def test_bfloat16_ranks_tokens_as_float32_does(results: Any) -> None:
    low = ls.load_model("gemma-3-270m", dtype="bfloat16")
    for (name, scope), expected in results.items():
        att = ls.attribute(low, PROMPTS[name], SCOPES[scope])
        assert att.scores.dtype == torch.float32 and att.model["dtype"] == "bfloat16"
        # Rounding to 8 bits differs between processors. It may swap tokens of nearly equal scores, and no others.
        ratio = expected.scores[:, None] / expected.scores[None]
        swapped = (ratio > 1) & (att.scores[:, None] < att.scores[None])
        assert float(ratio.where(swapped, 1.0).max()) < 1.3, (name, scope)
        assert spearmanr(att.scores, expected.scores).statistic >= 0.98, (name, scope)
        assert att.top(1)[0][1] == expected.top(1)[0][1]


def test_activations_beyond_the_range_of_float16_are_named() -> None:
    low = ls.load_model("gemma-3-270m", dtype="float16")
    with pytest.raises(NumericsError, match=r"first at blocks\.\d+\.hook_resid_post.*float16.*bfloat16"):
        ls.attribute(low, SOFA)
