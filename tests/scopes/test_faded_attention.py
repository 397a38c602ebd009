"""Slopes in the weight that other tokens give to a segment: finite differences of attention written out."""

from typing import Any

import pytest
import torch
from docstring_examples import example_model
from tiny_models import gemma_like, gpt2_like, llama_like
from torch import Tensor
from torch.testing import assert_close

import lens_scopes as ls
from lens_scopes.errors import ObjectiveError, PromptError
from lens_scopes.evaluation.methods.names import as_method
from lens_scopes.prompts.groups import segments
from lens_scopes.prompts.read import read_prompt

TEXT = "The capital of France is Paris. Paris is of Italy. Rome is the capital. The capital of Italy is"
ANSWER = [9, 4, 12]


def log_probability(model: Any, ids: list[int], answer: list[int], weights: Tensor, owner: list[int]) -> float:
    """log P(answer) with every segment's keys at a weight for the tokens outside, by loops over the patterns."""

    def fade(pattern: Tensor, hook: Any) -> Tensor:
        faded = pattern.clone()
        for dest in range(pattern.shape[-2]):
            for src in range(pattern.shape[-1]):
                if owner[src] >= 0 and owner[src] != owner[dest]:
                    faded[..., dest, src] *= weights[owner[src]]
        return faded / faded.sum(-1, keepdim=True)

    hooks = [(f"blocks.{layer}.attn.hook_pattern", fade) for layer in range(model.cfg.n_layers)]
    with torch.no_grad():
        logits = model.run_with_hooks(torch.tensor([[*ids, *answer[:-1]]]), fwd_hooks=hooks)[0]
    rows = logits[len(ids) - 1 :].log_softmax(-1)
    return float(sum(rows[place, token] for place, token in enumerate(answer)))


def slopes(model: Any, ids: list[int], answer: list[int], parts: list[list[int]], alpha: float) -> list[float]:
    owner = [-1] * (len(ids) + len(answer) - 1)
    for place, tokens in enumerate(parts):
        for token in tokens:
            owner[token] = place
    found = []
    for place in range(len(parts)):
        step = torch.zeros(len(parts), dtype=torch.float64)
        step[place] = 1e-5
        above, below = (log_probability(model, ids, answer, alpha + sign * step, owner) for sign in (1, -1))
        found.append((above - below) / 2e-5)
    return found


@pytest.mark.parametrize("alphas", [(0.5,), (1.0,), (0.25, 0.75)])
def test_segments_have_the_mean_slopes_of_the_answers_log_probability(alphas: tuple[float, ...]) -> None:
    model = example_model()
    prompt = read_prompt(model, TEXT)
    att = ls.attribute(model, prompt, ls.FadedAttention(alphas=alphas, within=(1, 17)), answer=ANSWER)
    parts = segments(prompt, "sentence", (1, 17))
    each = [slopes(model, list(prompt.token_ids), ANSWER, parts, alpha) for alpha in alphas]
    expected = torch.tensor(each, dtype=torch.float64).mean(0)
    assert_close(
        torch.tensor(att.group("sentence", within=(1, 17))["score"].tolist()), expected.float(), rtol=1e-5, atol=1e-8
    )
    assert not att.scores[17:].any() and att.scores[0] == 0
    assert att.answer is not None and att.contract["output explained"].startswith("log P")


@pytest.mark.parametrize("make", [gpt2_like, llama_like, gemma_like])
def test_any_attention_is_faded(make: Any) -> None:
    """Grouped heads, rotary positions, sliding windows and soft-caps."""
    model, ids = make(), [1, 7, 3, 9, 2, 8, 5, 4]
    prompt = ls.read_prompt(model, ids)
    att = ls.attribute(model, prompt, ls.FadedAttention(by="token", alphas=(0.5,)), target=6)
    parts = segments(prompt, "token")
    expected = torch.tensor(slopes(model, ids, [6], parts, 0.5), dtype=torch.float64)
    assert_close(att.scores[[part[0] for part in parts]].double(), expected, rtol=2e-5, atol=2e-7)


def test_a_last_token_alone_attends_to_the_others() -> None:
    """Nothing but attention carries a segment to the end: unfaded slopes of a segment nobody attends to are none."""
    model = gpt2_like()
    for block in model.blocks:
        block.attn.W_O.data.zero_()
    att = ls.attribute(model, [1, 7, 3, 9], ls.FadedAttention(by="token"))
    assert not att.scores.any()


def test_the_model_and_the_modes_of_torch_are_as_before() -> None:
    model = example_model()
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    with torch.inference_mode():
        inside = ls.attribute(model, TEXT, ls.FadedAttention(by="word"), answer=ANSWER).scores
    assert_close(inside, ls.attribute(model, TEXT, ls.FadedAttention(by="word"), answer=ANSWER).scores)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_it_is_known_by_name_and_counts_its_passes() -> None:
    model = example_model()
    spec = ls.Spec.read(ls.FadedAttention(by="line", within=(2, 9)))
    assert ls.Spec.parse(spec.line) == spec
    found = as_method("faded-attention+by=word").score(model, read_prompt(model, TEXT), 4)
    assert (found.forwards, found.backwards) == (3, 2)
    att = ls.attribute(model, TEXT, "faded-attention")
    assert att.objective == "FadedAttention(by='sentence', alphas=(0.25, 0.75))" and len(att.contract) == 5


@pytest.mark.parametrize("alphas", [(), (0,), (1.5,), (0.5, -1), [0]])
def test_weights_outside_of_zero_to_one_are_refused(alphas: tuple[float, ...]) -> None:
    with pytest.raises(ObjectiveError, match="weights above 0 and up to 1"):
        ls.FadedAttention(alphas=alphas)


def test_what_does_not_fit_is_refused_with_a_cure() -> None:
    with pytest.raises(PromptError, match="choose by='word'"):
        ls.attribute(example_model(), "The capital of France is", ls.FadedAttention())
    with pytest.raises(ObjectiveError, match="has a readout of its own, so readout='dot' does not apply"):
        ls.attribute(example_model(), TEXT, ls.FadedAttention(), readout="dot")
