"""Two prompts token by token: as many tokens in each, or an error that shows where they part."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

from lens_scopes.errors import PromptError
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.prompts.read import PromptLike, read_prompt
from lens_scopes.prompts.tokens import TokenModel

_MOST_SHOWN = 6  # tokens of each side


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
            f"{_parting(prompt, read)}; write as many tokens there."
        )
    return read


def _parting(prompt: Prompt, other: Prompt) -> str:
    """The first stretch of tokens that stands against one of another length."""
    matcher = SequenceMatcher(None, prompt.token_ids, other.token_ids, autojunk=False)
    start, stop, other_start, other_stop = next(
        stretch for tag, *stretch in matcher.get_opcodes() if stretch[1] - stretch[0] != stretch[3] - stretch[2]
    )
    return f"position {start}: {_listed(prompt.tokens[start:stop])} | {_listed(other.tokens[other_start:other_stop])}"


def _listed(tokens: Sequence[str]) -> str:
    if not tokens:
        return "nothing"
    shown = ", ".join(map(repr, tokens[:_MOST_SHOWN])) + (", …" if len(tokens) > _MOST_SHOWN else "")
    return f"{shown} ({len(tokens)} token{'s' if len(tokens) > 1 else ''})"
