"""What is explained: an objective turns the final state into weighted directions, the whole of a scope's choice.

    v_1 … v_k [k, d_model],  w_1 … w_k ≥ 0,  score_t = Σ_i w_i a_i,t²

where a_i,t is what the readout makes of v_iᵀ J_t (its norm, say). An objective that is a number, of one direction,
gives the plain √w·a_t instead, as in Jacobian Scopes (arXiv:2601.16407); the ranking is the same.

Of a whole answer, the objective is summed over the predictions of its tokens, teacher-forced. Numbers take one backward
pass for all of them, v_iᵀ J_t then being Σ_n v_nᵀ J_n,t over the answer's predictions n.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.final_state import FinalState
from lens_scopes.engine.fisher import LeadingTerms, PredictiveGeometry, random_signs
from lens_scopes.engine.model import ScopedModel
from lens_scopes.engine.model.checks import final_norm_is_constant
from lens_scopes.engine.scoring import Directions
from lens_scopes.errors import ObjectiveError, check_seed, whole_number
from lens_scopes.prompts.tokens import as_integer, quote, resolve_token

if TYPE_CHECKING:
    from typing_extensions import Self

NEAR_EQUAL = 0.98  # λ_{k+1}/λ_k above which a rank cuts between near-equals: analyses/README.md, “Eigenvalue gaps”
_MOST_DRAWN = 100_000
_EXACT = 16  # leading directions that a sampled trace takes exactly
_MOST_NUMBERS = 2**28  # in the directions of one answer: 1 GB
EXACT_TRACE_LIMIT = 128  # models up to this d_model get the whole Fisher trace exactly unless samples are asked for


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


def over_answer(parts: Sequence[Directions], seed: int = 0) -> Directions:
    """The directions of an answer from those of its predictions, whose objective they sum.

    Numbers add up: √w_n v_n of all predictions n travel back together. Divergences add up by the chain rule, and each
    exact direction has a backward pass of its own. One random direction of every prediction can share a pass:
    independent random signs ε_n give E‖Σ_n ε_n v_nᵀ J_n‖² = Σ_n E‖v_nᵀ J_n‖².

    Raises:
        ObjectiveError: where some predictions have a number and others a divergence, and for more directions than can
            be held.
    """
    warnings = _warnings_of_answer(parts)
    if not any(part.squared for part in parts):
        vectors = torch.cat([part.weights.sqrt()[:, None] * part.vectors for part in parts])[None]
        return Directions(vectors, vectors.new_ones(1), details=_details_of_answer(parts), warnings=warnings)
    if len({(part.squared, part.sampled) for part in parts}) > 1:
        raise ObjectiveError("the objective is a number at some of the answer's tokens and a divergence at others.")
    sampled, (d_model,) = parts[0].sampled, parts[0].vectors.shape[1:]
    n_exact = sum(len(part.vectors) - sampled for part in parts)
    if n_exact * len(parts) * d_model > _MOST_NUMBERS:
        raise ObjectiveError(
            f"an answer of {len(parts)} tokens has {n_exact} directions, each with a backward pass of its own; take a "
            "smaller rank, a shorter answer, or random directions: Fisher(rank, samples=16)."
        )
    # Exact directions: one row each, from its own prediction alone.
    vectors = parts[0].vectors.new_zeros(n_exact + sampled, len(parts), d_model)
    row = 0
    for index, part in enumerate(parts):
        exact = part.vectors[: len(part.vectors) - sampled]
        vectors[row : row + len(exact), index] = exact
        row += len(exact)
    # Random ones: a row of every prediction's, mixed by signs.
    signs = random_signs((sampled, len(parts)), torch.Generator().manual_seed(seed)).to(vectors)
    for index, part in enumerate(parts):
        vectors[row:, index] = signs[:, index, None] * part.vectors[len(part.vectors) - sampled :]
    weights = [part.weights[: len(part.weights) - sampled] for part in parts]
    weights.append(parts[0].weights[len(parts[0].weights) - sampled :])
    return Directions(
        vectors,
        torch.cat(weights),
        squared=True,
        sampled=sampled,
        details=_details_of_answer(parts),
        warnings=warnings,
    )


def contrast(first: Directions, second: Directions) -> Directions:
    """The directions of one number minus another, both of answers."""
    return replace(first, vectors=torch.cat([first.vectors, -second.vectors], dim=1))


def _details_of_answer(parts: Sequence[Directions]) -> dict[str, Any]:
    """The worst of what the predictions' directions say of themselves."""
    worst = {"residual": max, "gap": max, "share": min, "converged": all, "exact": sum, "samples": max}
    return {
        name: of(part.details[name] for part in parts)
        for name, of in worst.items()
        if all(part.details.get(name) is not None for part in parts)
    }


