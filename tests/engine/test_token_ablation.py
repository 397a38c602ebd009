"""Tokens taken away: against prompts whose embeddings are replaced by hand, and against shorter prompts."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import reference
import torch
from tiny_models import TINY_MODELS, gemma_like, gpt2_like, linear_toy
from torch import Tensor
from torch.testing import assert_close

from lens_scopes.engine import token_ablation
from lens_scopes.engine.ablations import ABLATIONS
from lens_scopes.engine.model import ScopedModel
from lens_scopes.engine.token_ablation import AblatedPrompt, Corpus, Outcomes
from lens_scopes.errors import EvaluationError

IDS = [1, 17, 0, 8, 22, 3, 8, 11]
SPECIAL = [True, *[False] * 7]
TARGET = 5
CORPUS = Corpus((4, 9, 9, 20))
CLOSE: Any = {"rtol": 1e-9, "atol": 1e-12}
# Nothing, single tokens, the last one, sets in any order, everything that may go.
SETS = [[], [1], [4], [7], [3, 5], [6, 2, 7], [1, 2, 3, 4, 5, 6, 7]]


def masks_of(sets: list[list[int]], length: int = len(IDS)) -> Tensor:
    masks = torch.zeros(len(sets), length, dtype=torch.bool)
    for row, chosen in enumerate(sets):
        masks[row, chosen] = True
    return masks


def ablated(model: Any, ablation: str, **settings: Any) -> AblatedPrompt:
    return AblatedPrompt(ScopedModel.of(model), IDS, SPECIAL, TARGET, ablation, **{"corpus": CORPUS, **settings})


def stacked(outcomes: Outcomes) -> Tensor:
    return torch.stack([outcomes.log_probability, outcomes.probability, outcomes.logit, outcomes.divergence])


def measured(model: Any, y: Tensor) -> Tensor:
    """log p, p and logit of the target, and KL(p ‖ p after), from a final state after an ablation."""
    clean = reference.logits_from_final_state(model, reference.state_of(model, IDS)).log_softmax(-1)
    logits = reference.logits_from_final_state(model, y)
    after = logits.log_softmax(-1)
    divergence = sum(clean[j].exp() * (clean[j] - after[j]) for j in range(len(clean)))
    return torch.stack([after[TARGET], after[TARGET].exp(), logits[TARGET], divergence])


def replaced(model: Any, chosen: list[int], vector: Tensor) -> Tensor:
    embeddings = reference.site_activation(model, IDS, "hook_embed")
    for index in chosen:
        embeddings[index] = vector
    return measured(model, reference.final_state(model, embeddings, IDS))


@contextmanager
def counted_rows(model: Any) -> Iterator[list[tuple[int, int]]]:
    """(rows, positions) of every pass through the first block, seen without a hook."""
    sizes: list[tuple[int, int]] = []
    scoped, block = ScopedModel.of(model), model.blocks[0]
    assert scoped.can_slice and not scoped.prefix_obstacle  # which a bridge tries once
    forward = block.forward

    def count(residual: Tensor, *arguments: Any, **settings: Any) -> Tensor:
        sizes.append((residual.shape[0], residual.shape[1]))
        return forward(residual, *arguments, **settings)

    vars(block)["forward"] = count  # as an attribute, a bridge would hand it to the block that it wraps
    try:
        yield sizes
    finally:
        del vars(block)["forward"]


def set_tokenizer(model: Any, **of_tokens: int | None) -> None:
    model.tokenizer = None  # a bridge configures one that takes another's place, and knows no stand-ins
    model.tokenizer = SimpleNamespace(padding_side="right", **of_tokens)


# Against prompts replaced by hand


def test_zero_and_means_against_embeddings_replaced_by_hand(tiny: Any) -> None:
    embeddings = reference.site_activation(tiny, IDS, "hook_embed")
    corpus = torch.stack([reference.site_activation(tiny, [token], "hook_embed")[0] for token in CORPUS.token_ids])
    vectors = {
        "zero": torch.zeros(tiny.cfg.d_model, dtype=torch.float64),
        "mean": embeddings[1:].mean(0),  # BOS is no token of the text
        "corpus-mean": corpus.mean(0),
    }
    for ablation, vector in vectors.items():
        found = stacked(ablated(tiny, ablation).outcomes(masks_of(SETS)))
        assert_close(found, torch.stack([replaced(tiny, chosen, vector) for chosen in SETS], dim=1), **CLOSE)


def test_removal_is_the_shorter_prompt(tiny: Any) -> None:
    found = stacked(ablated(tiny, "remove").outcomes(masks_of(SETS)))
    shorter = [[token for index, token in enumerate(IDS) if index not in chosen] for chosen in SETS]
    expected = [measured(tiny, reference.state_of(tiny, ids)) for ids in shorter]
    assert_close(found, torch.stack(expected, dim=1), **CLOSE)


def test_resampled_tokens_are_drawn_from_the_corpus_alone_and_averaged(tiny: Any) -> None:
    """With tokens a and b to draw from, the mean over 3 draws is (n·a + (3 − n)·b) / 3 for a whole n."""
    a, b = (replaced(tiny, [4], reference.site_activation(tiny, [token], "hook_embed")[0]) for token in (9, 20))
    seen = set()
    for seed in range(6):
        found = stacked(
            ablated(tiny, "resample", draws=3, corpus=Corpus((9, 20)), seed=seed).outcomes(masks_of([[4]]))
        )[:, 0]
        mixtures = torch.stack([(n * a + (3 - n) * b) / 3 for n in range(4)])
        gaps = (mixtures - found).abs().amax(1)
        assert float(gaps.min()) < 1e-10
        seen.add(int(gaps.argmin()))
    assert len(seen) > 1, "every seed draws the same tokens"


def test_without_a_corpus_tokens_are_drawn_from_the_prompts_own() -> None:
    model = gpt2_like()
    ids, special = [1, 6, 6, 6], [True, False, False, False]
    alone = AblatedPrompt(ScopedModel.of(model), ids, special, TARGET, "resample", draws=5)
    found = alone.outcomes(masks_of([[1], [2, 3]], 4))
    assert_close(found.divergence, torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)


def test_draws_are_seeded_and_the_global_generator_is_untouched() -> None:
    model = gpt2_like()
    state = torch.get_rng_state()
    one, again, other = (stacked(ablated(model, "resample", seed=seed).outcomes(masks_of(SETS))) for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.allclose(one, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["pad", "eos", "bos"])
def test_tokens_of_the_tokenizer(name: str) -> None:
    model, plain = gemma_like(), gemma_like()
    with pytest.raises(EvaluationError, match=f"'{name}' needs a tokenizer .*choose another, such as zero"):
        ablated(model, name)
    set_tokenizer(model, **{f"{name}_token_id": 13})
    vector = reference.site_activation(plain, [13], "hook_embed")[0]
    found = stacked(ablated(model, name).outcomes(masks_of(SETS)))
    assert_close(found, torch.stack([replaced(plain, chosen, vector) for chosen in SETS], dim=1), **CLOSE)
    set_tokenizer(model, **{f"{name}_token_id": None})
    with pytest.raises(EvaluationError, match="none"):
        ablated(model, name)


def test_by_hand_on_a_linear_model() -> None:
    """y(x) − y(x without t) = J_t x_t, so the logit falls by w_targetᵀ J_t x_t, and sets add up."""
    model, jacobian = linear_toy()
    x = reference.site_activation(model, IDS, "hook_embed")
    effects = torch.einsum("o,toi,ti->t", model.W_U[:, TARGET], jacobian(len(IDS)), x)
    prompt = ablated(model, "zero")
    falls = prompt.clean_logit - prompt.outcomes(masks_of(SETS)).logit
    assert_close(falls, torch.stack([effects[chosen].sum() for chosen in SETS]), **CLOSE)
    assert_close(prompt.clean_logit - prompt.leave_one_out().logit, effects[1:], **CLOSE)


# Shared prefixes


@pytest.mark.parametrize("ablation", ["zero", "mean", "resample"])
@pytest.mark.parametrize("at_once", [1, 20, 1024])
def test_shared_prefixes_give_what_whole_passes_give(
    tiny: Any, ablation: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_ablation, "_TOKENS_AT_ONCE", at_once)
    with monkeypatch.context() as patch:
        patch.setattr(token_ablation.PromptPrefix, "start", lambda *arguments: None)
        whole_prompt = ablated(tiny, ablation, draws=3)
        whole = stacked(whole_prompt.outcomes(masks_of(SETS)))
    shared_prompt = ablated(tiny, ablation, draws=3)
    assert_close(stacked(shared_prompt.outcomes(masks_of(SETS))), whole, **CLOSE)
    assert_close(shared_prompt._clean_logits, whole_prompt._clean_logits, **CLOSE)
    assert shared_prompt.forwards == whole_prompt.forwards == 1 + len(SETS) * (3 if ablation == "resample" else 1)


def test_prefixes_are_really_shared_and_forwards_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    model = TINY_MODELS["llama_like"]()
    monkeypatch.setattr(token_ablation, "_TOKENS_AT_ONCE", 1)
    with counted_rows(model) as sizes:
        prompt = ablated(model, "zero")
        prompt.leave_one_out()
    assert sizes == [(1, 8), *((1, length) for length in range(7, 0, -1))]
    assert prompt.forwards == sum(rows for rows, _ in sizes)
    for ablation, draws in (("resample", 3), ("remove", 1), ("corpus-mean", 1)):
        with counted_rows(model) as sizes:
            prompt = ablated(model, ablation, draws=3)
            prompt.outcomes(masks_of(SETS))
        assert prompt.forwards == sum(rows for rows, _ in sizes) == 1 + draws * len(SETS), ablation


@pytest.mark.parametrize("kind", ["transformer_lens", "torch"])
def test_a_users_own_hooks_see_whole_prompts(kind: str) -> None:
    """A hook that doubles the second position's residual stream is part of the model then."""
    model = TINY_MODELS["llama_like"]()
    point = model.hook_dict["blocks.1.hook_resid_pre"]
    lengths = []

    def double(residual: Tensor) -> Tensor:
        lengths.append(residual.shape[1])
        doubled = residual.clone()
        doubled[:, 1] *= 2
        return doubled

    expected_without = stacked(ablated(model, "zero").outcomes(masks_of(SETS)))
    if kind == "transformer_lens":
        point.add_hook(lambda residual, hook: double(residual))
    else:
        point.register_forward_hook(lambda module, given, residual: double(residual))
    found = stacked(ablated(model, "zero").outcomes(masks_of(SETS)))
    assert set(lengths) == {len(IDS)}
    zero = torch.zeros(model.cfg.d_model, dtype=torch.float64)
    assert_close(found, torch.stack([replaced(model, chosen, zero) for chosen in SETS], dim=1), **CLOSE)
    assert not torch.allclose(found, expected_without)


