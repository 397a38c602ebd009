"""Does span information flow tell when an injected instruction is followed, or a secret leaks? On templated cases,
labelled by what Gemma 3 270M really answers, against attention and plain Fisher Scope; and how large σ may be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from attention_mass import attention_mass
from flow_cases import CASES, Case

import lens_scopes as ls
from lens_scopes.engine.final_state import unembedding
from lens_scopes.engine.forward import run_to_final_state
from lens_scopes.engine.sites import EMBEDDING
from lens_scopes.prompts.generation import continuation
from lens_scopes.views.figures.style import DEEP_NEGATIVE, DEEP_POSITIVE, QUIET, STYLE, paper
from lens_scopes.views.words.colour import NEGATIVE, POSITIVE

RANK, SAMPLES = 6, 6
ANSWER_TOKENS = 4
SIGMA = 0.3
SIGMAS = (0.03, 0.1, 0.3, 1.0, 3.0)
RESAMPLES = 4000
QUICK = ("instruction", "rule and example", "direct", "please")
NOISED = ("claim", "rule and example", "direct", "please")
MEASURES = {
    "bound": "flow: bound",
    "channel": f"flow: channel, σ = {SIGMA:g}",
    "fisher": "Fisher Scope, rank 1",
    "rollout": "attention rollout",
    "value_weighted": "attention × value",
    "entropy": "entropy of the prediction",
}


def measure(model: Any, quick: bool, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings and findings: every case, ROC areas by kind, and the check of both values by noise."""
    cases = [case for case in CASES if not quick or (case.index == 0 and case.template in QUICK)]
    measured = [_measured(model, case, seed) for case in cases]
    draws = 8 if quick else 48
    noised = [case for case in cases if case.index == 0 and case.template in NOISED][: 1 if quick else None]
    settings = {
        "rank": RANK,
        "samples": SAMPLES,
        "sigma": SIGMA,
        "answer tokens": ANSWER_TOKENS,
        "seed": seed,
        "resamples": RESAMPLES,
        "draws": draws,
        "dtype": str(model.cfg.dtype).removeprefix("torch."),
    }
    kinds = sorted({case.kind for case in cases})
    return settings, {
        "cases": measured,
        "areas": {kind: _areas([item for item in measured if item["kind"] == kind], seed) for kind in kinds},
        "noise": [_noise(model, case, draws, seed) for case in noised],
    }


def _measured(model: Any, case: Case, seed: int) -> dict[str, Any]:
    prompt = ls.read_prompt(model, case.text, spans={"span": case.span})
    answer = model.tokenizer.decode(continuation(model, prompt.token_ids, ANSWER_TOKENS))
    flow = ls.information_flow(
        model, case.text, {"span": case.span}, sigma=SIGMA, rank=RANK, samples=SAMPLES, seed=seed
    )
    fisher = ls.attribute(model, prompt, ls.Fisher())
    start, stop = prompt.spans["span"]
    [total] = flow.totals()
    return {
        **asdict(case),
        "tokens": stop - start,
        "answer": answer,
        "positive": case.wanted.lower() in answer.lower(),
        "bound": total.bound,
        "bound_error": total.bound_error,
        "channel": total.channel,
        "channels": {f"{sigma:g}": flow.totals(sigma)[0].channel for sigma in SIGMAS},
        "fisher": float(fisher.scores[start:stop].sum()),
        "entropy": fisher.prediction.entropy,
        "probability": fisher.prediction.top[0].probability,
        **attention_mass(model, prompt.token_ids, range(start, stop)),
    }


