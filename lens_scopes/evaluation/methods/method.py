"""A method: a scope or comparison method with its choices, which scores the tokens of a prompt at a known cost."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor

from lens_scopes.attribution.attribute import attribute
from lens_scopes.attribution.resolved import ResolvedSpec
from lens_scopes.engine.model import ModelLike, ScopedModel
from lens_scopes.errors import EvaluationError, LensScopesError, ObjectiveError
from lens_scopes.evaluation.methods.randomized_blocks import RandomizedBlocks
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.scopes.comparisons.baseline import Baseline
from lens_scopes.scopes.objectives import Explanation
from lens_scopes.scopes.spec import Spec

TargetIds: TypeAlias = int | tuple[int, ...]
"""What is explained of a prompt: the next token, or the tokens of an answer after it."""


@dataclass(frozen=True)
class MethodScores:
    """A method's scores of one prompt.

    Attributes:
        scores: one a token, up to the position explained.
        forwards: rows of forward passes they were made from. What an outside function runs is not known.
        backwards: rows of backward passes they were made from.
    """

    scores: Float[Tensor, " pos"]
    forwards: int
    backwards: int


@dataclass(frozen=True)
class Method:
    """A way to score the tokens of a prompt, with a name for tables.

    Attributes:
        name: as in tables.
        spec: what `attribute` is asked for.
        redrawn: whether the scores are those of the model with all of its blocks redrawn, which has learnt nothing.
    """

    name: str
    spec: Spec
    redrawn: bool = False

    @property
    def explanation(self) -> Explanation:
        """The objective or comparison method."""
        return self.spec.objective

    @property
    def per_prompt(self) -> bool:
        """Whether it is measured from the passage's other prompt, which `against` gives."""
        return self.spec.per_prompt

    def against(self, other: Sequence[int] | None) -> Method:
        """The same measured from the other prompt of one passage, where it asks for one.

        Raises:
            EvaluationError: where it does and there is none.
        """
        if not self.per_prompt:
            return self
        if other is None:
            raise EvaluationError(f"method {self.name!r} is measured from another prompt, and this passage has none.")
        return replace(self, spec=self.spec.against(tuple(other)))

    def within(self, part: tuple[int, int] | None) -> Method:
        """The same with the eligible part of one passage, for methods that take one and name none of their own."""
        if part is None or getattr(self.explanation, "within", part) is not None:
            return self
        return replace(self, spec=self.spec.replace(objective=replace(self.explanation, within=part)))  # pyright: ignore[reportArgumentType, reportCallIssue]

    def check(self, model: ModelLike, *, with_answers: bool = False) -> None:
        """Checks the choices against the model, before any passage is scored.

        Args:
            with_answers: whether whole answers are explained.

        Raises:
            EvaluationError: where one of them does not fit the model, or answers.
        """
        try:
            spec = self._of_answer((0,)) if with_answers else self.spec
            ResolvedSpec.of(model, spec, takes_answers=with_answers).path_hooks()
            if self.spec.points is not None:
                self.spec.points.check(ScopedModel.of(model))
        except LensScopesError as error:
            raise EvaluationError(f"method {self.name!r}: {error}") from error

    def score(
        self, model: ModelLike, prompt: Prompt, target: TargetIds, blocks: RandomizedBlocks | None = None
    ) -> MethodScores:
        """Scores the prompt's tokens for the prediction after its last one, or for an answer after it.

        Args:
            target: the next token that methods explain which take one, or the tokens of the answer.
            blocks: the redrawn blocks for a method that is `redrawn`; drawn with seed 0 unless given.
        """
        if self.redrawn:
            blocks = blocks or RandomizedBlocks(model)
        with blocks.final(model.cfg.n_layers) if blocks and self.redrawn else nullcontext():
            return self._score(model, prompt, target)

    def _of_answer(self, answer: tuple[int, ...]) -> Spec:
        """What `attribute` is asked for with an answer, which methods that know of no prediction do without.

        Raises:
            ObjectiveError: for methods of one token, and for those that name an answer of their own.
        """
        if self.spec.answer is not None:
            raise ObjectiveError("answers are those of the passages; leave the method's own out.")
        if isinstance(self.explanation, Baseline) and not self.explanation.takes_answer:
            if self.explanation.takes_target:
                raise ObjectiveError("it explains one next token, and whole answers are explained; choose another.")
            return self.spec
        return self.spec.replace(answer=answer)

    def _score(self, model: ModelLike, prompt: Prompt, target: TargetIds) -> MethodScores:
        if isinstance(target, int):
            spec = self.spec.replace(target=target) if self.explanation.takes_target else self.spec
        else:
            spec = self._of_answer(target)
        result = attribute(model, prompt, spec)
        if isinstance(self.explanation, Baseline):
            return MethodScores(result.scores, self.explanation.forwards(prompt), self.explanation.backwards)
        directions, points = result.settings["directions"], self.spec.points
        if points is None:
            return MethodScores(result.scores, 1, directions)
        return MethodScores(result.scores, 1 + points.count, points.count * directions)
