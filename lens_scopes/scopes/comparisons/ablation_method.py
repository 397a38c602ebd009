"""The base of the methods that ablate tokens, and the segments of a prompt that they ablate as a whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_scopes.engine.ablations import ABLATIONS, TokenAblation, find_ablation
from lens_scopes.engine.final_state import FinalState
from lens_scopes.engine.model import ScopedModel
from lens_scopes.engine.token_ablation import AblatedPrompt, Outcomes
from lens_scopes.errors import VALIDATED, EvaluationError, ObjectiveError, check_seed, whole_number
from lens_scopes.prompts.alignment import read_aligned
from lens_scopes.prompts.groups import UNITS
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.prompts.spans import SpanLike, as_span, write_span
from lens_scopes.prompts.tokens import quote
from lens_scopes.scopes.comparisons.baseline import Baseline, OfOneToken
from lens_scopes.scopes.other_prompt import OtherPrompt, as_baseline, describe_other_prompt
from lens_scopes.scopes.text.values import EACH

Ablation: TypeAlias = Annotated["str | Sequence[int] | Tensor | Prompt", VALIDATED]


class AblationMethod(Baseline):
    """Base of the methods that ablate tokens; their field `ablation` is a name of ABLATIONS, or another prompt."""

    ablation: Any

    def _read_ablation(self) -> None:
        """Makes another prompt of the field a value that can be compared.

        Raises:
            EvaluationError: for what is neither a name nor a prompt, and for ablations that take other passages.
        """
        ablation = self.ablation
        other = None if isinstance(ablation, str) and ablation in ABLATIONS else as_baseline(ablation)
        if other is not None:
            object.__setattr__(self, "ablation", other)
        elif not isinstance(ablation, str):
            raise EvaluationError(
                f"an ablation is one of {', '.join(ABLATIONS)}, or another prompt as text, chat messages, ids or "
                f"a Prompt; got {quote(ablation)}."
            )
        elif find_ablation(ablation).corpus == "required":
            raise EvaluationError(
                f"{type(self).__name__} sees one prompt alone, so it has no {ablation} to replace tokens by; choose "
                "'mean', the prompt's own, or another."
            )

    @property
    def token_ablation(self) -> TokenAblation:
        """The entry of ABLATIONS."""
        return ABLATIONS[EACH if self.other_prompt is not None else self.ablation]

    @property
    def replacement(self) -> str:
        """What a token is replaced by, in words."""
        other = self.other_prompt
        return (
            self.token_ablation.help if other is None else f"the token in its place in {describe_other_prompt(other)}"
        )

    @property
    def other_prompt(self) -> OtherPrompt | None:
        is_name = isinstance(self.ablation, str) and self.ablation in ABLATIONS
        return None if is_name else self.ablation

    def against(self, other: OtherPrompt) -> Baseline:
        if self.other_prompt is None and self.ablation != EACH:
            raise ObjectiveError(
                f"{self.scope} replaces tokens by {self.ablation!r} already, so there is no place for another prompt; "
                f"write ablation={EACH!r}."
            )
        return replace(self, ablation=other)  # pyright: ignore[reportArgumentType]

    def ablated(self, model: ScopedModel, prompt: Prompt, targets: Sequence[int], **options: Any) -> AblatedPrompt:
        """The prompt with its ablation.

        Raises:
            PromptError: for another prompt of another length.
            EvaluationError: as `AblatedPrompt`.
        """
        other, ids = self.other_prompt, None
        if other is not None:
            ids = read_aligned(model, prompt, other, len(prompt)).token_ids
        return AblatedPrompt(
            model, prompt.token_ids, prompt.special, targets, self.token_ablation.name, other=ids, **options
        )


@dataclass(frozen=True)
class SubsetAblationMethod(AblationMethod, OfOneToken):
    """Base of the methods that run a prompt with random subsets of its segments, and score a segment by all of them."""

    ablations: int = 64
    by: str = "token"
    ablation: Ablation = "mean"
    seed: int = 0
    within: SpanLike | None = None
    held: ClassVar[str] = "the weights and special tokens"
    takes_answer: ClassVar[bool] = True
    of_answer: ClassVar[str] = ""

    def __post_init__(self) -> None:
        ablations = whole_number(self.ablations, "the number of ablations", ObjectiveError, least=2, most=100_000)
        object.__setattr__(self, "ablations", ablations)
        object.__setattr__(self, "seed", check_seed(self.seed))
        check_unit(self.by)
        check_part(self)
        self._read_ablation()

    def signature(self, label: Callable[[int], str], state: FinalState) -> str:
        name = type(self).__name__
        return f"{name}({self.ablations}, by={self.by!r}, ablation={self.ablation!r}{part_argument(self)})"

    def run_subsets(
        self,
        model: ScopedModel,
        prompt: Prompt,
        states: Sequence[FinalState],
        segments: Sequence[Sequence[int]],
        without: Bool[Tensor, "row segment"],
    ) -> tuple[AblatedPrompt, Outcomes]:
        """The prompt, and what becomes of its targets without the segments of each row."""
        targets, clean = [state.followed_token for state in states], torch.stack([state.y for state in states])
        ablated = self.ablated(model, prompt, targets, draws=1, seed=self.seed, clean_states=clean)
        masks = without.float() @ ablated.masks(segments).float() > 0
        return ablated, ablated.outcomes(masks, with_divergence=False)


def check_unit(by: str) -> None:
    """Raises ObjectiveError for what is no unit that can be left out as a whole."""
    if not isinstance(by, str) or by not in UNITS:
        raise ObjectiveError(f"by is {', '.join(map(repr, UNITS[:-1]))} or {UNITS[-1]!r}; got {by!r}.")


def check_part(method: Any) -> None:
    """Makes a method's eligible part a plain value; PromptError for what is none."""
    if method.within is not None:
        object.__setattr__(method, "within", as_span(method.within))


def part_argument(method: Any) -> str:
    """How a method's eligible part is written in Python, after its other arguments."""
    return "" if method.within is None else f", within={quote(write_span(method.within))}"


def spread(values: Float[Tensor, " segment"], segments: Sequence[Sequence[int]], n_pos: int) -> Float[Tensor, " pos"]:
    """Scores of segments divided evenly over their tokens; the sum over a segment's tokens is its own score."""
    scores = torch.zeros(n_pos, dtype=values.dtype)
    for value, tokens in zip(values, segments, strict=True):
        scores[list(tokens)] = value / len(tokens)
    return scores
