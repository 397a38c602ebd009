"""What the project aims at, and whether a run reached it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmark.measurements import Measurement

Quantity = Literal["seconds", "ratio", "speedup", "bytes", "figure"]


@dataclass(frozen=True)
class Target:
    """An aim for one case.

    Attributes:
        case: the measurement, or the figure, that it is about.
        quantity: "seconds"; "ratio" of its time an item to that of `against`; "speedup", the inverse of that;
            "bytes" at the peak; or "figure", a number of the section.
        bound: at most this; at least this for "speedup" and "figure".
        against: the measurement it is compared with.
    """

    case: str
    quantity: Quantity
    bound: float
    against: str = ""

    @property
    def at_least(self) -> bool:
        """Whether larger is better."""
        return self.quantity in ("speedup", "figure")

    def words(self) -> str:
        """The aim in words."""
        sign = "≥" if self.at_least else "≤"
        if self.quantity == "bytes":
            return f"{self.case}: {sign} {self.bound / 1e9:g} GB"
        if self.quantity == "seconds":
            return f"{self.case}: {sign} {self.bound:g} s"
        if self.quantity == "figure":
            return f"{self.case} {sign} {self.bound:g}"
        times = "× as fast as" if self.quantity == "speedup" else "× the time of"
        return f"{self.case}: {sign} {self.bound:g} {times} {self.against}"


@dataclass(frozen=True)
class Verdict:
    """A target with what was reached; None where a measurement is missing."""

    target: str
    reached: float | None
    met: bool | None


def judged(target: Target, measurements: Sequence[Measurement], figures: Mapping[str, float]) -> Verdict:
    """What was reached of a target."""
    by_name = {item.name: item for item in measurements}
    reached = figures.get(target.case) if target.quantity == "figure" else _reached(target, by_name)
    met = None if reached is None else reached >= target.bound if target.at_least else reached <= target.bound
    return Verdict(target.words(), reached, met)


def _reached(target: Target, by_name: Mapping[str, Measurement]) -> float | None:
    item = by_name.get(target.case)
    if item is None or item.seconds is None:
        return None
    if target.quantity == "bytes":
        return None if item.peak_bytes is None else float(item.peak_bytes)
    if target.quantity == "seconds":
        return item.seconds
    other = by_name.get(target.against)
    if other is None or not other.seconds:
        return None
    ratio = (item.seconds / item.items) / (other.seconds / other.items)
    return 1 / ratio if target.quantity == "speedup" else ratio
