"""Axes for predicted against actual changes: where the ticks go, and when a square-root scale is needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_STRETCHED = 4.0  # largest magnitude over the ninth decile from which a linear axis hides most points


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
        low, high = self._warped(self.low), self._warped(self.high)
        return (self._warped(value) - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round numbers, both signs and zero."""
        if self.square_root:
            steps = [_round_down(self.high / share) for share in (1.15, 6, 40)]
        else:
            step = _round_down(self.high / 2)
            steps = [step * count for count in range(1, int(self.high / step) + 1)]
        chosen = sorted({step for step in steps if step > 0})
        return [*(-step for step in reversed(chosen) if self.low < 0), 0.0, *chosen]

    def _warped(self, value: float) -> float:
        return math.copysign(math.sqrt(abs(value)), value) if self.square_root else value


def axis_of(values: Sequence[float]) -> Axis:
    """The axis that shows all of these finite values; one outlier far above the rest makes it a square-root one."""
    sizes = sorted(abs(value) for value in values)
    high = 1.06 * sizes[-1] if sizes and sizes[-1] > 0 else 1.0
    decile = sizes[int(0.9 * (len(sizes) - 1))] if sizes else 0.0
    stretched = len(sizes) > 4 and sizes[-1] > _STRETCHED * decile
    return Axis(low=-high if any(value < 0 for value in values) else 0.0, high=high, square_root=stretched)


def _round_down(value: float) -> float:
    """The largest of 1, 2, 5 × 10ⁿ that is not above the value."""
    power = 10.0 ** math.floor(math.log10(value))
    return max((factor * power for factor in (1.0, 2.0, 5.0) if factor * power <= value * (1 + 1e-9)), default=power)
