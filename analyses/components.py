"""How well gradients, rules on the backward pass and paths predict what ablating a head or an MLP does.

python analyses/components.py LAMBADA.json                measures what is missing of the passages, then sums it up
python analyses/components.py LAMBADA.json --limit 60     only those before the 60th
python analyses/components.py LAMBADA.json --measured     sums up what is there, and measures nothing

Explained is the logit of the most probable token after the last 64 tokens before a passage's target. Each head's z and
each MLP's output is set to a baseline at every position: zero, its mean over the prompt, or what it is there in another
prompt, the last 64 tokens of the passage before. The prediction is Σ g · (baseline − output), as
`inspect_heads` has it. Variants differ in g alone: the gradient of the model, under rules, or at points where all
components, or the embeddings, are a part of the way to the baseline. Each passage is on disk, under out/components/,
before the next one begins. The first ten are for choosing; findings are of the others, on which the variants that were
far behind are not measured.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from einops import einsum
from intervals import mean_interval, shown
from records import RESULTS, ROOT, load_record, save_record, shortened_floats
from scipy.stats import pearsonr, spearmanr
from torch import Tensor

import lens_scopes as ls
from lens_scopes.attribution.component_ablation import baseline_activations, component_site
from lens_scopes.attribution.prompt_position import PromptPosition
from lens_scopes.attribution.resolved import ResolvedSpec
from lens_scopes.engine.backward import read_activations, trace
from lens_scopes.engine.final_state import FinalState
from lens_scopes.engine.model import Batch, Hook, ScopedModel
from lens_scopes.engine.sites import EMBEDDING
from lens_scopes.evaluation.statistics.comparison import MIN_PAIRS, holm, paired_test
from lens_scopes.results.storage.writing import write_whole
from lens_scopes.scopes.paths import Component
from lens_scopes.scopes.spec import Spec

TOKENS, PASSAGES, CHOSEN_ON = 64, 60, 10
BASELINES = ("mean", "zero", "contrast")
RULES: dict[str, tuple[str, ...]] = {
    "gradient": (),
    **{name: (name,) for name in ("norms", "patterns", "identity", "half-gate", "half-av", "attnlrp", "gim", "relp")},
    "norms, patterns": ("norms", "patterns"),
    "norms, identity": ("norms", "identity"),
    "norms, identity, half-gate": ("norms", "identity", "half-gate"),
}
SHARES = {"components": (0.0, 0.5, 0.75), "embeddings": (0.25, 0.5, 0.75)}
"""Points: which share of each output, or embedding, is the prompt's; the rest is the baseline's."""
MIXTURES: dict[str, dict[str, float]] = {
    "gradient and RelP": {"gradient": 0.5, "relp": 0.5},
    "gradient and constant norms, patterns": {"gradient": 0.5, "norms, patterns": 0.5},
    "three gradients": {"relp": 1 / 3, "half-av": 1 / 3, "embeddings 0.75": 1 / 3},
    "four gradients": {"norms, patterns": 0.25, "half-av": 0.25, "embeddings 0.75": 0.25, "components 0.5": 0.25},
    "two points": {"gradient": 0.5, "components 0": 0.5},
    "Simpson": {"gradient": 1 / 6, "components 0.5": 4 / 6, "components 0": 1 / 6},
    "components, half": {"components 0.5": 1.0},
    "components, last half": {"gradient": 0.5, "components 0.5": 0.5},
    "embeddings, half": {"embeddings 0.5": 1.0},
    "embeddings, last quarter": {"gradient": 0.5, "embeddings 0.75": 0.5},
    "embeddings, last half": {"gradient": 1 / 3, "embeddings 0.75": 1 / 3, "embeddings 0.5": 1 / 3},
}
"""Variants that average the effects of several gradients. "three gradients" and "four gradients" were the best means
for MLPs, by mean-ablation and against another prompt, of all sets of up to four on the passages for choosing."""
FAR_BEHIND = (
    *("norms", "identity", "half-gate", "norms, identity", "norms, identity, half-gate"),
    *("components 0.75", "embeddings 0.25"),
)
"""Gradients that are measured on the passages for choosing alone."""
VARIANTS = (*(name for name in RULES if name not in FAR_BEHIND), *MIXTURES)
KINDS = ("heads", "MLPs")
METRICS = ("spearman", "pearson")


# One passage


def measure(
    model: Any,
    token_ids: Sequence[int],
    contrast: Sequence[int],
    baselines: Sequence[str] = BASELINES,
    left_out: Sequence[str] = (),
) -> dict[str, Any]:
    """Effects of every component on the logit of the most probable token, real and predicted, by baseline.

    Args:
        contrast: another prompt of as many tokens.
        left_out: gradients that are not measured.
    """
    question = Question.of(model, token_ids)
    moved_to = {name: baseline_of(question, question.outputs, name, contrast) for name in baselines}
    # Gradients at the prompt and on the way of its embeddings serve every baseline.
    gradients = {
        name: gradient(question, ls.Rules(*rules) if rules else None)
        for name, rules in RULES.items()
        if name not in left_out
    }
    for share in SHARES["embeddings"]:
        if (name := f"embeddings {share:g}") not in left_out:
            gradients[name] = gradient(question, None, move_embeddings(question, share))
    found: dict[str, Any] = {"tokens": len(token_ids), "target": question.target, "actual": {}, "predicted": {}}
    for name, targets in moved_to.items():
        on_the_way = {
            f"components {share:g}": gradient(question, None, move_components(question, targets, share))
            for share in SHARES["components"]
            if f"components {share:g}" not in left_out
        }
        found["actual"][name] = actual_effects(question, targets)
        found["predicted"][name] = {
            variant: predicted_effects(question, targets, g) for variant, g in (gradients | on_the_way).items()
        }
    return found


@dataclass(frozen=True)
class Question:
    """A prompt's prediction, its direction, and what all components put out."""

    model: ScopedModel
    resolved: ResolvedSpec
    place: PromptPosition
    state: FinalState
    direction: Tensor
    outputs: dict[str, Tensor]

    @classmethod
    def of(cls, model: Any, token_ids: Sequence[int]) -> Question:
        """The logit of the most probable token after a prompt."""
        resolved = ResolvedSpec.of(model, Spec.read("semantic"))
        place = PromptPosition.of_spec(resolved.model, list(token_ids), -1, resolved.spec)
        traced = trace(resolved.model, place.sequences, component_sites(resolved.model), (), place.reads)
        (state,) = resolved.final_states(traced, place.targets)
        (direction,) = resolved.directions(place, [state]).by_prediction
        outputs = {name: traced.activations[name].detach() for name in component_sites(resolved.model)}
        return cls(resolved.model, resolved, place, state, direction, outputs)

    @property
    def target(self) -> str:
        """The token explained."""
        token = self.resolved.predicted_target(self.state)
        return "" if token is None else token.token


