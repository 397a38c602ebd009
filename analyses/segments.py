"""Which sentences does an answer rest on? Scopes of a few passes against ContextCite and leave-one-sentence-out.

python analyses/segments.py                 measures what is missing of the documents, then sums it up
python analyses/segments.py --limit 40      only those before the 40th
python analyses/segments.py --measured      sums up what is there, and measures nothing
python analyses/segments.py --table         prints the gallery's table from the saved results

The documents are those of `segment_documents.py`, the answers the model's own. Each document is on disk, under
analyses/results/measured/segments/, before the next one begins. Settings were chosen on the first ten documents, which
are not in the results. Matrix products in the body have factors rounded to bfloat16; the document's sentences alone are
eligible.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
from intervals import mean_interval, shown
from records import MEASURED, RESULTS, load_record, save_record, shortened_floats
from segment_documents import document
from torch import Tensor

import lens_scopes as ls
from lens_scopes.engine.model import ScopedModel
from lens_scopes.engine.token_ablation import AblatedPrompt
from lens_scopes.evaluation.metrics.segments import segment_agreement
from lens_scopes.evaluation.statistics.comparison import MIN_PAIRS, holm, paired_test
from lens_scopes.prompts.generation import continuation
from lens_scopes.prompts.groups import segments
from lens_scopes.results.storage.writing import write_whole
from lens_scopes.scopes.comparisons.ablation_method import spread
from lens_scopes.scopes.comparisons.context_cite import logit, random_subsets, segment_weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DOCUMENTS, CHOSEN_ON = 110, 10
ANSWER_TOKENS = 12  # at most; an answer ends at the end of its line
ABLATIONS = (32, 64, 256)
MANY_EVERY = 3  # every how many documents ContextCite runs its largest number of ablations
HELD_OUT, HELD_OUT_SEED, FIT_SEED = 64, 1, 0
TOP = (1, 3, 5)
REFERENCE = "ContextCite-64"
MATMUL = "bfloat16"


@dataclass(frozen=True)
class Scope:
    """A scope with its passes over the prompt and its answer.

    Attributes:
        line: what `attribute` takes; a sentence's score is the sum of its tokens'.
        site: where signed scores are summed over layers and heads, in place of those at the embedding.
        backwards: its backward passes beside one forward pass; None for as many as the answer has tokens.
    """

    line: str
    site: str | None = None
    backwards: int | None = 1


SCOPES = {
    "gradient norm": Scope("logprob"),
    "gradient × input": Scope("logprob+dot-mean"),
    "path, middle": Scope("logprob+dot+path-mean-held@1"),
    "values": Scope("logprob+relative+score_site=hook_v"),
    "values, signed": Scope("logprob+dot+site=hook_v", site="hook_v"),
    "Fisher": Scope("fisher", backwards=None),
    "Fisher at values": Scope("fisher+relative+score_site=hook_v", backwards=None),
}
FADED = {"faded, ½": (0.5,), "faded, ¼ and ¾": (0.25, 0.75), "faded, not at all": (1.0,)}
TRIVIAL = ("closeness", "length", "overlap", "random")
METRICS = ("lds", *(f"top-{k}-drop" for k in TOP))


# One document


def measure(model: Any, index: int) -> dict[str, Any]:
    """Every method's scores of one document's sentences, what they cost, and how well they foretell ablations."""
    item = document(index)
    prompt = ls.read_prompt(model, item.prompt)
    answer = own_answer(model, prompt)
    sentences = segments(prompt, "sentence", item.text)
    scores, cost = ablation_scores(model, prompt, answer, sentences, index)
    for name, scope in SCOPES.items():
        started = time.process_time()
        found = token_scores(model, prompt, answer, scope)
        scores[name] = torch.stack([found[tokens].sum() for tokens in sentences])
        passes = _passes(1, len(answer) if scope.backwards is None else scope.backwards)
        cost[name] = {**passes, "seconds": time.process_time() - started}
    for name, shares in FADED.items():
        started = time.process_time()
        faded = ls.FadedAttention(alphas=shares, within=item.text)
        found = ls.attribute(model, prompt, faded, answer=answer, matmul_dtype=MATMUL).scores.double()
        scores[name] = torch.stack([found[tokens].sum() for tokens in sentences])
        cost[name] = {**_passes(len(shares), len(shares)), "seconds": time.process_time() - started}
    scores |= trivial_scores(item.sentences, item.question, sentences, index)
    judged = segment_agreement(
        _fast(model),
        prompt,
        answer,
        {name: spread(values, sentences, len(prompt)) for name, values in scores.items()},
        within=item.text,
        ablations=HELD_OUT,
        top=TOP,
        seed=HELD_OUT_SEED,
    )
    text = model.tokenizer.decode(answer)
    return {
        "index": index,
        "sentences": len(sentences),
        "tokens": len(prompt),
        "answer": text,
        "expected": item.expected,
        "correct": item.expected in text,
        "evidence": item.evidence,
        "pronoun": item.pronoun,
        "scores": {name: values.tolist() for name, values in scores.items()},
        "cost": cost,
        "judged": {
            name: dict(zip(rows["metric"], rows["value"], strict=True)) for name, rows in judged.groupby("method")
        },
    }


def own_answer(model: Any, prompt: ls.Prompt) -> list[int]:
    """The model's own most probable continuation up to the end of its line, at most ANSWER_TOKENS tokens."""
    answer: list[int] = []
    while len(answer) < ANSWER_TOKENS:
        (token,) = continuation(ScopedModel.of(model), [*prompt.token_ids, *answer], 1)
        if answer and "\n" in model.tokenizer.decode([token]):
            break
        answer.append(token)
    return answer


