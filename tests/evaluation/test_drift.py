"""Each table of the evaluation is its names' only home: every entry is in the help, errors, results and reports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import TEXTS, Run, tokenizer
from tiny_models import gpt2_like

import lens_scopes as ls
from lens_scopes.engine.ablations import ABLATIONS, find_ablation
from lens_scopes.errors import EvaluationError, FileError
from lens_scopes.evaluation.formats import FORMATS, formats_text
from lens_scopes.evaluation.metrics.table import METRICS, find_metric, find_quantity
from lens_scopes.evaluation.report import EvaluationReport
from lens_scopes.views.tables import markdown
from lens_scopes.views.words.evaluation import best, better, meaning


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> EvaluationReport:
    """Every metric and every ablation on two passages."""
    model = gpt2_like()
    model.tokenizer = tokenizer()
    model.tokenizer.pad_token = model.tokenizer.eos_token = "."
    out = tmp_path_factory.mktemp("drift") / "results"
    pairs = [(text, text.replace("dog", "sofa")) for text in TEXTS[:2]]  # one ablation takes another prompt
    ls.evaluate(
        model, pairs, methods=["semantic"], metrics=list(METRICS), ablations=list(ABLATIONS), out=out, by="word"
    )
    return ls.report(out)


def words(text: str) -> str:
    """A text without the frame and the line breaks that a terminal adds."""
    return "".join(text.replace("│", "").split())


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_is_in_the_help_and_in_errors(name: str, run: Callable[..., Run]) -> None:
    metric = METRICS[name]
    assert words(f"{name}: {metric.sentence}") in words(run("evaluate", "--help").out)
    with pytest.raises(EvaluationError, match=rf"Known: (.*, )?{name}(,|\.)"):
        find_metric("no such metric")
    with pytest.raises(EvaluationError, match=f"did you mean '{name}'"):
        find_metric(f"{name}x")


def test_what_is_measured_is_what_the_table_says(measured: EvaluationReport) -> None:
    quantities = {quantity.name: metric for metric in METRICS.values() for quantity in metric.quantities}
    for name, rows in measured.results.rows.groupby("metric"):
        quantity = find_quantity(str(name))
        assert quantity is not None, f"{name} is in no table"
        metric = quantities.pop(quantity.name, None) or METRICS[quantity.name]
        assert set(rows.ablation) == (set(ABLATIONS) if metric.needs_ablation else {None}), name
    assert not quantities, f"never measured: {sorted(quantities)}"


def test_reports_say_what_the_table_says(measured: EvaluationReport) -> None:
    page, text = measured.to_html(), markdown(measured)
    curves = {metric for metric, _ in measured.curves}
    for name in {*measured.metrics, *curves}:
        quantity = find_quantity(name)
        assert quantity is not None and meaning(name) == quantity.sentence and better(name) == quantity.direction
        sentence = quantity.sentence[:1].upper() + quantity.sentence[1:]
        assert f"{sentence}." in page, name
        assert name in curves or f"\n{quantity.sentence}\n" in text, name
        assert name not in curves or f" by {quantity.across}, " in page, name
        winner = {"lower": {"low"}, "higher": {"high"}, None: set()}[quantity.better]
        assert best(name, {"low": 0.0, "high": 1.0}) == winner


@pytest.mark.parametrize("name", ABLATIONS)
def test_every_ablation_is_in_every_face(name: str, run: Callable[..., Run], measured: EvaluationReport) -> None:
    ablation = ABLATIONS[name]
    assert words(f"{name}: {ablation.help}") in words(run("evaluate", "--help").out)
    with pytest.raises(EvaluationError, match=rf"Known: (.*, )?{name}(,|\.)"):
        find_ablation("no such ablation")
    with pytest.raises(EvaluationError, match=f"did you mean '{name}'"):
        find_ablation(f"{name}x")
    assert name in measured.ablations("aopc") and f"| {name} |" in markdown(measured)
    of_one_prompt = words(run("attribute", "--help").out).split("leave-one-outreplacesatokenwith:")[1].split(".")[0]
    alone = ablation.corpus != "required" and not ablation.other_prompt
    assert (name in of_one_prompt.split(",")) == alone
    if ablation.corpus == "required":
        with pytest.raises(EvaluationError, match=f"has no {name}"):
            ls.LeaveOneOut(ablation=name)
    else:
        assert ablation.help in ls.LeaveOneOut(ablation=name).process


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_report_format_is_in_every_face(
    suffix: str, run: Callable[..., Run], measured: EvaluationReport, tmp_path: Path
) -> None:
    assert suffix in formats_text() and FORMATS[suffix].holds in formats_text()
    for command in ("evaluate", "report"):
        assert words(formats_text()) in words(run(command, "--help").out)
    with pytest.raises(FileError, match=rf"suffixes .*\{suffix}"):
        measured.save(tmp_path / "report.docx")
    assert suffix in run("report", str(tmp_path), "--report", "report.docx").err
    measured.save(tmp_path / f"report{suffix}")
    assert (tmp_path / f"report{suffix}").stat().st_size > 500
