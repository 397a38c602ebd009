"""Total influence through a generated text against what leaving a sentence out really does, with the text written anew.

python analyses/chains.py --prompts 20 --tokens 16 --answer 5

A run continues a saved record of the same settings: prompts that it holds are not measured again.

Each prompt is four facts in random order, a question about one of them, and a cue to go on. Gemma writes `--tokens`
tokens; the target is the last `--answer` of them. Each sentence of the prompt has two truths, both the drop of the
log-probability of the target's tokens without it: with the text before the target written anew (what influence through
it should tell), and with that text kept (what direct influence should tell). A sentence's score is that of its tokens,
added up.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from intervals import mean_interval, shown
from records import RESULTS, load_record, save_record, shortened_floats
from scipy.stats import spearmanr

import lens_scopes as ls
from lens_scopes.engine.model import ScopedModel
from lens_scopes.errors import FileError

NAMES = ("Anna", "Peter", "Mary", "Tom", "Clara", "Hugo", "Nora", "Emil")
THINGS = ("red key", "blue key", "green key", "old map", "small lamp", "silver coin", "wooden box", "long rope")
PLACES = ("garden", "cellar", "tower", "kitchen", "stable", "library", "chapel", "attic")
METHODS = ("total", "direct", "length", "closeness")
TRUTHS = ("written anew", "kept")


def write_prompt(draw: random.Random) -> tuple[list[str], str]:
    """Sentences of a prompt, the facts first, and the cue after them."""
    names, things, places = (draw.sample(pool, 2) for pool in (NAMES, THINGS, PLACES))
    facts = [f"{name} has the {thing}." for name, thing in zip(names, things, strict=True)]
    facts += [f"The {thing} belongs in the {place}." for thing, place in zip(things, places, strict=True)]
    draw.shuffle(facts)
    return [*facts, f"Who should go to the {places[0]}?"], "Let us think step by step."


def continuations(model: ScopedModel, rows: Sequence[Sequence[int]], count: int) -> list[list[int]]:
    """The model's own most probable tokens after each row, all rows together."""
    head, made = model.unembedding(), [list(row) for row in rows]
    for _ in range(count):
        states = model.run_to_final_states(made)
        for row, token in zip(made, head.logits(states).argmax(-1).tolist(), strict=True):
            row.append(token)
    return [row[len(given) :] for row, given in zip(made, rows, strict=True)]


def answer_log_probability(model: ScopedModel, rows: Sequence[Sequence[int]], answer: Sequence[int]) -> list[float]:
    """log P(answer | row) of each row, in nats."""
    head, totals = model.unembedding(), []
    for row in rows:
        whole = [*row, *answer]
        reads = [(0, len(row) - 1 + index) for index in range(len(answer))]
        logs = head.logits(model.run_to_final_states([whole[:-1]], reads=reads)).log_softmax(-1)
        totals.append(float(sum(logs[index, token] for index, token in enumerate(answer))))
    return totals


def measure_prompt(
    model: Any, sentences: Sequence[str], cue: str, tokens: int, n_answer: int, scope: str
) -> dict[str, Any]:
    """Scores of a prompt's sentences by each method, and both truths."""
    scoped = ScopedModel.of(model)
    matrix = ls.attribute_all(model, " ".join([*sentences, cue]), scope, generate=tokens)
    n = len(matrix.tokens)
    influence = matrix.total_influence((n - n_answer, n))
    starts = [sum(len(text) + 1 for text in sentences[:index]) for index in range(len(sentences))]
    # By place: the model may write a sentence of the prompt again.
    spans = {f"s{i}": ls.Chars(start, start + len(sentences[i])) for i, start in enumerate(starts)}
    groups = influence.group(spans)
    rows = groups[groups["label"].isin([f"s{index}" for index in range(len(sentences))])].reset_index(drop=True)
    scores = {
        "total": rows["score"].tolist(),
        "direct": rows["direct"].tolist(),
        "length": (rows["stop"] - rows["start"]).tolist(),
        "closeness": rows["start"].tolist(),
    }

    # Without each sentence: the text before the target written anew, and kept.
    prompts = [" ".join([*sentences, cue])]
    prompts += [" ".join([*sentences[:i], *sentences[i + 1 :], cue]) for i in range(len(sentences))]
    given = [list(ls.read_prompt(model, text).token_ids) for text in prompts]
    written = matrix.token_ids[influence.n_prompt : n - n_answer]
    answer = matrix.token_ids[n - n_answer :]
    anew = continuations(scoped, given, len(written))
    assert anew[0] == written
    drops = {}
    for truth, texts in (("written anew", anew), ("kept", [written] * len(given))):
        whole, *without = answer_log_probability(
            scoped, [[*row, *text] for row, text in zip(given, texts, strict=True)], answer
        )
        drops[truth] = [whole - value for value in without]
    return {
        "text": "".join(matrix.tokens[1:]),
        "answer": influence.target_text,
        "sentences": list(sentences),
        "changed": sum(text != written for text in anew[1:]),
        "through_text": float(1 - influence.direct.sum()),
        "scores": scores,
        "drops": drops,
    }


