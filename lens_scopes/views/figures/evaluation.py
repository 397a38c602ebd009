"""An evaluation as a matplotlib figure: the mean of every method with its interval, and the curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lens_scopes.evaluation.statistics.comparison import ALL
from lens_scopes.views.charts import line_style
from lens_scopes.views.figures.style import (
    COLUMN_INCHES,
    INK,
    QUIET,
    STYLE,
    add_header,
    drawable,
    families,
    new_figure,
    shorten,
)
from lens_scopes.views.words.evaluation import across, better, metric_name, passages, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lens_scopes.evaluation.report import EvaluationReport

_ACROSS = 2
_GREYS = (INK, "#6a7180", "#9aa1ad")
_ROW = 0.14  # inches of height for a mean
_CURVE = 1.9  # inches of height for a curve


def evaluation_figure(report: EvaluationReport, *, width: float = COLUMN_INCHES) -> Figure:
    """The report as a figure of `width` inches: a panel for each metric, with a mark for each method and ablation, then
    one for each curve. Bars and bands are 95% bootstrap intervals over all passages.
    """
    import matplotlib

    with matplotlib.rc_context(STYLE):
        metrics, curves = report.metrics, report.curves
        across = _ACROSS if len(metrics) + len(curves) > 1 else 1
        above, below = math.ceil(len(metrics) / across), math.ceil(len(curves) / across)
        most = max((len(report.ablations(metric)) for metric in metrics), default=1)
        # Rows grow with the number of marks in each.
        panel = 0.6 + _ROW * len(report.methods) * max(1.0, 0.7 * most)
        heights = [panel] * above + [_CURVE] * below
        figure = new_figure(width, sum(heights) + 0.7)
        grid = figure.add_gridspec(len(heights), across, height_ratios=heights)
        looks = _ablation_looks(report)
        for index, metric in enumerate(metrics):
            axes = figure.add_subplot(grid[divmod(index, across)], label=f"mean {metric}")
            _means(axes, report, metric, looks)
            if index % across:
                axes.set_yticklabels([])
        for index, (metric, ablation) in enumerate(curves):
            row, column = divmod(index, across)
            _curve(figure.add_subplot(grid[above + row, column], label=f"curve {index}"), report, metric, ablation)
        _legends(figure, report, looks)
        add_header(figure, (title(report), f"Passages: {passages(report)}"))
    return figure


def _mark(place: int | None) -> tuple[str, str]:
    """Colour and marker of an ablation: greys, since colours tell methods apart."""
    return (INK, "o") if place is None else (_GREYS[place % len(_GREYS)], line_style(place).marker)


def _ablation_looks(report: EvaluationReport) -> dict[str | None, int]:
    ablations = [ablation for metric in report.metrics for ablation in report.ablations(metric)]
    return {ablation: place for place, ablation in enumerate(a for a in dict.fromkeys(ablations) if a is not None)}


def _means(axes: Axes, report: EvaluationReport, metric: str, looks: dict[str | None, int]) -> None:
    means = report.means
    points = means[(means["metric"] == metric) & (means["passages"] == ALL) & means["fraction"].isna()]
    ablations = report.ablations(metric)
    for place, ablation in enumerate(ablations):
        # Marks of several ablations stand apart within a method's row.
        shift = 0.7 * ((place + 0.5) / len(ablations) - 0.5)
        part = points[points["ablation"].isna() if ablation is None else points["ablation"] == ablation]
        colour, marker = _mark(looks.get(ablation))
        for line in part.to_dict("records"):
            y = report.methods.index(line["method"]) + shift
            if math.isfinite(line["low"]):
                axes.plot((line["low"], line["high"]), (y, y), color=colour, linewidth=1.1, solid_capstyle="butt")
            axes.plot(line["mean"], y, marker, color=colour, markersize=3, markeredgewidth=0)
    low, high = axes.get_xlim()
    if low < 0 < high:
        axes.axvline(0, color=QUIET, linewidth=0.4, zorder=0)
    names = [drawable(shorten(method, 32)) for method in report.methods]
    axes.set_yticks(range(len(names)), names, fontfamily=families(), parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    way = better(metric)
    _set_title(axes, f"{metric} ({way})" if way else metric)


def _curve(axes: Axes, report: EvaluationReport, metric: str, ablation: str | None) -> None:
    means = report.means
    points = means[(means["metric"] == metric) & (means["passages"] == ALL) & means["fraction"].notna()]
    points = points[points["ablation"].isna() if ablation is None else points["ablation"] == ablation]
    for place, method in enumerate(report.methods):
        own = points[points["method"] == method].sort_values("fraction")
        style = line_style(place)
        x = own["fraction"].to_numpy()
        axes.fill_between(x, own["low"].to_numpy(), own["high"].to_numpy(), color=style.colour, alpha=0.12, linewidth=0)
        axes.plot(
            x,
            own["mean"].to_numpy(),
            style.marker,
            color=style.colour,
            markersize=2.2,
            linestyle=_dashes(place),
            linewidth=1,
        )
    axes.axhline(0, color=QUIET, linewidth=0.4, zorder=0)
    axes.set_xlabel(across(metric))
    _set_title(axes, metric_name(metric, ablation))


def _dashes(place: int) -> Any:
    dashes = line_style(place).dashes
    return (0, tuple(map(float, dashes.split()))) if dashes else "-"


def _set_title(axes: Axes, title: str) -> None:
    axes.set_title(drawable(title), fontsize=7, loc="left", parse_math=False, fontfamily=families())
    axes.spines[["top", "right"]].set_visible(False)


def _legends(figure: Figure, report: EvaluationReport, looks: dict[str | None, int]) -> None:
    from matplotlib.lines import Line2D

    marks: list[Any] = []
    for name, place in looks.items():
        colour, marker = _mark(place)
        marks.append(Line2D([], [], color=colour, marker=marker, markersize=3, label=f"ablation: {name}"))
    if report.curves:
        for place, method in enumerate(report.methods):
            style = line_style(place)
            marks.append(
                Line2D(
                    [],
                    [],
                    color=style.colour,
                    marker=style.marker,
                    markersize=2.2,
                    linestyle=_dashes(place),
                    label=drawable(shorten(method, 32)),
                )
            )
    if marks:
        figure.legend(
            handles=_by_column(marks, 4), loc="outside lower left", ncols=min(4, len(marks)), frameon=False, fontsize=6
        )


def _by_column(marks: Sequence[Any], columns: int) -> list[Any]:
    """Matplotlib fills legends column by column; this order reads row by row."""
    columns = min(columns, len(marks))
    return [mark for column in range(columns) for mark in marks[column::columns]]
