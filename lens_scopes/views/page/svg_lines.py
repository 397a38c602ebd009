"""Curves with their intervals as an SVG that needs no script."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from lens_scopes.views.words.axis import round_ticks
from lens_scopes.views.words.evaluation import value_text
from lens_scopes.views.words.line_styles import look

_LEFT, _TOP, _WIDTH, _HEIGHT = 62.0, 10.0, 400.0, 250.0


@dataclass(frozen=True)
class Curve:
    """One line: a name, and (x, mean, low, high) for each of its points; its place decides its look."""

    name: str
    points: Sequence[tuple[float, float, float, float]]
    place: int


def line_chart(curves: Sequence[Curve], across: str, up: str) -> str:
    """Lines with bands between low and high, from x = 0 on, and the line of zero.

    Args:
        curves: points that are not finite are left out.
        across: what x is.
        up: what y is.
    """
    shown = [Curve(curve.name, [p for p in curve.points if math.isfinite(p[1])], curve.place) for curve in curves]
    values = [v for curve in shown for point in curve.points for v in point[1:] if math.isfinite(v)]
    ticks = round_ticks(min([0.0, *values]), max([0.0, *values]))
    right = max([point[0] for curve in shown for point in curve.points], default=1.0) or 1.0

    def x_of(x: float) -> float:
        return _LEFT + _WIDTH * x / right

    def y_of(y: float) -> float:
        return _TOP + _HEIGHT * (ticks[-1] - y) / (ticks[-1] - ticks[0])

    parts = [_frame(ticks, right, y_of, x_of)]
    for curve in shown:
        style = look(curve.place)
        banded = [point for point in curve.points if math.isfinite(point[2]) and math.isfinite(point[3])]
        if len(banded) > 1:
            edge = [(x, high) for x, _, _, high in banded] + [(x, low) for x, _, low, _ in reversed(banded)]
            corners = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y in edge)
            parts.append(f'<polygon points="{corners}" style="fill:{style.colour};opacity:.12"/>')
        line = " ".join(f"{x_of(x):.1f},{y_of(y):.1f}" for x, y, _, _ in curve.points)
        dashes = f";stroke-dasharray:{style.dashes}" if style.dashes else ""
        parts.append(f'<polyline points="{line}" style="fill:none;stroke:{style.colour};stroke-width:2{dashes}"/>')
        for x, y, low, high in curve.points:
            about = f"{curve.name} at {x:g}: {value_text(y)} [{value_text(low)}, {value_text(high)}]"
            parts.append(
                f'<circle cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="3" style="fill:{style.colour}">'
                f"<title>{escape(about)}</title></circle>"
            )
    middle = _TOP + _HEIGHT / 2
    parts.append(
        f'<text x="{_LEFT + _WIDTH / 2}" y="{_TOP + _HEIGHT + 36}" text-anchor="middle">{escape(across)}</text>'
        f'<text x="13" y="{middle}" text-anchor="middle" transform="rotate(-90 13 {middle})">{escape(up)}</text>'
    )
    return (
        f'<svg class="scatter" viewBox="0 0 {_LEFT + _WIDTH + 14:g} {_TOP + _HEIGHT + 46:g}" role="img"'
        f' aria-label="{escape(f"{up} by {across}, {len(shown)} lines; the numbers are in the table")}">'
        f"{''.join(parts)}</svg>"
    )


def line_legend(names: Sequence[str]) -> str:
    """The looks of all lines, by their places."""
    marks = []
    for place, name in enumerate(names):
        style = look(place)
        dashes = f";stroke-dasharray:{style.dashes}" if style.dashes else ""
        marks.append(
            '<span class="mark"><svg width="26" height="10" aria-hidden="true">'
            f'<path d="M1 5h24" style="stroke:{style.colour};stroke-width:2.5{dashes}"/></svg>{escape(name)}</span>'
        )
    return f'<p class="legend">{"".join(marks)}</p>'


def _frame(ticks: Sequence[float], right: float, y_of: Callable[[float], float], x_of: Callable[[float], float]) -> str:
    lines = []
    for tick in ticks:
        css = "zero" if tick == 0 else "tick"
        lines.append(
            f'<path class="{css}" d="M{_LEFT} {y_of(tick):.1f}h{_WIDTH}"/>'
            f'<text class="quiet" x="{_LEFT - 6}" y="{y_of(tick) + 4:.1f}" text-anchor="end">{_tick(tick)}</text>'
        )
    for tick in round_ticks(0.0, right):
        if tick <= right * 1.001:
            x, below = f"{x_of(tick):.1f}", _TOP + _HEIGHT + 16
            lines.append(
                f'<path class="tick" d="M{x} {_TOP}v{_HEIGHT}"/>'
                f'<text class="quiet" x="{x}" y="{below}" text-anchor="middle">{_tick(tick)}</text>'
            )
    return "".join(lines)


def _tick(value: float) -> str:
    return f"{value:g}".replace("-", "−", 1)
