"""Predicted against actual changes as a scatter plot, for heads and for cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from lens_scopes.views.charts import Axis, axis_of, label_points
from lens_scopes.views.figures.style import DEEP_NEGATIVE, DEEP_POSITIVE, QUIET, drawable, families, new_figure
from lens_scopes.views.words.attribution import is_divergence
from lens_scopes.views.words.changes import Change, unit_of_change
from lens_scopes.views.words.colour import NEGATIVE, POSITIVE
from lens_scopes.views.words.numbers import short_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import GridSpec

    from lens_scopes.results.cells import CellPatches
    from lens_scopes.results.heads import HeadInspection

_BESIDE = 4.5  # inches from which a map and its scatter plot stand side by side
_LEGEND = (0.4, 0.25)  # width and height of its corner, in shares of the plot, with names of points beside it
_LOOKS = ((POSITIVE, DEEP_POSITIVE, "o"), (NEGATIVE, DEEP_NEGATIVE, "s"))


def map_and_scatter(width: float, height: float, ratios: tuple[float, float]) -> tuple[Figure, GridSpec]:
    """A figure with places for a map and for its scatter plot, on the right of it or, in a narrow figure, below.

    Args:
        width: of the figure, in inches.
        height: of the map, in inches.
        ratios: of the widths of the two, side by side.
    """
    if width < _BESIDE:
        figure = new_figure(width, height + width)
        return figure, figure.add_gridspec(2, 1, height_ratios=(height, width))
    figure = new_figure(width, height)
    return figure, figure.add_gridspec(1, 2, width_ratios=ratios)


def scatter(
    axes: Axes,
    result: HeadInspection | CellPatches,
    changes: Sequence[Change],
    marks: tuple[str, ...],
    done: tuple[str, str],
) -> None:
    """Predicted against actual change; a square-root scale where one change would hide the rest.

    Args:
        axes: where to draw.
        result: whose unit and rank correlation are named.
        changes: what was done; those that are not finite are left out.
        marks: the labels of the dot and of the square.
        done: how the actual changes came about, in a word, and what of, with its number.
    """
    finite = [change for change in changes if change.is_finite]
    points = [(change.predicted, change.actual) for change in finite]
    # Both axes share one scale, so that the dashed diagonal is where predictions and what was done agree.
    axis = axis_of([value for point in points for value in point])
    if axis.square_root:
        functions = (_root, _square)
        axes.set_xscale("function", functions=functions)
        axes.set_yscale("function", functions=functions)
    ends = (axis.low, axis.high)
    axes.plot(ends, ends, color=QUIET, linewidth=0.6, linestyle=(0, (4, 3)), zorder=0)
    if axis.low < 0:
        axes.axhline(0, color=QUIET, linewidth=0.4, zorder=0)
        axes.axvline(0, color=QUIET, linewidth=0.4, zorder=0)
    # The two marks differ in colour and in shape, for those who cannot tell the colours apart.
    looks = zip(marks, _LOOKS, strict=False)
    for apart, (label, (colour, edge, marker)) in reversed(list(enumerate(looks))):
        group = [point for point, change in zip(points, finite, strict=True) if change.apart == bool(apart)]
        if group:
            x, y = zip(*group, strict=True)
            axes.scatter(x, y, s=13, c=colour, edgecolors=edge, linewidths=0.5, marker=marker, label=label)
    # Only the points that stand apart are named: more labels would cover one another.
    for index, side in label_points(axis, points):
        axes.annotate(
            drawable(finite[index].name),
            points[index],
            xytext=(4 * side, 0),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="center",
            fontsize=6,
            parse_math=False,
            fontfamily=families(),
        )
    # Ticks, labels and legend.
    axes.set_xlim(axis.low, axis.high)
    axes.set_ylim(axis.low, axis.high)
    labels = [short_number(tick) for tick in axis.ticks()]
    axes.set_xticks(axis.ticks(), labels)
    axes.set_yticks(axis.ticks(), labels)
    axes.set_box_aspect(1)
    warped = ", square-root scale" if axis.square_root else ""
    axes.set_xlabel(f"predicted change ({unit_of_change(result)}{warped})")
    axes.set_ylabel(f"actual change when {done[0]}")
    agreed = "" if result.spearman is None else f"Spearman’s ρ = {result.spearman:.2f}, "
    axes.set_title(f"{agreed}{done[1]} {done[0]}", fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    if len(marks) > 1 and finite:
        axes.legend(loc=_free_corner(axis, points, is_divergence(result)), fontsize=6, frameon=False, handletextpad=0.2)


def _free_corner(
    axis: Axis, points: Sequence[tuple[float, float]], rising: bool
) -> Literal["lower right", "upper left"]:
    """The corner off the diagonal whose part of the plot holds the fewest points, so that the legend covers none.

    Args:
        rising: whether all changes have one sign, so that the upper left is the likelier one to be free.
    """
    places = [(axis.place(x), axis.place(y)) for x, y in points]
    below = sum(x > 1 - _LEGEND[0] and y < _LEGEND[1] for x, y in places)
    above = sum(x < _LEGEND[0] and y > 1 - _LEGEND[1] for x, y in places)
    return "upper left" if above < below or (rising and above == below) else "lower right"


def _root(values):
    import numpy

    return numpy.sign(values) * numpy.sqrt(numpy.abs(values))


def _square(values):
    import numpy

    return numpy.sign(values) * numpy.square(values)
