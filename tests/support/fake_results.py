"""Results of every kind but attributions with plausible made-up numbers, so that views need no model."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

import torch
from fake_attribution import GERMAN_TOKENS, fake_attribution

from lens_scopes.engine.final_state import PredictedToken
from lens_scopes.results.cells import CellPatches, PatchedCell
from lens_scopes.results.heads import AblationEffect, HeadInspection
from lens_scopes.results.influence import TotalInfluence
from lens_scopes.results.matrix import AttributionMatrix
from lens_scopes.results.modes import FisherMode, ModeInspection, ProbabilityChange, TokenReplacement


def fake_heads(
    tokens: Sequence[str] = GERMAN_TOKENS,
    n_layers: int = 18,
    n_heads: int = 4,
    patterns: int = 6,
    mlps: bool = True,
    **fields: Any,
) -> HeadInspection:
    """Random changes of which L13H1 is the strongest, carries from token 9, and is an induction head."""
    base = fake_attribution(tokens)
    n = len(tokens)
    generator = torch.Generator().manual_seed(1)
    last = min(13, n_layers - 1), min(1, n_heads - 1)
    effect = 0.3 * torch.randn(n_layers, n_heads, generator=generator, dtype=torch.float64)
    effect[last] = -2.5
    by_source = 0.05 * torch.randn(n_layers, n_heads, n, generator=generator, dtype=torch.float64)
    by_source[..., 0] *= 40
    by_source[(*last, min(9, n - 1))] = -2.0
    mlp_effect = 3 * torch.randn(n_layers if mlps else 0, generator=generator, dtype=torch.float64)
    order = effect.abs().flatten().argsort(descending=True)[:patterns].tolist()
    names = [f"L{index // n_heads}H{index % n_heads}" for index in order]
    later = torch.ones(n, n).triu(1).bool()
    scores = {name: 3 * torch.randn(n, n, generator=generator) for name in names}
    drawn = {name: score.masked_fill(later, -torch.inf).softmax(-1) for name, score in scores.items()}
    edges = {name: pattern * torch.randn(n, n, generator=generator) for name, pattern in drawn.items()}
    types = {name: torch.zeros(n_layers, n_heads) for name in ("previous_token_head", "induction_head")}
    types["induction_head"][last] = 0.72
    ablations = [
        AblationEffect(layer, head, float(effect[layer, head]), 0.8 * float(effect[layer, head]) + 0.01)
        for layer in range(n_layers)
        for head in range(n_heads)
    ]
    ablations += [
        AblationEffect(layer, None, float(value), 1.1 * float(value)) for layer, value in enumerate(mlp_effect)
    ]
    values: dict[str, Any] = {
        "effect": effect,
        "mlp_effect": mlp_effect,
        "by_source": by_source,
        "norms": by_source.abs(),
        "direct_effect": 0.5 * effect,
        "patterns": drawn,
        "pattern_gradients": edges,
        "head_types": types,
        "ablations": sorted(ablations, key=lambda item: -abs(item.predicted)),
        "spearman": 0.91,
        "baseline": "mean",
        "tokens": list(tokens),
        "token_ids": base.token_ids,
        "special": base.special,
        "position": base.position,
        "target": base.target,
        "prediction": base.prediction,
        "scope": "semantic",
        "objective": "Semantic(' sofa')",
        "spec": base.spec,
        "contract": base.contract | {"held fixed": "all other components except as they respond"},
        "model": base.model,
        "settings": {"baseline": "mean", "verified": len(ablations)},
        "versions": base.versions,
    }
    return HeadInspection(**(values | fields))


def fake_cells(
    tokens: Sequence[str] = GERMAN_TOKENS, n_layers: int = 18, patched: int = 12, **fields: Any
) -> CellPatches:
    """Random changes against a prompt that has another token at index 9, whose cell at L13 is the strongest."""
    base = fake_attribution(tokens)
    n = len(tokens)
    generator = torch.Generator().manual_seed(3)
    effect = 0.3 * torch.randn(n_layers, n, generator=generator, dtype=torch.float64)
    effect[min(13, n_layers - 1), min(9, n - 1)] = -2.5
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(n_layers)]
    others: list[str] = [" Stuhl" if index == 9 else token for index, token in enumerate(tokens)]
    order = effect.abs().flatten().argsort(descending=True)[:patched].tolist()
    places = [(index // n, index % n, float(effect.flatten()[index])) for index in order]
    values: dict[str, Any] = {
        "effect": effect,
        "layer_names": names,
        "baseline_tokens": others,
        "cells": [
            PatchedCell(layer, names[layer], at, str(tokens[at]), others[at], change, 0.8 * change + 0.01)
            for layer, at, change in places
        ],
        "spearman": 0.91,
        "tokens": list(tokens),
        "token_ids": base.token_ids,
        "special": base.special,
        "text": base.text,
        "position": base.position,
        "target": base.target,
        "prediction": base.prediction,
        "scope": "semantic",
        "objective": "Semantic(' sofa')",
        "spec": base.spec,
        "contract": base.contract | {"held fixed": "the same layer's other positions"},
        "model": base.model,
        "settings": {"readout": {"name": "dot", "baseline": "other"}, "verified": patched, "divergence": False},
        "versions": base.versions,
    }
    return CellPatches(**(values | fields))


def fake_matrix(tokens: Sequence[str] = GERMAN_TOKENS, generated: int = 0, **fields: Any) -> AttributionMatrix:
    """Random scores, of which every prediction's last token has the largest; BOS is far above all."""
    base = fake_attribution(tokens)
    n = len(tokens)
    generator = torch.Generator().manual_seed(2)
    destinations = list(range(n - generated - 1, n - 1)) if generated else list(range(n))
    full = torch.tril(torch.rand(n, n, generator=generator, dtype=torch.float64)) + 2 * torch.eye(n)
    full[:, 0] *= 100
    following = [*tokens[1:], " sofa"]
    top = base.prediction.top[0]
    values: dict[str, Any] = {
        "matrix": full[destinations],
        "destinations": destinations,
        "targets": [PredictedToken(50 + dest, following[dest], 0.25) for dest in destinations],
        "predicted": [top for _ in destinations],
        "tokens": list(tokens),
        "token_ids": base.token_ids,
        "special": base.special,
        "text": base.text,
        "position": destinations[-1],
        "prediction": base.prediction,
        "answer": generated,
        "generated": generated,
        "spans": {"German": (1, min(11, n)), "English": (min(11, n - 1), n)} if n > 11 else {},
        "scope": "semantic",
        "objective": "Semantic",
        "spec": base.spec,
        "contract": base.contract,
        "model": base.model,
        "settings": {"readout": "norm"},
        "versions": base.versions,
    }
    return AttributionMatrix(**(values | fields))


