"""The calibration of a gate: the labelled cases of the best measure, and the ROC curve of each measure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy

from lens_scopes.evaluation.calibration.calibrate import CONTROL
from lens_scopes.views.figures.style import COLUMN_INCHES, DEEP_POSITIVE, INK, QUIET, STYLE, add_header, new_figure
from lens_scopes.views.words.colour import NEGATIVE, POSITIVE
from lens_scopes.views.words.pages.calibration import roc_points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lens_scopes.evaluation.calibration.calibrate import FlowCalibration

_LINES = {
    "bound": (POSITIVE, "-"),
    "channel": (DEEP_POSITIVE, (0, (1, 1.5))),
    "fisher": (NEGATIVE, "-"),
    CONTROL: (QUIET, (0, (4, 2))),
}
_SPREAD = 0.28  # of the dots of a strip, which would hide each other
_GOLDEN = 0.618033988749895


def calibration_figure(calibration: FlowCalibration, *, width: float = COLUMN_INCHES) -> Figure:
    """On the left every case by the best measure, with its threshold; on the right ROC curves, with held-out rates.

    Args:
        calibration: what to draw.
        width: in inches.
    """
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = new_figure(width, 2.4)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1))
        left.set_label("cases")
        right.set_label("roc")
        _strips(left, calibration)
        _curves(right, calibration)
        add_header(figure, (f"{len(calibration.cases)} labelled cases. {calibration.verdict}",))
    return figure


def _strips(axes: Axes, calibration: FlowCalibration) -> None:
    best = calibration.best
    values, leaks = numpy.array(calibration.values(best.name)), numpy.array(calibration.leaks)
    for row, (side, fill) in enumerate(((leaks, INK), (~leaks, "none"))):
        side_values = numpy.sort(values[side & numpy.isfinite(values)])
        offsets = (_GOLDEN * numpy.arange(len(side_values)) % 1 - 0.5) * 2 * _SPREAD  # even, and the same every time
        axes.scatter(side_values, row + offsets, s=8, facecolors=fill, edgecolors=INK, linewidths=0.6)
    axes.axvline(best.threshold, color=INK, linewidth=0.8)
    axes.annotate(
        f"threshold {best.threshold!r}",
        (best.threshold, 1),
        xycoords=("data", "axes fraction"),
        xytext=(2, 2),
        textcoords="offset points",
        fontsize=6,
        color=QUIET,
    )
    if (values[numpy.isfinite(values)] > 0).all():
        axes.set_xscale("log")
    counts = (int(leaks.sum()), int((~leaks).sum()))
    axes.set_yticks((0, 1), (f"leaks\n({counts[0]})", f"does not\n({counts[1]})"))
    axes.set_ylim(1.5, -0.5)
    axes.tick_params(axis="y", left=False)
    axes.set_xlabel(f"{best.name} of the span, nats")
    axes.spines[["top", "right", "left"]].set_visible(False)


def _curves(axes: Axes, calibration: FlowCalibration) -> None:
    axes.plot((0, 1), (0, 1), color=QUIET, linewidth=0.4)
    for item in calibration.measures:
        colour, style = _LINES[item.name]
        alarms, caught = zip(*roc_points(calibration, item.name), strict=True)
        axes.plot(
            alarms, caught, color=colour, linestyle=style, linewidth=1, label=f"{item.name} {item.area.value:.2f}"
        )
        rates = item.false_alarms, item.recall
        x, y = (rate.share for rate in rates)
        errors = [[[rate.share - rate.low], [rate.high - rate.share]] for rate in rates]
        axes.errorbar(x, y, xerr=errors[0], yerr=errors[1], fmt="o", color=colour, markersize=3, elinewidth=0.6)
    axes.set_aspect("equal")
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("false alarms (dots: held out)")
    axes.set_ylabel("leaks caught")
    axes.spines[["top", "right"]].set_visible(False)
    beside = {"loc": "center left", "bbox_to_anchor": (1.02, 0.5)}  # within, it would cover curves
    axes.legend(**beside, fontsize=6, frameon=False, title="area under curve", title_fontsize=6)
