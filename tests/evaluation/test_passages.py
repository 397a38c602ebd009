"""Passages from every kind of file, the same whichever it is, and the line of what cannot be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest

from lens_scopes.errors import FileError
from lens_scopes.evaluation.passages.read import Passages, read_passages

TEXTS = ["Der Hund\u2028schläft. ", "“On the sofa”", "a\tb 🛋"]


def write_text(path: Path) -> Path:
    file = path / "passages.txt"
    file.write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(TEXTS).encode() + b"\n")
    return file


def write_json(path: Path) -> Path:
    (path / "passages.json").write_text(json.dumps([TEXTS[0], *({"text": text, "n": 1} for text in TEXTS[1:])]))
    return path / "passages.json"


def write_lines(path: Path) -> Path:
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in TEXTS]
    (path / "passages.jsonl").write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return path / "passages.jsonl"


def write_parquet(path: Path) -> Path:
    pandas.DataFrame({"text": TEXTS, "n": [1, 2, 3]}).to_parquet(path / "passages.parquet")
    return path / "passages.parquet"


def write_folder(path: Path) -> Path:
    (path / "set").mkdir()
    write_lines(path / "set")
    return path / "set"


def write_saved(path: Path) -> Path:
    import datasets

    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(str(path / "saved"))
    return path / "saved"


WRITERS = [write_text, write_json, write_lines, write_parquet, write_folder, write_saved]


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """`datasets` keeps nothing outside the test."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_every_kind_of_file_holds_the_same_passages(
    tmp_path: Path, write: Callable[[Path], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    source = write(tmp_path)
    capfd.readouterr()
    read = read_passages(source)
    assert read.items == tuple(TEXTS) and read.name == source.name
    assert read.digest() == read_passages(TEXTS).digest() != read_passages(TEXTS[::-1]).digest()
    printed = capfd.readouterr()
    assert not printed.out and not printed.err


def test_passages_as_they_are() -> None:
    given = read_passages(["a", [1, 2]])
    assert given == Passages("given", ("a", (1, 2))) == read_passages(given)
    assert read_passages([[1, 2]]).digest() != read_passages(["12"]).digest()


def test_another_field(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    assert read_passages(file, field="prompt").items == ("a", "b")
    with pytest.raises(FileError, match=r"a\.jsonl line 1 has no field 'prompts', only 'prompt'.*--field prompt"):
        read_passages(file, field="prompts")


def test_splits_of_a_data_set(tmp_path: Path) -> None:
    import datasets

    parts = {name: datasets.Dataset.from_dict({"text": [name]}) for name in ("train", "test")}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "set"))
    assert read_passages(tmp_path / "set", split="test").items == ("test",)
    with pytest.raises(FileError, match="has the splits train, test; choose one"):
        read_passages(tmp_path / "set")
    with pytest.raises(FileError, match="has no split 'dev'; it has train, test"):
        read_passages(tmp_path / "set", split="dev")
    with pytest.raises(FileError, match="has no field 'body', only 'text'"):
        read_passages(tmp_path / "set", split="test", field="body")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b'"a"\n\n{"text": "b"\n', r"a\.jsonl line 3 is not JSON"),
        ("a.jsonl", b'"a"\n{"text": null}\n', r"a\.jsonl line 2 has None as 'text'; expected a text"),
        ("a.jsonl", b'"a"\n7\n', r"a\.jsonl line 2 is 7; expected a text"),
        ("a.jsonl", b'"a"\n"\xff"\n', r"a\.jsonl line 2 is not valid UTF-8 \(byte 0xff\)"),
        ("a.txt", b"a\nb\xe9\n", r"a\.txt line 2 is not valid UTF-8"),
        ("a.json", b'["a",\n "b"\n "c"]', r"a\.json line 3 is not JSON"),
        (
            "a.json",
            b'[\n "a",\n {"text": "]"},\n\n {"texts": 1}\n]',
            r"a\.json line 5 has no field 'text', only 'texts'",
        ),
        ("a.json", b'{"text": "a"}', r"a\.json holds \{'text': 'a'\}; expected a list"),
        ("a.json", b"[" * 100_000, r"a\.json.*(nested too deeply|not JSON)"),
        ("a.json", b"[]", "holds no passage"),
        ("a.txt", b"\n\n", "holds no passage"),
        ("a.csv", b"a", r"give it one of the suffixes \.txt"),
        ("a.parquet", b"PAR1", r"cannot read .*a\.parquet"),
    ],
)
def test_what_cannot_be_read_is_named_by_line(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FileError, match=words):
        read_passages(tmp_path / name)


def test_an_empty_cell_of_a_table_is_named_by_row(tmp_path: Path) -> None:
    pandas.DataFrame({"text": ["a", None]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(FileError, match="row 2 has None as 'text'"):
        read_passages(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("absent.jsonl", "there is no such file"),
        ("no-such-set", "cannot read no-such-set as a file or a data set"),
        ([], "got list"),
        (7, "got int"),
        (["a", 7], "passage 1 is 7"),
        ([["a"]], "passage 0 is"),
    ],
)
def test_no_passages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: Any, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError, match=words):
        read_passages(source)
