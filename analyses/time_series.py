"""Series in context: where the influence sits on a model that continues numbers, and what it predicts as values.

Temperature Scope over the digits, summed to numbers (each with the comma after it), compared with how recent a number
is and with how near the state before it is to the current state (delay embedding): a model that continues a dynamical
system by analogy should look at what followed the nearest states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from intervals import mean_interval, shown
from replacement import final_state
from scipy.stats import rankdata, spearmanr
from series import KINDS, written
from torch import Tensor

import lens_scopes as ls
from lens_scopes.engine.final_state import FinalState
from lens_scopes.engine.model import ScopedModel
from lens_scopes.views.figures.style import (
    DEEP_NEGATIVE,
    DEEP_POSITIVE,
    HATCH,
    QUIET,
    STYLE,
    colour_map,
    heat_map,
    new_figure,
    scale_bar,
)
from lens_scopes.views.words.colour import NEGATIVE, POSITIVE, scale_of

LENGTH = 37  # numbers; the last is left out and predicted
DIMENSION = 2  # of the delay embedding
RECENT = 3  # the last numbers, part of the current state or next to it, that are no neighbours
REFERENCES = 20  # other states of the series in place of the current one, for the baseline
HEADS_ABLATED = 5
REPEATING = ("logistic map", "Lorenz", "periodic", "AR(2)", "logistic, drifted", "periodic, drifted")


def measure(model: Any, quick: bool, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings and findings for every series, kind, layer and head."""
    each, walked, ablated, length = (1, 1, 1, 19) if quick else (16, 4, 4, LENGTH)
    kinds = ("logistic map", "periodic") if quick else tuple(KINDS)
    items = []
    for kind in kinds:
        for index in range(each):
            generator = np.random.default_rng([seed, list(KINDS).index(kind), index])
            items.append(_one_series(model, kind, index, length, generator, walk=index < walked))
    heads = _heads(model, items, ablated, seed)
    settings = {
        "series": {kind: each for kind in kinds},
        "length": length - 1,
        "scope": "Temperature, summed over the two digits and the comma of each number",
        "delay embedding": {"dimension": DIMENSION, "left out as recent": RECENT},
        "value distribution": {"least": 0.002, "series of each kind": walked},
        "seed": seed,
    }
    examples = {item["kind"]: item for item in items if item["index"] == 0}
    return settings, {
        "examples": {kind: {key: item[key] for key in _SHOWN} for kind, item in examples.items()},
        "kinds": {kind: _by_kind([item for item in items if item["kind"] == kind], seed) for kind in kinds},
        "all": _by_kind(items, seed),
        "heads": heads,
    }


