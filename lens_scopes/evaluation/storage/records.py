"""Records of an evaluation: one number about one passage, and one line of the result folder per passage."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field
from typing import Any

MEASURED, FAILED, TOO_LONG = "measured", "failed", "too long"


@dataclass(frozen=True)
class Measurement:
    """One number about one passage.

    Attributes:
        method: the method's name as it was given.
        metric: what is measured.
        ablation: what tokens were replaced by; None where the metric ablates nothing.
        value: the number; NaN where it is undefined, and then `note` says why.
        fraction: for a point of a curve, the fraction of tokens ablated or kept.
        forwards: rows of forward passes that the method took to make its scores.
        backwards: rows of backward passes that it took.
        note: what a reader of the number must know.
    """

    method: str
    metric: str
    ablation: str | None
    value: float
    fraction: float | None = None
    forwards: int = 0
    backwards: int = 0
    note: str | None = None


@dataclass(frozen=True)
class PassageRecord:
    """What became of one passage.

    Attributes:
        passage: its index in the data set.
        status: `"measured"`, `"failed"` or `"too long"`.
        reason: why it was not measured.
        facts: of the passage itself: tokens, prediction, target.
        measurements: everything measured about it.
        seconds: how long that took.
    """

    passage: int
    status: str
    reason: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    measurements: tuple[Measurement, ...] = ()
    seconds: float = 0.0

    def as_line(self) -> dict[str, Any]:
        line: dict[str, Any] = {"passage": self.passage, "status": self.status, "seconds": round(self.seconds, 3)}
        if self.status != MEASURED:
            return line | {"reason": self.reason}
        rows = [[_plain(value) for value in astuple(measurement)] for measurement in self.measurements]
        return line | {"facts": {name: _plain(value) for name, value in self.facts.items()}, "measurements": rows}

    @classmethod
    def of_line(cls, line: Mapping[str, Any]) -> PassageRecord:
        rows = (Measurement(*[*row[:3], _number(row[3]), *row[4:]]) for row in line.get("measurements", ()))
        return cls(
            line["passage"], line["status"], line.get("reason"), line.get("facts", {}), tuple(rows), line["seconds"]
        )


def _plain(value: Any) -> Any:
    """A value as JSON has it: NaN is null, infinities are strings, numbers of other libraries are Python's."""
    if hasattr(value, "item") and not isinstance(value, (bool, int, float)):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _number(value: float | str | None) -> float:
    return math.nan if value is None else float(value)
