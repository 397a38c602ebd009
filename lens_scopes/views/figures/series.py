"""A series of numbers as a curve, and the next number's distribution as bars."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lens_scopes.views.figures.style import COLUMN_INCHES, HATCH, INK, QUIET, STYLE, add_header, new_figure
from lens_scopes.views.words.colour import POSITIVE, level_colour, scale_of
from lens_scopes.views.words.numbers import percent, short_number
from lens_scopes.views.words.series import forecast_words, number_rows, series_summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lens_scopes.results.series import Series, SeriesInspection, ValueDistribution


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
    """The probability of every value as the next number, with the median and the central 80%.

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


def inspection_figure(series: SeriesInspection, *, width: float = COLUMN_INCHES) -> Figure:
    """The series with the influence of each number as the size and colour of its point, beside the forecast.

    Args:
        series: what to draw.
        width: in inches.
    """
    import matplotlib

    rows = number_rows(series)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(width, 2.2)
        left, right = figure.subplots(1, 2, width_ratios=(1.7, 1))
        left.set_label("series")
        right.set_label("forecast")
        # The numbers in order, each as large and dark as its influence.
        left.plot([-row.back for row in rows], series.numbers, color=QUIET, linewidth=0.6, zorder=1)
        scale = scale_of([row.influence for row in rows], [False] * len(rows))
        left.scatter(
            [-row.back for row in rows],
            series.numbers,
            s=[6 + 50 * (row.relative or 0.0) for row in rows],
            c=[level_colour(scale.level(row.influence)) if row.relative is not None else HATCH for row in rows],
            edgecolors=INK,
            linewidths=0.5,
            zorder=2,
        )
        left.xaxis.set_major_formatter(lambda back, _: f"{-back:g}")
        left.set_xlabel("numbers before the forecast")
        left.set_ylabel("value")
        # The forecast over values; a series may have none.
        if series.forecast.values:
            _draw_values(right, series.forecast)
        right.set_xlabel("value of the next number")
        right.set_ylabel("probability")
        right.set_ylim(0)
        for axes in (left, right):
            axes.spines[["top", "right"]].set_visible(False)
        add_header(figure, (series_summary(series), forecast_words(series.forecast), *series.warnings))
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
    missing = distribution.unresolved + distribution.no_number
    rest = f"; {percent(missing)} is unresolved or no number" if missing > 0.005 else ""
    return f"{forecast_words(distribution).removesuffix('.')}{rest}"
