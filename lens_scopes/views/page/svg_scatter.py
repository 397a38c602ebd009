"""Predicted against actual changes as an SVG that needs no script."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from lens_scopes.views.words.attribution import number
from lens_scopes.views.words.axis import Axis, axis_of, named_points
from lens_scopes.views.words.numbers import short_number

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lens_scopes.results.heads import AblationEffect

_LEFT, _TOP, _SIDE = 62.0, 12.0, 340.0


def scatter(ablations: Sequence[AblationEffect], unit: str, links: Mapping[str, str]) -> str:
    """A point for each ablated component: predicted change across, actual change up, and the line where they agree.

    Args:
        ablations: those that are not finite are left out.
        unit: what the changes are of, for the axes.
        links: ids on the page that the points of components lead to, by name.
    """
    shown = [item for item in ablations if math.isfinite(item.predicted) and math.isfinite(item.actual)]
    axis = axis_of([value for item in shown for value in (item.predicted, item.actual)])
    warped = " (square-root scale)" if axis.square_root else ""
    parts = [_frame(axis, unit, warped)]
    for item in sorted(shown, key=lambda item: item.head is not None):
        x, y = _across(axis, item.predicted), _up(axis, item.actual)
        about = f"{item.name}: predicted {number(item.predicted)}, actual {number(item.actual)}"
        title = f"<title>{about}</title>"
        if item.head is None:
            mark = f'<rect class="square" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8">{title}</rect>'
        else:
            mark = f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4.5">{title}</circle>'
        link = links.get(item.name)
        if link is not None:  # the table has the same links for the keyboard
            mark = f'<a href="#{escape(link)}" tabindex="-1" aria-label="{about}">{mark}</a>'
        parts.append(mark)
    for index, side in named_points(axis, [(item.predicted, item.actual) for item in shown]):
        x, y = _across(axis, shown[index].predicted), _up(axis, shown[index].actual)
        anchor = ' text-anchor="end"' if side < 0 else ""
        parts.append(f'<text x="{x + 8 * side:.1f}" y="{y + 4:.1f}"{anchor}>{escape(shown[index].name)}</text>')
    width, height = _LEFT + _SIDE + 14, _TOP + _SIDE + 46
    return (
        f'<svg class="scatter" viewBox="0 0 {width:g} {height:g}" role="group"'
        f' aria-label="Predicted against actual change of {len(shown)} components; the numbers are in the table">'
        f"{''.join(parts)}</svg>"
        '<p class="legend"><span class="mark"><b class="dot"></b>head</span>'
        '<span class="mark"><b class="square"></b>MLP</span><span>dashed: predicted = actual</span></p>'
    )


def _across(axis: Axis, value: float) -> float:
    return _LEFT + _SIDE * axis.place(value)


def _up(axis: Axis, value: float) -> float:
    return _TOP + _SIDE * (1 - axis.place(value))


def _frame(axis: Axis, unit: str, warped: str) -> str:
    lines = []
    for tick in axis.ticks():
        x, y = _across(axis, tick), _up(axis, tick)
        css = "zero" if tick == 0 else "tick"
        label = short_number(tick)
        lines.append(
            f'<path class="{css}" d="M{x:.1f} {_TOP}v{_SIDE}M{_LEFT} {y:.1f}h{_SIDE}"/>'
            f'<text class="quiet" x="{x:.1f}" y="{_TOP + _SIDE + 16}" text-anchor="middle">{label}</text>'
            f'<text class="quiet" x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>'
        )
    middle = _TOP + _SIDE / 2
    return (
        f"{''.join(lines)}"
        f'<path class="agree" d="M{_LEFT} {_TOP + _SIDE}L{_LEFT + _SIDE} {_TOP}"/>'
        f'<text x="{_LEFT + _SIDE / 2}" y="{_TOP + _SIDE + 38}" text-anchor="middle">'
        f"predicted change, {escape(unit)}{warped}</text>"
        f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">actual change</text>'
    )
