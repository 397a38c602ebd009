"""The Fisher information of a prediction: against the literal matrix, on each of its ways of computing it."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import reference
import torch
from tiny_models import TINY_MODELS, gemma_like, llama_like
from torch import Tensor
from torch.testing import assert_close

import lens_scopes as ls
from lens_scopes.engine import fisher
from lens_scopes.engine.backward import trace
from lens_scopes.engine.final_state import FinalState, Unembedding
from lens_scopes.engine.fisher import PredictiveGeometry
from lens_scopes.engine.model import ScopedModel
from lens_scopes.engine.scoring import score

D_MODEL, D_VOCAB = 12, 60
IDS = [3, 17, 0, 8, 22, 3]


def random_state(
    *,
    sharpness: float = 1.0,
    soft_cap: float | None = None,
    bias: bool = False,
    d_model: int = D_MODEL,
    d_vocab: int = D_VOCAB,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> FinalState:
    """A random final state; the larger its sharpness, the fewer tokens hold the mass."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    head = Unembedding(normal(d_model, d_vocab), normal(d_vocab) if bias else None, soft_cap)
    return FinalState(sharpness * normal(d_model), head)


def literal_matrix(state: FinalState) -> Tensor:
    """F = W_U D (diag p − p pᵀ) D W_Uᵀ in float64."""
    head = state.unembedding
    W, y = head.W_U.double(), state.y.double()
    z = W.T @ y + (0 if head.b_U is None else head.b_U.double())
    slope = torch.ones_like(z) if head.soft_cap is None else 1 - torch.tanh(z / head.soft_cap) ** 2
    logits = z if head.soft_cap is None else head.soft_cap * torch.tanh(z / head.soft_cap)
    p = logits.softmax(-1)
    return (W * slope) @ (p.diag() - torch.outer(p, p)) @ (W * slope).T


def literal_terms(state: FinalState) -> tuple[Tensor, Tensor]:
    """λ largest first, and u as rows."""
    values, columns = torch.linalg.eigh(literal_matrix(state))
    return values.flip(0), columns.T.flip(0)


STATES: dict[str, dict[str, Any]] = {
    "plain": {},
    "bias": {"bias": True},
    "soft-cap": {"soft_cap": 3.0},
    "soft-cap and bias": {"soft_cap": 3.0, "bias": True, "sharpness": 2.0},
    "flat": {"sharpness": 0.05},
    "sharp": {"sharpness": 4.0},
    "fewer tokens than d_model": {"d_vocab": 7},
}


@pytest.fixture(params=STATES)
def state(request: pytest.FixtureRequest) -> FinalState:
    return random_state(**STATES[request.param])


def limits(
    monkeypatch: pytest.MonkeyPatch,
    *,
    dense: int = 256,
    keep_all: int = 4096,
    keep_most: int = 8192,
    oversample: int = 8,
    tolerance: float = 5e-4,
) -> None:
    monkeypatch.setattr(fisher, "DENSE_LIMIT", dense)
    monkeypatch.setattr(fisher, "KEEP_ALL", keep_all)
    monkeypatch.setattr(fisher, "KEEP_MOST", keep_most)
    monkeypatch.setattr(fisher, "OVERSAMPLE", oversample)
    monkeypatch.setattr(fisher, "TOLERANCE", tolerance)
    monkeypatch.setattr(fisher, "OMITTED_TOLERANCE", tolerance)
    monkeypatch.setattr(fisher, "MAX_PASSES", 20 if tolerance > 1e-8 else 5000)


# The matrix


def test_products_equal_those_with_the_literal_matrix(state: FinalState) -> None:
    F = PredictiveGeometry(state).product(torch.eye(D_MODEL, dtype=torch.float64))
    expected = literal_matrix(state)
    assert_close(F, expected, rtol=1e-10, atol=1e-13 * float(expected.abs().max()))
    some = random_state(seed=5).unembedding.W_U.T[:3]
    assert_close(PredictiveGeometry(state).product(some), some @ expected, rtol=1e-9, atol=1e-12)


def test_the_matrix_is_symmetric_and_positive_semidefinite(state: FinalState) -> None:
    F = PredictiveGeometry(state).product(torch.eye(D_MODEL, dtype=torch.float64))
    assert_close(F, F.T, rtol=0, atol=1e-13 * float(F.abs().max()))
    assert float(torch.linalg.eigvalsh(F).min()) > -1e-12 * float(F.abs().max())
    assert bool((PredictiveGeometry(state).leading(D_MODEL).eigenvalues >= 0).all())


