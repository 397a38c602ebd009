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

import difflib
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import stats
from torch import Tensor

from lens_scopes.engine.forward import hooked
from lens_scopes.engine.sites import EMBEDDING
from lens_scopes.engine.token_ablation import Outcomes
from lens_scopes.errors import EvaluationError
from lens_scopes.evaluation.methods import Method, Scored
from lens_scopes.evaluation.protocol import OWN, Protocol
from lens_scopes.evaluation.randomized import STAGES, RandomizedBlocks
from lens_scopes.evaluation.trial import Trial, count_of, ranking
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.prompts.read import read_prompt
from lens_scopes.scopes.comparisons import RandomScores

AOPC_FRACTIONS = (0.05, 0.10, 0.20)
ERASER_FRACTIONS = (0.01, 0.05, 0.10, 0.20, 0.50)
CURVE_FRACTIONS = (0.0, 0.05, 0.10, 0.20, 0.35, 0.50, 0.75, 1.0)
_NOISE_SCALE, _NOISE_DRAWS = 0.05, 4
_ALL_EQUAL = "all tokens have the same score or the same effect"


@dataclass(frozen=True)
class Case:
    """One method's scores of one passage, with what a metric may need to judge them.

    Attributes:
        target: the token that methods of one token explain.
        trial: the passage under the ablation in question; None for metrics that ablate nothing.
        protocol: the conventions of the evaluation.
        correct: whether the model predicts the true next token; None where that is not known.
    """

    model: Any
    prompt: Prompt
    target: int
    method: Method
    scored: Scored
    trial: Trial | None
    randomized: RandomizedBlocks
    seed: int
    protocol: Protocol = OWN
    correct: bool | None = None

    @property
    def eligible(self) -> list[int]:
        """The tokens that can be ablated: all but special ones."""
        return [index for index, special in enumerate(self.prompt.special) if not special]

    @property
    def values(self) -> Float[Tensor, " n"]:
        """The ranked tokens' scores with their sign."""
        return self.ranked(self.scored, self.prompt)

    @property
    def magnitudes(self) -> Float[Tensor, " n"]:
        """The ranked tokens' scores without their sign."""
        return self.values.abs()

    @property
    def effects(self) -> Float[Tensor, " n"]:
        """KL(p ‖ p without the token) of each ranked token."""
        return self.with_target(self.ablated.leave_one_out.divergence)

    def ranked(self, scored: Scored, prompt: Prompt) -> Float[Tensor, " n"]:
        """The scores of a prompt's tokens but special ones, and of the token after it where the protocol ranks it."""
        own = scored.scores[[index for index, special in enumerate(prompt.special) if not special]].double()
        chance = isinstance(self.method.explanation, RandomScores)
        return self.with_target(own, float(torch.rand((), generator=self._generator())) if chance else 0.0)

    def with_target(self, values: Float[Tensor, " n"], target: float = 0.0) -> Float[Tensor, " m"]:
        """The values, and that of the token after the prompt where the protocol ranks it."""
        return torch.cat([values, values.new_tensor([target])]) if self.protocol.target_ranked else values

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    @property
    def ablated(self) -> Trial:
        """The trial, for metrics that ablate."""
        assert self.trial is not None
        return self.trial


@dataclass(frozen=True)
class Value:
    """One number of a metric; a curve gives several, at their fractions."""

    name: str
    value: float
    fraction: float | None = None
    note: str | None = None


@dataclass(frozen=True)
class Metric:
    """A metric by name.

    Attributes:
        ablates: whether it depends on what tokens are replaced by.
        measure: the numbers of one case.
        sets: the masks whose outcomes it will ask for, where they are known beforehand; those of all methods and
            metrics then run together.
    """

    name: str
    ablates: bool
    measure: Callable[[Case], list[Value]]
    sets: Callable[[Case], Bool[Tensor, "row pos"]] | None = None


def integral(fractions: Sequence[float], values: Sequence[float]) -> float:
    """The trapezoidal integral of values over fractions, not divided by their range (arXiv:2601.16407)."""
    return float(np.trapezoid(np.asarray(values, dtype=float), np.asarray(fractions, dtype=float)))


def _top(
    case: Case, scores: Float[Tensor, " n"], fractions: Sequence[float], keep: bool = False
) -> Bool[Tensor, "row pos"]:
    """Masks of the top fractions, or of all but them."""
    order = ranking(scores)
    sets = []
    for fraction in fractions:
        k = case.protocol.count(fraction, len(order))
        chosen = order[k:] if keep else order[:k]
        sets.append([index for index in chosen if index < len(case.eligible)])  # beyond them is the target
    return case.ablated.masks(sets)


def _top_sets(fractions: Sequence[float], keep: bool = False) -> Callable[[Case], Bool[Tensor, "row pos"]]:
    """The masks of a metric of top fractions, by value and by magnitude."""

    def sets(case: Case) -> Bool[Tensor, "row pos"]:
        by_value, by_magnitude = (_top(case, scores, fractions, keep) for scores in (case.values, case.magnitudes))
        return torch.cat([by_value, by_magnitude]) if bool((case.values < 0).any()) else by_value

    return sets


