"""Which way of reading at the attention values agrees best with leaving tokens out? The search behind `BalancedValues`.

python analyses/values_search.py LAMBADA.json IWSLT.json                 measures what is missing, then sums it up
python analyses/values_search.py LAMBADA.json IWSLT.json --passages 5    only the first 5 passages of each

It sees passages 0 to 49 of each data set alone; `leaderboard.py`, which has the others, tests what was chosen here.
Measurements are kept under out/values_search/, and the same command goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any, TypeAlias

import torch
import typer
from faithfulness import cut
from leaderboard import Lines, Store, measure_truth, prompt_of
from leaderboard_methods import ABLATIONS, CHOSEN_ON, LAST_TOKENS
from records import RESULTS, ROOT, load_record, save_record
from torch import Tensor

import lens_scopes as ls
from lens_scopes.evaluation.metrics.agreement import correlation
from lens_scopes.evaluation.statistics.comparison import paired_test

Row: TypeAlias = Mapping[str, Tensor]
SITES = {"values": "hook_v", "keys": "hook_k", "residuals": "hook_resid_pre"}
VIEWS = {"steep": (1, None), "rank 8": (8, None), "even": (1, "half-av")}
"""What is read: the rank of Fisher Scope, and a rule on the backward pass."""

REFERENCE = "steep"


def roots(amplitudes: Tensor) -> Tensor:
    """(Σ_l √b_l)²: a total in which no one layer decides."""
    return amplitudes.sqrt().sum(0).square()


CANDIDATES: dict[str, Callable[[Row], Tensor]] = {
    "steep": lambda row: row["steep, values"].sum(0),
    "steep, keys": lambda row: row["steep, keys"].sum(0),
    "steep, residuals": lambda row: row["steep, residuals"].sum(0),
    "steep, values and keys": lambda row: row["steep, values"].sum(0) + row["steep, keys"].sum(0),
    "steep, second half of the layers": lambda row: row["steep, values"][len(row["steep, values"]) // 2 :].sum(0),
    "steep, root of summed squares": lambda row: row["steep, values"].square().sum(0).sqrt(),
    "steep, roots": lambda row: roots(row["steep, values"]),
    "rank 8": lambda row: row["rank 8, values"].sum(0),
    "rank 8, roots": lambda row: roots(row["rank 8, values"]),
    "even": lambda row: row["even, values"].sum(0),
    "even, roots": lambda row: roots(row["even, values"]),
    "steep × even": lambda row: row["steep, values"].sum(0) * row["even, values"].sum(0),
    "steep × even, roots": lambda row: row["steep, values"].sum(0) * roots(row["even, values"]),
    "steep² × even, roots": lambda row: row["steep, values"].sum(0) ** 2 * roots(row["even, values"]),
    "rank 8² × even, roots": lambda row: row["rank 8, values"].sum(0) ** 2 * roots(row["even, values"]),
}


def measure_passage(model: Any, prompt: ls.Prompt) -> dict[str, list[list[float]]]:
    """Amplitudes [layer, pos] of every view at every site, of the tokens that are not special."""
    ranked = [index for index, special in enumerate(prompt.special) if not special]
    amplitudes = {}
    for view, (rank, rule) in VIEWS.items():
        through = None if rule is None else ls.Rules(rule)
        att = ls.attribute(
            model, prompt, ls.Fisher(rank), sites=list(SITES.values()), readout="relative", through=through
        )
        for site, hook in SITES.items():
            squares = [values.reshape(len(prompt), -1).sum(1) for name, values in att.sites.items() if hook in name]
            amplitudes[f"{view}, {site}"] = torch.stack(squares).sqrt()[:, ranked].tolist()
    return amplitudes


def findings_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean agreement of every candidate with either truth, and its difference from the reference's."""
    values: dict[str, dict[str, list[float]]] = {name: {ablation: [] for ablation in ABLATIONS} for name in CANDIDATES}
    for row in rows:
        views = {name: torch.tensor(numbers, dtype=torch.float64) for name, numbers in row["amplitudes"].items()}
        for name, candidate in CANDIDATES.items():
            for ablation in ABLATIONS:
                truth = torch.tensor(row[ablation], dtype=torch.float64)
                values[name][ablation].append(correlation(candidate(views), truth)[0])
    found: dict[str, Any] = {"passages": len(rows), "candidates": {}}
    for name, of in values.items():
        found["candidates"][name] = {}
        for ablation in ABLATIONS:
            test = paired_test(of[ablation], values[REFERENCE][ablation])
            by_data: dict[str, list[float]] = {}
            for value, row in zip(of[ablation], rows, strict=True):
                by_data.setdefault(row["data"], []).append(value)
            found["candidates"][name][ablation] = {
                "mean": fmean(of[ablation]),
                "data": {data: fmean(numbers) for data, numbers in by_data.items()},
                "difference": test.difference,
                "p": test.p,
            }
    return found


def summary(record: Mapping[str, Any]) -> list[str]:
    """The candidates from the best, as lines of text; p is not corrected."""
    found = record["findings"]
    candidates = found["candidates"]
    lines = [f"{found['passages']} passages; Spearman with leave-one-out KL, less that of {REFERENCE!r}, p"]
    for name in sorted(candidates, key=lambda name: -sum(candidates[name][ablation]["mean"] for ablation in ABLATIONS)):
        parts = [
            f"{ablation} {of['mean']:.3f} ({', '.join(f'{data} {value:.3f}' for data, value in of['data'].items())}) "
            f"{of['difference']:+.3f} {of['p']:.1g}"
            for ablation, of in candidates[name].items()
        ]
        lines.append(f"{name:34} {'   '.join(parts)}")
    return lines


def main(
    lambada: Annotated[Path, typer.Argument(help="LAMBADA passages: a JSON list of texts.")],
    iwslt: Annotated[Path, typer.Argument(help="IWSLT lines: a JSON list of texts.")],
    passages: Annotated[int, typer.Option(max=CHOSEN_ON, help="How many passages of each.")] = CHOSEN_ON,
    folder: Annotated[Path, typer.Option(help="Where measurements are kept.")] = ROOT / "out" / "values_search",
) -> None:
    """Measure the candidates, and save their agreement into analyses/results/values_search.json."""
    model, started = ls.load_model(), time.perf_counter()
    files = {"lambada": lambada, "iwslt": iwslt}
    short = {data: cut(model, path, LAST_TOKENS) for data, path in files.items()}
    store, amplitudes = Store.of(folder), Lines(folder / "amplitudes.jsonl", "data", "passage")
    rows = []
    for passage in range(passages):
        for data in files:
            prompt = prompt_of(model, short[data].texts[passage])
            truth = measure_truth(model, store, data, passage, prompt)
            if (data, passage) not in amplitudes:
                measured = measure_passage(model, prompt)
                amplitudes.append({"data": data, "passage": passage, "amplitudes": measured})
                typer.echo(f"{data} {passage}: {time.perf_counter() - started:.0f} s", err=True)
            rows.append({**truth, **amplitudes.rows[data, passage]})
    settings = {"passages": passages, "tokens": LAST_TOKENS, "seed": 0}
    save_record(RESULTS, "values_search", model, settings, findings_of(rows), time.perf_counter() - started)
    for line in summary(load_record(RESULTS, "values_search")):
        typer.echo(line)


if __name__ == "__main__":
    typer.run(main)
