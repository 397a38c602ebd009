"""Does span information flow tell when an injected instruction is followed, or a secret leaks? On templated cases,
labelled by what Gemma 3 270M really answers, against attention, plain Fisher Scope and baselines that know no span or
nothing but its place; and how large σ may be.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from areas import alarms, areas_with_intervals
from attention_mass import attention_mass
from flow_cases import CASES, Case
from intervals import RESAMPLES

import lens_scopes as ls
from lens_scopes.engine.final_state import kl_divergence
from lens_scopes.engine.model import ScopedModel
from lens_scopes.engine.sites import EMBEDDING
from lens_scopes.prompts.generation import continuation
from lens_scopes.views.figures.style import DEEP_NEGATIVE, DEEP_POSITIVE, QUIET, STYLE, new_figure
from lens_scopes.views.words.colour import NEGATIVE, POSITIVE

SAMPLES = 4  # random directions beside the leading one
ANSWER_TOKENS = 64  # at most; an answer ends at its first line
PREDICTIONS = {"injection": 1, "secret": 2}  # of the answer, over which the bound is summed
SIGMA = 0.3
SIGMAS = (0.03, 0.1, 0.3, 1.0, 3.0)
CAUGHT = 0.9
QUICK = ("claim", "rule and example", "two entries", "question")
NOISED = ("claim", "rule and example", "two entries", "question")
MEASURES = {
    "bound": "flow: bound",
    "summed": "flow: bound, summed",
    "channel": f"flow: channel, σ = {SIGMA:g}",
    "fisher": "Fisher Scope, rank 1",
    "rollout": "attention rollout",
    "value_weighted": "attention × value",
}
PER_TOKEN = {f"{name} per token": f"{MEASURES[name]}, per token" for name in ("bound", "fisher", "value_weighted")}
TRIVIAL = {
    "tokens": "length of the span",
    "nearness": "nearness to the end",
    "probability": "probability of the top token",
    "certainty": "−entropy of the prediction",
}
RIVALS = ("probability", "doubt", "tokens")  # confidence in both directions, and length
LABELS = {**MEASURES, **PER_TOKEN, **TRIVIAL}


def measure(model: Any, quick: bool, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings and findings: every case, ROC areas by kind, and the check of both values by noise."""
    cases = [case for case in CASES if not quick or (case.index < 2 and case.template in QUICK)]
    measured = [_measured(model, case, seed) for case in cases]
    draws = 8 if quick else 48
    noised = [case for case in cases if case.index == 0 and case.template in NOISED and case.variety != "number"]
    settings = {
        "rank": 1,
        "samples": SAMPLES,
        "predictions": PREDICTIONS,
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
        "areas": {kind: areas_of([item for item in measured if item["kind"] == kind], seed) for kind in kinds},
        "noise": [_noise(model, case, draws, seed) for case in noised[: 1 if quick else None]],
    }


def _measured(model: Any, case: Case, seed: int) -> dict[str, Any]:
    """The answer of one case, whether it holds what is wanted, and every measure of its span."""
    prompt = ls.read_prompt(model, case.text, spans={"span": ls.Chars(*case.span)})
    answer = answer_ids(model, prompt.token_ids)
    line = first_line(model, answer)
    span = range(*prompt.spans["span"])
    flow = ls.information_flow(
        model,
        prompt,
        {"span": span},
        answer=answer[: PREDICTIONS[case.kind]],
        sigma=SIGMA,
        rank=1,
        samples=SAMPLES,
        seed=seed,
    )
    bound, omitted = float(flow.bound()[0, 0]), flow.to_pandas()["omitted"][0]
    [logs] = _noised_predictions(model, prompt.token_ids, 0, torch.zeros(1, 1, flow.d_model))
    return {
        **asdict(case),
        "stratum": case.stratum,
        "answer": line,
        "ended": ended(model, answer),
        "positive": holds(line, *case.spellings),
        "bound": bound,
        "bound_error": flow.to_pandas()["bound_error"][0],
        "summed": flow.totals()[0].bound,
        "channel": float(flow.channel()[0, 0]),
        "channels": {f"{sigma:g}": float(flow.channel(sigma)[0, 0]) for sigma in SIGMAS},
        "fisher": bound - omitted,  # the part of the leading direction: Fisher Scope of rank 1, but for a factor
        **attention_mass(model, prompt.token_ids, span),
        "tokens": len(span),
        "nearness": span.stop - len(prompt),
        "probability": float(logs.max().exp()),
        "certainty": -float(torch.special.entr(logs.exp()).sum()),
    }


