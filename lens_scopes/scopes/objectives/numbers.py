"""Objectives that are one number of the prediction: a logit, a log-probability, a difference of two, β, the entropy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from lens_scopes.engine.final_state import FinalState
from lens_scopes.engine.model import ScopedModel
from lens_scopes.engine.model.checks import final_norm_is_constant
from lens_scopes.engine.scoring import Directions
from lens_scopes.errors import ObjectiveError
from lens_scopes.prompts.tokens import resolve_token
from lens_scopes.scopes.objectives.base import Objective, is_integer, log_probability_of_answer, make_plain, single

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass(frozen=True)
class _OneToken(Objective):
    token: str | int | None = None

    def __post_init__(self) -> None:
        make_plain(self, "token")

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
        make_plain(self, "token", "other")

    scope: ClassVar[str] = "logit-diff"
    equation: ClassVar[str] = "v = w_token − w_other"
    output: ClassVar[str] = "difference between the logits of the next tokens"

    def prepare(self, model: ScopedModel) -> Self:
        return replace(self, token=resolve_token(model, self.token), other=resolve_token(model, self.other))

    def targets(self, state: FinalState) -> list[int]:
        if isinstance(self.token, int) and isinstance(self.other, int):
            return [self.token, self.other]
        raise ObjectiveError("LogitDiff still holds token strings; call prepare(model) before directions(state).")

    def check_answer(self, has_answer: bool) -> None:
        if has_answer:
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
        make_plain(self, "answer", "other")

    scope: ClassVar[str] = "logprob-diff"
    equation: ClassVar[str] = "v_n = ± (w_target − w̄) at token n of the first and of the second answer"
    output: ClassVar[str] = "difference between the log-probabilities of two answers"

    @property
    def contrasted(self) -> tuple[Any, Any]:
        answer, other = ((item,) if is_integer(item) else item for item in (self.answer, self.other))
        return answer, other

    def check_answer(self, has_answer: bool) -> None:
        if has_answer:
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
