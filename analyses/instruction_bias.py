"""Instructions and implicit bias: what one word before a judgement does to it, through which layers.

Pairs of prompts that end before a judgement and differ in one word: a political side, a gender, a nationality, an
instruction turned round, and a person's height as the control. The judgement is the log-odds of words that judge well
against words that judge badly.

python analyses/instruction_bias.py    tests the saved effects for equivalence with the control again, without a model
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from intervals import mean_interval, shown
from judgements import BAD, GOOD, JudgementPair, pairs
from records import RESULTS, load_record, shortened_floats
from replacement import leave_one_out
from scipy import stats
from scipy.stats import spearmanr
from torch import Tensor

import lens_scopes as ls
from lens_scopes.attribution.component_ablation import changed_final_states
from lens_scopes.attribution.prompt_position import PromptPosition
from lens_scopes.engine.backward import trace
from lens_scopes.engine.final_state import FinalState
from lens_scopes.engine.model import ScopedModel
from lens_scopes.engine.sites import EMBEDDING, layer_sites
from lens_scopes.prompts.tokens import token_string
from lens_scopes.results.storage.writing import write_whole
from lens_scopes.views.figures.style import (
    DEEP_POSITIVE,
    HATCH,
    INK,
    QUIET,
    STYLE,
    drawable,
    families,
    heat_map,
    new_figure,
    scale_bar,
    shorten,
)
from lens_scopes.views.words.colour import NEGATIVE, POSITIVE
from lens_scopes.views.words.token_text import printable_token

SCOPES = {"Semantic": ls.Semantic(), "Fisher": ls.Fisher()}
JUDGEMENT = "judgement"
STRIPS = (*SCOPES, JUDGEMENT)
PLACES = ("named word", "last token")
EXAMPLES = (("politics", 0), ("instruction", 0))
CONTROL = "height (control)"
MARGIN = 0.25  # nats; how far from the control's an effect may be and count as equal to it
LEVEL = 0.05  # of each of the two one-sided tests


def measure(model: Any, quick: bool, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings and findings for every pair, attribute and layer."""
    chosen = pairs()
    if quick:  # the shortest of those that are shown as examples
        shown_attributes = [attribute for attribute, _ in EXAMPLES]
        chosen = [
            min((pair for pair in chosen if pair.attribute == name), key=lambda pair: len(pair.prompts[0]))
            for name in shown_attributes
        ]
    layers = list(range(0, model.cfg.n_layers, 6 if quick else 2))
    scale = JudgementScale(model)
    items = [_one_pair(model, pair, scale, layers) for pair in chosen]
    attributes = list(dict.fromkeys(item["attribute"] for item in items))
    groups = {name: [item for item in items if item["attribute"] == name] for name in attributes}
    settings = {
        "pairs": {name: {"words": group[0]["words"], "templates": len(group)} for name, group in groups.items()},
        "judgement": "log Σ p(good words) − log Σ p(bad words), both with a space before them",
        "good words": scale.good_words,
        "bad words": scale.bad_words,
        "share": "of the sum of scores over the prompt's tokens without BOS",
        "layers patched": layers,
        "Semantic target": "the model's own most probable token",
        "Fisher": "rank 1",
        "seed": seed,
    }
    summed = {name: _summed(group, seed) for name, group in groups.items()}
    return settings, {
        "attributes": summed,
        "equivalence": equivalences(summed),
        "all": _summed(items, seed),
        "layers": layers,
        "examples": [_example(items, *example) for example in EXAMPLES],
    }


