"""What is explained: an objective turns the final state into weighted directions, the whole of a scope's choice.

    v_1 … v_k [k, d_model],  w_1 … w_k ≥ 0,  score_t = Σ_i w_i a_i,t²

where a_i,t is what the readout makes of v_iᵀ J_t (its norm, say). An objective that is a number, of one direction,
gives the plain √w·a_t instead, as in Jacobian Scopes (arXiv:2601.16407); the ranking is the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.final_state import FinalState, final_norm_is_constant
from lens_scopes.engine.fisher import LeadingTerms, PredictiveGeometry
from lens_scopes.engine.sites import EMBEDDING
from lens_scopes.errors import ObjectiveError
from lens_scopes.prompts.tokens import resolve_token
from lens_scopes.scopes.readouts import Norm, Readout, Relative

if TYPE_CHECKING:
    from typing_extensions import Self
else:  # a run-time type checker that decorates methods one by one cannot read Self
    Self = Any

NEAR_EQUAL = 0.98  # λ_{k+1}/λ_k above which a rank cuts between near-equals: analyses/README.md, “Eigenvalue gaps”
EXACT_TRACE_LIMIT = 128  # models up to this d_model get the whole Fisher trace exactly unless samples are asked for


@dataclass(frozen=True)
class Directions:
    """Weighted directions in the space of the final state.

    Attributes:
        vectors: v_i as rows.
        weights: w_i ≥ 0.
        squared: whether scores are Σ w_i a_i² (any number of directions) or √w·a (exactly one).
        sampled: how many of the last rows are independent draws whose mean squared readout estimates a
            remainder; each carries the weight 1/sampled, and the spread of the draws gives a standard error.
        details: what a reader of the score should know: eigenvalues, draws.
        warnings: sentences for the result on why the directions may not be what was asked for.
    """

    vectors: Float[Tensor, "k d_model"]
    weights: Float[Tensor, " k"]
    squared: bool = False
    sampled: int = 0
    details: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()


def single(vector: Float[Tensor, " d_model"], **details: Any) -> Directions:
    """One direction of weight one."""
    return Directions(vector[None], vector.new_ones(1), details=details)


def solver_warnings(terms: LeadingTerms) -> list[str]:
    """Warnings on leading terms of F: a cut between near-equal eigenvalues, a solver that stopped early."""
    warnings, rank = [], len(terms.eigenvalues)
    if terms.gap > NEAR_EQUAL:
        warnings.append(
            f"rank {rank} cuts between near-equal eigenvalues (λ_{rank + 1}/λ_{rank} = {terms.gap:.3f}): the last "
            f"direction, and the scores with it, may turn with any small change of the prompt. Rank {rank + 1} or "
            '"trace" does not cut there.'
        )
    if not terms.converged:
        warnings.append(
            f"Fisher's solver stopped before its tolerance: ‖F u − λ u‖ may be {terms.residual:.1e} of λ_1, and the "
            'directions may not be the leading ones. Rank "trace" needs no solver for its mean.'
        )
    return warnings


class Explanation(ABC):
    """Base of everything that `attribute` can be asked for. Subclasses are frozen dataclasses whose fields are their
    settings."""

    scope: ClassVar[str]
    """The short name used on the command line."""

    equation: ClassVar[str]
    """How the score is made, as an equation in the paper's symbols."""

    output: ClassVar[str]
    """The output explained, in words, before the names of its tokens."""

    def prepare(self, model: Any) -> Self:
        """Checks the settings against the model and turns token strings into ids.

        Raises:
            ObjectiveError, PromptError: when a setting does not fit the model.
        """
        return self

    def targets(self, state: FinalState) -> list[int]:
        """The tokens the explanation is about, as ids; none for those of the whole distribution."""
        return []

    @property
    def takes_target(self) -> bool:
        """Whether the explanation is about the next token that `target=` names."""
        return False

    def check_target(self, target: str | int | None) -> None:
        """Refuses a target that the explanation would drop.

        Raises:
            ObjectiveError: where a target is given and the explanation takes none.
        """
        if target is None or self.takes_target:
            return
        name = type(self).__name__
        if getattr(self, "token", None) is not None:
            raise ObjectiveError(
                f"{name} names its own token, so target={target!r} would be dropped; give the token in one place: in "
                f"{name}(…), or as target."
            )
        raise ObjectiveError(
            f"{name} explains no single next token, so target={target!r} would be dropped; leave target out, or choose "
            "Semantic() or LogProb()."
        )

    def settings(self) -> dict[str, Any]:
        """The fields, as plain values for records."""
        return {item.name: getattr(self, item.name) for item in fields(self)}  # pyright: ignore[reportArgumentType]

    def describe(self, label: Callable[[int], str], state: FinalState) -> str:
        """The output explained, in words."""
        named = " and ".join(label(token) for token in self.targets(state))
        return f"{self.output} {named}".strip()

    def signature(self, label: Callable[[int], str], state: FinalState) -> str:
        """The explanation as it would be written in Python, with its tokens resolved."""
        return f"{type(self).__name__}({', '.join(label(token) for token in self.targets(state))})"