def findings_of(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Spearman correlation over a prompt's sentences of each method with each truth: means and paired differences."""
    rho: dict[str, dict[str, list[float]]] = {truth: {} for truth in TRUTHS}
    for truth in TRUTHS:
        for method in METHODS:
            found: list[Any] = [spearmanr(item["scores"][method], item["drops"][truth]) for item in items]
            rho[truth][method] = [float(one.statistic) for one in found]
    agreement = {truth: {name: mean_interval(values) for name, values in rho[truth].items()} for truth in TRUTHS}
    gained = {
        truth: mean_interval([a - b for a, b in zip(rho[truth]["total"], rho[truth]["direct"], strict=True)])
        for truth in TRUTHS
    }
    first = {
        truth: {
            method: sum(
                max(range(len(item["drops"][truth])), key=item["drops"][truth].__getitem__)
                == max(range(len(item["scores"][method])), key=item["scores"][method].__getitem__)
                for item in items
            )
            for method in METHODS
        }
        for truth in TRUTHS
    }
    return {
        "agreement": agreement,
        "total_minus_direct": gained,
        "same_first": first,
        "through_text": mean_interval([item["through_text"] for item in items]),
        "texts_changed": mean_interval([item["changed"] / len(item["sentences"]) for item in items]),
        "items": list(items),
    }


def saved_items(folder: Path, name: str, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The prompts of a saved record of the same settings, however many; none where there is no such record."""
    try:
        record = load_record(folder, name)
    except FileError:
        return []
    return record["findings"]["items"] if record["settings"] | {"prompts": 0} == {**settings, "prompts": 0} else []


def summary(record: Mapping[str, Any]) -> list[str]:
    """What was found, as lines of text."""
    found = record["findings"]
    lines = []
    for truth in TRUTHS:
        for method, interval in found["agreement"][truth].items():
            same = f"the same first sentence on {found['same_first'][truth][method]} of {len(found['items'])}"
            lines.append(f"{truth}: {method} {shown(interval)}; {same}")
        lines.append(f"{truth}: total − direct {shown(found['total_minus_direct'][truth])}")
    return [*lines, f"through text {shown(found['through_text'])}; changed {shown(found['texts_changed'])}"]


def main(
    prompts: Annotated[int, typer.Option(help="How many prompts.")] = 20,
    tokens: Annotated[int, typer.Option(help="Tokens that the model writes.")] = 16,
    answer: Annotated[int, typer.Option(help="The last N of them are the target.")] = 5,
    scope: Annotated[str, typer.Option(help="What each prediction is explained by.")] = "semantic",
    seed: Annotated[int, typer.Option(help="Of the prompts.")] = 0,
    results: Annotated[Path, typer.Option(help="Folder for the record.")] = RESULTS,
) -> None:
    """Measure on the embedded Gemma 3 270M and save the record as JSON."""
    name = "chains" if scope == "semantic" else f"chains_{scope}"
    settings = {"tokens": tokens, "answer": answer, "scope": scope, "seed": seed}
    items = saved_items(results, name, settings)
    model, draw = ls.load_model(), random.Random(seed)
    for index, written in enumerate([write_prompt(draw) for _ in range(prompts)]):
        if index < len(items):
            continue
        started = time.perf_counter()
        found = measure_prompt(model, *written, tokens, answer, scope)
        items.append(shortened_floats(found | {"seconds": time.perf_counter() - started}))
        # After each prompt, so that a run that is stopped leaves what it has measured.
        seconds = sum(item["seconds"] for item in items)
        save_record(results, name, model, {"prompts": len(items), **settings}, findings_of(items), seconds)
        typer.echo(f"{len(items)} {seconds:.0f} s: {items[-1]['answer']!r}", err=True)
    for line in summary(load_record(results, name)):
        typer.echo(line)


if __name__ == "__main__":
    typer.run(main)
