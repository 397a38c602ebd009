"""Metrics of the scores alone: stability under noise, redrawn blocks, and the rank of the first token."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from lens_scopes.engine.model import ScopedModel
from lens_scopes.engine.sites import EMBEDDING
from lens_scopes.evaluation.methods.randomized_blocks import STAGES, RandomizedBlocks
from lens_scopes.evaluation.metrics.agreement import correlation
from lens_scopes.evaluation.metrics.scored_prompt import MetricValue, ScoredPrompt
from lens_scopes.prompts.read import read_prompt

_NOISE_SCALE, _NOISE_DRAWS = 0.05, 4


def first_token(scored: ScoredPrompt) -> list[MetricValue]:
    own = scored.magnitudes
    below = float((own < own[0]).sum() + 0.5 * ((own == own[0]).sum() - 1))
    return [MetricValue("first-token", below / max(1, len(own) - 1))]


def stability(scored: ScoredPrompt) -> list[MetricValue]:
    generator = torch.Generator().manual_seed(scored.seed)
    found = []
    for _ in range(_NOISE_DRAWS):
        drawn = torch.randn(len(scored.prompt), scored.model.cfg.d_model, generator=generator, dtype=torch.float64)

        def add_noise(embedding: Tensor, drawn: Tensor = drawn) -> Tensor:
            if embedding.shape[1] != len(drawn):
                return embedding
            sigma = _NOISE_SCALE * embedding.detach().double().square().mean().sqrt()
            return embedding + (drawn.to(embedding.device) * sigma).to(embedding.dtype)

        with ScopedModel.of(scored.model).hooked([(EMBEDDING, add_noise)]):
            noisy = scored.method.score(scored.model, scored.prompt, scored.target, scored.randomized).scores
        found.append(correlation(scored.magnitudes, noisy[scored.eligible].double().abs()))
    note = next((note for _, note in found if note is not None), None)
    return [MetricValue("stability", float(np.mean([value for value, _ in found])), note=note)]


def _after_randomizing(
    scored: ScoredPrompt, counts: Sequence[int], blocks: RandomizedBlocks
) -> list[tuple[float, str | None]]:
    """Spearman's ρ with the scores of the model whose final blocks are redrawn, for each number of blocks."""
    if scored.protocol.redrawn_passages == "correct" and not scored.correct:
        return [(float("nan"), "predicted wrongly: the protocol redraws on correct predictions alone")] * len(counts)
    prompt, own = scored.prompt, scored.magnitudes
    token_ids = scored.protocol.redrawn_prompt_tokens(scored.model, prompt.token_ids)
    if token_ids != prompt.token_ids:
        prompt = read_prompt(scored.model, token_ids)
        own = scored.ranked(scored.method.score(scored.model, prompt, scored.target, blocks), prompt).abs()
    found = []
    for count in counts:
        with blocks.final(count):
            other = scored.method.score(scored.model, prompt, scored.target, blocks)
        found.append(correlation(own, scored.ranked(other, prompt).abs()))
    return found


def randomization(
    name: str, blocks_of: Callable[[ScoredPrompt], RandomizedBlocks]
) -> Callable[[ScoredPrompt], list[MetricValue]]:
    def measure(scored: ScoredPrompt) -> list[MetricValue]:
        blocks = blocks_of(scored)
        values = _after_randomizing(scored, [blocks.blocks_of(stage) for stage in STAGES], blocks)
        return [
            MetricValue(f"{name}-{stage}", value, note=note)
            for stage, (value, note) in zip(STAGES, values, strict=True)
        ]

    return measure


def randomization_by_layer(scored: ScoredPrompt) -> list[MetricValue]:
    n_layers = scored.model.cfg.n_layers
    counts = range(1, n_layers + 1)
    return [
        MetricValue("randomization-by-layer", value, fraction=count / n_layers, note=note)
        for count, (value, note) in zip(counts, _after_randomizing(scored, counts, scored.randomized), strict=True)
    ]