def test_nothing_is_left_on_the_model() -> None:
    model = gemma_like()
    for ablation in ("zero", "remove", "resample"):
        ablated(model, ablation).leave_one_out()
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(point.fwd_hooks for point in model.hook_dict.values())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.parameters())


# Whole answers

ANSWER = [4, TARGET, 21]


def sequences_of(sets: list[list[int]], vector: Tensor | None, model: Any) -> list[list[Tensor]]:
    """Logits of each of the answer's predictions after each set is replaced by a vector, or taken out for None."""
    found = []
    for chosen in sets:
        if vector is None:
            ids = [*[token for index, token in enumerate(IDS) if index not in chosen], *ANSWER[:-1]]
            embeddings = reference.site_activation(model, ids, "hook_embed")
        else:
            ids = [*IDS, *ANSWER[:-1]]
            embeddings = reference.site_activation(model, ids, "hook_embed")
            embeddings[chosen] = vector
        places = range(len(ids) - len(ANSWER), len(ids))
        states = [reference.final_state(model, embeddings, ids, place) for place in places]
        found.append([reference.logits_from_final_state(model, y) for y in states])
    return found


@pytest.mark.parametrize("ablation", ["zero", "mean", "remove"])
@pytest.mark.parametrize("at_once", [1, 1024])
def test_an_answer_is_followed_token_by_token(
    tiny: Any, ablation: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_ablation, "_TOKENS_AT_ONCE", at_once)
    monkeypatch.setattr(token_ablation, "_ROWS_AT_ONCE", 2)  # rows of logits end within an answer
    own = reference.site_activation(tiny, IDS, "hook_embed")
    vector = {"zero": torch.zeros_like(own[0]), "mean": own[1:].mean(0), "remove": None}[ablation]
    (clean,) = sequences_of([[]], vector, tiny)
    expected = []
    for after in sequences_of(SETS, vector, tiny):
        pairs = [
            (before.log_softmax(-1), changed.log_softmax(-1)) for before, changed in zip(clean, after, strict=True)
        ]
        log_probability = sum(q[token] for (_, q), token in zip(pairs, ANSWER, strict=True))
        divergence = sum((p.exp() * (p - q)).sum() for p, q in pairs)
        logit = sum(changed[token] for changed, token in zip(after, ANSWER, strict=True))
        expected.append(torch.stack([log_probability, log_probability.exp(), logit, divergence]))  # type: ignore[list-item]
    prompt = AblatedPrompt(ScopedModel.of(tiny), IDS, SPECIAL, ANSWER, ablation)
    assert_close(stacked(prompt.outcomes(masks_of(SETS))), torch.stack(expected, dim=1), **CLOSE)
    logits = sum(before[token] for before, token in zip(clean, ANSWER, strict=True))
    assert prompt.clean_logit == pytest.approx(float(logits))
    assert prompt.clean_log_probability == pytest.approx(float(prompt.outcomes(masks_of([[]])).log_probability))