def ablation_scores(
    model: Any, prompt: ls.Prompt, answer: Sequence[int], sentences: Sequence[Sequence[int]], index: int
) -> tuple[dict[str, Tensor], dict[str, dict[str, float]]]:
    """Those of leave-one-out and of ContextCite, which with fewer ablations takes the first ones of the same draws."""
    ablated = AblatedPrompt(_fast(model), prompt.token_ids, prompt.special, answer, "remove", draws=1)
    own = ablated.masks(sentences)

    def log_probabilities(kept: Tensor) -> tuple[Tensor, float]:
        started = time.process_time()
        masks = (~kept).float() @ own.float() > 0
        after = ablated.outcomes(masks, with_divergence=False).log_probability
        return after, (time.process_time() - started) / len(kept)

    after, each = log_probabilities(~torch.eye(len(sentences), dtype=torch.bool))
    scores = {"leave one out": ablated.clean_log_probability - after}
    cost = {"leave one out": {**_passes(1 + len(sentences)), "seconds": each * len(sentences)}}
    counts = ABLATIONS if index % MANY_EVERY == 0 else ABLATIONS[:-1]
    kept = random_subsets(max(counts), len(sentences), FIT_SEED, with_empty=True)
    after, each = log_probabilities(kept)
    for count in counts:
        outcomes = logit(after[:count]) / len(answer)
        scores[f"ContextCite-{count}"] = segment_weights(kept[:count], outcomes) * len(answer)
        cost[f"ContextCite-{count}"] = {**_passes(1 + count), "seconds": each * count}
    return scores, cost


def token_scores(model: Any, prompt: ls.Prompt, answer: Sequence[int], scope: Scope) -> Tensor:
    """Those of a scope, at the embedding or summed over the layers and heads of a site."""
    att = ls.attribute(model, prompt, scope.line, answer=answer, matmul_dtype=MATMUL)
    if scope.site is None:
        return att.scores.double()
    return torch.stack([values.double().flatten(1).sum(1) for values in att.sites.values()]).sum(0)


def trivial_scores(
    texts: Sequence[str], question: str, sentences: Sequence[Sequence[int]], index: int
) -> dict[str, Tensor]:
    """Those that know nothing of the model: place, length, words shared with the question, chance."""
    asked = _words(question)
    values = {
        "closeness": range(len(texts)),
        "length": map(len, sentences),
        "overlap": (len(asked & _words(text)) for text in texts),
        "random": (Random(f"scores {index} {place}").random() for place in range(len(texts))),
    }
    return {name: torch.tensor([float(value) for value in values[name]], dtype=torch.float64) for name in TRIVIAL}


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def _fast(model: Any) -> ScopedModel:
    return ScopedModel.of(model).with_matmul_dtype(MATMUL)


def _passes(forwards: int, backwards: int = 0) -> dict[str, float]:
    return {"forwards": forwards, "backwards": backwards}


# All documents


def measured(folder: Path) -> list[dict[str, Any]]:
    """The documents on disk that no setting was chosen on, in their order."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
    return [record for record in records if record["index"] >= CHOSEN_ON]


def findings(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means of every method with intervals over documents, paired tests against ContextCite, and what was answered.

    Holm's correction is over all tests of all methods and metrics. A method takes part with the documents on which it
    ran: ContextCite's largest number of ablations ran on some of them alone, and is tested on those.
    """
    methods = list(dict.fromkeys(name for record in records for name in record["judged"]))
    rows: dict[str, Any] = {}
    tests: list[dict[str, Any]] = []
    for name in methods:
        own = [record for record in records if name in record["judged"]]
        rows[name] = {metric: mean_interval([_value(record, name, metric) for record in own]) for metric in METRICS} | {
            "cost": _mean_cost(own, name),
            "evidence first": mean_interval([_leads(record, name) for record in own]),
        }
        for metric in METRICS if name != REFERENCE else ():
            pairs = [(_value(record, name, metric), _value(record, REFERENCE, metric)) for record in own]
            pairs = [pair for pair in pairs if all(map(math.isfinite, pair))]
            if len(pairs) >= MIN_PAIRS:
                test = paired_test(*zip(*pairs, strict=True))
                tests.append({"method": name, "metric": metric, **asdict(test)})
    for test, corrected in zip(tests, holm([test["p"] for test in tests]), strict=True):
        test["p_holm"] = corrected
    return {
        "documents": len(records),
        "correct": sum(record["correct"] for record in records),
        "sentences": mean_interval([record["sentences"] for record in records]),
        "tokens": mean_interval([record["tokens"] for record in records]),
        "methods": rows,
        "tests": tests,
    }


