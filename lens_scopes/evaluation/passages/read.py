"""Passages of a data set: a text, JSON, JSONL or Parquet file, a name or folder for `datasets`, or a list of texts."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
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
    """

    name: str
    items: tuple[Passage, ...]

    def __len__(self) -> int:
        """The number of passages."""
        return len(self.items)

    def digest(self) -> str:
        """SHA-256 of all passages in order, whatever kind of file they came from."""
        digest = hashlib.sha256()
        for item in self.items:
            digest.update(json.dumps(item).encode("ascii") + b"\n")
        return digest.hexdigest()


def read_passages(
    source: PassagesLike, *, field: str | None = None, split: str | None = None, subset: str | None = None
) -> Passages:
    """The passages of a file or data set.

    `source` is one of

    - a file: `.txt` (one passage a line, blank lines left out), `.json` (a list), `.jsonl` or `.ndjson` (one a line) or
      `.parquet` (one a row). In JSON a passage is a string, or an object whose `field` is one.
    - a folder that `datasets` saved or can load, or the name of a data set on the hub or in the local cache.
    - the passages themselves: texts, or token ids each.

    Args:
        source: where the passages are.
        field: the field or column that holds the text; "text" unless given.
        split: of a data set, such as "test"; only needed where there are several.
        subset: the configuration of a data set, where it has several.

    Raises:
        FileError: when there is nothing to read or it cannot be read; the message names the line or row.
    """
    if isinstance(source, Passages):
        return source
    if source == "" or not isinstance(source, (str, Path)):
        return Passages("given", tuple(_given(source)))
    path = Path(source)
    field = field or FIELD
    try:
        there = path.is_file()
    except (OSError, ValueError) as error:
        raise FileError(f"cannot read {quote(str(source))}: {error}.") from error
    if there:
        items = _from_file(path, field)
        name = path.name
    elif path.suffix.lower() in _SUFFIXES:
        raise FileError(f"cannot read {path}: there is no such file.")
    else:
        items = _from_data_set(source, field, split, subset)
        name = path.name if path.is_dir() else str(source)
    if not items:
        raise FileError(f"{source} holds no passage; give at least one.")
    return Passages(name, tuple(items))


def _given(source: Any) -> Iterable[Passage]:
    if not isinstance(source, Sequence) or not source:
        raise FileError(f"passages are a file, a data set's name or a list of texts, got {type(source).__name__}.")
    for index, item in enumerate(source):
        if isinstance(item, str):
            yield item
        elif isinstance(item, Sequence) and all(isinstance(token_id, int) for token_id in item):
            yield tuple(item)
        else:
            raise FileError(f"passage {index} is {quote(item)}; give a text or token ids.")


def _from_file(path: Path, field: str) -> list[str]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _from_parquet(path, field)
    if suffix not in _SUFFIXES:
        raise FileError(f"cannot tell what {path} holds; give it one of the suffixes {' '.join(_SUFFIXES)}.")
    text = _decoded(path)
    if suffix == ".json":
        return _from_json(path, text, field)
    lines = [(number, line.removesuffix("\r")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if suffix == ".txt":
        return [line for _, line in lines]
    return [_text_of(_parsed(line, f"{path} line {number}"), f"{path} line {number}", field) for number, line in lines]


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


def _from_json(path: Path, text: str, field: str) -> list[str]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise FileError(
            f"{path} line {error.lineno} is not JSON ({error.msg}); a file of one object a line is named .jsonl."
        ) from error
    except RecursionError as error:
        raise FileError(f"{path} is nested too deeply; expected a list of texts.") from error
    if not isinstance(rows, list):
        raise FileError(f"{path} holds {quote(rows)}; expected a list of texts, or of objects with a field {field!r}.")
    lines = _Lines(text)
    return [
        _text_of(row, lambda index=index: f"{path} line {lines.of_item(index)}", field)
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


def _from_parquet(path: Path, field: str) -> list[str]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            if field not in columns:
                raise FileError(f"{path} {_no_field(field, columns)}")
            values = file.read([field]).column(field).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise FileError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    return [_text_of(value, f"{path} row {row}", field) for row, value in enumerate(values, 1)]


def _from_data_set(source: str | Path, field: str, split: str | None, subset: str | None) -> list[str]:
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
    if field not in data.column_names:
        raise FileError(f"{source} {_no_field(field, data.column_names)}")
    return [_text_of(value, f"{source} row {row}", field) for row, value in enumerate(data[field], 1)]


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


def _text_of(row: Any, where: Any, field: str) -> str:
    """The text of a row; `where` is its place, or gives it."""
    if isinstance(row, str):
        return row
    place = where() if callable(where) else where
    if not isinstance(row, dict):
        raise FileError(f"{place} is {quote(row)}; expected a text.")
    if field not in row:
        raise FileError(f"{place} {_no_field(field, list(row))}")
    if not isinstance(row[field], str):
        raise FileError(f"{place} has {quote(row[field])} as {field!r}; expected a text.")
    return row[field]


def _no_field(field: str, fields: Sequence[str]) -> str:
    which = (*near_names(field, fields), *fields, "NAME")[0]
    return f"has no field {field!r}, only {', '.join(map(repr, fields)) or 'none'}; name the text's (--field {which})."
