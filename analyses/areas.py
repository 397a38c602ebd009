"""Areas under the ROC curve, over all cases and within strata, with bootstrap intervals and paired differences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from intervals import LEVEL, RESAMPLES


def area(values: np.ndarray, positive: np.ndarray, groups: np.ndarray | None = None) -> float:
    """The share of pairs of a positive and a negative case that the values order rightly, ties counting half; of pairs
    within the same group where groups are given. NaN without such a pair."""
    pairs = comparable(positive, groups)
    return float(_order(values, positive)[pairs].mean()) if pairs.any() else float("nan")


def comparable(positive: np.ndarray, groups: np.ndarray | None = None) -> np.ndarray:
    """Which pairs of a positive (rows) and a negative case (columns) lie in the same group."""
    if groups is None:
        return np.ones((positive.sum(), (~positive).sum()), bool)
    return groups[positive][:, None] == groups[~positive]


def areas_with_intervals(
    columns: Mapping[str, np.ndarray],
    positive: np.ndarray,
    rivals: tuple[str, ...],
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """The area of each column, its bootstrap interval, and that of the area less each rival's, paired.

    Cases are drawn again within each class, and within each group where groups are given; the same draws serve all
    columns. Empty without a pair to compare.

    Returns:
        area, low, high and minus (rival → low, high) by the column's name.
    """
    pairs = comparable(positive, groups)
    if not pairs.any():
        return {}
    generator = np.random.default_rng(seed)
    cells = np.zeros(len(positive), int) if groups is None else np.unique(groups, return_inverse=True)[1]
    wins, losses = (multiplicities(cells[side], generator) for side in (positive, ~positive))
    spread = {
        name: np.einsum("bp,pn,bn->b", wins, _order(values, positive) * pairs, losses, optimize=True) / pairs.sum()
        for name, values in columns.items()
    }
    return {
        name: {
            "area": area(values, positive, groups),
            **_bounds(spread[name]),
            "minus": {rival: _bounds(spread[name] - spread[rival]) for rival in rivals},
        }
        for name, values in columns.items()
    }


def multiplicities(cells: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """How often each case is drawn in each bootstrap sample that keeps the size of every cell: [sample, case]."""
    counts = np.zeros((RESAMPLES, len(cells)))
    for cell in np.unique(cells):
        members = np.flatnonzero(cells == cell)
        counts[:, members] = generator.multinomial(len(members), np.full(len(members), 1 / len(members)), RESAMPLES)
    return counts


def alarms(values: np.ndarray, positive: np.ndarray, caught: float) -> dict[str, float]:
    """The highest threshold at or above which the share `caught` of the positive cases lies, and the share of the
    negative ones there."""
    threshold = float(np.quantile(values[positive], 1 - caught, method="lower"))
    return {"caught": caught, "threshold": threshold, "alarms": float((values[~positive] >= threshold).mean())}


def _order(values: np.ndarray, positive: np.ndarray) -> np.ndarray:
    difference = values[positive][:, None] - values[~positive]
    return (difference > 0) + 0.5 * (difference == 0)


def _bounds(values: np.ndarray) -> dict[str, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"low": float(low), "high": float(high)}
