"""Passages of a data set: a text, JSON, JSONL or Parquet file, a name or folder for `datasets`, or a list of texts."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from lens_scopes.errors import VALIDATED, FileError, near_names
from lens_scopes.prompts.tokens import quote

Passage: TypeAlias = Annotated["str | tuple[int, ...]", VALIDATED]
PassagesLike: TypeAlias = Annotated["str | Path | Sequence[str | Sequence[int]] | Passages", VALIDATED]

FIELD = "text"
_SUFFIXES = (".txt", ".json", ".jsonl", ".ndjson", ".parquet")


@dataclass(frozen=True)
class Passages:
    """What a data set holds, in its order: the index of a passage is its place there.

    Attributes:
        name: the file's name without its folder, or the name of the data set.
        items: texts, or token ids where ids were given.
        answers: what follows each passage, to be explained; empty where none were given.
    """

    name: str
    items: tuple[Passage, ...]
    answers: tuple[Passage, ...] = ()

    def __len__(self) -> int:
        """The number of passages."""
        return len(self.items)

    def digest(self) -> str:
        """SHA-256 of all passages in order, whatever kind of file they came from."""
        digest = hashlib.sha256()
        for item in self.items if not self.answers else zip(self.items, self.answers, strict=True):
            digest.update(json.dumps(item).encode("ascii") + b"\n")
        return digest.hexdigest()


def read_passages(
    source: PassagesLike,
    *,
    field: str | None = None,
    answer_field: str | None = None,
    split: str | None = None,
    subset: str | None = None,
) -> Passages:
    """The passages of a file or data set.

    `source` is one of

    - a file: `.txt` (one passage a line, blank lines left out), `.json` (a list), `.jsonl` or `.ndjson` (one a line) or
      `.parquet` (one a row). In JSON a passage is a string, or an object whose `field` is one.
    - a folder that `datasets` saved or can load, or the name of a data set on the hub or in the local cache.
    - the passages themselves: texts, or token ids each; or mappings with the fields, as objects in JSON.

    Args:
        source: where the passages are.
        field: the field or column that holds the text; "text" unless given.
        answer_field: the field or column that holds the answer after each passage; without it there are no answers.
        split: of a data set, such as "test"; only needed where there are several.
        subset: the configuration of a data set, where it has several.

    Raises:
        FileError: when there is nothing to read or it cannot be read; the message names the line or row.
    """
    if isinstance(source, Passages):
        return source
    fields = (field or FIELD, *((answer_field,) if answer_field else ()))
    if not isinstance(source, (str, Path)):
        return _passages("given", list(_given(source, fields)))
    path = Path(source)
    if path.is_file():
        items = _from_file(path, fields)
        name = path.name
    elif path.suffix.lower() in _SUFFIXES:
        raise FileError(f"cannot read {path}: there is no such file.")
    else:
        items = _from_data_set(source, fields, split, subset)
        name = path.name if path.is_dir() else str(source)
    if not items:
        raise FileError(f"{source} holds no passage; give at least one.")
    return _passages(name, items)


def _passages(name: str, rows: Sequence[tuple[Passage, ...]]) -> Passages:
    """The passages of rows with a text, or a text and an answer each."""
    items, *answers = zip(*rows, strict=True)
    return Passages(name, items, *answers)


def _given(source: Any, fields: Sequence[str]) -> Iterable[tuple[Passage, ...]]:
    if not isinstance(source, Sequence) or not source:
        raise FileError(f"passages are a file, a data set's name or a list of texts, got {type(source).__name__}.")
    for index, item in enumerate(source):
        values = [item]
        if isinstance(item, Mapping) or len(fields) > 1:
            values = [_field_of(item, f"passage {index}", field, fields) for field in fields]
        if not all(isinstance(value, str) or _is_ids(value) for value in values):
            raise FileError(f"passage {index} is {quote(item)}; give a text or token ids.")
        yield tuple(value if isinstance(value, str) else tuple(value) for value in values)


def _is_ids(value: Any) -> bool:
    return isinstance(value, Sequence) and all(isinstance(token_id, int) for token_id in value)


def _from_file(path: Path, fields: Sequence[str]) -> list[tuple[str, ...]]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _from_parquet(path, fields)
    if suffix not in _SUFFIXES:
        raise FileError(f"cannot tell what {path} holds; give it one of the suffixes {' '.join(_SUFFIXES)}.")
    text = _decoded(path)
    if suffix == ".json":
        return _from_json(path, text, fields)
    lines = [(number, line.removesuffix("\r")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if suffix == ".txt":
        return [_texts_of(line, f"{path} line {number}", fields) for number, line in lines]
    return [
        _texts_of(_parsed(line, f"{path} line {number}"), f"{path} line {number}", fields) for number, line in lines
    ]


def _decoded(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}.") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise FileError(
            f"{path} line {line} is not valid UTF-8 (byte 0x{content[error.start]:02x}); convert it."
        ) from error


def _parsed(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        said = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        raise FileError(f"{where} is not JSON ({said}); expected a string or an object a line.") from error


def _from_json(path: Path, text: str, fields: Sequence[str]) -> list[tuple[str, ...]]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise FileError(
            f"{path} line {error.lineno} is not JSON ({error.msg}); a file of one object a line is named .jsonl."
        ) from error
    except RecursionError as error:
        raise FileError(f"{path} is nested too deeply; expected a list of texts.") from error
    if not isinstance(rows, list):
        raise FileError(
            f"{path} holds {quote(rows)}; expected a list of texts, or of objects with a field {fields[0]!r}."
        )
    lines = _Lines(text)
    return [
        _texts_of(row, lambda index=index: f"{path} line {lines.of_item(index)}", fields)
        for index, row in enumerate(rows)
    ]


class _Lines:
    """The lines on which the items of a JSON list begin, looked up only for a message."""

    def __init__(self, text: str) -> None:
        self.text = text

    def of_item(self, index: int) -> int:
        decoder = json.JSONDecoder()
        at = self.text.index("[") + 1
        for _ in range(index):
            _, at = decoder.raw_decode(self.text, self._start(at))
            at = self.text.index(",", at) + 1
        return self.text.count("\n", 0, self._start(at)) + 1

    def _start(self, at: int) -> int:
        return at + len(self.text[at:]) - len(self.text[at:].lstrip())


def _from_parquet(path: Path, fields: Sequence[str]) -> list[tuple[str, ...]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_columns(path, fields, file.schema_arrow.names)
            rows = file.read(list(fields)).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise FileError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    return [_texts_of(row, f"{path} row {number}", fields) for number, row in enumerate(rows, 1)]


def _check_columns(source: str | Path, fields: Sequence[str], columns: Sequence[str]) -> None:
    for field in fields:
        if field not in columns:
            raise FileError(f"{source} {_no_field(field, columns, fields)}")


def _from_data_set(
    source: str | Path, fields: Sequence[str], split: str | None, subset: str | None
) -> list[tuple[str, ...]]:
    import datasets

    from lens_scopes.models.quiet import quiet_libraries

    with quiet_libraries(download_bars=sys.stderr.isatty()), _data_set_bars(datasets):
        try:
            if (Path(source) / "state.json").is_file() or (Path(source) / "dataset_dict.json").is_file():
                data: Any = datasets.load_from_disk(str(source))
            else:
                data = datasets.load_dataset(str(source), subset)
        except Exception as error:  # whatever the loader of a data set raises
            said = " ".join(str(error).split()) or type(error).__name__
            raise FileError(f"cannot read {source} as a file or a data set: {said}") from error
    if isinstance(data, dict):
        names = list(data)
        if split is None and len(names) > 1:
            raise FileError(f"{source} has the splits {', '.join(names)}; choose one with split (--split {names[0]}).")
        chosen = split or names[0]
        if chosen not in data:
            raise FileError(f"{source} has no split {chosen!r}; it has {', '.join(names)}.")
        data = data[chosen]
    _check_columns(source, fields, data.column_names)
    columns = zip(*(data[field] for field in fields), strict=True)
    rows = (dict(zip(fields, values, strict=True)) for values in columns)
    return [_texts_of(row, f"{source} row {number}", fields) for number, row in enumerate(rows, 1)]


@contextmanager
def _data_set_bars(datasets: Any) -> Iterator[None]:
    """Progress bars of `datasets` only where someone watches."""
    disabled = datasets.are_progress_bars_disabled()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not disabled:
            datasets.enable_progress_bars()


def _texts_of(row: Any, where: Any, fields: Sequence[str]) -> tuple[str, ...]:
    """The text of a row, and its answer where that has a field; `where` is its place, or gives it."""
    if isinstance(row, str) and len(fields) == 1:
        return (row,)
    texts = []
    for field in fields:
        text = _field_of(row, where, field, fields)
        if not isinstance(text, str):
            raise FileError(f"{_place(where)} has {quote(text)} as {field!r}; expected a text.")
        texts.append(text)
    return tuple(texts)


def _field_of(row: Any, where: Any, field: str, fields: Sequence[str]) -> Any:
    if not isinstance(row, Mapping):
        expected = "a text" if len(fields) == 1 else f"an object with the fields {' and '.join(map(repr, fields))}"
        raise FileError(f"{_place(where)} is {quote(row)}; expected {expected}.")
    if field not in row:
        raise FileError(f"{_place(where)} {_no_field(field, list(row), fields)}")
    return row[field]


def _place(where: Any) -> str:
    return str(where() if callable(where) else where)


def _no_field(field: str, known: Sequence[str], fields: Sequence[str]) -> str:
    which = (*near_names(field, known), *(name for name in known if name not in fields), "NAME")[0]
    role, option = ("text", "--field") if field == fields[0] else ("answer", "--answer-field")
    return (
        f"has no field {field!r}, only {', '.join(map(repr, known)) or 'none'}; name the {role}'s ({option} {which})."
    )
