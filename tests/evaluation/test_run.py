"""The dataset run: nothing lost, nothing counted twice, however it ends, and one line for everything that is wrong."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_evaluator
import pandas
import pytest
from command_line import TEXTS, tokenizer
from fake_evaluator import FRACTIONS, FakeEvaluator, measure_token_ids
from tiny_models import gpt2_like

import lens_scopes as ls
from lens_scopes.errors import EvaluationError, FileError
from lens_scopes.evaluation import run as run_module
from lens_scopes.evaluation.evaluator import Evaluator
from lens_scopes.evaluation.passages.read import read_passages
from lens_scopes.evaluation.passages.selection import Selection
from lens_scopes.evaluation.processes import Process, this_process
from lens_scopes.evaluation.run import measure_passages
from lens_scopes.evaluation.storage import folder as folder_module
from lens_scopes.evaluation.storage.folder import ResultFolder
from lens_scopes.evaluation.storage.results import read_results
from lens_scopes.views.tables import markdown

PER_PASSAGE = 2 * (2 * 2 * (1 + len(FRACTIONS)) + 1)


@pytest.fixture(scope="module")
def model() -> Any:
    model = gpt2_like()
    model.tokenizer = tokenizer()
    return model


@pytest.fixture
def begin(tmp_path: Path, model: Any) -> Callable[..., ResultFolder]:
    """Measures texts into a folder with the fake evaluator."""

    def begin(
        name: str = "run",
        *,
        texts: tuple[Any, ...] = TEXTS,
        process: Process | None = None,
        retry: bool = False,
        limit: int | None = None,
        **options: Any,
    ) -> ResultFolder:
        evaluator = FakeEvaluator(model, **options)
        selection = Selection(read_passages(texts), limit=limit)
        folder = ResultFolder.begin(tmp_path / name, {"laboratory": evaluator.signature()})
        measure_passages(model, evaluator, selection, folder, process or Process(), retry=retry)
        return folder

    return begin


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """`evaluate` works with the fake evaluator."""
    monkeypatch.setattr("lens_scopes.evaluation.evaluator.Evaluator", FakeEvaluator)


def same(first: Path, second: Path) -> None:
    """The same rows to the last digit, whoever measured them."""
    pandas.testing.assert_frame_equal(ls.load_results(first), ls.load_results(second), check_exact=True)


# Rows


def test_a_row_for_each_passage_method_metric_and_ablation(begin: Callable[..., ResultFolder]) -> None:
    rows = ls.load_results(begin().path)
    assert len(rows) == len(TEXTS) * PER_PASSAGE
    keys = ["passage", "method", "metric", "ablation", "fraction"]
    numbers = rows[rows.fraction.isna()]
    assert not numbers.duplicated(keys).any()
    assert set(numbers.metric) == {"aopc", "loo-kl-spearman", "odd"} and set(rows.fraction.dropna()) == set(FRACTIONS)
    odd = rows[rows.metric == "odd"]
    assert odd.value.isna().all() and odd.ablation.isna().all() and set(odd.note) == {"undefined: 2 tokens"}
    assert rows.attrs == {"measured": len(TEXTS)}
    first = rows.iloc[0]
    assert (first.n_tokens, first.top_token, first.target_token) == (6, " the", "#7")
    assert first.correct in (True, False) and (first.forwards, first.backwards) == (3, 1)


def test_values_come_back_to_the_last_digit(begin: Callable[..., ResultFolder], model: Any) -> None:
    rows = ls.load_results(begin().path)
    prompt = FakeEvaluator(model).passage([0, 2, 3])
    _, expected = FakeEvaluator(model).measure(prompt, 5, index=7)
    got = rows[rows.passage == 7]
    assert got.value.tolist() == pytest.approx([m.value for m in expected], nan_ok=True, abs=0, rel=0)


def test_an_empty_folder_has_no_rows_but_all_columns(begin: Callable[..., ResultFolder]) -> None:
    rows = ls.load_results(begin(texts=("",)).path)
    assert len(rows) == 0 and {"passage", "method", "metric", "ablation", "value"} <= set(rows.columns)
    assert rows.attrs == {"failed": 1}


# Going on


def test_what_is_measured_is_not_measured_again(begin: Callable[..., ResultFolder], model: Any, tmp_path: Path) -> None:
    folder = begin(limit=5)
    content = (folder.path / "results-000.jsonl").read_bytes()
    begin(limit=5)
    assert (folder.path / "results-000.jsonl").read_bytes() == content
    begin()
    assert (folder.path / "results-000.jsonl").read_bytes().startswith(content)
    begin("whole")
    same(folder.path, tmp_path / "whole")


def test_a_file_cut_at_any_byte_is_completed_to_the_same_rows(
    begin: Callable[..., ResultFolder], tmp_path: Path
) -> None:
    whole = begin("whole").path
    content = (whole / "results-000.jsonl").read_bytes()
    generator = random.Random(0)
    ends = [0, content.index(b"\n"), content.index(b"\n") + 1, len(content) - 1]
    for cut in ends + [generator.randrange(len(content)) for _ in range(20)]:
        path = begin("cut", limit=1).path / "results-000.jsonl"
        path.write_bytes(content[:cut])
        begin("cut")
        same(whole, path.parent)
        passages = [json.loads(line) for line in path.read_bytes().splitlines()]
        assert sorted(line["passage"] for line in passages if "passage" in line) == list(range(len(TEXTS)))
        path.unlink()


def test_a_torn_line_of_another_process_counts_for_nothing(begin: Callable[..., ResultFolder], tmp_path: Path) -> None:
    begin("whole")
    for rank in (0, 1):
        folder = begin("shared", process=Process(rank, 2))
    torn = folder.path / "results-001.jsonl"
    torn.write_bytes(torn.read_bytes()[:-7])
    assert len(folder.records()) == len(TEXTS) - 1
    begin("shared")
    same(tmp_path / "whole", folder.path)


@pytest.mark.parametrize("damage", [lambda line: line[:40], lambda line: bytes(len(line)), lambda line: b"7"])
def test_a_damaged_line_is_named(begin: Callable[..., ResultFolder], damage: Callable[[bytes], bytes]) -> None:
    path = begin().path / "results-000.jsonl"
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([*lines[:2], damage(lines[2]), *lines[3:]]))
    with pytest.raises(FileError, match="line 3 is damaged"):
        ls.load_results(path.parent)


def run_of(path: Path, kill_at: int, **environment: str) -> subprocess.Popen:
    """A process that measures TOKEN_IDS with the fake evaluator."""
    command = [sys.executable, str(Path(fake_evaluator.__file__)), str(path), str(kill_at)]
    return subprocess.Popen(command, env=os.environ | environment, stderr=subprocess.PIPE)


def test_killed_in_the_middle_of_a_passage_and_started_again(tmp_path: Path) -> None:
    for kill_at in (0, 5):
        killed = run_of(tmp_path / "killed", kill_at)
        _, complaint = killed.communicate(timeout=120)
        assert (killed.returncode, complaint) == (-signal.SIGKILL, b"")
    folder = measure_token_ids(tmp_path / "killed")
    same(measure_token_ids(tmp_path / "whole").path, folder.path)
    assert len(folder.sessions()) == 3


# Several processes


def test_two_processes_of_accelerate_launch_give_the_rows_of_one(tmp_path: Path) -> None:
    # Without a GPU --multi_gpu starts the processes all the same, and they run on the processor.
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    options = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    program = [str(Path(fake_evaluator.__file__)), str(tmp_path / "two"), "-1"]
    launched = subprocess.run([*launch, *options, *program], capture_output=True, text=True, timeout=300, check=False)
    assert launched.returncode == 0, launched.stderr
    same(measure_token_ids(tmp_path / "one").path, tmp_path / "two")
    shards = [(tmp_path / "two" / f"results-00{rank}.jsonl").read_bytes().count(b'{"passage"') for rank in range(2)]
    assert shards == [6, 6]


@pytest.mark.parametrize("counts", [(3, 2), (2, 3), (1, 2), (2, 1)])
def test_going_on_with_another_number_of_processes(
    begin: Callable[..., ResultFolder], tmp_path: Path, counts: tuple[int, int]
) -> None:
    begin("one")
    for count, limit in zip(counts, (7, None), strict=True):
        for rank in range(count):
            begin("several", process=Process(rank, count), limit=limit)
    same(tmp_path / "one", tmp_path / "several")


def test_a_folder_that_is_being_written_is_refused(begin: Callable[..., ResultFolder]) -> None:
    folder = begin(process=Process(1, 2))
    with folder.shard(1, 2):
        for rank, count in ((1, 2), (0, 1)):
            with pytest.raises(EvaluationError, match="another process is writing"):
                folder.shard(rank, count)
        folder.shard(0, 2).close()
    folder.shard(0, 1).close()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Process()),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}, Process(5, 8, 1)),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}, Process(1, 2)),
    ],
)
def test_the_environment_says_which_process_this_is(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: Process
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert this_process() == expected


@pytest.mark.parametrize("environment", [{"RANK": "2", "WORLD_SIZE": "2"}, {"RANK": "one", "WORLD_SIZE": "2"}])
def test_an_impossible_process_is_refused(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(EvaluationError, match="RANK"):
        this_process()


# What goes wrong


def test_a_passage_that_fails_is_recorded_and_the_run_goes_on(begin: Callable[..., ResultFolder]) -> None:
    folder = begin(texts=(*TEXTS[:4], "", "The", "The dog" * 40, (0, 99, 1)), fail_at=(2,))
    results = read_results(folder.path)
    assert results.counts() == {"measured": 3, "failed": 4, "too long": 1}
    reasons = results.reasons()
    assert reasons[2] == "passage 2 is beyond help"
    assert "empty" in reasons[4] and "1 token" in reasons[5] and "window of 32" in reasons[6] and "99" in reasons[7]
    assert set(results.rows.passage) == {0, 1, 3}
    begin(texts=(*TEXTS[:4], "", "The", "The dog" * 40, (0, 99, 1)), retry=True)
    assert read_results(folder.path).counts() == {"measured": 4, "failed": 3, "too long": 1}


def test_only_on_request_is_a_long_passage_cut(model: Any, tmp_path: Path, fake: None) -> None:
    text = "The" + " dog" * 40
    arguments: Any = {"methods": ["fisher"], "metrics": ["aopc"], "ablations": ["zero"]}
    with pytest.raises(EvaluationError, match="none of 1 passages could be measured.*window of 32"):
        ls.evaluate(model, [text], **arguments)
    rows = ls.evaluate(model, [text], truncate=True, **arguments)
    assert set(rows.n_tokens) == {32} and set(rows.tokens_cut) == {9}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, "laboratory · seed is 0, this one's is 1"),
        ({"methods": ["fisher"]}, r"laboratory · methods is \[\"fisher\", \"random\"\]"),
        ({"passages": list(TEXTS[:3])}, "passages · sha256"),
        ({"target": "own"}, 'passages · target is "last", this one\'s is "own"'),
        ({"model": gpt2_like()}, "model · "),
    ],
)
def test_a_folder_of_another_evaluation_is_refused(
    model: Any, tmp_path: Path, fake: None, change: dict[str, Any], words: str
) -> None:
    arguments: Any = {
        "model": model,
        "passages": list(TEXTS),
        "methods": ["fisher", "random"],
        "metrics": ["aopc"],
        "out": tmp_path / "run",
        "limit": 2,
    }
    ls.evaluate(**arguments)
    before = sorted((path.name, path.read_bytes()) for path in (tmp_path / "run").iterdir())
    if "model" in change:
        change["model"].tokenizer = tokenizer()
        change["model"].cfg.model_name = "another"
    with pytest.raises(EvaluationError, match=words):
        ls.evaluate(**arguments | change)
    assert sorted((path.name, path.read_bytes()) for path in (tmp_path / "run").iterdir()) == before


def test_commits_are_not_mixed_unless_allowed(
    model: Any, tmp_path: Path, fake: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments: Any = {"methods": ["fisher", "random"], "metrics": ["aopc"], "out": tmp_path / "run"}
    commit = {"now": "a" * 40}
    monkeypatch.setattr(run_module, "_commit", lambda: commit["now"])
    ls.evaluate(model, list(TEXTS), limit=4, **arguments)
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["commit"] == "a" * 40
    assert (manifest["plan"]["skip"], manifest["plan"]["limit"]) == (0, 4)
    assert manifest["plan"]["methods"] == ["fisher", "random"]
    commit["now"] = "b" * 40
    with pytest.raises(EvaluationError, match="begun by the code of commit .*mixed_commits=True"):
        ls.evaluate(model, list(TEXTS), limit=4, **arguments)
    ls.evaluate(model, list(TEXTS), limit=7, skip=1, mixed_commits=True, **arguments)
    assert json.loads((tmp_path / "run" / "manifest.json").read_text()) == manifest, (
        "the plan is that of the first start"
    )
    text = markdown(ls.report(tmp_path / "run"))
    assert "2 versions of the code, which mixed_commits allows" in text
    assert "passages 0–3, 2 methods" in text
    assert "asked for passages 1–7; planned at the first start were 0–3" in text


def test_a_cut_plan_is_reported(model: Any, tmp_path: Path, fake: None) -> None:
    arguments: Any = {"methods": ["fisher"], "metrics": ["aopc"], "out": tmp_path / "run"}
    ls.evaluate(model, list(TEXTS), limit=8, **arguments)
    path = tmp_path / "run" / "results-000.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:6]))
    assert "Of 8 passages planned at the first start, 3 were not measured" in markdown(ls.report(tmp_path / "run"))


def test_the_commit_tells_changes_of_the_package_apart() -> None:
    commit = run_module._commit()
    assert commit is None or re.fullmatch(r"[0-9a-f]{40}(-dirty-[0-9a-f]{12})?", commit)


def test_another_format_version_is_refused(begin: Callable[..., ResultFolder]) -> None:
    path = begin(limit=1).path
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"format_version": 99}))
    for again in (lambda: ls.load_results(path), lambda: begin(limit=1)):
        with pytest.raises(FileError, match="format version 99, and this lens_scopes reads 1"):
            again()


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "is missing"), ("{", "is damaged"), ("[]", "is not of"), ('{"format": "x"}', "is not of")],
)
def test_no_evaluation_to_read(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(FileError, match=words):
        ls.load_results(tmp_path)


def test_results_without_a_manifest_are_left_alone(begin: Callable[..., ResultFolder]) -> None:
    path = begin(limit=1).path
    (path / "manifest.json").unlink()
    with pytest.raises(EvaluationError, match=r"results without a manifest\.json"):
        begin(limit=1)


@pytest.mark.parametrize("part", [40, 900])
def test_on_a_full_disk_nothing_is_half_written(begin: Callable[..., ResultFolder], tmp_path: Path, part: int) -> None:
    whole = begin("whole").path
    content = (whole / "results-000.jsonl").read_bytes()
    room = content.index(b'{"passage": 3,') + part
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        with pytest.raises(FileError, match="File too large; what was measured before is kept"):
            begin()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    content = (tmp_path / "run" / "results-000.jsonl").read_bytes()
    assert content.endswith(b"\n") and content.count(b'{"passage"') == 3
    begin()
    same(whole, tmp_path / "run")


def test_a_full_disk_is_one_sentence(
    begin: Callable[..., ResultFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(folder_module.os, "fsync", full)
    with pytest.raises(FileError, match=r"results-000\.jsonl: No space left on device; what was"):
        begin()
    assert (tmp_path / "run" / "results-000.jsonl").read_bytes() == b""


def test_evaluate_is_repeatable_and_passages_keep_their_numbers(model: Any, tmp_path: Path, fake: None) -> None:
    arguments: Any = {"methods": ["fisher"], "metrics": ["aopc"]}
    whole = ls.evaluate(model, list(TEXTS), **arguments)
    part = ls.evaluate(model, list(TEXTS), skip=4, limit=3, out=tmp_path / "part", **arguments)
    expected = whole[whole.passage.isin([4, 5, 6])].reset_index(drop=True)
    pandas.testing.assert_frame_equal(part, expected, check_exact=True)
    manifest = json.loads((tmp_path / "part" / "manifest.json").read_text())
    assert manifest["model"]["dtype"] == "float64" and "torch" in manifest["versions"]
    assert manifest["passages"]["count"] == len(TEXTS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"target": "first"}, "unknown target 'first'"),
        ({"limit": 0}, "limit must be an integer from 1"),
        ({"skip": -1}, "skip must be an integer from 0"),
        ({"skip": 12}, "leaves none of the 12 passages"),
    ],
)
def test_settings_that_make_no_sense(model: Any, change: dict[str, Any], words: str) -> None:
    with pytest.raises(EvaluationError, match=words):
        ls.evaluate(model, list(TEXTS), methods=["fisher"], metrics=["aopc"], **change)


# With the evaluator itself


def test_measured_in_pieces_by_several_processes_the_evaluator_gives_the_same_rows(model: Any, tmp_path: Path) -> None:
    choices = (["fisher", "random", "loo-kl"], ["aopc", "loo-kl", "deletion"], ["zero", "resample"])
    texts = [text.replace(" on", " on." * (1 + n % 3)) for n, text in enumerate(TEXTS[:6])]
    whole = ls.evaluate(model, texts, methods=choices[0], metrics=choices[1], ablations=choices[2], seed=3)
    selection = Selection(read_passages(texts))
    for limit in (3, None):
        for rank in (1, 0):
            evaluator = Evaluator(model, *choices, seed=3, corpus=run_module._corpus(model, selection))
            folder = ResultFolder.begin(tmp_path / "run", {"laboratory": evaluator.signature()})
            part = Selection(selection.passages, limit=limit)
            measure_passages(model, evaluator, part, folder, Process(rank, 2))
    pandas.testing.assert_frame_equal(ls.load_results(tmp_path / "run"), whole, check_exact=True)
    assert whole["value"].notna().any() and set(whole.correct) <= {True, False}
    assert set(whole[whole.method == "fisher"].backwards) == {1}
