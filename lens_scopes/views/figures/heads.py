"""A head inspection as a matplotlib figure: the heads × layers map, and predictions against ablations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lens_scopes.views.figures.style import (
    COLUMN_INCHES,
    DEEP_NEGATIVE,
    DEEP_POSITIVE,
    INK,
    QUIET,
    STYLE,
    add_header,
    heat_map,
    new_figure,
    scale_bar,
)
from lens_scopes.views.words.attribution import is_divergence, number, title
from lens_scopes.views.words.charts import axis_of, named_points
from lens_scopes.views.words.colour import NEGATIVE, POSITIVE, scale_of
from lens_scopes.views.words.heads import heads_data_warnings, unit_of_change
from lens_scopes.views.words.numbers import short_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lens_scopes.results.heads import HeadInspection

_MOST_NUMBERS = 200
_BESIDE = 4.5  # inches from which the two panels stand side by side


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
        if width < _BESIDE:
            figure = new_figure(width, height + width)
            grid = figure.add_gridspec(2, 1, height_ratios=(height, width))
        else:
            figure = new_figure(width, height)
            grid = figure.add_gridspec(1, 2, width_ratios=(1, 1.25))
        _map(figure, figure.add_subplot(grid[0], label="heads"), heads)
        _scatter(figure.add_subplot(grid[1], label="ablation"), heads)
        kind = f"Heads, {heads.objective}, baseline {heads.baseline}"
        add_header(figure, (title(heads), kind, *heads_data_warnings(heads)))
    return figure


def _map(figure: Figure, axes: Axes, heads: HeadInspection) -> None:
    changes = heads.effect.tolist()
    mlps = heads.mlp_effect.tolist()
    flat = [value for row in changes for value in row]
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
    if len(rows) * len(rows[0]) <= _MOST_NUMBERS and n_heads <= 12:
        for y, row in enumerate(texts):
            for x, value in enumerate(row):
                dark = math.isfinite(rows[y][x]) and abs(rows[y][x]) > 0.7
                axes.text(x, y, value, ha="center", va="center", fontsize=5.5, color="white" if dark else INK)
    step = max(1, math.ceil(len(rows) / 18))
    axes.set_yticks(range(0, len(rows), step), [f"L{layer}" for layer in range(0, len(rows), step)])
    across = max(1, math.ceil(n_heads / 12))
    places = [*range(0, n_heads, across), *([n_heads] if mlps else [])]
    axes.set_xticks(places, [f"H{place}" if place < n_heads else "MLP" for place in places])
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False)
    bounds = f"heads {number(scale.bound)}" + (f", MLPs {number(mlp_scale.bound)}" if mlps else "")
    label = f"predicted change, relative to the largest\n({bounds} {unit_of_change(heads)})"
    scale_bar(figure, axes, image, label, shrink=0.9)


def _scatter(axes: Axes, heads: HeadInspection) -> None:
    ablations = [item for item in heads.ablations if math.isfinite(item.predicted) and math.isfinite(item.actual)]
    # Both axes share one scale, so that the dashed diagonal is where prediction and ablation agree.
    axis = axis_of([value for item in ablations for value in (item.predicted, item.actual)])
    if axis.square_root:
        functions = (_root, _square)
        axes.set_xscale("function", functions=functions)
        axes.set_yscale("function", functions=functions)
    ends = (axis.low, axis.high)
    axes.plot(ends, ends, color=QUIET, linewidth=0.6, linestyle=(0, (4, 3)), zorder=0)
    if axis.low < 0:
        axes.axhline(0, color=QUIET, linewidth=0.4, zorder=0)
        axes.axvline(0, color=QUIET, linewidth=0.4, zorder=0)
    # Heads and MLPs differ in colour and in shape, for those who cannot tell the colours apart.
    for label, is_head, colour, edge, marker in (
        ("MLP", False, NEGATIVE, DEEP_NEGATIVE, "s"),
        ("head", True, POSITIVE, DEEP_POSITIVE, "o"),
    ):
        points = [(item.predicted, item.actual) for item in ablations if (item.head is not None) == is_head]
        if points:
            x, y = zip(*points, strict=True)
            axes.scatter(x, y, s=13, c=colour, edgecolors=edge, linewidths=0.5, marker=marker, label=label)
    # Only the components that stand apart are named: more labels would cover one another.
    for index, side in named_points(axis, [(item.predicted, item.actual) for item in ablations]):
        axes.annotate(
            ablations[index].name,
            (ablations[index].predicted, ablations[index].actual),
            xytext=(4 * side, 0),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="center",
            fontsize=6,
        )
    # Ticks, labels and legend.
    axes.set_xlim(axis.low, axis.high)
    axes.set_ylim(axis.low, axis.high)
    labels = [short_number(tick) for tick in axis.ticks()]
    axes.set_xticks(axis.ticks(), labels)
    axes.set_yticks(axis.ticks(), labels)
    axes.set_box_aspect(1)
    warped = ", square-root scale" if axis.square_root else ""
    axes.set_xlabel(f"predicted change ({unit_of_change(heads)}{warped})")
    axes.set_ylabel("actual change when ablated")
    agreed = "" if heads.spearman is None else f"Spearman’s ρ = {heads.spearman:.2f}, "
    axes.set_title(f"{agreed}{len(heads.ablations)} components ablated", fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    if ablations:
        place = "lower right" if not is_divergence(heads) else "upper left"
        axes.legend(loc=place, fontsize=6, frameon=False, handletextpad=0.2)


def _root(values):
    import numpy

    return numpy.sign(values) * numpy.sqrt(numpy.abs(values))


def _square(values):
    import numpy

    return numpy.sign(values) * numpy.square(values)
