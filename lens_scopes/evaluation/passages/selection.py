"""Which passages are measured, and each as a prompt: the tokens the model reads, and the token that follows."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from lens_scopes.errors import EvaluationError, PromptError
from lens_scopes.prompts.alignment import read_aligned
from lens_scopes.prompts.read import read_prompt
from lens_scopes.prompts.tokens import TokenModel

if TYPE_CHECKING:
    from lens_scopes.evaluation.passages.read import Passage, Passages

TARGETS = ("last", "own")
_LEAST_TOKENS = 2


@dataclass(frozen=True)
class PassagePrompt:
    """What the model reads of one passage.

    Attributes:
        token_ids: what the model reads.
        target: the id of the token that follows; None where it is not known.
        cut: how many tokens were cut off at the beginning to fit the context window.
        other: the tokens of the passage's other prompt, cut as this one; None for none.
    """

    token_ids: tuple[int, ...]
    target: int | None
    cut: int = 0
    other: tuple[int, ...] | None = None


@dataclass(frozen=True)
class TooLong:
    """A passage that the context window does not hold."""

    n_tokens: int
    n_ctx: int

    def __str__(self) -> str:
        return f"{self.n_tokens} tokens do not fit in the context window of {self.n_ctx}"


def check_target(target: str) -> None:
    """Raises EvaluationError for a rule that is not "last" or "own"."""
    if target not in TARGETS:
        raise EvaluationError(
            f"unknown target {target!r}; give 'last' (the passage's last token) or 'own' (the model's)."
        )


def read_passage(
    model: TokenModel, passage: Passage, target: str, *, truncate: bool, other: Passage | None = None
) -> PassagePrompt | TooLong:
    """The tokens of a passage, and its last one set apart as the target where `target` is "last".

    Another prompt of the passage has as many tokens, with or without the target. With `truncate` a passage beyond the
    context window keeps its end, and a first special token (BOS) its place.

    Raises:
        PromptError: for a passage that is empty, of one token, or not text of this tokenizer, and for another prompt
            of another length, with the place where the two part.
    """
    window = getattr(model.cfg, "n_ctx", None)
    cfg = SimpleNamespace(
        d_vocab=getattr(model.cfg, "d_vocab", None), default_prepend_bos=getattr(model.cfg, "default_prepend_bos", True)
    )
    without_window: Any = SimpleNamespace(tokenizer=model.tokenizer, cfg=cfg)
    prompt = read_prompt(without_window, passage)
    ids = prompt.token_ids
    next_id = None
    if target == "last":
        ids, next_id = ids[:-1], ids[-1]
    if len(ids) < _LEAST_TOKENS:
        rest = " before its target" if next_id is not None else ""
        raise PromptError(
            f"the passage has {len(ids)} token{'s' * (len(ids) != 1)}{rest}; at least {_LEAST_TOKENS} are needed"
        )
    beside = None if other is None else read_aligned(without_window, prompt, other, len(ids)).token_ids[: len(ids)]
    if not window or len(ids) <= window:
        return PassagePrompt(ids, next_id, other=beside)
    if not truncate:
        return TooLong(len(ids), window)
    first = int(prompt.special[0])
    window_ids, beside = (
        tokens and (*tokens[:first], *tokens[len(ids) - window + first :]) for tokens in (ids, beside)
    )
    assert window_ids is not None
    return PassagePrompt(window_ids, next_id, len(ids) - len(window_ids), beside)


@dataclass(frozen=True)
class Selection:
    """Which passages of a data set are measured, and how each becomes a prompt.

    Attributes:
        passages: the whole data set.
        skip: how many are left out at its beginning.
        limit: how many are taken after those; None for all.
        target: "last" or "own".
        truncate: whether passages beyond the context window lose their beginning, or are left out.
    """

    passages: Passages
    skip: int = 0
    limit: int | None = None
    target: str = "last"
    truncate: bool = False

    def indices(self) -> range:
        stop = len(self.passages) if self.limit is None else min(len(self.passages), self.skip + self.limit)
        return range(min(self.skip, stop), stop)
