"""Consecutive tokens as groups whose scores are summed: words, lines or named spans."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from lens_scopes.errors import PromptError
from lens_scopes.prompts.spans import check_token_range, integer_pair
from lens_scopes.prompts.tokens import quote

# What is none of these is refused with a PromptError that says what to do, also under a run-time type checker: Any.
Grouping: TypeAlias = Literal["word", "line"] | Mapping[str, tuple[int, int]] | Any


_OTHER = "(other)"


@dataclass(frozen=True)
class Group:
    """A run of tokens whose scores are summed: tokens `start` to `stop`, `stop` left out, under one label."""

    label: str
    start: int
    stop: int


def group_tokens(
    tokens: Sequence[str],
    special: Sequence[bool],
    by: Grouping,
    *,
    text: str | None = None,
    offsets: Sequence[tuple[int, int]] | None = None,
) -> list[Group]:
    """Group consecutive tokens, to sum their scores.

    - `by="word"`: a word begins at a token that starts with white space, or that follows one which ends with
      it. Spaces before a word belong to it; tokens of line breaks are a group of their own. Scripts that
      write no spaces stay one run.
    - `by="line"`: a line ends with the token that holds its line break.
    - `by=` a mapping of name → `(start, stop)` in tokens, as in `Prompt.spans`: one group a name, and
      `"(other)"` for each run of tokens under no name. Named spans that overlap each count the tokens they
      share.

    A special token is a group of its own unless a named span holds it. Groups come in the order of the text;
    those of words and lines cover every token exactly once. The label of a word or line is its text without
    the white space around it; `text` and `offsets` (of the Prompt) make it right where tokens are fragments
    of characters.

    Raises:
        PromptError: for another `by`, and for a span outside the tokens.
    """
    if len(tokens) != len(special):
        raise PromptError(f"got {len(tokens)} tokens but {len(special)} entries of special; give one for each")
    if isinstance(by, Mapping):
        return _group_by_span(tokens, special, by)
    if by not in ("word", "line"):
        raise PromptError(f"cannot group by {quote(by)}; give 'word', 'line' or name → (start, stop)")
    begins = _begins_word if by == "word" else _begins_line
    edges = [i for i in range(len(tokens)) if _is_boundary(special, i) or begins(tokens[i - 1], tokens[i])]
    groups = []
    for start, stop in itertools.pairwise([*edges, len(tokens)]):
        covered = "".join(tokens[start:stop])
        if text is not None and offsets is not None and not special[start]:
            covered = text[offsets[start][0] : offsets[stop - 1][1]]
        groups.append(Group(covered.strip() or repr(covered), start, stop))
    return groups


def _is_boundary(special: Sequence[bool], index: int) -> bool:
    return index == 0 or bool(special[index]) or bool(special[index - 1])


def _begins_word(before: str, token: str) -> bool:
    if _breaks_line(token) and token.isspace():
        return not (_breaks_line(before) and before.isspace())
    if before.isspace():
        return _breaks_line(before)
    return token[:1].isspace() or before[-1:].isspace()


def _begins_line(before: str, token: str) -> bool:
    return _breaks_line(before) and not (before.endswith("\r") and token.startswith("\n"))


def _breaks_line(token: str) -> bool:
    return "\n" in token or "\r" in token


def _group_by_span(tokens: Sequence[str], special: Sequence[bool], spans: Mapping[str, tuple[int, int]]) -> list[Group]:
    n_pos = len(tokens)
    groups: list[Group] = []
    named = [False] * n_pos
    for name, span in spans.items():
        start, stop = integer_pair(name, span)
        check_token_range(name, start, stop, n_pos)
        groups.append(Group(name, start, stop))
        named[start:stop] = [True] * (stop - start)
    start = 0
    for index in range(1, n_pos + 1):
        if index == n_pos or named[index] != named[start] or _is_boundary(special, index):
            if not named[start]:
                label = tokens[start] if special[start] else _OTHER
                groups.append(Group(label, start, index))
            start = index
    return sorted(groups, key=lambda group: (group.start, group.stop))
