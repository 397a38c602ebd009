"""Named parts of a command's prompt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import typer

from lens_scopes.errors import PromptError
from lens_scopes.prompts.spans import Chars

_PANEL = "Spans"

Span = str | Chars | tuple[int, int]


@dataclass(frozen=True)
class SpanOptions:
    """Spans by their text, their characters or their tokens."""

    span: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=TEXT",
            help="Name a span of the prompt by its text; may be repeated. By default the messages of a chat.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    characters: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=START:STOP",
            help="Name a span by its character range; may be repeated.",
            rich_help_panel=_PANEL,
        ),
    ] = None
    tokens: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=START:STOP", help="Name a span by its token range; may be repeated.", rich_help_panel=_PANEL
        ),
    ] = None

    def read(self) -> dict[str, Span]:
        """The spans by name, as `information_flow` takes them.

        Raises:
            PromptError: for one that is not NAME=…, or whose name was given before.
        """
        spans: dict[str, Span] = {}
        for item in self.span or []:
            _add(spans, "--span", item, str)
        for item in self.characters or []:
            _add(spans, "--characters", item, lambda what: Chars(*_pair(what)))
        for item in self.tokens or []:
            _add(spans, "--tokens", item, _pair)
        return spans


def _add(spans: dict[str, Span], option: str, item: str, read: Callable[[str], Span]) -> None:
    name, separator, what = item.partition("=")
    form = "TEXT" if option == "--span" else "START:STOP"
    if not (name and separator and what):
        raise PromptError(f"{option} {item!r} is not NAME={form}.")
    if name in spans:
        raise PromptError(f"two spans are named {name!r}; give each a name of its own.")
    try:
        spans[name] = read(what)
    except ValueError:
        raise PromptError(f"{option} {item!r} is not NAME={form}; write {option} secret=12:30.") from None


def _pair(what: str) -> tuple[int, int]:
    start, stop = map(int, what.split(":"))
    return start, stop
