"""Integrated Gradients from any start and the trivial scores, against literal computations with autograd."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from command_line import WORDS, tokenizer
from tiny_models import gemma_like, gpt2_like, llama_like
from torch import Tensor
from torch.testing import assert_close

import lens_scopes as ls
from lens_scopes.engine.forward import token_embeddings
from lens_scopes.errors import EvaluationError
from lens_scopes.evaluation.methods import as_method
from lens_scopes.prompts.prompt import Prompt

IDS = [1, 17, 0, 8, 22, 3]
TARGET = 5
BOS, EOS, PAD = 0, 2, 4


def with_tokens(model: Any) -> Any:
    model.tokenizer = tokenizer()
    model.tokenizer.eos_token, model.tokenizer.pad_token = WORDS[EOS], WORDS[PAD]
    return model


@pytest.fixture(scope="module", params=[gpt2_like, llama_like, gemma_like])
def model(request: pytest.FixtureRequest) -> Any:
    return with_tokens(request.param())


def prompt() -> Prompt:
    special = (True, *[False] * (len(IDS) - 1))
    return Prompt(None, tuple(IDS), tuple(f"#{token}" for token in IDS), None, special, "ids")


def gradient(model: Any, x: Tensor, measure: str) -> Tensor:
    """∂s/∂x at the embeddings x, by autograd through the whole model."""
    x = x.clone().requires_grad_(True)
    with model.hooks(fwd_hooks=[("hook_embed", lambda value, hook: x[None].to(value))]):
        logits = model(torch.tensor([IDS]))[0, -1]
    output = logits[TARGET] if measure == "logit" else logits.log_softmax(-1)[TARGET]
    return torch.autograd.grad(output, x)[0]


STARTS = [
    (start, held)
    for start in ("zero", "mean", "bos", "eos", "pad")
    for held in (False, True)
    if start != "zero" or held
]


@pytest.mark.parametrize(("start", "held"), STARTS)
def test_integrated_gradients_from_a_start_are_the_midpoint_sum(model: Any, start: str, held: bool) -> None:
    x = token_embeddings(model, IDS)
    token = {"bos": BOS, "eos": EOS, "pad": PAD}.get(start)
    if token is not None:
        baseline = token_embeddings(model, [token])[0].expand_as(x)
    else:
        baseline = torch.zeros_like(x) if start == "zero" else x[1:].mean(0).expand_as(x)
    total = torch.zeros_like(x)
    for alpha in (1 / 6, 3 / 6, 5 / 6):
        point = baseline + alpha * (x - baseline)
        if held:
            point = torch.cat([x[:1], point[1:]])
        total += gradient(model, point, "logit") / 3
    expected = (total * (x - baseline)).norm(dim=-1)
    found = as_method(f"ig-{start}{'-held' * held}@3").score(model, prompt(), TARGET)
    assert_close(found.scores, expected, rtol=1e-9, atol=1e-12)
    assert (found.forwards, found.backwards) == (4, 3)


def test_ig_from_zero_is_the_path_of_ig(model: Any) -> None:
    from lens_scopes.evaluation.path_gradients import PathGradients

    own = ls.attribute(model, prompt(), PathGradients.midpoints(4, "zero"), target=TARGET).scores
    assert_close(own, as_method("ig@4").score(model, prompt(), TARGET).scores, rtol=1e-9, atol=1e-12)


def test_holding_bos_changes_nothing_where_the_path_starts_there(model: Any) -> None:
    whole = replace(prompt(), token_ids=(BOS, *IDS[1:]))

    def scores(name: str) -> Tensor:
        return as_method(name).score(model, whole, TARGET).scores

    assert_close(scores("ig-bos@3"), scores("ig-bos-held@3"), rtol=1e-9, atol=1e-12)
    assert not torch.allclose(scores("ig-eos@3"), scores("ig-eos-held@3"), rtol=1e-3)


def test_the_papers_integrated_gradients_of_its_aopc_table(model: Any) -> None:
    """The gradient is that of a residual added before the scaling by α: α times the gradient at αx."""
    x = token_embeddings(model, IDS)
    total = torch.zeros_like(x)
    for alpha in (0.2, 0.4, 0.6, 0.8, 1.0):
        residual = torch.zeros_like(x).requires_grad_(True)
        with model.hooks(fwd_hooks=[("hook_embed", lambda value, hook, a=alpha, r=residual: (a * (x + r))[None])]):
            loss = -model(torch.tensor([IDS]))[0, -1].log_softmax(-1)[TARGET]
        total += torch.autograd.grad(loss, residual)[0] / 5
    expected = (total * x).norm(dim=-1)
    assert_close(as_method("ig-weighted").score(model, prompt(), TARGET).scores, expected, rtol=1e-9, atol=1e-12)


def test_the_papers_integrated_gradients_of_its_leave_one_out_table(model: Any) -> None:
    x = token_embeddings(model, IDS)
    total = torch.zeros_like(x)
    for tenth in range(1, 11):
        total += gradient(model, tenth / 10 * x, "logit") / 10
    expected = (total * (1.0 * x - 0.1 * x)).norm(dim=-1)
    assert_close(as_method("ig-semantic").score(model, prompt(), TARGET).scores, expected, rtol=1e-9, atol=1e-12)


def test_a_start_that_the_tokenizer_lacks_is_refused() -> None:
    model = with_tokens(gpt2_like())
    model.tokenizer.pad_token = None
    with pytest.raises(EvaluationError, match="'pad' needs a tokenizer with such a token"):
        as_method("ig-pad@3").check(model)


def test_trivial_scores(model: Any) -> None:
    def scores(name: str) -> Tensor:
        return as_method(name).score(model, prompt(), TARGET).scores

    assert scores("closeness").tolist() == [1, 2, 3, 4, 5, 6]
    assert_close(scores("embedding-norm"), token_embeddings(model, IDS).norm(dim=-1))
    logs = model(torch.tensor([IDS]))[0].log_softmax(-1)
    expected = [math.log(model.cfg.d_vocab), *(-float(logs[t, IDS[t + 1]]) for t in range(len(IDS) - 1))]
    assert_close(scores("surprisal"), torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)
