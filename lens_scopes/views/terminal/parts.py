"""Parts shared by the terminal views: score styles, bars, tables and ASCII fallbacks."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.segment import Segment
from rich.style import Style
from rich.table import Column, Table
from rich.text import Text

from lens_scopes.views.words.attribution import answer_summary, answers_of, number, percent
from lens_scopes.views.words.colour import Scale, ink, level_colour, scale_of, to_hex
from lens_scopes.views.words.token_text import inline_token

if TYPE_CHECKING:
    from lens_scopes.results.base import Result

_Result = TypeVar("_Result")

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

    def drop_colours(self, sentence: str) -> str:
        """The sentence without the names of colours where there are none."""
        return sentence if self.coloured else sentence.replace(" (orange)", "").replace(" (blue)", "")

    def bar_style(self, score: float) -> Style:
        return self.negative_bar if score < 0 else self.bar

    @property
    def bar(self) -> Style:
        return Style(color=to_hex(level_colour(20))) if self.coloured else Style()

    @property
    def negative_bar(self) -> Style:
        return Style(color=to_hex(level_colour(-20))) if self.coloured else Style()


class TerminalView(ABC, Generic[_Result]):
    """A rich renderable of a result, which fits the width of the console and writes what its encoding has.

    Args:
        result: what to show.
        on_dark: colours for a dark terminal background; None reads `COLORFGBG` and takes dark where that is
            not set.
    """

    def __init__(self, result: _Result, *, on_dark: bool | None = None) -> None:
        self.result = result
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


def add_gap(part: RenderableType) -> RenderableType:
    """The part with an empty line above it."""
    return Padding(part, (1, 0, 0, 0))


def warning_lines(sentences: Iterable[str]) -> Iterator[RenderableType]:
    """Sentences that a reader must not miss."""
    for sentence in sentences:
        yield add_gap(Text(f"! {inline_token(sentence)}", style="bold yellow"))


def answer_lines(result: object) -> Iterator[RenderableType]:
    """The answers that a result explains, each with its probability."""
    for role, answer in answers_of(result).items():
        yield Text(f"{role} {inline_token(answer.text)!r}: {answer_summary(answer)}", "dim")


def plain_table(*columns: Column | str) -> Table:
    """A table without lines, its headings dim."""
    return Table(*columns, box=None, padding=(0, 2, 0, 0), header_style="dim")


def grid(*columns: Column | str) -> Table:
    """The same without headings."""
    return Table.grid(*columns, padding=(0, 2, 0, 0))


folded = partial(Column, overflow="fold")
right = partial(Column, justify="right")
whole_right = partial(Column, justify="right", no_wrap=True)


def heading(subject: str, result: Result, more: str = "") -> Text:
    """The first line of a view: what it shows, of which model, and more."""
    name = inline_token(str(result.model.get("name", "")))
    return Text.assemble((subject, "bold"), (f"  {name}{more}", "dim"))


def definitions(mapping: Mapping[str, str]) -> RenderableType:
    """Names and values in two columns."""
    table = grid(Column(style="dim", no_wrap=True), folded())
    for name, value in mapping.items():
        table.add_row(Text(inline_token(name)), Text(inline_token(str(value))))
    return table


class ContractView(TerminalView["Result"]):
    """The five elements of a result's claim."""

    def parts(self, styles: ScoreStyle, width: int) -> Iterator[RenderableType]:
        yield add_gap(definitions(self.result.contract))


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


def score_map(
    labels: Sequence[str],
    special: Sequence[bool],
    values: list[list[float]],
    names: list[str],
    styles: ScoreStyle,
    width: int,
    *,
    by_row: bool = True,
    most: int = 40,
) -> RenderableType:
    """Tokens down, layers across; the weakest tokens go where there are too many.

    Args:
        labels: of the tokens.
        special: which of them stay outside the scale.
        values: one row for each layer.
        names: of the layers.
        by_row: whether each layer has its own scale, or all have one.
        most: how many tokens fit.
    """
    # The tokens that are strongest in any layer, in their order.
    scales = [scale_of(row, special) for row in values]
    if not by_row:
        scales = [scale_of([value for row in values for value in row], list(special) * len(values))] * len(values)
    n = len(labels)
    strength = [max(_strength(row[i], scale) for row, scale in zip(values, scales, strict=True)) for i in range(n)]
    columns = sorted(sorted(range(n), key=lambda i: -strength[i])[:most])
    # Room for the token names; neighbouring layers share a column where there are too many.
    label = min(max(cell_len(labels[i]) for i in columns), max(10, width // 4))
    room = max(8, width - label - 2)
    bins = _bins(len(names), room)
    cell = max(1, min(3, room // len(bins)))
    # One line per token.
    ruler = " " * (label + 1) + _ruler(names, bins, cell)
    text = Text(no_wrap=True, overflow="crop")
    text.append(f"{ruler}\n", "dim")
    for i in columns:
        name = Text(labels[i], "dim" if special[i] else "")
        name.truncate(label, overflow="ellipsis", pad=True)
        text.append_text(name).append(" ")
        for start, stop in bins:
            _append_cell(
                text,
                [(values[j][i], scales[j]) for j in range(start, stop)],
                special[i],
                cell,
                styles,
            )
        text.append("\n")
    # What was merged or left out is said.
    note = "each layer on its own scale" if by_row else f"{number(scales[0].bound)} = largest magnitude of all layers"
    if len(bins) < len(names):
        note += f"; each column is the strongest of {bins[0][1] - bins[0][0]} layers"
    if len(columns) < n:
        rest = max(strength[i] for i in range(n) if i not in columns)
        whose = "its layer" if by_row else "the map"
        note += f"; {n - len(columns)} tokens left out, none above {percent(max(rest, 0.0))} of {whose}'s largest"
    text.rstrip()
    return Group(text, Text(note, "dim"))


def _strength(score: float, scale: Scale) -> float:
    return abs(scale.relative(score)) if math.isfinite(score) else 2.0


def _bins(n: int, room: int) -> list[tuple[int, int]]:
    size = math.ceil(n / room)
    return [(start, min(start + size, n)) for start in range(0, n, size)]


def _ruler(names: Sequence[str], bins: list[tuple[int, int]], cell: int) -> str:
    line = ""
    for column, (start, _) in enumerate(bins):
        if len(line) <= column * cell and column % (2 if cell == 3 else 5 if cell == 2 else 10) == 0:
            line = line.ljust(column * cell) + names[start] + " "
    return line


def _append_cell(text: Text, scored: list[tuple[float, Scale]], special: bool, cell: int, styles: ScoreStyle) -> None:
    if special:
        text.append("·" * cell, "dim")
    else:
        broken = [pair for pair in scored if not math.isfinite(pair[0])]
        score, scale = max(broken or scored, key=lambda pair: abs(pair[1].relative(pair[0])))
        append_cell(text, score, scale, cell, styles)


def blocks(share: float, room: int) -> str:
    """`share` of `room` cells as full blocks and one of eight partial ones."""
    eighths = round(max(0.0, min(1.0, share)) * room * 8)
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]


def _terminal_is_dark() -> bool:
    background = os.environ.get("COLORFGBG", "").rpartition(";")[2]
    return background not in ("7", "15")