def component_sites(model: ScopedModel) -> list[str]:
    """Where heads and MLPs put out what they say, layer by layer."""
    return [component_site((layer, head)) for layer in range(model.n_layers) for head in (0, None)]


def actual_effects(question: Question, moved_to: Mapping[str, Tensor]) -> dict[str, list[float]]:
    """The change of the logit when each component alone is set to a baseline. Only the layers from its own on run."""
    model, place = question.model, question.place
    starts = [f"blocks.{layer}.hook_resid_pre" for layer in range(model.n_layers)]
    before = read_activations(model, place.sequences, starts)
    effects: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for layer, start in enumerate(starts):
        components: list[Component] = [(layer, head) for head in (*range(model.cfg.n_heads), None)]
        batch = Batch.of(model, place.sequences * len(components))
        residual = batch.token_ids if layer == 0 else before[start].expand(len(components), -1, -1)
        with torch.no_grad(), model.hooked(_ablate_each(components, moved_to)):
            states = model.run_slice(batch, residual, layer, model.n_layers)
        for (_, head), y in zip(components, states.to(question.state.y), strict=True):
            after = FinalState.several(y[None], question.resolved.unembedding, place.targets)
            effects[KINDS[head is None]].append(question.resolved.change(place, [question.state], after))
    return effects


