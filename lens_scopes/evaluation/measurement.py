"""One number about one passage."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Measurement:
    """One number about one passage.

    Attributes:
        method: the name given: "fisher", "fisher@8", "ixg-dot", …
        metric: "aopc", "loo-kl-spearman", …
        ablation: "zero", "mean", …; None where the metric needs none.
        value: may be NaN where it is undefined, with `note` saying why.
        fraction: for points of a curve (metric "deletion-curve"), the fraction ablated.
        forwards: forward passes that this number cost (rows of batched forwards).
        backwards: backward passes that it cost.
        note: what a reader must know about it.
    """

    method: str
    metric: str
    ablation: str | None
    value: float
    fraction: float | None = None
    forwards: int = 0
    backwards: int = 0
    note: str | None = None
