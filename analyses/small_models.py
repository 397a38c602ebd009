"""Do the leaderboard's findings hold for models with other norms, other positions and several KV heads?

python analyses/small_models.py LAMBADA.json IWSLT.json       measures what is missing of every model, then sums it up
python analyses/small_models.py --only llama_like             one model; only smollm2 needs the two files
python analyses/small_models.py --measured                    sums up what is there
python analyses/small_models.py --table                       prints the tables of README.md from the saved results

Models: a GPT-2-like and a LLaMA-like one, trained here by `small_models_training.py` on documentation that installed
packages ship, and SmolLM2 135M (9 query heads, 3 KV heads) from the folder that `small_models_shipped.py` writes. A
passage is 48 tokens: for the trained ones of a module that training has not seen, one passage a module; for SmolLM2 the
last ones of the leaderboard's passages. No setting was chosen on these models. Truth, agreement and lines on disk are
those of `leaderboard.py`, in float32, and there is a third ablation, which takes the token out.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from pathlib import Path
from statistics import fmean, median
from typing import Annotated, Any

import numpy as np
import torch
import typer
from faithfulness import cut
from intervals import mean_interval
from leaderboard import Store, measure_agreement
from leaderboard_methods import CHOSEN_ON, METHODS, Entry
from records import MEASURED, RESULTS, load_record, shortened_floats
from small_models_training import FOLDER, MODELS, SEED, Text, train

import lens_scopes as ls
from lens_scopes.attribution.provenance import package_versions
from lens_scopes.errors import FileError
from lens_scopes.evaluation.metrics.agreement import correlation
from lens_scopes.evaluation.statistics.comparison import holm, paired_test
from lens_scopes.results.storage.writing import write_whole

SHIPPED = "smollm2"
NAMES = (*MODELS, SHIPPED)
TOKENS, PASSAGES = 48, 40
ABLATIONS = ("mean", "zero", "remove")
LEFT_OUT = [f"leave one out, {ablation}" for ablation in ABLATIONS]
QUANTITIES = [f"{what}, {ablation}" for what in ("spearman", "partial", "top5") for ablation in ABLATIONS]
TAKEN = (
    *("FisherAtValues", "BalancedValues", "LogProb at the values", "Semantic at the values"),
    *("Temperature at the values", "Fisher", "Fisher, rank 8", "LogProb", "Semantic", "Temperature"),
    *("FisherAtValues, AttnLRP", "FisherAtValues, GIM", "Fisher, AttnLRP", "Fisher, GIM", "LogProb, AttnLRP, dot"),
    *("Input × Gradient", "value-weighted attention", "closeness to the end", "embedding norm", "random"),
)
"""Methods of the leaderboard."""

SMALL_METHODS: dict[str, Entry] = {
    **{name: METHODS[name] for name in TAKEN},
    "Fisher, relative": Entry("fisher+relative", "scope"),
    "Fisher, dot": Entry("fisher+dot", "scope"),
    "FisherAtValues, rank 8": Entry("fisher-at-values@8", "values"),
    "Fisher at the values, norm": Entry("fisher+values+norm", "values"),
    "Fisher at the values, product": Entry("fisher+values+product", "values"),
    "Fisher at the keys": Entry("fisher+keys", "values"),
    "Fisher at the residuals": Entry("fisher+residuals", "values"),
}
OF_SHIPPED = (
    *("FisherAtValues", "BalancedValues", "LogProb at the values", "Fisher at the values, norm"),
    *("Fisher at the keys", "Fisher", "Fisher, relative", "LogProb"),
    *("FisherAtValues, AttnLRP", "FisherAtValues, GIM", "Fisher, AttnLRP", "closeness to the end", "random"),
)
"""Methods that are measured first, and alone on SmolLM2, 25 times as large, after its first six passages."""

MIN_TESTED = 8
"""Passages below which a contrast is not tested."""

OTHERS_SHOWN = (
    "FisherAtValues, rank 8",
    "Fisher at the values, product",
    "Fisher at the residuals",
    "Input × Gradient",
)
"""Further rows of README's table."""