def test_the_matrix_is_the_hessian_of_the_divergence(state: FinalState) -> None:
    head, logits = state.unembedding, state.logits
    hessian = torch.autograd.functional.hessian(
        lambda y: reference.kl(logits.softmax(-1), head.logits(y).softmax(-1)), state.y
    )
    F = PredictiveGeometry(state).product(torch.eye(D_MODEL, dtype=torch.float64))
    assert_close(F, hessian, rtol=1e-8, atol=1e-10 * float(F.abs().max()))


def test_the_trace_is_that_of_the_literal_matrix(state: FinalState) -> None:
    geometry = PredictiveGeometry(state)
    assert geometry.trace() == pytest.approx(float(literal_matrix(state).trace()), rel=1e-11)
    assert float(geometry.leading(D_MODEL).eigenvalues.sum()) == pytest.approx(geometry.trace(), rel=1e-11)


def test_a_constant_added_to_every_logit_changes_nothing() -> None:
    plain = random_state(bias=True)
    assert plain.unembedding.b_U is not None
    moved = FinalState(plain.y, Unembedding(plain.unembedding.W_U, plain.unembedding.b_U + 7.0, None))
    identity = torch.eye(D_MODEL, dtype=torch.float64)
    assert_close(
        PredictiveGeometry(moved).product(identity), PredictiveGeometry(plain).product(identity), rtol=1e-9, atol=1e-12
    )


# Its leading terms


