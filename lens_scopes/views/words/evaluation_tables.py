"""An evaluation as tables for papers: Markdown and LaTeX (booktabs)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lens_scopes.evaluation.statistics.comparison import ALL
from lens_scopes.views.words.evaluation import (
    SANITY,
    best,
    facts,
    how_to_read,
    interval_text,
    meaning,
    named,
    oddities,
    p_text,
    title,
    value_text,
    verdict_text,
)

if TYPE_CHECKING:
    from lens_scopes.evaluation.report import EvaluationReport


@dataclass(frozen=True)
class Cell:
    """A mean with its interval; `leads` where it is the best of its column."""

    mean: float
    interval: str
    leads: bool


def means_table(report: EvaluationReport, metric: str, passages: str = ALL) -> dict[str, list[Cell | None]]:
    """Method → a cell for each ablation of the metric, in the order of `report.ablations`."""
    means = report.means
    chosen = means[(means["metric"] == metric) & (means["passages"] == passages) & means["fraction"].isna()]
    found: dict[str, list[Cell | None]] = {method: [] for method in report.methods}
    for ablation in report.ablations(metric):
        part = chosen[chosen["ablation"].isna() if ablation is None else chosen["ablation"] == ablation]
        lines = {line["method"]: line for line in part.to_dict("records")}
        leading = best(metric, {method: line["mean"] for method, line in lines.items()})
        for method, cells in found.items():
            line = lines.get(method)
            cells.append(
                None
                if line is None
                else Cell(line["mean"], interval_text(line["low"], line["high"]), method in leading)
            )
    return found


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
    "95 % interval",
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


VERDICTS = ("method", "check", "ablation", "verdict", "found", "95 % interval", "p")


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


def table(report: EvaluationReport, suffix: str) -> str:
    """The tables of a report as Markdown (`.md`) or LaTeX (`.tex`)."""
    return markdown(report) if suffix == ".md" else latex(report)


def markdown(report: EvaluationReport) -> str:
    """Every table of the report, with the settings above and the reading below them."""
    parts = [f"# {title(report)}", "\n".join(f"- {name}: {value}" for name, value in facts(report).items())]
    parts += [f"> {_flat(sentence)}" for sentence in oddities(report)]
    for metric in report.metrics:
        for passages, count in sets_of_passages(report):
            heading = f"## {metric}, passages: {passages} ({count})"
            about = meaning(metric)
            rows = [
                [f"`{method}`", *(_markdown_cell(cell) for cell in cells)]
                for method, cells in means_table(report, metric, passages).items()
            ]
            columns = ["method", *(ablation or "value" for ablation in report.ablations(metric))]
            parts += [heading, *([about] if about else []), _markdown_table(columns, rows)]
    if len(report.compared):
        parts += [f"## Compared with `{report.reference}`", _markdown_table(COMPARED, compared_table(report))]
    if report.verdicts:
        parts += ["## Sanity checks", _markdown_table(VERDICTS, verdicts_table(report)), SANITY]
    return "\n\n".join([*parts, *how_to_read(report)]) + "\n"


def latex(report: EvaluationReport) -> str:
    """A booktabs table of means for each set of passages, and one of all comparisons; the settings are comments."""
    head = [title(report), *(f"{name}: {value}" for name, value in facts(report).items()), *how_to_read(report)]
    parts = ["\n".join(f"% {_flat(line)}" for line in [*head, "Needs \\usepackage{booktabs}."])]
    columns = [(metric, ablation) for metric in report.metrics for ablation in report.ablations(metric)]
    for passages, count in sets_of_passages(report):
        tables = {metric: means_table(report, metric, passages) for metric in report.metrics}
        rows = [
            [_escaped(method), *(_latex_cell(cell) for metric in report.metrics for cell in tables[metric][method])]
            for method in report.methods
        ]
        headings = ["method", *(_escaped(named(metric, ablation)) for metric, ablation in columns)]
        caption = f"Means over {count} passages ({passages}). Best in bold."
        parts.append(_latex_table("l" + "r" * len(columns), headings, rows, _escaped(caption)))
    if len(report.compared):
        rows = [[_escaped(cell) for cell in row] for row in compared_table(report)]
        caption = f"Paired differences from {report.reference}, with Wilcoxon tests corrected after Holm."
        headings = [_escaped(heading) for heading in COMPARED]
        parts.append(_latex_table("llllrrrrrr", headings, rows, _escaped(caption)))
    if report.verdicts:
        rows = [[_escaped(cell) for cell in row] for row in verdicts_table(report)]
        headings = [_escaped(heading) for heading in VERDICTS]
        parts.append(_latex_table("llllllr", headings, rows, _escaped(f"Sanity checks. {SANITY}")))
    return "\n\n".join(parts) + "\n"


def _markdown_cell(cell: Cell | None) -> str:
    if cell is None:
        return "—"
    mean = f"**{value_text(cell.mean)}**" if cell.leads else value_text(cell.mean)
    return f"{mean} {cell.interval}".strip()


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_flat(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _latex_cell(cell: Cell | None) -> str:
    if cell is None:
        return "---"
    mean = _escaped(value_text(cell.mean))
    return f"\\textbf{{{mean}}}" if cell.leads else mean


def _latex_table(layout: str, headings: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    import pandas

    styler = pandas.DataFrame(list(rows), columns=list(headings)).style.hide(axis="index")
    return styler.to_latex(column_format=layout, caption=caption, position_float="centering", hrules=True).rstrip()


_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "−": "$-$",
    "—": "---",
    "·": "$\\cdot$",
    "∞": "$\\infty$",
}


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in _flat(text))


def _flat(text: str) -> str:
    return re.sub(r"\s+", " ", text)
