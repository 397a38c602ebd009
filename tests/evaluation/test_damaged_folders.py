"""Damage of every kind in a result folder: a line's number and an error of one's own, or the same report as ever."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from fake_evaluation import fake_evaluation

import lens_scopes as ls
from lens_scopes.errors import EvaluationError, FileError, LensScopesError
from lens_scopes.evaluation.storage.folder import ResultFolder, Shard

LINE: dict[str, Any] = {"passage": 99, "status": "measured", "seconds": 1.0, "facts": {}, "measurements": []}
ROW = ["fisher", "aopc", "zero", 1.0, None, 2, 1, None]


def changed(**fields: Any) -> str:
    return json.dumps({name: value for name, value in {**LINE, **fields}.items() if value is not ...})


def rows(*changes: tuple[int, Any]) -> str:
    row = list(ROW)
    for index, value in changes:
        row[index] = value
    return changed(measurements=[row])


DAMAGED = {
    "status missing": changed(status=...),
    "seconds missing": changed(seconds=...),
    "passage alone": '{"passage": 99}',
    "nothing": "{}",
    "a list": "[1, 2]",
    "a string": '"passage"',
    "null": "null",
    "passage a string": changed(passage="1"),
    "passage a list": changed(passage=[1]),
    "passage null": changed(passage=None),
    "passage negative": changed(passage=-1),
    "passage huge": changed(passage=10**30),
    "passage true": changed(passage=True),
    "status unknown": changed(status="done"),
    "seconds text": changed(seconds="1"),
    "facts null": changed(facts=None),
    "facts nested": changed(facts={"a": {"b": 1}}),
    "fact named passage": changed(facts={"passage": 1}),
    "fact named value": changed(facts={"value": 1}),
    "measurements null": changed(measurements=None),
    "measurements of numbers": changed(measurements=[1]),
    "measurement short": changed(measurements=[ROW[:3]]),
    "measurement long": changed(measurements=[[*ROW, 1]]),
    "measurement twice": changed(measurements=[ROW, ROW]),
    "value text": rows((3, "abc")),
    "value list": rows((3, [1.0])),
    "value true": rows((3, True)),
    "forwards null": rows((5, None)),
    "forwards huge": rows((5, 10**30)),
    "method null": rows((0, None)),
    "metric a number": rows((1, 3)),
    "fraction text": rows((4, "x")),
    "session a string": '{"session": "x"}',
    "session null": '{"session": null}',
    "session with a list": '{"session": {"commit": ["a"]}}',
    "digits": '{"passage": ' + "9" * 5000 + "}",
    "nested": '{"facts": ' + "[" * 100_000,
    "not UTF-8": "\udcff",
    "half": '{"passage": 1',
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fake_evaluation(tmp_path / "results", passages=8)


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_line_is_told_by_its_number(folder: Path, damage: str) -> None:
    shard = folder / "results-000.jsonl"
    lines = shard.read_bytes().split(b"\n")
    shard.write_bytes(b"\n".join([*lines[:3], DAMAGED[damage].encode("utf-8", "surrogateescape"), *lines[3:]]))
    for read in (ls.load_results, ls.report, lambda path: ResultFolder.open(path).records()):
        with pytest.raises(FileError, match=r"results-000\.jsonl line 4 is damaged"):
            read(folder)


@pytest.mark.parametrize("section", ["passages", "laboratory", "model", "versions", "plan"])
@pytest.mark.parametrize("value", [None, [], "x", 3])
def test_a_damaged_manifest_is_refused(folder: Path, section: str, value: Any) -> None:
    manifest = json.loads((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_text(json.dumps(manifest | {section: value}))
    with pytest.raises(FileError, match=section):
        ls.report(folder)


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("plan", {"skip": 0}),
        ("plan", {"skip": 0, "limit": "x", "began": "now", "methods": [], "metrics": [], "ablations": []}),
        ("passages", {"name": 3}),
        ("passages", {"count": "many"}),
        ("model", {"name": None}),
    ],
)
def test_a_damaged_part_of_the_manifest_is_refused(folder: Path, section: str, value: Any) -> None:
    test_a_damaged_manifest_is_refused(folder, section, value)


def test_a_deeply_nested_manifest_is_refused(folder: Path) -> None:
    (folder / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(FileError, match="damaged"):
        ls.load_results(folder)


@pytest.mark.parametrize("name", ["results-abc.jsonl", "results-.jsonl", "results-0.jsonl", "results-٣٣٣.jsonl"])
def test_files_of_other_names_are_somebody_elses(folder: Path, name: str) -> None:
    before = ls.load_results(folder)
    (folder / name).write_text("not a line\nof ours\n")
    assert ls.load_results(folder).equals(before)
    with ResultFolder.open(folder).shard(0, 1):
        assert (folder / name).read_text() == "not a line\nof ours\n"


def begin(path: Path, name: str, together: threading.Barrier, outcomes: dict[str, Any]) -> None:
    together.wait()
    try:
        outcomes[name] = ResultFolder.begin(path, {"laboratory": {"seed": name}})
    except LensScopesError as error:
        outcomes[name] = error


def test_of_two_evaluations_that_start_together_one_has_the_folder(tmp_path: Path) -> None:
    for start in range(40):
        path, outcomes = tmp_path / str(start), dict[str, Any]()
        together = threading.Barrier(2)

        def begin(
            name: str, path: Path = path, together: threading.Barrier = together, outcomes: Any = outcomes
        ) -> None:
            together.wait()
            try:
                outcomes[name] = ResultFolder.begin(path, {"laboratory": {"seed": name}})
            except LensScopesError as error:
                outcomes[name] = error

        threads = [threading.Thread(target=begin, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        held = ResultFolder.open(path).manifest["laboratory"]["seed"]
        refused = outcomes["b" if held == "a" else "a"]
        assert isinstance(outcomes[held], ResultFolder) and isinstance(refused, EvaluationError), outcomes
        assert "another evaluation" in str(refused)


@pytest.fixture
def sealed(folder: Path) -> Path:
    """The file of results, written as an evaluation does: with checksums."""
    path = folder / "results-000.jsonl"
    lines = path.read_bytes().splitlines()
    path.unlink()
    with Shard(path) as shard:
        for line in lines:
            shard.append(json.loads(line))
    return path


@pytest.mark.parametrize("place", [-1, -2, -8, -40])
def test_a_changed_byte_is_told_by_the_line_of_its_checksum(sealed: Path, place: int) -> None:
    content = bytearray(sealed.read_bytes())
    number = content.count(b"\n")
    content[place] ^= 1
    sealed.write_bytes(content)
    with pytest.raises(FileError, match=rf"line {number} is damaged"):
        ls.load_results(sealed.parent)


def test_a_line_that_was_cut_counts_for_nothing(sealed: Path) -> None:
    content, count = sealed.read_bytes(), len(ls.load_results(sealed.parent))
    for cut in (-1, -2, -40):
        sealed.write_bytes(content[:cut])
        assert len(ls.load_results(sealed.parent)) < count