def _warnings_of_answer(parts: Sequence[Directions]) -> list[str]:
    """The first warning, and how many of the answer's predictions have one."""
    warned = [(index, part.warnings[0]) for index, part in enumerate(parts) if part.warnings]
    if not warned:
        return []
    index, text = warned[0]
    more = f" ({len(warned)} of the answer's {len(parts)} tokens have such a warning.)" if len(warned) > 1 else ""
    return [f"at token {index} of the answer: {text}{more}"]


def log_probability_of_answer(text: str, n_tokens: int) -> str:
    """An answer's log-probability, in words."""
    return f"log P(answer | prompt) of the answer {text!r}, the sum over its {n_tokens} tokens"


class Explanation(ABC):
    """Base of everything that `attribute` can be asked for. Subclasses are frozen dataclasses whose fields are their
    settings."""

    scope: ClassVar[str]
    """The short name used on the command line."""

    equation: ClassVar[str]
    """How the score is made, as an equation in the paper's symbols."""

    output: ClassVar[str]
    """The output explained, in words, before the names of its tokens."""

    def prepare(self, model: ScopedModel) -> Self:
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

    @property
    def contrasted(self) -> tuple[Any, Any] | None:
        """The two answers that the explanation contrasts, where it names any."""
        return None

    def check_answer(self, answered: bool) -> None:
        """Refuses an answer that has no place, and settings that need one.

        Raises:
            ObjectiveError: where the explanation names tokens of its own, or answers of its own.
        """
        if answered and getattr(self, "token", None) is not None:
            raise ObjectiveError(
                f"{self!r} names its own token, so the answer's would be dropped; write {type(self).__name__}()."
            )

    def describe_answer(self, text: str, n_tokens: int) -> str:
        """The output explained, summed over the tokens of an answer, in words."""
        return f"{self.output}, summed over the predictions of the {n_tokens} tokens of the answer {text!r}"

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
    """Base of every objective: an output explained by its gradients at one final state.

    Example:
        >>> isinstance(ls.Fisher(), ls.Objective), isinstance(ls.LeaveOneOut(), ls.Objective)
        (True, False)
    """

    @abstractmethod
    def directions(self, state: FinalState) -> Directions:
        """The weighted directions that explain this objective at one final state."""

    def answer_directions(self, states: Sequence[FinalState]) -> Directions:
        """The weighted directions that explain this objective summed over an answer, one final state a token."""
        return over_answer([self.directions(state) for state in states])

    @abstractmethod
    def change(self, before: FinalState, after: FinalState) -> float:
        """What an intervention really did to the output explained, in the units of `predicted_change`."""

    def answer_change(self, before: Sequence[FinalState], after: Sequence[FinalState]) -> float:
        """The same of an answer, summed over its predictions: a divergence by the chain rule, along this answer."""
        return sum(self.change(*pair) for pair in zip(before, after, strict=True))

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

    def __post_init__(self) -> None:
        _make_plain(self, "token")

    @property
    def takes_target(self) -> bool:
        return self.token is None

    def prepare(self, model: ScopedModel) -> Self:
        return self if self.token is None else replace(self, token=resolve_token(model, self.token))

    def targets(self, state: FinalState) -> list[int]:
        if isinstance(self.token, str):
            raise ObjectiveError(
                f"{type(self).__name__} still holds the string {self.token!r}; call prepare(model) before "
                "directions(state)."
            )
        if self.token is not None:
            return [self.token]
        return [state.followed_token]


