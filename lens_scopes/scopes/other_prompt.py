"""Another prompt that a path starts from or a readout measures from, as a value and as text.

The value is a text, a tuple of ids or one of chat messages, which compare and hash; `prompts.alignment` reads it for a
model. As text it is a quoted string, ids, or the JSON of the messages: `"The capital"`, `#2#651`,
`[{"role": "user", "content": "Hello"}]`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, TypeAlias

from torch import Tensor

from lens_scopes.errors import ReadoutError
from lens_scopes.prompts.chat import Message, as_messages, is_chat, read_messages
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.prompts.tokens import quote
from lens_scopes.scopes.text.values import EACH, read_text_or_ids, write_token, write_whole_prompt

OtherPrompt: TypeAlias = str | tuple[int, ...] | tuple[Message, ...]

_NAME = re.compile(r"[a-z-]*")
_MAX_SHOWN = 8  # ids


def as_other_prompt(value: Any) -> OtherPrompt | None:
    """A prompt given as text, chat messages, ids or a Prompt; None for what is none of these.

    >>> as_other_prompt("The capital"), as_other_prompt([2, 651]), as_other_prompt(3.5)
    ('The capital', (2, 651), None)
    """
    if isinstance(value, str):
        return value or None
    if isinstance(value, Prompt):
        return value.token_ids
    if isinstance(value, Tensor):
        value = value.squeeze(0).tolist() if value.ndim == 2 and len(value) == 1 else value.tolist()
    if is_chat(value):
        return as_messages(value)
    if isinstance(value, Sequence) and not isinstance(value, bytes) and value:
        ids = tuple(value)
        if all(type(item) is int for item in ids):
            return ids
    return None


def as_baseline(value: Any) -> OtherPrompt | None:
    """As `as_other_prompt`, where names such as "mean" stand beside prompts: one word in small letters is a name that
    is not known, and no prompt."""
    return None if isinstance(value, str) and _NAME.fullmatch(value) else as_other_prompt(value)


def write_other_prompt(other: OtherPrompt) -> str:
    """The text that `read_other_prompt` reads."""
    return json.dumps(other, ensure_ascii=False) if isinstance(other, str) else write_whole_prompt(other)


def read_other_prompt(text: str) -> OtherPrompt:
    """The prompt of a text of the form OTHER_PROMPT (`scopes.text.values`).

    Raises:
        ReadoutError: for a quoted string with an escape that JSON does not have, and for a list of what is no message.
    """
    if text.startswith("["):
        if (messages := read_messages(text)) is None:
            raise ReadoutError(
                f'{quote(text)} is no chat; a message of one is {{"role": "user", "content": "Hello"}}, in JSON.'
            )
        return messages
    if not text.startswith('"'):
        return read_text_or_ids(text)
    try:
        return json.loads(text, strict=False)
    except ValueError as error:
        raise ReadoutError(f"{text} is not a quoted string ({error}); escapes are those of JSON.") from None


def no_other_prompt(where: str) -> str:
    """What is wrong where EACH stands for a prompt that nobody gave, for messages."""
    return (
        f'{where} "{EACH}" stands for the other prompt of each passage of an evaluation, and there is none here; give '
        "the prompt itself, as text, chat messages, ids or a Prompt."
    )


def describe_other_prompt(other: OtherPrompt) -> str:
    """The prompt in words, for the contract."""
    if isinstance(other, str):
        return f"the prompt {quote(other)}"
    if (messages := as_messages(other)) is not None:
        return f"the chat {', '.join(f'{one.role}: {quote(one.content)}' for one in messages)}"
    ids = ", ".join(map(write_token, other[:_MAX_SHOWN]))  # pyright: ignore[reportArgumentType]
    return f"the prompt of the tokens {ids}{', …' if len(other) > _MAX_SHOWN else ''}"
