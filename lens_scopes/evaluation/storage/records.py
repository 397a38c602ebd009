"""Records of an evaluation: one number about one passage, and one line of the result folder per passage."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, fields
from typing import Any, Literal

from lens_scopes.results.storage.record import decode

MEASURED, FAILED, TOO_LONG = "measured", "failed", "too long"
COLUMNS = ("passage", "method", "metric", "ablation", "fraction", "value", "forwards", "backwards", "note")
_LARGEST = 2**63 - 1  # of an index in a table
_LINE: dict[str, tuple[Any, Any]] = {
    "passage": (int, None),
    "status": (Literal["measured", "failed", "too long"], None),
    "reason": (str | None, None),
    "facts": (dict[str, Any], {}),
    "measurements": (list[Any], []),
    "seconds": (float, None),
}
"""The fields of a line about a passage, with their types and what a missing one stands for."""

_SESSION: dict[str, Any] = {
    "began": str,
    "process": int,
    "processes": int,
    "device": str,
    "commit": str | None,
    "skip": int,
    "limit": int | None,
}
"""The fields of a session, with their types; older folders lack some."""


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
        """The record that `as_line` wrote.

        Raises:
            ValueError: for a line that is none, with the name of the field.
        """
        if unknown := line.keys() - _LINE.keys():
            raise ValueError(f"{min(unknown)} is no field of a passage")
        passage, status, reason, facts, rows, seconds = (
            decode(hint, line.get(name, usual), _no_tensor, name) for name, (hint, usual) in _LINE.items()
        )
        if not 0 <= passage <= _LARGEST:
            raise ValueError(f"passage is {passage}, expected an index")
        for name, value in facts.items():
            if name in COLUMNS or not isinstance(value, str | int | float | None):
                raise ValueError(f"facts[{name!r}] is no fact of a passage")
        measurements = tuple(_measurement(row, f"measurements[{index}]") for index, row in enumerate(rows))
        names = [(item.method, item.metric, item.ablation, item.fraction) for item in measurements]
        if len(set(names)) < len(names):
            raise ValueError("a measurement is there twice")
        return cls(passage, status, reason, facts, measurements, seconds)


def session_of_line(line: Mapping[str, Any]) -> dict[str, Any]:
    """Who wrote what follows.

    Raises:
        ValueError: for a line that does not say so, with the name of the field.
    """
    if len(line) > 1:
        raise ValueError("beside the session stands something else")
    session = decode(dict[str, Any], line["session"], _no_tensor, "session")
    check_fields(session, _SESSION, "session")
    if "limit" in session and not {"began", "skip"} <= session.keys():
        raise ValueError("session has a limit, and does not say what it skips or when it began")
    return session


def check_fields(values: Mapping[str, Any], hints: Mapping[str, Any], place: str) -> None:
    """Raises ValueError for a field of another type than its own; missing ones are none of it."""
    for name, hint in hints.items():
        if name in values:
            decode(hint, values[name], _no_tensor, f"{place}[{name!r}]")


def _measurement(row: Any, place: str) -> Measurement:
    names = [item.name for item in fields(Measurement)]
    if not isinstance(row, list) or not 4 <= len(row) <= len(names):
        raise ValueError(f"{place} is no list of {len(names)} values")
    named = dict(zip(names, row, strict=False))
    if named["value"] is None or named["value"] in _NOT_FINITE:
        named["value"] = math.nan if named["value"] is None else float(named["value"])
    measurement = decode(Measurement, named, _no_tensor, place)
    if not 0 <= measurement.forwards <= _LARGEST or not 0 <= measurement.backwards <= _LARGEST:
        raise ValueError(f"{place} counts passes that no computer ran")
    return measurement


_NOT_FINITE = ("inf", "-inf")


def _no_tensor(value: Any) -> Any:
    raise ValueError("there are no tensors in a line")


def _plain(value: Any) -> Any:
    """A value as JSON has it: NaN is null, infinities are strings, numbers of other libraries are Python's."""
    if hasattr(value, "item") and not isinstance(value, (bool, int, float)):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
