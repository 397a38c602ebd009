"""A span information flow as a matplotlib figure: both values of each span, and their curves over σ."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lens_scopes.views.charts import name_places
from lens_scopes.views.figures.style import (
    COLUMN_INCHES,
    DEEP_NEGATIVE,
    DEEP_POSITIVE,
    QUIET,
    STYLE,
    add_header,
    drawable,
    families,
    new_figure,
    shorten,
)
from lens_scopes.views.words.attribution import prompt_text
from lens_scopes.views.words.colour import NEGATIVE, POSITIVE
from lens_scopes.views.words.flow import (
    CURVE_SIGMAS,
    SpanCurve,
    flow_data_warnings,
    flow_kind,
    reach,
    span_curves,
    strongest_spans,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lens_scopes.results.flow import InformationFlow

_COLOURS = (POSITIVE, NEGATIVE, DEEP_POSITIVE, DEEP_NEGATIVE)
_MAX_SPANS = 12


def flow_figure(flow: InformationFlow, *, width: float = COLUMN_INCHES) -> Figure:
    """The flow as a figure of `width` inches: on the left both values of each span at the result's σ, on the right
    their curves, bound solid and channel dashed. Of many spans the strongest are drawn.

    Args:
        flow: what to draw.
        width: in inches; 5.5 is the text width of a paper.
    """
    import matplotlib

    with matplotlib.rc_context(STYLE):
        spans = min(_MAX_SPANS, len(flow.spans))
        figure = new_figure(width, max(2.3, 0.28 * spans + 1.2))
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
        left.set_label("spans")
        right.set_label("sigma")
        _bars(left, flow)
        _curves(right, span_curves(flow)[:_MAX_SPANS], flow.sigma)
        prompt = prompt_text(flow)
        text = prompt if len(prompt) <= 76 else "…" + prompt[-75:]
        add_header(figure, (text, f"Span information flow, {flow_kind(flow)}", *flow_data_warnings(flow)))
    return figure


def _bars(axes: Axes, flow: InformationFlow) -> None:
    totals = flow.totals()
    spans = [totals[row] for row, _ in strongest_spans(flow)][:_MAX_SPANS]
    for offset, values, colour, label in (
        (-0.2, [item.bound for item in spans], POSITIVE, "bound"),
        (0.2, [item.channel for item in spans], NEGATIVE, "channel"),
    ):
        finite = [value if math.isfinite(value) else 0.0 for value in values]
        axes.barh([row + offset for row in range(len(spans))], finite, height=0.38, color=colour, label=label)
    if flow.samples:
        axes.errorbar(
            [item.bound for item in spans],
            [row - 0.2 for row in range(len(spans))],
            xerr=[item.bound_error for item in spans],
            fmt="none",
            ecolor=DEEP_POSITIVE,
            elinewidth=0.8,
        )
    names = [drawable(shorten(item.name, 18)) for item in spans]
    axes.set_yticks(range(len(spans)), names, parse_math=False, fontfamily=families())
    axes.set_ylim(len(spans) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.tick_params(left=False)
    axes.set_xlabel("nats")
    axes.locator_params(axis="x", nbins=4)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(loc="lower right", fontsize=6, frameon=False)


def _curves(axes: Axes, curves: list[SpanCurve], sigma: float) -> None:
    axes.set_xscale("log")
    axes.set_xlabel("σ, in embeddings")
    axes.set_ylabel("nats")
    axes.spines[["top", "right"]].set_visible(False)
    if not curves:
        axes.set_yticks([])
        return
    axes.set_yscale("log")
    low, high = reach(curves)
    for order, curve in enumerate(curves):
        colour = _COLOURS[order % len(_COLOURS)]
        axes.plot(CURVE_SIGMAS, curve.bound, color=colour, linewidth=1)
        axes.plot(CURVE_SIGMAS, curve.channel, color=colour, linewidth=1, linestyle=(0, (4, 2)))
    # Names stand where the dashed curves end.
    places = [(math.log10(curve.channel[-1]) - low) / (high - low) for curve in curves]
    for order, (curve, place) in enumerate(zip(curves, name_places(places, 0.06), strict=True)):
        axes.annotate(
            drawable(shorten(curve.name, 16)),
            (1.02, place),
            xycoords="axes fraction",
            color=_COLOURS[order % len(_COLOURS)],
            fontsize=6,
            va="center",
            parse_math=False,
            fontfamily=families(),
        )
    axes.axvline(sigma, color=QUIET, linewidth=0.5)
    axes.set_xlim(CURVE_SIGMAS[0], CURVE_SIGMAS[-1])
    axes.set_ylim(10**low, 10**high)