class Objective(Explanation):
    """Base of every objective: an output explained by its gradients at one final state."""

    at: ClassVar[str] = EMBEDDING
    """Where `attribute` reads it unless told otherwise."""

    readout: ClassVar[Readout] = Norm()
    """How `attribute` reads it unless told otherwise."""

    @abstractmethod
    def directions(self, state: FinalState) -> Directions:
        """The weighted directions that explain this objective at one final state."""

    @abstractmethod
    def change(self, before: FinalState, after: FinalState) -> float:
        """What an intervention really did to the output explained, in the units of `predicted_change`."""

    def predicted_change(self, directions: Directions, amounts: Float[Tensor, "k ..."]) -> Float[Tensor, ...]:
        """What a small change of y is predicted to do, from its amounts v_iᵀδ along the directions.

        First order, v_1ᵀδ, for an objective that is a number; second order, ½ Σ_i w_i (v_iᵀδ)², for one of several
        directions, which measures a divergence.
        """
        if not directions.squared:
            return directions.weights[0].sqrt() * amounts[0]
        return 0.5 * torch.einsum("k,k...->...", directions.weights.to(amounts), amounts**2)


@dataclass(frozen=True)
class _OneToken(Objective):
    token: str | int | None = None

    @property
    def takes_target(self) -> bool:
        return self.token is None

    def prepare(self, model: Any) -> Self:
        return self if self.token is None else replace(self, token=resolve_token(model, self.token))

    def targets(self, state: FinalState) -> list[int]:
        if isinstance(self.token, str):
            raise ObjectiveError(
                f"{type(self).__name__} still holds the string {self.token!r}; call prepare(model) before "
                "directions(state)."
            )
        if self.token is not None:
            return [self.token]
        return [state.top_token if state.target is None else state.target]


@dataclass(frozen=True)
class Semantic(_OneToken):
    """Semantic Scope: which tokens could change the logit of one next token the most?

    v = ∂logit_target/∂y = w_target, and score_t = ‖w_targetᵀ J_t‖₂ in logits per unit of activation norm, ≥ 0.
    Under an output soft-cap v carries its slope, 1 − tanh²(z/c).

    Args:
        token: the target, as a string that is one token or as an id; by default the token that follows in the
            text, else the model's own top token.

    Source: Jacobian Scopes, arXiv:2601.16407, Semantic Scope.
    """

    scope: ClassVar[str] = "semantic"
    equation: ClassVar[str] = "v = w_target"
    output: ClassVar[str] = "logit of the next token"

    def directions(self, state: FinalState) -> Directions:
        return single(state.logit_gradients(self.targets(state))[0])

    def change(self, before: FinalState, after: FinalState) -> float:
        target = self.targets(before)[0]
        return float(after.logits[target] - before.logits[target])


@dataclass(frozen=True)
class LogProb(_OneToken):
    """The log-probability of one next token.

    v = ∂log p_target/∂y = w_target − w̄ with w̄ = Σ_j p_j w_j; score_t = ‖vᵀ J_t‖₂ in nats per unit of activation norm,
    ≥ 0. v is summed as Σ_{j ≠ target} p_j (w_target − w_j), which keeps its digits where p_target is near one.

    Args:
        token: as for Semantic.
    """

    scope: ClassVar[str] = "logprob"
    equation: ClassVar[str] = "v = w_target − w̄"
    output: ClassVar[str] = "log-probability of the next token"

    def directions(self, state: FinalState) -> Directions:
        return single(state.log_probability_gradient(self.targets(state)[0]))

    def change(self, before: FinalState, after: FinalState) -> float:
        target = self.targets(before)[0]
        return float(before.log_probability_change(after)[target])