def _ablate_each(components: Sequence[Component], moved_to: Mapping[str, Tensor]) -> list[tuple[str, Hook]]:
    """Row by row another component of one layer is at its baseline."""

    def heads(z: Tensor) -> Tensor:
        z = z.clone()
        for row, (_, head) in enumerate(components):
            if head is not None:
                z[row, :, head] = moved_to[component_site(components[0])][0, :, head]
        return z

    def mlp(out: Tensor) -> Tensor:
        out = out.clone()
        for row, component in enumerate(components):
            if component[1] is None:
                out[row] = moved_to[component_site(component)][0]
        return out

    return [(component_site(components[0]), heads), (component_site(components[-1]), mlp)]


def baseline_of(
    question: Question, activations: Mapping[str, Tensor], name: str, contrast: Sequence[int] = ()
) -> dict[str, Tensor]:
    """What activations are set to."""
    if name == "contrast":
        return read_activations(question.model, [contrast], list(activations))
    return baseline_activations(question.model, question.place, activations, name, torch.Generator().manual_seed(0))


def gradient(
    question: Question, path: ls.Path | None = None, changes: Sequence[tuple[str, Hook]] = ()
) -> dict[str, Tensor]:
    """g at every component's output, by rules or at another point."""
    model, place = question.model, question.place
    hooks = [] if path is None else path.hooks(model)
    traced = trace(model, place.sequences, list(question.outputs), hooks, place.reads, changes)
    gradients = traced.gradients(question.direction, keep_graph=False)
    return {name: gradients[name] for name in question.outputs}


def move_components(question: Question, moved_to: Mapping[str, Tensor], share: float) -> list[tuple[str, Hook]]:
    """Every output takes a value between the baseline and its own, and gradient flows as ever."""

    def to(target: Tensor) -> Hook:
        return lambda activation: activation + (target - activation).detach()

    points = {name: moved_to[name] + share * (value - moved_to[name]) for name, value in question.outputs.items()}
    return [(name, to(point)) for name, point in points.items()]


def move_embeddings(question: Question, share: float) -> list[tuple[str, Hook]]:
    """Every embedding takes a value between the prompt's mean and its own."""
    own = read_activations(question.model, question.place.sequences, [EMBEDDING])
    (start,) = baseline_of(question, own, "mean").values()
    point = start + share * (own[EMBEDDING] - start)
    return [(EMBEDDING, lambda _: point)]


def predicted_effects(
    question: Question, moved_to: Mapping[str, Tensor], gradients: Mapping[str, Tensor]
) -> dict[str, list[float]]:
    """Σ g · (baseline − output) of each component."""
    effects: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for name, output in question.outputs.items():
        amounts = (gradients[name] * (moved_to[name] - output)).double()
        if name.endswith("hook_z"):
            effects["heads"] += einsum(amounts, "row pos head d -> head").tolist()
        else:
            effects["MLPs"].append(float(amounts.sum()))
    return effects


# All passages


