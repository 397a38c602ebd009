"""Attribution patching against real patches, on pairs of prompts that differ in the name that comes twice.

python analyses/patching.py

Each of twelve pairs was written by hand after Wang et al., "Interpretability in the wild" (arXiv:2211.00593): two
names, then one of them again; the model should name the other. Predicted and actual changes of the logit difference are
compared for all heads and MLPs, and for all cells of the layers × tokens map in which the two prompts differ, with one
gradient at the prompt and with gradients averaged over eight points of the path from the other prompt.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from intervals import mean_interval, shown
from records import RESULTS, load_record, save_record
from scipy.stats import spearmanr

import lens_scopes as ls

PAIRS = (
    ("Mary", "John", "When {a} and {b} went to the store, {c} gave a drink to"),
    ("Anna", "Peter", "When {a} and {b} had dinner, {c} passed the salt to"),
    ("Tom", "Lucy", "After {a} and {b} met at the station, {c} gave the ticket to"),
    ("Sarah", "David", "While {a} and {b} were at the office, {c} sent a letter to"),
    ("James", "Emma", "Then {a} and {b} walked in the park, and {c} handed a flower to"),
    ("Paul", "Alice", "When {a} and {b} got a bone at the house, {c} decided to give it to"),
    ("Laura", "Mark", "Friends since school, {a} and {b} went to the garden, where {c} gave a ring to"),
    ("Simon", "Kate", "Because {a} and {b} worked at the hospital, {c} showed the report to"),
    ("Jane", "Robert", "Last week {a} and {b} went to the market, and {c} bought a hat for"),
    ("Daniel", "Maria", "Before {a} and {b} left the library, {c} lent a book to"),
    ("Helen", "Jack", "Afterwards {a} and {b} had a long talk, and {c} told a secret to"),
    ("Adam", "Rose", "When {a} and {b} were on the train, {c} offered a seat to"),
)
STRONGEST = 30  # cells, as one would patch
STEPS = 8
KINDS = ("components", "cells, one gradient", "cells, along the path")


def prompts_of(pair: tuple[str, str, str]) -> tuple[str, str]:
    """The prompt whose second name is repeated, and the one whose first name is."""
    first, second, text = pair
    return text.format(a=first, b=second, c=second), text.format(a=first, b=second, c=first)


def measure_pair(model: Any, pair: tuple[str, str, str]) -> dict[str, Any]:
    """Predicted and actual changes of the logit difference, of each component and of each cell that differs."""
    prompt, other = prompts_of(pair)
    difference = ls.LogitDiff(f" {pair[0]}", f" {pair[1]}")
    heads = ls.inspect_heads(model, prompt, difference, baseline=other, patterns=0, verify=10_000, mlp_rules=None)
    asked: dict[str, dict[str, Any]] = {
        KINDS[1]: {"readout": ls.Dot(other)},
        KINDS[2]: {"readout": "dot", "points": ls.StraightPath(other, STEPS)},
    }
    cells = {
        name: ls.patch_cells(model, ls.attribute(model, prompt, difference, layers=True, **how), 10_000).cells
        for name, how in asked.items()
    }
    probabilities = {item.token: item.probability for item in heads.prediction.top}
    changes = {KINDS[0]: heads.ablations, **cells}
    return {
        "prompt": prompt,
        "other": other,
        "top": next(iter(probabilities)),
        "right": heads.prediction.top[0].token == f" {pair[0]}",
        "changes": {name: [(item.predicted, item.actual) for item in found] for name, found in changes.items()},
    }


def agreement(changes: Sequence[tuple[float, float]], most: int | None = None) -> float:
    """Spearman's ρ of predicted and actual changes, of the strongest ones by what is predicted."""
    strongest = sorted(changes, key=lambda pair: -abs(pair[0]))[:most]
    predicted, actual = zip(*strongest, strict=True)
    found: Any = spearmanr(predicted, actual)
    return float(found.statistic)


def findings_of(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the pairs of the agreement, over everything and over the strongest by what is predicted."""
    every = {name: [agreement(item["changes"][name]) for item in items] for name in KINDS}
    strongest = {name: [agreement(item["changes"][name], STRONGEST) for item in items] for name in KINDS}
    gain = [along - local for along, local in zip(every[KINDS[2]], every[KINDS[1]], strict=True)]
    return {
        "right": sum(item["right"] for item in items),
        "agreement": {name: mean_interval(values) for name, values in every.items()},
        "strongest": {name: mean_interval(values) for name, values in strongest.items()},
        "each": {name: {"all": every[name], "strongest": strongest[name]} for name in KINDS},
        "path_minus_one_gradient": mean_interval(gain),
        "cells": mean_interval([len(item["changes"][KINDS[1]]) for item in items]),
        "items": [{name: value for name, value in item.items() if name != "changes"} for item in items],
    }


def summary(record: Mapping[str, Any]) -> list[str]:
    """What was found, as lines of text."""
    found = record["findings"]
    lines = [f"{len(found['items'])} pairs, of which {found['right']} are continued by the right name"]
    for name in KINDS:
        strongest = shown(found["strongest"][name])
        lines.append(f"{name}: Spearman {shown(found['agreement'][name])}; {STRONGEST} strongest {strongest}")
    return [*lines, f"along the path − one gradient: {shown(found['path_minus_one_gradient'])}"]


def main(results: Annotated[Path, typer.Option(help="Folder for the record.")] = RESULTS) -> None:
    """Measure on the embedded Gemma 3 270M, and save the record as JSON."""
    model, started = ls.load_model(), time.perf_counter()
    items = []
    for pair in PAIRS:
        items.append(measure_pair(model, pair))
        typer.echo(f"{len(items)} {time.perf_counter() - started:.0f} s: {items[-1]['top']!r}", err=True)
    settings = {"pairs": len(PAIRS), "steps": STEPS, "strongest": STRONGEST}
    save_record(results, "patching", model, settings, findings_of(items), time.perf_counter() - started)
    for line in summary(load_record(results, "patching")):
        typer.echo(line)


if __name__ == "__main__":
    typer.run(main)
