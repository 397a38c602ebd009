"""Fisher Scope at the attention values, balanced: against one derivative at a time, and laws."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import reference
import torch
from tiny_models import TINY_MODELS, gemma_like
from torch import Tensor
from torch.testing import assert_close

import lens_scopes as ls
from lens_scopes.errors import ObjectiveError
from lens_scopes.evaluation.methods.names import as_method
from lens_scopes.scopes.spec import Spec

IDS = [3, 17, 0, 8, 22, 3]
EXACT: Any = {"rtol": 1e-7, "atol": 1e-14}


def amplitudes(model: Any, terms: Sequence[tuple[float, Tensor]], share: float) -> Tensor:
    """a[layer, pos] by one backward pass of the whole model a direction, in which patterns and values pass on `share`
    of the gradient of their product."""
    values: dict[str, Tensor] = {}
    final: list[Tensor] = []

    def scale(activation: Tensor, hook: Any) -> Tensor:
        if hook.name.endswith("hook_v"):
            activation.retain_grad()
            values[hook.name] = activation
        return activation.detach() + share * (activation - activation.detach())

    hooks = [(lambda name: name.endswith(("hook_v", "hook_pattern")), scale)]
    squares = torch.zeros(model.cfg.n_layers, len(IDS), dtype=torch.float64)
    for weight, direction in terms:
        final.clear()
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        model.run_with_hooks(
            torch.tensor([IDS]), fwd_hooks=[*hooks, ("unembed.hook_in", lambda y, hook: final.append(y))]
        )
        (final[0][0, -1] @ direction).backward()
        for layer in range(model.cfg.n_layers):
            v = values[f"blocks.{layer}.attn.hook_v"]
            assert v.grad is not None
            for t in range(len(IDS)):
                for head in range(v.shape[2]):
                    squares[layer, t] += weight * float(v.grad[0, t, head].norm() * v.detach()[0, t, head].norm()) ** 2
        model.zero_grad()
    return squares.sqrt()


@pytest.mark.parametrize("name", TINY_MODELS)
@pytest.mark.parametrize("rank", [1, 3])
def test_against_one_derivative_at_a_time(name: str, rank: int) -> None:
    model = TINY_MODELS[name]()
    F = reference.fisher_matrix(model, reference.state_of(model, IDS))
    eigenvalues, eigenvectors = torch.linalg.eigh(F)
    terms = [(float(eigenvalues[-i]), eigenvectors[:, -i]) for i in range(1, rank + 1)]
    steep, even = (amplitudes(model, terms, share).T.tolist() for share in (1.0, 0.5))
    expected = [
        (sum(a) ** 2 * sum(math.sqrt(each) for each in b) ** 2) ** (1 / 3) for a, b in zip(steep, even, strict=True)
    ]
    scores = ls.attribute(model, IDS, ls.BalancedValues(rank)).scores
    assert_close(scores, torch.tensor(expected, dtype=torch.float64), **EXACT)
    assert not any(module._forward_hooks for module in model.modules())


def test_its_steep_part_is_fisher_at_the_values() -> None:
    """score³ / A² is B, and B is at least the sum over layers of b, for roots of several layers have cross terms."""
    model = gemma_like()
    scores = ls.attribute(model, IDS, ls.BalancedValues(2)).scores
    steep = ls.attribute(model, IDS, ls.FisherAtValues(2)).scores
    ruled = ls.attribute(model, IDS, ls.FisherAtValues(2), through=ls.Rules("half-av")).scores
    even = scores**3 / steep**2
    assert bool((even >= ruled * (1 - 1e-9)).all()) and bool((even <= model.cfg.n_layers * ruled * (1 + 1e-9)).all())


def test_it_is_asked_for_in_text() -> None:
    assert Spec.parse("balanced-values@3").objective == ls.BalancedValues(3)
    assert as_method("balanced-values@3").name == "balanced-values@3"


@pytest.mark.parametrize("rank", [0, -1, 1.5, "trace", "two", None, True])
def test_what_is_no_rank_is_refused(rank: Any) -> None:
    with pytest.raises(ObjectiveError, match="rank"):
        ls.BalancedValues(rank)


def test_a_rank_above_the_width_is_refused() -> None:
    model = gemma_like()
    with pytest.raises(ObjectiveError, match="d_model"):
        ls.attribute(model, IDS, ls.BalancedValues(model.cfg.d_model + 1))