SENTENCES = ("Ann is in Rome.", " Joe is in Bonn.", " Ann waits.", " Joe sings.", " So Rome waits.")


def fake_story(sentences: Sequence[str] = SENTENCES, given: int = 2, **fields: Any) -> AttributionMatrix:
    """Random scores on a text of words, of which all sentences but the first `given` are generated."""
    text = "".join(sentences)
    words = re.findall(r"\s?[^\s.]+|\.", text)
    offsets = [(0, 0), *itertools.pairwise(itertools.accumulate(map(len, words), initial=0))]
    generated = len(re.findall(r"\s?[^\s.]+|\.", "".join(sentences[given:])))
    named = {"text": text, "offsets": offsets, "spans": {}, "objective": "Semantic"}
    return fake_matrix(["<bos>", *words], generated, **(named | fields))


def fake_influence(tokens: Sequence[str] = GERMAN_TOKENS, **fields: Any) -> TotalInfluence:
    """The influence on the last third of a text without sentences, of all tokens before it."""
    return fake_matrix(tokens, max(1, len(tokens) // 3), spans={}, **fields).total_influence()


def fake_modes(tokens: Sequence[str] = GERMAN_TOKENS, vocabulary: Sequence[str] = (), **fields: Any) -> ModeInspection:
    """Two modes, ' sofa' against ' couch' and ' bed'; replacing token 9 takes mass from ' sofa'."""
    base = fake_attribution(tokens)
    words = list(vocabulary) or [" sofa", " couch", " bed", " floor", " chair", " rug"]
    ids = range(1000, 1000 + len(words))
    shares = [0.4, -0.36, -0.03, -0.008, 0.005, -0.001, *([0.0002] * len(words))]
    sides = [ProbabilityChange(i, word, share) for i, word, share in zip(ids, words, shares, strict=False)]
    rising = sorted((s for s in sides if s.change > 0), key=lambda s: -s.change)
    falling = sorted((s for s in sides if s.change < 0), key=lambda s: s.change)
    other = [ProbabilityChange(s.token_id, s.token, -0.5 * s.change) for s in sides]
    replacements = []
    for index, token in enumerate(tokens):
        strength = 1.0 if index == 9 else 0.01 * (index % 5)
        moved = [ProbabilityChange(s.token_id, s.token, -strength * s.change) for s in sides]
        replacements.append(
            TokenReplacement(
                index=index,
                token=token,
                amounts=[-2.0 * strength, 0.5 * strength],
                predicted=[ProbabilityChange(s.token_id, s.token, 0.5 * s.change) for s in moved[:3]],
                actual=moved,
                agreement=0.95,
                predicted_nats=0.2 * strength,
                actual_nats=0.5 * strength,
            )
        )
    values: dict[str, Any] = {
        "modes": [
            FisherMode(0.0756, rising, falling),
            FisherMode(0.0217, [s for s in other if s.change > 0], [s for s in other if s.change < 0]),
        ],
        "replacements": replacements,
        "baseline": "mean",
        "tokens": list(tokens),
        "token_ids": base.token_ids,
        "special": base.special,
        "position": base.position,
        "prediction": base.prediction,
        "scope": "fisher",
        "objective": "Fisher(rank=2)",
        "spec": base.spec,
        "contract": base.contract,
        "model": base.model,
        "settings": {"rank": 2, "baseline": "mean", "path": None},
        "versions": base.versions,
    }
    return ModeInspection(**(values | fields))
