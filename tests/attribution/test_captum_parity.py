"""captum on the Transformers model gives the scores of ours on the TransformerLens model, where both compute the same.

| captum | ours |
| --- | --- |
| LayerGradientXActivation at the embedding | readout="dot" |
| IntegratedGradients of the embeddings from zero, riemann_middle, n steps | the same with StraightPath("zero", n) |

captum's usual quadrature (Gauss–Legendre) and LayerIntegratedGradients (whose zero is the embedding of token 0) are
other methods.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from architectures import IDS, TARGET, loaded
from torch import Tensor

import lens_scopes as ls

captum = pytest.importorskip("captum.attr")

OBJECTIVES: dict[str, tuple[Any, Callable[[Tensor], Tensor]]] = {
    "logit": (ls.Semantic(TARGET), lambda logits: logits),
    "log-probability": (ls.LogProb(TARGET), lambda logits: logits.log_softmax(-1)),
}


@pytest.fixture(scope="module", params=["GPT-2", "LLaMA", "Gemma 3"])
def both(request: pytest.FixtureRequest) -> Iterator[tuple[Any, Any]]:
    """One random model twice: in Transformers and in TransformerLens."""
    with loaded(request.param) as (pretrained, models):
        # captum differentiates by the embedding's output, which has a gradient only where its weights have one.
        yield pretrained.requires_grad_(True), models["hooked"]


def agrees(found: Tensor, expected: Tensor) -> None:
    largest = float(expected.abs().max())
    assert largest > 1e-3
    assert float((found - expected).abs().max()) <= 1e-4 * largest


@pytest.mark.parametrize("output", OBJECTIVES)
def test_gradient_times_activation_is_the_dot_readout(both: tuple[Any, Any], output: str) -> None:
    pretrained, model = both
    objective, of_logits = OBJECTIVES[output]

    def forward(ids: Tensor) -> Tensor:
        return of_logits(pretrained(ids, use_cache=False).logits[:, -1])

    method = captum.LayerGradientXActivation(forward, pretrained.get_input_embeddings())
    expected = method.attribute(torch.tensor([IDS]), target=TARGET)[0].sum(-1).detach()
    agrees(ls.attribute(model, IDS, objective, readout="dot").scores, expected)


@pytest.mark.parametrize("steps", [5, 16])
@pytest.mark.parametrize("output", OBJECTIVES)
def test_integrated_gradients_are_the_dot_readout_along_the_path(
    both: tuple[Any, Any], output: str, steps: int
) -> None:
    pretrained, model = both
    objective, of_logits = OBJECTIVES[output]
    embeddings = pretrained.get_input_embeddings()(torch.tensor([IDS])).detach()

    def forward(inputs: Tensor) -> Tensor:
        return of_logits(pretrained(inputs_embeds=inputs, use_cache=False).logits[:, -1])

    expected = captum.IntegratedGradients(forward).attribute(
        embeddings, torch.zeros_like(embeddings), target=TARGET, n_steps=steps, method="riemann_middle"
    )
    path = ls.StraightPath("zero", steps)
    agrees(ls.attribute(model, IDS, objective, readout="dot", points=path).scores, expected[0].sum(-1))
