"""Objectives → weighted directions, the final state they read, and the names they are asked for by."""

import dataclasses
import inspect
import math
from types import SimpleNamespace
from typing import Any

import pytest
import reference
import torch
from tiny_models import TINY_MODELS, gemma_like, gpt2_like, hooked_transformer, learned_positions_with_bU, llama_like
from torch import Tensor
from torch.testing import assert_close

import lens_scopes as ls
from lens_scopes.engine.final_state import FinalState, Unembedding
from lens_scopes.engine.model import ScopedModel
from lens_scopes.engine.scoring import Directions
from lens_scopes.errors import ModelError, ObjectiveError, PromptError
from lens_scopes.scopes.objectives.base import Objective, single

IDS = [3, 17, 0, 8, 22, 3]
TOKEN, OTHER = 5, 9
D_MODEL = 16
SMALL: dict[str, Any] = {
    "n_layers": 1, "d_model": 16, "n_ctx": 8, "d_head": 8, "n_heads": 2, "d_vocab": 23, "d_mlp": 16,
    "act_fn": "gelu", "seed": 0,
}  # fmt: skip


def state_of(model: Any, target: int | None = None) -> FinalState:
    return FinalState(reference.state_of(model, IDS), ScopedModel.of(model).unembedding(), target)


def vector_of(objective: Objective, state: FinalState) -> Tensor:
    """The one direction of an objective that is a number."""
    directions = objective.directions(state)
    assert directions.vectors.shape == (1, len(state.y)) and not directions.squared and directions.sampled == 0
    assert directions.weights.tolist() == [1.0]
    return directions.vectors[0]


