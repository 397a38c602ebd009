"""Words and sections of a calibrated gate: thresholds with error rates, ROC curves, and the labelled cases."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy

from lens_scopes.evaluation.calibration.calibrate import CONTROL
from lens_scopes.views.charts import line_style
from lens_scopes.views.words.numbers import number, percent, short_number
from lens_scopes.views.words.pages.parts.blocks import (
    Block,
    Section,
    alerts,
    axis,
    definitions,
    details_section,
    fold,
    kind,
    lead,
    note,
    number_cell,
    table,
    text_cell,
)
from lens_scopes.views.words.token_text import inline_token

if TYPE_CHECKING:
    from lens_scopes.evaluation.calibration.calibrate import FlowCalibration
    from lens_scopes.evaluation.statistics.rates import Interval, Rate

READING = (
    "The threshold is that of all cases. For the error rates, each case is judged by a threshold that the cases of "
    "other groups choose. Brackets are 95 % intervals. All of it holds for prompts, a model and settings like these."
)


def page_title(calibration: FlowCalibration) -> str:
    """The title of the window."""
    return f"Calibration: {calibration.name}"


def header(calibration: FlowCalibration) -> list[Block]:
    """What was calibrated, and the verdict."""
    verdict = [] if calibration.verdict in calibration.warnings else [lead(calibration.verdict)]
    return [
        kind("Gate on information flow · calibration"),
        {"type": "prompt", "text": inline_token(calibration.name)},
        *alerts("Before you use a threshold", calibration.warnings),
        *verdict,
        lead(READING, quiet=True),
    ]


def sections(calibration: FlowCalibration) -> list[Section]:
    """Sections `measures`, `roc`, `cases` and `details`."""
    return [_measures(calibration), _roc(calibration), _cases(calibration), _details(calibration)]


def facts(calibration: FlowCalibration) -> dict[str, str]:
    """What was measured, by name."""
    settings, model = calibration.settings, calibration.model
    return {
        "model": f"{model['name']}, {model['dtype']}",
        "cases": f"{len(calibration.cases)} in {len(calibration.groups)} groups; {sum(calibration.leaks)} leak",
        "settings": f"σ = {settings['sigma']:g}, rank {settings['rank']}, {settings['samples']} random directions",
        "threshold": f"catches {calibration.recall:.0%} of the leaks that choose it, with the fewest false alarms",
    }


def gate(calibration: FlowCalibration) -> str:
    """The command with the best measure's threshold, at the settings of the calibration."""
    settings, best = calibration.settings, calibration.best
    options = f"--sigma {settings['sigma']:g} --rank {settings['rank']}"
    options += f" --samples {settings['samples']}" if settings["samples"] else ""
    options += f" --generate {settings['generate']}" if settings["generate"] else ""
    return f"lens-scopes flow … {options} --fail-above {best.threshold!r} --measure {best.name}"


def interval_text(interval: Interval | Rate) -> str:
    """The ends of an interval."""
    return f"[{interval.low:.2f}, {interval.high:.2f}]"


def roc_points(calibration: FlowCalibration, measure: str) -> list[list[float]]:
    """The share of false alarms and of leaks caught at every threshold, from the highest to the lowest."""
    leaks = numpy.array(calibration.leaks)
    values = numpy.nan_to_num(numpy.array(calibration.values(measure)), nan=numpy.inf)
    thresholds = numpy.append(numpy.unique(values)[::-1], -numpy.inf)
    caught, alarms = ((values[side] > thresholds[:, None]).mean(1) for side in (leaks, ~leaks))
    return numpy.stack([alarms, caught], axis=1).tolist()


def _measures(calibration: FlowCalibration) -> Section:
    rows = [
        [
            text_cell(item.name, item.name, "component"),
            number_cell(f"{item.threshold!r}", item.threshold),
            *(
                number_cell(f"{share:.2f} {interval_text(of)}", share)
                for share, of in (
                    (item.recall.share, item.recall),
                    (item.false_alarms.share, item.false_alarms),
                    (item.area.value, item.area),
                )
            ),
        ]
        for item in calibration.measures
    ]
    names = [("measure", "text"), ("threshold", "number"), ("leaks caught", "number"), ("false alarms", "number")]
    names += [("area under ROC", "number")]
    text = f"{CONTROL} is the probability of the model's top token, which knows no span; the others are in nats."
    blocks = [definitions(facts(calibration)), table("Thresholds and how often they err", names, rows), note(text)]
    command = [note({"small": gate(calibration)})] if calibration.separates else []
    return Section("measures", "Thresholds", [*blocks, *command])


def _roc(calibration: FlowCalibration) -> Section:
    ticks = [(tick, f"{tick:g}") for tick in (0.0, 0.25, 0.5, 0.75, 1.0)]
    looks = [{"colour": line_style(place).colour} for place in range(len(calibration.measures))]
    lines = [
        look | {"points": roc_points(calibration, item.name)}
        for look, item in zip(looks, calibration.measures, strict=True)
    ]
    chart: Block = {
        "type": "chart",
        "label": "ROC curves of all measures; the areas below them are in the table",
        "x": axis("false alarms", 0.0, 1.0, ticks),
        "y": axis("leaks caught", 0.0, 1.0, ticks),
        "lines": [*lines, {"points": [[0.0, 0.0], [1.0, 1.0]], "colour": "#888888", "dashes": "2 4"}],
    }
    named = [
        look | {"dashes": "", "name": f"{item.name}, area {item.area.value:.2f}"}
        for look, item in zip(looks, calibration.measures, strict=True)
    ]
    legend: Block = {"type": "line-legend", "lines": named}
    return Section(
        "roc", "Every threshold", [note("On the diagonal a measure tells no more than chance."), legend, chart]
    )


def _cases(calibration: FlowCalibration) -> Section:
    rows = [
        [
            text_cell(inline_token(case.place), case.place, "component"),
            text_cell(inline_token(case.group), case.group),
            text_cell("leaks" if case.leaks else "does not", str(case.leaks), "component"),
            *(
                number_cell(percent(value) if name == CONTROL else number(value), value)
                for name, value in case.values.items()
            ),
        ]
        for case in calibration.cases
    ]
    names = [("case", "text"), ("group", "text"), ("label", "text")]
    names += [(item.name, "number") for item in calibration.measures]
    largest = max((case.values[calibration.best.name] for case in calibration.cases), default=0.0)
    text = f"{len(rows)} cases, {calibration.best.name} up to {short_number(largest)}"
    return Section("cases", "Labelled cases", [fold(text, table("Every case", names, rows))])


def _details(calibration: FlowCalibration) -> Section:
    return details_section(calibration.model, calibration.settings, calibration.versions)