CONTRASTS: dict[str, tuple[str, str]] = {
    "site, norm": ("Fisher at the values, norm", "Fisher"),
    "site, relative": ("FisherAtValues", "Fisher, relative"),
    "site, LogProb": ("LogProb at the values", "LogProb"),
    "site, Semantic": ("Semantic at the values", "Semantic"),
    "site, Temperature": ("Temperature at the values", "Temperature"),
    "readout at the embedding: relative, norm": ("Fisher, relative", "Fisher"),
    "readout at the embedding: relative, dot": ("Fisher, relative", "Fisher, dot"),
    "readout at the values: relative, norm": ("FisherAtValues", "Fisher at the values, norm"),
    "readout at the values: relative, product": ("FisherAtValues", "Fisher at the values, product"),
    "rank 8, 1 at the values": ("FisherAtValues, rank 8", "FisherAtValues"),
    "balanced, plain": ("BalancedValues", "FisherAtValues"),
    "rules of AttnLRP at the values": ("FisherAtValues, AttnLRP", "FisherAtValues"),
    "rules of GIM at the values": ("FisherAtValues, GIM", "FisherAtValues"),
    "rules of AttnLRP at the embedding": ("Fisher, AttnLRP", "Fisher"),
    "rules of GIM at the embedding": ("Fisher, GIM", "Fisher"),
    "values, keys": ("FisherAtValues", "Fisher at the keys"),
    "values, residuals": ("FisherAtValues", "Fisher at the residuals"),
    "values, closeness to the end": ("FisherAtValues", "closeness to the end"),
}
"""What is asked of each model: whether the first method agrees better than the second."""


# Measuring


def passages(text: Text, count: int, seed: int = SEED) -> list[tuple[int, ...]]:
    """BOS, TOKENS tokens and the target after them, from a random place of each of `count` held-out modules."""
    generator = np.random.default_rng(seed)
    modules = [ids for ids in text.held_out if len(ids) > TOKENS]
    chosen = generator.permutation(len(modules))[:count]
    starts = generator.integers(0, [len(modules[index]) - TOKENS for index in chosen])
    return [
        (0, *modules[index][start : start + TOKENS + 1].tolist()) for index, start in zip(chosen, starts, strict=True)
    ]


def passages_of_files(model: Any, files: Sequence[Path], count: int) -> list[Any]:
    """BOS, the last TOKENS tokens and the target of the leaderboard's passages, the files by turns."""
    short = [cut(model, path, TOKENS).texts for path in files]
    return [texts[CHOSEN_ON + index] for index in range(math.ceil(count / len(files))) for texts in short][:count]


def measure(
    model: Any, name: str, texts: Sequence[Any], store: Store, methods: Mapping[str, Entry] | None = None
) -> None:
    """Measures what is missing of one model."""
    methods = methods or SMALL_METHODS
    names = [*methods, *LEFT_OUT]
    for passage, text in enumerate(texts):
        if any((name, passage, method) not in store.agreement for method in names):
            started = time.process_time()
            measure_agreement(model, store, name, passage, text, names, methods, ABLATIONS)
            typer.echo(f"{name} {passage}: {time.process_time() - started:.1f} s", err=True)


def remember(path: Path, name: str, about: Mapping[str, Any]) -> None:
    """Notes which weights the measurements of a model are of.

    Raises:
        FileError: where measurements of other weights are on disk.
    """
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if name in known and known[name]["weights"] != about["weights"]:
        raise FileError(
            f"{path.parent} has measurements of {name} with weights {known[name]['weights']}, and these are "
            f"{about['weights']}; give another folder."
        )
    write_whole(path, json.dumps({**known, name: about}, indent=1).encode("utf-8") + b"\n")


def about_model(model: Any, folder: Path) -> dict[str, Any]:
    """Which model was measured: a digest of its weights, how it was trained, and its dimensions."""
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:16]
    training = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    record = asdict(ls.model_record(model)) | {"name": folder.name}
    return {"weights": weights, "training": training, "model": record}


# Findings


