"""A head inspection as a matplotlib figure: the heads × layers map, and predictions against ablations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lens_scopes.views.figures.interventions.scatter import map_and_scatter, scatter
from lens_scopes.views.figures.style import (
    COLUMN_INCHES,
    INK,
    STYLE,
    add_header,
    heat_map,
    scale_bar,
)
from lens_scopes.views.words.attribution import number, title
from lens_scopes.views.words.changes import changes_of_heads, heads_data_warnings, unit_of_change
from lens_scopes.views.words.colour import scale_of
from lens_scopes.views.words.numbers import short_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lens_scopes.results.heads import HeadInspection

_MAX_NUMBERS = 200


def heads_figure(heads: HeadInspection, *, width: float = COLUMN_INCHES) -> Figure:
    """The inspection as a figure of `width` inches.

    On the left (above, in a narrow figure) every head's predicted change, with the MLPs in a column of their own; each
    of the two relative to its own largest magnitude, changes that are not finite hatched. On the right (below)
    predicted against actual change of the components that were ablated, the strongest named; a square-root scale where
    one of them would hide the rest.

    Args:
        heads: what to draw.
        width: in inches; 5.5 is the text width of a paper.
    """
    import matplotlib

    with matplotlib.rc_context(STYLE):
        height = min(6.0, max(2.6, 0.145 * heads.effect.shape[0] + 0.9))
        figure, grid = map_and_scatter(width, height, (1.0, 1.25))
        _map(figure, figure.add_subplot(grid[0], label="heads"), heads)
        scatter(
            figure.add_subplot(grid[1], label="ablation"),
            heads,
            changes_of_heads(heads),
            ("head", "MLP"),
            ("ablated", f"{len(heads.ablations)} components"),
        )
        kind = f"Heads, {heads.objective}, baseline {heads.baseline}"
        add_header(figure, (title(heads), kind, *heads_data_warnings(heads)))
    return figure


def _map(figure: Figure, axes: Axes, heads: HeadInspection) -> None:
    changes = heads.effect.tolist()
    mlps = heads.mlp_effect.tolist()
    flat = [value for row in changes for value in row]
    # Heads and MLPs differ in size: one scale each.
    scale, mlp_scale = (scale_of(values, [False] * len(values)) for values in (flat, mlps))
    rows = [[scale.relative(value) for value in row] for row in changes]
    texts = [[short_number(value) for value in row] for row in changes]
    n_heads = heads.effect.shape[1]
    if mlps:
        rows = [[*row, mlp_scale.relative(value)] for row, value in zip(rows, mlps, strict=True)]
        texts = [[*row, short_number(value)] for row, value in zip(texts, mlps, strict=True)]
    image = heat_map(axes, rows, signed=scale.signed or mlp_scale.signed)
    if mlps:
        axes.axvline(n_heads - 0.5, color="white", linewidth=3)
    if len(rows) * len(rows[0]) <= _MAX_NUMBERS and n_heads <= 12:
        for y, row in enumerate(texts):
            for x, value in enumerate(row):
                axes.text(x, y, value, ha="center", va="center", fontsize=5.5, color=INK)
    step = max(1, math.ceil(len(rows) / 18))
    axes.set_yticks(range(0, len(rows), step), [f"L{layer}" for layer in range(0, len(rows), step)])
    # As many names as fit beside one another; the MLPs always have theirs.
    across = max(1, math.ceil(n_heads / 12))
    places = [*range(0, n_heads, across), *([n_heads] if mlps else [])]
    axes.set_xticks(places, [f"H{place}" if place < n_heads else "MLP" for place in places])
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False)
    bounds = f"heads {number(scale.bound)}" + (f", MLPs {number(mlp_scale.bound)}" if mlps else "")
    label = f"predicted change, relative to the largest\n({bounds} {unit_of_change(heads)})"
    scale_bar(figure, axes, image, label, shrink=0.9)
