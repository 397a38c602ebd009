"""An evaluation in the terminal: means, and the comparisons with the reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Column, Table
from rich.text import Text

from lens_scopes.evaluation.statistics.comparison import ALL
from lens_scopes.views.terminal.parts import (
    ScoreStyle,
    TerminalView,
    add_gap,
    definitions,
    folded,
    plain_table,
    right,
    warning_lines,
)
from lens_scopes.views.words.evaluation import (
    Cell,
    better,
    data_warnings,
    facts,
    interval_text,
    means_table,
    metric_name,
    p_text,
    title,
    value_text,
    verdict_text,
)
from lens_scopes.views.words.token_text import inline_token

if TYPE_CHECKING:
    from lens_scopes.evaluation.report import EvaluationReport


class EvaluationView(TerminalView["EvaluationReport"]):
    """A rich renderable of a report: all passages; those predicted correctly are on the page and in the tables."""

    def parts(self, styles: ScoreStyle, width: int) -> Iterator[RenderableType]:
        report = self.result
        yield Text(inline_token(f"Evaluation: {title(report)}"), "bold")
        yield from warning_lines(data_warnings(report))
        yield add_gap(definitions(facts(report)))
        for metric in report.metrics:
            yield add_gap(_means(report, metric))
        if len(report.compared):
            yield add_gap(_comparisons(report))
        if report.verdicts:
            yield add_gap(_verdicts(report))


def _means(report: EvaluationReport, metric: str) -> Table:
    columns = [right(Text(inline_token(ablation or "value"))) for ablation in report.ablations(metric)]
    table = _table(f"{metric} ({way})" if (way := better(metric)) else metric, *columns)
    for method, cells in means_table(report, metric).items():
        table.add_row(Text(inline_token(method)), *map(_cell, cells))
    return table


def _cell(cell: Cell | None) -> Text:
    if cell is None:
        return Text("—", "dim")
    return Text(value_text(cell.mean), "bold" if cell.leads else "")


def _comparisons(report: EvaluationReport) -> Table:
    table = _table(
        f"method − {report.reference}", right("difference"), right("95% interval"), right("effect"), right("p (Holm)")
    )
    above = None
    for line in report.compared.to_dict("records"):
        if line["passages"] != ALL:
            continue
        if above != (above := metric_name(line["metric"], line["ablation"])):
            table.add_row(Text(inline_token(above), "dim"))
        table.add_row(
            Text(f"  {inline_token(line['method'])}"),
            value_text(line["difference"]),
            Text(interval_text(line["low"], line["high"]) or line["note"] or "", "dim"),
            value_text(line["effect"]),
            Text(p_text(line["p_holm"]), "bold" if line["p_holm"] < 0.05 else ""),
        )
    return table


def _verdicts(report: EvaluationReport) -> Table:
    table = _table("sanity", folded("check"), folded("verdict"), folded("found"))
    for verdict in report.verdicts:
        table.add_row(
            Text(inline_token(verdict.method)),
            Text(inline_token(metric_name(verdict.check, verdict.ablation)), "dim"),
            Text(verdict_text(verdict.passed), "" if verdict.passed else "bold"),
            Text(inline_token(verdict.sentence)),
        )
    return table


def _table(heading: str, *columns: Column) -> Table:
    return plain_table(folded(Text(inline_token(heading))), *columns)
