"""Sections of an evaluation: means, paired comparisons, curves, cost, and what was left out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lens_scopes.evaluation.statistics.comparison import ALL
from lens_scopes.views.charts import line_style, round_ticks
from lens_scopes.views.words.evaluation import (
    SANITY,
    VERDICTS,
    Cell,
    across,
    data_warnings,
    facts,
    how_to_read,
    interval_text,
    meaning,
    means_table,
    metric_name,
    p_text,
    sets_of_passages,
    title,
    value_text,
    verdicts_table,
)
from lens_scopes.views.words.pages.parts.blocks import (
    Block,
    Section,
    alerts,
    axis,
    columns,
    definitions,
    details_section,
    fold,
    heading,
    kind,
    lead,
    note,
    number_cell,
    table,
    text_cell,
)
from lens_scopes.views.words.token_text import inline_token

if TYPE_CHECKING:
    import pandas

    from lens_scopes.evaluation.report import EvaluationReport

_MAX_REASONS = 200


def page_title(report: EvaluationReport) -> str:
    """The title of the window."""
    return f"Evaluation: {title(report)}"


def header(report: EvaluationReport) -> list[Block]:
    """What was evaluated."""
    heading_block: Block = {"type": "prompt", "text": inline_token(title(report))}
    return [
        kind({"bold": "Evaluation"}),
        heading_block,
        *alerts("Before you trust these numbers", data_warnings(report)),
    ]


def sections(report: EvaluationReport) -> list[Section]:
    """Sections `means`, `compared`, `curves`, `sanity`, `cost`, `left-out` and `details`, as far as there are any."""
    manifest = report.results.manifest
    parts = [_means(report)]
    if len(report.compared):
        parts.append(_comparisons(report))
    if report.curves:
        parts.append(_curves(report))
    if report.verdicts:
        parts.append(_sanity(report))
    parts.append(_cost(report))
    if report.results.reasons():
        parts.append(_left_out(report))
    details = (manifest.get("model", {}), manifest.get("laboratory", {}), manifest.get("versions", {}))
    return [*parts, details_section(*details)]


def _about(metric: str) -> list[Block]:
    text = meaning(metric)
    return [note(f"{text[:1].upper()}{text[1:]}.")] if text else []


def _means(report: EvaluationReport) -> Section:
    blocks = [definitions(facts(report))]
    for metric in report.metrics:
        blocks += [heading(inline_token(metric)), *_about(metric)]
        blocks += [_means_of(report, metric, passages, count) for passages, count in sets_of_passages(report)]
    reading = [lead(inline_token(sentence), quiet=True) for sentence in how_to_read(report)]
    return Section("means", "Means", [*blocks, heading("How to read this"), *reading])


def _means_of(report: EvaluationReport, metric: str, passages: str, count: int) -> Block:
    names = [("method", "text"), *((ablation or "value", "number") for ablation in report.ablations(metric))]
    rows = [
        [text_cell(inline_token(method), method, "component"), *map(_mean_cell, cells)]
        for method, cells in means_table(report, metric, passages).items()
    ]
    of = f"{'All passages' if passages == ALL else passages.capitalize()} ({count})"
    means = table(f"{metric}: {of}", names, rows)
    return means if passages == ALL else fold(inline_token(of), means)


def _mean_cell(cell: Cell | None) -> Block:
    if cell is None:
        return number_cell("—", None)
    mean = {"bold": value_text(cell.mean)} if cell.leads else value_text(cell.mean)
    return number_cell([mean, " ", {"small": cell.interval}], cell.mean)


def _comparisons(report: EvaluationReport) -> Section:
    rows = []
    for line in report.compared.to_dict("records"):
        name = metric_name(line["metric"], line["ablation"])
        interval = interval_text(line["low"], line["high"]) or inline_token(line["note"] or "—")
        p_holm = p_text(line["p_holm"])
        rows.append(
            [
                text_cell(inline_token(name), name, "component"),
                text_cell(inline_token(line["passages"]), line["passages"], "passages"),
                text_cell(inline_token(line["method"]), line["method"], "component"),
                number_cell(str(line["pairs"]), line["pairs"]),
                number_cell(value_text(line["difference"]), line["difference"]),
                number_cell(interval, line["low"]),
                number_cell(value_text(line["effect"]), line["effect"]),
                number_cell(p_text(line["p"]), line["p"]),
                number_cell([{"bold": p_holm}] if line["p_holm"] < 0.05 else p_holm, line["p_holm"]),
            ]
        )
    names = [("metric", "text"), ("passages", "text"), ("method", "text"), ("pairs", "number")]
    names += [(name, "number") for name in ("difference", "95% interval", "effect", "p", "p (Holm)")]
    text = (
        f"Method − {inline_token(report.reference)} on the same passages. Bold: p below 0.05 after correction over"
        f" {report.compared.attrs['tests']} tests. The buttons in the headings sort."
    )
    differences = table(f"Differences from {report.reference}", names, rows)
    return Section("compared", f"Compared with {report.reference}", [note(text), differences])


def _curves(report: EvaluationReport) -> Section:
    points = report.means[report.means["fraction"].notna() & (report.means["passages"] == ALL)]
    # One chart per metric and ablation.
    charts = []
    for metric, ablation in report.curves:
        of_metric = points[points["metric"] == metric]
        part = of_metric[of_metric["ablation"].isna() if ablation is None else of_metric["ablation"] == ablation]
        name = metric_name(metric, ablation)
        charts.append([heading(inline_token(name)), *_about(metric), _chart(report, part, across(metric), name)])
    # The same points as a table, for screen readers and for copying.
    rows = []
    for line in points.to_dict("records"):
        name = metric_name(line["metric"], line["ablation"])
        rows.append(
            [
                text_cell(inline_token(name), name, "component"),
                text_cell(inline_token(line["method"]), line["method"], "component"),
                number_cell(f"{line['fraction']:g}", line["fraction"]),
                number_cell(value_text(line["mean"]), line["mean"]),
                number_cell(interval_text(line["low"], line["high"]) or "—", line["low"]),
            ]
        )
    names = [("curve", "text"), ("method", "text")]
    names += [(name, "number") for name in ("fraction", "mean", "95% interval")]
    legend: Block = {"type": "line-legend", "lines": [_look(i) | {"name": m} for i, m in enumerate(report.methods)]}
    return Section(
        "curves",
        "Curves",
        [
            note("Means over all passages; the bands are 95% bootstrap intervals."),
            legend,
            columns(*charts, even=True),
            fold("All points as a table", table("Points of the curves", names, rows)),
        ],
    )


def _look(place: int) -> dict[str, str]:
    style = line_style(place)
    return {"colour": style.colour, "dashes": style.dashes}


def _chart(report: EvaluationReport, part: pandas.DataFrame, horizontal: str, vertical: str) -> Block:
    """One line with its band for each method that has points."""
    lines = []
    for place, method in enumerate(report.methods):
        own = part[part["method"] == method].sort_values("fraction")
        points = [
            [row.fraction, row.mean, row.low, row.high] for row in own.itertuples() if math.isfinite(float(row.mean))
        ]
        band = [[x, low, high] for x, _, low, high in points if math.isfinite(low) and math.isfinite(high)]
        if len(own):
            lines.append(
                _look(place)
                | {
                    "points": [point[:2] for point in points],
                    "band": band,
                    "titles": [
                        f"{method} at {x:g}: {value_text(y)} [{value_text(low)}, {value_text(high)}]"
                        for x, y, low, high in points
                    ],
                }
            )
    # The vertical axis holds all points and bands, and zero.
    heights = [v for line in lines for row in (*line["points"], *line["band"]) for v in row[1:]]
    ticks = round_ticks(min([0.0, *heights]), max([0.0, *heights]))
    right = max((x for line in lines for x, _ in line["points"]), default=1.0) or 1.0
    return {
        "type": "chart",
        "label": f"{vertical} by {horizontal}, {len(lines)} lines; the numbers are in the table",
        "x": axis(horizontal, 0.0, right, [(t, _tick(t)) for t in round_ticks(0.0, right) if t <= right * 1.001]),
        "y": axis(vertical, ticks[0], ticks[-1], [(t, _tick(t)) for t in ticks]),
        "lines": lines,
    }


def _tick(value: float) -> str:
    return f"{value:g}".replace("-", "−", 1)


def _sanity(report: EvaluationReport) -> Section:
    kinds = ("text", "text", "text", "text", "text", "number", "number")
    rows = [
        [
            text_cell(inline_token(verdict.method), verdict.method, "component"),
            *(text_cell(inline_token(cell), cell, "passages") for cell in cells[1:3]),
            text_cell([{"bold": inline_token(cells[3])}], cells[3], "passages"),
            text_cell(inline_token(cells[4]), cells[4], "prose"),
            number_cell(cells[5], verdict.low),
            number_cell(cells[6], verdict.p),
        ]
        for verdict, cells in zip(report.verdicts, verdicts_table(report), strict=True)
    ]
    verdicts = table("Verdicts", list(zip(VERDICTS, kinds, strict=True)), rows)
    return Section("sanity", "Sanity checks", [note(inline_token(SANITY)), verdicts])


def _cost(report: EvaluationReport) -> Section:
    spent = report.results.rows.groupby("method", sort=False)[["forwards", "backwards"]].mean().to_dict()
    rows = [
        [
            text_cell(inline_token(method), method, "component"),
            *(number_cell(f"{spent[part][method]:.4g}", spent[part][method]) for part in ("forwards", "backwards")),
        ]
        for method in report.methods
    ]
    names = [("method", "text"), ("forwards", "number"), ("backwards", "number")]
    seconds = sum(record.seconds for record in report.results.records.values())
    text = (
        "Forward and backward passes that a method’s scores of one passage take, on average; what the metrics take to"
        f" check them is not in it. All passages together took {_duration(seconds)} to measure."
    )
    return Section("cost", "Cost", [note(text), table("Cost of a method", names, rows)])


def _duration(seconds: float) -> str:
    minutes = math.floor(seconds / 60)
    return f"{seconds:.1f} s" if minutes < 2 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _left_out(report: EvaluationReport) -> Section:
    reasons = report.results.reasons()
    statuses = {index: report.results.records[index].status for index in reasons}
    rows = [
        [number_cell(str(i), i), text_cell(statuses[i], statuses[i]), text_cell(inline_token(reason), reason)]
        for i, reason in list(reasons.items())[:_MAX_REASONS]
    ]
    more = len(reasons) - len(rows)
    names = [("index", "number"), ("", ""), ("reason", "text")]
    ending = [note(f"And {more} more.")] if more else []
    return Section("left-out", "Passages left out", [table("Passages that were not measured", names, rows), *ending])