def refusal(call: Any, error: type[Exception] = ObjectiveError) -> str:
    with pytest.raises(error) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(params=TINY_MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    return TINY_MODELS[request.param]()


# The final state


def test_the_final_state_gives_the_models_own_prediction(model: Any) -> None:
    state = state_of(model)
    logits = model(torch.tensor([IDS]))[0, -1]
    p = logits.softmax(-1)
    assert_close(state.logits, logits, rtol=1e-11, atol=1e-12)
    assert_close(state.probabilities, p, rtol=1e-10, atol=0)
    assert_close(state.log_probabilities, p.log(), rtol=1e-10, atol=1e-12)
    assert state.entropy == pytest.approx(float(-(p * p.log()).sum()), rel=1e-12)
    assert state.top_token == int(p.argmax())
    assert_close(state.combine_logit_gradients(state.probabilities[None])[0], torch.autograd.functional.jacobian(
        lambda y: reference.logits_from_final_state(model, y), state.y).T @ p, rtol=1e-9, atol=1e-12)  # fmt: skip


def test_logit_gradients_are_those_of_autograd(model: Any) -> None:
    state = state_of(model)
    full = torch.autograd.functional.jacobian(lambda y: reference.logits_from_final_state(model, y), state.y)
    tokens = [TOKEN, 0, 22, TOKEN]
    assert_close(state.logit_gradients(tokens), full[tokens], rtol=1e-10, atol=1e-13)
    assert_close(state.logit_gradients(torch.tensor(tokens)), full[tokens], rtol=1e-10, atol=1e-13)
    coefficients = torch.randn(3, 23, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert_close(state.combine_logit_gradients(coefficients), coefficients @ full, rtol=1e-10, atol=1e-12)


def test_the_unembedding_is_read_as_the_model_has_it() -> None:
    plain, biased, capped = (
        ScopedModel.of(builder()).unembedding() for builder in (gpt2_like, learned_positions_with_bU, gemma_like)
    )
    assert plain.b_U is None and plain.soft_cap is None and (plain.d_model, plain.d_vocab) == (16, 23)
    assert biased.b_U is not None and torch.equal(biased.b_U, learned_positions_with_bU().b_U)
    assert capped.soft_cap == 3.0 and not capped.W_U.requires_grad
    for missing in (torch.nn.Linear(2, 2), SimpleNamespace(W_U=None)):
        assert "no unembedding matrix W_U" in refusal(
            lambda missing=missing: ScopedModel.of(missing).unembedding(), ModelError
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_logits_are_accumulated_in_at_least_float32(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(64, 40, generator=generator, dtype=torch.float64).to(dtype)
    y = torch.randn(64, generator=generator, dtype=torch.float64).to(dtype)
    logits = Unembedding(W, None, None).logits(y)
    assert logits.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_close(logits.double(), y.double() @ W.double(), rtol=1e-5, atol=1e-5)


# Directions


def test_directions_are_the_gradients_of_what_is_explained(model: Any) -> None:
    def gradient(scalar: Any) -> Tensor:
        y = reference.state_of(model, IDS).requires_grad_(True)
        return torch.autograd.grad(scalar(reference.logits_from_final_state(model, y)), y)[0]

    state = state_of(model)
    for objective, scalar in (
        (ls.Semantic(TOKEN), lambda logits: logits[TOKEN]),
        (ls.LogProb(TOKEN), lambda logits: logits.log_softmax(-1)[TOKEN]),
        (ls.LogitDiff(TOKEN, OTHER), lambda logits: logits[TOKEN] - logits[OTHER]),
        (ls.Entropy(), lambda logits: reference.entropy_of(logits.softmax(-1))),
    ):
        assert_close(vector_of(objective, state), gradient(scalar), rtol=1e-9, atol=1e-12)
    assert_close(vector_of(ls.Temperature(), state), state.y / state.y.norm(), rtol=1e-14, atol=0)


def test_temperature_is_refused_where_the_final_norm_has_one_length() -> None:
    """Weights missing, as after fold_ln=True, or equal: ‖y‖ is constant and its gradient is rounding error."""
    folded = hooked_transformer(**SMALL, normalization_type="LNPre")
    equal = hooked_transformer(**SMALL, normalization_type="RMS")
    low = hooked_transformer(**SMALL, normalization_type="RMS", dtype=torch.bfloat16)
    for model in (folded, equal, low):
        assert "Take Entropy()" in refusal(lambda model=model: ls.attribute(model, [1, 2, 3], ls.Temperature()))
        ls.attribute(model, [1, 2, 3], ls.Entropy())
    with torch.no_grad():
        for model in (equal, low):
            model.ln_final.w[3] = 1.25
            assert ls.attribute(model, [1, 2, 3], ls.Temperature()).scores.any()
    without = hooked_transformer(**SMALL, normalization_type=None)
    assert ls.attribute(without, [1, 2, 3], ls.Temperature()).scores.any()


def test_transformer_lens_defaults_fold_the_norm_and_temperature_is_refused() -> None:
    model = llama_like(dtype=torch.float32)
    assert ls.attribute(model, IDS, ls.Temperature()).scores.any()
    folded = hooked_transformer(**{**vars(model.cfg), "normalization_type": "RMSPre"})
    folded.load_and_process_state_dict(
        model.state_dict(), fold_ln=True, center_writing_weights=False, center_unembed=False
    )
    assert_close(folded(torch.tensor([IDS])), model(torch.tensor([IDS])), rtol=1e-4, atol=1e-4)
    assert "unfolded weights" in refusal(lambda: ls.attribute(folded, IDS, ls.Temperature()))


@pytest.mark.parametrize("bias", [False, True])
def test_along_a_fixed_direction_temperature_and_entropy_rank_alike(bias: bool) -> None:
    """y = β(x) ŷ: dH/dβ = −β Var_p(ẑ) without b_U, so each token's score is that factor times Temperature's."""
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(D_MODEL, 23, generator=generator, dtype=torch.float64)
    unit = torch.nn.functional.normalize(torch.randn(D_MODEL, generator=generator, dtype=torch.float64), dim=0)
    moves = torch.randn(6, 9, generator=generator, dtype=torch.float64)  # dβ/dx_t of six tokens
    jacobians = [torch.outer(unit, row) for row in moves]
    state = FinalState(2.5 * unit, Unembedding(W, W[0] if bias else None, None))
    scores = {
        kind.scope: torch.stack([(vector_of(kind(), state) @ J).norm() for J in jacobians])
        for kind in (ls.Temperature, ls.Entropy)
    }
    assert torch.equal(scores["temperature"].argsort(), scores["entropy"].argsort())
    p, z = state.probabilities, W.T @ unit
    if not bias:
        variance = (p * z**2).sum() - (p * z).sum() ** 2
        assert_close(scores["entropy"], 2.5 * variance * scores["temperature"], rtol=1e-10, atol=0)


def test_half_the_fisher_score_is_the_divergence_of_a_unit_change() -> None:
    """Rank 1, J = 1: the largest KL of a change of length h is ½ h² times the score, along u_1."""
    state = state_of(llama_like())
    directions = ls.Fisher(1).directions(state)
    h = 1e-3
    along = FinalState(state.y + h * directions.vectors[0], state.unembedding)
    assert ls.Fisher().change(state, along) == pytest.approx(0.5 * h**2 * float(directions.weights[0]), rel=1e-2)


def test_directions_of_logits_are_columns_of_the_unembedding() -> None:
    """Without a soft-cap: w_target, w_token − w_other, and Semantic − mean for LogProb; b_U plays no part in them."""
    for builder in (llama_like, learned_positions_with_bU):
        model = builder()
        state, w = state_of(model), model.W_U.T
        assert torch.equal(vector_of(ls.Semantic(TOKEN), state), w[TOKEN])
        assert torch.equal(vector_of(ls.LogitDiff(TOKEN, OTHER), state), w[TOKEN] - w[OTHER])
        mean = model(torch.tensor([IDS]))[0, -1].softmax(-1) @ w
        assert_close(vector_of(ls.LogProb(TOKEN), state), w[TOKEN] - mean, rtol=1e-10, atol=1e-13)


def test_log_probability_directions_average_to_nothing(model: Any) -> None:
    """Σ_j p_j ∂log p_j/∂y = 0, and Σ_j p_j log p_j summed by parts is minus the entropy's direction."""
    state = state_of(model)
    vectors = torch.stack([vector_of(ls.LogProb(token), state) for token in range(23)])
    assert_close(state.probabilities @ vectors, torch.zeros_like(state.y), rtol=0, atol=1e-13)
    weighted = (state.probabilities * state.log_probabilities) @ vectors
    assert_close(vector_of(ls.Entropy(), state), -weighted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("builder", [llama_like, gpt2_like])
def test_entropy_falls_with_beta_by_the_variance_of_the_logits(builder: Any) -> None:
    """At a fixed direction of z, dH/dβ = −β Var_p(ẑ) with z = β ẑ."""
    state = state_of(builder())
    beta = state.y.norm()
    z_hat = state.logits / beta
    variance = (state.probabilities * (z_hat - state.probabilities @ z_hat) ** 2).sum()
    derivative = vector_of(ls.Entropy(), state) @ vector_of(ls.Temperature(), state)
    assert_close(derivative, -beta * variance, rtol=1e-10, atol=0)
    # and by differences of the entropy itself
    step = 1e-5
    above, below = (reference.entropy_of(((beta + change) * z_hat).softmax(-1)) for change in (step, -step))
    assert_close((above - below) / (2 * step), -beta * variance, rtol=1e-7, atol=0)


def test_fisher_directions_add_up_to_the_matrix(model: Any) -> None:
    state = state_of(model)
    F = reference.fisher_matrix(model, state.y)
    d_model = len(state.y)
    eigenvalues = torch.linalg.eigvalsh(F).flip(0)
    for objective in (ls.Fisher(rank=d_model), ls.Fisher(rank="trace"), ls.Fisher(rank="trace", samples=0)):
        found = objective.directions(state)
        assert found.squared and found.sampled == 0
        assert_close((found.vectors.T * found.weights) @ found.vectors, F, rtol=1e-9, atol=1e-12)
    for rank in (1, 2, 5):
        found = ls.Fisher(rank=rank).directions(state)
        assert found.vectors.shape == (rank, d_model) and found.squared
        assert_close(found.weights, eigenvalues[:rank], rtol=1e-9, atol=0)
        assert found.details["eigenvalues"] == pytest.approx(eigenvalues[:rank].tolist(), rel=1e-9)
    sampled = ls.Fisher(rank="trace", samples=5, exact=2).directions(state)
    assert sampled.vectors.shape == (7, d_model) and sampled.sampled == 5 and sampled.squared
    assert sampled.weights.tolist() == pytest.approx([1, 1, *[0.2] * 5])


def test_the_fisher_trace_is_sampled_by_itself_only_for_wide_models() -> None:
    for d_model, sampled in ((128, 0), (129, 16)):
        generator = torch.Generator().manual_seed(0)
        head = Unembedding(torch.randn(d_model, 30, generator=generator), None, None)
        found = ls.Fisher(rank="trace").directions(FinalState(torch.randn(d_model, generator=generator) / 8, head))
        assert found.sampled == sampled
        assert found.vectors.shape == ((d_model if sampled == 0 else 16 + 16), d_model)


def test_the_default_target_is_the_next_token_else_the_top_one() -> None:
    model = llama_like()
    top = int(model(torch.tensor([IDS]))[0, -1].argmax())
    for kind in (ls.Semantic, ls.LogProb):
        assert kind().targets(state_of(model)) == [top]
        assert kind().targets(state_of(model, target=OTHER)) == [OTHER]
        assert kind(TOKEN).targets(state_of(model, target=OTHER)) == [TOKEN]
        assert kind(0).targets(state_of(model, target=OTHER)) == [0]
    for without in (ls.Temperature(), ls.Entropy(), ls.Fisher()):
        assert without.targets(state_of(model, target=OTHER)) == []


def test_a_final_state_of_zero_has_no_temperature_direction() -> None:
    head = Unembedding(torch.randn(4, 6), None, None)
    message = refusal(lambda: ls.Temperature().directions(FinalState(torch.zeros(4), head)))
    assert "zero" in message
    for other in (ls.Semantic(2), ls.Entropy(), ls.Fisher()):
        assert bool(other.directions(FinalState(torch.zeros(4), head)).vectors.isfinite().all())


def test_objectives_say_what_they_explain() -> None:
    state = state_of(llama_like(), target=OTHER)

    def label(token: int) -> str:
        return f"'<{token}>'"

    for objective, signature, words in (
        (ls.Semantic(TOKEN), "Semantic('<5>')", "logit of the next token '<5>'"),
        (ls.Semantic(), "Semantic('<9>')", "logit of the next token '<9>'"),
        (ls.LogProb(TOKEN), "LogProb('<5>')", "log-probability of the next token '<5>'"),
        (ls.LogitDiff(TOKEN, OTHER), "LogitDiff('<5>', '<9>')", "'<5>' and '<9>'"),
        (ls.Temperature(), "Temperature()", "temperature"),
        (ls.Entropy(), "Entropy()", "entropy"),
        (ls.Fisher(rank=2), "Fisher(rank=2)", "distribution"),
        (ls.Fisher(rank="trace"), "Fisher(rank='trace')", "distribution"),
        (ls.Custom(lambda y, logits: y, name="mine"), "mine", "user-defined"),
    ):
        assert objective.signature(label, state) == signature
        assert words in objective.describe(label, state)


# Changes


@pytest.mark.parametrize(
    ("objective", "order"),
    [
        (ls.Semantic(), 1),
        (ls.Semantic(TOKEN), 1),
        (ls.LogProb(TOKEN), 1),
        (ls.LogitDiff(TOKEN, OTHER), 1),
        (ls.Temperature(), 1),
        (ls.Entropy(), 1),
        (ls.Custom(lambda y, logits: y.roll(1)), 1),
        (ls.Fisher(rank="trace"), 2),
        (ls.Custom(lambda y, logits: (torch.stack([y, y.roll(1)]), torch.tensor([0.5, 3.0]))), 2),
    ],
    ids=lambda value: value.scope if isinstance(value, Objective) else None,
)
def test_changes_tend_to_the_predicted_ones(model: Any, objective: Objective, order: int) -> None:
    before = state_of(model)
    delta = torch.randn(len(before.y), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    directions = objective.directions(before)
    errors = []
    for step in (1e-3, 1e-4):
        after = FinalState(before.y + step * delta, before.unembedding)
        predicted = float(objective.predicted_change(directions, directions.vectors @ (step * delta)))
        assert abs(predicted) > 1e-3 * step**order
        errors.append(abs(objective.change(before, after) / predicted - 1))
    assert errors[1] < max(0.2 * errors[0], 1e-6) and errors[1] < 1e-2
    assert objective.change(before, before) == pytest.approx(0, abs=1e-12)


def test_the_target_of_a_change_is_that_of_the_state_before() -> None:
    """A large step makes another token the top one; the change is still that of the first."""
    model = llama_like()
    before = state_of(model)
    after = FinalState(before.y - 3 * before.unembedding.W_U[:, before.top_token], before.unembedding)
    assert after.top_token != before.top_token
    expected = float(after.logits[before.top_token] - before.logits[before.top_token])
    assert ls.Semantic().change(before, after) == pytest.approx(expected, rel=1e-12)
    assert ls.Fisher().change(before, after) == pytest.approx(
        float(reference.kl(before.probabilities, after.probabilities)), rel=1e-10
    )


# Settings


def unchecked(**settings: Any) -> ls.Fisher:
    """Fisher(**settings) past the tests' run-time type checker, as callers without one reach it."""
    objective = object.__new__(ls.Fisher)
    inspect.unwrap(ls.Fisher.__init__)(objective, **settings)
    return objective


@pytest.mark.parametrize("rank", [0, -1, True, False, 1.0, "2", "Trace", None])
def test_a_rank_is_a_positive_integer_or_the_trace(rank: Any) -> None:
    message = refusal(lambda: unchecked(rank=rank))
    assert repr(rank) in message and '"trace"' in message


@pytest.mark.parametrize("samples", [-1, 1, True, 2.0, "4"])
def test_samples_are_none_or_enough_for_a_standard_error(samples: Any) -> None:
    assert repr(samples) in refusal(lambda: unchecked(rank="trace", samples=samples))


@pytest.mark.parametrize("exact", [-1, True, 2.0, "4"])
def test_exact_terms_are_counted(exact: Any) -> None:
    assert repr(exact) in refusal(lambda: unchecked(rank="trace", exact=exact))


def test_a_rank_fits_the_model() -> None:
    model = llama_like()
    assert ls.Fisher(rank=16).prepare(ScopedModel.of(model)) == ls.Fisher(rank=16)
    message = refusal(lambda: ls.Fisher(rank=17).prepare(ScopedModel.of(model)))
    assert "17" in message and "d_model = 16" in message and "trace" in message


def test_tokens_are_resolved_against_the_model() -> None:
    model = llama_like()
    assert ls.Semantic(TOKEN).prepare(ScopedModel.of(model)) == ls.Semantic(TOKEN)
    assert ls.Semantic().prepare(ScopedModel.of(model)) == ls.Semantic()
    for call in (
        lambda: ls.Semantic(23).prepare(ScopedModel.of(model)),
        lambda: ls.LogProb(-1).prepare(ScopedModel.of(model)),
        lambda: ls.LogitDiff(0, 23).prepare(ScopedModel.of(model)),
        lambda: ls.Semantic(" Paris").prepare(ScopedModel.of(model)),
    ):
        refusal(call, PromptError)
    assert "prepare" in refusal(lambda: ls.LogitDiff(" a", " b").directions(state_of(model)))


def test_objectives_are_values() -> None:
    assert ls.Fisher(rank=2) == ls.Fisher(rank=2) != ls.Fisher(rank=3)
    assert ls.LogitDiff(1, 2) != ls.LogitDiff(2, 1) and hash(ls.Semantic(1)) == hash(ls.Semantic(1))
    assert ls.Fisher(rank="trace", samples=4, seed=1).settings() == {
        "rank": "trace", "samples": 4, "exact": None, "seed": 1,
    }  # fmt: skip
    with pytest.raises(dataclasses.FrozenInstanceError):
        ls.Fisher().rank = 2  # type: ignore[misc]


# A user's own


def test_a_function_may_return_any_form_of_directions() -> None:
    state = state_of(llama_like())
    one, three = torch.arange(16.0), torch.arange(48.0).reshape(3, 16)
    for returned, vectors, weights, squared in (
        (one, one[None], [1.0], False),
        (one[None], one[None], [1.0], False),
        (three, three, [1.0, 1.0, 1.0], True),
        ((three, torch.tensor([0.0, 1.0, 2.0])), three, [0.0, 1.0, 2.0], True),
        ((three, [0.5, 1.0, 2.0]), three, [0.5, 1.0, 2.0], True),
        ((one, torch.tensor([4.0])), one[None], [4.0], False),
    ):
        found = ls.Custom(lambda y, logits, returned=returned: returned).directions(state)
        assert_close(found.vectors, vectors.double(), rtol=0, atol=0)
        assert found.weights.tolist() == weights and found.squared == squared
        assert found.vectors.dtype == found.weights.dtype == torch.float64
    own = Directions(state.y[None], torch.ones(1, dtype=torch.float64), squared=True, details={"why": "a test"})
    assert ls.Custom(lambda y, logits: own).directions(state).details == {"why": "a test"}


def test_a_function_is_given_y_and_the_models_logits_and_cannot_change_them() -> None:
    model = gemma_like()
    state = state_of(model)
    y, logits = state.y.clone(), reference.logits_from_final_state(model, state.y)

    def spoil(given_y: Tensor, given_logits: Tensor) -> Tensor:
        assert torch.equal(given_y, y)
        assert_close(given_logits, logits, rtol=1e-12, atol=1e-13)
        given_y.zero_()
        given_logits.zero_()
        return torch.ones(12)

    ls.Custom(spoil).directions(state)
    assert torch.equal(state.y, y)
    assert_close(state.logits, logits, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        (torch.ones(15), "(1, 15)"),
        (torch.ones(2, 15), "(2, 15)"),
        (torch.ones(2, 3, 16), "(2, 3, 16)"),
        (torch.ones(0, 16), "(0, 16)"),
        (torch.tensor(1.0), "expected [16]"),
        (torch.full((16,), torch.nan), "non-finite"),
        (torch.full((2, 16), torch.inf), "non-finite"),
        ((torch.ones(2, 16), torch.ones(3)), "expected 2"),
        ((torch.ones(2, 16), torch.tensor([1.0, -1e-3])), "non-negative"),
        ((torch.ones(2, 16), torch.tensor([1.0, torch.nan])), "weights"),
        ((torch.ones(2, 16), torch.tensor([1.0, torch.inf])), "weights"),
        ((torch.ones(2, 16), torch.ones(2), torch.ones(2)), "mine"),
        (None, "mine"),
        ("Paris", "mine"),
        (Directions(torch.ones(1, 15), torch.ones(1)), "15"),
        (Directions(torch.full((1, 16), torch.nan), torch.ones(1)), "non-finite"),
        (Directions(torch.ones(2, 16), -torch.ones(2), squared=True), "non-negative"),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
def test_what_a_function_returns_is_checked(returned: Any, words: str) -> None:
    objective = ls.Custom(lambda y, logits: returned, name="mine")
    message = refusal(lambda: objective.directions(state_of(llama_like())))
    assert "'mine'" in message and words in message
    refusal(lambda: ls.attribute(llama_like(), IDS, objective))


def test_an_exception_in_a_function_is_the_callers_own() -> None:
    def fail(y: Tensor, logits: Tensor) -> Tensor:
        raise ZeroDivisionError("my own")

    with pytest.raises(ZeroDivisionError, match="my own"):
        ls.attribute(llama_like(), IDS, fail)


def test_a_user_may_subclass_objective() -> None:
    @dataclasses.dataclass(frozen=True)
    class Axis(Objective):
        """One coordinate of y."""

        index: int
        scope = "axis"
        equation = "v = e_i"
        output = "one coordinate of y"

        def directions(self, state: FinalState) -> Directions:
            return single(torch.eye(len(state.y)).to(state.y)[self.index])

        def change(self, before: FinalState, after: FinalState) -> float:
            return float(after.y[self.index] - before.y[self.index])

    model = llama_like()
    att = ls.attribute(model, IDS, Axis(3))
    assert_close(att.scores, reference.jacobian(model, IDS)[:, 3].norm(dim=-1), rtol=1e-9, atol=1e-12)
    assert att.settings["objective"] == {"scope": "axis", "index": 3}
    assert "v = e_i" in att.contract["score attributed"] and math.isfinite(att.prediction.beta)
