"""One prompt with what is explained after it: the next token at a position, or whole answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from lens_scopes.engine.final_state import FinalState
from lens_scopes.engine.model import ScopedModel
from lens_scopes.errors import PromptError
from lens_scopes.prompts.alignment import read_aligned
from lens_scopes.prompts.answer import Answer, read_answer
from lens_scopes.prompts.prompt import Prompt, next_token_id, resolve_position
from lens_scopes.prompts.read import PromptLike, read_prompt
from lens_scopes.prompts.tokens import resolve_token
from lens_scopes.results.base import AnswerRecord
from lens_scopes.scopes.contract import answer_process
from lens_scopes.scopes.other_prompt import OtherPrompt
from lens_scopes.scopes.spec import Spec


@dataclass(frozen=True)
class PromptPosition:
    """One prompt with what is explained after it: the next token at a position, or answers.

    Attributes:
        prompt: the prompt.
        position: after which token the (first) prediction is explained.
        target: the next token explained, for objectives that take one.
        answers: the answers explained after the whole prompt: one, or two that are contrasted; none for a token.
        with_answer: whether the answer's own tokens get scores too.
        spec: what is asked of this prompt, which may differ from others run with it in the answer and the other prompt.
        other: the prompt that this one is measured from, token by token beside it; None for none.
    """

    prompt: Prompt
    position: int
    target: int | None
    answers: tuple[Answer, ...] = ()
    with_answer: bool = False
    spec: Spec | None = None
    other: Prompt | None = None

    @classmethod
    def read(cls, model: ScopedModel, prompt: PromptLike, position: int, target: str | int | None) -> PromptPosition:
        """Reads a prompt, its position and its target against the model, once, at the boundary."""
        text = read_prompt(model, prompt)
        at = resolve_position(text, position)
        return cls(text, at, next_token_id(text, at) if target is None else resolve_token(model, target))

    @classmethod
    def of_spec(cls, model: ScopedModel, prompt: PromptLike, position: int, spec: Spec) -> PromptPosition:
        """Reads a prompt with the position and target, or the answers, and the other prompt that a spec asks for."""
        if not spec.answers:
            place = replace(cls.read(model, prompt, position, spec.target), spec=spec)
            return place.beside(model, spec.other_prompt(model))
        text = read_prompt(model, prompt)
        at = resolve_position(text, position)
        if at != len(text) - 1:
            raise PromptError(
                f"an answer follows the whole prompt, so position={position} does not apply; leave it out, or cut the "
                "prompt."
            )
        answers = tuple(read_answer(model, text, answer) for answer in spec.answers)
        place = cls(text, at, None, answers, spec.eligible == "all", spec)
        return place.beside(model, spec.other_prompt(model))

    def beside(self, model: ScopedModel, other: OtherPrompt | None) -> PromptPosition:
        """The same with another prompt as its baseline, where one is given.

        Raises:
            PromptError: for a prompt of another length.
        """
        return (
            self if other is None else replace(self, other=read_aligned(model, self.prompt, other, self.position + 1))
        )

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The tokens up to the position: later ones cannot matter."""
        return self.prompt.token_ids[: self.position + 1]

    @property
    def special(self) -> tuple[bool, ...]:
        """Which of `token_ids` are special."""
        return self.prompt.special[: self.position + 1]

    @property
    def sequences(self) -> list[tuple[int, ...]]:
        """What the model reads: the tokens up to the position, or with all but the last token of each answer."""
        return [answer.prompt.token_ids[:-1] for answer in self.answers] or [self.token_ids]

    @property
    def other_sequences(self) -> list[tuple[int, ...]]:
        """`sequences` with the other prompt in this one's place: answers follow both."""
        assert self.other is not None
        length = self.position + 1
        return [self.other.token_ids[:length] + sequence[length:] for sequence in self.sequences]

    def baseline_tokens(self, tokens: Sequence[str]) -> list[str]:
        """The other prompt's tokens, and after them those of `tokens` that follow both prompts; none without one."""
        length = self.position + 1
        return [] if self.other is None else [*self.other.tokens[:length], *tokens[length:]]

    @property
    def reads(self) -> list[tuple[int, int]]:
        """Row of `sequences` and position of each prediction explained."""
        return [(row, position) for row, position, _ in self.predictions]

    @property
    def targets(self) -> list[int | None]:
        """The next token of each prediction explained."""
        return [target for _, _, target in self.predictions]

    @property
    def predictions(self) -> list[tuple[int, int, int | None]]:
        """The predictions explained: row of `sequences`, position and target."""
        if not self.answers:
            return [(0, self.position, self.target)]
        return [
            # The prompt's last token predicts the answer's first, and so on.
            (row, self.position + index, token_id)
            for row, answer in enumerate(self.answers)
            for index, token_id in enumerate(answer.token_ids)
        ]

    @property
    def eligible_tokens(self) -> tuple[Prompt, int]:
        """The tokens that get scores: the first ones of a prompt, and how many."""
        if self.with_answer:
            return self.answers[0].prompt, len(self.answers[0].prompt) - 1
        return self.prompt, self.position + 1

    @property
    def all_tokens(self) -> Prompt:
        """All tokens that the model reads, once each: the prompt's, then those of each answer but the last."""
        if not self.answers:
            return self.prompt.first(self.position + 1)
        first, *others = (answer.prompt.first(len(answer.prompt) - 1) for answer in self.answers)
        if not others:
            return first
        after_prompt = slice(len(self.prompt), None)  # both rows begin with the prompt, which is laid out once
        return replace(
            first,
            text=self.prompt.text,
            offsets=None,
            token_ids=first.token_ids + others[0].token_ids[after_prompt],
            tokens=first.tokens + others[0].tokens[after_prompt],
            special=first.special + others[0].special[after_prompt],
        )

    def by_answer(self, states: Sequence[FinalState]) -> list[Sequence[FinalState]]:
        """The final states of all predictions, those of each answer apart."""
        first = len(self.answers[0])
        return [states[:first], states[first:]][: len(self.answers)]

    def answer_records(self, states: Sequence[FinalState]) -> list[AnswerRecord]:
        """The answers explained, with the probability of each of their tokens."""
        remaining = iter(states)
        return [
            AnswerRecord(
                tokens=list(answer.tokens),
                token_ids=list(answer.token_ids),
                log_probabilities=[float(next(remaining).log_probabilities[token_id]) for token_id in answer.token_ids],
                generated=answer.generated,
            )
            for answer in self.answers
        ]

    @property
    def answer_process(self) -> str:
        """How the tokens of what is explained come about, for the contract; empty for the next token."""
        return answer_process(self.answers)
