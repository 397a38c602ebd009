"""Reports: the numbers of the folder, in every form, complete in themselves, and nothing in them executes."""

from __future__ import annotations

import re
from pathlib import Path

import pandas
import pytest
from fake_evaluation import ABLATIONS, METHODS, fake_evaluation
from html_document import Document

from lens_scopes.errors import EvaluationError, FileError
from lens_scopes.evaluation.formats import FORMATS
from lens_scopes.evaluation.report import EvaluationReport, report
from lens_scopes.evaluation.statistics.comparison import compare_methods
from lens_scopes.evaluation.storage.results import load_results
from lens_scopes.views import figure_bytes, print_result
from lens_scopes.views.charts import line_style, round_ticks
from lens_scopes.views.tables import latex, markdown
from lens_scopes.views.words.evaluation import better, meaning, means_table, p_text, ranges, value_text


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> EvaluationReport:
    return report(fake_evaluation(tmp_path_factory.mktemp("evaluation") / "results"))


@pytest.fixture(scope="module")
def page(found: EvaluationReport) -> str:
    return found.to_html()


def mean(found: EvaluationReport, method: str, metric: str, ablation: str) -> float:
    rows = found.results.rows
    rows = rows[(rows.method == method) & (rows.metric == metric) & (rows.ablation == ablation) & rows.fraction.isna()]
    return float(rows["value"].to_numpy().mean())


def test_the_page_shows_the_means_of_the_rows(found: EvaluationReport, page: str) -> None:
    assert Document(page).open == []
    for metric in ("aopc", "loo-kl-spearman"):
        for ablation in ABLATIONS:
            assert f":{mean(found, 'fisher', metric, ablation):.9g}" in page
    assert "22 of a_&lt;i&gt;.json measured (index 0–2, 4, 6–23), 1 failed, 1 beyond the context window" in page
    assert "lower is better" in page and "float32" in page and "seed 0, draws 4" in page


def test_the_page_is_complete_in_itself_and_escapes_what_it_shows(page: str) -> None:
    assert "<img" not in page and "<b>x_y" not in page and "&lt;b&gt;x_y &amp; 50%&lt;/b&gt;" in page
    assert not re.search(r"(src|href)=\"(?!#|data:)", page)


def test_the_best_is_marked_by_the_direction_of_the_metric(page: str) -> None:
    for caption in ("aopc: All passages (22)", "loo-kl-spearman: All passages (22)"):
        table = page[page.index(f"<caption>{caption}") :].split("</table>")[0]
        best = [row for row in table.split("<tr>")[2:] if "<b>" in row]
        assert len(best) == 1 and "fisher@8+dot-mean" in best[0]


def test_means_of_those_predicted_correctly_are_theirs_alone(found: EvaluationReport) -> None:
    rows = found.results.rows
    chosen = rows[(rows.method == "fisher") & (rows.metric == "aopc") & (rows.ablation == "zero")]
    right = chosen[chosen.correct.eq(True)]["value"]
    assert 6 < len(right) < len(chosen)
    cells = [means_table(found, "aopc", passages)["fisher"][0] for passages in ("all", "predicted correctly")]
    assert [cell and cell.mean for cell in cells] == pytest.approx([chosen["value"].mean(), right.mean()])


def test_sanity_checks_are_judged_in_every_form(found: EvaluationReport, page: str) -> None:
    verdicts = {(v.check, v.method, v.ablation): v.passed for v in found.verdicts}
    assert verdicts["model", "fisher", None] and not verdicts["model", "random", None]
    assert verdicts["cascade", "fisher", None] and not verdicts["cascade", "random", None]
    assert verdicts["chance", "fisher", "zero"] and not verdicts["chance", "random", "mean"]
    table = page[page.index("<caption>Verdicts") :].split("</table>")[0]
    assert table.count("<b>passed</b>") == sum(bool(v) for v in verdicts.values())
    assert table.count("<b>failed</b>") == sum(v is False for v in verdicts.values()) > 0
    assert markdown(found).count("| passed |") == latex(found).count("& passed &") == table.count("<b>passed</b>")


def test_markdown_has_every_table(found: EvaluationReport) -> None:
    text = markdown(found)
    tables = re.findall(r"^\| method \|.*$", text, re.MULTILINE)
    assert len(tables) == 2 * len(found.metrics) + 1
    value = value_text(mean(found, "fisher@8+dot-mean", "aopc", "zero"))
    assert f"**{value}**" in text
    assert text.count("| predicted correctly |") == len(found.compared) // 2
    assert all(line.count("|") in (3, 4, 8, 11) for line in text.splitlines() if line.startswith("|")), text


def test_latex_is_balanced_and_escaped(found: EvaluationReport) -> None:
    text = latex(found)
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    assert body.count(r"\begin{table}") == body.count(r"\end{table}") == 4
    assert r"<b>x\_y \& 50\%</b>" in body
    assert not re.search(r"(?<!\\)[%#_&](?! )", body.replace(" & ", "  ")), body
    assert "−" not in body and body.replace(r"\{", "").count("{") == body.replace(r"\}", "").count("}")
    for table in re.findall(r"\\begin{tabular}{(\w+)}(.*?)\\end{tabular}", body, re.DOTALL):
        lines = [line for line in table[1].splitlines() if line.endswith(r"\\")]
        assert {len(re.split(r" & ", line)) for line in lines} == {len(table[0])}