def test_draws_do_not_depend_on_the_answer_and_each_ones_probability_is_averaged() -> None:
    model = gpt2_like()
    both = ablated(model, "resample", draws=2, seed=3)
    answer = AblatedPrompt(ScopedModel.of(model), IDS, SPECIAL, ANSWER, "resample", draws=2, corpus=CORPUS, seed=3)
    assert torch.equal(answer._replacements, both._replacements)  # type: ignore[arg-type]
    found = answer.outcomes(masks_of([[2, 4]]))
    whole = both._replacements
    assert whole is not None
    answer._replacements = whole[:1]
    first = answer.outcomes(masks_of([[2, 4]]))
    answer._replacements = whole[1:]
    second = answer.outcomes(masks_of([[2, 4]]))
    assert float(found.probability) == pytest.approx(float(first.probability + second.probability) / 2)
    assert float(first.probability) == pytest.approx(math.exp(first.log_probability))


def test_a_known_prompt_is_not_run_again() -> None:
    model = TINY_MODELS["gemma_like"]()
    adapter = ScopedModel.of(model)
    states = adapter.run_to_final_states([[*IDS, *ANSWER[:-1]]], reads=[(0, place) for place in range(7, 10)])
    for ablation in ("remove", "eos"):
        set_tokenizer(model, eos_token_id=13)
        run = AblatedPrompt(adapter, IDS, SPECIAL, ANSWER, ablation)
        known = AblatedPrompt(adapter, IDS, SPECIAL, ANSWER, ablation, clean_states=states)
        with counted_rows(model) as sizes:
            found = known.outcomes(masks_of(SETS))
        assert known.forwards == sum(rows for rows, _ in sizes) == len(SETS)
        assert_close(stacked(found), stacked(run.outcomes(masks_of(SETS))), **CLOSE)
        assert known.clean_logit == pytest.approx(run.clean_logit)


