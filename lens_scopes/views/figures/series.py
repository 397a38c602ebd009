"""A series of numbers as a curve, and the next number's distribution as bars."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lens_scopes.views.figures.style import COLUMN_INCHES, INK, QUIET, STYLE, add_header, new_figure
from lens_scopes.views.words.colour import POSITIVE
from lens_scopes.views.words.numbers import percent, short_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lens_scopes.attribution.series import Series, ValueDistribution


def series_figure(series: Series, *, width: float = COLUMN_INCHES) -> Figure:
    """The numbers of a series in the order of the text.

    Args:
        series: what to draw.
        width: in inches.
    """
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = new_figure(width, 1.8)
        axes = figure.add_subplot(label="series")
        axes.plot(range(len(series)), series.values, ".-", color=POSITIVE, linewidth=0.8, markersize=4)
        axes.set_xlabel("number in the series")
        axes.set_ylabel("value")
        axes.spines[["top", "right"]].set_visible(False)
        add_header(figure, (f"{len(series)} numbers in {len(series.prompt)} tokens",))
    return figure


def distribution_figure(distribution: ValueDistribution, *, width: float = COLUMN_INCHES) -> Figure:
    """The probability of every value as the next number, with the median and the central 80 %.

    Args:
        distribution: what to draw.
        width: in inches.
    """
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = new_figure(width, 1.8)
        axes = figure.add_subplot(label="distribution")
        if distribution.values:
            _draw_values(axes, distribution)
        axes.set_xlabel("value of the next number")
        axes.set_ylabel("probability")
        axes.set_ylim(0)
        axes.spines[["top", "right"]].set_visible(False)
        add_header(figure, (_heading(distribution),))
    return figure


def _draw_values(axes: Axes, distribution: ValueDistribution) -> None:
    low, median, high = (distribution.quantile(share) for share in (0.1, 0.5, 0.9))
    axes.axvspan(low, high, color=POSITIVE, alpha=0.12, linewidth=0)
    axes.vlines(distribution.values, 0, distribution.probabilities, color=POSITIVE, linewidth=1.6)
    axes.axvline(median, color=INK, linewidth=0.6, linestyle="--")
    axes.annotate(
        f"median {short_number(median)}",
        (median, 1),
        xycoords=("data", "axes fraction"),
        xytext=(3, -2),
        textcoords="offset points",
        verticalalignment="top",
        color=QUIET,
    )


def _heading(distribution: ValueDistribution) -> str:
    if not distribution.values:
        return f"No value was reached; {percent(distribution.no_number)} is no number"
    low, high = (short_number(distribution.quantile(share)) for share in (0.1, 0.9))
    missing = distribution.unresolved + distribution.no_number
    rest = f"; {percent(missing)} is unresolved or no number" if missing > 0.005 else ""
    return f"The next number: 80 % between {low} and {high}{rest}"
