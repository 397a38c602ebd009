"""Passages of a data set: a text, JSON, JSONL or Parquet file, a name or folder for `datasets`, or a list of texts."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from lens_scopes.errors import VALIDATED, FileError, near_names
from lens_scopes.prompts.tokens import quote

Passage: TypeAlias = Annotated["str | tuple[int, ...]", VALIDATED]
PassagesLike: TypeAlias = Annotated["str | Path | Sequence[str | Sequence[int]] | Passages", VALIDATED]

_Row: TypeAlias = tuple[str, ...]  # the text, and the other prompt where one is read

FIELD = "text"
_SUFFIXES = (".txt", ".json", ".jsonl", ".ndjson", ".parquet")


@dataclass(frozen=True)
class Passages:
    """What a data set holds, in its order: the index of a passage is its place there.

    Attributes:
        name: the file's name without its folder, or the name of the data set.
        items: texts, or token ids where ids were given.
        others: another prompt for each of them; empty where there are none.
    """

    name: str
    items: tuple[Passage, ...]
    others: tuple[Passage, ...] = ()

    def __len__(self) -> int:
        """The number of passages."""
        return len(self.items)

    def digest(self) -> str:
        """SHA-256 of all passages in order, whatever kind of file they came from."""
        digest = hashlib.sha256()
        for item in (*self.items, *self.others):
            digest.update(json.dumps(item).encode("ascii") + b"\n")
        return digest.hexdigest()


def read_passages(
    source: PassagesLike,
    *,
    field: str | None = None,
    other: str | None = None,
    split: str | None = None,
    subset: str | None = None,
) -> Passages:
    """The passages of a file or data set.

    `source` is one of

    - a file: `.txt` (one passage a line, blank lines left out), `.json` (a list), `.jsonl` or `.ndjson` (one a line) or
      `.parquet` (one a row). In JSON a passage is a string, or an object whose `field` is one.
    - a folder that `datasets` saved or can load, or the name of a data set on the hub or in the local cache.
    - the passages themselves: texts, or token ids each; or pairs of a passage and another prompt of as many tokens.

    Args:
        source: where the passages are.
        field: the field or column that holds the text; "text" unless given.
        other: the field or column that holds another prompt of as many tokens; none is read unless given.
        split: of a data set, such as "test"; only needed where there are several.
        subset: the configuration of a data set, where it has several.

    Raises:
        FileError: when there is nothing to read or it cannot be read; the message names the line or row.
    """
    if isinstance(source, Passages):
        return source
    if source == "" or not isinstance(source, (str, Path)):
        return _given(source)
    path = Path(source)
    names = (field or FIELD, *([other] if other else []))
    try:
        there = path.is_file()
    except (OSError, ValueError) as error:
        raise FileError(f"cannot read {quote(str(source))}: {error}.") from error
    if there:
        rows = _from_file(path, names)
        name = path.name
    elif path.suffix.lower() in _SUFFIXES:
        raise FileError(f"cannot read {path}: there is no such file.")
    else:
        rows = _from_data_set(source, names, split, subset)
        name = path.name if path.is_dir() else str(source)
    if not rows:
        raise FileError(f"{source} holds no passage; give at least one.")
    items, *others = zip(*rows, strict=True)
    return Passages(name, items, *others)


def _given(source: Any) -> Passages:
    if not isinstance(source, Sequence) or not source:
        raise FileError(f"passages are a file, a data set's name or a list of texts, got {type(source).__name__}.")
    pairs = [_pair(item) for item in source]
    if any(pairs) and not all(pairs):
        raise FileError(
            f"passage {[bool(pair) for pair in pairs].index(False)} brings no other prompt, and others do; give each "
            "passage one, or none."
        )
    items = [
        _passage(pair[0] if pair else item, index) for index, (pair, item) in enumerate(zip(pairs, source, strict=True))
    ]
    others = [_passage(pair[1], index) for index, pair in enumerate(pairs) if pair]
    return Passages("given", tuple(items), tuple(others))


def _pair(item: Any) -> tuple[Any, Any] | None:
    """A passage and its other prompt; None for a passage alone."""
    is_pair = isinstance(item, Sequence) and not isinstance(item, str) and len(item) == 2
    return (item[0], item[1]) if is_pair and not any(isinstance(part, int) for part in item) else None


def _passage(item: Any, index: int) -> Passage:
    if isinstance(item, str):
        return item
    if isinstance(item, Sequence) and all(isinstance(token_id, int) for token_id in item):
        return tuple(item)
    raise FileError(f"passage {index} is {quote(item)}; give a text or token ids.")


def _from_file(path: Path, names: Sequence[str]) -> list[_Row]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _from_parquet(path, names)
    if suffix not in _SUFFIXES:
        raise FileError(f"cannot tell what {path} holds; give it one of the suffixes {' '.join(_SUFFIXES)}.")
    text = _decoded(path)
    if suffix == ".json":
        return _from_json(path, text, names)
    lines = [(number, line.removesuffix("\r")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if suffix == ".txt":
        return [_texts_of(line, f"{path} line {number}", names) for number, line in lines]
    return [_texts_of(_parsed(line, f"{path} line {number}"), f"{path} line {number}", names) for number, line in lines]


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


def _from_json(path: Path, text: str, names: Sequence[str]) -> list[_Row]:
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
            f"{path} holds {quote(rows)}; expected a list of texts, or of objects with a field {names[0]!r}."
        )
    lines = _Lines(text)
    return [
        _texts_of(row, lambda index=index: f"{path} line {lines.of_item(index)}", names)
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


def _from_parquet(path: Path, names: Sequence[str]) -> list[_Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            for field in names:
                if field not in columns:
                    raise FileError(f"{path} {_no_field(field, columns)}")
            rows = file.read(list(names)).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise FileError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    return [_texts_of(row, f"{path} row {number}", names) for number, row in enumerate(rows, 1)]


def _from_data_set(source: str | Path, names: Sequence[str], split: str | None, subset: str | None) -> list[_Row]:
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
        splits = list(data)
        if split is None and len(splits) > 1:
            raise FileError(
                f"{source} has the splits {', '.join(splits)}; choose one with split (--split {splits[0]})."
            )
        chosen = split or splits[0]
        if chosen not in data:
            raise FileError(f"{source} has no split {chosen!r}; it has {', '.join(splits)}.")
        data = data[chosen]
    for field in names:
        if field not in data.column_names:
            raise FileError(f"{source} {_no_field(field, data.column_names)}")
    rows = zip(*(data[field] for field in names), strict=True)
    return [
        _texts_of(dict(zip(names, values, strict=True)), f"{source} row {number}", names)
        for number, values in enumerate(rows, 1)
    ]


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


def _texts_of(row: Any, where: Any, names: Sequence[str]) -> _Row:
    """The texts of a row's fields; `where` is its place, or gives it."""
    if isinstance(row, str) and len(names) == 1:
        return (row,)
    place = where() if callable(where) else where
    if isinstance(row, str):
        raise FileError(
            f"{place} is a text alone, so it has no field {names[1]!r}; expected an object with both fields."
        )
    if not isinstance(row, dict):
        raise FileError(f"{place} is {quote(row)}; expected a text.")
    for field in names:
        if field not in row:
            raise FileError(f"{place} {_no_field(field, list(row))}")
        if not isinstance(row[field], str):
            raise FileError(f"{place} has {quote(row[field])} as {field!r}; expected a text.")
    return tuple(row[field] for field in names)


def _no_field(field: str, fields: Sequence[str]) -> str:
    which = (*near_names(field, fields), *fields, "NAME")[0]
    return f"has no field {field!r}, only {', '.join(map(repr, fields)) or 'none'}; name the text's (--field {which})."
