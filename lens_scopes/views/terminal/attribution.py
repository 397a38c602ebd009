"""An attribution in the terminal: the text with coloured backgrounds, the strongest tokens, the prediction,
the terms.

Where the terminal has no colour (a pipe, `NO_COLOR`) the same heights are drawn with block characters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

from lens_scopes.views.terminal.parts import (
    HEIGHTS,
    ScoreStyle,
    TerminalView,
    append_ramp,
    blocks,
    definitions,
    score_map,
    spaced,
    warning_lines,
)
from lens_scopes.views.words.attribution import (
    answer_summary,
    data_warnings,
    following,
    layer_leaders,
    lens_note,
    likely,
    number,
    percent,
    ranking,
    reading_text,
    rows,
    short_names,
)
from lens_scopes.views.words.colour import Scale, scale_of
from lens_scopes.views.words.token_text import inline_token, printable_token

if TYPE_CHECKING:
    from lens_scopes.results.attribution import Attribution


class TerminalReport(TerminalView):
    """A rich renderable of an attribution; fits the width of the console it is printed on.

    Args:
        attribution: what to show.
        layers: also the layers × tokens map and the leading token of each layer; the map needs an attribution
            with layers, and says so where there are none.
        most: how many of the strongest tokens the table lists.
        on_dark: colours for a dark terminal background; None reads `COLORFGBG` and takes dark where that is
            not set.

    Example:
        >>> from rich.console import Console
        >>> Console().print(TerminalReport(attribution, layers=True))  # doctest: +SKIP
    """

    def __init__(
        self, attribution: Attribution, *, layers: bool = False, most: int = 10, on_dark: bool | None = None
    ) -> None:
        super().__init__(on_dark=on_dark)
        self.attribution = attribution
        self.layers = layers
        self.most = most

    def parts(self, styles: ScoreStyle, width: int) -> Iterator[RenderableType]:
        yield from _parts(self.attribution, styles, width, self.layers, self.most)


def print_terminal(attribution: Attribution, console: Console | None = None, layers: bool = False) -> None:
    """Print an attribution to a terminal; see `TerminalReport`."""
    (console or Console()).print(TerminalReport(attribution, layers=layers))


def _parts(
    attribution: Attribution, styles: ScoreStyle, width: int, layers: bool, most: int
) -> Iterator[RenderableType]:
    yield _heading(attribution)
    yield from warning_lines((*attribution.warnings, *data_warnings(attribution)))
    yield spaced(_strip(attribution, styles, width))
    yield _legend(attribution, styles)
    if layers:
        yield from _layers(attribution, styles, width)
    yield spaced(_strongest(attribution, styles, width, most))
    yield spaced(_prediction(attribution, styles, width))
    yield spaced(definitions(attribution.contract))


def _heading(attribution: Attribution) -> Text:
    name = attribution.model.get("name", "")
    line = Text.assemble((inline_token(attribution.objective), "bold"), (f"  {inline_token(str(name))}", "dim"))
    line.append(f"  position {attribution.position} of {len(attribution.tokens)} tokens", "dim")
    return line


def _strip(attribution: Attribution, styles: ScoreStyle, width: int) -> RenderableType:
    scores = attribution.scores.tolist()
    scale = scale_of(scores, attribution.special)
    if not styles.coloured:
        return _plain_strip(attribution, scores, scale, width)
    text = Text(no_wrap=False, overflow="fold")
    for token, score, special in zip(attribution.tokens, scores, attribution.special, strict=True):
        outside = special or not math.isfinite(score)
        text.append(inline_token(token), Style(dim=True, italic=True) if outside else styles.style(score, scale))
    after = following(attribution)
    if after is not None:
        text.append(f"  → {after.text}", Style(bold=True))
    return text


def _plain_strip(attribution: Attribution, scores: list[float], scale: Scale, width: int) -> Text:
    """The text and, under every line of it, one column of height for each character of a token."""
    lines: list[tuple[str, str]] = [("", "")]
    for token, score, special in zip(attribution.tokens, scores, attribution.special, strict=True):
        piece = inline_token(token).rstrip("\n") or " "
        outside = special or not math.isfinite(score)
        block = "·" if outside else HEIGHTS[math.ceil(abs(scale.relative(score)) * 8 - 0.5) if score else 0]
        if cell_len(lines[-1][0]) + cell_len(piece) > width:
            lines.append(("", ""))
        above, below = lines[-1]
        lines[-1] = (above + piece, below + block * cell_len(piece))
        if inline_token(token).endswith("\n"):
            lines.append(("", ""))
    return Text("\n".join(f"{above}\n{below}" for above, below in lines if above), no_wrap=True, overflow="crop")


def _legend(attribution: Attribution, styles: ScoreStyle) -> Text:
    scale = scale_of(attribution.scores.tolist(), attribution.special)
    line = Text(style="dim")
    if scale.bound:
        if scale.signed and styles.coloured:
            line.append(f"{number(-scale.bound)} ")
        append_ramp(line, scale, styles)
        rest = "the other tokens" if any(attribution.special) else "these tokens"
        line.append(f" {number(scale.bound)} = largest magnitude of {rest}")
    notes = ["special tokens are outside the scale"] if any(attribution.special) else []
    if scale.signed and not styles.coloured:
        notes.append("heights and shades are magnitudes, signs stand in the table")
    line.append("".join(f"; {note}" for note in notes) if scale.bound else "; ".join(notes))
    return line


def _strongest(attribution: Attribution, styles: ScoreStyle, width: int, most: int) -> RenderableType:
    lines = rows(attribution)
    best = ranking([line.score for line in lines], attribution.special)[:most]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", title_justify="left")
    table.add_column("#", justify="right")
    table.add_column("token", overflow="fold", max_width=max(12, width // 3))
    table.add_column("score", justify="right")
    if attribution.standard_error is not None:
        table.add_column("± s.e.", justify="right")
    table.add_column("share", justify="right")
    table.add_column("")
    table_rows = [*(line for line in lines if line.special and line.index == 0), *(lines[i] for i in best)]
    largest = max((abs(lines[i].score) for i in best), default=0.0)
    room = max(8, min(32, width - 52))
    for line in table_rows:
        cells = [Text(str(line.index)), Text(printable_token(line.token)), Text(number(line.score))]
        if attribution.standard_error is not None:
            cells.append(Text("" if line.standard_error is None else number(line.standard_error)))
        cells.append(Text("—" if line.share is None else percent(line.share)))
        bar = Text("outside the scale")
        if not line.special:
            bar = Text(blocks(abs(line.score) / largest, room), styles.negative_bar if line.score < 0 else styles.bar)
        cells.append(bar)
        table.add_row(*cells, style="dim" if line.special else "")
    return table


def _prediction(attribution: Attribution, styles: ScoreStyle, width: int, most: int = 5) -> RenderableType:
    target = attribution.target
    predictions = likely(attribution, most)
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(overflow="fold", max_width=max(12, width // 3))
    table.add_column(justify="right")
    table.add_column()
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
    if attribution.layers is None:
        yield spaced(Text("No layers were read for this attribution.", "bold yellow"))
        return
    values = attribution.layers.tolist()
    names = short_names(attribution.layer_names)
    labels = [printable_token(token) for token in attribution.tokens]
    yield spaced(score_map(labels, attribution.special, values, names, styles, width))
    yield spaced(_leaders(attribution, values, names))
    if attribution.lens is not None:
        yield spaced(_readings(attribution, names))


def _readings(attribution: Attribution, names: list[str]) -> RenderableType:
    """The strongest token of each layer, and what the residual stream there reads as."""
    assert attribution.lens is not None
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("layer", no_wrap=True)
    table.add_column("strongest token", overflow="fold")
    table.add_column("reads as", overflow="fold")
    for row, index, _ in layer_leaders(attribution):
        read = reading_text(attribution.lens.at(row, index))
        table.add_row(Text(names[row]), Text(printable_token(attribution.tokens[index])), Text(read or "was not read"))
    return Group(Text(lens_note(attribution), "dim"), table)


def _leaders(attribution: Attribution, values: list[list[float]], names: list[str]) -> RenderableType:
    """Runs of consecutive layers with the same leading token, and its score at the first and last of them."""
    leaders = [(ranking(row, attribution.special) or [None])[0] for row in values]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("layers")
    table.add_column("strongest token", overflow="fold")
    table.add_column("score", justify="right")
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
