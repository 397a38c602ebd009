"""Named spans of a prompt, from text, characters or tokens to token ranges."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from lens_scopes.errors import VALIDATED, PromptError
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.prompts.tokens import as_integer, quote


@dataclass(frozen=True)
class Chars:
    """A part of a prompt in characters of its text, `[start, stop)`: `spans={"name": Chars(4, 9)}`.

    A pair of integers is a range of tokens everywhere; characters are named.

    Args:
        start: the first character.
        stop: the character after the last one.

    Example:
        >>> ls.read_prompt(model, "The capital of France is", spans={"country": ls.Chars(15, 21)}).spans
        {'country': (4, 5)}
    """

    start: int
    stop: int


SpanLike: TypeAlias = Annotated[str | Chars | tuple[int, int] | range, VALIDATED]


_TOKENS = re.compile(r"([0-9]{1,9}):([0-9]{1,9})")
_CHARACTERS = re.compile(r"chars ([0-9]{1,9}):([0-9]{1,9})")


def as_span(span: SpanLike) -> str | Chars | tuple[int, int]:
    """A span as a value that can be compared and written down: text, Chars, or a pair of integers.

    Raises:
        PromptError: for what is none.
    """
    if isinstance(span, Chars) or (isinstance(span, str) and span):
        return span
    if isinstance(span, range) and span.step == 1:
        return span.start, span.stop
    try:
        return integer_pair("", span)
    except PromptError:
        raise PromptError(
            "a part of a prompt is the name of a span or chat turn, a part of the text, Chars(start, stop), or "
            f"(start, stop) in tokens; got {quote(span)}."
        ) from None


def read_span(text: Any) -> SpanLike:
    """A span as text: "12:80" is tokens 12 to 80, "chars 12:80" characters, anything else the text or name itself."""
    if not isinstance(text, str):
        return text
    if match := _TOKENS.fullmatch(text):
        return int(match[1]), int(match[2])
    match = _CHARACTERS.fullmatch(text)
    return Chars(int(match[1]), int(match[2])) if match else text


def write_span(span: SpanLike) -> str:
    """The text that `read_span` reads."""
    span = as_span(span)
    if isinstance(span, str):
        return span
    return f"chars {span.start}:{span.stop}" if isinstance(span, Chars) else f"{span[0]}:{span[1]}"


def resolve_spans(prompt: Prompt, spans: Mapping[str, SpanLike]) -> dict[str, tuple[int, int]]:
    """name → [start, stop) in tokens.

    Raises:
        PromptError: for a span that is missing, ambiguous, outside the prompt or cuts a token.
    """
    resolved: dict[str, tuple[int, int]] = {}
    if not isinstance(spans, Mapping):
        raise PromptError(f"spans are a mapping from names to parts of the prompt, got {quote(spans)}")
    for name, span in spans.items():
        if not isinstance(name, str) or not name:
            raise PromptError(f"a span's name is a string with a character in it, got {name!r}")
        in_text = isinstance(span, (str, Chars))
        resolved[name] = _span(prompt, name, span) if in_text else _token_range(prompt, name, span)
    return resolved


def _token_range(prompt: Prompt, name: str, span: Any) -> tuple[int, int]:
    if isinstance(span, range) and span.step != 1:
        raise PromptError(f"the span {name!r} is {span} of tokens; give a range without a step")
    start, stop = (span.start, span.stop) if isinstance(span, range) else integer_pair(name, span)
    check_token_range(name, start, stop, len(prompt))
    return start, stop


def check_token_range(name: str, start: int, stop: int, n_pos: int) -> None:
    """Raises PromptError for a range outside the tokens."""
    if not 0 <= start < stop <= n_pos:
        raise PromptError(
            f"the span {name!r} is tokens {start} to {stop}, but must be 0 ≤ start < stop ≤ {n_pos}; characters are "
            "given as Chars(start, stop)"
        )


def _span(prompt: Prompt, name: str, span: str | Chars) -> tuple[int, int]:
    if prompt.text is None:
        raise PromptError(
            f"the span {name!r} is part of a text, but the prompt was given as ids; give (start, stop) in tokens"
        )
    if prompt.offsets is None:
        raise PromptError("spans need character offsets, which a slow tokenizer lacks; use its fast version")
    start, stop = _character_range(prompt.text, name, span)
    cut = _cut_token(prompt, start, stop)
    if cut is not None:
        token_start, token_stop = prompt.offsets[cut]
        raise PromptError(
            f"the span {name!r}, characters {start} to {stop}, cuts token {cut}, {prompt.tokens[cut]!r}, "
            f"which is characters {token_start} to {token_stop}; move the span to a token's edge"
        )
    tokens = tokens_within(prompt, start, stop)
    if tokens is None:
        raise PromptError(f"the span {name!r}, characters {start} to {stop}, holds no token; widen it")
    return tokens


def _character_range(text: str, name: str, span: Any) -> tuple[int, int]:
    if isinstance(span, str):
        starts = [match.start() for match in re.finditer(f"(?={re.escape(span)})", text)] if span else []
        if not starts:
            raise PromptError(f"the span {name!r}, {quote(span)}, is not in the prompt; give a part of its text")
        if len(starts) > 1:
            places = ", ".join(map(str, starts[:5])) + (", …" if len(starts) > 5 else "")
            raise PromptError(
                f"the span {name!r}, {quote(span)}, occurs {len(starts)} times, at characters {places}; "
                "give more of the text, or Chars(start, stop)"
            )
        return starts[0], starts[0] + len(span)
    start, stop = integer_pair(name, (span.start, span.stop))
    if not 0 <= start < stop <= len(text):
        raise PromptError(
            f"the span {name!r} is characters {start} to {stop}, but must be 0 ≤ start < stop ≤ {len(text)}"
        )
    return start, stop


def integer_pair(name: str, span: Any) -> tuple[int, int]:
    """A span given as two integers; PromptError for anything else."""
    if isinstance(span, Sequence) and not isinstance(span, (str, bytes)) and len(span) == 2:
        start, stop = map(as_integer, span)
        if start is not None and stop is not None:
            return start, stop
    raise PromptError(f"the span {name!r} must be two integers (start, stop) in tokens, got {quote(span)}")


def _cut_token(prompt: Prompt, start: int, stop: int) -> int | None:
    """The first token that is partly inside [start, stop) and has more than white space outside it."""
    text = prompt.text or ""
    start, stop = _without_space(text, start, stop)
    for index, (token_start, token_stop) in enumerate(prompt.offsets or ()):
        if max(start, token_start) < min(stop, token_stop):
            outside = text[token_start:start] + text[stop:token_stop]
            if outside.strip() or (outside and text[start:stop].isspace()):
                return index
    return None


def tokens_within(prompt: Prompt, start: int, stop: int) -> tuple[int, int] | None:
    """The range of tokens that hold any character of [start, stop), white space at its ends aside."""
    start, stop = _without_space(prompt.text or "", start, stop)
    held = [i for i, (a, b) in enumerate(prompt.offsets or ()) if max(start, a) < min(stop, b)]
    return (held[0], held[-1] + 1) if held else None


def _without_space(text: str, start: int, stop: int) -> tuple[int, int]:
    part = text[start:stop]
    if part.isspace():
        return start, stop
    return start + len(part) - len(part.lstrip()), stop - len(part) + len(part.rstrip())
