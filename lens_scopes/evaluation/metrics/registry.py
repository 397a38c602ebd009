"""How an attribution is judged: by what ablating the tokens it ranks highest does to the prediction.

Special tokens are neither ablated nor ranked. k(f) = max(1, round(f·n)) of n tokens stand for a fraction f, unless the
evaluation follows another protocol (`evaluation/protocol.py`). Scores that have a sign are ranked by value where the
fall of log p(target) is measured, and by magnitude where the whole distribution is. Δ_f below is log p(target) without
the top fraction minus log p(target), in nats.

- aopc: ∫ Δ_f df by trapezoids over f = 0.05, 0.10, 0.20, not divided by their range: the integral of arXiv:2601.16407,
  which counts and explains other tokens; nats, lower is better. aopc-kl: the same of KL(p ‖ p without), target-free;
  higher is better.
- aopc-normalised: aopc between the limits that a greedy search finds for the passage (after arXiv:2408.08137); about
  0 to 1, higher is better.
- comprehensiveness: mean over f = 0.01, 0.05, 0.1, 0.2, 0.5 of p(target) − p(target without the top fraction); higher
  is better. sufficiency: the same with only the top fraction kept; lower is better (arXiv:1911.03429). Both also of KL.
- deletion, insertion: curves over f of log p(target) − log p(target) of the whole prompt, and of KL.
- loo-kl: agreement with KL(p ‖ p without token t): Spearman, Kendall τ-b, Jaccard of the top 10 %, and the partial
  Spearman given the token's position, which closeness to the end cannot earn; higher is better.
  loo-kl-null: the same Spearman for shuffled scores, what chance gives.
- first-token: percentile of the first token's score among all, 0 to 1.
- infidelity: min_β Σ_I (β Σ_{t∈I} s_t + Δ_I)² / Σ_I Δ_I² over 64 random sets I (after arXiv:1901.09392); 0 to 1, lower
  is better.
- stability: mean Spearman of the scores with those under noise of 0.05 on every embedding; higher is better.
- randomization: Spearman of the scores with those of the model with its final blocks redrawn (arXiv:1810.03292); lower
  is better. Also by layer. randomization-initializer: the same with blocks redrawn as arXiv:2601.16407 does it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from lens_scopes.errors import EvaluationError, suggest
from lens_scopes.evaluation.metrics.agreement import (
    leave_one_out_agreement,
    shuffled_agreement,
)
from lens_scopes.evaluation.metrics.perturbation import (
    AOPC_FRACTIONS,
    CURVE_FRACTIONS,
    ERASER_FRACTIONS,
    aopc,
    aopc_kl,
    aopc_normalised,
    curves,
    eraser,
    eraser_kl,
    infidelity,
    top_masks,
)
from lens_scopes.evaluation.metrics.robustness import (
    first_token,
    randomization,
    randomization_by_layer,
    stability,
)
from lens_scopes.evaluation.metrics.scored_prompt import MetricValue, ScoredPrompt


@dataclass(frozen=True)
class Metric:
    """A metric by name.

    Attributes:
        ablates: whether it depends on what tokens are replaced by.
        measure: the numbers of one scored.
        sets: the masks whose outcomes it will ask for, where they are known beforehand; those of all methods and
            metrics then run together.
    """

    name: str
    ablates: bool
    measure: Callable[[ScoredPrompt], list[MetricValue]]
    sets: Callable[[ScoredPrompt], Bool[Tensor, "row pos"]] | None = None


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("aopc", True, aopc, top_masks(AOPC_FRACTIONS)),
        Metric("aopc-kl", True, aopc_kl, top_masks(AOPC_FRACTIONS)),
        Metric("aopc-normalised", True, aopc_normalised),
        Metric("comprehensiveness", True, eraser("comprehensiveness", keep=False), top_masks(ERASER_FRACTIONS)),
        Metric("comprehensiveness-kl", True, eraser_kl("comprehensiveness", keep=False), top_masks(ERASER_FRACTIONS)),
        Metric("sufficiency", True, eraser("sufficiency", keep=True), top_masks(ERASER_FRACTIONS, keep=True)),
        Metric("sufficiency-kl", True, eraser_kl("sufficiency", keep=True), top_masks(ERASER_FRACTIONS, keep=True)),
        Metric("deletion", True, curves("deletion", keep=False), top_masks(CURVE_FRACTIONS)),
        Metric("insertion", True, curves("insertion", keep=True), top_masks(CURVE_FRACTIONS, keep=True)),
        Metric("loo-kl", True, leave_one_out_agreement),
        Metric("loo-kl-null", True, shuffled_agreement),
        Metric("first-token", False, first_token),
        Metric("infidelity", True, infidelity),
        Metric("stability", False, stability),
        Metric("randomization", False, randomization("randomization", lambda scored: scored.randomized)),
        Metric(
            "randomization-initializer",
            False,
            randomization("randomization-initializer", lambda scored: scored.randomized.by("initializer")),
        ),
        Metric("randomization-by-layer", False, randomization_by_layer),
    )
}


def metric_named(name: str) -> Metric:
    """The metric of that name.

    Raises:
        EvaluationError: for an unknown one, with near names.
    """
    if name not in METRICS:
        raise EvaluationError(f"unknown metric {name!r}{suggest(name, METRICS)} Known: {', '.join(METRICS)}.")
    return METRICS[name]
