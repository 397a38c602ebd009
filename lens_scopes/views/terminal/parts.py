"""Parts shared by the terminal views: score styles, bars, tables and ASCII fallbacks."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

from lens_scopes.views.words.attribution import number
from lens_scopes.views.words.colour import Scale, ink, level_colour, to_hex
from lens_scopes.views.words.token_text import inline_token

HEIGHTS = " ▁▂▃▄▅▆▇█"
SHADES = " ░▒▓█"
_ASCII = str.maketrans(
    dict(zip("▁▂▃▄▅▆▇█░▒▓", "..:-=+*#.:=", strict=True))
    | dict.fromkeys("▏▎▍▌▋▊▉", "|")
    | dict(zip("·—–−×␣“”’⟨⟩βλ", '.---x_""\'<>bL', strict=True))
    | {"…": "...", "→": "->", "↔": "<->", "↵": "\\n", "‖": "||", "∂": "d", "₂": "_2", "ᵀ": "^T", "⇥": "\\t"}
    | {"±": "+/-", "≥": ">="}
)


class ScoreStyle:
    """Turns scores into styles (with colour) or characters (without)."""

    def __init__(self, *, coloured: bool, on_dark: bool) -> None:
        self.coloured = coloured
        self._on_dark = on_dark
        self._ink = to_hex(ink(on_dark=on_dark))

    def style(self, score: float, scale: Scale) -> Style:
        if not self.coloured or not math.isfinite(score):
            return Style()
        return self.level_style(scale.level(score))

    def level_style(self, level: int) -> Style:
        return Style(color=self._ink, bgcolor=to_hex(level_colour(level, on_dark=self._on_dark)))

    def bar_style(self, score: float) -> Style:
        return self.negative_bar if score < 0 else self.bar

    @property
    def bar(self) -> Style:
        return Style(color=to_hex(level_colour(20))) if self.coloured else Style()

    @property
    def negative_bar(self) -> Style:
        return Style(color=to_hex(level_colour(-20))) if self.coloured else Style()


class TerminalView(ABC):
    """A rich renderable that fits the width of the console and writes what its encoding has.

    Args:
        on_dark: colours for a dark terminal background; None reads `COLORFGBG` and takes dark where that is
            not set.
    """

    def __init__(self, *, on_dark: bool | None = None) -> None:
        self.on_dark = _terminal_is_dark() if on_dark is None else on_dark

    @abstractmethod
    def parts(self, styles: ScoreStyle, width: int) -> Iterator[RenderableType]:
        """What to print, from top to bottom."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        styles = ScoreStyle(coloured=console.color_system is not None and not console.no_color, on_dark=self.on_dark)
        parts = Group(*self.parts(styles, options.max_width))
        if options.ascii_only:
            for segment in console.render(parts, options):
                text = segment.text.translate(_ASCII).encode("ascii", "replace").decode("ascii")
                yield Segment(text, segment.style, segment.control)
        else:
            yield parts


def spaced(part: RenderableType) -> RenderableType:
    """The part with an empty line above it."""
    return Padding(part, (1, 0, 0, 0))


def warning_lines(sentences: Iterable[str]) -> Iterator[RenderableType]:
    """Sentences that a reader must not miss."""
    for sentence in sentences:
        yield spaced(Text(f"! {inline_token(sentence)}", style="bold yellow"))


def definitions(mapping: Mapping[str, str]) -> RenderableType:
    """Names and values in two columns."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in mapping.items():
        table.add_row(Text(inline_token(name)), Text(inline_token(str(value))))
    return table


def append_ramp(line: Text, scale: Scale, styles: ScoreStyle) -> None:
    """The colours of the scale, or the heights that stand for them."""
    if not styles.coloured:
        line.append(f"0 {HEIGHTS[1:]}")
        return
    if not scale.signed:
        line.append("0 ")
    for level in range(-20 if scale.signed else 0, 21, 4):
        line.append("  ", styles.level_style(level))


def scale_line(scale: Scale, styles: ScoreStyle, of: str) -> Text:
    """The ramp between its end values, and what they are the largest magnitude of."""
    line = Text(style="dim")
    if not scale.bound:
        return line.append(f"no colour: no value of {of} differs from zero")
    if scale.signed and styles.coloured:
        line.append(f"{number(-scale.bound)} ")
    append_ramp(line, scale, styles)
    return line.append(f" {number(scale.bound)} = largest magnitude of {of}")


def append_cell(text: Text, score: float, scale: Scale, cell: int, styles: ScoreStyle) -> None:
    """A cell of a map: its colour or shade, `?` where the score is not finite."""
    if not math.isfinite(score):
        text.append("?" * cell, "dim")
    elif styles.coloured:
        text.append(" " * cell, styles.style(score, scale))
    else:
        text.append(SHADES[round(abs(scale.relative(score)) * 4)] * cell)


def blocks(share: float, room: int) -> str:
    """`share` of `room` cells as full blocks and one of eight partial ones."""
    eighths = round(max(0.0, min(1.0, share)) * room * 8)
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]


def _terminal_is_dark() -> bool:
    background = os.environ.get("COLORFGBG", "").rpartition(";")[2]
    return background not in ("7", "15")
