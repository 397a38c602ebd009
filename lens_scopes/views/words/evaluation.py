"""The words and tables of an evaluation: what its metrics mean, what was done, how its statistics are to be read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from lens_scopes.evaluation.metrics.table import Quantity, find_quantity
from lens_scopes.evaluation.statistics.comparison import ALL, MIN_PAIRS
from lens_scopes.evaluation.statistics.intervals import RESAMPLES
from lens_scopes.evaluation.storage.records import FAILED, MEASURED, TOO_LONG

if TYPE_CHECKING:
    from lens_scopes.evaluation.report import EvaluationReport


def meaning(metric: str) -> str | None:
    """What a metric is, its unit, and which way is better; None for one that is not known here."""
    quantity = find_quantity(metric)
    return None if quantity is None else quantity.sentence


def better(metric: str) -> str | None:
    """Which way is better, in words; None where neither is or it is not known."""
    quantity = find_quantity(metric)
    return None if quantity is None else quantity.direction


def across(metric: str) -> str:
    """What a curve's fraction is of."""
    quantity = find_quantity(metric)
    return Quantity.across if quantity is None else quantity.across


def best(metric: str, values: dict[str, float]) -> set[str]:
    """The methods whose mean is the best one, where one way is better."""
    finite = {method: value for method, value in values.items() if math.isfinite(value)}
    quantity = find_quantity(metric)
    if quantity is None or quantity.better is None or len(finite) < 2:
        return set()
    limit = (min if quantity.better == "lower" else max)(finite.values())
    return {method for method, value in finite.items() if value == limit}


def metric_name(metric: str, ablation: str | None) -> str:
    """A metric with what tokens were replaced by, which is part of its name."""
    return metric if ablation is None else f"{metric} · {ablation}"


def title(report: EvaluationReport) -> str:
    manifest = report.results.manifest
    model = manifest.get("model", {}).get("name", "a model")
    return f"{len(report.methods)} methods on {_passages_name(report)}, {model}"


def facts(report: EvaluationReport) -> dict[str, str]:
    """What was done, with every setting that a reader of a number must know."""
    manifest = report.results.manifest
    evaluator, model = manifest.get("laboratory", {}), manifest.get("model", {})
    commits = sorted({session["commit"] for session in report.results.sessions if session.get("commit")})
    read = "the whole passage"
    if manifest.get("passages", {}).get("target") == "last":
        read = "the passage without its last token, which tells whether the prediction is correct"
    elif answers := manifest.get("passages", {}).get("answers"):
        read = f"the whole passage, and the answer after it (teacher-forced; {answers})"
    eligible = manifest.get("passages", {}).get("eligible")
    values = {
        "model": ", ".join(str(model[key]) for key in ("name", "backend", "dtype") if key in model),
        "passages": passages(report),
        "read": read,
        "eligible": f"{eligible} passage; the rest of it is never ablated" if eligible else "",
        "explained": evaluator.get("explained", ""),
        "protocol": evaluator.get("protocol", {}).get("name", ""),
        "planned": plan_summary(report),
        "random": ", ".join(f"{name} {evaluator[name]}" for name in ("seed", "draws") if name in evaluator),
        "versions": ", ".join(f"{name} {version}" for name, version in manifest.get("versions", {}).items()),
        "commit": ", ".join(commits),
    }
    return {name: value for name, value in values.items() if value}


def plan_summary(report: EvaluationReport) -> str:
    """What the first start asked for, as the manifest has it; folders of older versions do not."""
    plan = report.results.manifest.get("plan")
    if plan is None:
        return "not recorded at the first start"
    indices = ranges(_indices_of(report, plan))
    kinds = ", ".join(f"{len(plan[name])} {name}" for name in ("methods", "metrics", "ablations"))
    return f"passages {indices}, {kinds} (at the first start, {plan['began']})"


def plan_changes(report: EvaluationReport) -> list[str]:
    """Where what was measured is not what the first start asked for."""
    plan = report.results.manifest.get("plan")
    if plan is None:
        return []
    asked = {ranges(_indices_of(report, session)): session for session in report.results.sessions if "limit" in session}
    first = ranges(_indices_of(report, plan))
    sentences = [
        f"A session of {session['began']} asked for passages {indices}; planned at the first start were {first}."
        for indices, session in asked.items()
        if indices != first
    ]
    indices = _indices_of(report, plan)
    missing = set(indices) - set(report.results.records)
    if missing:
        sentences.append(
            f"Of {len(indices)} passages planned at the first start, {len(missing)} were not measured: "
            "the plan was cut, or is still running."
        )
    return sentences