def findings(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Agreement of each variant with ablation over the passages, and its paired difference to the gradient."""
    found: dict[str, Any] = {"passages": len(records)}
    for kind in KINDS:
        for baseline in BASELINES:
            for metric in METRICS:
                values = {
                    name: [agreement(record, name, kind, baseline, metric) for record in records] for name in VARIANTS
                }
                rows = {name: mean_interval(column) for name, column in values.items()}
                if len(records) >= MIN_PAIRS:
                    finite = [name for name in VARIANTS if all(map(math.isfinite, values[name]))]
                    others = [name for name in finite if name != "gradient"]
                    tests = [paired_test(values[name], values["gradient"]) for name in others]
                    corrected = holm([test.p for test in tests])
                    for name, test, p in zip(others, tests, corrected, strict=True):
                        rows[name] |= {"difference": test.difference, "p": test.p, "holm": p}
                found.setdefault(kind, {}).setdefault(baseline, {})[metric] = rows
    return found


def agreement(record: Mapping[str, Any], variant: str, kind: str, baseline: str, metric: str) -> float:
    """The correlation of predicted and real effects over one passage's components of a kind; NaN where a variant has no
    finite prediction: a norm after a component has no usable gradient where the output is zero everywhere."""
    actual, predicted = record["actual"][baseline][kind], record["predicted"][baseline]
    parts = MIXTURES.get(variant, {variant: 1.0})
    mixed = [
        sum(weight * predicted[name][kind][index] for name, weight in parts.items()) for index in range(len(actual))
    ]
    if not all(map(math.isfinite, mixed)):
        return math.nan
    correlate: Any = spearmanr if metric == "spearman" else pearsonr
    return float(correlate(mixed, actual).statistic)


def summary(record: Mapping[str, Any]) -> list[str]:
    """The findings as lines, the best of each column first."""
    lines = []
    for kind in KINDS:
        for baseline in BASELINES:
            for metric in METRICS:
                rows = record["findings"][kind][baseline][metric]
                best = sorted(
                    (name for name in rows if rows[name]["mean"] is not None), key=lambda name: -rows[name]["mean"]
                )
                for name in [*best[:5], *(["gradient"] if "gradient" not in best[:5] else [])]:
                    against = f", p {rows[name]['holm']:.2g}" if "holm" in rows[name] else ""
                    lines.append(f"{kind}, {baseline}, {metric}: {name} {shown(rows[name], 3)}{against}")
    return lines


def main(
    passages: Annotated[Path, typer.Argument(help="LAMBADA passages: a JSON list of texts.")],
    limit: Annotated[int, typer.Option(help="Up to which passage.")] = PASSAGES,
    folder: Annotated[Path, typer.Option(help="Where measured passages are kept.")] = ROOT / "out" / "components",
    choosing: Annotated[bool, typer.Option(help="Show the passages for choosing, and save nothing.")] = False,
    sum_up: Annotated[bool, typer.Option("--measured", help="Sum up what is there, and measure nothing.")] = False,
) -> None:
    """Measure passages, and save their statistics into analyses/results/components.json."""
    folder.mkdir(parents=True, exist_ok=True)
    model = ls.load_model()
    texts = json.loads(passages.read_text(encoding="utf-8"))
    for index in () if sum_up else range(limit):
        path = folder / f"{index:03}.json"
        record = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        measured = (record or {"actual": ()})["actual"]
        if missing := [name for name in BASELINES if name not in measured]:
            started = time.process_time()
            token_ids, contrast = (last_tokens(model, texts[place]) for place in (index, index - 1))
            left_out = () if index < CHOSEN_ON else FAR_BEHIND
            found = {"index": index, **measure(model, token_ids, contrast, missing, left_out)}
            found["seconds"] = time.process_time() - started
            if record is not None:  # of an earlier run, with fewer baselines
                found["seconds"] += record["seconds"]
                found |= {part: record[part] | found[part] for part in ("actual", "predicted")}
            write_whole(path, json.dumps(shortened_floats(found), ensure_ascii=False).encode("utf-8") + b"\n")
            typer.echo(f"{path.name}: {found['target']!r}, {found['seconds']:.0f} s", err=True)
    for line in sum_up_passages(model, folder, choosing=choosing):
        typer.echo(line)


def last_tokens(model: Any, text: str) -> list[int]:
    """The last tokens before a passage's target, behind BOS."""
    ids = ls.read_prompt(model, text).token_ids[:-1]
    return [ids[0], *ids[1:][1 - TOKENS :]]


def sum_up_passages(model: Any, folder: Path, *, choosing: bool = False) -> list[str]:
    """The findings of the passages on disk as lines; those that nothing was chosen on are saved."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    records = [record for record in records if (record["index"] < CHOSEN_ON) == choosing]
    if choosing:
        return summary({"findings": findings(records)})
    settings = {
        "chosen on": f"the first {CHOSEN_ON} passages, which are left out here",
        "tokens": TOKENS,
        "explained": "the logit of the most probable token",
        "baselines": BASELINES,
        "rules": RULES,
        "measured on the passages for choosing alone": FAR_BEHIND,
        "mixtures": MIXTURES,
    }
    save_record(RESULTS, "components", model, settings, findings(records), sum(record["seconds"] for record in records))
    return summary(load_record(RESULTS, "components"))


if __name__ == "__main__":
    typer.run(main)
