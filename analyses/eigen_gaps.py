"""How near the leading eigenvalues of the Fisher information are, and what a near tie does to rank-1 scores.

python analyses/eigen_gaps.py PASSAGES.json --limit 120
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from records import RESULTS, save_record
from scipy.stats import spearmanr

import lens_scopes as ls
from lens_scopes.engine.final_state import FinalState, unembedding
from lens_scopes.engine.fisher import PredictiveGeometry
from lens_scopes.engine.forward import run_to_final_state
from lens_scopes.engine.sites import EMBEDDING

STEP = 1e-4  # noise on each embedding, relative to its norm
BINS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)
RANK = 4


def measure_passage(model: Any, text: str, generator: torch.Generator) -> dict[str, float]:
    """Eigenvalues of one prediction, and how rank-1 and trace scores change under noise on the embeddings."""
    prompt = text.rsplit(" ", 1)[0]
    before = ls.attribute(model, prompt, ls.Fisher())
    state = FinalState(run_to_final_state(model, [before.token_ids])[0], unembedding(model))
    geometry = PredictiveGeometry(state)
    one, several = geometry.leading(1), geometry.leading(RANK)

    def disturb(embedding: torch.Tensor, hook: Any) -> torch.Tensor:
        noise = torch.randn(embedding.shape, generator=generator).to(embedding)
        sizes = embedding.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
        return embedding + STEP * sizes * noise

    with model.hooks(fwd_hooks=[(EMBEDDING, disturb)]):
        after = ls.attribute(model, prompt, ls.Fisher())
    ordinary = [index for index, special in enumerate(before.special) if not special]
    a, b = before.scores[ordinary].double(), after.scores[ordinary].double()
    rho: Any = spearmanr(a, b)
    return {
        "tokens": len(before.tokens),
        "top_probability": before.prediction.top[0].probability,
        "ratio": float(several.eigenvalues[1] / several.eigenvalues[0]),
        "ratio_reported": one.gap,
        "share": one.share,
        "trace": geometry.trace() / one.total,
        "residual": one.residual,
        "least_of_four": float(several.eigenvalues[-1] / several.eigenvalues[0]),
        "residual_of_four": several.residual,
        "converged": one.converged and several.converged,
        "spearman": float(rho.statistic),
        "change": float((a - b).norm() / a.norm()),
    }


def findings_of(items: Sequence[dict[str, float]]) -> dict[str, Any]:
    """The histogram of λ2/λ1, and the least and median agreement of rank-1 scores in each of its bins."""
    columns = {name: np.array([item[name] for item in items], float) for name in items[0]}
    ratio = columns["ratio"]
    bins = []
    for low, high in zip(BINS, BINS[1:], strict=False):
        inside = (ratio >= low) & (ratio < high)
        row: dict[str, Any] = {"from": low, "to": high, "n": int(inside.sum())}
        if inside.any():
            row["spearman"] = [float(np.median(columns["spearman"][inside])), float(columns["spearman"][inside].min())]
            row["change"] = [float(np.median(columns["change"][inside])), float(columns["change"][inside].max())]
        bins.append(row)
    return {"bins": bins, "items": list(items)}


def main(
    passages: Annotated[Path, typer.Argument(help="LAMBADA passages: a JSON list of texts.")],
    limit: Annotated[int, typer.Option(help="The first N passages.")] = 120,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    results: Annotated[Path, typer.Option(help="Folder for the record.")] = RESULTS,
) -> None:
    """Measure on the embedded Gemma 3 270M and save the record as JSON."""
    model, started = ls.load_model(), time.perf_counter()
    generator = torch.Generator().manual_seed(seed)
    items = []
    for text in json.loads(passages.read_text(encoding="utf-8"))[:limit]:
        items.append(measure_passage(model, text, generator))
        typer.echo(f"{len(items)} {items[-1]}", err=True)
    settings = {"passages": len(items), "step": STEP, "seed": seed}
    findings = findings_of(items)
    path = save_record(results, "eigen_gaps", model, settings, findings, time.perf_counter() - started)
    typer.echo(str(path))
    for row in findings["bins"]:
        typer.echo(str(row))


if __name__ == "__main__":
    typer.run(main)
