"""Thresholds of detectors, and their error rates on cases that had no part in choosing them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy
from scipy import stats

from lens_scopes.evaluation.statistics.intervals import CONFIDENCE

RESAMPLES = 2000
_TAIL = (1 - CONFIDENCE) / 2
_MAX_DIGITS = 17


class Interval(NamedTuple):
    """A number with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Rate:
    """A share of cases.

    Attributes:
        count: how many.
        n: of how many.
        low, high: the ends of its 95 % interval.
    """

    count: int
    n: int
    low: float
    high: float

    @property
    def share(self) -> float:
        """`count`/`n`."""
        return self.count / self.n


def rate(hits: Sequence[bool] | Any, groups: Sequence[Any] | Any) -> Rate:
    """A share of cases with its interval after Clopper and Pearson, for as many cases as the groups are worth.

    Cases of one group are alike, and n of them tell less than n independent ones. With the share p and the sum e_g of
    its residuals in each of G groups, n is replaced by

        n_eff = n · [p (1 − p)/(n − 1)] / [G/(G − 1) Σ_g e_g²/n²],

    at most n, and by G where all cases or none are hits. Of groups of one case each, n_eff = n.

    Args:
        hits: which cases count, at least one case.
        groups: the group of each.

    Source: Korn and Graubard, Survey Methodology 24 (1998), 193–201, without their correction for degrees of freedom.
    """
    values = numpy.asarray(hits, dtype=float)
    n, share = len(values), float(values.mean())
    _, members = numpy.unique(numpy.asarray(groups), return_inverse=True)
    n_groups = int(members.max()) + 1
    residuals = numpy.bincount(members, values - share)
    between = n_groups / max(1, n_groups - 1) * float(residuals @ residuals) / n**2
    independent = share * (1 - share) / max(1, n - 1)
    effective = float(n_groups) if independent == 0 else n * min(1.0, independent / between) if between else float(n)
    low = stats.beta.ppf(_TAIL, share * effective, (1 - share) * effective + 1) if share > 0 else 0.0
    high = stats.beta.ppf(1 - _TAIL, share * effective + 1, (1 - share) * effective) if share < 1 else 1.0
    return Rate(int(values.sum()), n, float(low), float(high))


def choose_threshold(values: Any, positive: Any, recall: float) -> float:
    """The threshold above which at least the share `recall` of the positive cases lies, with the fewest false alarms.

    Of several, the one that catches most; where none catches that share, one that catches as many as any. It is the
    number of fewest digits between two neighbouring values, at least 0.

    Args:
        values: of the cases, ≥ 0.
        positive: which of them should be above.
        recall: from 0 to 1.

    Example:
        >>> choose_threshold([0.2, 0.35, 0.5, 0.8], [False, False, True, True], 0.9)
        0.4
    """
    values, positive = numpy.asarray(values, dtype=float), numpy.asarray(positive, dtype=bool)
    levels = numpy.unique(numpy.append(values[numpy.isfinite(values)], 0.0))
    recalls, alarms = (_share_above(values[side], levels) for side in (positive, ~positive))
    # The last key of lexsort counts first: recall up to the share asked for, then few alarms, then recall beyond it.
    best = int(numpy.lexsort((recalls, -alarms, numpy.minimum(recalls, recall)))[-1])
    gap = levels[best : best + 2].tolist()
    return _roundest(gap[0], gap[1] if len(gap) > 1 else None)


def held_out_alarms(values: Any, positive: Any, groups: Any, recall: float) -> Any:
    """Which cases lie above the threshold that the cases of all other groups choose: [case], booleans."""
    values, positive, groups = map(numpy.asarray, (values, positive, groups))
    above = numpy.zeros(len(values), dtype=bool)
    for group in dict.fromkeys(groups.tolist()):
        in_group = groups == group
        above[in_group] = is_above(values[in_group], choose_threshold(values[~in_group], positive[~in_group], recall))
    return above


def is_above(values: Any, threshold: float) -> Any:
    """Which values are above a threshold; what is not a number is, so that a gate stays closed."""
    return ~(numpy.asarray(values, dtype=float) <= threshold)


def roc_areas(columns: Sequence[Any], positive: Any, groups: Any, *, seed: int = 0) -> list[list[Interval]]:
    """The area under the ROC curve of each detector, and what it has more than each other one: [detector, detector].

    The area is the share of pairs of a positive and a negative case that the detector orders rightly, ties counting
    half. Intervals are percentiles of 2,000 bootstrap samples of groups, the same for all detectors.

    Args:
        columns: the values of each detector.
        positive: which cases should have the higher values.
        groups: the group of each case.
        seed: of the bootstrap.

    Returns:
        On the diagonal the areas; elsewhere the row's area minus the column's.
    """
    positive = numpy.asarray(positive, dtype=bool)
    order = [
        _order(numpy.nan_to_num(numpy.asarray(column, dtype=float), nan=numpy.inf), positive) for column in columns
    ]
    resamples = _bootstrap_areas(order, positive, numpy.asarray(groups), numpy.random.default_rng(seed))
    areas = [float(pairs.mean()) for pairs in order]
    return [
        [
            _interval(areas[row], resamples[row])
            if row == column
            else _interval(areas[row] - areas[column], resamples[row] - resamples[column])
            for column in range(len(areas))
        ]
        for row in range(len(areas))
    ]


def _bootstrap_areas(order: list[Any], positive: Any, groups: Any, generator: Any) -> Any:
    """The areas in bootstrap samples of groups: [detector, sample]; NaN in a sample without one of the classes."""
    _, members = numpy.unique(groups, return_inverse=True)
    n_groups = int(members.max()) + 1
    resamples = numpy.full((len(order), RESAMPLES), numpy.nan)
    for sample in range(RESAMPLES):
        # How often each group is drawn weighs all its cases, and so the pairs they are in.
        weights = generator.multinomial(n_groups, [1 / n_groups] * n_groups)[members].astype(float)
        wins, losses = weights[positive], weights[~positive]
        if pairs := float(wins.sum() * losses.sum()):
            resamples[:, sample] = [wins @ right @ losses / pairs for right in order]
    return resamples


def _interval(value: float, resamples: Any) -> Interval:
    low, high = numpy.nanquantile(resamples, [_TAIL, 1 - _TAIL])
    return Interval(value, float(low), float(high))


def _order(values: Any, positive: Any) -> Any:
    """1 where a positive case (rows) is above a negative one (columns), ½ where they are equal."""
    ours, theirs = values[positive][:, None], values[~positive]
    return (ours > theirs) + 0.5 * (ours == theirs)


def _share_above(values: Any, thresholds: Any) -> Any:
    """The share of values above each threshold; what is not a number is above all."""
    ordered = numpy.sort(numpy.nan_to_num(values, nan=numpy.inf))
    return (len(ordered) - numpy.searchsorted(ordered, thresholds, side="right")) / max(1, len(ordered))


def _roundest(low: float, high: float | None) -> float:
    """The number of fewest digits in [low, high) that is nearest to their middle; `low` itself without a `high`."""
    if high is None:
        return low
    for digits in range(1, _MAX_DIGITS + 1):
        rounded = float(f"{(low + high) / 2:.{digits}g}")
        if low <= rounded < high:
            return rounded
    return low
