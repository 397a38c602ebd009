"""Laws of F that only tight cases show: the bound of what is left out, the tolerance promised, and weights that change
while norms and copies of them are remembered."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tiny_models import gpt2_like
from torch import Tensor
from torch.testing import assert_close

import lens_scopes as ls
from lens_scopes.engine import final_state, fisher
from lens_scopes.engine.final_state import FinalState, Unembedding, unembedding
from lens_scopes.engine.fisher import PredictiveGeometry

D_MODEL = 12
PROMISE = 1e-3  # ‖F u − λ u‖ / λ_1, as documented


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def literal_matrix(state: FinalState) -> Tensor:
    """F = Σ_j p_j (w_j − w̄)(w_j − w̄)ᵀ, for models without a soft-cap."""
    head = state.unembedding
    W = head.W_U.double()
    z = W.T @ state.y.double() + (0 if head.b_U is None else head.b_U.double())
    p = z.softmax(-1)
    centred = W - (W @ p)[:, None]
    return (centred * p) @ centred.T


# What is left out


def two_sided_state(rare: float, d_vocab: int = 4000, common: int = 10) -> FinalState:
    """Few tokens at +w, and all others, of a probability of `rare` together, at −w: the farthest they can be."""
    direction = normal(D_MODEL, seed=1)
    sides = torch.full((d_vocab,), -1.0, dtype=torch.float64)
    sides[:common] = 1.0
    p = torch.full((d_vocab,), rare / (d_vocab - common), dtype=torch.float64)
    p[:common] = (1 - rare) / common
    y = torch.zeros(D_MODEL, dtype=torch.float64)  # W_U plays no part in p: the bias alone makes it
    return FinalState(y, Unembedding(direction[:, None] * sides, p.log(), None))


@pytest.mark.parametrize("rare", [1e-6, 1e-3, 1e-2])
def test_the_bound_of_what_is_left_out_is_reached(rare: float) -> None:
    """‖F − F_S‖ = (1 − mass left out) × the bound where tokens lie opposite: with a smaller one it would be none."""
    state = two_sided_state(rare)
    geometry = PredictiveGeometry(state)
    allowed = 1.001 * rare * 4 * state.unembedding.largest_norm**2
    ids, bound = geometry._support(allowed)
    assert ids is not None and len(ids) == 10 and bound <= allowed
    kept = geometry._product(torch.eye(D_MODEL, dtype=torch.float64), state.unembedding.blocks_of(ids))
    difference = float(torch.linalg.eigvalsh(literal_matrix(state) - kept).max())
    assert (1 - 1.1 * rare) * bound <= difference <= bound * (1 + 1e-9)


@pytest.mark.parametrize("rare", [1e-6, 1e-3, 1e-2])
def test_no_token_is_left_out_that_could_move_more_than_allowed(rare: float) -> None:
    state = two_sided_state(rare)
    ids, bound = PredictiveGeometry(state)._support(0.999 * rare * 4 * state.unembedding.largest_norm**2)
    assert ids is None and bound == 0


# The tolerance, at the limits as they are


def large_state(sharpness: float, decay: float, seed: int, dtype: torch.dtype = torch.float64) -> FinalState:
    """20,000 tokens, too many to keep whole, whose columns spread over 64 axes of decaying size."""
    d_model = 64
    W = normal(d_model, 20_000, seed=seed) * torch.arange(1, d_model + 1, dtype=torch.float64)[:, None] ** -decay
    y = sharpness * normal(d_model, seed=seed + 100)
    return FinalState(y.to(dtype), Unembedding(W.to(dtype), None, None))


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize(("sharpness", "decay"), [(0.05, 0.0), (0.2, 0.3), (1.0, 0.6), (2.0, 0.6), (2.0, 1.0)])
@pytest.mark.parametrize("seed", [0, 1])
def test_leading_terms_are_as_near_as_promised(rank: int, sharpness: float, decay: float, seed: int) -> None:
    state = large_state(sharpness, decay, seed)
    terms = PredictiveGeometry(state).leading(rank)
    F = literal_matrix(state)
    largest = float(torch.linalg.eigvalsh(F).max())
    errors = (terms.vectors @ F - terms.eigenvalues[:, None] * terms.vectors).norm(dim=-1) / largest
    assert float(errors.max()) <= PROMISE and terms.residual <= PROMISE
    assert float(errors.max()) <= terms.residual + 1e-12, "what is reported covers what is left"


def test_the_first_guess_alone_would_not_be_near_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test above would hold without any refinement."""
    state = large_state(0.2, 0.3, 0)
    F = literal_matrix(state)
    monkeypatch.setattr(fisher, "TOLERANCE", 1.0)
    rough = PredictiveGeometry(state).leading(1)
    error = (rough.vectors @ F - rough.eigenvalues[:, None] * rough.vectors).norm() / rough.eigenvalues[0]
    assert float(error) > 5 * PROMISE


# Weights that change

CHANGES: dict[str, Callable[[Tensor], Any]] = {
    "counted": lambda weight: weight[:, 1].mul_(50),
    "counted, of one number": lambda weight: weight[5, 1].fill_(500),
    "not counted": lambda weight: weight.data[:, 1].mul_(50),
}


@pytest.mark.parametrize("numbers", [1, 2**20], ids=["one number of each column", "all numbers"])
@pytest.mark.parametrize("change", CHANGES)
def test_the_largest_norm_follows_a_column_that_changes(
    change: str, numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(final_state, "_CACHED_NUMBERS", numbers)
    weight = normal(D_MODEL, 4000, seed=3)
    before = Unembedding(weight, None, None).largest_norm
    CHANGES[change](weight)
    after = Unembedding(weight, None, None).largest_norm
    assert after == pytest.approx(float(weight.norm(dim=0).max()), rel=1e-12) and after > 10 * before


def test_the_largest_norm_is_of_these_weights_and_not_of_others_like_them() -> None:
    weight = normal(D_MODEL, 4000, seed=4)
    for column in range(5):  # each at the place of the one before, which is gone
        changed = weight.clone()
        changed[:, column] *= 50 + column
        assert Unembedding(changed, None, None).largest_norm == pytest.approx(float(changed.norm(dim=0).max()))
        del changed


@pytest.mark.parametrize("change", CHANGES)
def test_copies_in_full_precision_follow_the_weights(change: str) -> None:
    """Weights in bfloat16 are upcast once and remembered; scores must be those of the weights as they are now."""
    model = gpt2_like(dtype=torch.bfloat16)
    assert unembedding(model).W_U.dtype == torch.float32
    CHANGES[change](model.unembed.W_U)
    assert torch.equal(unembedding(model).W_U, model.W_U.float())
    assert torch.equal(unembedding(model).W_U, unembedding(model).W_U) and model.unembed.W_U.dtype == torch.bfloat16


def test_scores_follow_the_weights_too() -> None:
    """After a column has grown 50-fold, scores are those of a model that always had it."""
    ids, scores = [3, 7, 1, 4], []
    for late in (True, False):
        model = gpt2_like()
        if late:
            ls.attribute(model, ids, ls.Fisher())
        model.unembed.W_U.data[:, 1] *= 50
        scores.append(ls.attribute(model, ids, ls.Fisher()).scores)
    assert_close(*scores, rtol=0, atol=0)