def _value(record: Mapping[str, Any], method: str, metric: str) -> float:
    value = record["judged"][method].get(metric)
    return math.nan if value is None else value


def _leads(record: Mapping[str, Any], method: str) -> float:
    """Whether the sentence that tells the fact asked for has the largest score; not a number where another was told."""
    scores = record["scores"][method]
    return float(scores.index(max(scores)) == record["evidence"]) if record["correct"] else math.nan


def _mean_cost(records: Sequence[Mapping[str, Any]], method: str) -> dict[str, float] | None:
    costs = [record["cost"][method] for record in records if method in record["cost"]]
    if not costs:
        return None
    means = {name: sum(cost[name] for cost in costs) / len(costs) for name in costs[0]}
    return means | {"passes": means["forwards"] + means["backwards"]}


def summary(record: Mapping[str, Any]) -> list[str]:
    """The methods as lines of text, from the best of the linear datamodelling score."""
    found = record["findings"]
    lines = [f"{found['documents']} documents, {found['correct']} answered as the document says"]
    tests = {(test["method"], test["metric"]): test for test in found["tests"]}
    for name, row in sorted(found["methods"].items(), key=lambda item: -item[1]["lds"]["mean"]):
        cost = row["cost"]
        passes = "none" if cost is None else f"{cost['passes']:.1f} ({cost['seconds']:.1f} s)"
        told = "  ".join(f"{metric} {shown(row[metric])}" for metric in METRICS)
        test = tests.get((name, "lds"))
        against = "" if test is None else f"  lds less {REFERENCE} {test['difference']:+.2f}, p {test['p_holm']:.2g}"
        lines.append(f"{name:18} passes {passes:14} {told}{against}")
    return lines


# The gallery's table

ROWS = {
    "ContextCite-256": "ContextCite, 256 ablations",
    "ContextCite-64": "ContextCite, 64",
    "ContextCite-32": "ContextCite, 32",
    "leave one out": "leave one sentence out",
    "faded, ¼ and ¾": "**faded attention at ¼ and ¾**",
    "faded, ½": "faded attention at ½",
    "faded, not at all": "the same slopes at the prompt itself (α = 1)",
    "Fisher": "Fisher, rank 1 over the answer",
    "gradient norm": "gradient norm of log P",
    "Fisher at values": "Fisher at the values",
    "values": "log P at the values (relative)",
    "path, middle": "the same, halfway along the path from the mean",
    "values, signed": "log P at the values (dot)",
    "gradient × input": "gradient × input (dot, from the mean)",
    "overlap": "*words shared with the question*",
    "length": "*length*",
    "closeness": "*closeness to the end*",
    "random": "*random*",
}


def table(record: Mapping[str, Any]) -> list[str]:
    """The methods as lines of a Markdown table: cost, linear datamodelling score, its paired difference, and falls."""
    found = record["findings"]
    tests = {test["method"]: test for test in found["tests"] if test["metric"] == "lds"}
    falls = ("fall without the top sentence", "without the top 3")
    names = ("method", "passes", "seconds", "LDS", f"less {REFERENCE}", *falls)
    lines = [f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]
    for name, label in ROWS.items():
        row = found["methods"][name]
        cost, test, count = row["cost"], tests.get(name), row["lds"]["n"]
        few = "" if count == found["documents"] else f" (n = {count})"
        # Fewer documents than a test takes, or the same ones as another method, are not compared.
        against = "–"
        if test is not None:
            difference = {"mean": test["difference"], "low": test["low"], "high": test["high"]}
            against = f"{_told(difference)}, {float(format(test['p_holm'], '.1g'))}"
        passes, seconds = ("–", "–") if cost is None else (f"{cost['passes']:.0f}", f"{cost['seconds']:.1f}")
        falls = (_told(row[f"top-{k}-drop"], 1) for k in (1, 3))
        lines.append(f"| {' | '.join((label + few, passes, seconds, _told(row['lds']), against, *falls))} |")
    return lines


