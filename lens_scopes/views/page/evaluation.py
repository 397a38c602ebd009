"""An evaluation as a page: means, paired comparisons, curves, what it cost, and what was left out."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from lens_scopes.evaluation.statistics.comparison import ALL
from lens_scopes.views.page.document import Page, Section
from lens_scopes.views.page.parts import (
    alert,
    definitions,
    details_section,
    number_cell,
    sortable_table,
    text,
    text_cell,
)
from lens_scopes.views.page.svg_lines import Curve, line_chart, line_legend
from lens_scopes.views.words.evaluation import (
    SANITY,
    across,
    better,
    facts,
    how_to_read,
    interval_text,
    meaning,
    named,
    oddities,
    p_text,
    title,
    value_text,
)
from lens_scopes.views.words.evaluation_tables import VERDICTS, Cell, means_table, sets_of_passages, verdicts_table

if TYPE_CHECKING:
    from lens_scopes.evaluation.report import EvaluationReport

_MOST_REASONS = 200


def evaluation_page(report: EvaluationReport) -> Page:
    """The report as a page of its own."""
    manifest = report.results.manifest
    sections = [_means(report)]
    if len(report.compared):
        sections.append(_compared(report))
    if report.curves:
        sections.append(_curves(report))
    if report.verdicts:
        sections.append(_sanity(report))
    sections.append(_cost(report))
    if report.results.reasons():
        sections.append(_left_out(report))
    sections.append(
        details_section(manifest.get("model", {}), manifest.get("laboratory", {}), manifest.get("versions", {}))
    )
    header = (
        f'<p class="kind"><b>Evaluation</b></p><h1><bdi>{text(title(report))}</bdi></h1>'
        f"{alert('Before you trust these numbers', oddities(report))}"
    )
    return Page(title=f"Evaluation: {title(report)} · lens_scopes", header=header, sections=tuple(sections))


def _means(report: EvaluationReport) -> Section:
    parts = [definitions(facts(report))]
    for metric in report.metrics:
        about = "; ".join(word for word in (meaning(metric), better(metric)) if word)
        tables = "".join(_means_of(report, metric, passages, count) for passages, count in sets_of_passages(report))
        note = f'<p class="note">{escape(about[:1].upper() + about[1:])}.</p>' if about else ""
        parts.append(f"<h3>{text(metric)}</h3>{note}{tables}")
    reading = "".join(f'<p class="lead caution">{text(sentence)}</p>' for sentence in how_to_read(report))
    return Section("means", "Means", f"{''.join(parts)}<h3>How to read this</h3>{reading}")


def _means_of(report: EvaluationReport, metric: str, passages: str, count: int) -> str:
    headings = [("method", "text"), *((ablation or "value", "number") for ablation in report.ablations(metric))]
    rows = [
        (text_cell(text(method), method, "component"), *map(_mean_cell, cells))
        for method, cells in means_table(report, metric, passages).items()
    ]
    of = f"{'All passages' if passages == ALL else passages.capitalize()} ({count})"
    table = sortable_table(f"{metric}: {of}", headings, rows)
    return table if passages == ALL else f"<details><summary>{text(of)}</summary>{table}</details>"


def _mean_cell(cell: Cell | None) -> str:
    if cell is None:
        return number_cell("—", None)
    mean = f"<b>{value_text(cell.mean)}</b>" if cell.leads else value_text(cell.mean)
    return number_cell(f"{mean} <small>{cell.interval}</small>", cell.mean)


def _compared(report: EvaluationReport) -> Section:
    rows = [
        (
            text_cell(
                text(named(line["metric"], line["ablation"])), named(line["metric"], line["ablation"]), "component"
            ),
            text_cell(text(line["passages"]), line["passages"], "passages"),
            text_cell(text(line["method"]), line["method"], "component"),
            number_cell(str(line["pairs"]), line["pairs"]),
            number_cell(value_text(line["difference"]), line["difference"]),
            number_cell(interval_text(line["low"], line["high"]) or text(line["note"] or "—"), line["low"]),
            number_cell(value_text(line["effect"]), line["effect"]),
            number_cell(p_text(line["p"]), line["p"]),
            number_cell(_judged(line["p_holm"]), line["p_holm"]),
        )
        for line in report.compared.to_dict("records")
    ]
    headings = [("metric", "text"), ("passages", "text"), ("method", "text"), ("pairs", "number")]
    headings += [(name, "number") for name in ("difference", "95 % interval", "effect", "p", "p (Holm)")]
    caption = f"Differences from {report.reference}"
    html = (
        f'<p class="note">Method − {text(report.reference)} on the same passages. Bold: p below 0.05 after correction'
        f" over {report.compared.attrs['tests']} tests. The buttons in the headings sort.</p>"
        f"{sortable_table(caption, headings, rows)}"
    )
    return Section("compared", f"Compared with {report.reference}", html)


def _judged(p: float) -> str:
    return f"<b>{p_text(p)}</b>" if p < 0.05 else p_text(p)


def _curves(report: EvaluationReport) -> Section:
    charts = []
    points = report.means[report.means["fraction"].notna() & (report.means["passages"] == ALL)]
    for metric, ablation in report.curves:
        of_metric = points[points["metric"] == metric]
        part = of_metric[of_metric["ablation"].isna() if ablation is None else of_metric["ablation"] == ablation]
        lines = []
        for place, method in enumerate(report.methods):
            own = part[part["method"] == method].sort_values("fraction")
            if len(own):
                lines.append(
                    Curve(method, list(zip(own["fraction"], own["mean"], own["low"], own["high"], strict=True)), place)
                )
        name = named(metric, ablation)
        about = "; ".join(word for word in (meaning(metric), better(metric)) if word)
        note = f'<p class="note">{escape(about[:1].upper() + about[1:])}.</p>' if about else ""
        charts.append(f"<div><h3>{text(name)}</h3>{note}{line_chart(lines, across(metric), name)}</div>")
    table = sortable_table(
        "Points of the curves",
        [
            ("curve", "text"),
            ("method", "text"),
            ("fraction", "number"),
            ("mean", "number"),
            ("95 % interval", "number"),
        ],
        [
            (
                text_cell(
                    text(named(line["metric"], line["ablation"])), named(line["metric"], line["ablation"]), "component"
                ),
                text_cell(text(line["method"]), line["method"], "component"),
                number_cell(f"{line['fraction']:g}", line["fraction"]),
                number_cell(value_text(line["mean"]), line["mean"]),
                number_cell(interval_text(line["low"], line["high"]) or "—", line["low"]),
            )
            for line in points.to_dict("records")
        ],
    )
    html = (
        '<p class="note">Means over all passages; the bands are 95 % bootstrap intervals.</p>'
        f'{line_legend(report.methods)}<div class="two even">{"".join(charts)}</div>'
        f"<details><summary>All points as a table</summary>{table}</details>"
    )
    return Section("curves", "Curves", html)


def _sanity(report: EvaluationReport) -> Section:
    kinds = ("text", "text", "text", "text", "text", "number", "number")
    rows = [
        (
            text_cell(text(verdict.method), verdict.method, "component"),
            *(text_cell(text(cell), cell, "passages") for cell in cells[1:3]),
            text_cell(f"<b>{text(cells[3])}</b>", cells[3], "passages"),
            text_cell(text(cells[4]), cells[4], "passages"),
            number_cell(cells[5], verdict.low),
            number_cell(cells[6], verdict.p),
        )
        for verdict, cells in zip(report.verdicts, verdicts_table(report), strict=True)
    ]
    table = sortable_table("Verdicts", list(zip(VERDICTS, kinds, strict=True)), rows)
    return Section("sanity", "Sanity checks", f'<p class="note">{text(SANITY)}</p>{table}')


def _cost(report: EvaluationReport) -> Section:
    spent = report.results.rows.groupby("method", sort=False)[["forwards", "backwards"]].mean().to_dict()
    rows = [
        (
            text_cell(text(method), method, "component"),
            *(number_cell(f"{spent[kind][method]:.4g}", spent[kind][method]) for kind in ("forwards", "backwards")),
        )
        for method in report.methods
    ]
    headings = [("method", "text"), ("forwards", "number"), ("backwards", "number")]
    seconds = sum(record.seconds for record in report.results.records.values())
    html = (
        '<p class="note">Forward and backward passes that a method’s scores of one passage take, on average; what the'
        f" metrics take to check them is not in it. All passages together took {_duration(seconds)} to measure.</p>"
        f"{sortable_table('Cost of a method', headings, rows)}"
    )
    return Section("cost", "Cost", html)


def _duration(seconds: float) -> str:
    minutes = math.floor(seconds / 60)
    return f"{seconds:.1f} s" if minutes < 2 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _left_out(report: EvaluationReport) -> Section:
    reasons = report.results.reasons()
    statuses = {index: report.results.records[index].status for index in reasons}
    rows = [
        (number_cell(str(index), index), text_cell(statuses[index], statuses[index]), text_cell(text(said), said))
        for index, said in list(reasons.items())[:_MOST_REASONS]
    ]
    more = len(reasons) - len(rows)
    note = f'<p class="note">And {more} more.</p>' if more else ""
    table = sortable_table("Passages that were not measured", [("index", "number"), ("", ""), ("reason", "text")], rows)
    return Section("left-out", "Passages left out", table + note)
