"""Translation in context: does the influence of source words on English ones follow the word alignment, and where?

For each English word of a given translation, the scores of the source words on the prediction of its first token make a
row of a matrix [English word, source word], at every layer. Its largest entries are read as links and compared with
gold alignments; so are the attention weights of the same positions, a diagonal, and chance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from alignment import EDGES, Pair, counts, diagonal, error_rate, links, random_counts, read_pairs
from intervals import mean_interval, shown
from torch import Tensor

import lens_scopes as ls
from lens_scopes.engine.backward import trace
from lens_scopes.engine.final_state import FinalState
from lens_scopes.engine.model import ScopedModel
from lens_scopes.engine.sites import layer_sites
from lens_scopes.prompts.prompt import next_token_id
from lens_scopes.views.figures.style import (
    DEEP_NEGATIVE,
    DEEP_POSITIVE,
    HATCH,
    QUIET,
    STYLE,
    drawable,
    families,
    heat_map,
    new_figure,
)
from lens_scopes.views.words.colour import NEGATIVE, POSITIVE

SCOPES = {"Fisher": ls.Fisher(), "Semantic": ls.Semantic()}
SHOWN_PAIRS = ("german-01", "german-11", "french-07")
BASELINES = ("diagonal", "chance")


def measure(model: Any, quick: bool, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings and findings: error rates by layer, and on held-out pairs at layers and heads chosen on the others."""
    pairs, examples = read_pairs()
    if quick:
        examples = {language: [] for language in examples}
        pairs = [pair for pair in pairs if pair.name in ("italian-08", "french-14")]
    items = [_one_pair(model, pair, examples[pair.language]) for pair in pairs]
    n_layers = model.cfg.n_layers
    by_layer = {
        f"{name}{', contrast' if contrast else ''}": [
            error_rate([item["counts"][name][contrast][layer] for item in items], seed) for layer in range(n_layers)
        ]
        for name in (*SCOPES, "attention")
        for contrast in (0, 1)
    }
    baselines = {name: error_rate([item["counts"][name] for item in items], seed) for name in BASELINES}
    shown_pairs = [pair for pair in pairs if pair.name in (SHOWN_PAIRS[:1] if quick else SHOWN_PAIRS)] or pairs[:1]
    settings = {
        "prompt": "examples, then the sentence and its gold translation, each line 'German: …' or 'English: …'",
        "examples": {language: len(given) for language, given in examples.items()},
        "pairs": {language: sum(pair.language == language for pair in pairs) for language in examples},
        "row": "the prediction of the first token of each English word",
        "source word": "sum over its tokens",
        "contrast": "columns divided by their mean over the sentence before the largest is taken",
        "held out": "layer, head and contrast chosen on every other pair of each language, tested on the rest",
        "Fisher": "rank 1",
        "seed": seed,
    }
    return settings, {
        "by_layer": by_layer,
        "baselines": baselines,
        "held_out": _held_out(items, seed),
        "reordered": _reordered(items, seed),
        "model": {
            "first tokens predicted": mean_interval([item["predicted"] for item in items], seed),
            "log probability": mean_interval([item["log_probability"] for item in items], seed),
        },
        "matrices": [_matrix(model, pair, examples[pair.language]) for pair in shown_pairs],
    }


