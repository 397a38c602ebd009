"""Is the difference real? Paired tests, bootstrap intervals and effect sizes, corrected over the whole table.

Pairs are the same passage measured with two methods. Differences are method − reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy
from scipy import stats

from lens_scopes.errors import EvaluationError, suggest
from lens_scopes.evaluation.statistics.intervals import mean_intervals

if TYPE_CHECKING:
    import pandas

MIN_PAIRS = 6
ALL, CORRECT = "all", "predicted correctly"

_KEYS = ["passages", "metric", "ablation"]


@dataclass(frozen=True)
class PairedTest:
    """A method against a reference on the same passages.

    Attributes:
        pairs: how many passages have both numbers.
        difference: mean of method − reference, in the metric's unit.
        low: lower end of the 95% bootstrap interval (BCa) of that mean.
        high: its upper end.
        p: two-sided p-value of the Wilcoxon signed-rank test, uncorrected.
        effect: matched-pairs rank-biserial correlation (W⁺ − W⁻)/(W⁺ + W⁻), from −1 (the method is lower on every
            passage) to 1; differences of zero are left out.
    """

    pairs: int
    difference: float
    low: float
    high: float
    p: float
    effect: float


def paired_test(values: Sequence[float] | Any, reference: Sequence[float] | Any, *, seed: int = 0) -> PairedTest:
    """Compares two methods on the same passages; `seed` is that of the bootstrap.

    Wilcoxon's signed-rank test leaves out differences of zero, and is exact for up to 50 of them without ties.

    Raises:
        EvaluationError: for numbers that are not finite, lists of different lengths, or fewer than 6 pairs, with which
            no two-sided p-value below 0.05 is possible at 5 pairs (2/2⁵ = 0.0625).
    """
    first, second = numpy.asarray(values, dtype=float), numpy.asarray(reference, dtype=float)
    if first.shape != second.shape or first.ndim != 1:
        raise EvaluationError(f"pairs are two lists of one length, got the shapes {first.shape} and {second.shape}.")
    if not (numpy.isfinite(first).all() and numpy.isfinite(second).all()):
        raise EvaluationError(
            "some numbers of the pairs are not finite; leave out the passages where one is undefined."
        )
    difference = first - second
    if len(difference) < MIN_PAIRS:
        raise EvaluationError(
            f"a paired test needs at least {MIN_PAIRS} pairs, got {len(difference)}: with 5, no two-sided p-value is "
            "below 0.05; measure more passages."
        )
    ((low, high),) = mean_intervals([difference], seed=seed)
    return PairedTest(
        len(difference), float(difference.mean()), low, high, _wilcoxon(difference), rank_biserial(difference)
    )


def rank_biserial(differences: Sequence[float] | Any) -> float:
    """Matched-pairs rank-biserial correlation: (W⁺ − W⁻)/(W⁺ + W⁻), zeros left out; 0 where all are zero."""
    nonzero = numpy.asarray(differences, dtype=float)
    nonzero = nonzero[nonzero != 0]
    if not len(nonzero):
        return 0.0
    ranks = stats.rankdata(numpy.abs(nonzero))
    return float((ranks * numpy.sign(nonzero)).sum() / ranks.sum())


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number after Holm (1979): the chance of any false finding stays below the level.

    p̃_(i) = max_{j ≤ i} min(1, (m − j + 1) p_(j)), for the p-values in ascending order.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


def compare_methods(rows: pandas.DataFrame, *, reference: str | None = None, seed: int = 0) -> pandas.DataFrame:
    """Every method against the reference, for every metric and ablation, on all passages and on those predicted
    correctly.

    Points of curves are left out. A passage enters where both numbers are finite. Holm's correction is over all tests
    of the table, both sets of passages included; where there are fewer than 6 pairs there is no test, and `note` says
    so.

    Args:
        rows: as `load_results` gives them.
        reference: the method that the others are compared with; the first one of `rows` unless given.
        seed: of the bootstrap.

    Returns:
        A row for each comparison: `passages` ("all" or "predicted correctly"), `metric`, `ablation`, `method`,
        `reference`, `pairs`, `mean`, `reference_mean`, `difference` with its 95% bootstrap interval `low` to `high`,
        `effect` (matched-pairs rank-biserial correlation), `p` (Wilcoxon), `p_holm`, `note`. `attrs["tests"]` is the
        number of tests corrected for.

    Raises:
        EvaluationError: when the reference was not measured.
    """
    import pandas

    methods = list(dict.fromkeys(rows["method"]))
    check_reference(reference, methods)
    if reference is None and methods:
        reference = methods[0]
    # Each method beside the reference, on the passages where both have a number.
    lines, differences = [], []
    for key, table in tables(rows):
        for method in table.columns if reference in table else ():
            if method == reference:
                continue
            both = table[[method, reference]].dropna()
            difference = (both[method] - both[reference]).to_numpy()
            differences.append(difference)
            line = {"method": method, "reference": reference, "pairs": len(difference)}
            line |= {"mean": both[method].mean(), "reference_mean": both[reference].mean()}
            lines.append(dict(zip(_KEYS, key, strict=True)) | line | _test_row(difference))
    tested = [line for line in lines if line["note"] is None]

    # Intervals of all differences in one bootstrap, then the correction over all tests.
    for line, (low, high) in zip(lines, mean_intervals(differences, seed=seed), strict=True):
        line |= {"low": low, "high": high} if line["note"] is None else {"low": float("nan"), "high": float("nan")}
    for line, corrected in zip(tested, holm([line["p"] for line in tested]), strict=True):
        line["p_holm"] = corrected

    columns = [*_KEYS, "method", "reference", "pairs", "mean", "reference_mean", "difference", "low", "high"]
    compared = pandas.DataFrame(lines, columns=[*columns, "effect", "p", "p_holm", "note"])
    compared["p_holm"] = compared["p_holm"].astype(float)
    # pandas reads None as NaN.
    for name in ("ablation", "note"):
        compared[name] = compared[name].astype(object).where(compared[name].notna(), None)
    compared.attrs = {"tests": len(tested), "reference": reference}
    return compared


def _test_row(difference: Any) -> dict[str, Any]:
    """The mean difference with its effect size and p-value, or a note why there are none."""
    mean = difference.mean() if len(difference) else float("nan")
    if len(difference) < MIN_PAIRS:
        note = f"fewer than {MIN_PAIRS} pairs: no test"
        return {"difference": mean, "effect": float("nan"), "p": float("nan"), "note": note}
    return {"difference": mean, "effect": rank_biserial(difference), "p": _wilcoxon(difference), "note": None}


def mean_values(rows: pandas.DataFrame, *, seed: int = 0) -> pandas.DataFrame:
    """The mean of every method for every metric and ablation (and fraction of a curve), on both sets of passages.

    Returns:
        A row for each: `passages`, `metric`, `ablation`, `fraction`, `method`, `count` (finite values), `undefined`
        (passages without one), `mean`, and its 95% bootstrap interval `low` to `high`.
    """
    import pandas

    lines, samples = [], []
    for name, part in _sets(rows):
        grouped = part.groupby(["metric", "ablation", "fraction", "method"], dropna=False, sort=False, observed=True)
        for (metric, ablation, fraction, method), group in grouped:
            finite = group["value"].to_numpy()
            finite = finite[numpy.isfinite(finite)]
            samples.append(finite)
            lines.append(
                {
                    "passages": name,
                    "metric": metric,
                    "ablation": ablation if isinstance(ablation, str) else None,
                    "fraction": fraction,
                    "method": method,
                    "count": len(finite),
                    "undefined": len(group) - len(finite),
                    "mean": finite.mean() if len(finite) else float("nan"),
                }
            )
    for line, (low, high) in zip(lines, mean_intervals(samples, seed=seed), strict=True):
        line |= {"low": low, "high": high}
    columns = ["passages", "metric", "ablation", "fraction", "method", "count", "undefined", "mean", "low", "high"]
    means = pandas.DataFrame(lines, columns=columns)
    means["ablation"] = means["ablation"].astype(object).where(means["ablation"].notna(), None)
    return means


def tables(rows: pandas.DataFrame) -> list[tuple[tuple[str, str, str | None], pandas.DataFrame]]:
    """Passages × methods for each set of passages, metric and ablation; points of curves are left out."""
    order = {name: place for place, name in enumerate(dict.fromkeys(rows["metric"]))}
    methods = list(dict.fromkeys(rows["method"]))
    result = []
    for name, part in _sets(rows):
        numbers = part[part["fraction"].isna()]
        groups = list(numbers.groupby(["metric", "ablation"], dropna=False, sort=False))
        for (metric, ablation), group in sorted(groups, key=lambda item: order[item[0][0]]):
            table = group.pivot(index="passage", columns="method", values="value")
            table = table[[method for method in methods if method in table]]
            key = (name, metric, ablation if isinstance(ablation, str) else None)
            result.append((key, table.where(numpy.isfinite(table))))
    return result


def _sets(rows: pandas.DataFrame) -> list[tuple[str, pandas.DataFrame]]:
    sets = [(ALL, rows)]
    if "correct" in rows and rows["correct"].notna().any():
        sets.append((CORRECT, rows[rows["correct"].eq(True)]))
    return sets


def check_reference(reference: str | None, methods: Sequence[str]) -> None:
    """Raises EvaluationError for a reference that is none of the methods, with near ones."""
    if reference is not None and reference not in methods:
        hint = suggest(reference, methods, end="")
        raise EvaluationError(f"the reference {reference!r} was not measured{hint} (measured: {', '.join(methods)}).")


def _wilcoxon(differences: Any) -> float:
    if not numpy.any(differences):
        return 1.0  # nothing differs
    test: Any = stats.wilcoxon(differences, zero_method="wilcox", correction=False, method="auto")
    return float(test.pvalue)