@dataclass(frozen=True)
class LogitDiff(Objective):
    """The difference between the logits of two next tokens.

    v = w_token − w_other; score_t = ‖vᵀ J_t‖₂ in logits per unit of activation norm, ≥ 0.

    Args:
        token: the token explained, as a string that is one token or as an id.
        other: the token it is contrasted with.
    """

    token: str | int
    other: str | int
    scope: ClassVar[str] = "logit-diff"
    equation: ClassVar[str] = "v = w_token − w_other"
    output: ClassVar[str] = "difference between the logits of the next tokens"

    def prepare(self, model: Any) -> Self:
        return replace(self, token=resolve_token(model, self.token), other=resolve_token(model, self.other))

    def targets(self, state: FinalState) -> list[int]:
        if isinstance(self.token, int) and isinstance(self.other, int):
            return [self.token, self.other]
        raise ObjectiveError("LogitDiff still holds token strings; call prepare(model) before directions(state).")

    def directions(self, state: FinalState) -> Directions:
        token, other = state.logit_gradients(self.targets(state))
        return single(token - other)

    def change(self, before: FinalState, after: FinalState) -> float:
        token, other = self.targets(before)
        return float((after.logits[token] - after.logits[other]) - (before.logits[token] - before.logits[other]))


@dataclass(frozen=True)
class Temperature(Objective):
    """Temperature Scope: which tokens could change the model's confidence the most?

    v = y / ‖y‖, held constant; β = ‖y‖ is the inverse effective temperature. score_t = ‖vᵀ J_t‖₂ in units of β per unit
    of activation norm, ≥ 0.

    Raises:
        ObjectiveError: from `prepare`, where the model's final norm has no weights or equal ones (OLMo-1; any model
            loaded with fold_ln=True): ‖y‖ is constant there, and its gradient is rounding error.

    Source: Jacobian Scopes, arXiv:2601.16407, Temperature Scope.
    """

    scope: ClassVar[str] = "temperature"
    equation: ClassVar[str] = "v = y/‖y‖"
    output: ClassVar[str] = "inverse effective temperature β = ‖y‖ of the next-token prediction"

    def prepare(self, model: Any) -> Self:
        if final_norm_is_constant(model):
            raise ObjectiveError(
                "Temperature Scope explains β = ‖y‖, and this model's final norm gives every y the same length: its "
                "weights are missing or equal, as after fold_ln=True. The gradient would be rounding error. Take "
                "Entropy(), or load the model with unfolded weights (ls.load_model, or fold_ln=False) if it has any."
            )
        return self

    def directions(self, state: FinalState) -> Directions:
        norm = state.y.norm()
        if float(norm) == 0:
            raise ObjectiveError("Temperature Scope needs a direction, but the final state y is zero at this position.")
        return single(state.y / norm)

    def change(self, before: FinalState, after: FinalState) -> float:
        return float(after.y.norm() - before.y.norm())


@dataclass(frozen=True)
class Entropy(Objective):
    """The entropy of the next-token prediction.

    v = ∂H/∂y = −Σ_j p_j (log p_j + H) w_j; score_t = ‖vᵀ J_t‖₂ in nats per unit of activation norm, ≥ 0.

    Where tokens move z along its own direction alone, z = β ẑ, dH/dβ = −β Var_p(ẑ) (arXiv:2601.16407): the scores of
    Entropy are then β Var_p(ẑ) times those of Temperature, and both rank tokens alike. Elsewhere they need not: ∂H/∂y
    is not parallel to y.
    """

    scope: ClassVar[str] = "entropy"
    equation: ClassVar[str] = "v = ∂H/∂y"
    output: ClassVar[str] = "entropy of the next-token prediction"

    def directions(self, state: FinalState) -> Directions:
        coefficients = state.surprisals - state.probabilities * state.surprisals.sum()
        return single(state.combine_logit_gradients(coefficients[None])[0])

    def change(self, before: FinalState, after: FinalState) -> float:
        return after.entropy - before.entropy


