"""Means, medians and differences with bootstrap intervals, as every claim of the studies is stated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

RESAMPLES = 4000
LEVEL = 0.95


def mean_interval(values: Sequence[float], seed: int = 0) -> dict[str, Any]:
    """The mean of independent items with its percentile bootstrap interval at 95%; NaN items are left out and counted.

    Returns:
        mean, low, high, n, and left_out where there are any; the interval is None for fewer than three items.
    """
    given = np.asarray(values, dtype=float)
    kept = given[np.isfinite(given)]
    found: dict[str, Any] = {"mean": float(kept.mean()) if len(kept) else None, "low": None, "high": None}
    if len(kept) >= 3:
        generator = np.random.default_rng(seed)
        means = kept[generator.integers(0, len(kept), (RESAMPLES, len(kept)))].mean(1)
        low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        found |= {"low": float(low), "high": float(high)}
    found["n"] = len(kept)
    return found if len(kept) == len(given) else {**found, "left_out": len(given) - len(kept)}


def shown(interval: dict[str, Any], digits: int = 2) -> str:
    """An interval as text: 0.43 [0.31, 0.55]."""
    if interval["mean"] is None:
        return "none"
    if interval["low"] is None:
        return f"{interval['mean']:.{digits}f}"
    return f"{interval['mean']:.{digits}f} [{interval['low']:.{digits}f}, {interval['high']:.{digits}f}]"
