"""Heads against literal norms, direct routes at every layer, and prompts of the same tokens in another order."""

from typing import Any

import pytest
import reference
import torch
from tiny_models import llama_like
from torch import Tensor
from torch.testing import assert_close

import lens_scopes as ls
from lens_scopes.prompts.prompt import Prompt

IDS = [3, 7, 1, 7, 4, 9, 2]
TARGET = 5
CLOSE: Any = {"rtol": 1e-8, "atol": 1e-11}


def logit_direction(model: Any) -> Tensor:
    """∂logit/∂y of the target."""
    y = reference.state_of(model, IDS).requires_grad_(True)
    (direction,) = torch.autograd.grad(reference.logits_from_final_state(model, y)[TARGET], y)
    return direction


def weighted_directions(model: Any, rank: int | None) -> tuple[Tensor, Tensor]:
    """One direction of weight one for the logit; the leading terms of F for a rank."""
    if rank is None:
        direction = logit_direction(model)
        return direction[None], direction.new_ones(1)
    values, columns = torch.linalg.eigh(reference.fisher_matrix(model, reference.state_of(model, IDS)))
    return columns.T.flip(0)[:rank], values.flip(0)[:rank]


@pytest.mark.parametrize("rank", [None, 1, 3])
def test_norms_are_those_of_the_gradients_at_every_head(tiny: Any, rank: int | None) -> None:
    found = ls.inspect_heads(tiny, IDS, ls.Semantic(TARGET) if rank is None else ls.Fisher(rank), verify=0)
    vectors, weights = weighted_directions(tiny, rank)
    column = iter(found.to_pandas()["norm"])
    for layer in range(tiny.cfg.n_layers):
        J = reference.jacobian(tiny, IDS, site_name=f"blocks.{layer}.attn.hook_z")
        squares = torch.einsum("ko,tohd->kthd", vectors, J).square()
        by_position = torch.einsum("k,kthd->ht", weights, squares).sqrt()
        assert_close(found.norms[layer], by_position, **CLOSE)
        for head in range(tiny.cfg.n_heads):
            whole = torch.einsum("k,ktd->", weights, squares[:, :, head]).sqrt()
            assert next(column) == pytest.approx(float(whole), rel=1e-8, abs=1e-11)


def direct_change(model: Any, layer: int, head: int, baseline: str) -> Tensor:
    """Change of y when a head's output, at the last position, changes the residual stream and all scales stay."""
    z = reference.site_activation(model, IDS, f"blocks.{layer}.attn.hook_z")[:, head]
    moved = (z.mean(0) if baseline == "mean" else torch.zeros_like(z[0])) - z[-1]
    change = moved @ model.blocks[layer].attn.W_O[head]

    def scaled(change: Tensor, norm: Any, name: str) -> Tensor:
        if model.cfg.normalization_type == "LN":
            change = change - change.mean()
        return change / reference.site_activation(model, IDS, f"{name}.hook_scale")[-1] * norm.w

    if model.cfg.use_normalization_before_and_after:
        change = scaled(change, model.blocks[layer].ln1_post, f"blocks.{layer}.ln1_post")
    return change if model.cfg.normalization_type is None else scaled(change, model.ln_final, "ln_final")


@pytest.mark.parametrize("baseline", ["zero", "mean"])
@pytest.mark.parametrize("rank", [None, 3])
def test_direct_effects_skip_all_later_layers(tiny: Any, rank: int | None, baseline: Any) -> None:
    objective = ls.Semantic(TARGET) if rank is None else ls.Fisher(rank)
    found = ls.inspect_heads(tiny, IDS, objective, baseline=baseline, verify=0)
    vectors, weights = weighted_directions(tiny, rank)
    for layer in range(tiny.cfg.n_layers):
        for head in range(tiny.cfg.n_heads):
            amounts = vectors @ direct_change(tiny, layer, head, baseline)
            expected = amounts[0] if rank is None else 0.5 * (weights * amounts**2).sum()
            assert_close(found.direct_effect[layer, head], expected, **CLOSE)
    assert not torch.allclose(found.direct_effect[:-1], found.effect[:-1], rtol=0.05), "later layers do carry some"


def state_with_heads_of(model: Any, ids: list[int], layer: int, head: int) -> Tensor:
    """y when one head's output is what it is in another prompt."""
    name = f"blocks.{layer}.attn.hook_z"
    activation = reference.site_activation(model, IDS, name)
    activation[:, head] = reference.site_activation(model, ids, name)[:, head]
    return reference.state_from_site(model, IDS, -1, name, activation)


@pytest.mark.parametrize("special", [(0,), (0, 3)])
def test_a_shuffle_runs_the_other_tokens_in_another_order(special: tuple[int, ...]) -> None:
    """Special tokens stay in place, and the permutation is that of PyTorch's generator with the seed."""
    model, seed = llama_like(), 3
    flags = tuple(index in special for index in range(len(IDS)))
    prompt = Prompt(None, tuple(IDS), tuple(map(str, IDS)), None, flags, "ids")
    movable = [index for index in range(len(IDS)) if index not in special]
    order = torch.randperm(len(movable), generator=torch.Generator().manual_seed(seed)).tolist()
    other = list(IDS)
    for place, source in zip(movable, order, strict=True):
        other[place] = IDS[movable[source]]
    assert sum(one != two for one, two in zip(IDS, other, strict=True)) > 2, "more than a swap"

    found = ls.inspect_heads(model, prompt, ls.Semantic(TARGET), baseline="shuffle", seed=seed)
    before = reference.logits_from_final_state(model, reference.state_of(model, IDS))[TARGET]
    by_head = [item for item in found.ablations if item.head is not None]
    assert len(by_head) == model.cfg.n_layers * model.cfg.n_heads
    for item in by_head:
        assert item.head is not None
        y = state_with_heads_of(model, other, item.layer, item.head)
        after = reference.logits_from_final_state(model, y)[TARGET]
        assert item.actual == pytest.approx(float(after - before), rel=1e-8, abs=1e-11)
