"""The statistics against scipy, published tables and what can be counted by hand."""

from __future__ import annotations

import itertools
from typing import Any

import numpy
import pandas
import pytest
from scipy import stats

from lens_scopes.errors import EvaluationError
from lens_scopes.evaluation.statistics import (
    attenuation_ceiling,
    compare_methods,
    holm,
    mean_intervals,
    mean_values,
    paired_test,
    rank_biserial,
)

# Depression scale factors of nine patients before and after (Hollander & Wolfe, 1973, p. 29): W⁺ = 5, exact p = 0.0391.
BEFORE = [1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]
AFTER = [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]
# Corn: cross- and self-fertilised heights (Darwin, 1876), in eighths of an inch: W = 24, mean difference 20.93.
DARWIN = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]


def frame(values: dict[str, list[float]], correct: list[bool | None] | None = None, **columns: Any) -> pandas.DataFrame:
    """Rows of one metric: method → a value for each passage."""
    rows = [
        {
            "passage": passage,
            "method": method,
            "metric": "aopc",
            "ablation": "zero",
            "fraction": numpy.nan,
            "value": value,
        }
        | columns
        | ({} if correct is None else {"correct": correct[passage]})
        for method, numbers in values.items()
        for passage, value in enumerate(numbers)
    ]
    return pandas.DataFrame(rows)


def test_published_examples() -> None:
    found = paired_test(AFTER, BEFORE)
    assert found.p == pytest.approx(0.0391, abs=5e-5)
    assert found.effect == pytest.approx((5 - 40) / 45)
    darwin = paired_test(DARWIN, [0.0] * 15)
    assert darwin.difference == pytest.approx(20.93, abs=5e-3)
    assert darwin.effect == pytest.approx((96 - 24) / 120)
    assert darwin.p == pytest.approx(stats.wilcoxon(DARWIN, method="exact").pvalue)


def test_wilcoxon_is_the_share_of_all_signs_at_least_as_extreme() -> None:
    differences = numpy.array([1.5, -0.3, 2.2, 0.9, 1.1, -0.2, 3.0])
    ranks = stats.rankdata(abs(differences))
    sums = [numpy.dot(ranks, signs) for signs in itertools.product((0, 1), repeat=len(ranks))]
    smaller = min(ranks[differences > 0].sum(), ranks[differences < 0].sum())
    exact = 2 * sum(value <= smaller for value in sums) / len(sums)
    assert paired_test(differences, numpy.zeros(7)).p == pytest.approx(exact)


def test_rank_biserial_counts_pairs() -> None:
    assert rank_biserial([1, 2, 3]) == 1 and rank_biserial([-1, -2]) == -1
    assert rank_biserial([0, 0]) == 0 and rank_biserial([1, -1]) == 0
    assert rank_biserial([0, 3, -1]) == pytest.approx((2 - 1) / 3)
    differences = numpy.random.default_rng(0).normal(0.4, 1, 30)
    smaller = stats.wilcoxon(differences).statistic
    assert abs(rank_biserial(differences)) == pytest.approx(1 - 2 * smaller / (30 * 31 / 2))


def test_the_interval_is_that_of_scipy_and_covers_as_often_as_it_says() -> None:
    generator = numpy.random.default_rng(1)
    sample = generator.exponential(1.0, 40)
    rng = numpy.random.default_rng(0)
    expected = stats.bootstrap((sample,), numpy.mean, method="BCa", rng=rng).confidence_interval
    assert mean_intervals([sample])[0] == pytest.approx((expected.low, expected.high), abs=0.02)
    samples = list(generator.normal(0.5, 1, (200, 30)))
    covered = sum(low <= 0.5 <= high for low, high in mean_intervals(samples))
    assert 0.88 <= covered / 200 <= 0.99


def test_intervals_of_samples_of_several_lengths_stay_in_their_places() -> None:
    samples = [
        numpy.arange(5.0),
        numpy.full(4, 2.5),
        100 + numpy.arange(7.0),
        numpy.array([1.0]),
        50 + numpy.arange(5.0),
        numpy.array([1.0, 1.0 - 1e-16, 1.0, 1.0 - 2e-16]),
    ]
    intervals = mean_intervals(samples)
    assert intervals[1] == (2.5, 2.5) and intervals[5] == (1.0, 1.0) and numpy.isnan(intervals[3]).all()
    assert 0 < intervals[0][0] < 2 < intervals[0][1] < 4
    assert 101 < intervals[2][0] < 103 < intervals[2][1] < 105
    assert intervals[4] == pytest.approx([end + 50 for end in intervals[0]], abs=0.25)


def test_holm_against_a_published_table() -> None:
    # Wright (1992), Adjusted p-values for simultaneous inference; the same as R's p.adjust(…, "holm").
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6, 0.7]) == [1.0, 1.0, 1.0]
    assert holm([0.02]) == [0.02] and holm([]) == []
    assert holm([0.001, 0.001]) == [0.002, 0.002]


@pytest.mark.parametrize("pairs", [0, 1, 5])
def test_fewer_than_six_pairs_are_refused(pairs: int) -> None:
    with pytest.raises(EvaluationError, match=f"at least 6 pairs, got {pairs}"):
        paired_test(numpy.arange(float(pairs)), numpy.zeros(pairs))


def test_pairs_that_are_none() -> None:
    with pytest.raises(EvaluationError, match="one length"):
        paired_test([1.0] * 6, [1.0] * 7)
    with pytest.raises(EvaluationError, match="not finite"):
        paired_test([1.0] * 5 + [float("nan")], [1.0] * 6)


