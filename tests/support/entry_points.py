"""Every public function that runs a model, on one small prompt, as the numbers it gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import lens_scopes as ls
from lens_scopes.evaluation.metrics.table import METRICS

PROMPT = [0, 2, 3, 4, 5, 6, 7]
OTHER = [0, 2, 8, 4, 5, 6, 7]
SEGMENTS = ("agreement-segments", "segment")  # metrics of whole texts, which ids have none of


def _scores(*spec: Any, **options: Any) -> Callable[[Any], list[Tensor]]:
    def call(model: Any) -> list[Tensor]:
        result = ls.attribute(model, PROMPT, *spec, **options)
        return [result.scores, *([] if result.layers is None else [result.layers])]

    return call


def _batch(model: Any) -> list[Tensor]:
    return [result.scores for result in ls.attribute_batch(model, [PROMPT, PROMPT[:4]], ls.Fisher(2))]


def _heads(model: Any) -> list[Tensor]:
    heads = ls.inspect_heads(model, PROMPT, ls.Semantic(3), baseline="shuffle")
    return [
        heads.effect,
        heads.direct_effect,
        torch.tensor([item.actual for item in heads.ablations], dtype=torch.float64, device="cpu"),
    ]


def _heads_types(model: Any) -> list[Tensor]:
    return list(ls.inspect_heads(model, PROMPT, ls.LogProb(), verify=0).head_types.values())


def _flow(model: Any) -> list[Tensor]:
    flow = ls.information_flow(model, PROMPT, {"a": (1, 3), "b": (4, 6)}, rank=3, samples=4, generate=2)
    return [flow.bound(), flow.channel()]


def _patches(model: Any) -> list[Tensor]:
    attribution = ls.attribute(model, PROMPT, ls.Semantic(3), layers=True, readout=ls.Dot(OTHER))
    return [
        torch.tensor(
            [cell.actual for cell in ls.patch_cells(model, attribution, 3).cells], dtype=torch.float64, device="cpu"
        )
    ]


def _contrast(model: Any) -> list[Tensor]:
    result = ls.attribute(model, PROMPT, ls.LogProbDiff([5, 6], [7]), layers=True, readout=ls.Dot(OTHER))
    assert result.layers is not None
    return [result.scores, result.layers]


def _influence(model: Any) -> list[Tensor]:
    influence = ls.attribute_all(model, PROMPT, ls.Semantic(), generate=4).total_influence("generated")
    return [influence.scores, influence.direct, influence.through]


def _lens(model: Any) -> list[Tensor]:
    lens = ls.attribute(model, PROMPT, ls.Semantic(3), layers="resid_post", lens="logit").lens
    assert lens is not None
    return [lens.probabilities]


def _segments(model: Any) -> list[Tensor]:
    spans: Any = {"by": "token", "ablations": 8, "top": (1, 2)}
    scores = {"a": torch.arange(7, dtype=torch.float64, device="cpu")}
    rows = ls.segment_agreement(model, PROMPT, [5, 6], scores, **spans)
    return [torch.tensor(rows["value"].tolist(), dtype=torch.float64, device="cpu").nan_to_num(nan=-1.0)]


def _evaluation(model: Any) -> list[Tensor]:
    metrics = [name for name in METRICS if not any(part in name for part in SEGMENTS)]
    options: Any = {"methods": ["fisher", "random"], "metrics": metrics, "ablations": ["resample"], "draws": 1}
    rows = ls.evaluate(model, [PROMPT], **options)
    return [torch.tensor(rows["value"].tolist(), dtype=torch.float64, device="cpu").nan_to_num(nan=-1.0)]


ENTRY_POINTS: dict[str, Callable[[Any], list[Tensor]]] = {
    "semantic": _scores(ls.Semantic(3), layers=True),
    "logprob": _scores(ls.LogProb(3)),
    "logit-diff": _scores(ls.LogitDiff(3, 4)),
    "answer": _scores(ls.LogProb(), answer=[5, 6, 7]),
    "temperature": _scores(ls.Temperature(), layers="resid_post"),
    "entropy": _scores(ls.Entropy()),
    "fisher": _scores(ls.Fisher()),
    "fisher of rank 3": _scores(ls.Fisher(3), layers=True),
    "fisher trace": _scores(ls.Fisher("trace", samples=4, exact=2)),
    "values": _scores(ls.FisherAtValues()),
    "through": _scores(ls.Fisher(), through=ls.Frozen("norms")),
    "rules": _scores(ls.Fisher(), through=ls.Rules("gim", "relp")),
    "integrated gradients": _scores(ls.Semantic(3), readout="dot", points=ls.StraightPath("mean", 4)),
    "noise": _scores(ls.Fisher(), points=ls.Noise(4)),
    "leave one out": _scores(ls.LeaveOneOut("kl", ablation="mean")),
    "resampled": _scores(ls.LeaveOneOut("kl", ablation="resample")),
    "left out for good": _scores(ls.LeaveOneOut("logit", ablation="remove")),
    "faded attention": _scores(ls.FadedAttention(by="token")),
    "contrast of answers": _contrast,
    "answer of its own": _scores(ls.Fisher(2), answer=2, eligible="all"),
    "half precision": _scores(ls.Fisher(), matmul_dtype="bfloat16"),
    "lens": _lens,
    "influence": _influence,
    "segment agreement": _segments,
    "context-cite": _scores(ls.ContextCite(16, by="token")),
    "rollout": _scores(ls.AttentionRollout()),
    "value attention": _scores(ls.ValueWeightedAttention()),
    "random": _scores(ls.RandomScores(1)),
    "batch": _batch,
    "matrix": lambda model: [ls.attribute_all(model, PROMPT, ls.Fisher(2)).matrix],
    "heads": _heads,
    "head types": _heads_types,
    "modes": lambda model: [ls.inspect_modes(model, PROMPT, 3).values()],
    "flow": _flow,
    "patched cells": _patches,
    "evaluation": _evaluation,
}
