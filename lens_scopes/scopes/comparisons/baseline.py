"""The base of the methods that a scope is compared with."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.final_state import FinalState
from lens_scopes.engine.model import ScopedModel
from lens_scopes.errors import ObjectiveError
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.prompts.spans import SpanLike, write_span
from lens_scopes.prompts.tokens import quote
from lens_scopes.scopes.contract import OF_ANSWER, contract
from lens_scopes.scopes.objectives import Explanation
from lens_scopes.scopes.other_prompt import OtherPrompt


class Baseline(Explanation):
    """Base of the methods to compare with, which have no site, path, readout or points."""

    process: ClassVar[str]
    """The generative process assumed, for the contract."""

    held: ClassVar[str]
    """What is held fixed, for the contract."""

    takes_answer: ClassVar[bool] = False
    """Whether a whole answer can be explained."""

    of_answer: ClassVar[str] = OF_ANSWER
    """What becomes of the score of a whole answer, for the contract."""

    why_alone: ClassVar[str] = "takes no gradient"
    """Why it has no site, path, readout or points."""

    @property
    def part(self) -> SpanLike | None:
        """The part of the prompt whose tokens alone are eligible, for methods with a field `within`; None for all."""
        return getattr(self, "within", None)

    @property
    def other_prompt(self) -> OtherPrompt | None:
        """Another prompt that tokens are replaced from; None for none."""
        return None

    def against(self, other: OtherPrompt) -> Baseline:
        """The same with tokens replaced by another prompt's.

        Raises:
            ObjectiveError: for a method that replaces no tokens.
        """
        raise ObjectiveError(f"{self.scope} replaces no tokens, so there is no place for another prompt in it.")

    def forwards(self, prompt: Prompt) -> int:
        """Rows of forward passes that the scores of a prompt take."""
        return 1

    @property
    def backwards(self) -> int:
        """Rows of backward passes that they take."""
        return 0

    @abstractmethod
    def scores(self, model: ScopedModel, prompt: Prompt, states: Sequence[FinalState]) -> Float[Tensor, " pos"]:
        """One score a token of the prompt.

        Args:
            model: the model.
            prompt: the tokens up to the position explained.
            states: the final state after the last of them; of an answer, that of each of its predictions, whose targets
                are the answer's tokens.

        Raises:
            LensScopesError: EvaluationError, PromptError or ObjectiveError, where the method cannot score the prompt.
        """

    def contract(self, output: str, position: int, n_tokens: int, answer_process: str = "") -> dict[str, str]:
        """The five elements of the attribution contract.

        Args:
            output: the output explained, in words.
            position: after which it comes.
            n_tokens: how many tokens have scores.
            answer_process: how the tokens of the answer explained come about; empty for the next token.
        """
        features, process, held, score = (
            f"the {n_tokens} tokens up to that position",
            self.process,
            self.held,
            self.equation,
        )
        if answer_process:
            features, process = f"the prompt's {n_tokens} tokens", f"{answer_process}; {process}"
            held, score = f"the answer's tokens, {held}", f"{score}{self.of_answer}"
        if self.part is not None:
            part = quote(write_span(self.part))
            features, held = f"of {features}, those within {part}", f"every token outside {part}, {held}"
        return contract(
            output=f"{output}, after position {position}", features=features, process=process, held=held, score=score
        )


class OfOneToken(Baseline):
    """Base of those that explain one next token: the one that `target=` names, or the one that follows."""

    @property
    def takes_target(self) -> bool:
        return True

    def targets(self, state: FinalState) -> list[int]:
        return [state.followed_token]