def _without_top(case: Case, scores: Float[Tensor, " n"], fractions: Sequence[float], keep: bool = False) -> Outcomes:
    """Outcomes of ablating the top fractions, or of ablating all but them."""
    return case.ablated.outcomes(_top(case, scores, fractions, keep))


def _aopc(case: Case) -> list[Value]:
    after = _without_top(case, case.values, AOPC_FRACTIONS)
    changes = after.log_probability - case.ablated.clean_log_probability
    return [Value("aopc", integral(AOPC_FRACTIONS, changes.tolist()))]


def _aopc_kl(case: Case) -> list[Value]:
    after = _without_top(case, case.magnitudes, AOPC_FRACTIONS)
    return [Value("aopc-kl", integral(AOPC_FRACTIONS, after.divergence.tolist()))]


def _greedy_limit(trial: Trial, sign: int) -> float:
    """The AOPC of the order that at each step ablates the token after which sign·log p(target) is largest."""
    count = len(trial.eligible)
    depths = [count_of(fraction, count) for fraction in AOPC_FRACTIONS]
    chosen: list[int] = []
    changes: dict[int, float] = {}
    while len(chosen) < depths[-1]:
        candidates = [index for index in range(count) if index not in chosen]
        after = trial.outcomes(trial.masks([[*chosen, candidate] for candidate in candidates])).log_probability
        best = int((sign * after).argmax())
        chosen.append(candidates[best])
        changes[len(chosen)] = float(after[best]) - trial.clean_log_probability
    return integral(AOPC_FRACTIONS, [changes[depth] for depth in depths])


def _aopc_normalised(case: Case) -> list[Value]:
    lowest, highest = _greedy_limit(case.ablated, -1), _greedy_limit(case.ablated, 1)
    own = _aopc(case)[0].value
    if highest == lowest:
        return [Value("aopc-normalised", float("nan"), note="no order of the tokens changes the AOPC")]
    return [Value("aopc-normalised", (highest - own) / (highest - lowest))]


def _eraser(name: str, keep: bool) -> Callable[[Case], list[Value]]:
    def measure(case: Case) -> list[Value]:
        after = _without_top(case, case.values, ERASER_FRACTIONS, keep)
        before = math.exp(case.ablated.clean_log_probability)
        return [Value(name, float((before - after.probability).mean()))]

    return measure


def _eraser_kl(name: str, keep: bool) -> Callable[[Case], list[Value]]:
    def measure(case: Case) -> list[Value]:
        after = _without_top(case, case.magnitudes, ERASER_FRACTIONS, keep)
        return [Value(f"{name}-kl", float(after.divergence.mean()))]

    return measure


def _curves(name: str, keep: bool) -> Callable[[Case], list[Value]]:
    def measure(case: Case) -> list[Value]:
        by_value = _without_top(case, case.values, CURVE_FRACTIONS, keep)
        by_magnitude = _without_top(case, case.magnitudes, CURVE_FRACTIONS, keep)
        changes = by_value.log_probability - case.ablated.clean_log_probability
        return [
            *(
                Value(f"{name}-logprob", float(change), fraction)
                for fraction, change in zip(CURVE_FRACTIONS, changes, strict=True)
            ),
            *(
                Value(f"{name}-kl", float(divergence), fraction)
                for fraction, divergence in zip(CURVE_FRACTIONS, by_magnitude.divergence, strict=True)
            ),
        ]

    return measure


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
        found: Any = compute(first.numpy(), second.numpy())
    return float(found.statistic), None


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


def _constant(values: Float[Tensor, " n"]) -> bool:
    return bool((values == values[0]).all())


def _loo_kl(case: Case) -> list[Value]:
    truth, own = case.effects, case.magnitudes
    spearman, note = correlation(own, truth)
    kendall, _ = correlation(own, truth, "kendall")
    jaccard, unranked = top_overlap(own, truth, case.protocol.overlap_count(len(own)))
    partial, placed = partial_correlation(own, truth, torch.arange(len(own), dtype=own.dtype))
    return [
        Value("loo-kl-spearman", spearman, note=note),
        Value("loo-kl-kendall", kendall, note=note),
        Value("loo-kl-jaccard", jaccard, note=unranked),
        Value("loo-kl-partial", partial, note=placed),
    ]


def _loo_kl_null(case: Case) -> list[Value]:
    generator = torch.Generator().manual_seed(case.seed)
    order = torch.randperm(len(case.magnitudes), generator=generator)
    value, note = correlation(case.magnitudes[order], case.effects)
    return [Value("loo-kl-null", value, note=note)]


def _first_token(case: Case) -> list[Value]:
    own = case.magnitudes
    below = float((own < own[0]).sum() + 0.5 * ((own == own[0]).sum() - 1))
    return [Value("first-token", below / max(1, len(own) - 1))]