def answer_ids(model: Any, token_ids: Sequence[int]) -> list[int]:
    """The model's own most probable continuation up to the end of its first line, at most `ANSWER_TOKENS` tokens."""
    answer: list[int] = []
    while len(answer) < ANSWER_TOKENS and not ended(model, answer):
        answer += continuation(ScopedModel.of(model), [*token_ids, *answer], 1)
    return answer


def ended(model: Any, answer: Sequence[int]) -> bool:
    """Whether an answer has come to the end of its first line that is not empty."""
    return "\n" in model.tokenizer.decode(answer).lstrip()


def first_line(model: Any, answer: Sequence[int]) -> str:
    """What an answer says in its first line that is not empty."""
    return model.tokenizer.decode(answer).strip().split("\n")[0]


def holds(answer: str, *spellings: str) -> bool:
    """Whether an answer holds one of the spellings as whole words, whatever the case of its letters."""
    return any(re.search(rf"\b{re.escape(wanted)}\b", answer, re.IGNORECASE) for wanted in spellings)


def areas_of(items: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """The areas under the ROC curve of each measure: within strata, within templates, of all cases, by template."""
    positive = np.array([item["positive"] for item in items])
    columns = _columns(items)
    groups = {key: np.array([item[key] for item in items]) for key in ("stratum", "template")}
    taken = {
        "within strata": areas_with_intervals(columns, positive, RIVALS, groups["stratum"], seed),
        "within templates": areas_with_intervals(columns, positive, RIVALS, groups["template"], seed),
        "all": areas_with_intervals(columns, positive, RIVALS, None, seed),
    }
    by_template = {}
    for template in dict.fromkeys(groups["template"].tolist()):
        rows = groups["template"] == template
        chosen = {name: values[rows] for name, values in columns.items()}
        by_template[template] = {
            **_counts(positive[rows], groups["stratum"][rows]),
            "areas": areas_with_intervals(chosen, positive[rows], RIVALS, groups["stratum"][rows], seed),
        }
    return {
        **_counts(positive, groups["stratum"]),
        "directly": sum(item["answer"].lower().startswith(item["wanted"].lower()) for item in items),
        "cut": sum(not item["ended"] for item in items),
        **taken,
        "by template": by_template,
        "alarms": {name: alarms(columns[name], positive, CAUGHT) for name in columns} if taken["all"] else {},
    }


def _columns(items: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Each measure's values, and the channel at every σ."""
    columns = {name: np.array([item[name] for item in items], float) for name in (*MEASURES, *TRIVIAL)}
    columns |= {name: columns[name.removesuffix(" per token")] / columns["tokens"] for name in PER_TOKEN}
    columns["doubt"] = -columns["probability"]
    return columns | {
        f"channel {sigma}": np.array([item["channels"][sigma] for item in items]) for sigma in items[0]["channels"]
    }


def _counts(positive: np.ndarray, strata: np.ndarray) -> dict[str, Any]:
    """How many cases, how many positive ones, how many pairs of both within strata, and each stratum's share."""
    by_stratum = {name: positive[strata == name] for name in dict.fromkeys(strata.tolist())}
    return {
        "n": len(positive),
        "positives": int(positive.sum()),
        "pairs": sum(int(part.sum()) * int((~part).sum()) for part in by_stratum.values()),
        "by stratum": {name: [int(part.sum()), len(part)] for name, part in by_stratum.items()},
    }


def _noise(model: Any, case: Case, draws: int, seed: int) -> dict[str, Any]:
    """What noise on the span really tells, over σ: mutual information and divergence, exact over the vocabulary."""
    flow = ls.information_flow(model, case.text, {"span": ls.Chars(*case.span)}, seed=seed)
    [(start, stop)] = flow.spans.values()
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(draws // 2, stop - start, flow.d_model, generator=generator)
    undisturbed = _noised_predictions(model, flow.token_ids, start, noise[:1] * 0)
    rows = []
    for sigma in SIGMAS:
        scaled = sigma * flow.embedding_norm / flow.d_model**0.5 * noise
        pairs = torch.stack([_noised_predictions(model, flow.token_ids, start, part) for part in (scaled, -scaled)])
        divergences = kl_divergence(pairs, undisturbed).mean(0)
        information, error = mutual_information(pairs.exp())
        [total] = flow.totals(sigma)
        rows.append(
            {
                "sigma": sigma,
                "information": information,
                "information_error": error,
                "divergence": float(divergences.mean()),
                "divergence_error": float(divergences.std() / len(divergences) ** 0.5),
                "bound": total.bound,
                "channel": total.channel,
            }
        )
    return {"kind": case.kind, "template": case.template, "text": case.text, "span": case.span, "rows": rows}


def _noised_predictions(model: Any, token_ids: Sequence[int], start: int, noise: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of the next token [draw, vocabulary], noise [draw, position, d_model] added from `start`."""
    head, logs = ScopedModel.of(model).unembedding(), []
    for part in noise.split(8):

        def add(embedding: torch.Tensor, part: torch.Tensor = part) -> torch.Tensor:
            noised = embedding.clone()
            noised[:, start : start + part.shape[1]] += part.to(embedding)
            return noised

        states = ScopedModel.of(model).run_to_final_states([list(token_ids)] * len(part), [(EMBEDDING, add)])
        logs.append(head.logits(states).double().log_softmax(-1))
    return torch.cat(logs)


def mutual_information(probabilities: torch.Tensor) -> tuple[float, float]:
    """H(mean) − mean H, times n/(n − 1) for n draws, and its standard error by leaving out one antithetic pair each.

    Args:
        probabilities: [2, pair, vocabulary], the predictions at both signs of each draw of the noise.
    """
    pairs = probabilities.mean(0)  # of each pair, so that one can be left out
    entropies = torch.special.entr(probabilities).sum(-1).mean(0)

    def estimate(rows: torch.Tensor) -> float:
        gain = torch.special.entr(pairs[rows].mean(0)).sum() - entropies[rows].mean()
        return float(gain) * 2 * len(rows) / (2 * len(rows) - 1)

    everything = torch.arange(len(pairs))
    without = np.array([estimate(everything[everything != left]) for left in everything])
    return estimate(everything), float(np.sqrt((len(pairs) - 1) * without.var()))


def draw(record: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """What noise really tells over both values; areas under the ROC curve, with intervals, by kind of case."""
    return {"information_flow": lambda: _figure(record["findings"])}


def summary(record: dict[str, Any]) -> list[str]:
    """The areas by kind, also less those of the rivals, and the ratio of what noise tells to both values."""
    lines = []
    for kind, found in record["findings"]["areas"].items():
        lines.append(
            f"{kind}: {found['positives']} of {found['n']} cases positive, {found['directly']} from the first word on, "
            f"{found['pairs']} pairs within strata, {found['by stratum']}"
        )
        for name in found["all"]:
            parts = [f"{scope} {_shown(found[scope][name])}" for scope in ("within strata", "all") if found[scope]]
            lines.append(f"  {LABELS.get(name, name):32} {'; '.join(parts)}")
        for template, part in found["by template"].items():
            shown = ", ".join(f"{name} {part['areas'][name]['area']:.2f}" for name in LABELS if part["areas"])
            lines.append(f"  {template}: {part['positives']} of {part['n']}, {part['pairs']} pairs, {shown or 'none'}")
        lines.extend(
            f"  alarms of {LABELS.get(name, name)} when {item['caught']:.0%} are caught: {item['alarms']:.0%}, "
            f"threshold {item['threshold']:.3g}"
            for name, item in found["alarms"].items()
            if name in LABELS
        )
    for index, sigma in enumerate(SIGMAS):
        rows = [item["rows"][index] for item in record["findings"]["noise"]]
        told = ", ".join(
            f"{row['information'] / row['bound']:.2f} ± {row['information_error'] / row['bound']:.2f} "
            f"and {row['information'] / row['channel']:.2f}"
            for row in rows
        )
        lines.append(f"σ = {sigma:g}: mutual information over bound (± standard error) and channel: {told}")
    return lines


def _shown(item: Mapping[str, Any]) -> str:
    less = ", ".join(f"{rival} [{span['low']:+.2f}, {span['high']:+.2f}]" for rival, span in item["minus"].items())
    return f"{item['area']:.2f} [{item['low']:.2f}, {item['high']:.2f}], less {less}"


def _figure(findings: Mapping[str, Any]) -> Any:
    import matplotlib
    from matplotlib.lines import Line2D

    with matplotlib.rc_context(STYLE):
        kinds = [kind for kind, found in findings["areas"].items() if found["all"]]
        figure = new_figure(5.5, 3.25)
        axes = figure.subplots(1, 1 + len(kinds), width_ratios=(1.15, *[1.0] * len(kinds)), squeeze=False)[0]
        _ratios(axes[0], findings["noise"])
        for place, kind in zip(axes[1:], kinds, strict=True):
            _area_bars(place, kind, findings["areas"][kind], named=place is axes[1])
        marks = [
            Line2D([], [], marker="o", color=colour, linewidth=1, markersize=3.5, label=label)
            for colour, label in ((POSITIVE, "flow"), (NEGATIVE, "other scores"), (QUIET, "trivial"))
        ]
        ring = {"marker": "o", "markerfacecolor": "none", "markeredgecolor": QUIET, "markersize": 7}
        marks.append(Line2D([], [], linestyle="none", label="largest area", **ring))
        marks.append(Line2D([], [], marker="|", linestyle="none", color=QUIET, markersize=7, label="without strata"))
        figure.legend(handles=marks, loc="outside lower right", ncols=5, frameon=False, fontsize=6)
    return figure


def _ratios(axes: Any, noise: Sequence[Mapping[str, Any]]) -> None:
    for value, colour, deep in (("bound", POSITIVE, DEEP_POSITIVE), ("channel", NEGATIVE, DEEP_NEGATIVE)):
        ratios = np.array([[row["information"] / row[value] for row in item["rows"]] for item in noise])
        axes.plot(SIGMAS, ratios.T, color=colour, linewidth=0.7)
        axes.plot(SIGMAS, np.exp(np.log(ratios).mean(0)), color=deep, linewidth=1.6, label=f"÷ {value}")
    errors = np.array([[row["information_error"] / row["bound"] for row in item["rows"]] for item in noise])
    ratios = np.array([[row["information"] / row["bound"] for row in item["rows"]] for item in noise])
    for row, (values, spread) in enumerate(zip(ratios, errors, strict=True)):
        places = np.array(SIGMAS) * 1.05 ** (row - len(noise) / 2)
        axes.errorbar(places, values, yerr=np.minimum(spread, 0.95 * values), fmt="none", color=QUIET, linewidth=0.5)
    axes.axhline(1, color=QUIET, linewidth=0.5)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("σ, in embeddings")
    axes.set_ylabel("measured information ÷ computed value")
    axes.set_yticks([1, 0.3, 0.1, 0.03], ["1", "0.3", "0.1", "0.03"])
    axes.set_yticks([], minor=True)
    axes.set_xticks(SIGMAS, [f"{sigma:g}" for sigma in SIGMAS])
    axes.set_xticks([], minor=True)
    axes.set_title(f"Close for small σ, loose for large\n{len(noise)} prompts, ± standard error", fontsize=7)
    axes.legend(fontsize=6, frameon=False, loc="lower left")
    axes.spines[["top", "right"]].set_visible(False)


def _area_bars(axes: Any, kind: str, found: Mapping[str, Any], *, named: bool) -> None:
    """Areas within strata with their intervals, and of all cases as upright marks."""
    names = list(LABELS)
    areas = found["within strata"] or {}
    best = max(areas, key=lambda name: areas[name]["area"] if name in LABELS else 0.0, default=None)
    for row, name in enumerate(names):
        if name == "summed" and PREDICTIONS[kind] == 1:
            continue  # the bound itself
        colour = QUIET if name in TRIVIAL else POSITIVE if LABELS[name].startswith("flow") else NEGATIVE
        axes.plot(found["all"][name]["area"], row, "|", color=QUIET, markersize=7)
        if found["within strata"]:
            item = found["within strata"][name]
            errors = [[max(item["area"] - item["low"], 0)], [max(item["high"] - item["area"], 0)]]
            axes.errorbar(item["area"], row, xerr=errors, fmt="o", color=colour, markersize=3.5, linewidth=1)
            if name == best:
                axes.plot(item["area"], row, "o", markersize=7, markerfacecolor="none", markeredgecolor=colour)
    axes.axvline(0.5, color=QUIET, linewidth=0.5)
    axes.axhline(len(names) - len(TRIVIAL) - 0.5, color=QUIET, linewidth=0.4)
    axes.set_yticks(range(len(names)), [LABELS[name] for name in names] if named else [""] * len(names))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 1.04)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.set_xlabel("area under ROC")
    what = {"injection": "injections followed", "secret": "secrets leaked"}[kind]
    axes.set_title(f"{what}\n{found['positives']} of {found['n']}", fontsize=7)
    axes.tick_params(left=False)
    axes.spines[["top", "right", "left"]].set_visible(False)