def _told(interval: dict[str, Any], digits: int = 2) -> str:
    return shown(interval, digits).replace("-", "−")


# The figure


def draw(record: Mapping[str, Any]) -> dict[str, Callable[[], Figure]]:
    """How well each method foretells ablations, beside its cost."""
    return {"segments": lambda: _figure(record["findings"])}


def _figure(found: Mapping[str, Any]) -> Figure:
    import matplotlib

    from lens_scopes.views.figures.style import QUIET, STYLE, new_figure

    panels = {"lds": "linear datamodelling score", "top-1-drop": "fall of log P without\nthe top sentence, nats"}
    methods = found["methods"]
    order = sorted(methods, key=lambda name: (_kind(name), -methods[name]["lds"]["mean"]))
    with matplotlib.rc_context(STYLE):
        figure = new_figure(5.5, 3.3)
        sides = figure.subplots(1, 2, sharey=True, width_ratios=(1.4, 1))
        for axes, (metric, label) in zip(sides, panels.items(), strict=True):
            for row, name in enumerate(order):
                _mark(axes, row, methods[name][metric], _kind(name))
            axes.axvline(methods[REFERENCE][metric]["mean"], color=QUIET, linewidth=0.5, linestyle=":")
            axes.set_xlabel(label)
            axes.tick_params(left=False)
            axes.spines[["top", "right", "left"]].set_visible(False)
        costs = [methods[name]["cost"] for name in order]
        sides[0].set_yticks(range(len(order)), [_with_cost(*item) for item in zip(order, costs, strict=True)])
        sides[0].invert_yaxis()
        sides[0].set_title(f"{found['documents']} documents, 95% intervals", fontsize=7, loc="left")
    return figure


def _kind(name: str) -> int:
    """Ablations first, then faded attention, gradients, and what knows nothing of the model."""
    if name.startswith("ContextCite") or name == "leave one out":
        return 0
    return 1 if name in FADED else 2 if name in SCOPES else 3


def _with_cost(name: str, cost: Mapping[str, float] | None) -> str:
    return name if cost is None else f"{name}  ({cost['passes']:.0f} passes, {cost['seconds']:.1f} s)"


def _mark(axes: Any, row: int, value: Mapping[str, Any], kind: int) -> None:
    from lens_scopes.views.figures.style import DEEP_NEGATIVE, DEEP_POSITIVE, QUIET
    from lens_scopes.views.words.colour import POSITIVE

    colour = (DEEP_NEGATIVE, DEEP_POSITIVE, POSITIVE, QUIET)[kind]
    if value["low"] is not None:
        axes.plot([value["low"], value["high"]], [row, row], color=colour, linewidth=1)
    axes.plot(value["mean"], row, "o", color=colour, markersize=3.5)


def main(
    limit: Annotated[int, typer.Option(help="Up to which document.")] = DOCUMENTS,
    folder: Annotated[Path, typer.Option(help="Where documents that were measured are kept.")] = MEASURED / "segments",
    sum_up: Annotated[bool, typer.Option("--measured", help="Sum up what is there, and measure nothing.")] = False,
    only_table: Annotated[bool, typer.Option("--table", help="Print the table of the saved results alone.")] = False,
) -> None:
    """Measure documents, and save their statistics into analyses/results/segments.json."""
    if only_table:
        return typer.echo("\n".join(table(load_record(RESULTS, "segments"))))
    folder.mkdir(parents=True, exist_ok=True)
    model = ls.load_model()
    for index in () if sum_up else range(CHOSEN_ON, limit):
        path = folder / f"{index:03}.json"
        if not path.is_file():
            started = time.perf_counter()
            found = measure(model, index)
            write_whole(path, json.dumps(shortened_floats(found), ensure_ascii=False).encode("utf-8") + b"\n")
            typer.echo(f"{path.name}: {found['answer']!r}, {time.perf_counter() - started:.0f} s")
    records = measured(folder)
    settings = {
        "chosen on": f"the first {CHOSEN_ON} documents, which are left out here",
        "held-out ablations": HELD_OUT,
        "seeds": {"held out": HELD_OUT_SEED, "ContextCite": FIT_SEED},
        "ablation": "remove",
        "matmul_dtype": MATMUL,
        "scopes": {name: scope.line for name, scope in SCOPES.items()},
        "faded": FADED,
        "most ablations on": f"every {MANY_EVERY}rd document",
        "quick": False,
    }
    seconds = sum(sum(cost["seconds"] for cost in record["cost"].values()) for record in records)
    save_record(RESULTS, "segments", model, settings, findings(records), seconds)
    for line in summary(load_record(RESULTS, "segments")):
        typer.echo(line)


if __name__ == "__main__":
    typer.run(main)
