"""Two prompts token by token: as many tokens in each, or an error that shows where they part."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from difflib import SequenceMatcher

from lens_scopes.errors import PromptError
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.prompts.read import PromptLike, read_prompt
from lens_scopes.prompts.tokens import TokenModel

_MAX_SHOWN = 6  # tokens of each side


def read_aligned(model: TokenModel, prompt: Prompt, other: PromptLike, length: int) -> Prompt:
    """Another prompt that stands token by token beside this one.

    Args:
        other: text, chat messages, ids or a Prompt, as for `read_prompt`.
        length: how many of the prompt's tokens are explained; the other prompt may end there too.

    Raises:
        PromptError: for a prompt of another length, with the place where the two part.
    """
    read = read_prompt(model, other)
    if len(read) not in (len(prompt), length):
        raise PromptError(
            f"the other prompt has {len(read)} tokens (BOS included) but the prompt {len(prompt)}; they part at "
            f"{_first_mismatch(prompt, read)}; write as many tokens there."
        )
    return read


def differences(mine: Sequence[Hashable], theirs: Sequence[Hashable]) -> list[tuple[int, int, int, int]]:
    """The stretches [start, stop) of one sequence that stand against others [start, stop) of the other.

    Of sequences of one length that is place by place; else a longest common sequence decides.

    >>> differences("abcd", "axcd"), differences("abcd", "axyd")
    ([(1, 2, 1, 2)], [(1, 2, 1, 2), (2, 3, 2, 3)])
    >>> differences("abcd", "axxcd")
    [(1, 2, 1, 3)]
    """
    if len(mine) == len(theirs):
        return [(at, at + 1, at, at + 1) for at in range(len(mine)) if mine[at] != theirs[at]]
    matcher = SequenceMatcher(None, mine, theirs, autojunk=False)
    return [(start, stop, first, last) for tag, start, stop, first, last in matcher.get_opcodes() if tag != "equal"]


def _first_mismatch(prompt: Prompt, other: Prompt) -> str:
    """The first stretch of tokens that stands against one of another length."""
    start, stop, other_start, other_stop = next(
        stretch
        for stretch in differences(prompt.token_ids, other.token_ids)
        if stretch[1] - stretch[0] != stretch[3] - stretch[2]
    )
    return f"position {start}: {_list(prompt.tokens[start:stop])} | {_list(other.tokens[other_start:other_stop])}"


def _list(tokens: Sequence[str]) -> str:
    if not tokens:
        return "nothing"
    text = ", ".join(map(repr, tokens[:_MAX_SHOWN])) + (", …" if len(tokens) > _MAX_SHOWN else "")
    return f"{text} ({len(tokens)} token{'s' if len(tokens) > 1 else ''})"