def draw(record: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Error rates by layer, and example matrices with their gold links."""
    findings = record["findings"]
    return {
        "translation": lambda: _layers_figure(findings),
        "translation_matrices": lambda: _matrices_figure(findings["matrices"]),
    }


def summary(record: dict[str, Any]) -> list[str]:
    """Error rates on held-out pairs, with the baselines, and links that leave the diagonal."""
    findings = record["findings"]
    lines = [f"{name:22} AER {shown(value)}" for name, value in findings["baselines"].items()]
    for name, value in findings["held_out"].items():
        lines.append(f"{name:22} AER {shown(value)} held out, {value.get('chosen', '')}")
    for name, value in findings["reordered"].items():
        lines.append(f"{name:22} finds {shown(value)} of the sure links off the diagonal")
    known = findings["model"]
    lines.append(f"first tokens predicted: {shown(known['first tokens predicted'])}")
    return lines


def prompt_of(pair: Pair, examples: Sequence[Sequence[str]]) -> str:
    """The examples, the sentence and its translation."""
    lines = [f"{pair.language}: {source}\nEnglish: {english}\n" for source, english in (*examples, _sides(pair))]
    return "".join(lines).rstrip("\n")


def word_tokens(prompt: ls.Prompt, start: int, sentence: str) -> list[tuple[int, int]]:
    """Token ranges [start, stop) of the words of a sentence that begins at a character of the prompt's text."""
    assert prompt.offsets is not None
    ranges, at = [], start
    for written in sentence.split():
        word = written.strip(EDGES)
        first = at + written.index(word)
        held = [i for i, (a, b) in enumerate(prompt.offsets) if max(a, first) < min(b, first + len(word))]
        ranges.append((held[0], held[-1] + 1))
        at += len(written) + 1
    return ranges


def _sides(pair: Pair) -> tuple[str, str]:
    return pair.source, pair.english


def _read(model: Any, pair: Pair, examples: Sequence[Sequence[str]]) -> tuple[ls.Prompt, list[Any], list[Any]]:
    prompt = ls.read_prompt(model, prompt_of(pair, examples))
    text = prompt.text or ""
    english = len(text) - len(pair.english)
    source = english - len("\nEnglish: ") - len(pair.source)
    return prompt, word_tokens(prompt, source, pair.source), word_tokens(prompt, english, pair.english)


def _one_pair(model: Any, pair: Pair, examples: Sequence[Sequence[str]]) -> dict[str, Any]:
    prompt, source, english = _read(model, pair, examples)
    reads = [start - 1 for start, _ in english]
    attention: dict[int, Tensor] = {}
    hooks = [(f"blocks.{layer}.attn.hook_pattern", _keep(attention, layer)) for layer in range(model.cfg.n_layers)]
    ids = prompt.token_ids[: reads[-1] + 1]
    with ScopedModel.of(model).hooked(hooks):
        traced = trace(ScopedModel.of(model), [ids], layer_sites(model, True), reads=[(0, read) for read in reads])
    head = ScopedModel.of(model).unembedding()
    states = [
        FinalState(y, head, next_token_id(prompt, read))
        for y, read in zip(traced.final_states.detach(), reads, strict=True)
    ]
    scores = {name: _layered(traced, states, objective, source) for name, objective in SCOPES.items()}
    weights = torch.stack([attention[layer][:, reads] for layer in range(model.cfg.n_layers)])
    by_head = _by_word(weights, source)
    scores["attention"] = by_head.mean(1)
    found: dict[str, Any] = {
        name: [[counts(links(matrix, contrast=bool(c)), pair) for matrix in layers] for c in (0, 1)]
        for name, layers in scores.items()
    }
    found["heads"] = [
        [[counts(links(matrix, contrast=bool(c)), pair) for matrix in heads] for heads in by_head] for c in (0, 1)
    ]
    found["diagonal"] = counts(diagonal(len(source), len(english)), pair)
    found["chance"] = random_counts(pair)
    off = pair.sure - diagonal(len(source), len(english))
    hits = {
        name: [[len(links(matrix, contrast=bool(c)) & off) for matrix in layers] for c in (0, 1)]
        for name, layers in scores.items()
    }
    hits["heads"] = [[[len(links(m, contrast=bool(c)) & off) for m in heads] for heads in by_head] for c in (0, 1)]
    targets = [state.target for state in states]
    return {
        "language": pair.language,
        "counts": found,
        "off": len(off),
        "off_hits": hits,
        "off_chance": len(off) / len(source),
        "predicted": float(np.mean([state.top_token == target for state, target in zip(states, targets, strict=True)])),
        "log_probability": float(
            np.mean([float(s.log_probabilities[t]) for s, t in zip(states, targets, strict=True) if t is not None])
        ),
    }


def _keep(found: dict[int, Tensor], layer: int) -> Callable[[Tensor], None]:
    def hook(pattern: Tensor) -> None:
        found[layer] = pattern[0].detach().float().cpu()

    return hook


def _layered(traced: Any, states: Sequence[FinalState], objective: Any, source: Sequence[tuple[int, int]]) -> Any:
    """[layer, English word, source word] from one backward pass for each English word."""
    rows = []
    for index, state in enumerate(states):
        directions = objective.directions(state)
        vectors = torch.zeros_like(traced.final_states)
        vectors[index] = directions.vectors[0]
        gradients = traced.gradients(vectors, keep_graph=True)
        norms = torch.stack([gradients[name][0].norm(dim=-1) for name in traced.activations if name != "hook_embed"])
        weight = directions.weights[0]
        rows.append(weight * norms**2 if directions.squared else weight.sqrt() * norms)
    return _by_word(torch.stack(rows, 1), source)


def _by_word(scores: Tensor, words: Sequence[tuple[int, int]]) -> Any:
    """Scores over tokens, on the last axis, summed to words."""
    return torch.stack([scores[..., start:stop].sum(-1) for start, stop in words], -1).numpy()


def _held_out(items: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    """Each method with its layer (and head) and contrast chosen on half the pairs, on the other half."""
    halves = items[0::2], items[1::2]
    found: dict[str, Any] = {}
    for name, (contrast, *place) in _choices(halves[0]).items():
        tested = error_rate([_at(item["counts"][_counted(name)][contrast], place) for item in halves[1]], seed)
        where = f"L{place[0]}" + (f"H{place[1]}" if len(place) > 1 else "")
        found[name] = {**tested, "chosen": where + (", contrast" if contrast else "")}
    for name in BASELINES:
        found[name] = error_rate([item["counts"][name] for item in halves[1]], seed)
    return found


def _reordered(items: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    """Of the sure links that the diagonal misses, the share found, on the same held-out half."""
    halves = items[0::2], items[1::2]
    tested = [item for item in halves[1] if item["off"]]
    found = {
        name: mean_interval(
            [_at(item["off_hits"][_counted(name)][contrast], place) / item["off"] for item in tested], seed
        )
        for name, (contrast, *place) in _choices(halves[0]).items()
    }
    found["chance"] = mean_interval([item["off_chance"] / item["off"] for item in tested], seed)
    return found


def _choices(items: Sequence[dict[str, Any]]) -> dict[str, list[int]]:
    """For each method the contrast, layer and head of the lowest error rate."""
    chosen = {}
    for name in (*SCOPES, "attention", "one head"):
        table = np.sum([item["counts"][_counted(name)] for item in items], axis=0)
        rate = 1 - (table[..., 0] + table[..., 1]) / (table[..., 2] + table[..., 3])
        chosen[name] = [int(i) for i in np.unravel_index(rate.argmin(), rate.shape)]
    return chosen


def _counted(name: str) -> str:
    return "heads" if name == "one head" else name


def _at(nested: Any, place: Sequence[int]) -> Any:
    for index in place:
        nested = nested[index]
    return nested


def _matrix(model: Any, pair: Pair, examples: Sequence[Sequence[str]]) -> dict[str, Any]:
    """The [English, source] block of the matrix of every token on every prediction."""
    prompt, source, english = _read(model, pair, examples)
    whole = ls.attribute_all(model, prompt, ls.Fisher())
    rows = whole.matrix[[start - 1 for start, _ in english]]
    return {
        "pair": pair.name,
        "source": pair.source_words,
        "english": pair.english_words,
        "scores": _by_word(rows, source).tolist(),
        "sure": sorted(pair.sure),
        "contract": whole.contract,
    }


def _layers_figure(findings: dict[str, Any]) -> Any:
    import matplotlib

    styles = {"Fisher": (DEEP_POSITIVE, "-"), "Semantic": (POSITIVE, "--"), "attention": (NEGATIVE, "-.")}
    with matplotlib.rc_context(STYLE):
        figure = new_figure(5.5, 2.6)
        panels = figure.subplots(1, 2, sharey=True)
        for axes, suffix, heading in zip(
            panels, ("", ", contrast"), ("largest score", "largest score relative to its column"), strict=True
        ):
            for name, (colour, line) in styles.items():
                values = findings["by_layer"][f"{name}{suffix}"]
                layers = range(len(values))
                axes.plot(layers, [v["mean"] for v in values], line, color=colour, linewidth=1.2, label=name)
                if values[0]["low"] is not None:
                    axes.fill_between(
                        layers,
                        [v["low"] for v in values],
                        [v["high"] for v in values],
                        color=colour,
                        alpha=0.15,
                        linewidth=0,
                    )
            axes.axhline(findings["baselines"]["diagonal"]["mean"], color=QUIET, linewidth=0.8)
            axes.axhline(findings["baselines"]["chance"]["mean"], color=HATCH, linewidth=0.8, linestyle=":")
            axes.set_title(heading, fontsize=7)
            axes.set_xlabel("layer")
            axes.spines[["top", "right"]].set_visible(False)
        panels[0].set_ylabel("alignment error rate")
        panels[0].set_ylim(0, 1)
        panels[1].text(
            17.9, findings["baselines"]["diagonal"]["mean"], "diagonal", va="center", fontsize=6, color=QUIET
        )
        panels[1].text(17.9, findings["baselines"]["chance"]["mean"], "chance", va="center", fontsize=6, color=QUIET)
        figure.legend(*panels[1].get_legend_handles_labels(), loc="outside upper center", frameon=False, ncols=3)
    return figure


def _matrices_figure(matrices: Sequence[dict[str, Any]]) -> Any:
    import matplotlib

    with matplotlib.rc_context(STYLE):
        figure = new_figure(5.5, 2.7)
        panels = figure.subplots(1, len(matrices), squeeze=False)[0]
        for axes, item in zip(panels, matrices, strict=True):
            scores = np.array(item["scores"])
            image = heat_map(axes, (scores / scores.max(1, keepdims=True)).tolist(), signed=False)
            for source, english in item["sure"]:
                axes.plot([source], [english], "s", markersize=5, fillstyle="none", color=DEEP_NEGATIVE)
            for set_ticks, words in ((axes.set_xticks, item["source"]), (axes.set_yticks, item["english"])):
                set_ticks(range(len(words)), [drawable(word) for word in words], fontfamily=families())
            axes.tick_params(axis="x", rotation=90, length=0)
            axes.tick_params(axis="y", length=0)
            axes.set_title(item["pair"], fontsize=7)
        bar = figure.colorbar(image, ax=list(panels), location="bottom", shrink=0.5, aspect=40, pad=0.02)
        bar.outline.set_linewidth(0.4)
        bar.set_label("Fisher Scope relative to the row's largest (squares: sure links)")
    return figure