def findings_of(store: Store, name: str) -> dict[str, Any]:
    """Of one model: every method's mean with its interval, the contrasts, and what the truths are worth."""
    rows = [row for key, row in store.agreement.rows.items() if key[0] == name]
    values: dict[str, dict[str, dict[int, float]]] = {}
    for row in rows:
        for quantity in QUANTITIES:
            if row[quantity] is not None:
                values.setdefault(row["method"], {}).setdefault(quantity, {})[row["passage"]] = row[quantity]
    return {
        "passages": len({row["passage"] for row in rows}),
        "truths": truths([row for key, row in store.truth.rows.items() if key[0] == name]),
        "methods": {
            method: {quantity: mean_interval(list(of.values())) for quantity, of in quantities.items()}
            for method, quantities in values.items()
        },
        "contrasts": contrasts(values),
    }


def truths(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The median KL of leaving one token out by each ablation, in nats, and how well two ablations agree."""

    def agreement(first: str, second: str) -> float:
        return fmean(correlation(torch.tensor(row[first]), torch.tensor(row[second]))[0] for row in rows)

    agree = {f"{first}, {second}": agreement(first, second) for first, second in combinations(ABLATIONS, 2)}
    kl = {name: median(value for row in rows for value in row[name]) for name in ABLATIONS}
    return {"median KL": kl, "spearman": agree}


def contrasts(values: Mapping[str, Mapping[str, Mapping[int, float]]]) -> dict[str, Any]:
    """Paired tests of CONTRASTS on one model's passages, corrected after Holm over all of them."""
    results: dict[str, dict[str, Any]] = {}
    for contrast, methods in CONTRASTS.items():
        for quantity in QUANTITIES[: 2 * len(ABLATIONS)]:  # a hit is 0 or 1, and has no test
            first, second = (values.get(method, {}).get(quantity, {}) for method in methods)
            both = sorted(first.keys() & second.keys())
            if len(both) >= MIN_TESTED:
                test = paired_test([first[key] for key in both], [second[key] for key in both])
                results.setdefault(contrast, {})[quantity] = asdict(test)
    tests = [test for quantities in results.values() for test in quantities.values()]
    for test, corrected in zip(tests, holm([test["p"] for test in tests]), strict=True):
        test["p_holm"] = corrected
    return results


def save(store: Store, results: Path = RESULTS) -> dict[str, Any]:
    """Sums up what is measured and saves the record.

    Raises:
        FileError: when nothing has been measured.
    """
    path = store.truth.path.parent / "about.json"
    if not path.is_file():
        raise FileError(f"nothing has been measured in {path.parent}; leave --measured out.")
    about = json.loads(path.read_text(encoding="utf-8"))
    record = {
        "study": "small_models",
        "settings": {
            "passages": f"one from each held-out module; {SHIPPED}: LAMBADA and IWSLT by turns, from {CHOSEN_ON} on",
            "tokens": TOKENS,
            "agreement": "the model's own top token; a token replaced by the prompt's mean or zero, or taken out",
            "dtype": "float32",
            "seed": SEED,
        },
        "versions": package_versions(),
        "models": about,
        "findings": {name: findings_of(store, name) for name in NAMES if name in about},
    }
    results.mkdir(parents=True, exist_ok=True)
    content = json.dumps(shortened_floats(record), ensure_ascii=False, indent=1).encode("utf-8") + b"\n"
    write_whole(results / "small_models.json", content)
    return load_record(results, "small_models")


def summary(record: Mapping[str, Any]) -> list[str]:
    """Each model's quality, methods and contrasts as lines of text."""
    lines = []
    for name, found in record["findings"].items():
        about = record["models"][name]["training"]
        quality = ", ".join(f"{what} {value:.3f}" for what, value in about.get("bits per byte", {}).items())
        lines.append(f"{name}: {found['passages']} passages, {about['parameters']} parameters; bits per byte {quality}")
        lines.append(f"  truths: {found['truths']}")
        for method in ordered(found):
            means = [found["methods"][method].get(quantity, {}).get("mean") for quantity in QUANTITIES]
            lines.append(f"  {method:32}" + "".join("     –" if mean is None else f" {mean:+.2f}" for mean in means))
        for contrast, quantities in found["contrasts"].items():
            lines.append(f"  {contrast}: " + "; ".join(f"{key} {tested(test)}" for key, test in quantities.items()))
    return lines


def ordered(found: Mapping[str, Any]) -> list[str]:
    """The methods from the best agreement with leaving out by zero."""

    def mean(name: str) -> float:
        return found["methods"][name].get("spearman, zero", {}).get("mean", -math.inf)

    return sorted(found["methods"], key=mean, reverse=True)


def tested(test: Mapping[str, Any]) -> str:
    """A difference with its p-value after Holm."""
    return f"{test['difference']:+.3f} (p {test['p_holm']:.2g})".replace("-", "−", 1 if test["difference"] < 0 else 0)


def few(count: int, whole: int) -> str:
    """The number of passages where it is not that of the model."""
    return "" if count == whole else f" (n {count})"


def tables(record: Mapping[str, Any]) -> list[str]:
    """The tables of README.md: methods, then contrasts, each by model and ablation."""
    found = record["findings"]
    columns = [(name, ablation) for name in found for ablation in ABLATIONS]
    most = max(found.values(), key=lambda of: len(of["methods"]))  # its order is that of the rows
    head = f"| {{}} | {' | '.join(f'{name}, {ablation}' for name, ablation in columns)} |"
    rule = "| --- |" + " --- |" * len(columns)
    lines = [head.format("method"), rule]
    for method in filter({*OF_SHIPPED, *OTHERS_SHOWN, *LEFT_OUT}.__contains__, ordered(most)):
        means = [found[name]["methods"].get(method, {}).get(f"spearman, {ablation}") for name, ablation in columns]
        cells = [
            "–" if mean is None else f"{mean['mean']:.2f}".replace("-", "−") + few(mean["n"], found[name]["passages"])
            for mean, (name, _) in zip(means, columns, strict=True)
        ]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    lines += ["", head.format("contrast: first − second"), rule]
    for contrast, (first, second) in CONTRASTS.items():
        tests = [found[name]["contrasts"].get(contrast, {}).get(f"spearman, {ablation}") for name, ablation in columns]
        cells = [
            "–" if test is None else tested(test) + few(test["pairs"], found[name]["passages"])
            for test, (name, _) in zip(tests, columns, strict=True)
        ]
        lines.append(f"| {contrast}: {first} − {second} | {' | '.join(cells)} |")
    return lines


def main(
    files: Annotated[list[Path] | None, typer.Argument(help="LAMBADA and IWSLT passages, for smollm2.")] = None,
    only: Annotated[list[str] | None, typer.Option(help=f"One model, several times: {', '.join(NAMES)}.")] = None,
    count: Annotated[int | None, typer.Option("--passages", help="How many passages of each model.")] = None,
    folder: Annotated[Path, typer.Option(help="Where measurements are kept.")] = MEASURED / "small_models",
    models: Annotated[Path, typer.Option(help="Where text and models are kept.")] = FOLDER,
    measured: Annotated[bool, typer.Option("--measured", help="Sum up what is there, and measure nothing.")] = False,
    table: Annotated[bool, typer.Option("--table", help="Print the tables of README.md.")] = False,
) -> None:
    """Train and measure the models, and save their statistics into analyses/results/small_models.json."""
    if table:
        typer.echo("\n".join(tables(load_record(RESULTS, "small_models"))))
        return
    if unknown := [name for name in only or [] if name not in NAMES]:
        raise typer.BadParameter(f"no model is called {unknown[0]!r}; the models are {', '.join(NAMES)}")
    torch.set_num_threads(1)
    store = Store.of(folder)
    for name in () if measured else only or NAMES:
        home = models / name
        if name == SHIPPED and not (files and (home / "config.json").is_file()):
            raise typer.BadParameter(f"{name} needs the files of passages, and the folder of small_models_shipped.py")
        if name != SHIPPED:
            train(name, models)
        model = ls.load_model(home)
        remember(folder / "about.json", name, about_model(model, home))
        number = count or PASSAGES
        shipped = name == SHIPPED
        texts = passages_of_files(model, files or [], number) if shipped else passages(Text.load(models), number)
        measure(model, name, texts, store, {method: SMALL_METHODS[method] for method in OF_SHIPPED})
        if not shipped:
            measure(model, name, texts, store)
    for line in summary(save(store)):
        typer.echo(line)


if __name__ == "__main__":
    typer.run(main)
