"""Thresholds and error rates against scipy, slow literal references, and what can be counted by hand."""

from __future__ import annotations

import math

import numpy
import pytest
from scipy import stats

from lens_scopes.evaluation.statistics.rates import choose_threshold, held_out_alarms, is_above, rate, roc_areas

LEAKS = [1.0, 2, 3, 4, 5, 6, 7, 8, 9, 10]
OTHERS = [0.5, 1.5, 1.6, 2.5]
VALUES, POSITIVE = [*LEAKS, *OTHERS], [True] * 10 + [False] * 4


@pytest.mark.parametrize(
    ("recall", "threshold", "caught", "alarms"),
    # All ten need t < 1. Without the 1.0, t from 1.6 to 2 leaves one alarm, and t from 2.5 to 3 none.
    [(1.0, 0.8, 10, 3), (0.9, 1.8, 9, 1), (0.8, 2.8, 8, 0), (0.1, 2.8, 8, 0)],
)
def test_a_threshold_counted_by_hand(recall: float, threshold: float, caught: int, alarms: int) -> None:
    assert choose_threshold(VALUES, POSITIVE, recall) == threshold
    assert sum(value > threshold for value in LEAKS) == caught
    assert sum(value > threshold for value in OTHERS) == alarms


def test_a_leak_of_nothing_cannot_be_caught_and_what_is_no_number_always_is() -> None:
    assert choose_threshold([0.0, 1.0, 0.5], [True, True, False], 1.0) == 0.8
    assert choose_threshold([0.0, 0.0], [True, False], 1.0) == 0.0
    assert is_above([math.nan, math.inf, 1.0, 0.5], 0.5).tolist() == [True, True, True, False]
    assert choose_threshold([math.nan, 0.5, 0.2], [True, True, False], 0.5) == 0.3


def test_no_threshold_does_better_than_the_one_chosen() -> None:
    generator = numpy.random.default_rng(0)
    for _ in range(60):
        values = generator.integers(0, 8, 24) / 10  # with ties, and zeros that nothing catches
        positive = generator.random(24) < 0.5
        recall = float(generator.choice([0.5, 0.8, 0.9, 1.0]))

        def merit(
            threshold: float, values: object = values, positive: object = positive, recall: float = recall
        ) -> tuple[float, float, float]:
            above = [value > threshold for value in values]  # pyright: ignore
            wanted = [hit for hit, label in zip(above, positive, strict=True) if label]  # pyright: ignore
            alarms = [hit for hit, label in zip(above, positive, strict=True) if not label]  # pyright: ignore
            caught = sum(wanted) / len(wanted)
            return min(caught, recall), -sum(alarms) / len(alarms), caught

        candidates = [0.0, *numpy.unique(values), *(numpy.unique(values) + 0.05)]
        assert merit(choose_threshold(values, positive, recall)) == max(map(merit, candidates))


def test_the_threshold_is_the_roundest_number_in_its_gap() -> None:
    for low, high, expected in [(0.01034, 0.01091, 0.0106), (2.0, 30.0, 20.0), (0.5000001, 0.5000003, 0.5000002)]:
        threshold = choose_threshold([low, high], [False, True], 1.0)
        assert threshold == pytest.approx(expected, rel=1e-12) and low <= threshold < high
    neighbours = numpy.nextafter(0.1, 1)
    assert choose_threshold([0.1, neighbours], [False, True], 1.0) == 0.1


def test_a_rate_of_independent_cases_has_the_interval_of_clopper_and_pearson() -> None:
    for hits, n in [(0, 5), (3, 8), (38, 41), (7, 7)]:
        got = rate([True] * hits + [False] * (n - hits), range(n))
        expected = stats.binomtest(hits, n).proportion_ci(method="exact")
        assert (got.low, got.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
        assert (got.count, got.n, got.share) == (hits, n, hits / n)


def test_cases_of_one_group_count_for_less() -> None:
    hits, copies = [True, True, False, True, False, False, True], 3
    n_groups, share = len(hits), 4 / 7
    got = rate(numpy.repeat(hits, copies), numpy.repeat(range(n_groups), copies))
    # Copies: the variance between groups is p(1 − p)/(G − 1), that of as many independent cases p(1 − p)/(n − 1).
    worth = n_groups * copies * (n_groups - 1) / (n_groups * copies - 1)
    low = stats.beta.ppf(0.025, share * worth, (1 - share) * worth + 1)
    assert got.low == pytest.approx(low) and n_groups - 1 < worth < n_groups
    # Where no case differs, as many cases as there are groups.
    everything = rate([True] * 12, numpy.repeat(range(4), 3))
    assert everything.low == pytest.approx(stats.binomtest(4, 4).proportion_ci(method="exact").low)
    # Groups that are all alike tell as much as independent cases, and not more.
    assert rate([True, False] * 6, numpy.repeat(range(6), 2)) == rate([True, False] * 6, range(12))


def test_each_group_is_judged_by_the_others() -> None:
    generator = numpy.random.default_rng(1)
    values, positive = generator.random(30), generator.random(30) < 0.5
    groups = [f"g{index}" for index in generator.integers(0, 6, 30)]
    expected = []
    for value, group in zip(values, groups, strict=True):
        others = [index for index in range(30) if groups[index] != group]
        threshold = choose_threshold([values[i] for i in others], [positive[i] for i in others], 0.8)
        expected.append(bool(value > threshold))
    assert held_out_alarms(values, positive, groups, 0.8).tolist() == expected
    # A leak that no other case resembles is missed, though a threshold that knows it catches it.
    lonely = [0.01, 0.5, 0.6, 0.005]
    assert held_out_alarms(lonely, [True, True, True, False], list("abcd"), 1.0).tolist() == [False, True, True, False]
    assert choose_threshold(lonely, [True, True, True, False], 1.0) < 0.01


def test_areas_are_the_statistic_of_mann_and_whitney() -> None:
    generator = numpy.random.default_rng(2)
    positive = generator.random(40) < 0.4
    good, noise = positive + generator.normal(0, 0.7, 40), generator.integers(0, 3, 40).astype(float)
    areas = roc_areas([good, noise, positive.astype(float)], positive, range(40), seed=3)
    for row, column in enumerate((good, noise)):
        statistic = stats.mannwhitneyu(column[positive], column[~positive]).statistic
        assert areas[row][row].value == pytest.approx(statistic / positive.sum() / (~positive).sum())
        assert areas[row][row].low < areas[row][row].value < areas[row][row].high
    assert tuple(areas[2][2]) == (1.0, 1.0, 1.0)
    assert areas[0][1].value == pytest.approx(areas[0][0].value - areas[1][1].value)
    assert areas[0][1].low == pytest.approx(-areas[1][0].high) and areas[0][1].low > 0
    assert areas == roc_areas([good, noise, positive.astype(float)], positive, range(40), seed=3)
    # Copies in one group make no interval narrower.
    doubled = [numpy.repeat(column, 2) for column in (good, noise, positive)]
    again = roc_areas(doubled, numpy.repeat(positive, 2), numpy.repeat(range(40), 2), seed=3)
    assert tuple(again[0][0]) == pytest.approx(tuple(areas[0][0]))
