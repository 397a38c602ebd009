"""A result folder with numbers made up from a seed: methods of known order, curves, and passages left out."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

METHODS = {"fisher": 0.6, "fisher@8+dot-mean": 0.75, "random": 0.0, "<b>x_y & 50%</b>": 0.4}
ABLATIONS = ("zero", "mean")
FRACTIONS = (0.0, 0.1, 0.5, 1.0)
STAGES = {"final-quarter": 1.0, "all-blocks": 0.3}
FAILED, TOO_LONG = 3, 5


def fake_evaluation(
    folder: Path, passages: int = 24, *, target: str = "last", commits: tuple[str, ...] = ("abc",)
) -> Path:
    """Writes the folder; passages 3 and 5 are left out, the one with a hostile reason."""
    folder.mkdir()
    manifest = {
        "format": "lens_scopes.evaluation",
        "format_version": 1,
        "passages": {"name": "a_<i>.json", "sha256": "0" * 64, "count": 100, "target": target, "truncate": False},
        "laboratory": {"ablations": list(ABLATIONS), "seed": 0, "draws": 4, "explained": "the model's own top token"},
        "model": {"name": "tiny", "backend": "hooked", "dtype": "float32"},
        "versions": {"lens_scopes": "0.1.0", "torch": "2"},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    lines: list[dict] = [{"session": {"device": "cpu", "commit": commit}} for commit in commits]
    lines += [_passage(index, target) for index in range(passages)]
    (folder / "results-000.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def _passage(index: int, target: str) -> dict:
    if index == FAILED:
        return {"passage": index, "status": "failed", "reason": "<img src=x onerror=window.executed=1>", "seconds": 0.1}
    if index == TOO_LONG:
        return {"passage": index, "status": "too long", "reason": "99 tokens do not fit", "seconds": 0.1}
    draw = random.Random(index)
    ease = draw.gauss(0, 0.2)
    rows: list[list] = []
    for method, quality in METHODS.items():
        for ablation in ABLATIONS:
            rows.append([method, "aopc", ablation, ease - quality + draw.gauss(0, 0.05), None, 2, 1, None])
            agreement = math.tanh(quality + draw.gauss(0, 0.1))
            rows.append([method, "loo-kl-spearman", ablation, agreement, None, 2, 1, None])
            rows.append([method, "loo-kl-null", ablation, draw.gauss(0, 0.1), None, 2, 1, None])
            for fraction in FRACTIONS:
                change = -3 * fraction ** (1 - 0.5 * quality) + draw.gauss(0, 0.1) * (fraction > 0)
                rows.append([method, "deletion-logprob", ablation, change, fraction, 2, 1, None])
        for stage, remains in STAGES.items():
            kept = remains * quality + draw.gauss(0, 0.05) + (method == "random")
            rows.append([method, f"randomization-{stage}", None, kept, None, 2, 1, None])
        undefined = method == "random"
        rows.append([method, "first-token", None, None if undefined else draw.random(), None, 2, 1, "constant"])
    facts = {"n_tokens": 20, "correct": draw.random() < 0.6 if target == "last" else None}
    return {"passage": index, "status": "measured", "seconds": 1.0, "facts": facts, "measurements": rows}