@dataclass(frozen=True)
class Semantic(_OneToken):
    """Semantic Scope: which tokens could change the logit of one next token the most?

    v = ∂logit_target/∂y = w_target, and score_t = ‖w_targetᵀ J_t‖₂ in logits per unit of activation norm, ≥ 0.
    Under an output soft-cap v carries its slope, 1 − tanh²(z/c).

    Args:
        token: the target, as a string that is one token or as an id; by default the token that follows in the
            text, else the model's own top token.

    Source: Jacobian Scopes, arXiv:2601.16407, Semantic Scope.

    Example:
        >>> ls.attribute(model, "The capital of France is", ls.Semantic(" Paris")).objective
        "Semantic(' Paris')"
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

    Example:
        >>> ls.attribute(model, "The capital of France is Paris", ls.LogProb(), position=-2).target.token
        ' Paris'
    """

    scope: ClassVar[str] = "logprob"
    equation: ClassVar[str] = "v = w_target − w̄"
    output: ClassVar[str] = "log-probability of the next token"

    def describe_answer(self, text: str, n_tokens: int) -> str:
        return log_probability_of_answer(text, n_tokens)

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

    Example:
        >>> att = ls.attribute(model, "The capital of France is", ls.LogitDiff(" Paris", " Rome"))
        >>> att.objective, bool((att.scores >= 0).all())
        ("LogitDiff(' Paris', ' Rome')", True)
    """

    token: str | int
    other: str | int

    def __post_init__(self) -> None:
        _make_plain(self, "token", "other")

    scope: ClassVar[str] = "logit-diff"
    equation: ClassVar[str] = "v = w_token − w_other"
    output: ClassVar[str] = "difference between the logits of the next tokens"

    def prepare(self, model: ScopedModel) -> Self:
        return replace(self, token=resolve_token(model, self.token), other=resolve_token(model, self.other))

    def targets(self, state: FinalState) -> list[int]:
        if isinstance(self.token, int) and isinstance(self.other, int):
            return [self.token, self.other]
        raise ObjectiveError("LogitDiff still holds token strings; call prepare(model) before directions(state).")

    def check_answer(self, answered: bool) -> None:
        if answered:
            raise ObjectiveError(
                "LogitDiff names its own tokens; contrast two answers with LogProbDiff(answer, other)."
            )

    def directions(self, state: FinalState) -> Directions:
        token, other = state.logit_gradients(self.targets(state))
        return single(token - other)

    def change(self, before: FinalState, after: FinalState) -> float:
        token, other = self.targets(before)
        return float((after.logits[token] - after.logits[other]) - (before.logits[token] - before.logits[other]))


@dataclass(frozen=True)
class LogProbDiff(Objective):
    """How much more probable one answer is than another, of any two lengths.

    log P(answer | prompt) − log P(other | prompt), each the sum over its tokens' log-probabilities, teacher-forced.
    score_t = ‖∂(that difference)/∂x_t‖₂ in nats per unit of activation norm, ≥ 0; signed with the readout "dot". Both
    answers run in one batch, with one backward pass.

    Args:
        answer: a text, token ids, or the id of one token.
        other: the answer it is contrasted with.

    Example:
        >>> contrast = ls.LogProbDiff(" Paris", " Rome, of course")
        >>> att = ls.attribute(model, "The capital of France is", contrast, readout="dot")
        >>> len(att.answer.tokens) < len(att.other_answer.tokens), att.scores.shape
        (True, torch.Size([6]))
    """

    answer: str | int | Sequence[int]
    other: str | int | Sequence[int]

    def __post_init__(self) -> None:
        _make_plain(self, "answer", "other")

    scope: ClassVar[str] = "logprob-diff"
    equation: ClassVar[str] = "v_n = ± (w_target − w̄) at token n of the first and of the second answer"
    output: ClassVar[str] = "difference between the log-probabilities of two answers"

    @property
    def contrasted(self) -> tuple[Any, Any]:
        answer, other = ((item,) if _is_integer(item) else item for item in (self.answer, self.other))
        return answer, other

    def check_answer(self, answered: bool) -> None:
        if answered:
            raise ObjectiveError("LogProbDiff names its own two answers; leave answer out.")

    def describe_answer(self, text: str, n_tokens: int) -> str:
        return f"log P(answer | prompt) of {text}"

    def signature(self, label: Callable[[int], str], state: FinalState) -> str:
        return f"LogProbDiff({self.answer!r}, {self.other!r})"

    def directions(self, state: FinalState) -> Directions:
        raise ObjectiveError(
            "LogProbDiff explains two answers, and no single prediction; take LogitDiff for two tokens."
        )

    def answer_directions(self, states: Sequence[FinalState]) -> Directions:
        """Those of one answer's log-probability; `contrast` puts both together."""
        return LogProb().answer_directions(states)

    def answer_change(self, before: Sequence[FinalState], after: Sequence[FinalState]) -> float:
        """That of one answer's log-probability."""
        return LogProb().answer_change(before, after)

    def change(self, before: FinalState, after: FinalState) -> float:
        raise ObjectiveError("LogProbDiff explains two answers, and no single prediction.")