# Each way of computing them: the limits that force it. A rank of a quarter of d_model and above is always dense.
WAYS: dict[str, dict[str, Any]] = {
    "dense, all tokens": {},
    "dense on kept tokens, refined": {"keep_all": 1, "oversample": 1},
    "Krylov, all tokens": {"dense": 0},
    "Krylov on kept tokens, refined": {"dense": 0, "keep_all": 1, "oversample": 0},
    "two kept tokens, refined": {"keep_all": 1, "keep_most": 2, "oversample": 0},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rank", [1, 2, 3, 7, D_MODEL])
def test_every_way_gives_the_leading_terms(
    state: FinalState, way: str, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits(monkeypatch, **WAYS[way], tolerance=1e-10)
    terms = PredictiveGeometry(state).leading(rank)
    assert terms.eigenvalues.shape == (rank,) and terms.vectors.shape == (rank, D_MODEL)
    expected = literal_terms(state)[0][:rank].clamp_min(0)
    largest = float(expected[0])
    assert_close(terms.eigenvalues, expected, rtol=0, atol=1e-6 * largest)
    assert bool((terms.eigenvalues.diff() <= 1e-12 * largest).all()), "largest first"

    solid = terms.eigenvalues > 1e-8 * largest
    u = terms.vectors[solid]
    assert_close(u @ u.T, torch.eye(len(u), dtype=u.dtype), rtol=0, atol=1e-7)
    F = literal_matrix(state)
    assert_close(u @ F, terms.eigenvalues[solid, None] * u, rtol=0, atol=1e-4 * largest)


def test_refined_terms_meet_the_tolerance_in_few_passes(state: FinalState, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a large vocabulary is treated: a rough start, then passes over the vocabulary until F u = λ u."""
    limits(monkeypatch, keep_all=1, keep_most=10, oversample=4)
    passes: list[int] = []
    product = PredictiveGeometry._product
    monkeypatch.setattr(
        PredictiveGeometry, "_product", lambda self, v, blocks: (passes.append(len(v)), product(self, v, blocks))[1]
    )
    terms = PredictiveGeometry(state).leading(2)
    assert 1 <= len(passes) <= 20 and passes[0] == 2 + fisher.CARRY and max(passes[1:], default=1) <= 3
    residual = (terms.vectors @ literal_matrix(state) - terms.eigenvalues[:, None] * terms.vectors).norm(dim=-1)
    largest = float(terms.eigenvalues[0])
    assert float(residual.max()) <= (terms.residual + 1e-12) * largest and terms.residual <= 1e-3
    expected = literal_terms(state)[0][:2]
    assert bool((terms.eigenvalues <= expected * (1 + 1e-12)).all()), "Ritz values come from below"
    assert_close(terms.eigenvalues, expected, rtol=0, atol=1e-3 * float(expected[0]))


@pytest.mark.parametrize("share", [1e-4, 1e-2, 0.3])
@pytest.mark.parametrize("settings", [{}, {"soft_cap": 30.0, "bias": True}], ids=str)
def test_tokens_that_cannot_matter_are_left_out(share: float, settings: dict[str, Any]) -> None:
    """F of the tokens kept differs from F by at most the bound, as an operator."""
    state = random_state(sharpness=3.0, d_vocab=4000, **settings)
    largest = float(torch.linalg.eigvalsh(literal_matrix_of_many(state)).max())
    geometry = PredictiveGeometry(state)
    ids, bound = geometry._support(share * largest)
    assert ids is not None and len(ids) < 2000 and bound <= share * largest
    kept = geometry._product(torch.eye(D_MODEL, dtype=torch.float64), state.unembedding.blocks_of(ids))
    difference = torch.linalg.eigvalsh(literal_matrix_of_many(state) - kept)
    assert -1e-12 * largest < float(difference.min()) and float(difference.max()) <= bound + 1e-12 * largest
    everything, nothing = PredictiveGeometry(random_state(sharpness=0.01, d_vocab=4000))._support(1e-3 * largest)
    assert everything is None and nothing == 0


def literal_matrix_of_many(state: FinalState) -> Tensor:
    """F without a product of the size d_vocab × d_vocab."""
    rows = state.logit_gradients(torch.arange(state.unembedding.d_vocab))
    p = state.probabilities
    rows = rows - p @ rows
    return rows.T @ (p[:, None] * rows)


@pytest.mark.parametrize("settings", [{}, {"soft_cap": 30.0, "bias": True}], ids=str)
def test_leading_terms_from_a_share_of_the_vocabulary(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    limits(monkeypatch, keep_all=1, keep_most=40)
    for seed in range(5):
        state = random_state(sharpness=3.0, d_vocab=4000, seed=seed, **settings)
        F = literal_matrix_of_many(state)
        terms = PredictiveGeometry(state).leading(2)
        residual = (terms.vectors @ F - terms.eigenvalues[:, None] * terms.vectors).norm(dim=-1)
        assert float(residual.max()) <= (terms.residual + 1e-12) * float(terms.eigenvalues[0])
        assert terms.residual <= 1e-3


def test_the_largest_norm_is_that_of_these_weights() -> None:
    one, other = random_state().unembedding, random_state(seed=1).unembedding
    for head in (one, other, one):
        assert head.largest_norm == pytest.approx(float(head.W_U.norm(dim=0).max()))


def test_many_terms_of_a_large_vocabulary_are_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    limits(monkeypatch, keep_all=1, keep_most=5)
    state = random_state(sharpness=0.05)
    columns: list[int] = []
    product = PredictiveGeometry.product
    monkeypatch.setattr(PredictiveGeometry, "product", lambda self, v: (columns.append(len(v)), product(self, v))[1])
    PredictiveGeometry(state).leading(3)
    assert columns == [D_MODEL]


def test_leading_terms_repeat_and_do_not_touch_the_global_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    limits(monkeypatch, dense=0)
    before = torch.get_rng_state()
    one, two = (PredictiveGeometry(random_state()).leading(2) for _ in range(2))
    assert torch.equal(one.vectors, two.vectors) and torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("rank", [1, 2, D_MODEL])
def test_a_one_token_distribution_has_no_information(way: str, rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    limits(monkeypatch, **WAYS[way])
    plain = random_state()
    bias = torch.zeros(D_VOCAB, dtype=torch.float64)
    bias[7] = 1e4
    geometry = PredictiveGeometry(FinalState(plain.y, Unembedding(plain.unembedding.W_U, bias, None)))
    terms = geometry.leading(rank)
    assert bool((terms.eigenvalues.abs() < 1e-12).all()) and bool(terms.vectors.isfinite().all())
    assert geometry.trace() < 1e-12
    assert bool((geometry.product(plain.y[None]).abs() < 1e-12).all())


# Tokens kept


@pytest.mark.parametrize("sharpness", [0.05, 1.0, 2.0, 4.0])
def test_tokens_left_out_hold_a_share_of_what_the_top_token_leaves(
    sharpness: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits(monkeypatch, keep_all=1)
    state = random_state(sharpness=sharpness, d_vocab=2000)
    p = state.probabilities.sort(descending=True).values
    for share in (1e-1, 1e-4):
        geometry = PredictiveGeometry(state, omitted=share)
        n_probable = len(geometry.token_ids)
        assert_close(state.probabilities[geometry.token_ids], p[:n_probable], rtol=0, atol=0)
        allowed = share * float(p[1:].sum())
        assert float(p[n_probable:].sum()) <= allowed
        assert n_probable == 2 or float(p[n_probable - 1 :].sum()) > allowed, "one token fewer would leave out too much"
        assert n_probable >= 2 and (n_probable < 2000 or share < 0.1)


def test_a_confident_prediction_keeps_its_alternatives(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 − p_max = 1e-9 in all: a share of the whole mass would leave them all out and F with them."""
    limits(monkeypatch, keep_all=1)
    plain = random_state()
    bias = torch.zeros(D_VOCAB, dtype=torch.float64)
    bias[7] = -float(plain.pre_logits[7]) + float(plain.pre_logits.logsumexp(-1)) + 20.7
    state = FinalState(plain.y, Unembedding(plain.unembedding.W_U, bias, None))
    assert 1e-10 < 1 - float(state.probabilities[7]) < 1e-8
    terms = PredictiveGeometry(state).leading(3)
    assert_close(terms.eigenvalues, literal_terms(state)[0][:3], rtol=1e-3, atol=0)


def test_small_vocabularies_are_never_truncated(state: FinalState) -> None:
    geometry = PredictiveGeometry(state)
    assert len(geometry.token_ids) == len(state.probabilities)


# Precision


def test_low_precision_weights_are_read_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 columns give what the same numbers in float32 give, also read a few at a time."""
    from lens_scopes.engine import final_state

    low = random_state(dtype=torch.bfloat16, soft_cap=3.0, bias=True, sharpness=0.5)
    head = low.unembedding
    assert head.b_U is not None
    y = low.y.float()
    upcast = FinalState(y, Unembedding(head.W_U.float(), head.b_U.float(), head.soft_cap))
    monkeypatch.setattr(final_state, "_CHUNK_COLUMNS", 7)
    state = FinalState(y, head)
    assert state.logits.dtype == torch.float32
    assert_close(state.logits, upcast.logits, rtol=1e-6, atol=1e-6)
    one, two = PredictiveGeometry(state), PredictiveGeometry(upcast)
    assert_close(one.leading(3).eigenvalues, two.leading(3).eigenvalues, rtol=1e-5, atol=0)
    assert one.trace() == pytest.approx(two.trace(), rel=1e-5)
    vectors = torch.eye(D_MODEL)
    assert_close(one.product(vectors), two.product(vectors), rtol=1e-4, atol=1e-5)


def test_float32_terms_agree_with_float64() -> None:
    for sharpness in (0.05, 1.0, 4.0):
        exact = literal_terms(random_state(sharpness=sharpness))[0]
        found = PredictiveGeometry(random_state(sharpness=sharpness, dtype=torch.float32)).leading(4)
        assert found.eigenvalues.dtype == torch.float32
        assert_close(found.eigenvalues.double(), exact[:4], rtol=1e-3, atol=1e-6 * float(exact[0]))


@pytest.mark.parametrize("gap", [5.0, 12.0, 20.0])
def test_confident_predictions_keep_their_precision_in_float32(gap: float) -> None:
    """1 − p_max = e^−gap: w̄ is then all but the top token's w, and their squares may not be subtracted."""
    plain = random_state()
    bias = torch.zeros(D_VOCAB, dtype=torch.float64)
    bias[7] = float(plain.pre_logits.logsumexp(-1) - plain.pre_logits[7]) + gap
    head = Unembedding(plain.unembedding.W_U, bias, None)
    exact = FinalState(plain.y, head)
    rounded = FinalState(plain.y.float(), Unembedding(head.W_U.float(), bias.float(), None))
    p, w = exact.probabilities, head.W_U.T - exact.combine_logit_gradients(exact.probabilities[None])[0]
    F = (w.T * p) @ w
    found = PredictiveGeometry(rounded)
    assert_close(found.leading(3).eigenvalues.double(), torch.linalg.eigvalsh(F).flip(0)[:3], rtol=1e-3, atol=0)
    taken, drawn = found.split_trace(2, 400, torch.Generator().manual_seed(0))
    sampled = float(taken.square().sum() + drawn.square().sum() / 400)
    assert sampled == pytest.approx(float(F.trace()), rel=0.05)
    assert found.trace() == pytest.approx(float(F.trace()), rel=1e-3)


# The sampled trace


@pytest.fixture
def every_sign(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Draws every sign vector of seven tokens once, so that a mean over the draws is their expectation."""
    combinations = torch.tensor(list(itertools.product([0, 1], repeat=7)))
    monkeypatch.setattr(fisher.torch, "randint", lambda low, high, size, generator: combinations)
    yield len(combinations)


@pytest.mark.parametrize("exact", [0, 1, 3, 6, 12, 40])
@pytest.mark.parametrize("settings", [{}, {"soft_cap": 3.0, "bias": True}, {"sharpness": 4.0}], ids=str)
def test_every_split_of_the_trace_is_unbiased(exact: int, settings: dict[str, Any], every_sign: int) -> None:
    state = random_state(d_vocab=7, **settings)
    taken, drawn = PredictiveGeometry(state).split_trace(exact, every_sign, torch.Generator())
    assert len(taken) <= min(exact, D_MODEL) and len(drawn) == every_sign
    F = literal_matrix(state)
    assert_close(taken.T @ taken + drawn.T @ drawn / every_sign, F, rtol=1e-10, atol=1e-12 * float(F.abs().max()))
    if 0 < exact < 6:
        leading = literal_terms(state)[0][:exact]
        assert_close(torch.linalg.svdvals(taken) ** 2, leading[: len(taken)], rtol=1e-9, atol=1e-12 * float(leading[0]))
        assert bool((leading[len(taken) :] < 1e-9 * leading[0]).all()), "only terms that vanish are dropped"


@pytest.mark.parametrize("way", WAYS)
def test_a_rough_basis_only_costs_variance(way: str, every_sign: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever tokens the leading terms were computed from, the split adds up to the whole F."""
    limits(monkeypatch, **WAYS[way])
    state = random_state(d_vocab=7, sharpness=2.0)
    taken, drawn = PredictiveGeometry(state, omitted=0.5).split_trace(2, every_sign, torch.Generator())
    F = literal_matrix(state)
    assert_close(taken.T @ taken + drawn.T @ drawn / every_sign, F, rtol=1e-10, atol=1e-12 * float(F.abs().max()))


def test_a_one_token_distribution_can_be_sampled() -> None:
    plain = random_state()
    bias = torch.zeros(D_VOCAB, dtype=torch.float64)
    bias[7] = 1e4
    state = FinalState(plain.y, Unembedding(plain.unembedding.W_U, bias, None))
    taken, drawn = PredictiveGeometry(state).split_trace(3, 4, torch.Generator().manual_seed(0))
    assert float(drawn.abs().max()) < 1e-10 and bool(taken.isfinite().all())


def estimates(model: Any, seeds: int, **settings: int) -> tuple[Tensor, Tensor]:
    """Scores and standard errors of the sampled trace, one row a seed, from one batch of copies of a prompt."""
    traced = trace(ScopedModel.of(model), [IDS] * seeds, [])
    head = ScopedModel.of(model).unembedding()
    state = FinalState(traced.final_states[0].detach(), head)
    directions = [ls.Fisher(rank="trace", seed=seed, **settings).directions(state) for seed in range(seeds)]
    found = score(traced, directions, lambda name, gradient, activation: gradient.norm(dim=-1))["hook_embed"]
    assert found.standard_error is not None
    return found.scores.detach(), found.standard_error.detach()


@pytest.mark.parametrize(
    ("builder", "samples", "exact"),
    [(llama_like, 8, 0), (llama_like, 8, 2), (llama_like, 3, 1), (gemma_like, 8, 1), (gemma_like, 4, 6)],
)
def test_the_sampled_trace_is_unbiased_and_its_error_is_calibrated(builder: Any, samples: int, exact: int) -> None:
    seeds = 300
    model = builder()
    scores, errors = estimates(model, seeds, samples=samples, exact=exact)
    truth = reference.fisher_scores(model, IDS, rank=None)
    spread = scores.std(0)
    assert bool(((scores.mean(0) - truth).abs() < 4 * spread / seeds**0.5).all())
    reported = errors.square().mean(0).sqrt()
    assert bool(((reported / spread - 1).abs() < 0.25).all()), reported / spread
    assert bool((spread > 1e-6 * truth).all())


def test_exact_terms_lower_the_variance() -> None:
    spreads = [estimates(llama_like(), 150, samples=4, exact=exact)[0].std(0) for exact in (0, 3, 9)]
    for more, fewer in zip(spreads, spreads[1:], strict=False):
        assert bool((fewer < more).all())


def test_seeds_repeat_and_differ(state: FinalState) -> None:
    def draw(seed: int) -> Tensor:
        return ls.Fisher(rank="trace", samples=3, exact=2, seed=seed).directions(state).vectors

    before = torch.get_rng_state()
    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))
    assert torch.equal(torch.get_rng_state(), before)


def test_tiny_models_have_the_literal_matrix() -> None:
    for builder in TINY_MODELS.values():
        model = builder()
        state = FinalState(reference.state_of(model, IDS), ScopedModel.of(model).unembedding())
        expected = reference.fisher_matrix(model, state.y)
        F = PredictiveGeometry(state).product(torch.eye(model.cfg.d_model, dtype=torch.float64))
        assert_close(F, expected, rtol=1e-10, atol=1e-13 * float(expected.abs().max()))


# What is said of the terms


@pytest.mark.parametrize("way", ["dense", "krylov", "refined"])
@pytest.mark.parametrize("rank", [1, 3])
def test_gap_and_share_are_those_of_the_literal_matrix(way: str, rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    state = random_state(d_model=24, d_vocab=200, sharpness=0.3)
    if way == "krylov":
        limits(monkeypatch, dense=1)
    elif way == "refined":
        limits(monkeypatch, keep_all=1)
    values, _ = literal_terms(state)
    terms = PredictiveGeometry(state).leading(rank)
    assert terms.share == pytest.approx(float(values[:rank].sum() / values.sum()), rel=5e-3)
    assert terms.gap == pytest.approx(float(values[rank] / values[rank - 1]), rel=0.02)
    assert terms.following <= float(values[rank]) * (1 + 1e-9) and terms.converged and all(terms.resolved)


def near_tie(ratio: float) -> FinalState:
    """F with λ_2/λ_1 = ratio: pairs of opposite columns along orthogonal axes."""
    sizes = torch.tensor([1.0, ratio**0.5, 0.3], dtype=torch.float64)
    half = torch.diag(sizes)
    return FinalState(torch.zeros(3, dtype=torch.float64), Unembedding(torch.cat([half, -half], 1), None, None))


def test_a_rank_that_cuts_between_near_equal_eigenvalues_is_warned_of() -> None:
    for ratio in (0.5, 0.97, 0.99, 1.0):
        directions = ls.Fisher(1).directions(near_tie(ratio))
        assert directions.details["gap"] == pytest.approx(ratio, rel=1e-12)
        assert directions.details["share"] == pytest.approx(1 / (1 + ratio + 0.09), rel=1e-12)
        assert bool(directions.warnings) == (ratio > 0.98)
        assert not ls.Fisher(2).directions(near_tie(ratio)).warnings
    (warning,) = ls.Fisher(1).directions(near_tie(0.99)).warnings
    assert "rank 1 cuts between near-equal eigenvalues (λ_2/λ_1 = 0.990)" in warning


def test_a_solver_that_stops_early_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    limits(monkeypatch, keep_all=1, keep_most=4, dense=1)
    state = random_state(d_model=48, d_vocab=400, sharpness=0.01)
    assert PredictiveGeometry(state).leading(2).converged
    monkeypatch.setattr(fisher, "MAX_PASSES", 1)
    terms = PredictiveGeometry(state).leading(2)
    assert not terms.converged and terms.residual > fisher.TOLERANCE
    assert "stopped before its tolerance" in " ".join(ls.Fisher(2).directions(state).warnings)


def test_terms_below_the_error_are_not_resolved() -> None:
    state = near_tie(0.5)
    assert PredictiveGeometry(state).leading(3).resolved == [True] * 3
    flat = FinalState(state.y, Unembedding(state.unembedding.W_U * torch.tensor([[1.0], [1.0], [0.0]]), None, None))
    assert PredictiveGeometry(flat).leading(3).resolved == [True, True, False]
    terms = fisher.LeadingTerms(torch.tensor([1.0, 0.1, 4e-4]), torch.eye(3), residual=5e-4)
    assert terms.resolved == [True, True, False]