def _indices_of(report: EvaluationReport, plan: Mapping[str, Any]) -> range:
    """The indices of the passages that a plan or a session asks for."""
    count = report.results.manifest.get("passages", {}).get("count", 0)
    stop = count if plan["limit"] is None else min(count, plan["skip"] + plan["limit"])
    return range(min(plan["skip"], stop), stop)


def passages(report: EvaluationReport) -> str:
    """How many passages were measured and which, and what became of the others."""
    records = report.results.records
    counts = report.results.counts()
    indices = ranges(index for index, record in records.items() if record.status == MEASURED)
    text = f"{counts.get(MEASURED, 0)} of {_passages_name(report)} measured (index {indices})"
    if counts.get(FAILED):
        text += f", {counts[FAILED]} failed"
    if counts.get(TOO_LONG):
        text += f", {counts[TOO_LONG]} beyond the context window left out"
    correct = report.results.rows.drop_duplicates("passage").get("correct")
    if correct is not None and correct.notna().any():
        text += f"; {int(correct.eq(True).sum())} predicted correctly"
    return text


def ranges(indices: Iterable[int]) -> str:
    """Runs of indices: 0–4, 7, 9–12."""
    runs = []
    for _, run in groupby(enumerate(sorted(indices)), key=lambda item: item[1] - item[0]):
        numbers = [index for _, index in run]
        runs.append(str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}–{numbers[-1]}")
    return ", ".join(runs) or "none"


def how_to_read(report: EvaluationReport) -> list[str]:
    """What means, intervals and tests are, and what is in the tables."""
    tests = report.compared.attrs.get("tests", 0)
    return [
        "Means are over passages; intervals are 95% bootstrap intervals of the mean (BCa,"
        f" {RESAMPLES:,} resamples of the passages, seed 0). Passages on which a number is undefined are left out of"
        " it.",
        f"Differences are method − {report.reference} on the same passages. p is Wilcoxon’s signed-rank test,"
        f" two-sided, corrected after Holm over all {tests} tests of this report, those on correctly predicted"
        f" passages included; with fewer than {MIN_PAIRS} pairs nothing is tested. The effect is the matched-pairs"
        " rank-biserial correlation (W⁺ − W⁻)/(W⁺ + W⁻), from −1 to 1.",
        "Passages enter by their index, and every method, metric and ablation of the folder is in the tables. What the"
        " first start planned, and whether later ones kept to it, is said above; whether numbers were looked at in"
        " between, no file can tell. Whether a passage is predicted correctly depends on the model alone, not on any"
        " method.",
        "An ablated token is out of distribution to some degree, and the choice of what replaces it changes values and"
        " rankings: compare methods within one ablation only.",
    ]


def data_warnings(report: EvaluationReport) -> list[str]:
    """What a reader must not miss before trusting the numbers."""
    warnings = []
    counts = report.results.counts()
    if counts.get(FAILED):
        many = "s" if counts[FAILED] > 1 else ""
        warnings.append(f"{counts[FAILED]} passage{many} could not be measured.")
    if len(commits := {session.get("commit") for session in report.results.sessions}) > 1:
        warnings.append(
            f"Measured by {len(commits)} versions of the code, which mixed_commits allows: "
            f"{', '.join(map(str, sorted(map(str, commits))))}."
        )
    if any("-dirty" in (commit or "") for commit in commits):
        warnings.append("The code had changes that were not committed when some of this was measured.")
    warnings += plan_changes(report)
    if not report.compared.attrs.get("tests") and len(report.methods) > 1:
        warnings.append(f"Nothing was tested: a paired test needs at least {MIN_PAIRS} passages measured.")
    return warnings