def draw(record: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Series with their influence; correlations by kind; layers and heads."""
    findings = record["findings"]
    return {
        "time_series": lambda: _examples_figure(findings["examples"]),
        "time_series_neighbours": lambda: _neighbours_figure(findings),
        "time_series_layers": lambda: _layers_figure(findings),
    }


def summary(record: dict[str, Any]) -> list[str]:
    """The main correlations, predictions and ablations."""
    lines = []
    for kind, found in {**record["findings"]["kinds"], "all": record["findings"]["all"]}.items():
        lines.append(
            f"{kind:18} recency {shown(found['recency'])}, neighbours {shown(found['successor'])} "
            f"(other states {shown(found['baseline'])}), commas' share {shown(found['commas'])}"
        )
        if found["prediction"]:
            p = found["prediction"]
            lines.append(
                f"{'':18} |median − truth| {shown(p['error'], 1)}, persistence {shown(p['persistence'], 1)}, "
                f"nats {shown(p['nats'])}, 80 % interval covers {shown(p['covered'])}"
            )
    heads = record["findings"]["heads"]
    lines.append(f"heads {heads['chosen']}: held out {heads['held_out']}, mean of all heads {heads['mean_of_all']:.2f}")
    lines.append(
        f"ablated: {shown(heads['ablated'])} nats, as many others {shown(heads['others'])}; "
        f"log p of the true digit {shown(heads['ablated_truth'])}, others {shown(heads['others_truth'])}"
    )
    return lines


_SHOWN = ("text", "values", "influence", "distribution", "next", "beta", "entropy")


def _one_series(
    model: Any, kind: str, index: int, length: int, generator: np.random.Generator, walk: bool
) -> dict[str, Any]:
    text, numbers = written(KINDS[kind](length, generator))
    series = ls.read_series(model, text)
    attention: dict[int, Tensor] = {}
    hooks = [(f"blocks.{layer}.attn.hook_pattern", _keep(attention, layer)) for layer in range(model.cfg.n_layers)]
    with ScopedModel.of(model).hooked(hooks):
        att = ls.attribute(model, series.prompt, ls.Temperature(), layers=True)
    influence = np.array(series.per_number(att.scores))
    assert att.layers is not None
    commas = sum(
        float(att.scores[stop:end].sum()) for (_, stop), (_, end) in zip(series.digits, series.spans, strict=True)
    )
    by_head = [[series.per_number(row) for row in attention[layer]] for layer in range(model.cfg.n_layers)]
    by_layer = [series.per_number(row) for row in att.layers]
    values = np.array(series.values)
    earlier = np.arange(DIMENSION, len(values) - RECENT)
    references = generator.choice(earlier, min(REFERENCES, len(earlier)), replace=False)
    distribution = _walked(model, series, numbers) if walk else None
    return {
        "kind": kind,
        "index": index,
        "text": text,
        "token_ids": att.token_ids,
        "values": series.values,
        "next": numbers[-1],
        "influence": influence.tolist(),
        "beta": att.prediction.beta,
        "entropy": att.prediction.entropy,
        "recency": float(spearmanr(influence, np.arange(len(values))).statistic),
        "successor": nearness(influence, values),
        "matched": nearness(influence, values, shift=-1),
        "baseline": other_states(influence, values, references),
        "commas": commas / float(influence.sum()),
        "last": float(influence[-1] / influence.sum()),
        "layers": [nearness(row, values) for row in by_layer],
        "layers_last": [row[-1] / sum(row) for row in by_layer],
        "heads": [[nearness(row, values) for row in heads] for heads in by_head],
        "distribution": distribution,
    }


def _keep(found: dict[int, Tensor], layer: int) -> Callable[[Tensor], None]:
    def hook(pattern: Tensor) -> None:
        found[layer] = pattern[0, :, -1].detach().float().cpu()

    return hook


def nearness(scores: Sequence[float], values: Any, shift: int = 0, state: int | None = None) -> float:
    """Partial Spearman correlation, recency held fixed, of a number's score with how near the state before it is to
    the current state: between −1 and 1, positive where what followed similar states scores high.

    Args:
        scores: one for each number.
        values: the numbers.
        shift: −1 for the score of the last number of each state, instead of the number that followed it.
        state: the state before this number instead of the current one, at the end.
    """
    scores, values = np.asarray(scores), np.asarray(values)
    at = len(values) if state is None else state
    current = values[at - DIMENSION : at]
    candidates = np.array([i for i in range(DIMENSION, len(values) - RECENT) if i != at])
    distances = np.array([np.linalg.norm(values[i - DIMENSION : i] - current) for i in candidates])
    return partial_spearman(scores[candidates + shift], -distances, candidates)


def partial_spearman(a: Any, b: Any, held: Any) -> float:
    """Spearman correlation of a and b with the linear effect of held's ranks taken out of both; NaN for constants."""
    ranks = [rankdata(values) for values in (a, b, held)]
    if any(np.ptp(values) == 0 for values in ranks):
        return float("nan")
    ab, ah, bh = (float(np.corrcoef(ranks[i], ranks[j])[0, 1]) for i, j in ((0, 1), (0, 2), (1, 2)))
    left = (1 - ah**2) * (1 - bh**2)
    return (ab - ah * bh) / left**0.5 if left > 1e-12 else float("nan")


def other_states(scores: Sequence[float], values: Any, references: Sequence[int]) -> float:
    """The baseline of `nearness`: its mean with the states before other numbers in place of the current one."""
    found = [nearness(scores, values, state=int(state)) for state in references]
    return float(np.mean([value for value in found if np.isfinite(value)] or [np.nan]))


def _walked(model: Any, series: ls.Series, numbers: Sequence[int]) -> dict[str, Any]:
    found = ls.value_distribution(model, series, least=0.002)
    truth, last = numbers[-1], numbers[-2]
    return {
        "values": found.values,
        "probabilities": found.probabilities,
        "unresolved": found.unresolved,
        "no_number": found.no_number,
        "error": abs(found.quantile(0.5) - truth),
        "persistence": abs(last - truth),
        # what is unresolved is spread over a hundred values at most, so this is near an upper bound
        "nats": -float(np.log(found.probability(truth) + found.unresolved / 100)),
        "covered": float(found.quantile(0.1) <= truth <= found.quantile(0.9)),
    }


def _by_kind(items: Sequence[dict[str, Any]], seed: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: mean_interval([item[name] for item in items], seed)
        for name in ("recency", "successor", "matched", "baseline", "commas", "last")
    }
    found["specific"] = mean_interval([item["successor"] - item["baseline"] for item in items], seed)
    n_layers = len(items[0]["layers"])
    for name in ("layers", "layers_last"):
        found[name] = [mean_interval([item[name][layer] for item in items], seed) for layer in range(n_layers)]
    walked = [item["distribution"] for item in items if item["distribution"] is not None]
    found["prediction"] = {
        name: mean_interval([item[name] for item in walked], seed)
        for name in ("error", "persistence", "nats", "covered", "unresolved", "no_number")
    }
    return found


def _heads(model: Any, items: Sequence[dict[str, Any]], ablated: int, seed: int) -> dict[str, Any]:
    """Heads whose attention falls on what followed similar states: chosen on one half of the series, tested on the
    other, and there ablated."""
    with_neighbours = [item for item in items if item["kind"] in REPEATING]
    halves = [[item for item in with_neighbours if item["index"] % 2 == half] for half in (0, 1)]
    if not halves[1]:  # a quick run has one series of each kind
        halves[1] = halves[0]
    means = [np.nanmean([item["heads"] for item in half], axis=0) for half in halves]
    order = np.argsort(-np.nan_to_num(means[0]), axis=None)[:HEADS_ABLATED]
    chosen = [divmod(int(index), means[0].shape[1]) for index in order]
    generator = np.random.default_rng(seed)
    every = [(layer, head) for layer in range(means[0].shape[0]) for head in range(means[0].shape[1])]
    rest = [head for head in every if head not in chosen]
    effects: dict[str, list[float]] = {"ablated": [], "others": [], "ablated_truth": [], "others_truth": []}
    for item in [item for item in halves[1] if item["index"] < 2 * ablated]:
        others = [rest[int(i)] for i in generator.choice(len(rest), HEADS_ABLATED, replace=False)]
        before = final_state(model, item["token_ids"])
        digit = model.tokenizer.convert_tokens_to_ids(f"{item['next']:02d}"[0])
        for name, heads in (("ablated", chosen), ("others", others)):
            after = _without(model, item["token_ids"], heads)
            effects[name].append(before.divergence(after))
            change = before.log_probability_change(after)[digit]
            effects[f"{name}_truth"].append(float(change))
    return {
        "map": np.nanmean([item["heads"] for item in with_neighbours], axis=0).tolist(),
        "chosen": [f"L{layer}H{head}" for layer, head in chosen],
        "chosen_on": [float(means[0][head]) for head in chosen],
        "held_out": [float(means[1][head]) for head in chosen],
        "mean_of_all": float(np.nanmean(means[1])),
        **{name: mean_interval(values, seed) for name, values in effects.items()},
    }


def _without(model: Any, token_ids: Sequence[int], heads: Sequence[tuple[int, int]]) -> FinalState:
    """The final state with the heads' outputs set to their means over the prompt."""

    def hook_for(head: int) -> Callable[[Tensor], Tensor]:
        def hook(z: Tensor) -> Tensor:
            changed = z.clone()
            changed[:, :, head] = z[:, :, head].mean(1, keepdim=True)
            return changed

        return hook

    hooks = [(f"blocks.{layer}.attn.hook_z", hook_for(head)) for layer, head in heads]
    scoped = ScopedModel.of(model)
    return FinalState(scoped.run_to_final_states([token_ids], hooks)[0], scoped.unembedding())


def _examples_figure(examples: dict[str, Any]) -> Any:
    import matplotlib

    shown_kinds = [kind for kind in ("logistic map", "Lorenz", "periodic", "Brownian") if kind in examples]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(5.5, 1.45 * len(shown_kinds) + 0.4)
        grid = figure.add_gridspec(len(shown_kinds), 2, width_ratios=(6, 1))
        points = None
        for row, kind in enumerate(shown_kinds):
            item = examples[kind]
            values, influence = item["values"], item["influence"]
            scale = scale_of(influence, [False] * len(influence))
            axes = figure.add_subplot(grid[row, 0])
            axes.plot(range(len(values)), values, color=HATCH, linewidth=0.8, zorder=1)
            relative = [scale.relative(value) for value in influence]
            points = axes.scatter(
                range(len(values)),
                values,
                c=relative,
                s=[8 + 50 * value for value in relative],
                cmap=colour_map(signed=False),
                vmin=0,
                vmax=1,
                edgecolors=QUIET,
                linewidths=0.4,
                zorder=2,
            )
            axes.plot([len(values)], [item["next"]], "x", color=DEEP_NEGATIVE, markersize=4, zorder=3)
            axes.set_ylim(5, 95)
            axes.set_title(
                f"{kind} (largest influence {scale.bound:.2g}, entropy {item['entropy']:.2f} nats)",
                loc="left",
                fontsize=7,
            )
            axes.spines[["top", "right"]].set_visible(False)
            beside = figure.add_subplot(grid[row, 1], sharey=axes)
            distribution = item["distribution"]
            # Edges, since a distribution on one number would be a bar of a hair's breadth.
            beside.barh(
                distribution["values"], distribution["probabilities"], height=1.0, color=POSITIVE, edgecolor=POSITIVE,
                linewidth=0.8,
            )  # fmt: skip
            beside.plot(
                [1.0], [item["next"]], marker="x", color=DEEP_NEGATIVE, markersize=4, clip_on=False,
                transform=beside.get_yaxis_transform(),
            )  # fmt: skip
            beside.tick_params(labelleft=False)
            beside.spines[["top", "right"]].set_visible(False)
            beside.set_xlim(0)
            if row == 0:
                beside.set_title("predicted", fontsize=7)
            if row + 1 == len(shown_kinds):
                axes.set_xlabel("number in the series (cross: the true next one)")
                beside.set_xlabel("probability")
        bar = figure.colorbar(points, ax=figure.axes, location="bottom", shrink=0.5, aspect=40, pad=0.02)
        bar.outline.set_linewidth(0.4)
        bar.set_label("influence (Temperature Scope) relative to the largest of the series")
    return figure


def _neighbours_figure(findings: dict[str, Any]) -> Any:
    import matplotlib

    rows = {**findings["kinds"], "all": findings["all"]}
    measured = {
        "successor": ("what followed the nearest states", DEEP_POSITIVE, "o"),
        "baseline": ("the same for other states", HATCH, "s"),
        "recency": ("how recent", NEGATIVE, "D"),
    }
    with matplotlib.rc_context(STYLE):
        figure = new_figure(5.5, 0.28 * len(rows) + 0.9)
        axes = figure.add_subplot()
        for offset, (name, (label, colour, marker)) in zip((-0.22, 0.0, 0.22), measured.items(), strict=True):
            for y, found in enumerate(rows.values()):
                value = found[name]
                if value["low"] is not None:
                    axes.plot([value["low"], value["high"]], [y + offset] * 2, color=colour, linewidth=1)
                axes.plot(
                    [value["mean"]], [y + offset], marker, color=colour, markersize=3.5, label=None if y else label
                )
        axes.axvline(0, color=HATCH, linewidth=0.6)
        axes.set_yticks(range(len(rows)), list(rows))
        axes.invert_yaxis()
        ends = [found[name][end] for found in rows.values() for name in measured for end in ("low", "high", "mean")]
        reach = 1.08 * max(abs(end) for end in ends if end is not None)
        axes.set_xlim(-reach, reach)
        axes.set_xlabel("Spearman with a number's influence (nearness: recency held fixed), mean and 95% interval")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=3, frameon=False, fontsize=6.5)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _layers_figure(findings: dict[str, Any]) -> Any:
    import matplotlib

    heads, found = findings["heads"]["map"], findings["all"]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(5.5, 3.0)
        grid = figure.add_gridspec(2, 2, width_ratios=(2.2, 1))
        for place, (name, colour, unit, title) in enumerate(
            (
                ("layers", DEEP_POSITIVE, "partial Spearman", "Does influence fall on what followed similar states?"),
                ("layers_last", DEEP_NEGATIVE, "part of all scores", "How much of it falls on the last number?"),
            )
        ):
            axes = figure.add_subplot(grid[place, 0])
            values = found[name]
            axes.plot(range(len(values)), [v["mean"] for v in values], color=colour, linewidth=1.2)
            if values[0]["low"] is not None:
                low, high = ([v[end] for v in values] for end in ("low", "high"))
                axes.fill_between(range(len(values)), low, high, color=colour, alpha=0.2, linewidth=0)
            axes.axhline(0, color=HATCH, linewidth=0.6)
            axes.set_ylabel(unit)
            axes.set_title(title, fontsize=7)
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_xlabel("layer (residual stream before it)" if place else "")
        right = figure.add_subplot(grid[:, 1])
        bound = max(abs(value) for row in heads for value in row)
        image = heat_map(right, [[value / bound for value in row] for row in heads], signed=True)
        right.set_xticks(range(len(heads[0])))
        right.set_xlabel("head")
        right.set_ylabel("layer")
        right.set_title("nearness / attention", fontsize=7)
        scale_bar(figure, right, image, f"relative to {bound:.2f}", shrink=0.9)
    return figure
