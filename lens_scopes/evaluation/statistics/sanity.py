"""Verdicts: does a method notice that the model is gone, and does its agreement differ from chance?

Three checks, each over the passages of an evaluation, with 95% bootstrap intervals:

- model: the scores change when all blocks are redrawn, "passed" where the mean Spearman with the model's own scores has
  its whole interval between −0.5 and 0.5 (half of the ranking, the bound is a choice: arXiv:1810.03292 names none);
- cascade: the more blocks are redrawn, the less is left, "passed" where all blocks leave less than the final quarter
  does (paired Wilcoxon, one-sided, p < 0.01);
- chance: the agreement with leaving tokens out is above that of shuffled scores (paired Wilcoxon, one-sided, p < 0.01).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scipy import stats

from lens_scopes.evaluation.statistics.comparison import MIN_PAIRS
from lens_scopes.evaluation.statistics.intervals import mean_intervals

if TYPE_CHECKING:
    import pandas

_REMAINS = 0.5
_LEVEL = 0.01


@dataclass(frozen=True)
class Verdict:
    """One check of one method.

    Attributes:
        check: "model", "cascade" or "chance".
        method: its name.
        ablation: what tokens were replaced by; None where none were.
        passages: how many entered.
        value: the mean that was judged: what remains of the scores (model), or a mean difference (the others).
        low: lower end of its 95% bootstrap interval.
        high: upper end.
        p: of the one-sided test; None for a check that judges the interval.
        passed: None where there are fewer than 6 passages.
        sentence: the verdict in words.
    """

    check: str
    method: str
    ablation: str | None
    passages: int
    value: float
    low: float
    high: float
    p: float | None
    passed: bool | None
    sentence: str


def sanity_verdicts(rows: pandas.DataFrame) -> list[Verdict]:
    """Every check that the rows of an evaluation allow.

    Args:
        rows: as `load_results` gives them; "model" and "cascade" need the metric randomization, "chance" needs loo-kl
            and loo-kl-null.
    """
    verdicts = []
    for method in dict.fromkeys(rows["method"]):
        of_method = rows[rows["method"] == method]
        # The model check: nothing of the ranking may remain; and the more blocks are redrawn, the less.
        all_redrawn = _series(of_method, "randomization-all-blocks")
        if len(all_redrawn):
            verdicts.append(_model(method, all_redrawn))
            pairs = _pair(all_redrawn, _series(of_method, "randomization-final-quarter"))
            verdicts.append(
                _difference("cascade", method, None, -pairs, "all blocks leave {:.2f} less than the final quarter")
            )
        for ablation in dict.fromkeys(of_method["ablation"].dropna()):
            part = of_method[of_method["ablation"] == ablation]
            # The chance check: agreement with leave-one-out must exceed that of shuffled scores.
            null = _series(part, "loo-kl-null")
            if len(null):
                pairs = _pair(_series(part, "loo-kl-spearman"), null)
                verdicts.append(
                    _difference("chance", method, ablation, pairs, "agreement is {:.2f} above shuffled scores")
                )
    return verdicts


def _series(rows: pandas.DataFrame, metric: str) -> pandas.Series:
    return rows[rows["metric"] == metric].set_index("passage")["value"].dropna()


def _pair(first: pandas.Series, second: pandas.Series) -> pandas.Series:
    return (first - second).dropna()


def _model(method: str, remains: pandas.Series) -> Verdict:
    ((low, high),) = mean_intervals([remains.to_numpy()])
    passed = None if len(remains) < MIN_PAIRS else low > -_REMAINS and high < _REMAINS
    sentence = f"of the ranking {float(remains.mean()):.2f} remains (Spearman) with all blocks redrawn"
    return Verdict("model", method, None, len(remains), float(remains.mean()), low, high, None, passed, sentence)


def _difference(check: str, method: str, ablation: str | None, pairs: pandas.Series, sentence: str) -> Verdict:
    ((low, high),) = mean_intervals([pairs.to_numpy()])
    mean = float(pairs.mean())
    enough = len(pairs) >= MIN_PAIRS
    p = None
    if enough and bool((pairs != 0).any()):
        test: Any = stats.wilcoxon(pairs, alternative="greater")
        p = float(test.pvalue)
    passed = None if not enough else p is not None and p < _LEVEL
    return Verdict(check, method, ablation, len(pairs), mean, low, high, p, passed, sentence.format(mean))