def test_equal_methods_do_not_differ() -> None:
    found = paired_test([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert (found.p, found.effect, found.difference, found.low, found.high) == (1.0, 0.0, 0.0, 0.0, 0.0)


def test_the_table_compares_by_passage_and_corrects_over_all_its_tests() -> None:
    generator = numpy.random.default_rng(0)
    base = generator.normal(size=20)
    values = {"a": base, "b": base + generator.normal(0.5, 0.3, 20), "c": generator.normal(size=20)}
    values = {name: list(map(float, numbers)) for name, numbers in values.items()}
    values["c"][3] = float("nan")
    values["b"][4] = float("inf")
    correct: list[bool | None] = [index % 2 == 0 for index in range(20)]
    rows = pandas.concat([frame(values, correct), frame(values, correct, metric="point", fraction=0.1)])
    compared = compare_methods(rows.sample(frac=1, random_state=0), reference="a")
    assert len(compared) == 4 and compared.attrs == {"tests": 4, "reference": "a"}
    by = compared.set_index(["passages", "method"])
    assert by.pairs.to_dict() == {
        ("all", "b"): 19,
        ("all", "c"): 19,
        ("predicted correctly", "b"): 9,
        ("predicted correctly", "c"): 10,
    }
    keep = [index for index in range(20) if index != 4]
    expected = paired_test([values["b"][i] for i in keep], [values["a"][i] for i in keep])
    assert by.loc[("all", "b"), "p"] == expected.p and by.loc[("all", "b"), "effect"] == expected.effect
    assert by.loc[("all", "b"), "difference"] == pytest.approx(expected.difference)
    assert by.loc[("all", "b"), "low"] == pytest.approx(expected.low, abs=0.03)
    assert by.p_holm.tolist() == pytest.approx(holm(by.p.tolist()))
    assert (by.p_holm >= by.p).all()


def test_the_reference_is_the_first_method_unless_named() -> None:
    rows = frame({"a": [1.0] * 6, "b": [2.0, 3, 4, 5, 6, 7]})
    assert compare_methods(rows).reference.tolist() == ["a"]
    assert compare_methods(rows, reference="b").difference.tolist() == [-3.5]
    with pytest.raises(EvaluationError, match=r"'bb' was not measured; did you mean 'b'\?.*a, b"):
        compare_methods(rows, reference="bb")


def test_too_few_passages_are_said_and_not_tested() -> None:
    correct: list[bool | None] = [True, False, False, False, False, False]
    compared = compare_methods(frame({"a": [1.0] * 6, "b": [2.0, 3, 4, 5, 6, 7]}, correct))
    assert compared.note.tolist() == [None, "fewer than 6 pairs: no test"]
    assert compared.p_holm.isna().tolist() == [False, True] and compared.attrs["tests"] == 1
    assert compared.difference.tolist() == [3.5, 1.0]


def test_means_count_what_is_undefined() -> None:
    rows = frame({"a": [1.0, 3.0, float("nan")]}, ablation=None)
    means = mean_values(pandas.concat([rows, frame({"a": [5.0, 7.0]}, metric="curve", fraction=0.5)]))
    first, point = means.to_dict("records")
    assert (first["mean"], first["count"], first["undefined"], first["ablation"]) == (2.0, 2, 1, None)
    assert (point["mean"], point["fraction"]) == (6.0, 0.5)


def test_nothing_measured() -> None:
    empty = frame({"a": [1.0]}).iloc[:0]
    assert len(compare_methods(empty)) == 0 and len(mean_values(empty)) == 0


def test_a_perfect_predictor_reaches_the_ceiling() -> None:
    """Two noisy copies of one thing agree at r, and the thing itself correlates with each at √r."""
    generator = numpy.random.default_rng(0)
    agreement, reached = [], []
    for _ in range(60):
        thing = generator.normal(size=300)
        one, other = (thing + 0.6 * generator.normal(size=300) for _ in range(2))
        agreement.append(numpy.corrcoef(one, other)[0, 1])
        reached.append(numpy.corrcoef(thing, one)[0, 1])
    ceiling, low, high = attenuation_ceiling(agreement)
    assert ceiling == pytest.approx(numpy.sqrt(numpy.mean(agreement)))
    assert ceiling == pytest.approx(numpy.mean(reached), abs=0.01) and low < numpy.mean(reached) < high
    assert ceiling > numpy.mean(agreement) + 0.08, "the agreement itself is no ceiling"


def test_with_three_measures_they_need_not_be_equally_good() -> None:
    generator = numpy.random.default_rng(1)
    pairs = {(0, 1): [], (0, 2): [], (1, 2): []}
    reached = []
    for _ in range(80):
        thing = generator.normal(size=300)
        measures = [thing + spread * generator.normal(size=300) for spread in (0.3, 0.9, 0.6)]
        for (i, j), values in pairs.items():
            values.append(numpy.corrcoef(measures[i], measures[j])[0, 1])
        reached.append(numpy.corrcoef(thing, measures[0])[0, 1])
    ceiling, low, high = attenuation_ceiling(*pairs.values())
    assert ceiling == pytest.approx(numpy.mean(reached), abs=0.01) and low < high
    with pytest.raises(EvaluationError, match="one list of correlations, or three"):
        attenuation_ceiling([0.5], [0.5])