def _infidelity(case: Case) -> list[Value]:
    masks, after = case.ablated.random_sets
    falls = case.ablated.clean_log_probability - after.log_probability
    sums = masks[:, case.eligible].double() @ case.values
    if float(falls.square().sum()) == 0:
        return [Value("infidelity", float("nan"), note="ablating random tokens changes nothing")]
    scale = float(sums @ falls / sums.square().sum().clamp_min(1e-300))
    return [Value("infidelity", float((scale * sums - falls).square().sum() / falls.square().sum()))]


def _stability(case: Case) -> list[Value]:
    generator = torch.Generator().manual_seed(case.seed)
    found = []
    for _ in range(_NOISE_DRAWS):
        drawn = torch.randn(len(case.prompt), case.model.cfg.d_model, generator=generator, dtype=torch.float64)

        def add_noise(embedding: Tensor, drawn: Tensor = drawn) -> Tensor:
            if embedding.shape[1] != len(drawn):
                return embedding
            sigma = _NOISE_SCALE * embedding.detach().double().square().mean().sqrt()
            return embedding + (drawn.to(embedding.device) * sigma).to(embedding.dtype)

        with hooked(case.model, [(EMBEDDING, add_noise)]):
            noisy = case.method.score(case.model, case.prompt, case.target, case.randomized).scores
        found.append(correlation(case.magnitudes, noisy[case.eligible].double().abs()))
    note = next((note for _, note in found if note is not None), None)
    return [Value("stability", float(np.mean([value for value, _ in found])), note=note)]


def _after_randomizing(case: Case, counts: Sequence[int], blocks: RandomizedBlocks) -> list[tuple[float, str | None]]:
    """Spearman's ρ with the scores of the model whose final blocks are redrawn, for each number of blocks."""
    if case.protocol.redrawn_passages == "correct" and not case.correct:
        return [(float("nan"), "predicted wrongly: the protocol redraws on correct predictions alone")] * len(counts)
    prompt, own = case.prompt, case.magnitudes
    token_ids = case.protocol.redrawn_prompt_tokens(case.model, prompt.token_ids)
    if token_ids != prompt.token_ids:
        prompt = read_prompt(case.model, token_ids)
        own = case.ranked(case.method.score(case.model, prompt, case.target, blocks), prompt).abs()
    found = []
    for count in counts:
        with blocks.final(count):
            other = case.method.score(case.model, prompt, case.target, blocks)
        found.append(correlation(own, case.ranked(other, prompt).abs()))
    return found


def _randomization(name: str, blocks_of: Callable[[Case], RandomizedBlocks]) -> Callable[[Case], list[Value]]:
    def measure(case: Case) -> list[Value]:
        blocks = blocks_of(case)
        values = _after_randomizing(case, [blocks.blocks_of(stage) for stage in STAGES], blocks)
        return [Value(f"{name}-{stage}", value, note=note) for stage, (value, note) in zip(STAGES, values, strict=True)]

    return measure


def _randomization_by_layer(case: Case) -> list[Value]:
    n_layers = case.model.cfg.n_layers
    counts = range(1, n_layers + 1)
    return [
        Value("randomization-by-layer", value, fraction=count / n_layers, note=note)
        for count, (value, note) in zip(counts, _after_randomizing(case, counts, case.randomized), strict=True)
    ]


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("aopc", True, _aopc, _top_sets(AOPC_FRACTIONS)),
        Metric("aopc-kl", True, _aopc_kl, _top_sets(AOPC_FRACTIONS)),
        Metric("aopc-normalised", True, _aopc_normalised),
        Metric("comprehensiveness", True, _eraser("comprehensiveness", keep=False), _top_sets(ERASER_FRACTIONS)),
        Metric("comprehensiveness-kl", True, _eraser_kl("comprehensiveness", keep=False), _top_sets(ERASER_FRACTIONS)),
        Metric("sufficiency", True, _eraser("sufficiency", keep=True), _top_sets(ERASER_FRACTIONS, keep=True)),
        Metric("sufficiency-kl", True, _eraser_kl("sufficiency", keep=True), _top_sets(ERASER_FRACTIONS, keep=True)),
        Metric("deletion", True, _curves("deletion", keep=False), _top_sets(CURVE_FRACTIONS)),
        Metric("insertion", True, _curves("insertion", keep=True), _top_sets(CURVE_FRACTIONS, keep=True)),
        Metric("loo-kl", True, _loo_kl),
        Metric("loo-kl-null", True, _loo_kl_null),
        Metric("first-token", False, _first_token),
        Metric("infidelity", True, _infidelity),
        Metric("stability", False, _stability),
        Metric("randomization", False, _randomization("randomization", lambda case: case.randomized)),
        Metric(
            "randomization-initializer",
            False,
            _randomization("randomization-initializer", lambda case: case.randomized.by("initializer")),
        ),
        Metric("randomization-by-layer", False, _randomization_by_layer),
    )
}


def metric_named(name: str) -> Metric:
    """The metric of that name.

    Raises:
        EvaluationError: for an unknown one, with near names.
    """
    if name not in METRICS:
        near = difflib.get_close_matches(str(name), METRICS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise EvaluationError(f"unknown metric {name!r}{hint} Known: {', '.join(METRICS)}.")
    return METRICS[name]
