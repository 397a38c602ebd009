"""The prompt of a command: text, standard input, a file, or a chat."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from lens_scopes.errors import FileError, PromptError

_PANEL = "Prompt"
_STANDARD_INPUT = "-"

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class TextOptions:
    """What the model reads."""

    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="The prompt, or - to read standard input.", show_default=False)
    ] = None
    file: Annotated[
        Path | None, typer.Option(help="Read the prompt from a UTF-8 text file.", rich_help_panel=_PANEL)
    ] = None
    chat: Annotated[
        Path | None,
        typer.Option(
            help='Read a chat from a JSON file: [{"role": "user", "content": "…"}, …].', rich_help_panel=_PANEL
        ),
    ] = None

    def read(self) -> str | Messages:
        """The prompt as text or as chat messages.

        One line break at the end of a file or of standard input is dropped: editors and `echo` add it, and with it the
        model would predict the start of the next line.

        Raises:
            PromptError: when there is no prompt, more than one, or an empty one.
            FileError: when a file cannot be read, is not UTF-8, or is not a chat.
        """
        sources = [
            name
            for name, value in (("TEXT", self.text), ("--file", self.file), ("--chat", self.chat))
            if value is not None
        ]
        if len(sources) != 1:
            what = f"{' and '.join(sources)} were given" if sources else "no prompt was given"
            raise PromptError(f"{what}; give one of TEXT, - for standard input, --file PATH, --chat FILE.json.")
        if self.chat is not None:
            return _messages(self.chat)
        text = self.text or ""
        if self.file is not None:
            text = _without_last_break(_decode(_content(self.file), str(self.file)))
        elif text == _STANDARD_INPUT:
            if sys.stdin is None:
                raise PromptError("standard input is closed, and - reads the prompt from it; give the text itself.")
            text = _without_last_break(_decode(sys.stdin.buffer.read(), "standard input"))
        if not text:
            raise PromptError("the prompt is empty; give at least one token of text.")
        return text


@dataclass(frozen=True)
class PromptOptions(TextOptions):
    """What the model reads, and the position whose prediction is explained."""

    position: Annotated[
        int,
        typer.Option(
            help="Explain the prediction after the token at this index; negative indices count from the end.",
            rich_help_panel=_PANEL,
        ),
    ] = -1


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}.") from error


def _decode(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FileError(
            f"{name} is not valid UTF-8: byte 0x{content[error.start]:02x} at offset {error.start}; convert it."
        ) from error


def _without_last_break(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text


def _messages(path: Path) -> Messages:
    try:
        messages = json.loads(_decode(_content(path), str(path)))
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} is not JSON ({error}); expected a list of messages.") from error
    if not isinstance(messages, list) or not messages or not all(isinstance(item, dict) for item in messages):
        raise FileError(
            f'{path} is not a chat; expected a list of messages such as {{"role": "user", "content": "Hello"}}.'
        )
    return messages
