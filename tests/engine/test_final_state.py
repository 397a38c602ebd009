"""Differences of probabilities and divergences in float32, against float64."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import lens_scopes as ls
from lens_scopes.engine.final_state import FinalState, Unembedding, kl_divergence, log_softmax
from lens_scopes.engine.fisher import PredictiveGeometry

D_MODEL, D_VOCAB, TOP = 24, 400, 7


def confident_state(rest: float, soft_cap: float | None = None) -> tuple[FinalState, FinalState]:
    """The same final state in float32 and in float64, whose token TOP has the probability 1 − rest."""
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(D_MODEL, D_VOCAB, generator=generator)
    y = 0.3 * torch.randn(D_MODEL, generator=generator)
    bias = torch.zeros(D_VOCAB)
    for _ in range(50):  # the bias that gives the top token its probability, also under a soft-cap
        state = FinalState(y.double(), Unembedding(W.double(), bias.double(), soft_cap))
        others = state.logits.clone()
        others[TOP] = -math.inf
        missing = float(others.logsumexp(-1) - state.logits[TOP]) - math.log(rest / (1 - rest))
        slope = 1.0 if state.soft_cap_slope is None else float(state.soft_cap_slope[TOP])
        bias[TOP] += missing / slope
    rounded = FinalState(y, Unembedding(W, bias, soft_cap))
    return rounded, FinalState(y.double(), Unembedding(W.double(), bias.double(), soft_cap))


def gradient_in_float64(state: FinalState, token: int) -> Tensor:
    y = state.y.clone().requires_grad_(True)
    logits = state.unembedding.logits(y)
    others = torch.cat([logits[:TOP], logits[TOP + 1 :]])
    # log p of the top token from the tail, which float64 autograd of log_softmax keeps to 1e-8 only.
    rest = (others - logits[TOP]).exp().sum()
    log_p = logits[token] - logits[TOP] - torch.log1p(rest)
    return torch.autograd.grad(log_p, y)[0]


@pytest.mark.parametrize(("rest", "soft_cap"), [
    (0.5, None), (1e-3, None), (1e-6, None), (1e-8, None), (1e-11, None), (0.5, 30.0), (1e-6, 30.0), (1e-8, 30.0),
])  # fmt: skip
def test_log_probability_directions_keep_their_digits(rest: float, soft_cap: float | None) -> None:
    rounded, exact = confident_state(rest, soft_cap)
    assert float(1 - exact.probabilities[TOP]) == pytest.approx(rest, rel=1e-4)
    for token in (TOP, 3):
        vector = ls.LogProb(token).directions(rounded).vectors[0]
        true = gradient_in_float64(exact, token)
        assert float((vector.double() - true).norm() / true.norm()) < 1e-4
    entropy = ls.Entropy().directions(rounded).vectors[0].double()
    true = ls.Entropy().directions(exact).vectors[0]
    assert float((entropy - true).norm() / true.norm()) < 1e-4
    assert rounded.entropy == pytest.approx(exact.entropy, rel=1e-4)


@pytest.mark.parametrize("rest", [0.5, 1e-6, 1e-8])
def test_changes_of_probabilities_keep_their_digits(rest: float) -> None:
    rounded, exact = confident_state(rest)
    vectors = torch.randn(3, D_MODEL, generator=torch.Generator().manual_seed(1))
    changes = rounded.probability_changes(vectors).double()
    p, along = exact.probabilities, exact.unembedding.W_U.T @ vectors.double().T
    apart = along - along[TOP]
    literal = (p[:, None] * (apart - p @ apart)).T
    assert float((changes - literal).abs().max() / literal.abs().max()) < 1e-4
    assert_close(changes[:, TOP], literal[:, TOP], rtol=1e-4, atol=0)
    after = [FinalState(state.y + 1e-2 * vectors[0].to(state.y), state.unembedding) for state in (rounded, exact)]
    change = ls.LogProb(TOP).change(rounded, after[0])
    assert change == pytest.approx(ls.LogProb(TOP).change(exact, after[1]), rel=1e-3)
    assert 0 < abs(change) < rest


@pytest.mark.parametrize("rest", [0.5, 1e-6, 1e-8, 1e-10])
def test_directions_of_the_sampled_trace_keep_their_digits(rest: float) -> None:
    def gram(state: FinalState, part: int) -> Tensor:
        directions = PredictiveGeometry(state).split_trace(3, 8, torch.Generator().manual_seed(0))[part].double()
        return directions.T @ directions  # the exact directions are those of one basis up to a rotation

    rounded, exact = confident_state(rest)
    for part in (0, 1):
        true = gram(exact, part)
        assert float((gram(rounded, part) - true).norm() / true.norm()) < 1e-4


@pytest.mark.parametrize("size", [1e-5, 1e-3, 1.0])
@pytest.mark.parametrize("rest", [0.5, 1e-6])
def test_what_fisher_scope_reports_is_the_one_divergence(rest: float, size: float) -> None:
    """To 1e-10 nats in float32, where a difference of logarithms has errors of 1e-7."""
    before, _ = confident_state(rest)
    step = torch.randn(D_MODEL, generator=torch.Generator().manual_seed(5))
    after = FinalState(before.y + size * step / step.norm(), before.unembedding)
    expected = literal_divergence(before.logits, after.logits)
    for objective in (ls.Fisher(), ls.Fisher("trace")):
        value = objective.change(before, after)
        assert value >= 0 and value == pytest.approx(expected, abs=1e-10, rel=1e-9)


def literal_divergence(before: Tensor, after: Tensor) -> float:
    """Σ p (log p − log q) summed without rounding over float64 terms."""
    p, q = before.double().log_softmax(-1), after.double().log_softmax(-1)
    return math.fsum((p.exp() * (p - q)).tolist())


@pytest.mark.parametrize("size", [1e-6, 1e-4, 1e-2, 1.0, 30.0])
def test_divergences_are_right_to_a_tenth_of_a_billionth(size: float) -> None:
    generator = torch.Generator().manual_seed(2)
    before = 4 * torch.randn(5000, generator=generator)
    after = before + size * torch.randn(5000, generator=generator)
    value = kl_divergence(before, after)
    assert value.dtype == torch.float64 and float(value) >= 0
    assert float(value) == pytest.approx(literal_divergence(before, after), abs=1e-10, rel=1e-12)
    assert_close(kl_divergence(before, torch.stack([after, before])), torch.tensor([float(value), 0.0]).double())


def test_divergences_are_never_negative_and_know_excluded_tokens() -> None:
    generator = torch.Generator().manual_seed(3)
    before = 10 * torch.randn(200, 300, generator=generator)
    nudged = torch.nextafter(before, torch.full_like(before, torch.inf))
    assert bool((kl_divergence(before, nudged) >= 0).all()) and bool((kl_divergence(before, nudged) < 1e-10).all())
    same = before.double() + torch.linspace(0, 7, 200, dtype=torch.float64)[:, None]  # the same but for rounding
    assert bool((kl_divergence(before, same) >= 0).all()) and bool((kl_divergence(before, same) < 1e-20).all())
    p = torch.tensor([0.5, 0.5, 0.0]).log()
    q = torch.tensor([0.25, 0.25, 0.5]).log()
    assert float(kl_divergence(p, q)) == pytest.approx(math.log(2), rel=1e-6)
    assert float(kl_divergence(p, p)) == 0 and float(kl_divergence(q, p)) == math.inf


def test_log_softmax_is_torchs_where_nothing_is_lost() -> None:
    logits = 3 * torch.randn(4, 50, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    assert_close(log_softmax(logits), logits.log_softmax(-1), rtol=1e-13, atol=1e-14)
