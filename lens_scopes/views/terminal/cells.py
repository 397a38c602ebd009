"""Patched cells in the terminal: the layers × tokens map, and predictions against patches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from lens_scopes.views.terminal.parts import (
    ScoreStyle,
    TerminalView,
    add_gap,
    answer_lines,
    folded,
    heading,
    plain_table,
    score_map,
    warning_lines,
    whole_right,
)
from lens_scopes.views.words.attribution import short_names, title
from lens_scopes.views.words.changes import (
    cells_agreement,
    cells_data_warnings,
    cells_interpretation,
    tokens_pair,
    unit_of_change,
)
from lens_scopes.views.words.numbers import short_number
from lens_scopes.views.words.token_text import inline_token

if TYPE_CHECKING:
    from lens_scopes.results.cells import CellPatches
_MAX_CELLS = 12


class CellsReport(TerminalView["CellPatches"]):
    """A rich renderable of patched cells; fits the width of the console it is printed on."""

    def parts(self, styles: ScoreStyle, width: int) -> Iterator[RenderableType]:
        patches = self.result
        where = f"  position {patches.position} of {len(patches.tokens)} tokens, against another prompt"
        yield heading(f"Cells: {inline_token(patches.objective)}", patches, where)
        yield Text(title(patches))
        yield from answer_lines(patches)
        yield from warning_lines((*patches.warnings, *cells_data_warnings(patches)))
        yield add_gap(Text(styles.drop_colours(cells_interpretation(patches)), "dim"))
        labels = [tokens_pair(*pair) for pair in zip(patches.tokens, patches.baseline_tokens, strict=True)]
        names = short_names(patches.layer_names)
        yield add_gap(score_map(labels, patches.special, patches.effect.tolist(), names, styles, width, by_row=False))
        yield add_gap(_patches(patches, names, styles))


def _patches(patches: CellPatches, names: list[str], styles: ScoreStyle) -> RenderableType:
    parts: list[RenderableType] = [Text(cells_agreement(patches))]
    if patches.cells:
        changes = map(whole_right, ("predicted", "actual"))
        table = plain_table(whole_right("layer"), whole_right("#"), folded("tokens"), *changes)
        for cell in patches.cells[:_MAX_CELLS]:
            table.add_row(
                Text(names[cell.layer], "bold"),
                Text(str(cell.position)),
                Text(tokens_pair(cell.token, cell.other_token)),
                Text(short_number(cell.predicted), styles.bar_style(cell.predicted)),
                Text(short_number(cell.actual), styles.bar_style(cell.actual)),
            )
        parts += [Text(f"the strongest cells, in {unit_of_change(patches)}", "dim"), table]
    return Group(*parts)