# Which tokens


@pytest.mark.parametrize("ablation", ["zero", "mean", "resample", "remove"])
def test_leaving_out_skips_special_tokens(ablation: str) -> None:
    model = TINY_MODELS["neox_like"]()
    special = [True, False, False, True, False, False, False, False]
    prompt = AblatedPrompt(ScopedModel.of(model), IDS, special, TARGET, ablation, corpus=CORPUS)
    assert prompt.eligible == [1, 2, 4, 5, 6, 7]
    alone = prompt.outcomes(masks_of([[index] for index in prompt.eligible]))
    assert_close(stacked(prompt.leave_one_out()), stacked(alone), **CLOSE)


@pytest.mark.parametrize("ablation", ["zero", "mean", "resample", "remove"])
def test_a_prompt_of_special_tokens_alone_has_nothing_to_leave_out(ablation: str) -> None:
    prompt = AblatedPrompt(ScopedModel.of(gpt2_like()), [1], [True], TARGET, ablation)
    assert stacked(prompt.leave_one_out()).shape == (4, 0)


def test_nothing_ablated_changes_nothing(tiny: Any) -> None:
    for ablation in ("zero", "remove", "resample"):
        prompt = ablated(tiny, ablation)
        found = prompt.outcomes(masks_of([[]]))
        assert float(found.divergence) == pytest.approx(0, abs=1e-12)
        assert float(found.log_probability) == pytest.approx(prompt.clean_log_probability, abs=1e-12)
        assert float(found.logit) == pytest.approx(prompt.clean_logit, abs=1e-12)


