"""Leaving out: what really happens to the prediction when a token or a segment is ablated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, TypeAlias

from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.final_state import FinalState
from lens_scopes.engine.model import ScopedModel
from lens_scopes.engine.token_ablation import check_draws
from lens_scopes.errors import VALIDATED, ObjectiveError, check_seed
from lens_scopes.prompts.groups import segments
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.prompts.spans import SpanLike
from lens_scopes.scopes.comparisons.ablation_method import (
    Ablation,
    AblationMethod,
    check_part,
    check_unit,
    part_argument,
    spread,
)
from lens_scopes.scopes.objectives.base import log_probability_of_answer

Measure: TypeAlias = Annotated["Literal['kl', 'logit', 'logprob']", VALIDATED]


@dataclass(frozen=True)
class LeaveOneOut(AblationMethod):
    """What really happens when a token is ablated, one token or segment at a time; special tokens stay in place and
    score 0.

    - "kl": KL(p ‖ p without token t), nats, ≥ 0;
    - "logit", "logprob": how far the target's logit or log-probability falls (negative where it rises).

    Of a whole answer, whose own tokens stay, they are summed over its predictions: "logprob" is then the fall of
    log P(answer | prompt), and "kl" the divergence of the whole continuation along the answer.

    By sentence, line, paragraph or turn, all tokens of a segment are ablated together, and what that does is divided
    evenly over them: `att.group("sentence")` gives each sentence's own effect back.

    Args:
        measure: "kl", "logit" or "logprob".
        ablation: what a token is replaced by: "zero", "mean" (of the embeddings of the prompt's non-special
            tokens), "pad", "eos", "bos", "resample" (by tokens drawn from the prompt itself) or "remove"; or another
            prompt of as many tokens (text, chat messages, ids or a Prompt): the token that it has in the same place.
        draws: random replacements averaged for "resample".
        seed: of the draws.
        by: what is ablated together: "token", or as for `Attribution.group` "word", "line", "sentence", "paragraph" or
            "turn".
        within: the eligible part of the prompt, such as a document; all else (a question) stays, and scores 0. The name
            of a span or chat turn, a part of the text, `Chars(start, stop)`, or (start, stop) in tokens; by default the
            whole prompt.

    Raises:
        ObjectiveError: for an unknown measure or unit.
        EvaluationError: for an unknown ablation, for "corpus-mean", and draws that are not a positive integer.
        PromptError: for a part of another kind; when used, for a part that the prompt has not, for one segment alone,
            and for another prompt of another length, with the place where the two part.

    Example:
        >>> att = ls.attribute(model, "The capital of France is", ls.LeaveOneOut("kl", ablation="mean"))
        >>> att.scores.shape, bool((att.scores >= 0).all())
        (torch.Size([6]), True)
    """

    measure: Measure = "kl"
    ablation: Ablation = "zero"
    draws: int = 4
    seed: int = 0
    by: str = "token"
    within: SpanLike | None = None
    scope: ClassVar[str] = "leave-one-out"
    takes_answer: ClassVar[bool] = True
    held: ClassVar[str] = "the weights, the other tokens and the positions"

    def __post_init__(self) -> None:
        if not isinstance(self.measure, str) or self.measure not in ("kl", "logit", "logprob"):
            raise ObjectiveError(f'LeaveOneOut measures "kl", "logit" or "logprob"; got {str(self.measure)[:60]!r}.')
        object.__setattr__(self, "draws", check_draws(self.draws))
        object.__setattr__(self, "seed", check_seed(self.seed))
        check_unit(self.by)
        check_part(self)
        self._read_ablation()

    @property
    def output(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        kinds = {"kl": "the whole next-token distribution", "logit": "logit of the next token"}
        return kinds.get(self.measure, "log-probability of the next token")

    @property
    def equation(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        out = "t" if self.by == "token" else "s"
        symbols = {"kl": f"KL(p ‖ p_∖{out})", "logit": f"z_target − z_target∖{out}"}
        symbol = symbols.get(self.measure, f"log p_target/p_target∖{out}")
        if self.by == "token":
            return f"score_t = {symbol}, p_∖t being the prediction without token t"
        return (
            f"score_t = ({symbol}) / |s|, p_∖s being the prediction without the {self.by} s of token t, and |s| its "
            "number of tokens"
        )

    @property
    def process(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        replaced = f"is replaced by {self.replacement}"
        if self.by == "token":
            return f"one token at a time {replaced}"
        return (
            f"one {self.by} at a time is left out: each of its tokens {replaced}; what that does is divided evenly "
            "over them"
        )

    @property
    def takes_target(self) -> bool:
        return self.measure != "kl"

    def targets(self, state: FinalState) -> list[int]:
        if self.measure == "kl":
            return []
        return [state.followed_token]

    def describe_answer(self, text: str, n_tokens: int) -> str:
        if self.measure == "logprob":
            return log_probability_of_answer(text, n_tokens)
        return super().describe_answer(text, n_tokens)

    def signature(self, label: Callable[[int], str], state: FinalState) -> str:
        by = "" if self.by == "token" else f", by={self.by!r}"
        return f"LeaveOneOut({self.measure!r}, ablation={self.ablation!r}{by}{part_argument(self)})"

    def forwards(self, prompt: Prompt) -> int:
        draws = self.draws if self.token_ablation.random else 1
        return 1 + draws * len(segments(prompt, self.by, self.within))

    def scores(self, model: ScopedModel, prompt: Prompt, states: Sequence[FinalState]) -> Float[Tensor, " pos"]:
        targets = [state.followed_token for state in states]
        ablated = self.ablated(model, prompt, targets, draws=self.draws, seed=self.seed)
        left_out = segments(prompt, self.by, self.within)
        after = ablated.outcomes(ablated.masks(left_out), with_divergence=self.measure == "kl")
        values = {
            "kl": after.divergence,
            "logit": ablated.clean_logit - after.logit,
            "logprob": ablated.clean_log_probability - after.log_probability,
        }[self.measure]
        return spread(values, left_out, len(prompt)).to(states[0].y.dtype)