@dataclass(frozen=True)
class Temperature(Objective):
    """Temperature Scope: which tokens could change the model's confidence the most?

    v = y / ‖y‖, held constant; β = ‖y‖ is the inverse effective temperature. score_t = ‖vᵀ J_t‖₂ in units of β per unit
    of activation norm, ≥ 0.

    Raises:
        ObjectiveError: from `prepare`, where the model's final norm has no weights or equal ones (OLMo-1; any model
            loaded with fold_ln=True): ‖y‖ is constant there, and its gradient is rounding error.

    Source: Jacobian Scopes, arXiv:2601.16407, Temperature Scope.

    Example:
        >>> ls.attribute(model, "The capital of France is", ls.Temperature()).scores.shape
        torch.Size([6])
    """

    scope: ClassVar[str] = "temperature"
    equation: ClassVar[str] = "v = y/‖y‖"
    output: ClassVar[str] = "inverse effective temperature β = ‖y‖ of the next-token prediction"

    def prepare(self, model: ScopedModel) -> Self:
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

    Example:
        >>> ls.attribute(model, "The capital of France is", ls.Entropy()).contract["output explained"]
        'entropy of the next-token prediction, after position 5'
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

    Of an answer, score_t = Σ_n tr(J_n,tᵀ F_n J_n,t) or its leading terms, summed over the answer's predictions n: the
    divergence of the whole continuation, by the chain rule, along this one answer. Exactly, that takes rank × length
    backward passes. With `samples` it takes that many at any length and rank, without bias and with a standard error:
    random signs mix the leading terms √λ_i u_i of all predictions.

    Args:
        rank: number of leading terms, between 1 and d_model, or "trace".
        samples: random directions for rank "trace" or for an answer; 0 asks for none, an exact score. By default none
            for a rank; for the trace none up to d_model = 128, else 16; for the trace of an answer 16.
        exact: leading directions taken exactly beside the random ones, for rank "trace". By default 16, and 0 at each
            token of an answer.
        seed: seed of the random directions; the global generator is not touched.

    The result's `settings["details"]` hold for rank k: `eigenvalues`; `residual`, a bound on ‖F u_i − λ_i u_i‖ / λ_1,
    which bounds neither the score nor that the pairs are the leading ones; `gap`, λ_{k+1}/λ_k; `share`, the part of
    tr F that the k directions hold; `converged`. It warns where `gap` is near one or the solver stopped early.

    Source: Jacobian Scopes, arXiv:2601.16407, Fisher Scope.

    Example:
        >>> one = ls.attribute(model, "The capital of France is", ls.Fisher())
        >>> whole = ls.attribute(model, "The capital of France is", ls.Fisher("trace"))
        >>> bool((one.scores <= whole.scores).all()), one.details.share < 1
        (True, True)
    """

    rank: int | Literal["trace"] = 1
    samples: int | None = None
    exact: int | None = None
    seed: int = 0
    scope: ClassVar[str] = "fisher"
    equation: ClassVar[str] = (
        "Σ_i w_i v_i v_iᵀ = F = W_U (diag p − p pᵀ) W_Uᵀ, its leading terms or an unbiased estimate"
    )
    output: ClassVar[str] = "the whole next-token distribution"

    def __post_init__(self) -> None:
        _make_plain(self, "rank", "samples", "exact")
        if not (self.rank == "trace" if isinstance(self.rank, str) else _is_integer(self.rank) and self.rank >= 1):
            raise ObjectiveError(f'Fisher rank must be a positive integer or "trace"; got {quote(self.rank)}.')
        object.__setattr__(self, "seed", check_seed(self.seed))
        counts = range(_MOST_DRAWN + 1)
        if self.samples is not None and (
            not _is_integer(self.samples) or self.samples == 1 or self.samples not in counts
        ):
            raise ObjectiveError(
                "Fisher samples must be 0 (exact) or at least 2 (for a standard error), up to "
                f"{_MOST_DRAWN}; got {self.samples!r}."
            )
        if self.exact is not None and (not _is_integer(self.exact) or self.exact not in counts):
            raise ObjectiveError(f"Fisher exact must be a non-negative integer; got {self.exact!r}.")

    def prepare(self, model: ScopedModel) -> Self:
        d_model = model.cfg.d_model
        if self.rank != "trace" and self.rank > d_model:
            raise ObjectiveError(
                f"Fisher rank {self.rank} is above d_model = {d_model}, the most F can have; "
                'ask for a smaller rank, or rank="trace" for all of it.'
            )
        return self

    def check_answer(self, answered: bool) -> None:
        if self.rank != "trace" and self.samples and not answered:
            raise ObjectiveError(
                f"Fisher(rank={self.rank}) of one prediction needs no random directions, so samples={self.samples} "
                'would be dropped; leave samples out, or take rank="trace".'
            )

    def describe_answer(self, text: str, n_tokens: int) -> str:
        return (
            f"the whole distributions of the {n_tokens} next tokens along the answer {text!r}, their divergences summed"
        )

    def directions(self, state: FinalState) -> Directions:
        geometry = PredictiveGeometry(state)
        if self.rank == "trace":
            samples = self.samples
            if samples is None:
                samples = 0 if state.unembedding.d_model <= EXACT_TRACE_LIMIT else 16
            return self._trace(geometry, samples, _EXACT if self.exact is None else self.exact)
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

    def answer_directions(self, states: Sequence[FinalState]) -> Directions:
        if self.rank == "trace":
            samples = 16 if self.samples is None else self.samples
            parts = [self._trace(PredictiveGeometry(state), samples, self.exact or 0) for state in states]
            return over_answer(parts, self.seed + 1)
        parts = [self.directions(state) for state in states]
        if self.samples:
            # √λ_i u_i of one prediction mixed by random signs; `over_answer` gives the predictions theirs.
            parts = [self._mixed(part, self.samples, self.seed) for part in parts]
        return over_answer(parts, self.seed + 1)

    @staticmethod
    def _mixed(leading: Directions, samples: int, seed: int) -> Directions:
        """Random directions Σ_i ε_i √λ_i u_i, with E‖vᵀJ‖² = Σ_i λ_i ‖u_iᵀJ‖²."""
        signs = random_signs((samples, len(leading.vectors)), torch.Generator().manual_seed(seed)).to(leading.vectors)
        vectors = signs @ (leading.weights.sqrt()[:, None] * leading.vectors)
        return replace(
            leading,
            vectors=vectors,
            weights=vectors.new_full((samples,), 1 / samples),
            sampled=samples,
            details={**leading.details, "exact": 0, "samples": samples},
        )

    def _trace(self, geometry: PredictiveGeometry, samples: int, n_exact: int) -> Directions:
        d_model = geometry.state.unembedding.d_model
        if samples == 0:
            terms = geometry.leading(d_model)
            return Directions(terms.vectors, terms.eigenvalues, squared=True, details={"directions": d_model})
        generator = torch.Generator().manual_seed(self.seed)
        exact, sampled = geometry.split_trace(n_exact, samples, generator)
        weights = torch.cat([exact.new_ones(len(exact)), sampled.new_full((samples,), 1 / samples)])
        details = {"exact": len(exact), "samples": samples}
        return Directions(torch.cat([exact, sampled]), weights, squared=True, sampled=samples, details=details)

    def change(self, before: FinalState, after: FinalState) -> float:
        """KL(p before ‖ p after), in nats."""
        return before.divergence(after)

    def signature(self, label: Callable[[int], str], state: FinalState) -> str:
        return f"{type(self).__name__}(rank={self.rank!r})"


DirectionFunction = Callable[[Tensor, Tensor], "Directions | Tensor | tuple[Tensor, Tensor]"]


@dataclass(frozen=True)
class Custom(Objective):
    """A user's own objective: any function from the final state and the logits to directions.

    Args:
        function: takes y [d_model] and logits [d_vocab] and returns one direction [d_model], several [k, d_model]
            (weight one each), a pair (vectors [k, d_model], weights [k]), or Directions.
        name: how results name it.

    Example:
        >>> top = ls.Custom(lambda y, logits: y / y.norm(), name="confidence")
        >>> scores = ls.attribute(model, "The capital of France is", top).scores
        >>> torch.allclose(scores, ls.attribute(model, "The capital of France is", ls.Temperature()).scores)
        True
    """

    function: DirectionFunction
    name: str = "custom"
    scope: ClassVar[str] = "custom"
    equation: ClassVar[str] = "v_i and w_i as the function gives them"
    output: ClassVar[str] = "a user-defined function of the final state"

    def __post_init__(self) -> None:
        if not callable(self.function) or not isinstance(self.name, str):
            raise ObjectiveError("a custom objective is a function of (y, logits), and its name is a text.")

    def directions(self, state: FinalState) -> Directions:
        with torch.no_grad():
            returned = self.function(state.y.clone(), state.logits.clone())
        if isinstance(returned, Directions):
            self._check_fields(returned)
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

    def _check_fields(self, returned: Directions) -> None:
        """Raises ObjectiveError for Directions whose fields are something else."""
        for name, kind in (("vectors", Tensor), ("weights", Tensor), ("squared", bool), ("details", Mapping)):
            if not isinstance(value := getattr(returned, name), kind):
                raise ObjectiveError(
                    f"objective {self.name!r} returned Directions whose {name} are {type(value).__name__}; expected "
                    f"{kind.__name__}."
                )
        words = returned.warnings
        if not isinstance(words, list | tuple) or not all(isinstance(text, str) for text in words):
            raise ObjectiveError(f"objective {self.name!r} returned Directions whose warnings are no list of texts.")
        rows = returned.vectors.shape[0] if returned.vectors.ndim else 0
        whole_number(returned.sampled, "sampled", ObjectiveError, most=rows)

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


def _make_plain(objective: Objective, *names: str) -> None:
    """Makes integers and arrays of other libraries Python's own, which compare and can be written."""
    for name in names:
        value = getattr(objective, name)
        number = as_integer(value)
        values = value.tolist() if hasattr(value, "tolist") else value
        plain = tuple(values) if isinstance(values, list | range) else number
        if plain is not None:
            object.__setattr__(objective, name, plain)


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
