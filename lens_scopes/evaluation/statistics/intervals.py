"""Bootstrap intervals of means, and the ceiling that noisy measures leave to a perfect predictor."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy
from scipy import stats

from lens_scopes.errors import EvaluationError

CONFIDENCE = 0.95
RESAMPLES = 9999

_BATCH_NUMBERS = 2_000_000  # resampled numbers held at a time
_ROUNDING = 1e-12  # differences smaller than this share of the values are no spread


def mean_intervals(samples: Sequence[Any], *, seed: int = 0) -> list[tuple[float, float]]:
    """The 95% bootstrap interval (bias-corrected and accelerated, 9,999 resamples) of the mean of each sample.

    Of a sample that is constant, but for rounding, both ends are its value; of fewer than two numbers they are NaN.
    """
    intervals = [(float("nan"), float("nan"))] * len(samples)
    by_length: dict[int, list[int]] = {}
    for index, sample in enumerate(samples):
        if len(sample) >= 2 and numpy.ptp(sample) <= _ROUNDING * numpy.abs(sample).max():
            intervals[index] = (float(sample[0]), float(sample[0]))
        elif len(sample) >= 2:
            by_length.setdefault(len(sample), []).append(index)
    for indices in by_length.values():
        stacked = numpy.stack([numpy.asarray(samples[index], dtype=float) for index in indices])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # two or three numbers: the ends are NaN
            interval = stats.bootstrap(
                (stacked,),
                numpy.mean,
                axis=-1,
                n_resamples=RESAMPLES,
                confidence_level=CONFIDENCE,
                method="BCa",
                batch=max(1, _BATCH_NUMBERS // stacked.size),
                rng=numpy.random.default_rng(seed),
            ).confidence_interval
        for index, low, high in zip(indices, interval.low, interval.high, strict=True):
            intervals[index] = (float(low), float(high))
    return intervals


def attenuation_ceiling(
    agreement: Sequence[float] | Any, *others: Sequence[float] | Any, seed: int = 0
) -> tuple[float, float, float]:
    """What a perfect predictor of the common part of noisy measures can reach with one of them: √reliability.

    Two measures of one thing that agree at r have the reliability r where they are equally good, and a predictor that
    knows the common part exactly correlates with either at √r, not r. With a third measure they need not be equally
    good: the reliability of the first is r₁₂ r₁₃ / r₂₃ (one common factor).

    Args:
        agreement: r₁₂, one correlation per passage.
        others: r₁₃ and r₂₃ of the same passages, or nothing.
        seed: of the bootstrap.

    Returns:
        The ceiling from the mean correlations, with its 95% percentile bootstrap interval over passages. It can exceed
        1 where the one common factor does not fit.

    Raises:
        EvaluationError: for another number of lists than one or three, or lists of different lengths.

    Source: Spearman, 1904 (correction for attenuation). For rank correlations it is an approximation.
    """
    if len(others) not in (0, 2) or len({len(item) for item in (agreement, *others)}) != 1:
        raise EvaluationError("a ceiling takes one list of correlations, or three of the same passages.")
    values = numpy.stack([numpy.asarray(item, dtype=float) for item in (agreement, *others)])
    rows = numpy.random.default_rng(seed).integers(0, values.shape[1], (RESAMPLES, values.shape[1]))

    def ceiling(means: Any) -> Any:
        reliability = means[0] if len(means) == 1 else means[0] * means[1] / means[2]
        return numpy.sqrt(numpy.clip(reliability, 0, None))

    low, high = numpy.quantile(ceiling(values[:, rows].mean(-1)), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(ceiling(values.mean(1))), float(low), float(high)
