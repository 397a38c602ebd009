"""Scores over heads and layers against literal ones: Fisher at values, the relative readout, the error of a total."""

from typing import Any

import pytest
import reference
import torch
from tiny_models import gemma_like, llama_like
from torch import Tensor
from torch.testing import assert_close

import lens_scopes as ls
from lens_scopes.engine.scoring import total_over_sites

IDS = [1, 17, 0, 8, 22, 3]
TOKEN = 5

# Fisher at values


@pytest.mark.parametrize("rank", [1, 3, "trace"])
def test_fisher_at_values_is_the_literal_sum(tiny: Any, rank: Any) -> None:
    expected = reference.fisher_at_values_scores(tiny, IDS, None if rank == "trace" else rank)
    assert_close(ls.attribute(tiny, IDS, ls.FisherAtValues(rank)).scores, expected, rtol=1e-8, atol=1e-12)


def test_fisher_at_values_with_an_earlier_position() -> None:
    expected = reference.fisher_at_values_scores(llama_like(), IDS, 2, position=3)
    found = ls.attribute(llama_like(), IDS, ls.FisherAtValues(2), position=3).scores
    assert_close(found, expected, rtol=1e-8, atol=1e-12)


def test_heads_of_values_are_those_that_queries_share() -> None:
    """Four query heads read two key–value heads here: the gradient at one is the sum over its readers."""
    model = llama_like()
    name = "blocks.1.attn.hook_v"
    scores = ls.attribute(model, IDS, ls.Semantic(TOKEN), sites=name, readout="relative").sites[name]
    assert scores.shape == (len(IDS), 2)
    J, values = reference.jacobian(model, IDS, site_name=name), reference.site_activation(model, IDS, name)
    gradient = torch.einsum("o,tohd->thd", model.W_U[:, TOKEN], J)
    assert_close(scores, gradient.norm(dim=-1) * values.norm(dim=-1), rtol=1e-8, atol=1e-12)
    assert scores[:, 0].ne(scores[:, 1]).all()


@pytest.mark.parametrize("site", ["hook_q", "hook_k", "hook_v", "hook_z"])
def test_relative_takes_the_norm_of_one_head_at_a_time(tiny: Any, site: str) -> None:
    name = f"blocks.1.attn.{site}"
    direction = reference_direction(tiny)
    J, own = reference.jacobian(tiny, IDS, site_name=name), reference.site_activation(tiny, IDS, name)
    expected = torch.zeros(own.shape[:2], dtype=own.dtype)
    for token in range(own.shape[0]):
        for head in range(own.shape[1]):
            expected[token, head] = (direction @ J[token, :, head]).norm() * own[token, head].norm()
    found = ls.attribute(tiny, IDS, ls.Semantic(TOKEN), sites=name, readout="relative").sites[name]
    assert_close(found, expected, rtol=1e-8, atol=1e-12)


def reference_direction(model: Any) -> Tensor:
    """∂logit/∂y of the token."""
    y = reference.state_of(model, IDS).requires_grad_(True)
    (direction,) = torch.autograd.grad(reference.logits_from_final_state(model, y)[TOKEN], y)
    return direction


# The error of a total


def test_the_error_of_a_total_is_its_slope_along_the_errors() -> None:
    """Where all scores move by their errors at once, as the same draws make them, the total moves by its own."""
    generator = torch.Generator().manual_seed(0)

    def positive(*shape: int) -> Tensor:
        return 0.5 + torch.rand(*shape, generator=generator, dtype=torch.float64)

    scores, errors = [positive(4, 3), positive(4, 2), positive(4)], [positive(4, 3), positive(4, 2), positive(4)]
    total, error = total_over_sites(list(zip(scores, errors, strict=True)), squared=True)
    assert error is not None
    step = 1e-6
    above, below = (
        total_over_sites([(s + sign * step * e, None) for s, e in zip(scores, errors, strict=True)], squared=True)[0]
        for sign in (1, -1)
    )
    assert_close(error, (above - below) / (2 * step), rtol=1e-8, atol=0)
    literal = [sum(float(s[token].sum()) ** 0.5 for s in scores) for token in range(4)]
    assert total.tolist() == pytest.approx(literal, rel=1e-12)


def test_the_error_of_one_layer_is_that_of_its_draws() -> None:
    """One layer with one head has no errors to add up: what is claimed is the spread, not a bound of it."""
    model, ids = gemma_like(), IDS[:3]
    draws = [
        ls.attribute(model, ids, ls.Fisher("trace", samples=24, exact=0, seed=seed), score_site="blocks.2.attn.hook_v")
        for seed in range(60)
    ]
    spread = torch.stack([item.scores for item in draws]).std(0)
    errors = [item.standard_error for item in draws if item.standard_error is not None]
    claimed = torch.stack(errors).square().mean(0).sqrt()
    assert len(errors) == len(draws) and bool((spread > 0).any())
    assert_close(claimed, spread, rtol=0.4, atol=1e-12)
