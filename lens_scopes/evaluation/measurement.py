"""What an evaluation measures: one number about one passage."""

from __future__ import annotations

from dataclasses import dataclass


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
