"""Chat messages: applies the tokenizer's template and locates each message in the text."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lens_scopes.errors import PromptError
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.prompts.spans import tokens_within
from lens_scopes.prompts.tokens import TokenModel, quote


@dataclass(frozen=True, repr=False)
class Message(Mapping[str, str]):
    """One message of a chat, as a value that compares and hashes."""

    role: str
    content: str

    def __getitem__(self, key: str) -> str:
        if key not in ("role", "content"):
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(("role", "content"))

    def __len__(self) -> int:
        return 2

    def __repr__(self) -> str:
        return repr(dict(self))


_PLACEHOLDER = "\ue000{}\ue001"  # private-use characters: no template holds them


def is_chat(prompt: Any) -> bool:
    """Whether a prompt is a list with chat messages in it."""
    return (
        isinstance(prompt, Sequence)
        and not isinstance(prompt, (bytes, bytearray))
        and any(isinstance(message, Mapping) for message in prompt)
    )


def as_messages(prompt: Any) -> tuple[Message, ...] | None:
    """Chat messages of a role and a content each, as values; None for what is none of these.

    >>> as_messages([{"role": "user", "content": "Hello"}])
    ({'role': 'user', 'content': 'Hello'},)
    """
    if not is_chat(prompt) or any(not isinstance(one, Mapping) or set(one) != {"role", "content"} for one in prompt):
        return None
    pairs = [(one["role"], one["content"]) for one in prompt]
    if not all(isinstance(text, str) for pair in pairs for text in pair):
        return None
    return tuple(itertools.starmap(Message, pairs))


def read_messages(text: str) -> tuple[Message, ...] | None:
    """The messages of a JSON list of them; None for any other text."""
    if not text.lstrip().startswith("["):
        return None
    try:
        return as_messages(json.loads(text, strict=False))
    except (ValueError, RecursionError):
        return None


def write_messages(messages: Sequence[Message]) -> str:
    """The text that `read_messages` reads."""
    return json.dumps([dict(one) for one in messages], ensure_ascii=False)


def check_messages(model: TokenModel, messages: Any) -> None:
    """Raises PromptError for messages that are malformed or empty, and for a tokenizer without a chat template."""
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise PromptError(f"message {index} of the chat is {quote(message)}; give its role and content")
        for key in ("role", "content"):
            value = message.get(key)
            if not isinstance(value, str) or (key == "role" and not value):
                raise PromptError(f"message {index} of the chat needs a string as {key!r}, got {quote(value)}")
    if not getattr(model.tokenizer, "chat_template", None):
        raise PromptError("the model's tokenizer has no chat template; give the prompt as text")
    if not any(message["content"] for message in messages):
        raise PromptError("the chat is empty; give at least one message with content")


def render(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> str:
    """The messages as the tokenizer's template writes them, up to where the model is to answer.

    Raises:
        PromptError: when the template refuses them.
    """
    from jinja2 import TemplateError

    continues = messages[-1]["role"] == "assistant"
    try:
        return tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=not continues,
            continue_final_message=continues,
        )
    except (TemplateError, ImportError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise PromptError(f"the chat template refuses the messages ({reason}); change them, or give text") from error


def message_spans(tokenizer: Any, messages: Sequence[Mapping[str, str]], prompt: Prompt) -> dict[str, tuple[int, int]]:
    """The tokens of each message by its role: "system", "user 1", "assistant 1", …

    Args:
        prompt: the messages rendered and read.
    """
    if prompt.text is None or prompt.offsets is None:
        return {}
    ranges = _message_ranges(tokenizer, messages, prompt.text)
    total = Counter(message["role"] for message in messages)
    count_so_far: Counter[str] = Counter()
    spans: dict[str, tuple[int, int]] = {}
    for index, message in enumerate(messages):
        role = message["role"]
        count_so_far[role] += 1
        tokens = tokens_within(prompt, *ranges[index]) if index in ranges else None
        if tokens is not None:
            spans[role if role == "system" and total[role] == 1 else f"{role} {count_so_far[role]}"] = tokens
    return spans


def _message_ranges(tokenizer: Any, messages: Sequence[Mapping[str, str]], text: str) -> dict[int, tuple[int, int]]:
    """Where each message's content stands in the rendered text.

    The template is rendered with placeholders for the contents: searching for a content such as "user" would
    find the template's own words. Empty where the template does more to contents than place and strip them.
    """
    placeholders = [{**message, "content": _PLACEHOLDER.format(i)} for i, message in enumerate(messages)]
    try:
        frame = render(tokenizer, placeholders)
    except PromptError:
        return {}
    before, *parts = re.split(_PLACEHOLDER.format(r"(\d+)"), frame)
    if not text.startswith(before):
        return {}
    ranges: dict[int, tuple[int, int]] = {}
    start = len(before)
    for index, after in zip(map(int, parts[::2]), parts[1::2], strict=True):
        content = messages[index]["content"]
        # Templates strip contents, or leave them as they are.
        forms = (content, content.rstrip(), content.lstrip(), content.strip())
        stop = next((start + len(f) for f in forms if text.startswith(f + after, start)), None)
        if stop is None:
            return {}
        ranges.setdefault(index, (start, stop))
        start = stop + len(after)
    return ranges if start == len(text) else {}
