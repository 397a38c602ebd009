"""Patched cells as a matplotlib figure: the layers × tokens map, and predictions against patches."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lens_scopes.views.figures.interventions.scatter import map_and_scatter, scatter
from lens_scopes.views.figures.style import (
    COLUMN_INCHES,
    INK,
    STYLE,
    add_header,
    drawable,
    families,
    heat_map,
    scale_bar,
    shorten,
)
from lens_scopes.views.words.attribution import number, short_names, title
from lens_scopes.views.words.changes import cells_data_warnings, changes_of_cells, tokens_pair, unit_of_change
from lens_scopes.views.words.colour import scale_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lens_scopes.results.cells import CellPatches

_MAX_LABELS = 40


def cells_figure(patches: CellPatches, *, width: float = COLUMN_INCHES) -> Figure:
    """The patched cells as a figure of `width` inches.

    On the left (above, in a narrow figure) the predicted change of every cell, on one scale, the patched cells framed
    and the tokens of both prompts under it where they differ. On the right (below) predicted against actual change of
    the patched cells. Special tokens and changes that are not finite are hatched.

    Args:
        patches: what to draw.
        width: in inches; 5.5 is the text width of a paper.
    """
    import matplotlib

    with matplotlib.rc_context(STYLE):
        height = min(6.0, max(3.2, 0.145 * len(patches.layer_names) + 1.4))
        figure, grid = map_and_scatter(width, height, (1.1, 1.0))
        _map(figure, figure.add_subplot(grid[0], label="cells"), patches)
        scatter(
            figure.add_subplot(grid[1], label="patches"),
            patches,
            changes_of_cells(patches),
            ("cell",),
            ("patched", f"{len(patches.cells)} cells"),
        )
        kind = f"Cells, {patches.objective}, against another prompt"
        add_header(figure, (title(patches), kind, *cells_data_warnings(patches)))
    return figure


def _map(figure: Figure, axes: Axes, patches: CellPatches) -> None:
    rows = patches.effect.tolist()
    special = patches.special
    scale = scale_of([value for row in rows for value in row], special * len(rows))
    relative = [
        [math.nan if outside else scale.relative(value) for value, outside in zip(row, special, strict=True)]
        for row in rows
    ]
    image = heat_map(axes, relative, signed=scale.signed)
    for cell in patches.cells:
        axes.add_patch(_frame(cell.position, cell.layer))
    names = short_names(patches.layer_names)
    step = max(1, math.ceil(len(names) / 18))
    axes.set_yticks(range(0, len(names), step), names[::step], parse_math=False)
    across = max(1, math.ceil(len(patches.tokens) / _MAX_LABELS))
    pairs = [tokens_pair(*pair) for pair in zip(patches.tokens, patches.baseline_tokens, strict=True)]
    # Every few tokens are named, and all that differ between the prompts.
    named = [i for i, pair in enumerate(pairs) if i % across == 0 or "→" in pair]
    axes.set_xticks(
        named,
        [drawable(shorten(pairs[i], 24)) for i in named],
        rotation=90,
        fontsize=6.5,
        parse_math=False,
        fontfamily=families(),
    )
    label = f"predicted change, relative to the largest\n({number(scale.bound)} {unit_of_change(patches)})"
    scale_bar(figure, axes, image, label, shrink=0.9)


def _frame(x: int, y: int):
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.5, y - 0.5), 1, 1, fill=False, edgecolor=INK, linewidth=0.7)
