"""The calibration of a gate in the terminal: each measure's threshold with its error rates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lens_scopes.evaluation.calibration.calibrate import CONTROL
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
from lens_scopes.views.words.pages.calibration import READING, facts, gate, interval_text
from lens_scopes.views.words.token_text import inline_token

if TYPE_CHECKING:
    from lens_scopes.evaluation.calibration.calibrate import FlowCalibration
    from lens_scopes.evaluation.statistics.rates import Interval, Rate


class CalibrationView(TerminalView["FlowCalibration"]):
    """A rich renderable of a calibration."""

    def parts(self, styles: ScoreStyle, width: int) -> Iterator[RenderableType]:
        calibration = self.result
        yield Text(inline_token(f"Calibration of the gate on information flow: {calibration.name}"), "bold")
        yield from warning_lines(calibration.warnings)
        yield add_gap(definitions(facts(calibration)))
        yield add_gap(_table(calibration))
        if calibration.verdict not in calibration.warnings:
            yield add_gap(Text(calibration.verdict))
        if calibration.separates:
            yield add_gap(Text(gate(calibration)))
        yield add_gap(Text(READING, "dim"))


def _table(calibration: FlowCalibration) -> Table:
    numbers = map(right, ("threshold", "leaks caught", "false alarms", "area under ROC"))
    table = plain_table(folded("measure"), *numbers)
    for item in calibration.measures:
        style = "bold" if item is calibration.best else "dim" if item.name == CONTROL else ""
        table.add_row(
            Text(item.name, style),
            Text(f"{item.threshold!r}"),
            _cell(item.recall.share, item.recall),
            _cell(item.false_alarms.share, item.false_alarms),
            _cell(item.area.value, item.area),
        )
    return table


def _cell(value: float, interval: Interval | Rate) -> Text:
    return Text.assemble(f"{value:.2f} ", (interval_text(interval), "dim"))