def test_float32_agrees_with_float64() -> None:
    for ablation in ("zero", "resample", "remove"):
        exact, rounded = (
            stacked(ablated(TINY_MODELS["gemma_like"](dtype=dtype), ablation).outcomes(masks_of(SETS)))
            for dtype in (torch.float64, torch.float32)
        )
        assert_close(rounded, exact, rtol=1e-3, atol=1e-4)


def test_embeddings_of_more_tokens_than_the_context_holds(tiny: Any) -> None:
    ids = [*range(23), *range(23)]
    expected = torch.stack([reference.site_activation(tiny, [token], "hook_embed")[0] for token in range(23)])
    assert_close(ScopedModel.of(tiny).token_embeddings(ids), expected.repeat(2, 1), **CLOSE)


# Bad input


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda model: ablated(model, "resmple"), "'resmple'; did you mean 'resample'"),
        (lambda model: ablated(model, "nonsense"), "Known: zero, pad"),
        (lambda model: ablated(model, "corpus-mean", corpus=None), "there are none here"),
        (lambda model: ablated(model, "resample", draws=0), "integer from 1 to 100000; got 0"),
    ],
)
def test_bad_input_is_refused_in_one_line(make: Callable[[Any], Any], words: str) -> None:
    with pytest.raises(EvaluationError, match=words) as caught:
        make(gpt2_like())
    assert "\n" not in str(caught.value)


def test_every_ablation_is_described() -> None:
    assert set(ABLATIONS) == {"zero", "pad", "eos", "bos", "mean", "corpus-mean", "resample", "prompt", "remove"}
    assert all(name == ablation.name and ablation.help for name, ablation in ABLATIONS.items())


@pytest.mark.parametrize("size", [1e-5, 1e-3, 1e-1])
def test_divergences_of_a_float32_model_are_right_to_a_tenth_of_a_billionth(size: float) -> None:
    """As sums of float32 logarithms they would have errors of 1e-8 and more, of either sign."""
    model = gpt2_like(dtype=torch.float32)
    adapter = ScopedModel.of(model)
    head, y = adapter.unembedding(), adapter.run_to_final_states([IDS])[0]
    ys = y + size * torch.randn(9, len(y), generator=torch.Generator().manual_seed(0))
    prompt = AblatedPrompt(adapter, IDS, SPECIAL, TARGET, "zero")
    found = prompt._measure_rows(ys[:, None])[3]
    p, q = (logits.double().log_softmax(-1) for logits in (prompt._clean_logits[0], head.logits(ys)))
    literal = torch.tensor([math.fsum((p.exp() * (p - row)).tolist()) for row in q], dtype=torch.float64)
    assert bool((found >= 0).all())
    assert_close(found, literal, rtol=1e-9, atol=1e-10)