@dataclass(frozen=True)
class Fisher(Objective):
    """Fisher Scope: which tokens could change the whole next-token distribution the most?

    F = W_U (diag p − p pᵀ) W_Uᵀ = Σ_i λ_i u_i u_iᵀ is the Fisher information of the prediction at y, and
    ½ δᵀFδ the Kullback–Leibler divergence of a small change δ of y, in nats.

    - rank k: score_t = Σ_{i ≤ k} λ_i ‖u_iᵀ J_t‖₂², in nats per squared unit of activation norm, ≥ 0; the paper's
      default is k = 1. Squared at every rank, so that scores grow with the rank up to the trace. Along the k directions
      and to second order, half the score is the largest divergence of a unit change at k = 1; above, it is the mean
      divergence over all directions of a unit change, times their number;
    - rank "trace": score_t = tr(J_tᵀ F J_t), all of it. Exactly, from d_model directions; or, for larger models, from
      `exact` leading directions and `samples` random ones for what they leave, without bias and with its standard
      error in the result.

    Args:
        rank: number of leading terms, between 1 and d_model, or "trace".
        samples: random directions for rank "trace"; 0 asks for the exact trace. By default exact up to
            d_model = 128, else 16.
        exact: leading directions taken exactly beside the random ones, for rank "trace".
        seed: seed of the random directions; the global generator is not touched.

    The result's `settings["details"]` hold for rank k: `eigenvalues`; `residual`, a bound on ‖F u_i − λ_i u_i‖ / λ_1,
    which bounds neither the score nor that the pairs are the leading ones; `gap`, λ_{k+1}/λ_k; `share`, the part of
    tr F that the k directions hold; `converged`. It warns where `gap` is near one or the solver stopped early.

    Source: Jacobian Scopes, arXiv:2601.16407, Fisher Scope.
    """

    rank: int | Literal["trace"] = 1
    samples: int | None = None
    exact: int = 16
    seed: int = 0
    scope: ClassVar[str] = "fisher"
    equation: ClassVar[str] = (
        "Σ_i w_i v_i v_iᵀ = F = W_U (diag p − p pᵀ) W_Uᵀ, its leading terms or an unbiased estimate"
    )
    output: ClassVar[str] = "the whole next-token distribution"

    def __post_init__(self) -> None:
        if self.rank != "trace" and (not _is_integer(self.rank) or self.rank < 1):
            raise ObjectiveError(f'Fisher rank must be a positive integer or "trace"; got {self.rank!r}.')
        if self.samples is not None and (not _is_integer(self.samples) or self.samples < 0 or self.samples == 1):
            raise ObjectiveError(
                f"Fisher samples must be 0 (exact) or at least 2 (for a standard error); got {self.samples!r}."
            )
        if not _is_integer(self.exact) or self.exact < 0:
            raise ObjectiveError(f"Fisher exact must be a non-negative integer; got {self.exact!r}.")

    def prepare(self, model: Any) -> Self:
        d_model = model.cfg.d_model
        if self.rank != "trace" and self.rank > d_model:
            raise ObjectiveError(
                f"Fisher rank {self.rank} is above d_model = {d_model}, the most F can have; "
                'ask for a smaller rank, or rank="trace" for all of it.'
            )
        return self

    def directions(self, state: FinalState) -> Directions:
        geometry = PredictiveGeometry(state)
        if self.rank == "trace":
            return self._trace(geometry)
        terms = geometry.leading(self.rank)
        details = {
            "eigenvalues": terms.eigenvalues.tolist(),
            "residual": terms.residual,
            "gap": terms.gap,
            "share": terms.share,
            "converged": terms.converged,
        }
        return Directions(
            terms.vectors, terms.eigenvalues, squared=True, details=details, warnings=solver_warnings(terms)
        )

    def _trace(self, geometry: PredictiveGeometry) -> Directions:
        d_model = geometry.state.unembedding.d_model
        samples = self.samples
        if samples is None:
            samples = 0 if d_model <= EXACT_TRACE_LIMIT else 16
        if samples == 0:
            terms = geometry.leading(d_model)
            return Directions(terms.vectors, terms.eigenvalues, squared=True, details={"directions": d_model})
        generator = torch.Generator().manual_seed(self.seed)
        exact, sampled = geometry.split_trace(self.exact, samples, generator)
        weights = torch.cat([exact.new_ones(len(exact)), sampled.new_full((samples,), 1 / samples)])
        details = {"exact": len(exact), "samples": samples}
        return Directions(torch.cat([exact, sampled]), weights, squared=True, sampled=samples, details=details)

    def change(self, before: FinalState, after: FinalState) -> float:
        """KL(p before ‖ p after), in nats."""
        return before.divergence(after)

    def signature(self, label: Callable[[int], str], state: FinalState) -> str:
        return f"{type(self).__name__}(rank={self.rank!r})"


