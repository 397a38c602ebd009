"""A source × target matrix in the terminal: a compact map, the strongest sources of each prediction, span totals; and
influence through its generated text: sentences, the strongest ways, tokens."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.table import Column
from rich.text import Text

from lens_scopes.errors import PromptError
from lens_scopes.views.terminal.parts import (
    ScoreStyle,
    TerminalView,
    add_gap,
    append_cell,
    blocks,
    folded,
    heading,
    plain_table,
    right,
    warning_lines,
    whole_right,
)
from lens_scopes.views.words.attribution import interpretation, number, percent, prompt_text
from lens_scopes.views.words.colour import Scale, scale_of
from lens_scopes.views.words.matrix import (
    INFLUENCE_CAVEAT,
    PredictionLine,
    explained_spans,
    influence_summary,
    matrix_data_warnings,
    prediction_lines,
    segment_names,
    target_name,
)
from lens_scopes.views.words.token_text import inline_token, printable_token

if TYPE_CHECKING:
    from lens_scopes.results.influence import TotalInfluence
    from lens_scopes.results.matrix import AttributionMatrix

_MAX_ROWS = 40
_MAX_LINES = 24


class MatrixReport(TerminalView["AttributionMatrix"]):
    """A rich renderable of a source × target matrix; fits the width of the console it is printed on."""

    def parts(self, styles: ScoreStyle, width: int) -> Iterator[RenderableType]:
        matrix = self.result
        lines = prediction_lines(matrix)
        yield heading(f"Source × target: {inline_token(matrix.objective)}", matrix)
        yield Text(prompt_text(matrix))
        yield from warning_lines((*matrix.warnings, *matrix_data_warnings(matrix)))
        yield add_gap(Text(interpretation(matrix), "dim"))
        yield add_gap(_map(matrix, lines, styles, width))
        yield add_gap(_predictions(matrix, lines, width))
        if matrix.spans:
            yield add_gap(_spans(matrix))


class InfluenceReport(TerminalView["TotalInfluence"]):
    """A rich renderable of influence through generated text; fits the width of the console it is printed on."""

    def parts(self, styles: ScoreStyle, width: int) -> Iterator[RenderableType]:
        influence = self.result
        yield heading(f"Total influence: {inline_token(influence.objective)}", influence)
        yield Text(f"on {target_name(influence)} of: {prompt_text(influence)}")
        yield from warning_lines(influence.warnings)
        yield add_gap(Text(f"{influence_summary(influence)} {INFLUENCE_CAVEAT}", "dim"))
        yield add_gap(_sentences(influence, styles, width))
        yield add_gap(_ways(influence))
        yield add_gap(_tokens(influence))


def _sentences(influence: TotalInfluence, styles: ScoreStyle, width: int) -> RenderableType:
    """Each segment with its share, and the two that it rests on most."""
    segments, flows = influence.segments(), influence.flows()
    names = segment_names(influence, segments)
    whole = partial(Column, no_wrap=True)
    table = plain_table(whole("segment"), whole_right("share"), whole(), whole("rests on"), "text")
    room = max(10, width - 66)
    for index, segment in enumerate(segments):
        strongest = flows[index].topk(min(2, len(segments))).indices.tolist()
        best = [source for source in strongest if flows[index, source] > 0]
        total = float(flows[index].sum())
        rests = ", ".join(f"{names[source]} {percent(float(flows[index, source]) / total)}" for source in best)
        text = Text(" ".join(inline_token(segment.label).split()))
        text.truncate(room, overflow="ellipsis")
        bar = Text(blocks(segment.share, 8), styles.bar)
        table.add_row(Text(names[index], "bold"), percent(segment.share), bar, Text(rests), text)
    return Group(Text("share of the influence that passes through a segment, or ends in it", "dim"), table)


def _ways(influence: TotalInfluence, most: int = 5) -> RenderableType:
    segments = influence.segments()
    names = segment_names(influence, segments)
    table = plain_table(whole_right("share"), folded("the strongest ways to the prompt"))
    for chain in influence.chains(most):
        table.add_row(percent(chain.share), Text(" ← ".join(names[segments.index(item)] for item in chain.segments)))
    return table


def _tokens(influence: TotalInfluence, most: int = 8) -> RenderableType:
    token = Column("token", no_wrap=True)
    table = plain_table(whole_right("#"), token, whole_right("total"), whole_right("direct"))
    for index, label, score in influence.top(most):
        assert isinstance(index, int)
        direct = number(float(influence.direct[index]))
        table.add_row(Text(str(index), "dim"), Text(printable_token(label)), number(score), direct)
    return table


def _map(matrix: AttributionMatrix, lines: list[PredictionLine], styles: ScoreStyle, width: int) -> RenderableType:
    """Predictions down, source tokens across, each row on its own scale; many sources share a column."""
    rows = lines[-_MAX_ROWS:]
    label = max(8, min(max(cell_len(_label(line)) for line in rows), width // 3))
    room = max(8, width - label - 1)
    n = len(matrix.tokens)
    # Several sources share a column where the terminal is narrow; the strongest of them gives it its colour.
    size = math.ceil(n / room)
    starts = range(0, n, size)
    cell = max(1, min(3, room // len(starts)))
    text = Text(no_wrap=True, overflow="crop")
    text.append(" " * (label + 1) + _ruler(list(starts), cell) + "\n", "dim")
    for line in rows:
        name = Text(_label(line))
        name.truncate(label, overflow="ellipsis", pad=True)
        text.append_text(name).append(" ")
        scale = scale_of(line.scores, matrix.special[: line.dest + 1])
        for start in starts:
            _append(text, line, matrix.special, range(start, min(start + size, line.dest + 1)), scale, cell, styles)
        text.append("\n")
    text.rstrip()
    notes = ["each prediction on its own scale; columns are positions"]
    if size > 1:
        notes.append(f"each column is the strongest of {size} tokens")
    if len(rows) < len(lines):
        notes.append(f"the last {len(rows)} of {len(lines)} predictions")
    return Group(text, Text("; ".join(notes), "dim"))


def _label(line: PredictionLine) -> str:
    return f"{printable_token(line.after)} → {printable_token(line.explained.token)}"


def _append(
    text: Text,
    line: PredictionLine,
    special: list[bool],
    sources: range,
    scale: Scale,
    cell: int,
    styles: ScoreStyle,
) -> None:
    counted = [line.scores[i] for i in sources if not special[i]]
    if not sources:
        text.append(" " * cell)
    elif not counted:
        text.append("·" * cell, "dim")
    else:
        # What is not finite must show, also beside stronger numbers.
        broken = [score for score in counted if not math.isfinite(score)]
        append_cell(text, max(broken or counted, key=abs), scale, cell, styles)


def _ruler(starts: list[int], cell: int) -> str:
    line = ""
    for column, start in enumerate(starts):
        if len(line) <= column * cell and column % 5 == 0:
            line = line.ljust(column * cell) + f"{start} "
    return line[: len(starts) * cell]


def _predictions(matrix: AttributionMatrix, lines: list[PredictionLine], width: int) -> RenderableType:
    rows = lines[-_MAX_LINES:]
    after, target = (folded(name, max_width=max(6, width // 5)) for name in ("after", "explained"))
    table = plain_table(whole_right("#"), after, target, whole_right("p"), folded("from"))
    for line in rows:
        sources = line.sources[: 3 if width >= 80 else 1]
        strongest = ", ".join(f"{printable_token(matrix.tokens[i])} {number(line.scores[i])}" for i in sources)
        probability = percent(line.explained.probability)
        table.add_row(
            Text(str(line.dest), "dim"),
            Text(printable_token(line.after)),
            Text(printable_token(line.explained.token), "bold"),
            Text(probability, "dim"),
            Text(strongest or "no token", "" if strongest else "dim"),
        )
    which = "" if len(rows) == len(lines) else f", the last {len(rows)} of {len(lines)}"
    return Group(Text(f"which token predicted what{which}", "dim"), table)


def _spans(matrix: AttributionMatrix) -> RenderableType:
    try:
        totals = matrix.span_totals()
    except PromptError as error:
        return Text(f"! {inline_token(str(error))}", "bold yellow")
    sources = (right(Text(inline_token(str(name))), overflow="fold") for name in totals.columns)
    table = plain_table(folded("target \\ source"), *sources)
    for name, row in explained_spans(totals):
        table.add_row(Text(inline_token(name)), *(Text("—" if math.isnan(value) else number(value)) for value in row))
    note = "totals over spans: summed over the sources, averaged over the predictions"
    return Group(Text(note, "dim"), table)
