"""Metrics of the agreement with leaving single tokens out, and the correlations that others use too."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from lens_scopes.evaluation.metrics.ablation_cache import ranking
from lens_scopes.evaluation.metrics.scored_prompt import MetricValue, ScoredPrompt
from lens_scopes.evaluation.metrics.table import TOP_TOKENS, Metric
from lens_scopes.evaluation.protocol import OWN

_ALL_EQUAL = "all tokens have the same score or the same effect"


def correlation(
    first: Float[Tensor, " n"], second: Float[Tensor, " n"], kind: str = "spearman"
) -> tuple[float, str | None]:
    """Spearman's ρ or Kendall's τ-b; NaN with the reason where one side is constant or there are under 3 tokens."""
    if len(first) < 3:
        return float("nan"), "fewer than 3 tokens to rank"
    if _constant(first) or _constant(second):
        return float("nan"), _ALL_EQUAL
    compute = stats.spearmanr if kind == "spearman" else stats.kendalltau
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result: Any = compute(first.numpy(), second.numpy())
    return float(result.statistic), None


def partial_correlation(
    first: Float[Tensor, " n"], second: Float[Tensor, " n"], given: Float[Tensor, " n"]
) -> tuple[float, str | None]:
    """Spearman's ρ of two sides with a third held fixed: (ρ₁₂ − ρ₁₃ρ₂₃)/√((1 − ρ₁₃²)(1 − ρ₂₃²)).

    NaN with the reason where a side is constant, follows the third alone, or has under 4 tokens.
    """
    if len(first) < 4:
        return float("nan"), "fewer than 4 tokens to rank"
    (both, note), (one, _), (other, _) = (
        correlation(*pair) for pair in ((first, second), (first, given), (second, given))
    )
    if note is not None:
        return float("nan"), note
    free = (1 - one**2) * (1 - other**2)
    if free < 1e-12:
        return float("nan"), "the ranking is that of the positions"
    return (both - one * other) / math.sqrt(free), None


def top_overlap(
    first: Float[Tensor, " n"], second: Float[Tensor, " n"], k: int | None = None
) -> tuple[float, str | None]:
    """Jaccard index of the two sides' k highest tokens (a tenth of them unless given), 0 to 1; NaN with the reason
    where one side is constant."""
    if _constant(first) or _constant(second):
        return float("nan"), _ALL_EQUAL
    k = OWN.overlap_count(len(first)) if k is None else k
    top, other = set(ranking(first)[:k]), set(ranking(second)[:k])
    return len(top & other) / len(top | other), None


def top_hit(scores: Float[Tensor, " n"], effects: Float[Tensor, " n"], k: int = TOP_TOKENS) -> tuple[float, str | None]:
    """1 where the token of the largest effect is among the k of largest score, else 0; NaN with the reason where one
    side is constant, or there are no more than k tokens."""
    if len(scores) <= k:
        return float("nan"), f"no more than {k} tokens to choose from"
    if _constant(scores) or _constant(effects):
        return float("nan"), _ALL_EQUAL
    return float(int(effects.argmax()) in ranking(scores)[:k]), None


def _constant(values: Float[Tensor, " n"]) -> bool:
    return bool((values == values[0]).all())


def leave_one_out_agreement(scored: ScoredPrompt, metric: Metric) -> list[MetricValue]:
    """Agreement with KL(p ‖ p without token t): Spearman, Kendall τ-b, Jaccard of the top 10%, partial Spearman given
    the token's position, which closeness to the end cannot earn, and whether the token of the largest KL is among the
    five of largest score."""
    effects, scores = scored.effects, scored.magnitudes
    positions = torch.arange(len(scores), dtype=scores.dtype)
    values = (
        correlation(scores, effects),
        correlation(scores, effects, "kendall"),
        top_overlap(scores, effects, scored.protocol.overlap_count(len(scores))),
        partial_correlation(scores, effects, positions),
        top_hit(scores, effects),
    )
    return [
        MetricValue(quantity.name, value, note=note)
        for quantity, (value, note) in zip(metric.quantities, values, strict=True)
    ]


def shuffled_agreement(scored: ScoredPrompt, metric: Metric) -> list[MetricValue]:
    """The Spearman of shuffled scores: what chance gives."""
    generator = torch.Generator().manual_seed(scored.seed)
    order = torch.randperm(len(scored.magnitudes), generator=generator)
    value, note = correlation(scored.magnitudes[order], scored.effects)
    return [MetricValue(metric.name, value, note=note)]