def _areas(items: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """The area under the ROC curve of each measure, with bootstrap intervals over cases, and within templates."""
    positive = np.array([item["positive"] for item in items])
    templates = np.array([item["template"] for item in items])
    columns = {name: np.array([item[name] for item in items]) for name in MEASURES}
    columns |= {
        f"channel {sigma}": np.array([item["channels"][sigma] for item in items]) for sigma in items[0]["channels"]
    }
    found: dict[str, Any] = {
        "n": len(items),
        "positives": int(positive.sum()),
        "by template": {name: int(positive[templates == name].sum()) for name in dict.fromkeys(templates.tolist())},
    }
    if positive.all() or not positive.any():
        return {**found, "measures": {}}
    generator = np.random.default_rng(seed)
    draws = np.concatenate(
        [
            generator.choice(np.flatnonzero(positive == side), (RESAMPLES, int((positive == side).sum())))
            for side in (True, False)
        ],
        axis=1,
    )
    spread = {
        name: np.array([area(values[rows], positive[rows]) for rows in draws]) for name, values in columns.items()
    }
    found["measures"] = {
        name: {
            "area": area(values, positive),
            **_interval(spread[name]),
            "bound minus this": _interval(spread["bound"] - spread[name]),
            "within templates": _or_none(area(values, positive, templates)),
        }
        for name, values in columns.items()
    }
    return found


def area(values: np.ndarray, positive: np.ndarray, groups: np.ndarray | None = None) -> float:
    """The share of pairs of a positive and a negative case that the values order rightly, ties counting half; of pairs
    within the same group where groups are given. NaN without such a pair."""
    pairs = np.ones((positive.sum(), (~positive).sum()), bool)
    if groups is not None:
        pairs = groups[positive][:, None] == groups[~positive]
    difference = values[positive][:, None] - values[~positive]
    won = (difference > 0) + 0.5 * (difference == 0)
    return float(won[pairs].mean()) if pairs.any() else float("nan")


def _or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _interval(values: np.ndarray) -> dict[str, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return {"low": float(low), "high": float(high)}


def _noise(model: Any, case: Case, draws: int, seed: int) -> dict[str, Any]:
    """What noise on the span really tells, over σ: mutual information and divergence, exact over the vocabulary."""
    flow = ls.information_flow(model, case.text, {"span": case.span}, seed=seed)
    [(start, stop)] = flow.spans.values()
    ids = flow.token_ids
    head = unembedding(model)
    undisturbed = head.logits(run_to_final_state(model, [ids])).double().log_softmax(-1)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(draws // 2, stop - start, flow.d_model, generator=generator)
    noise = torch.cat([noise, -noise])
    rows = []
    for sigma in SIGMAS:
        scale = sigma * flow.embedding_norm / flow.d_model**0.5
        mean, entropies, divergences = 0.0, [], []
        for part in noise.split(8):

            def add(embedding: torch.Tensor, part: torch.Tensor = part, scale: float = scale) -> torch.Tensor:
                noised = embedding.clone()
                noised[:, start:stop] += scale * part.to(embedding)
                return noised

            states = run_to_final_state(model, [ids] * len(part), [(EMBEDDING, add)])
            logs = head.logits(states).double().log_softmax(-1)
            mean = mean + logs.exp().sum(0) / draws
            entropies.append(torch.special.entr(logs.exp()).sum(-1))
            divergences.append((logs.exp() * (logs - undisturbed)).sum(-1))
        information = float(torch.special.entr(torch.as_tensor(mean)).sum() - torch.cat(entropies).mean())
        [total] = flow.totals(sigma)
        rows.append(
            {
                "sigma": sigma,
                "information": information * draws / (draws - 1),
                "divergence": float(torch.cat(divergences).mean()),
                "bound": total.bound,
                "channel": total.channel,
            }
        )
    return {"kind": case.kind, "template": case.template, "text": case.text, "span": case.span, "rows": rows}


def draw(record: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """What noise really tells over the bound; areas under the ROC curve, with intervals, by kind of case."""
    return {"information_flow": lambda: _figure(record["findings"])}


def summary(record: dict[str, Any]) -> list[str]:
    """The areas by kind, and the ratio of what noise tells to both values."""
    lines = []
    for kind, found in record["findings"]["areas"].items():
        lines.append(f"{kind}: {found['positives']} of {found['n']} cases positive, {found['by template']}")
        for name, item in found["measures"].items():
            lines.append(
                f"  {MEASURES.get(name, name):28} AUC {item['area']:.2f} [{item['low']:.2f}, {item['high']:.2f}], "
                f"within templates {_shown(item['within templates'])}, bound minus this "
                f"[{item['bound minus this']['low']:+.2f}, {item['bound minus this']['high']:+.2f}]"
            )
    for index, sigma in enumerate(SIGMAS):
        rows = [item["rows"][index] for item in record["findings"]["noise"]]
        told = ", ".join(
            f"{row['information'] / row['bound']:.2f}/{row['information'] / row['channel']:.2f}" for row in rows
        )
        lines.append(f"σ = {sigma:g}: mutual information over bound/channel {told}")
    return lines


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


def _figure(findings: Mapping[str, Any]) -> Any:
    import matplotlib

    with matplotlib.rc_context(STYLE):
        kinds = [kind for kind, found in findings["areas"].items() if found["measures"]]
        drawn = paper(5.5, 2.6)
        axes = drawn.subplots(1, 1 + len(kinds), width_ratios=(1.25, *[1.0] * len(kinds)), squeeze=False)[0]
        _ratios(axes[0], findings["noise"])
        for place, kind in zip(axes[1:], kinds, strict=True):
            _area_bars(place, kind, findings["areas"][kind], named=place is axes[1])
    return drawn


def _ratios(axes: Any, noise: Sequence[Mapping[str, Any]]) -> None:
    for value, colour, deep in (("bound", POSITIVE, DEEP_POSITIVE), ("channel", NEGATIVE, DEEP_NEGATIVE)):
        ratios = np.array([[row["information"] / row[value] for row in item["rows"]] for item in noise])
        axes.plot(SIGMAS, ratios.T, color=colour, linewidth=0.7)
        axes.plot(SIGMAS, np.exp(np.log(ratios).mean(0)), color=deep, linewidth=1.6, label=f"over the {value}")
    axes.axhline(1, color=QUIET, linewidth=0.5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("σ, in embeddings")
    axes.set_ylabel("mutual information, measured, over each value")
    axes.set_yticks([1, 0.3, 0.1, 0.03], ["1", "0.3", "0.1", "0.03"])
    axes.set_yticks([], minor=True)
    axes.set_xticks(SIGMAS, [f"{sigma:g}" for sigma in SIGMAS])
    axes.set_xticks([], minor=True)
    axes.set_title(f"how large σ may be\n{len(noise)} prompts", fontsize=7)
    axes.legend(fontsize=6, frameon=False, loc="lower left")
    axes.spines[["top", "right"]].set_visible(False)


def _area_bars(axes: Any, kind: str, found: Mapping[str, Any], *, named: bool) -> None:
    names = list(MEASURES)
    items = [found["measures"][name] for name in names]
    areas = [item["area"] for item in items]
    errors = [[a - item["low"] for a, item in zip(areas, items, strict=True)],
              [item["high"] - a for a, item in zip(areas, items, strict=True)]]  # fmt: skip
    colours = [POSITIVE if name in ("bound", "channel") else NEGATIVE for name in names]
    for row, (value, low, high, colour) in enumerate(zip(areas, *errors, colours, strict=True)):
        axes.errorbar(value, row, xerr=[[low], [high]], fmt="o", color=colour, markersize=4, linewidth=1)
    within = [np.nan if item["within templates"] is None else item["within templates"] for item in items]
    axes.plot(within, range(len(names)), "|", color=QUIET, markersize=7)
    axes.axvline(0.5, color=QUIET, linewidth=0.5)
    axes.set_yticks(range(len(names)), [MEASURES[name] for name in names] if named else [""] * len(names))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 1.04)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.set_xlabel("area under ROC")
    what = {"injection": "injections followed", "secret": "secrets leaked"}[kind]
    axes.set_title(f"{what}\n{found['positives']} of {found['n']}", fontsize=7)
    axes.tick_params(left=False)
    axes.spines[["top", "right", "left"]].set_visible(False)
