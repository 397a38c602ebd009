"""The Prompt class, and positions in a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal, TypeAlias

from lens_scopes.errors import VALIDATED, PromptError
from lens_scopes.prompts.tokens import as_integer

Index: TypeAlias = Annotated[int, VALIDATED]


@dataclass(frozen=True)
class Prompt:
    """What the model reads, token by token; every sequence is aligned with `token_ids`.

    Attributes:
        text: the text read; for a chat, the one its template renders; None for a prompt given as ids.
        token_ids: the ids, BOS included.
        tokens: the string of each token, leading space included (`" Paris"`), special tokens as `"<bos>"`.
            Joined, the strings after an added BOS give the text back, except where tokens hold fragments of a
            character (a fragment reads as its bytes, `"\\\\xf0\\\\x9f"`) or stand for an unknown word, and where
            the tokenizer writes a space of its own or drops the text's last ones.
        offsets: `[start, stop)` of each token in `text`, in characters; `(0, 0)` for a BOS that was added.
            None where the tokenizer gives none, or the prompt was given as ids.
        special: whether the token is BOS or another control token. An unknown-word token is none: it stands
            for text.
        source: what the prompt was given as: `"text"`, `"chat"` or `"ids"`.
        spans: name → `[start, stop)` in tokens. Chat messages are named by role (`"system"`, `"user 1"`, …).
        turns: those of the spans that are chat messages.

    Example:
        >>> prompt = ls.read_prompt(model, "The capital of France is")
        >>> prompt.tokens, prompt.special
        (('<bos>', 'The', ' capital', ' of', ' France', ' is'), (True, False, False, False, False, False))
        >>> prompt.text[slice(*prompt.offsets[4])]
        ' France'
    """

    text: str | None
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    offsets: tuple[tuple[int, int], ...] | None
    special: tuple[bool, ...]
    source: Literal["text", "chat", "ids"]
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict, hash=False)
    turns: Mapping[str, tuple[int, int]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in ("tokens", "special", "offsets"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.token_ids):
                raise PromptError(
                    f"a Prompt holds {len(self.token_ids)} token ids but {len(values)} entries of {name}; "
                    "build it with read_prompt"
                )

    def __len__(self) -> int:
        """The number of tokens."""
        return len(self.token_ids)

    def first(self, n_pos: int) -> Prompt:
        """The prompt's first tokens, with what of the spans lies in them; the text stays whole."""
        return replace(
            self,
            token_ids=self.token_ids[:n_pos],
            tokens=self.tokens[:n_pos],
            offsets=None if self.offsets is None else self.offsets[:n_pos],
            special=self.special[:n_pos],
            spans=_within(self.spans, n_pos),
            turns=_within(self.turns, n_pos),
        )


def _within(spans: Mapping[str, tuple[int, int]], n_pos: int) -> dict[str, tuple[int, int]]:
    return {name: (start, min(stop, n_pos)) for name, (start, stop) in spans.items() if start < n_pos}


def resolve_position(prompt: Prompt, position: Index) -> int:
    """The index, from 0, of a position in the prompt; negative positions count from the end.

    Raises:
        PromptError: when it is out of range or no integer.
    """
    index = as_integer(position)
    n_pos = len(prompt)
    if index is None:
        raise PromptError(f"a position is an integer, got {position!r}; give {-n_pos} to {n_pos - 1}")
    if not -n_pos <= index < n_pos:
        raise PromptError(f"position {index} is outside the prompt of {n_pos} tokens; give {-n_pos} to {n_pos - 1}")
    return index % n_pos


def next_token_id(prompt: Prompt, position: Index) -> int | None:
    """The id of the token that follows `position` in the prompt, None at its end.

    Raises:
        PromptError: as `resolve_position`.
    """
    following = resolve_position(prompt, position) + 1
    return prompt.token_ids[following] if following < len(prompt) else None