@dataclass(frozen=True)
class FisherAtValues(Fisher):
    """Fisher Scope, read where a token's information leaves it: at the attention values of every layer.

    score_t = Σ_l √(Σ_h Σ_i λ_i ‖u_iᵀ ∂y/∂v_lht‖₂² ‖v_lht‖₂²), in √nats, ≥ 0: how far changes of the values at a
    position, in proportion to their size, can move the prediction to first order, added up over layers l. h counts
    the heads of `hook_v`: key–value heads where queries are grouped.

    Scores are of positions, not of input tokens: above the first layer the values at a position also hold what earlier
    tokens moved there. What keys do to the patterns, and the last position's own way past attention, are left out. It
    costs what Fisher Scope costs. Half the square of one layer's and head's part is a divergence in nats.

    It is `attribute(..., Fisher(rank), at="hook_v", readout="relative")` by one name. Heads, matrices and modes have
    sites of their own and take Fisher.

    Args:
        rank, samples, exact, seed: as for Fisher.
    """

    scope: ClassVar[str] = "fisher-at-values"
    at: ClassVar[str] = "hook_v"
    readout: ClassVar[Readout] = Relative()


DirectionFunction = Callable[[Tensor, Tensor], "Directions | Tensor | tuple[Tensor, Tensor]"]


@dataclass(frozen=True)
class Custom(Objective):
    """A user's own objective: any function from the final state and the logits to directions.

    Args:
        function: takes y [d_model] and logits [d_vocab] and returns one direction [d_model], several [k, d_model]
            (weight one each), a pair (vectors [k, d_model], weights [k]), or Directions.
        name: how results name it.
    """

    function: DirectionFunction
    name: str = "custom"
    scope: ClassVar[str] = "custom"
    equation: ClassVar[str] = "v_i and w_i as the function gives them"
    output: ClassVar[str] = "a user-defined function of the final state"

    def directions(self, state: FinalState) -> Directions:
        with torch.no_grad():
            returned = self.function(state.y.clone(), state.logits.clone())
        if isinstance(returned, Directions):
            self._check(returned.vectors, returned.weights, len(state.y))
            return returned
        vectors, weights = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, None)
        if not isinstance(vectors, Tensor):
            raise ObjectiveError(
                f"objective {self.name!r} returned {type(returned).__name__}; expected a tensor of directions, a pair "
                "(vectors, weights), or Directions."
            )
        vectors = vectors[None] if vectors.ndim == 1 else vectors
        weights = vectors.new_ones(vectors.shape[:1]) if weights is None else torch.as_tensor(weights)
        self._check(vectors, weights, len(state.y))
        return Directions(vectors.to(state.y), weights.to(state.y), squared=len(vectors) > 1)

    def _check(self, vectors: Tensor, weights: Tensor, d_model: int) -> None:
        problem = None
        if vectors.ndim != 2 or vectors.shape[1] != d_model or len(vectors) == 0:
            problem = f"directions of shape {tuple(vectors.shape)}; expected [{d_model}] or [k, {d_model}]"
        elif weights.shape != (len(vectors),):
            problem = f"weights of shape {tuple(weights.shape)}; expected {len(vectors)}, one for each direction"
        elif not bool(vectors.isfinite().all()):
            problem = "non-finite directions"
        elif not bool((weights.isfinite() & (weights >= 0)).all()):
            problem = f"the weights {[round(value, 6) for value in weights.tolist()]}; expected non-negative numbers"
        if problem is not None:
            raise ObjectiveError(f"objective {self.name!r} returned {problem}.")

    def change(self, before: FinalState, after: FinalState) -> float:
        directions = self.directions(before)
        amounts = directions.vectors @ (after.y - before.y)
        return float(self.predicted_change(directions, amounts))

    def settings(self) -> dict[str, Any]:
        return {"name": self.name}

    def signature(self, label: Callable[[int], str], state: FinalState) -> str:
        return self.name


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