def equivalences(attributes: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Every attribute's effects against the control's; nothing where the control was not measured."""
    effects = {name: found["prediction"]["actual"] for name, found in attributes.items()}
    control = effects.pop(CONTROL, None)
    return {} if control is None else {name: equivalence(values, control) for name, values in effects.items()}


def equivalence(values: Sequence[float], control: Sequence[float], margin: float = MARGIN) -> dict[str, Any]:
    """Whether two means differ by less than a margin: two one-sided t-tests for unequal variances (Welch).

    Returns:
        The difference of the means with its 1 − 2 LEVEL interval, p (the larger of the two one-sided ones), whether
        `equivalent` (p < LEVEL, that is, the interval lies within the margin), the margin, and how many of both.
    """
    interval = stats.ttest_ind(values, control, equal_var=False).confidence_interval(1 - 2 * LEVEL)
    difference = float(np.mean(values) - np.mean(control))
    above: Any = stats.ttest_ind(np.asarray(values) + margin, control, equal_var=False, alternative="greater")
    below: Any = stats.ttest_ind(np.asarray(values) - margin, control, equal_var=False, alternative="less")
    p = max(float(above.pvalue), float(below.pvalue))
    return {
        "difference": difference,
        "low": float(interval.low),
        "high": float(interval.high),
        "p": p,
        "equivalent": p < LEVEL,
        "margin": margin,
        "n": [len(values), len(control)],
    }


class JudgementScale:
    """S = log Σ p(good) − log Σ p(bad) over the words of both lists that are single tokens."""

    def __init__(self, model: Any) -> None:
        self.good, self.good_words = _single_tokens(model, GOOD.split())
        self.bad, self.bad_words = _single_tokens(model, BAD.split())

    def value(self, state: FinalState) -> float:
        """S of a prediction, in nats."""
        logs = state.log_probabilities
        return float(logs[self.good].logsumexp(0) - logs[self.bad].logsumexp(0))

    def mass(self, state: FinalState) -> float:
        """The probability of all the words together."""
        return float(state.probabilities[self.good].sum() + state.probabilities[self.bad].sum())

    def direction(self, state: FinalState) -> Tensor:
        """v = ∂S/∂y = Σ_good p_j w_j / p(good) − Σ_bad p_j w_j / p(bad)."""
        p = state.probabilities
        coefficients = torch.zeros_like(p)
        coefficients[self.good] = p[self.good] / p[self.good].sum()
        coefficients[self.bad] = -p[self.bad] / p[self.bad].sum()
        return state.combine_logit_gradients(coefficients[None])[0]


def draw(record: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Difference strips of two pairs, effects by attribute, and layers."""
    findings = record["findings"]
    return {
        "instruction_bias": lambda: _strips_figure(findings["examples"]),
        "instruction_bias_effects": lambda: _effects_figure(findings),
        "instruction_bias_layers": lambda: _layers_figure(findings),
    }


def summary(record: dict[str, Any]) -> list[str]:
    """Effects, shares, agreement with interventions."""
    lines = []
    for name, found in {**record["findings"]["attributes"], "all": record["findings"]["all"]}.items():
        lines.append(
            f"{name:17} KL {shown(found['divergence'])}, S first − second {shown(found['judgement'])}, "
            f"|S| {shown(found['size'])}, predicted sign right {shown(found['sign'])}"
        )
        shares = ", ".join(f"{strip} {shown(found['share'][strip])}" for strip in STRIPS)
        differences = ", ".join(f"{strip} {shown(found['difference'][strip])}" for strip in STRIPS)
        lines.append(f"{'':17} named word's share {shares} (even {shown(found['even'])})")
        lines.append(
            f"{'':17} of the difference {differences}; leave-one-out share {shown(found['loo_share'])}, "
            f"Fisher / leave-one-out {shown(found['loo_rank'])}"
        )
    lines += _equivalence_lines(record["findings"]["equivalence"])
    found = record["findings"]["all"]
    for place in PLACES:
        lines.append(f"{place} patched: " + " ".join(f"{value['mean']:.2f}" for value in found["patched"][place]))
        lines.append(f"{place} Fisher share: " + " ".join(f"{v['mean']:.2f}" for v in found["fisher_layers"][place]))
    lines.append(f"correlation of predicted and actual change of S: {record['findings']['all']['prediction']}")
    return lines


def _equivalence_lines(found: Mapping[str, Any]) -> list[str]:
    return [
        f"{name:17} less the control: {item['difference']:.2f} [{item['low']:.2f}, {item['high']:.2f}], "
        f"{'within' if item['equivalent'] else 'not shown to be within'} {item['margin']} nats, p {item['p']:.2g}, "
        f"n {item['n'][0]} and {item['n'][1]}"
        for name, item in found.items()
    ]


def _single_tokens(model: Any, words: Sequence[str]) -> tuple[list[int], list[str]]:
    found = {}
    for word in words:
        ids = model.tokenizer(" " + word, add_special_tokens=False)["input_ids"]
        if len(ids) == 1:
            found[word] = ids[0]
    return list(found.values()), list(found)


def _one_pair(model: Any, pair: JudgementPair, scale: JudgementScale, layers: Sequence[int]) -> dict[str, Any]:
    prompts = [ls.read_prompt(model, prompt) for prompt in pair.prompts]
    ids = [list(prompt.token_ids) for prompt in prompts]
    differing = [i for i, (a, b) in enumerate(zip(*ids, strict=True)) if a != b]
    assert len(differing) == 1  # both words are one token each
    named, n_tokens = differing[0], len(ids[0])
    ordinary = ~np.array(prompts[0].special)
    head = ScopedModel.of(model).unembedding()
    traced = [trace(ScopedModel.of(model), [row], layer_sites(model, True)) for row in ids]
    states = [FinalState(item.final_states[0].detach(), head) for item in traced]
    strips, by_layer, gradients = [], [], []
    for prompt, item, state in zip(prompts, traced, states, strict=True):
        found = item.gradients(scale.direction(state)[None], keep_graph=False)
        gradients.append(found[EMBEDDING][0, named])
        scopes = {
            name: ls.attribute(model, prompt, objective, layers=name == "Fisher") for name, objective in SCOPES.items()
        }
        strip = {name: _shares(att.scores.numpy(), ordinary) for name, att in scopes.items()}
        strip[JUDGEMENT] = _shares(found[EMBEDDING][0].norm(dim=-1).numpy(), ordinary)
        strips.append(strip)
        layered = scopes["Fisher"].layers
        assert layered is not None
        by_layer.append([_shares(row.numpy(), ordinary) for row in layered])
    moved = traced[0].activations[EMBEDDING][0, named] - traced[1].activations[EMBEDDING][0, named]
    predicted = float(0.5 * (gradients[0] + gradients[1]) @ moved.detach())
    actual = scale.value(states[0]) - scale.value(states[1])
    total = states[1].divergence(states[0])
    replaced = np.where(ordinary, leave_one_out(model, ids[0]), 0.0)
    differences = {name: np.abs(strips[0][name] - strips[1][name]) for name in STRIPS}
    return {
        "attribute": pair.attribute,
        "words": pair.words,
        "tokens": [list(prompt.tokens) for prompt in prompts],
        "special": list(prompts[0].special),
        "strips": [{name: values.tolist() for name, values in strip.items()} for strip in strips],
        "named": named,
        "divergence": total,
        "judgement": actual,
        "size": abs(actual),
        "mass": float(np.mean([scale.mass(state) for state in states])),
        "predicted": predicted,
        "sign": float(np.sign(predicted) == np.sign(actual)),
        "even": 1 / int(ordinary.sum()),
        "share": {name: float(np.mean([strip[name][named] for strip in strips])) for name in STRIPS},
        "difference": {name: float(values[named] / values.sum()) for name, values in differences.items()},
        "loo_share": float(replaced[named] / replaced.sum()),
        "loo_rank": float(spearmanr(strips[0]["Fisher"][ordinary], replaced[ordinary]).statistic),
        "fisher_layers": {
            place: np.mean([[row[at] for row in rows] for rows in by_layer], axis=0).tolist()
            for place, at in zip(PLACES, (named, n_tokens - 1), strict=True)
        },
        "patched": {
            place: _patched(model, ids, traced, states, layers, at, total)
            for place, at in zip(PLACES, (named, n_tokens - 1), strict=True)
        },
        "predictions": [
            [
                [model.tokenizer.decode([t]), float(state.probabilities[t])]
                for t in state.logits.topk(3).indices.tolist()
            ]
            for state in states
        ],
    }


def _leading(model: Any, state: FinalState) -> list[list[Any]]:
    return [[token_string(model, t), float(state.probabilities[t])] for t in state.logits.topk(3).indices.tolist()]


def _shares(scores: Any, ordinary: Any) -> Any:
    kept = np.where(ordinary, scores, 0.0)
    return kept / kept.sum()


def _patched(
    model: Any,
    ids: Sequence[list[int]],
    traced: Sequence[Any],
    states: Sequence[FinalState],
    layers: Sequence[int],
    at: int,
    total: float,
) -> list[float]:
    """How much of KL(second ‖ first) goes when the first prompt's residual stream before each layer, at one position,
    is replaced by the second's: 1 when the prediction becomes the second's, 0 when nothing changes."""

    def hooks(rows: Sequence[int]) -> list[tuple[str, Callable[[Tensor], Tensor]]]:
        def hook_for(row: int, name: str) -> Callable[[Tensor], Tensor]:
            def hook(residual: Tensor) -> Tensor:
                changed = residual.clone()
                changed[row, at] = traced[1].activations[name][0, at].detach()
                return changed

            return hook

        names = [f"blocks.{layer}.hook_resid_pre" for layer in rows]
        return [(name, hook_for(row, name)) for row, name in enumerate(names)]

    scoped = ScopedModel.of(model)
    place = PromptPosition.read(scoped, ids[0], -1, None)
    reached = changed_final_states(scoped, place, layers, hooks)[:, 0]
    return [1 - states[1].divergence(FinalState(y, states[1].unembedding)) / total for y in reached]


def _summed(items: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    def mean(read: Callable[[dict[str, Any]], float]) -> dict[str, Any]:
        return mean_interval([read(item) for item in items], seed)

    plain = ("divergence", "judgement", "size", "mass", "sign", "even", "loo_share", "loo_rank")
    found: dict[str, Any] = {"words": items[0]["words"]}
    found |= {name: mean(lambda item, name=name: item[name]) for name in plain}
    for name in ("share", "difference"):
        found[name] = {strip: mean(lambda item, n=name, s=strip: item[n][s]) for strip in STRIPS}
    for name in ("fisher_layers", "patched"):
        found[name] = {
            place: [
                mean(lambda item, n=name, p=place, i=index: item[n][p][i])
                for index in range(len(items[0][name][place]))
            ]
            for place in PLACES
        }
    predicted, actual = ([item[name] for item in items] for name in ("predicted", "judgement"))
    correlation = float(spearmanr(predicted, actual).statistic) if len(items) > 2 else None
    found["prediction"] = {"spearman": correlation, "predicted": predicted, "actual": actual}
    return found


def _example(items: Sequence[dict[str, Any]], attribute: str, index: int) -> dict[str, Any]:
    item = [item for item in items if item["attribute"] == attribute][index]
    return {name: item[name] for name in ("attribute", "words", "tokens", "special", "strips", "predictions", "named")}


def _strips_figure(examples: Sequence[dict[str, Any]]) -> Any:
    import matplotlib
    from matplotlib.colors import LinearSegmentedColormap

    with matplotlib.rc_context(STYLE):
        figure = new_figure(5.5, 2.3 * len(examples) + 0.7)
        panels = figure.subplots(len(examples), 1, squeeze=False)[:, 0]
        image = grey = None
        for axes, item in zip(panels, examples, strict=True):
            rows, labels = [], []
            for name in ("Semantic", "Fisher"):
                both = [np.array(strip[name]) for strip in item["strips"]]
                difference = both[0] - both[1]
                bound = max(strip.max() for strip in both)
                rows += [*(strip / bound for strip in both), difference / np.abs(difference).max()]
                labels += [f"{name}, {word}" for word in item["words"]]
                labels.append(f"difference (± {np.abs(difference).max():.1%})")
            marked = [np.where(item["special"], np.nan, row).tolist() for row in rows]
            # Blue and orange are differences alone: shares are grey.
            image = heat_map(axes, marked, signed=True)
            shares = np.ma.masked_invalid([row if at % 3 < 2 else [np.nan] * len(row) for at, row in enumerate(marked)])
            greys = LinearSegmentedColormap.from_list("parts", ["white", INK])
            grey = axes.imshow(shares, cmap=greys, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
            axes.axhline(2.5, color="white", linewidth=3)
            axes.set_yticks(range(len(labels)), labels)
            tokens = [printable_token(token) for token in item["tokens"][0]]
            tokens[item["named"]] = "/".join(printable_token(side[item["named"]]) for side in item["tokens"])
            names = [drawable(shorten(token, 26)) for token in tokens]
            axes.set_xticks(range(len(names)), names, rotation=90, parse_math=False, fontfamily=families(), fontsize=6)
            axes.tick_params(length=0)
            said = " or ".join(f"{printable_token(side[0][0])} {side[0][1]:.0%}" for side in item["predictions"])
            axes.set_title(f"{item['attribute']} → {drawable(said)}", loc="left", fontsize=7, parse_math=False)
        scale_bar(figure, panels[-1], grey, "part of all scores, relative to the largest of the pair")
        scale_bar(figure, panels[-1], image, "difference, first − second, relative to its largest (in brackets)")
    return figure


def _effects_figure(findings: dict[str, Any]) -> Any:
    import matplotlib

    rows = findings["attributes"]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(5.5, 2.8)
        left, right = figure.subplots(1, 2, sharey=True)
        for y, found in enumerate(rows.values()):
            _bar(left, found["judgement"], y, NEGATIVE, "o")
            for strip, offset, colour in zip(STRIPS, (-0.2, 0, 0.2), (POSITIVE, DEEP_POSITIVE, NEGATIVE), strict=True):
                _bar(right, found["share"][strip], y + offset, colour, "o", strip if y == 0 else None)
            _bar(right, found["loo_share"], y + 0.38, QUIET, "D", "leave one out" if y == 0 else None)
            right.plot([found["even"]["mean"]], [y], "|", color=HATCH, markersize=14, label=None if y else "even share")
        names = [f"{name}:\n{' − '.join(found['words'])}" for name, found in rows.items()]
        left.set_yticks(range(len(rows)), names)
        left.invert_yaxis()
        left.axvline(0, color=HATCH, linewidth=0.6)
        left.set_xlabel("judgement, first word − second (nats)")
        left.set_title("What the word does to the judgement", fontsize=7)
        right.set_xlabel("score of the word, as a part of all scores")
        right.set_title("What scores give the word", fontsize=7)
        right.set_xlim(0)
        figure.legend(
            *right.get_legend_handles_labels(), loc="outside upper center", frameon=False, fontsize=6, ncols=5
        )
        for axes in (left, right):
            axes.spines[["top", "right"]].set_visible(False)
    return figure


def _bar(axes: Any, value: dict[str, Any], y: float, colour: str, marker: str, label: str | None = None) -> None:
    if value["low"] is not None:
        axes.plot([value["low"], value["high"]], [y, y], color=colour, linewidth=1)
    axes.plot([value["mean"]], [y], marker, color=colour, markersize=3.5, label=label)


def _layers_figure(findings: dict[str, Any]) -> Any:
    import matplotlib

    found = findings["all"]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(5.5, 2.2)
        left, right = figure.subplots(1, 2, sharey=True)
        for place, colour, line in zip(PLACES, (DEEP_POSITIVE, NEGATIVE), ("-", "--"), strict=True):
            _curve(left, findings["layers"], found["patched"][place], colour, line, place)
            _curve(right, range(len(found["fisher_layers"][place])), found["fisher_layers"][place], colour, line, place)
        left.set_ylabel("share")
        left.set_title("effect of swapping the residual stream there", fontsize=7)
        right.set_title("Fisher Scope there", fontsize=7)
        right.legend(frameon=False, fontsize=6.5)
        for axes in (left, right):
            axes.set_xlabel("layer (before it)")
            axes.spines[["top", "right"]].set_visible(False)
    return figure


def _curve(axes: Any, x: Any, values: Sequence[dict[str, Any]], colour: str, line: str, label: str) -> None:
    axes.plot(x, [v["mean"] for v in values], line, color=colour, linewidth=1.2, label=label)
    if values[0]["low"] is not None:
        axes.fill_between(
            x, [v["low"] for v in values], [v["high"] for v in values], color=colour, alpha=0.15, linewidth=0
        )


def main() -> None:
    """Adds the tests of equivalence to the saved record, from its effects of single pairs."""
    record = load_record(RESULTS, "instruction_bias")
    findings = record["findings"]
    found = shortened_floats(equivalences(findings["attributes"]))
    record["findings"] = findings | {"equivalence": found}
    text = json.dumps(record, ensure_ascii=False, indent=1)
    write_whole(RESULTS / "instruction_bias.json", text.encode("utf-8") + b"\n")
    print(*_equivalence_lines(found), sep="\n")


if __name__ == "__main__":
    main()
