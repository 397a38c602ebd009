"""An evaluation as tables for papers: Markdown and LaTeX (booktabs)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lens_scopes.views.words.evaluation import (
    COMPARED,
    SANITY,
    VERDICTS,
    Cell,
    compared_table,
    data_warnings,
    facts,
    how_to_read,
    meaning,
    means_table,
    metric_name,
    sets_of_passages,
    title,
    value_text,
    verdicts_table,
)

if TYPE_CHECKING:
    from lens_scopes.evaluation.report import EvaluationReport


def table(report: EvaluationReport, suffix: str) -> str:
    """The tables of a report as Markdown (`.md`) or LaTeX (`.tex`)."""
    return markdown(report) if suffix == ".md" else latex(report)


def markdown(report: EvaluationReport) -> str:
    """Every table of the report, with the settings above and the reading below them."""
    parts = [f"# {title(report)}", "\n".join(f"- {name}: {value}" for name, value in facts(report).items())]
    parts += [f"> {_flat(sentence)}" for sentence in data_warnings(report)]
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
            [_escape(method), *(_latex_cell(cell) for metric in report.metrics for cell in tables[metric][method])]
            for method in report.methods
        ]
        headings = ["method", *(_escape(metric_name(metric, ablation)) for metric, ablation in columns)]
        caption = f"Means over {count} passages ({passages}). Best in bold."
        parts.append(_latex_table("l" + "r" * len(columns), headings, rows, _escape(caption)))
    if len(report.compared):
        rows = [[_escape(cell) for cell in row] for row in compared_table(report)]
        caption = f"Paired differences from {report.reference}, with Wilcoxon tests corrected after Holm."
        headings = [_escape(heading) for heading in COMPARED]
        parts.append(_latex_table("llllrrrrrr", headings, rows, _escape(caption)))
    if report.verdicts:
        rows = [[_escape(cell) for cell in row] for row in verdicts_table(report)]
        headings = [_escape(heading) for heading in VERDICTS]
        parts.append(_latex_table("llllllr", headings, rows, _escape(f"Sanity checks. {SANITY}")))
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
    mean = _escape(value_text(cell.mean))
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


def _escape(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in _flat(text))


def _flat(text: str) -> str:
    return re.sub(r"\s+", " ", text)
