"""The leaderboard: rows that survive a stop, agreement by hand, and a table, figure and page from the record alone."""

import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import draw
import leaderboard as study
import leaderboard_table as board
import pytest
import torch
import values_search as search
from docstring_examples import example_model
from leaderboard_methods import ABLATIONS, LEFT_OUT, METHODS, QUANTITIES, REFERENCE
from records import RESULTS, load_record
from scipy import stats

import lens_scopes as ls
from lens_scopes.errors import FileError
from lens_scopes.evaluation.methods.names import as_method
from lens_scopes.evaluation.statistics.comparison import holm

TEXT = "The capital of France is Paris. Rome is the capital. The capital of Italy is Rome"
OTHER = "The capital of Italy is Rome. Paris is the capital. The capital of France is Paris"
NAMES = ["FisherAtValues", "Fisher", "Grad-ELLM (after)", "closeness to the end", *LEFT_OUT]


@pytest.fixture(scope="module")
def model() -> Any:
    return example_model()


@pytest.fixture
def store(model: Any, tmp_path: Path) -> study.Store:
    store = study.Store.of(tmp_path)
    for passage, text in enumerate((TEXT, OTHER), 50):
        study.measure_agreement(model, store, "lambada", passage, text, NAMES)
        study.measure_removal(model, store, "lambada", passage, text, NAMES)
    return store


def test_every_row_is_a_method_of_the_evaluation(model: Any) -> None:
    assert len(METHODS) + len(LEFT_OUT) >= 20 and REFERENCE in METHODS
    for entry in METHODS.values():
        assert as_method(entry.line).name == entry.line and entry.family in board.FAMILIES


def test_the_truth_is_leaving_each_token_out(model: Any, store: study.Store) -> None:
    row = store.truth.rows["lambada", 50]
    prompt = study.prompt_of(model, TEXT)
    assert prompt.token_ids == ls.read_prompt(model, TEXT).token_ids[:-1]
    assert row["digest"] == study.digest_of(prompt.token_ids) != study.digest_of(prompt.token_ids[:-1])
    assert not {"text", "token_ids"} & row.keys(), "the words of a data set are not copied"
    for ablation in ABLATIONS:
        expected = ls.attribute(model, prompt, ls.LeaveOneOut(ablation=ablation)).scores[1:]
        assert row[ablation] == pytest.approx(expected.tolist(), rel=1e-4, abs=1e-12)
    with pytest.raises(FileError, match="another text"):
        study.measure_truth(model, store, "lambada", 50, study.prompt_of(model, OTHER))


def test_agreement_by_hand(store: study.Store) -> None:
    truth = {"mean": [0.1, 0.4, 0.2, 0.9, 0.3, 0.8, 0.7], "zero": [7.0, 6, 5, 4, 3, 2, 1]}
    found = study.agreement(torch.tensor([1.0, 2, 3, 4, 5, 6, 7], dtype=torch.float64), truth)
    result: Any = stats.spearmanr(truth["mean"], range(7))
    assert found["spearman, mean"] == pytest.approx(result.statistic) and found["spearman, zero"] == -1
    assert (found["top5, mean"], found["top5, zero"]) == (1, 0)
    assert found["partial, mean"] is None, "closeness to the end has nothing beyond position"
    row = store.agreement.rows["lambada", 50, "leave one out, mean"]
    assert (
        row["spearman, mean"] == pytest.approx(1)
        and row["forwards"] == len(store.truth.rows["lambada", 50]["mean"]) + 1
    )
    assert store.agreement.rows["lambada", 50, "FisherAtValues"]["backwards"] == 1


def test_comprehensiveness_is_that_of_an_evaluation(model: Any, store: study.Store) -> None:
    rows = ls.evaluate(
        model, [TEXT], methods=["fisher"], metrics=["comprehensiveness", "sufficiency"], ablations=["remove"]
    )
    row = store.removal.rows["lambada", 50, "Fisher"]
    for metric, value in zip(rows["metric"], rows["value"], strict=True):
        assert row[metric] == pytest.approx(value, rel=1e-4)
    assert not any(name in LEFT_OUT for _, _, name in store.removal.rows)


def test_a_passage_with_both_parts_counts_in_both(store: study.Store) -> None:
    found = board.findings(store.truth.rows, store.agreement.rows, store.removal.rows)["methods"]["Fisher"]["values"]
    both = {key[:2] for key in store.agreement.rows} & {key[:2] for key in store.removal.rows}
    assert found["spearman, mean"]["all"]["n"] == found["comprehensiveness"]["all"]["n"] == len(both) > 0


