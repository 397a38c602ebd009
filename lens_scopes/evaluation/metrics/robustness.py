"""Metrics of the scores alone: stability under noise, redrawn blocks, and the rank of the first token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lens_scopes.engine.model import ScopedModel
from lens_scopes.engine.sites import EMBEDDING
from lens_scopes.evaluation.methods.randomized_blocks import STAGES, RandomizedBlocks
from lens_scopes.evaluation.metrics.agreement import correlation
from lens_scopes.evaluation.metrics.scored_prompt import MetricValue, ScoredPrompt
from lens_scopes.evaluation.metrics.table import Metric
from lens_scopes.prompts.read import read_prompt

_NOISE_SCALE, _NOISE_DRAWS = 0.05, 4


def first_token(scored: ScoredPrompt, metric: Metric) -> list[MetricValue]:
    """The share of the other tokens with a lower score than the first; equal ones count half."""
    scores = scored.magnitudes
    below = float((scores < scores[0]).sum() + 0.5 * ((scores == scores[0]).sum() - 1))
    return [MetricValue(metric.name, below / max(1, len(scores) - 1))]


def stability(scored: ScoredPrompt, metric: Metric) -> list[MetricValue]:
    """Mean Spearman of the scores with those under noise of 0.05 (of their root mean square) on every embedding."""
    generator = torch.Generator().manual_seed(scored.seed)
    agreements = []
    n_pos = len(scored.prompt)
    read = n_pos if isinstance(scored.target, int) else n_pos + len(scored.target) - 1  # with the answer, which stays
    for _ in range(_NOISE_DRAWS):
        noise = torch.randn(n_pos, scored.model.cfg.d_model, generator=generator, dtype=torch.float64)

        def add_noise(embedding: Tensor, noise: Tensor = noise) -> Tensor:
            if embedding.shape[1] not in (n_pos, read):  # another forward pass, such as that of a baseline token
                return embedding
            own, answer = embedding.tensor_split([n_pos], dim=1)
            sigma = _NOISE_SCALE * own.detach().double().square().mean().sqrt()
            return torch.cat([own + (noise.to(own.device) * sigma).to(own.dtype), answer], dim=1)

        with ScopedModel.of(scored.model).hooked([(EMBEDDING, add_noise)]):
            noisy = scored.method.score(scored.model, scored.prompt, scored.target, scored.randomized).scores
        agreements.append(correlation(scored.magnitudes, noisy[scored.eligible].double().abs()))
    note = next((note for _, note in agreements if note is not None), None)
    return [MetricValue(metric.name, float(np.mean([value for value, _ in agreements])), note=note)]


def _after_randomizing(
    scored: ScoredPrompt, counts: Sequence[int], blocks: RandomizedBlocks
) -> list[tuple[float, str | None]]:
    """Spearman's ρ with the scores of the model whose final blocks are redrawn, for each number of blocks."""
    if scored.protocol.redrawn_passages == "correct" and not scored.correct:
        return [(float("nan"), "predicted wrongly: the protocol redraws on correct predictions alone")] * len(counts)
    prompt, scores = scored.prompt, scored.magnitudes
    token_ids = scored.protocol.redrawn_prompt_tokens(scored.model, prompt.token_ids)
    if token_ids != prompt.token_ids:
        prompt = read_prompt(scored.model, token_ids)
        scores = scored.rankable_scores(scored.method.score(scored.model, prompt, scored.target, blocks), prompt).abs()
    agreements = []
    for count in counts:
        with blocks.final(count):
            other = scored.method.score(scored.model, prompt, scored.target, blocks)
        agreements.append(correlation(scores, scored.rankable_scores(other, prompt).abs()))
    return agreements


def randomization(scored: ScoredPrompt, metric: Metric) -> list[MetricValue]:
    """Spearman of the scores with those of the model with its final blocks redrawn (arXiv:1810.03292)."""
    blocks = scored.randomized if metric.redraw is None else scored.randomized.by(metric.redraw)
    values = _after_randomizing(scored, [blocks.blocks_of(stage) for stage in STAGES], blocks)
    return [
        MetricValue(f"{metric.name}-{stage}", value, note=note)
        for stage, (value, note) in zip(STAGES, values, strict=True)
    ]


def randomization_by_layer(scored: ScoredPrompt, metric: Metric) -> list[MetricValue]:
    """The same for every number of final blocks."""
    n_layers = scored.model.cfg.n_layers
    counts = range(1, n_layers + 1)
    return [
        MetricValue(metric.name, value, fraction=count / n_layers, note=note)
        for count, (value, note) in zip(counts, _after_randomizing(scored, counts, scored.randomized), strict=True)
    ]
