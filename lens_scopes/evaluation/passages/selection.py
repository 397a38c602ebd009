"""Which passages are measured, and each as a prompt: the tokens the model reads, and the token that follows."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from lens_scopes.errors import EvaluationError, PromptError
from lens_scopes.prompts.alignment import read_aligned
from lens_scopes.prompts.answer import tokenize_answer
from lens_scopes.prompts.groups import eligible_range
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.prompts.read import read_prompt
from lens_scopes.prompts.tokens import TokenModel, quote

if TYPE_CHECKING:
    from lens_scopes.evaluation.passages.read import Passage, Passages

TARGETS = ("last", "own")
_MIN_TOKENS = 2


@dataclass(frozen=True)
class PassagePrompt:
    """What the model reads of one passage.

    Attributes:
        token_ids: what the model reads.
        target: the id of the token that follows; None where it is not known.
        cut: how many tokens were cut off at the beginning to fit the context window.
        answer: the tokens of the answer explained after the passage, or how many the model is to generate; None where
            the next token is explained.
        other: the tokens of the passage's other prompt, cut as this one; None for none.
        within: the tokens [start, stop) that alone are ranked and ablated; None for all that are not special.
        prompt: the passage with its text, where nothing was cut off.
    """

    token_ids: tuple[int, ...]
    target: int | None
    cut: int = 0
    answer: tuple[int, ...] | int | None = None
    other: tuple[int, ...] | None = None
    within: tuple[int, int] | None = None
    prompt: Prompt | None = field(default=None, compare=False)


@dataclass(frozen=True)
class TooLong:
    """A passage that the context window does not hold."""

    n_tokens: int
    n_ctx: int

    def __str__(self) -> str:
        return f"{self.n_tokens} tokens do not fit in the context window of {self.n_ctx}"


def check_target(target: str | None) -> None:
    """Raises EvaluationError for a rule that is not "last" or "own"."""
    if target is not None and not (isinstance(target, str) and target in TARGETS):
        raise EvaluationError(
            f"unknown target {quote(target)}; give 'last' (the passage's last token) or 'own' (the model's)."
        )


def read_passage(
    model: TokenModel, passage: Passage, target: str, *, truncate: bool, generate: int = 0
) -> PassagePrompt | TooLong:
    """The tokens of a passage, and its last one set apart as the target where `target` is "last".

    Another prompt of the passage has as many tokens, with or without the target. With `truncate` a passage that does
    not fit the context window, with its answer, keeps its end, and a first special token (BOS) its place; its other
    prompt keeps the same places.

    Args:
        generate: how many tokens the model is to generate as the answer; 0 for the passage's own answer, or none.

    Raises:
        PromptError: for a passage that is empty, of one token, or not text of this tokenizer, for an answer that does
            not follow it, for another prompt of another length, with the place where the two part, and for an eligible
            part that is not in it, or that the cut takes away.
    """
    window = getattr(model.cfg, "n_ctx", None)
    cfg = SimpleNamespace(
        d_vocab=getattr(model.cfg, "d_vocab", None), default_prepend_bos=getattr(model.cfg, "default_prepend_bos", True)
    )
    # Read as if there were no window: what does not fit is cut or counted below, and not an error.
    without_window: Any = SimpleNamespace(tokenizer=model.tokenizer, cfg=cfg)
    prompt = read_prompt(without_window, passage.text)
    ids = prompt.token_ids
    next_id = None
    if target == "last":
        ids, next_id = ids[:-1], ids[-1]
    if len(ids) < _MIN_TOKENS:
        rest = " before its target" if next_id is not None else ""
        raise PromptError(
            f"the passage has {len(ids)} token{'s' * (len(ids) != 1)}{rest}; at least {_MIN_TOKENS} are needed"
        )
    # What comes with the passage: its answer, its other prompt, its eligible part.
    answer: tuple[int, ...] | int | None = generate or None
    if passage.answer is not None:
        answer = tokenize_answer(without_window, prompt, passage.answer).token_ids
    other = None
    if passage.other is not None:
        other = read_aligned(without_window, prompt, passage.other, len(ids)).token_ids[: len(ids)]
    within = None if passage.within is None else eligible_range(prompt.first(len(ids)), passage.within)
    # What the window does not hold is cut between a first special token and the end.
    after = len(answer) if isinstance(answer, tuple) else generate
    if not window or len(ids) + after <= window:
        return PassagePrompt(ids, next_id, 0, answer, other, within, prompt.first(len(ids)))
    first = int(prompt.special[0])
    room = window - after
    if not truncate or room < _MIN_TOKENS + first:
        return TooLong(len(ids) + after, window)
    cut = len(ids) - room
    if within is not None:
        if within[0] < first + cut:
            raise PromptError(
                f"the eligible part begins at token {within[0]}, and {cut} tokens are cut off at the beginning to fit "
                f"the context window of {window}; shorten the passage."
            )
        within = (within[0] - cut, within[1] - cut)
    window_ids = (*ids[:first], *ids[first + cut :])
    return PassagePrompt(window_ids, next_id, cut, answer, other and (*other[:first], *other[first + cut :]), within)


@dataclass(frozen=True)
class Selection:
    """Which passages of a data set are measured, and how each becomes a prompt.

    Attributes:
        passages: the whole data set.
        skip: how many are left out at its beginning.
        limit: how many are taken after those; None for all.
        target: "last" or "own".
        truncate: whether passages beyond the context window lose their beginning, or are left out.
        generate: how many tokens the model generates after each passage as the answer explained; 0 for none.
    """

    passages: Passages
    skip: int = 0
    limit: int | None = None
    target: str = "last"
    truncate: bool = False
    generate: int = 0

    @classmethod
    def of(
        cls,
        passages: Passages,
        skip: int,
        limit: int | None,
        *,
        target: str | None = None,
        truncate: bool = False,
        generate: int = 0,
    ) -> Selection:
        """A selection whose passages are read whole where answers follow them.

        Raises:
            EvaluationError: for a target, or tokens to generate, beside answers, and for fewer than none.
        """
        if generate < 0:
            raise EvaluationError(f"generate is a number of tokens, at least 0; got {generate}.")
        if generate and passages.bring("answer"):
            raise EvaluationError("answers were given and some are to be generated; ask for one of them.")
        if not (generate or passages.bring("answer")):
            return cls(passages, skip, limit, target or "last", truncate)
        if target == "last":
            raise EvaluationError("an answer follows the whole passage, so target='last' does not apply; leave it out.")
        return cls(passages, skip, limit, "own", truncate, generate)

    @property
    def answers(self) -> str | None:
        """Where the answers explained come from, in words; None where next tokens are explained."""
        if self.generate:
            return f"{self.generate} tokens that the model generates"
        return "given" if self.passages.bring("answer") else None

    def read(self, model: TokenModel, index: int) -> PassagePrompt | TooLong:
        """A passage as `read_passage` reads it."""
        passage = self.passages.items[index]
        return read_passage(model, passage, self.target, truncate=self.truncate, generate=self.generate)

    def indices(self) -> range:
        stop = len(self.passages) if self.limit is None else min(len(self.passages), self.skip + self.limit)
        return range(min(self.skip, stop), stop)
