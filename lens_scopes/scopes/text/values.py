"""Tokens, answers and prompts as text: a token is its exact string or "#123", an answer or a prompt a text or
"#12#34", a chat its JSON. Nothing here is heavy to import."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from lens_scopes.prompts.chat import Message, as_messages, read_messages, write_messages

_TOKEN_ID = re.compile(r"#([0-9]{1,18})")
_IDS = r"(?:#[0-9]{1,18})+"
_STRING = r"\"(?:[^\"\\]|\\.)*\""
OTHER_PROMPT = rf"{_IDS}|(?!\"\"){_STRING}|\[(?:[^\"\[\]]|{_STRING})*\]"
"""The form of another prompt inside a longer text: ids, a quoted string, or the JSON of a chat."""
EACH = "prompt"
"""The name that stands for each prompt's own other one: in an evaluation that of the passage."""


def read_token(text: str) -> str | int:
    """A token as text: "#123" is the id 123, anything else the token's exact string."""
    match = _TOKEN_ID.fullmatch(text)
    return int(match[1]) if match else text


def write_token(token: str | int) -> str:
    """The text that `read_token` reads."""
    return f"#{token}" if isinstance(token, int) else token


def read_text_or_ids(text: Any) -> str | tuple[int, ...]:
    """An answer or a prompt as text: "#12#34" is the ids 12 and 34, anything else the text itself."""
    if not isinstance(text, str):
        return tuple(text)
    return tuple(map(int, text[1:].split("#"))) if re.fullmatch(_IDS, text) else text


def write_text_or_ids(value: str | int | Sequence[int]) -> str:
    """The text that `read_text_or_ids` reads; of one id, that of its token."""
    if isinstance(value, str | int):
        return write_token(value)
    return "".join(map(write_token, value))


def read_whole_prompt(text: Any) -> str | tuple[int, ...] | tuple[Message, ...]:
    """A prompt as text: `[{"role": "user", "content": "…"}]` is a chat, else as `read_text_or_ids`."""
    return (read_messages(text) if isinstance(text, str) else None) or read_text_or_ids(text)


def write_whole_prompt(value: str | int | Sequence[int | Message]) -> str:
    """The text that `read_whole_prompt` reads."""
    messages = as_messages(value)
    return write_text_or_ids(value) if messages is None else write_messages(messages)  # pyright: ignore[reportArgumentType]
