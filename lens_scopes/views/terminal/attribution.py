"""An attribution in the terminal: the text with coloured backgrounds, the strongest tokens, the prediction,
the terms.

Where the terminal has no colour (a pipe, `NO_COLOR`) the same heights are drawn with block characters.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.style import Style
from rich.table import Column
from rich.text import Text

from lens_scopes.views.terminal.parts import (
    HEIGHTS,
    ScoreStyle,
    TerminalView,
    add_gap,
    append_ramp,
    blocks,
    folded,
    grid,
    heading,
    plain_table,
    right,
    score_map,
    warning_lines,
)
from lens_scopes.views.words.attribution import (
    Segment,
    answer_summary,
    data_warnings,
    following,
    layer_leaders,
    lens_note,
    likely,
    meaning_of_sum,
    number,
    percent,
    ranking,
    reading_text,
    rows,
    segments_of,
    short_names,
)
from lens_scopes.views.words.colour import Scale, scale_of
from lens_scopes.views.words.token_text import inline_token, printable_token

if TYPE_CHECKING:
    from lens_scopes.results.attribution import Attribution


class TerminalReport(TerminalView["Attribution"]):
    """A rich renderable of an attribution; fits the width of the console it is printed on.

    Args:
        attribution: what to show.
        group: sums over segments in place of the strongest tokens, and the text in their colours: the name of a
            grouping, as for `Attribution.group`; "token" for none.
        on_dark: colours for a dark terminal background; None reads `COLORFGBG` and takes dark where that is
            not set.

    Example:
        >>> from rich.console import Console
        >>> Console().print(TerminalReport(attribution))  # doctest: +SKIP
    """

    def __init__(
        self,
        attribution: Attribution,
        *,
        on_dark: bool | None = None,
        group: str = "token",
    ) -> None:
        super().__init__(attribution, on_dark=on_dark)
        self.group = group

    def parts(self, styles: ScoreStyle, width: int) -> Iterator[RenderableType]:
        attribution, group = self.result, self.group
        segments = None if group == "token" else segments_of(attribution, group)
        text = _Pieces.of(attribution, segments, group)
        where = f"  position {attribution.position} of {len(attribution.tokens)} tokens"
        yield heading(inline_token(attribution.objective), attribution, where)
        yield from warning_lines((*attribution.warnings, *data_warnings(attribution)))
        yield add_gap(_strip(attribution, text, styles, width))
        yield _legend(text, styles)
        if attribution.layers is not None:
            yield from _layers(attribution, styles, width)
        if segments is None:
            yield add_gap(_strongest(attribution, styles, width))
        else:
            yield add_gap(_sums(segments, group, styles, width))
            yield Text(meaning_of_sum(attribution), "dim")
        yield add_gap(_prediction(attribution, styles, width))


@dataclass(frozen=True)
class _Pieces:
    """The text in tokens or segments, each with its score, and what its scale is of."""

    texts: Sequence[str]
    scores: Sequence[float]
    special: Sequence[bool]
    name: str

    @classmethod
    def of(cls, attribution: Attribution, segments: Sequence[Segment] | None, group: str) -> _Pieces:
        tokens = [inline_token(token) for token in attribution.tokens]
        if segments is None:
            rest = "the other tokens" if any(attribution.special) else "these tokens"
            return cls(tokens, attribution.scores.tolist(), attribution.special, rest)
        texts = ["".join(tokens[item.start : item.stop]) for item in segments]
        scores, special = [item.score for item in segments], [item.special for item in segments]
        return cls(texts, scores, special, f"these {group}s")

    @property
    def scale(self) -> Scale:
        return scale_of(self.scores, self.special)


def _strip(attribution: Attribution, pieces: _Pieces, styles: ScoreStyle, width: int) -> RenderableType:
    if not styles.coloured:
        return _plain_strip(pieces, width)
    scale = pieces.scale
    text = Text(no_wrap=False, overflow="fold")
    for piece, score, special in zip(pieces.texts, pieces.scores, pieces.special, strict=True):
        outside = special or not math.isfinite(score)
        text.append(piece, Style(dim=True, italic=True) if outside else styles.style(score, scale))
    after = following(attribution)
    if after is not None:
        text.append(f"  → {after.text}", Style(bold=True))
    return text


def _plain_strip(pieces: _Pieces, width: int) -> Text:
    """The text and, under every line of it, one column of height for each character."""
    lines: list[tuple[str, str]] = [("", "")]
    scale = pieces.scale
    for whole, score, special in zip(pieces.texts, pieces.scores, pieces.special, strict=True):
        outside = special or not math.isfinite(score)
        block = "·" if outside else HEIGHTS[math.ceil(abs(scale.relative(score)) * 8 - 0.5) if score else 0]
        for number_of_line, line in enumerate(whole.split("\n")):
            if number_of_line:
                lines.append(("", ""))
            for piece in _wrap(line, width):
                if cell_len(lines[-1][0]) + cell_len(piece) > width:
                    lines.append(("", ""))
                above, below = lines[-1]
                lines[-1] = (above + piece, below + block * cell_len(piece))
    return Text("\n".join(f"{above}\n{below}" for above, below in lines if above), no_wrap=True, overflow="crop")


def _wrap(piece: str, width: int) -> list[str]:
    """A piece of text that fits a line, or its words where it does not."""
    return [piece] if cell_len(piece) <= width else re.findall(r"\s*\S+|\s+$", piece)


def _legend(pieces: _Pieces, styles: ScoreStyle) -> Text:
    scale = pieces.scale
    line = Text(style="dim")
    if scale.bound:
        if scale.signed and styles.coloured:
            line.append(f"{number(-scale.bound)} ")
        append_ramp(line, scale, styles)
        line.append(f" {number(scale.bound)} = largest magnitude of {pieces.name}")
    notes = ["special tokens are outside the scale"] if any(pieces.special) else []
    if scale.signed and not styles.coloured:
        notes.append("heights and shades are magnitudes, signs stand in the table")
    line.append("".join(f"; {note}" for note in notes) if scale.bound else "; ".join(notes))
    return line


def _sums(segments: Sequence[Segment], group: str, styles: ScoreStyle, width: int) -> RenderableType:
    """All segments by their sums, from the strongest; special tokens last."""
    table = plain_table(right("tokens"), folded(group, max_width=max(16, width // 2)), right("sum"), "")
    order = sorted(segments, key=lambda item: (item.special, -abs(item.score) if math.isfinite(item.score) else 0.0))
    room = max(6, min(24, width // 2 - 30))
    for item in order:
        bar = Text("outside the scale" if item.special else "")
        if item.relative is not None:
            bar = Text(blocks(item.relative, room), styles.negative_bar if item.score < 0 else styles.bar)
        span = f"{item.start}–{item.stop - 1}" if item.stop - item.start > 1 else str(item.start)
        cells = [Text(span), Text(printable_token(item.label)), Text(number(item.score)), bar]
        table.add_row(*cells, style="dim" if item.special else "")
    return table


def _strongest(attribution: Attribution, styles: ScoreStyle, width: int, most: int = 10) -> RenderableType:
    lines = rows(attribution)
    best = ranking([line.score for line in lines], attribution.special)[:most]
    errors = [] if attribution.standard_error is None else [right("± s.e.")]
    table = plain_table(right("#"), folded("token", max_width=max(12, width // 3)), right("score"), *errors, "")
    table_rows = [*(line for line in lines if line.special and line.index == 0), *(lines[i] for i in best)]
    room = max(8, min(32, width - 52))
    for line in table_rows:
        cells = [Text(str(line.index)), Text(printable_token(line.token)), Text(number(line.score))]
        if attribution.standard_error is not None:
            cells.append(Text("" if line.standard_error is None else number(line.standard_error)))
        bar = Text("outside the scale" if line.special else "")
        if line.relative is not None:
            bar = Text(blocks(line.relative, room), styles.negative_bar if line.score < 0 else styles.bar)
        cells.append(bar)
        table.add_row(*cells, style="dim" if line.special else "")
    return table


def _prediction(attribution: Attribution, styles: ScoreStyle, width: int, most: int = 5) -> RenderableType:
    target = attribution.target
    predictions = likely(attribution, most)
    table = grid(folded(max_width=max(12, width // 3)), right(), "")
    for token in predictions:
        is_target = target is not None and token.token_id == target.token_id
        table.add_row(
            Text(printable_token(token.token), "bold" if is_target else ""),
            Text(percent(token.probability), "bold" if is_target else ""),
            Text(blocks(token.probability, max(8, min(32, width - 36))), styles.bar),
        )
    answers = [answer for answer in (attribution.answer, attribution.other_answer) if answer is not None]
    lines = [
        Text.assemble((f"answer {''.join(map(inline_token, answer.tokens))!r}  ", "bold"), answer_summary(answer))
        for answer in answers
    ]
    heading = Text("prediction after the prompt" if answers else "prediction", "dim")
    facts = f"entropy {number(attribution.prediction.entropy)} nats   β = ‖y‖ = {number(attribution.prediction.beta)}"
    return Group(*lines, heading, table, Text(facts, "dim"))


def _layers(attribution: Attribution, styles: ScoreStyle, width: int) -> Iterator[RenderableType]:
    assert attribution.layers is not None
    values = attribution.layers.tolist()
    names = short_names(attribution.layer_names)
    labels = [printable_token(token) for token in attribution.tokens]
    yield add_gap(score_map(labels, attribution.special, values, names, styles, width))
    yield add_gap(_leaders(attribution, values, names))
    if attribution.lens is not None:
        yield add_gap(_readings(attribution, names))


def _readings(attribution: Attribution, names: list[str]) -> RenderableType:
    """The strongest token of each layer, and what the residual stream there reads as."""
    assert attribution.lens is not None
    table = plain_table(Column("layer", no_wrap=True), folded("strongest token"), folded("reads as"))
    for row, index, _ in layer_leaders(attribution):
        read = reading_text(attribution.lens.at(row, index))
        table.add_row(Text(names[row]), Text(printable_token(attribution.tokens[index])), Text(read or "was not read"))
    return Group(Text(lens_note(attribution), "dim"), table)


def _leaders(attribution: Attribution, values: list[list[float]], names: list[str]) -> RenderableType:
    """Runs of consecutive layers with the same leading token, and its score at the first and last of them."""
    leaders = [(ranking(row, attribution.special) or [None])[0] for row in values]
    table = plain_table("layers", folded("strongest token"), right("score"))
    for leader, run in groupby(range(len(names)), key=lambda j: leaders[j]):
        layers = list(run)
        first, last = layers[0], layers[-1]
        span = names[first] if first == last else f"{names[first]}–{names[last]}"
        if leader is None:
            table.add_row(Text(span), Text("none: every score is zero or not finite", "dim"), Text("—"))
            continue
        ends = [number(values[j][leader]) for j in dict.fromkeys((first, last))]
        table.add_row(Text(span), Text(printable_token(attribution.tokens[leader])), Text(" → ".join(ends)))
    return table
