"""Metrics of what ablating many tokens does: AOPC, comprehensiveness, sufficiency, curves, infidelity."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_scopes.engine.token_ablation import Outcomes
from lens_scopes.evaluation.metrics.ablation_cache import AblationCache, count_of, ranking
from lens_scopes.evaluation.metrics.scored_prompt import MetricValue, ScoredPrompt

AOPC_FRACTIONS = (0.05, 0.10, 0.20)
ERASER_FRACTIONS = (0.01, 0.05, 0.10, 0.20, 0.50)
CURVE_FRACTIONS = (0.0, 0.05, 0.10, 0.20, 0.35, 0.50, 0.75, 1.0)


def integral(fractions: Sequence[float], values: Sequence[float]) -> float:
    """The trapezoidal integral of values over fractions, not divided by their range (arXiv:2601.16407)."""
    return float(np.trapezoid(np.asarray(values, dtype=float), np.asarray(fractions, dtype=float)))


def _top(
    scored: ScoredPrompt, scores: Float[Tensor, " n"], fractions: Sequence[float], keep: bool = False
) -> Bool[Tensor, "row pos"]:
    """Masks of the top fractions, or of all but them."""
    order = ranking(scores)
    sets = []
    for fraction in fractions:
        k = scored.protocol.count(fraction, len(order))
        chosen = order[k:] if keep else order[:k]
        sets.append([index for index in chosen if index < len(scored.eligible)])  # beyond them is the target
    return scored.cache.masks(sets)


def top_masks(fractions: Sequence[float], keep: bool = False) -> Callable[[ScoredPrompt], Bool[Tensor, "row pos"]]:
    """The masks of a metric of top fractions, by value and by magnitude."""

    def sets(scored: ScoredPrompt) -> Bool[Tensor, "row pos"]:
        by_value, by_magnitude = (
            _top(scored, scores, fractions, keep) for scores in (scored.values, scored.magnitudes)
        )
        return torch.cat([by_value, by_magnitude]) if bool((scored.values < 0).any()) else by_value

    return sets


def _without_top(
    scored: ScoredPrompt, scores: Float[Tensor, " n"], fractions: Sequence[float], keep: bool = False
) -> Outcomes:
    """Outcomes of ablating the top fractions, or of ablating all but them."""
    return scored.cache.outcomes(_top(scored, scores, fractions, keep))


def aopc(scored: ScoredPrompt) -> list[MetricValue]:
    after = _without_top(scored, scored.values, AOPC_FRACTIONS)
    changes = after.log_probability - scored.cache.clean_log_probability
    return [MetricValue("aopc", integral(AOPC_FRACTIONS, changes.tolist()))]


def aopc_kl(scored: ScoredPrompt) -> list[MetricValue]:
    after = _without_top(scored, scored.magnitudes, AOPC_FRACTIONS)
    return [MetricValue("aopc-kl", integral(AOPC_FRACTIONS, after.divergence.tolist()))]


def _greedy_limit(cache: AblationCache, sign: int) -> float:
    """The AOPC of the order that at each step ablates the token after which sign·log p(target) is largest."""
    count = len(cache.eligible)
    depths = [count_of(fraction, count) for fraction in AOPC_FRACTIONS]
    chosen: list[int] = []
    changes: dict[int, float] = {}
    while len(chosen) < depths[-1]:
        candidates = [index for index in range(count) if index not in chosen]
        after = cache.outcomes(cache.masks([[*chosen, candidate] for candidate in candidates])).log_probability
        best = int((sign * after).argmax())
        chosen.append(candidates[best])
        changes[len(chosen)] = float(after[best]) - cache.clean_log_probability
    return integral(AOPC_FRACTIONS, [changes[depth] for depth in depths])


def aopc_normalised(scored: ScoredPrompt) -> list[MetricValue]:
    lowest, highest = _greedy_limit(scored.cache, -1), _greedy_limit(scored.cache, 1)
    own = aopc(scored)[0].value
    if highest == lowest:
        return [MetricValue("aopc-normalised", float("nan"), note="no order of the tokens changes the AOPC")]
    return [MetricValue("aopc-normalised", (highest - own) / (highest - lowest))]


def eraser(name: str, keep: bool) -> Callable[[ScoredPrompt], list[MetricValue]]:
    def measure(scored: ScoredPrompt) -> list[MetricValue]:
        after = _without_top(scored, scored.values, ERASER_FRACTIONS, keep)
        before = math.exp(scored.cache.clean_log_probability)
        return [MetricValue(name, float((before - after.probability).mean()))]

    return measure


def eraser_kl(name: str, keep: bool) -> Callable[[ScoredPrompt], list[MetricValue]]:
    def measure(scored: ScoredPrompt) -> list[MetricValue]:
        after = _without_top(scored, scored.magnitudes, ERASER_FRACTIONS, keep)
        return [MetricValue(f"{name}-kl", float(after.divergence.mean()))]

    return measure


def curves(name: str, keep: bool) -> Callable[[ScoredPrompt], list[MetricValue]]:
    def measure(scored: ScoredPrompt) -> list[MetricValue]:
        by_value = _without_top(scored, scored.values, CURVE_FRACTIONS, keep)
        by_magnitude = _without_top(scored, scored.magnitudes, CURVE_FRACTIONS, keep)
        changes = by_value.log_probability - scored.cache.clean_log_probability
        return [
            *(
                MetricValue(f"{name}-logprob", float(change), fraction)
                for fraction, change in zip(CURVE_FRACTIONS, changes, strict=True)
            ),
            *(
                MetricValue(f"{name}-kl", float(divergence), fraction)
                for fraction, divergence in zip(CURVE_FRACTIONS, by_magnitude.divergence, strict=True)
            ),
        ]

    return measure


def infidelity(scored: ScoredPrompt) -> list[MetricValue]:
    masks, after = scored.cache.random_sets
    falls = scored.cache.clean_log_probability - after.log_probability
    sums = masks[:, scored.eligible].double() @ scored.values
    if float(falls.square().sum()) == 0:
        return [MetricValue("infidelity", float("nan"), note="ablating random tokens changes nothing")]
    scale = float(sums @ falls / sums.square().sum().clamp_min(1e-300))
    return [MetricValue("infidelity", float((scale * sums - falls).square().sum() / falls.square().sum()))]
