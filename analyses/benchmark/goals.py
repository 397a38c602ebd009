"""Ratios, times and memory that the project aims at, and whether a run reached them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmark.measurements import Measurement

Quantity = Literal["seconds", "ratio", "speedup", "bytes", "memory", "number"]


@dataclass(frozen=True)
class Goal:
    """A goal for one case.

    Attributes:
        case: the name of the measurement, or of the section's number.
        quantity: "seconds"; "ratio" of its time per item to that of `against`; "speedup", the inverse of that;
            "bytes" at the peak; "memory", the ratio of the peaks; or "number", one of the section's numbers.
        bound: the largest value that meets the goal; the smallest for "speedup" and "number".
        against: the name of the measurement it is compared with.
    """

    case: str
    quantity: Quantity
    bound: float
    against: str = ""

    @property
    def at_least(self) -> bool:
        """Whether larger is better."""
        return self.quantity in ("speedup", "number")

    def sentence(self) -> str:
        """The goal in words."""
        sign = "≥" if self.at_least else "≤"
        if self.quantity == "bytes":
            return f"{self.case}: {sign} {self.bound / 1e9:g} GB"
        if self.quantity == "seconds":
            return f"{self.case}: {sign} {self.bound:g} s"
        if self.quantity == "number":
            return f"{self.case} {sign} {self.bound:g}"
        if self.quantity == "memory":
            return f"{self.case}: {sign} {self.bound:g} × the memory of {self.against}"
        times = "× as fast as" if self.quantity == "speedup" else "× the time of"
        return f"{self.case}: {sign} {self.bound:g} {times} {self.against}"


@dataclass(frozen=True)
class GoalResult:
    """A goal with the value reached; None if a measurement is missing."""

    goal: str
    value: float | None
    is_met: bool | None


def goal_result(goal: Goal, measurements: Sequence[Measurement], numbers: Mapping[str, float]) -> GoalResult:
    """The value reached for a goal, and whether it meets the goal."""
    by_name = {item.name: item for item in measurements}
    value = numbers.get(goal.case) if goal.quantity == "number" else _value(goal, by_name)
    is_met = None if value is None else value >= goal.bound if goal.at_least else value <= goal.bound
    return GoalResult(goal.sentence(), value, is_met)


def _value(goal: Goal, by_name: Mapping[str, Measurement]) -> float | None:
    item = by_name.get(goal.case)
    if item is None or item.seconds is None:
        return None
    if goal.quantity == "bytes":
        return None if item.peak_bytes is None else float(item.peak_bytes)
    if goal.quantity == "seconds":
        return item.seconds
    other = by_name.get(goal.against)
    if other is None or not other.seconds:
        return None
    if goal.quantity == "memory":
        return None if item.peak_bytes is None or not other.peak_bytes else item.peak_bytes / other.peak_bytes
    ratio = (item.seconds / item.items) / (other.seconds / other.items)
    return 1 / ratio if goal.quantity == "speedup" else ratio
