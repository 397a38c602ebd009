"""A head inspection in the terminal: the heads × layers map, the strongest heads, predictions against ablations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Column
from rich.text import Text

from lens_scopes.views.terminal.parts import (
    ScoreStyle,
    TerminalView,
    add_gap,
    answer_lines,
    append_cell,
    blocks,
    folded,
    grid,
    heading,
    plain_table,
    scale_line,
    warning_lines,
    whole_right,
)
from lens_scopes.views.words.attribution import is_divergence, number, title
from lens_scopes.views.words.changes import (
    HeadLine,
    head_lines,
    heads_agreement,
    heads_data_warnings,
    heads_interpretation,
    unit_of_change,
)
from lens_scopes.views.words.colour import Scale, scale_of
from lens_scopes.views.words.numbers import short_number
from lens_scopes.views.words.token_text import inline_token, printable_token

if TYPE_CHECKING:
    from lens_scopes.results.heads import HeadInspection

_MAX_HEADS, _MAX_MLPS = 10, 3


class HeadsReport(TerminalView["HeadInspection"]):
    """A rich renderable of a head inspection; fits the width of the console it is printed on."""

    def parts(self, styles: ScoreStyle, width: int) -> Iterator[RenderableType]:
        heads = self.result
        where = f"  position {heads.position} of {len(heads.tokens)} tokens"
        yield heading(f"Heads: {inline_token(heads.objective)}", heads, where)
        yield Text(title(heads))
        yield from answer_lines(heads)
        yield from warning_lines((*heads.warnings, *heads_data_warnings(heads)))
        yield add_gap(Text(styles.drop_colours(heads_interpretation(heads)), "dim"))
        yield add_gap(_map(heads, styles, width))
        yield add_gap(_strongest(heads, head_lines(heads)[:_MAX_HEADS], styles, width))
        yield add_gap(_ablations(heads, styles, width))


def _map(heads: HeadInspection, styles: ScoreStyle, width: int) -> RenderableType:
    """Layers down, heads across, as many beside one another as there is room for; MLPs at the end of each row."""
    rows = heads.effect.tolist()
    mlps = heads.mlp_effect.tolist()
    scale = _scale([value for row in rows for value in row])
    mlp_scale = _scale(mlps)
    label = len(f"L{len(rows) - 1}") + 1
    n_heads = heads.effect.shape[1]
    # Numbers where every head has room for one, else shaded cells; wide models go on below in blocks.
    numbers = width - label - 8 >= 7 * (n_heads + 1)
    cell = 7 if numbers else max(1, min(3, (width - label - 6) // n_heads))
    at_once = max(1, (width - label - 6) // cell)
    # The blocks, one row per layer.
    text = Text(no_wrap=True, overflow="crop")
    for start in range(0, n_heads, at_once):
        stop = min(start + at_once, n_heads)
        last = stop == n_heads
        text.append(" " * label + _ruler(start, stop, cell, numbers), "dim")
        text.append(f"{' MLP'.rjust(7 if numbers else 4) if mlps and last else ''}\n", "dim")
        for layer, row in enumerate(rows):
            text.append(f"L{layer}".ljust(label), "dim")
            for value in row[start:stop]:
                _append(text, value, scale, cell, styles, numbers)
            if mlps and last:
                text.append(" ")
                _append(text, mlps[layer], mlp_scale, 7 if numbers else 3, styles, numbers)
            text.append("\n")
    text.rstrip()
    # Scales, and what shades cannot show.
    notes = [text]
    if styles.coloured or not numbers:
        notes.append(scale_line(scale, styles, "all heads"))
    if mlps and (styles.coloured or not numbers):
        notes.append(scale_line(mlp_scale, styles, "all MLPs, on their own scale"))
    if not (styles.coloured or numbers or is_divergence(heads)):
        notes.append(Text("shades are magnitudes, signs stand in the table", "dim"))
    return Group(*notes)


def _append(text: Text, value: float, scale: Scale, cell: int, styles: ScoreStyle, numbers: bool) -> None:
    if numbers:
        text.append(short_number(value).rjust(cell - 1) + " ", styles.style(value, scale))
    else:
        append_cell(text, value, scale, cell, styles)


def _ruler(start: int, stop: int, cell: int, numbers: bool) -> str:
    if numbers:
        return "".join(f"H{head}".rjust(cell - 1) + " " for head in range(start, stop))
    line = ""
    for column, head in enumerate(range(start, stop)):
        if len(line) <= column * cell:
            line = line.ljust(column * cell) + f"H{head} "
    return line[: (stop - start) * cell].ljust((stop - start) * cell)


def _scale(values: list[float]) -> Scale:
    return scale_of(values, [False] * len(values))


def _strongest(heads: HeadInspection, lines: list[HeadLine], styles: ScoreStyle, width: int) -> RenderableType:
    types = [folded("type")] if any(line.kind for line in lines) else []
    changes = map(whole_right, ("direct", "predicted", "actual"))
    table = plain_table(Column("head", no_wrap=True), *types, *changes, folded("mostly from"))
    for line in lines:
        cells = [Text(line.name, "bold")]
        if types:
            cells.append(Text(line.kind or "—", "" if line.kind else "dim"))
        cells.append(Text(short_number(line.direct), "dim"))
        cells.append(Text(short_number(line.effect), styles.bar_style(line.effect)))
        cells.append(
            Text("—", "dim") if line.actual is None else Text(short_number(line.actual), styles.bar_style(line.actual))
        )
        best = line.carriers(heads.special, 2 if width >= 80 else 1)
        cells.append(
            Text(", ".join(f"{printable_token(heads.tokens[i])} {short_number(line.sources[i])}" for i in best) or "—")
        )
        table.add_row(*cells)
    return Group(Text(f"the strongest heads, in {unit_of_change(heads)}", "dim"), table)


def _ablations(heads: HeadInspection, styles: ScoreStyle, width: int) -> RenderableType:
    """The agreement of predictions with ablations, and the MLPs that did most."""
    parts: list[RenderableType] = [Text(heads_agreement(heads))]
    mlps = [item for item in heads.ablations if item.head is None][:_MAX_MLPS]
    if mlps:
        largest = max(abs(item.actual) for item in mlps) or 1.0
        table = grid()
        for item in mlps:
            table.add_row(
                Text(item.name, "bold"),
                Text(f"predicted {number(item.predicted)}"),
                Text(f"actual {number(item.actual)}"),
                Text(blocks(abs(item.actual) / largest, max(4, min(24, width - 50))), styles.bar_style(item.actual)),
            )
        parts += [Text("the strongest MLPs", "dim"), table]
    return Group(*parts)
