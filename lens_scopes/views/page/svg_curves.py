"""Curves over two logarithmic axes as an SVG that needs no script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from lens_scopes.views.words.axis import name_places
from lens_scopes.views.words.flow import SpanCurve, reach
from lens_scopes.views.words.numbers import short_number

_LEFT, _TOP, _WIDTH, _HEIGHT, _NAMES = 62.0, 12.0, 420.0, 300.0, 130.0
_COLOURS = 4  # after which they come round again: the names stand at the curves


def log_curves(across: Sequence[float], curves: Sequence[SpanCurve], at: float) -> str:
    """Bound (solid) and channel (dashed) of each span, named at its end.

    Args:
        across: σ of each value.
        curves: at least one, with values above zero.
        at: the σ to mark.
    """
    low, high = reach(curves)
    first, last = math.log10(across[0]), math.log10(across[-1])

    def x(value: float) -> float:
        return _LEFT + _WIDTH * (math.log10(value) - first) / (last - first)

    def y(value: float) -> float:
        return _TOP + _HEIGHT * (1 - (math.log10(value) - low) / (high - low))

    parts = []
    for power in range(math.ceil(first), math.floor(last) + 1):
        place = x(10.0**power)
        parts.append(
            f'<path class="tick" d="M{place:.1f} {_TOP}v{_HEIGHT}"/><text class="quiet" x="{place:.1f}"'
            f' y="{_TOP + _HEIGHT + 16}" text-anchor="middle">{short_number(10.0**power)}</text>'
        )
    for power in range(math.ceil(low), math.floor(high) + 1):
        place = y(10.0**power)
        parts.append(
            f'<path class="tick" d="M{_LEFT} {place:.1f}h{_WIDTH}"/><text class="quiet" x="{_LEFT - 6}"'
            f' y="{place + 4:.1f}" text-anchor="end">{short_number(10.0**power)}</text>'
        )
    if across[0] <= at <= across[-1]:
        parts.append(f'<path class="zero" d="M{x(at):.1f} {_TOP}v{_HEIGHT}"/>')
    ends = name_places([_TOP + _HEIGHT - y(curve.channel[-1]) for curve in curves], 14.0)
    for order, (curve, end) in enumerate(zip(curves, ends, strict=True)):
        colour = f"c{order % _COLOURS}"
        for values, css in ((curve.bound, ""), (curve.channel, " dashed")):
            shown = [(x(s), y(v)) for s, v in zip(across, values, strict=True) if math.log10(v) >= low]
            line = "L".join(f"{px:.1f} {py:.1f}" for px, py in shown)
            parts.append(f'<path class="{colour}{css}" d="M{line}"/>')
        parts.append(
            f'<text class="{colour}" x="{_LEFT + _WIDTH + 8}" y="{_TOP + _HEIGHT - end + 4:.1f}">'
            f"{escape(curve.name if len(curve.name) <= 16 else curve.name[:15] + '…')}</text>"
        )
    middle = _TOP + _HEIGHT / 2
    parts.append(
        f'<text x="{_LEFT + _WIDTH / 2}" y="{_TOP + _HEIGHT + 38}" text-anchor="middle">σ, in embeddings</text>'
        f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">nats</text>'
    )
    return (
        f'<svg class="scatter curves" viewBox="0 0 {_LEFT + _WIDTH + _NAMES:g} {_TOP + _HEIGHT + 46:g}" role="img"'
        f' aria-label="Bound and channel of {len(curves)} spans over σ; the numbers are in the table">'
        f"{''.join(parts)}</svg>"
    )