@pytest.mark.parametrize("format", ["png", "svg", "pdf"])
def test_the_figure_has_a_panel_for_each_metric_and_curve(found: EvaluationReport, format: str) -> None:
    assert figure_bytes(found, format) == figure_bytes(found, format)
    labels = [axes.get_label() for axes in found.figure().axes]
    assert labels == [*(f"mean {metric}" for metric in found.metrics), "curve 0", "curve 1"]
    assert {"aopc", "loo-kl-spearman", "first-token", "randomization-all-blocks"} <= set(found.metrics)
    marks = [line for line in found.figure().axes[0].lines if len(line.get_xdata()) == 1]
    assert len(marks) == len(METHODS) * len(ABLATIONS)


def test_the_terminal_fits_its_width(found: EvaluationReport) -> None:
    from rich.console import Console

    console = Console(width=72, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_result(found, console)
    printed = console.export_text()
    assert max(map(len, printed.splitlines())) <= 72
    assert "aopc (lower is better)" in printed and value_text(mean(found, "fisher", "aopc", "mean")) in printed


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_kind_of_report_is_saved(found: EvaluationReport, tmp_path: Path, suffix: str) -> None:
    found.save(tmp_path / f"report{suffix}")
    assert (tmp_path / f"report{suffix}").stat().st_size > 500


def test_what_cannot_be_saved(found: EvaluationReport, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="suffixes .html"):
        found.save(tmp_path / "report.docx")
    assert not list(tmp_path.iterdir())


def test_the_reference_can_be_chosen(found: EvaluationReport, tmp_path: Path) -> None:
    again = report(found.results, reference="random")
    expected = compare_methods(found.results.rows, reference="random")
    pandas.testing.assert_frame_equal(again.compared, expected)
    with pytest.raises(EvaluationError, match="did you mean 'random'"):
        report(found.results, reference="randm")


def test_no_report_says_what_software_cannot_know(found: EvaluationReport, page: str) -> None:
    for text in (page, markdown(found), latex(found)):
        assert "hosen before" not in text and "looked at in between, no file can tell" in text


def test_nothing_to_report(tmp_path: Path) -> None:
    folder = fake_evaluation(tmp_path / "results", passages=0)
    with pytest.raises(EvaluationError, match="no passage has been measured"):
        report(folder)


def test_few_passages_are_reported_without_tests(tmp_path: Path) -> None:
    few = report(fake_evaluation(tmp_path / "results", passages=3, target="own", commits=("abc", "def-dirty")))
    page, text = few.to_html(), markdown(few)
    for shown in (page, text, latex(few)):
        assert "Nothing was tested" in shown or shown.startswith("%")
    assert "2 versions of the code" in page and "not committed" in page and "2 versions" in text
    assert set(few.compared.passages) == {"all"} and few.compared.p.isna().all()
    assert len(load_results(tmp_path / "results")) == len(few.results.rows)


def test_small_words() -> None:
    assert [value_text(value) for value in (-0.80123, 12.345, 0.0, float("nan"), 123.4, 1.2e-5)] == [
        "−0.801",
        "12.3",
        "0",
        "—",
        "123",
        "1.20e-05",
    ]
    assert [p_text(p) for p in (0.0312, 4.12e-6, 1.0, float("nan"))] == ["0.031", "4.1e-06", "1", "—"]
    assert ranges([4, 1, 2, 9]) == "1–2, 4, 9" and ranges([]) == "none"
    assert better("randomization-final half") == "lower is better" and better("aopc-kl") == "higher is better"
    assert meaning("no such metric") is None


@pytest.mark.parametrize(("low", "high"), [(-3.2, 0.0), (0.0, 1.0), (0.0, 0.0), (-1e-7, 2e-7), (0.0, 1234.5)])
def test_ticks_are_round_and_span_the_values(low: float, high: float) -> None:
    ticks = round_ticks(low, high)
    assert 2 <= len(ticks) <= 8 and ticks[0] <= low + 1e-12 and ticks[-1] >= high - 1e-9 * abs(high)
    steps = {float(f"{b - a:.6g}") for a, b in zip(ticks, ticks[1:], strict=False)}
    assert len(steps) == 1 and f"{steps.pop():e}"[0] in "125"


def test_lines_stay_apart_beyond_the_colours() -> None:
    assert len({(line_style(i).colour, line_style(i).dashes) for i in range(24)}) == 24


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_line_can_be_seen_on_light_and_dark() -> None:
    for index in range(8):
        seen = luminance(line_style(index).colour)
        assert 1.05 / (seen + 0.05) >= 3 and (seen + 0.05) / (luminance("#0d0d0d") + 0.05) >= 3, line_style(index)
