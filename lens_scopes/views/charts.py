"""Charts of pages and figures: axes with their ticks, styles of lines, and where the names of points and curves go."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lens_scopes.views.words.colour import DEEP_NEGATIVE, DEEP_POSITIVE

_STRETCHED = 4.0  # largest magnitude over the ninth decile from which a linear axis hides most points
_APART = 0.07  # of the axis, between ticks
_NAME = (0.17, 0.035)  # width and height of a point's name, in shares of the plot

# At least 3 : 1 against white and against the dark card, and apart under the common colour vision deficiencies in turn
# with their dashes and markers.
_COLOURS = (DEEP_POSITIVE, DEEP_NEGATIVE, "#1f8f5f", "#a64ec4", "#c23b4b", "#7a7f8a", "#168aa0", "#8f7a10")
_DASHES = ("", "6 3", "2 2")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


@dataclass(frozen=True)
class Axis:
    """One scale for both directions of a scatter plot.

    Args:
        low, high: the ends, in units of the change; `low` is 0 or −high.
        square_root: whether positions are sign(v)·√|v| and not v.
    """

    low: float
    high: float
    square_root: bool

    def place(self, value: float) -> float:
        """Where a value lies between the ends, from 0 to 1."""
        low, high = self._warp(self.low), self._warp(self.high)
        return (self._warp(value) - low) / (high - low)

    def share(self, value: float) -> float:
        """The length of a bar, signed, from −1 to 1; NaN for what is not finite."""
        return self._warp(value) / self._warp(self.high) if math.isfinite(value) else math.nan

    def ticks(self) -> list[float]:
        """Round numbers, both signs and zero, none so near another that their names would touch."""
        if self.square_root:
            # A root spreads small values, so its ticks come in ratios.
            steps = [_round_down(self.high / share) for share in (1.15, 6, 40)]
        else:
            step = _round_down(self.high / 2)
            steps = [step * count for count in range(1, int(self.high / step) + 1)]
        picks: list[float] = []
        for step in sorted(steps, reverse=True):
            above = self.place(picks[0]) if picks else 2.0
            if above - self.place(step) > _APART and self.place(step) - self.place(0.0) > _APART:
                picks.insert(0, step)
        return [*(-step for step in reversed(picks) if self.low < 0), 0.0, *picks]

    def _warp(self, value: float) -> float:
        return math.copysign(math.sqrt(abs(value)), value) if self.square_root else value


def axis_of(values: Sequence[float]) -> Axis:
    """The axis that shows all of these finite values; one outlier far above the rest makes it a square-root one."""
    sizes = sorted(abs(value) for value in values)
    high = 1.06 * sizes[-1] if sizes and sizes[-1] > 0 else 1.0
    decile = sizes[int(0.9 * (len(sizes) - 1))] if sizes else 0.0
    stretched = len(sizes) > 4 and sizes[-1] > _STRETCHED * decile
    return Axis(low=-high if any(value < 0 for value in values) else 0.0, high=high, square_root=stretched)


def label_points(axis: Axis, points: Sequence[tuple[float, float]], most: int = 16) -> list[tuple[int, int]]:
    """Which points of a scatter plot to name, and on which side, so that names hide neither points nor one another.

    Args:
        axis: of both directions.
        points: predicted and actual change of each.
        most: how many of those farthest from zero to try.

    Returns:
        Pairs of the index of a point and 1 for a name on its right, −1 for one on its left.
    """
    places = [(axis.place(x), axis.place(y)) for x, y in points]
    # Those farthest from zero choose first; each takes the right side if it is free, else the left.
    order = sorted(range(len(points)), key=lambda i: -max(map(abs, points[i])))[:most]
    boxes: list[tuple[float, float]] = []
    picks = []
    width, height = _NAME
    for index in order:
        x, y = places[index]
        for side in (1, -1):
            middle = x + side * (0.02 + width / 2)
            free = width / 2 <= middle <= 1 - width / 2 + 0.05 and not any(
                abs(middle - other) < width / 2 + 0.01 and abs(y - up) < height for other, up in places
            )
            if free and not any(abs(middle - other) < width and abs(y - up) < height for other, up in boxes):
                boxes.append((middle, y))
                picks.append((index, side))
                break
    return picks


def _round_down(value: float) -> float:
    """The largest of 1, 2, 5 × 10ⁿ that is not above the value."""
    power = 10.0 ** math.floor(math.log10(value))
    return max((factor * power for factor in (1.0, 2.0, 5.0) if factor * power <= value * (1 + 1e-9)), default=power)


def round_ticks(low: float, high: float) -> list[float]:
    """Five or so round numbers that span low to high."""
    span = (high - low) or 1.0
    step = 10.0 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (factor * step) <= 6)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(count * step, 12) for count in range(first, max(last, first + 1) + 1)]


def decades(low: float, high: float) -> list[float]:
    """The powers of ten from low to high, both above zero."""
    first, last = math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9)
    return [10.0**power for power in range(first, last + 1)]


def name_places(places: Sequence[float], apart: float) -> list[float]:
    """Heights of names near the given ones (from 0 up), with at least `apart` between them."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    picks = [0.0] * len(places)
    last = -math.inf
    for index in order:
        # From the lowest up, each name moves no further than the one below it forces.
        last = picks[index] = max(places[index], last + apart)
    return picks


@dataclass(frozen=True)
class LineStyle:
    """How a line is drawn: colour, SVG dash pattern (empty for a solid line), matplotlib marker."""

    colour: str
    dashes: str
    marker: str


def line_style(index: int) -> LineStyle:
    """The style of the line with this index; after the eighth, colours repeat with other dashes."""
    again = index // len(_COLOURS)
    return LineStyle(
        _COLOURS[index % len(_COLOURS)], _DASHES[again % len(_DASHES)], _MARKERS[(index + again) % len(_MARKERS)]
    )
