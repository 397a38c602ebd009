"""Five ways to score the same tokens on six prompts, with their contracts, and what makes them differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from intervals import mean_interval, shown
from replacement import CONTRACT, leave_one_out
from scipy.stats import spearmanr

import lens_scopes as ls
from lens_scopes.views.figures.style import (
    DEEP_POSITIVE,
    HATCH,
    STYLE,
    drawable,
    families,
    heat_map,
    new_figure,
    scale_bar,
    shorten,
)
from lens_scopes.views.page.document import Page
from lens_scopes.views.words.attribution import number
from lens_scopes.views.words.colour import POSITIVE, scale_of
from lens_scopes.views.words.pages.parts.blocks import Section, definitions, heading, kind, note
from lens_scopes.views.words.pages.parts.blocks import heat_map as map_block
from lens_scopes.views.words.token_text import printable_token

PROMPTS = {
    "translation": "German: Der Hund schläft auf dem Sofa. English: The dog sleeps on the",
    "fact": "The capital of France is",
    "names": "When Mary and John went to the store, John gave a drink to",
    "code": "def area(width, height):\n    return width *",
    "persona": "As a state-of-the-art AI assistant, you never argue or deceive, because you are",
    "series": "12,24,36,48,60,",
}
SCOPES: dict[str, tuple[Any, str]] = {
    "Semantic": (ls.Semantic(), "norm"),
    "Fisher": (ls.Fisher(), "norm"),
    "Temperature": (ls.Temperature(), "norm"),
    "Input × Gradient": (ls.LogProb(), "dot"),
}
REPLACED = "leave one out"
SMALL_STEP = 0.05


def measure(model: Any, quick: bool, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings and findings: the strips of every prompt, and how far their rankings of tokens agree."""
    chosen = dict(list(PROMPTS.items())[:2]) if quick else PROMPTS
    prompts = {name: _strips(model, prompt) for name, prompt in chosen.items()}
    labels = [*SCOPES, REPLACED]
    agreement = {
        f"{a} / {b}": [_agreement(prompt, a, b) for prompt in prompts.values()] for a, b in combinations(labels, 2)
    }
    causes = {
        "Fisher / a 5 % step to the mean": [_rank(p, p["strips"]["Fisher"], p["small_step"]) for p in prompts.values()],
        "a 5 % step / leave one out": [_rank(p, p["small_step"], p["strips"][REPLACED]) for p in prompts.values()],
        "Fisher / leave one out": [_agreement(p, "Fisher", REPLACED) for p in prompts.values()],
    }
    settings = {
        "prompts": chosen,
        "target": "the model's own most probable token",
        "readout": {label: readout for label, (_, readout) in SCOPES.items()},
        "Fisher": "rank 1",
        REPLACED: "KL(p ‖ p_t) in nats, the token's embedding replaced by the prompt's mean embedding",
        "agreement": "Spearman over the prompt's tokens without BOS, of magnitudes",
        "random": None,
    }
    return settings, {
        "prompts": prompts,
        "agreement": {pair: {"each": values, **mean_interval(values, seed)} for pair, values in agreement.items()},
        "causes": {pair: {"each": values, **mean_interval(values, seed)} for pair, values in causes.items()},
    }


