"""Metrics of what ablating many tokens does: AOPC, comprehensiveness, sufficiency, curves, infidelity."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_scopes.engine.token_ablation import Outcomes
from lens_scopes.evaluation.metrics.ablation_cache import AblationCache, count_of, ranking
from lens_scopes.evaluation.metrics.scored_prompt import MetricValue, ScoredPrompt
from lens_scopes.evaluation.metrics.table import AOPC_FRACTIONS, METRICS, Metric


def integral(fractions: Sequence[float], values: Sequence[float]) -> float:
    """The trapezoidal integral of values over fractions, not divided by their range (arXiv:2601.16407)."""
    return float(np.trapezoid(np.asarray(values, dtype=float), np.asarray(fractions, dtype=float)))


def _top(scored: ScoredPrompt, scores: Float[Tensor, " n"], metric: Metric) -> Bool[Tensor, "row pos"]:
    """Masks of the metric's top fractions, or of all but them."""
    order = ranking(scores)
    sets = []
    for fraction in metric.fractions:
        k = scored.protocol.count(fraction, len(order))
        places = order[k:] if metric.keep else order[:k]
        sets.append([index for index in places if index < len(scored.eligible)])  # beyond them is the target
    return scored.cache.masks(sets)


def top_masks(scored: ScoredPrompt, metric: Metric) -> Bool[Tensor, "row pos"]:
    """The masks of a metric of top fractions, by value and, where that differs, by magnitude."""
    by_value, by_magnitude = (_top(scored, scores, metric) for scores in (scored.values, scored.magnitudes))
    # Without negative scores both orders are one, and their masks too.
    return torch.cat([by_value, by_magnitude]) if bool((scored.values < 0).any()) else by_value


def _without_top(scored: ScoredPrompt, scores: Float[Tensor, " n"], metric: Metric) -> Outcomes:
    """Outcomes of ablating the metric's top fractions, or of ablating all but them."""
    return scored.cache.outcomes(_top(scored, scores, metric))


def aopc(scored: ScoredPrompt, metric: Metric) -> list[MetricValue]:
    """∫ Δ_f df by trapezoids over f = 0.05, 0.10, 0.20, not divided by their range.

    Δ_f is log p(target) without the top fraction f minus log p(target), in nats. The integral is that of
    arXiv:2601.16407, which counts and explains other tokens.
    """
    after = _without_top(scored, scored.values, metric)
    changes = after.log_probability - scored.cache.clean_log_probability
    return [MetricValue(metric.name, integral(metric.fractions, changes.tolist()))]


def aopc_kl(scored: ScoredPrompt, metric: Metric) -> list[MetricValue]:
    """The same of KL(p ‖ p without the top fraction), which needs no target."""
    after = _without_top(scored, scored.magnitudes, metric)
    return [MetricValue(metric.name, integral(metric.fractions, after.divergence.tolist()))]


def aopc_normalised(scored: ScoredPrompt, metric: Metric) -> list[MetricValue]:
    """AOPC between the limits that a greedy search finds for the passage (after arXiv:2408.08137)."""
    lowest, highest = _greedy_limit(scored.cache, -1), _greedy_limit(scored.cache, 1)
    if highest == lowest:
        return [MetricValue(metric.name, float("nan"), note="no order of the tokens changes the AOPC")]
    value = aopc(scored, METRICS["aopc"])[0].value
    return [MetricValue(metric.name, (highest - value) / (highest - lowest))]


def _greedy_limit(cache: AblationCache, sign: int) -> float:
    """The AOPC of the order that at each step ablates the token after which sign·log p(target) is largest."""
    count = len(cache.eligible)
    depths = [count_of(fraction, count) for fraction in AOPC_FRACTIONS]
    ablated: list[int] = []
    changes: dict[int, float] = {}
    while len(ablated) < depths[-1]:
        # All candidates of a step run as one batch.
        candidates = [index for index in range(count) if index not in ablated]
        after = cache.outcomes(cache.masks([[*ablated, candidate] for candidate in candidates])).log_probability
        best = int((sign * after).argmax())
        ablated.append(candidates[best])
        changes[len(ablated)] = float(after[best]) - cache.clean_log_probability
    return integral(AOPC_FRACTIONS, [changes[depth] for depth in depths])


def mean_probability_fall(scored: ScoredPrompt, metric: Metric) -> list[MetricValue]:
    """Comprehensiveness: mean over f of p(target) − p(target without the top fraction f). Sufficiency: the same with
    only the top fraction kept (arXiv:1911.03429)."""
    after = _without_top(scored, scored.values, metric)
    before = math.exp(scored.cache.clean_log_probability)
    return [MetricValue(metric.name, float((before - after.probability).mean()))]


def mean_divergence(scored: ScoredPrompt, metric: Metric) -> list[MetricValue]:
    """The same of KL(p ‖ p after the ablation)."""
    after = _without_top(scored, scored.magnitudes, metric)
    return [MetricValue(metric.name, float(after.divergence.mean()))]


def curves(scored: ScoredPrompt, metric: Metric) -> list[MetricValue]:
    """Over f: log p(target) after the ablation − log p(target), and KL(p ‖ p after the ablation)."""
    by_value = _without_top(scored, scored.values, metric)
    by_magnitude = _without_top(scored, scored.magnitudes, metric)
    changes = by_value.log_probability - scored.cache.clean_log_probability
    return [
        MetricValue(quantity.name, float(value), fraction)
        for quantity, values in zip(metric.quantities, (changes, by_magnitude.divergence), strict=True)
        for fraction, value in zip(metric.fractions, values, strict=True)
    ]


def infidelity(scored: ScoredPrompt, metric: Metric) -> list[MetricValue]:
    """min_β Σ_I (β Σ_{t∈I} s_t + Δ_I)² / Σ_I Δ_I² over 64 random sets I (after arXiv:1901.09392)."""
    masks, after = scored.cache.random_sets
    falls = scored.cache.clean_log_probability - after.log_probability
    sums = masks[:, scored.eligible].double() @ scored.values
    if float(falls.square().sum()) == 0:
        return [MetricValue(metric.name, float("nan"), note="ablating random tokens changes nothing")]
    scale = float(sums @ falls / sums.square().sum().clamp_min(1e-300))
    return [MetricValue(metric.name, float((scale * sums - falls).square().sum() / falls.square().sum()))]