SANITY = (
    "model: with all blocks redrawn the agreement with the model’s own ranking (Spearman, the whole interval) is within"
    " ±0.5; cascade: all blocks redrawn leave less than the final quarter; chance: the agreement with leave-one-out is"
    " above that of shuffled scores. Tests are one-sided Wilcoxon tests at 0.01, not part of the corrected table. How"
    " much remains depends on how blocks are redrawn: the rebuttal of arXiv:2601.16407 has 0.88, 0.81 and 0.34 for"
    " Semantic Scope (Gemma 3 1B, final quarter, half and all blocks), but it draws weights from N(0,"
    " initializer_range²) with norm weights 1, explains the true token of correctly predicted passages, and gives the"
    ' model no BOS. Compare with it under protocol="arXiv:2601.16407" only.'
)


def verdict_text(passed: bool | None) -> str:
    """Passed, failed, or that there were too few passages to tell."""
    return "too few passages" if passed is None else "passed" if passed else "failed"


def value_text(value: float) -> str:
    """Three significant digits: −0.801, 12.3, 1.20e-05; a dash where there is no number."""
    if not math.isfinite(value):
        return "—" if math.isnan(value) else "∞" if value > 0 else "−∞"
    text = f"{value:#.3g}".removesuffix(".") if value else "0"
    return text.replace("-", "−", 1) if text.startswith("-") else text


def interval_text(low: float, high: float) -> str:
    """[low, high]; empty where there is none."""
    return f"[{value_text(low)}, {value_text(high)}]" if math.isfinite(low) and math.isfinite(high) else ""


def p_text(p: float) -> str:
    """Two significant digits: 0.031, 4.1e-06; a dash where nothing was tested."""
    if math.isnan(p):
        return "—"
    return f"{p:.1e}" if p < 1e-3 else f"{p:.2g}"


@dataclass(frozen=True)
class Cell:
    """A mean with its interval; `leads` where it is the best of its column."""

    mean: float
    interval: str
    leads: bool


def means_table(report: EvaluationReport, metric: str, passages: str = ALL) -> dict[str, list[Cell | None]]:
    """Method → a cell for each ablation of the metric, in the order of `report.ablations`."""
    means = report.means
    selection = means[(means["metric"] == metric) & (means["passages"] == passages) & means["fraction"].isna()]
    table: dict[str, list[Cell | None]] = {method: [] for method in report.methods}
    for ablation in report.ablations(metric):
        part = selection[selection["ablation"].isna() if ablation is None else selection["ablation"] == ablation]
        lines = {line["method"]: line for line in part.to_dict("records")}
        leading = best(metric, {method: line["mean"] for method, line in lines.items()})
        for method, cells in table.items():
            line = lines.get(method)
            cells.append(
                None
                if line is None
                else Cell(line["mean"], interval_text(line["low"], line["high"]), method in leading)
            )
    return table


def sets_of_passages(report: EvaluationReport) -> list[tuple[str, int]]:
    """All passages, and those predicted correctly where that is known, with their number."""
    rows = report.results.rows.drop_duplicates("passage")
    names = dict.fromkeys(report.means["passages"])
    return [(name, len(rows) if name == ALL else int(rows["correct"].eq(True).sum())) for name in names]


COMPARED = (
    "metric",
    "ablation",
    "passages",
    "method",
    "pairs",
    "difference",
    "95% interval",
    "effect",
    "p",
    "p (Holm)",
)


def compared_table(report: EvaluationReport) -> list[tuple[str, ...]]:
    """The cells of every comparison, under the headings of COMPARED."""
    return [
        (
            line["metric"],
            line["ablation"] or "—",
            line["passages"],
            line["method"],
            str(line["pairs"]),
            value_text(line["difference"]),
            interval_text(line["low"], line["high"]) or "—",
            value_text(line["effect"]),
            p_text(line["p"]),
            p_text(line["p_holm"]),
        )
        for line in report.compared.to_dict("records")
    ]


VERDICTS = ("method", "check", "ablation", "verdict", "found", "95% interval", "p")


def verdicts_table(report: EvaluationReport) -> list[tuple[str, ...]]:
    """The cells of every sanity check, under the headings of VERDICTS."""
    return [
        (
            verdict.method,
            verdict.check,
            verdict.ablation or "—",
            verdict_text(verdict.passed),
            verdict.sentence,
            interval_text(verdict.low, verdict.high) or "—",
            "—" if verdict.p is None else p_text(verdict.p),
        )
        for verdict in report.verdicts
    ]


def _passages_name(report: EvaluationReport) -> str:
    return report.results.manifest.get("passages", {}).get("name", "the passages given")