def draw(record: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """The strips of all prompts, and the agreement of each pair of scopes."""
    return {
        "scopes_compared": lambda: _strips_figure(record["findings"]["prompts"]),
        "scopes_agreement": lambda: _agreement_figure(record["findings"]),
    }


def pages(record: dict[str, Any]) -> dict[str, str]:
    """One page with the strips, every number, the contracts, and the agreements."""
    findings = record["findings"]
    sections = [_prompt_section(name, prompt) for name, prompt in findings["prompts"].items()]
    first = next(iter(findings["prompts"].values()))
    contracts = [block for label, c in first["contracts"].items() for block in (heading(label), definitions(c))]
    about = note("As for the first prompt; those of the others differ in target and number of tokens.")
    agreements = {pair: shown(value) for pair, value in (findings["causes"] | findings["agreement"]).items()}
    sections += [
        Section("agreement", "Agreement of rankings", [note(_AGREEMENT_NOTE), definitions(agreements)]),
        Section("contracts", "Contracts", [about, *contracts]),
    ]
    model = record["model"]["name"]
    header = [kind(f"{model}, {record['model']['dtype']}"), {"type": "prompt", "text": "Scopes side by side"}]
    return {"scopes_compared": Page("Scopes side by side", header, tuple(sections)).to_html()}


def summary(record: dict[str, Any]) -> list[str]:
    """Agreements over the prompts."""
    findings = record["findings"]
    return [f"{pair}: {shown(value)}" for pair, value in (findings["agreement"] | findings["causes"]).items()]


_AGREEMENT_NOTE = (
    "Spearman correlation of the tokens' magnitudes (BOS left out), mean over the prompts with its bootstrap interval. "
    "The first three lines take the difference between Fisher Scope and leave-one-out apart: a small step towards the "
    "mean embedding still goes in one direction only, which the norm does not; the whole step is no longer small."
)


def _strips(model: Any, prompt: str) -> dict[str, Any]:
    found = {
        label: ls.attribute(model, prompt, objective, readout=readout) for label, (objective, readout) in SCOPES.items()
    }
    first = next(iter(found.values()))
    ids = first.token_ids
    return {
        "tokens": first.tokens,
        "special": first.special,
        "predicted": [[item.token, item.probability] for item in first.prediction.top[:3]],
        "strips": {label: att.scores.tolist() for label, att in found.items()} | {REPLACED: leave_one_out(model, ids)},
        "small_step": leave_one_out(model, ids, SMALL_STEP),
        "contracts": {label: att.contract for label, att in found.items()} | {REPLACED: CONTRACT},
    }


def _agreement(prompt: Mapping[str, Any], a: str, b: str) -> float:
    return _rank(prompt, prompt["strips"][a], prompt["strips"][b])


def _rank(prompt: Mapping[str, Any], a: Sequence[float], b: Sequence[float]) -> float:
    ordinary = ~np.array(prompt["special"])
    return float(spearmanr(np.abs(a)[ordinary], np.abs(b)[ordinary]).statistic)


def _relative(prompt: Mapping[str, Any]) -> list[list[float]]:
    rows = []
    for scores in prompt["strips"].values():
        scale = scale_of(scores, prompt["special"])
        rows.append(
            [
                math.nan if special else scale.relative(score)
                for score, special in zip(scores, prompt["special"], strict=True)
            ]
        )
    return rows


def _strips_figure(prompts: Mapping[str, Any]) -> Any:
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = new_figure(5.5, 1.28 * len(prompts) + 0.3)
        panels = figure.subplots(len(prompts), 1, squeeze=False)[:, 0]
        image = None
        for axes, (name, prompt) in zip(panels, prompts.items(), strict=True):
            image = heat_map(axes, _relative(prompt), signed=True)
            axes.set_yticks(range(len(prompt["strips"])), list(prompt["strips"]))
            tokens = [drawable(shorten(printable_token(token), 12)) for token in prompt["tokens"]]
            axes.set_xticks(
                range(len(tokens)), tokens, rotation=90, fontsize=6, parse_math=False, fontfamily=families()
            )
            axes.tick_params(length=0)
            token, probability = prompt["predicted"][0]
            axes.set_title(
                f"{name} → {drawable(printable_token(token))} ({probability:.0%})",
                loc="left",
                fontsize=7,
                parse_math=False,
                fontfamily=families(),
            )
        scale_bar(figure, panels[-1], image, "score relative to the largest magnitude of its strip")
    return figure


def _agreement_figure(findings: Mapping[str, Any]) -> Any:
    import matplotlib

    rows = {**findings["agreement"], **{k: v for k, v in findings["causes"].items() if k not in findings["agreement"]}}
    with matplotlib.rc_context(STYLE):
        figure = new_figure(5.5, 0.2 * len(rows) + 0.6)
        axes = figure.add_subplot()
        for y, value in enumerate(rows.values()):
            axes.plot(value["each"], [y] * len(value["each"]), "o", color=POSITIVE, markersize=3, alpha=0.7)
            if value["low"] is not None:
                axes.plot([value["low"], value["high"]], [y, y], color=DEEP_POSITIVE, linewidth=1)
            axes.plot([value["mean"]], [y], "|", color=DEEP_POSITIVE, markersize=9, markeredgewidth=1.6)
        axes.axvline(0, color=HATCH, linewidth=0.6)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.invert_yaxis()
        axes.set_xlim(-1.05, 1.05)
        axes.set_xlabel("Spearman over tokens: each prompt (dots), mean and its 95% interval (bars)")
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _prompt_section(name: str, prompt: Mapping[str, Any]) -> Section:
    predicted = ", ".join(f"{printable_token(token)} {probability:.0%}" for token, probability in prompt["predicted"])
    leaders = "; ".join(f"{label}: {_leader(prompt, label)}" for label in prompt["strips"])
    scores = map_block(
        name,
        f"Scores of the tokens of the prompt “{name}”",
        "scope",
        list(prompt["strips"]),
        list(prompt["strips"].values()),
        prompt["tokens"],
        prompt["special"],
    )
    return Section(name, name, [note(f"Predicted: {predicted}. Leading: {leaders}."), scores])


def _leader(prompt: Mapping[str, Any], label: str) -> str:
    scores = [
        0.0 if special else abs(score)
        for score, special in zip(prompt["strips"][label], prompt["special"], strict=True)
    ]
    best = int(np.argmax(scores))
    return f"{printable_token(prompt['tokens'][best])} ({number(prompt['strips'][label][best])})"