def test_it_goes_on_where_it_stopped(model: Any, store: study.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    path = store.agreement.path
    whole = path.read_text(encoding="utf-8")
    path.write_text(whole[: whole.rindex('{"data"') + 20], encoding="utf-8")  # stopped within its last line
    again = study.Store.of(path.parent)
    assert len(again.agreement.rows) == len(store.agreement.rows) - 1
    monkeypatch.setattr(study, "measure_truth", lambda *_: store.truth.rows["lambada", 51])
    study.measure_agreement(model, again, "lambada", 51, OTHER, NAMES)

    def plain(rows: dict[Any, Any]) -> dict[Any, Any]:
        return {key: {name: value for name, value in row.items() if name != "seconds"} for key, row in rows.items()}

    assert plain(study.Store.of(path.parent).agreement.rows) == plain(store.agreement.rows)
    before = path.read_bytes()
    study.measure_agreement(model, study.Store.of(path.parent), "lambada", 50, TEXT, NAMES)
    assert path.read_bytes() == before, "nothing is measured twice"


def drawn_rows(count: int) -> tuple[Any, Any, Any]:
    """Rows of made-up methods on both data sets: one equal to the reference, one worse on every passage."""
    generator = torch.Generator().manual_seed(0)
    truth, agreement, removal = {}, {}, {}
    for data in ("lambada", "iwslt"):
        for passage in range(50, 50 + count):
            truth[data, passage] = {ABLATIONS[0]: [0.0] * 10}
            level = float(torch.rand((), generator=generator)) / 4 + 0.6
            shifts = {"FisherAtValues": 0, "Fisher": 0, "random": 0.5, "leave one out, mean": 0.1}
            for name, shift in shifts.items():
                row = {"data": data, "passage": passage, "method": name, "forwards": 1, "backwards": 1}
                values = {quantity: level - shift for quantity in QUANTITIES if ", " in quantity}
                agreement[data, passage, name] = row | values
    return truth, agreement, removal


def test_means_tests_and_shares_by_hand() -> None:
    truth, rows, removal = drawn_rows(5)
    found = board.findings(truth, rows, removal)
    assert found["passages"] == {"agreement": {"lambada": 5, "iwslt": 5}, "removal": {}} and found["tokens"] == 10
    own = [row["spearman, mean"] for (_, _, name), row in rows.items() if name == "FisherAtValues"]
    value = found["methods"]["FisherAtValues"]["values"]["spearman, mean"]
    assert value["all"]["mean"] == pytest.approx(sum(own) / 10) and value["all"]["n"] == 10
    assert value["lambada"]["mean"] == pytest.approx(sum(own[:5]) / 5)
    assert value["all"]["low"] < value["all"]["mean"] < value["all"]["high"]
    # What both truths share is known from how far they agree; leave-one-out is never judged by itself.
    between = found["methods"]["leave one out, mean"]["values"]
    assert set(between) == {name for name in QUANTITIES if name.endswith("zero")}
    assert found["ceiling"]["value"] == pytest.approx(math.sqrt(between["spearman, zero"]["all"]["mean"]))
    assert value["share"] == pytest.approx(value["all"]["mean"] / found["ceiling"]["value"])
    tests = {(test["method"], test["quantity"]): test for test in found["tests"]}
    assert tests["Fisher", "spearman, mean"]["p"] == 1 and tests["random", "spearman, mean"]["p"] == 2 / 2**10
    assert [test["p_holm"] for test in found["tests"]] == holm([test["p"] for test in found["tests"]])
    assert not any(test["method"] == REFERENCE or "top5" in test["quantity"] for test in found["tests"])


def test_a_record_draws_its_figure_and_a_page_that_sorts_and_escapes(
    store: study.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = {"model": {"name": "<script>alert(1)</script>", "dtype": "float32"}, "versions": {}}
    (store.truth.path.parent / "about.json").write_text(json.dumps(about), encoding="utf-8")
    record = study.save(store, tmp_path / "results")
    assert record == load_record(tmp_path / "results", "leaderboard")
    lines = study.summary(record)
    assert lines[0].startswith("2 LAMBADA passages") and len(lines) == 2 + len(NAMES)
    monkeypatch.setattr(draw, "KINDS", {"png": 50})
    paths = draw.draw_study("leaderboard", tmp_path / "results", tmp_path)
    assert [path.name for path in paths] == ["leaderboard.png", "leaderboard.html"]
    page = (tmp_path / "leaderboard.html").read_text(encoding="utf-8")
    HTMLParser().feed(page)
    assert (
        "<script>alert" not in page and "Content-Security-Policy" in page and "https://" not in page.split("<body")[0]
    )
    assert all(name in page for name in ("Grad-ELLM (after)", "closeness to the end"))


def test_nothing_measured_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="nothing has been measured"):
        study.save(study.Store.of(tmp_path), tmp_path)


def test_the_documents_have_the_saved_tables() -> None:
    record = load_record(RESULTS, "leaderboard")
    told = (RESULTS.parent / "README.md").read_text(encoding="utf-8")
    assert all(table in told for table in "\n".join(study.markdown(record)).split("\n\n"))
    readme = (RESULTS.parents[1] / "README.md").read_text(encoding="utf-8")
    assert "\n".join(study.short_markdown(record)) in readme


def test_the_search_of_values_compares_candidates_with_the_steep_total() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = []
    for passage in range(8):
        views = {
            f"{view}, {site}": (torch.rand(3, 9, generator=generator) + 0.1).tolist()
            for view in search.VIEWS
            for site in search.SITES
        }
        truth = torch.tensor(views["even, values"]).sqrt().sum(0).tolist()  # ranks as one of the candidates does
        rows.append({"data": "lambada", "passage": passage, "mean": truth, "zero": truth, "amplitudes": views})
    found = search.findings_of(rows)["candidates"]
    assert found["even, roots"]["mean"]["mean"] == pytest.approx(1) and found["even, roots"]["zero"]["p"] < 0.01
    assert found[search.REFERENCE]["mean"]["difference"] == 0
    lines = search.summary({"findings": {"passages": 8, "candidates": found}})
    assert len(lines) == 1 + len(search.CANDIDATES) and lines[1].startswith("even, roots")


def test_the_search_measures_what_the_scopes_give(model: Any) -> None:
    prompt = study.prompt_of(model, TEXT)
    amplitudes = {name: torch.tensor(rows) for name, rows in search.measure_passage(model, prompt).items()}
    steep = ls.attribute(model, prompt, ls.FisherAtValues()).scores[1:]
    assert amplitudes["steep, values"].sum(0).tolist() == pytest.approx(steep.tolist(), rel=1e-5)
    best = search.CANDIDATES["steep² × even, roots"](amplitudes) ** (1 / 3)
    balanced = ls.attribute(model, prompt, ls.BalancedValues()).scores[1:]
    assert best.tolist() == pytest.approx(balanced.tolist(), rel=1e-5)
