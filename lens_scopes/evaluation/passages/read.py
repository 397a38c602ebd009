"""Passages of a data set: a text, JSON, JSONL or Parquet file, a name or folder for `datasets`, or a list of texts."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from lens_scopes.errors import VALIDATED, FileError, near_names
from lens_scopes.prompts.tokens import quote

Text: TypeAlias = Annotated["str | tuple[int, ...]", VALIDATED]
PassagesLike: TypeAlias = Annotated[
    "str | Path | Sequence[str | Sequence[int] | tuple[Any, Any] | Mapping[str, Any]] | Passages", VALIDATED
]

_Fields: TypeAlias = Mapping[str, str]  # an attribute of a Passage, and the field or column that holds it

FIELD = "text"
_SUFFIXES = (".txt", ".json", ".jsonl", ".ndjson", ".parquet")
_OPTIONS = {
    "text": ("text", "--field"),
    "answer": ("answer", "--answer-field"),
    "other": ("other prompt", "--other-field"),
    "within": ("eligible part", "--within-field"),
}
"""For each attribute of a Passage what it is in words, and the option that names its field."""


@dataclass(frozen=True)
class Passage:
    """One passage, each part of it as text or token ids.

    Attributes:
        text: the passage itself.
        answer: what follows it, to be explained; None where the next token is explained, or the model's own answer.
        other: another prompt of as many tokens; None for none.
        within: the part of the text whose tokens alone are ranked and ablated: a text that occurs once in it, or
            (start, stop) in tokens; None for all of it.
    """

    text: Text
    answer: Text | None = None
    other: Text | None = None
    within: Annotated[str | tuple[int, int], VALIDATED] | None = None

    def parts(self) -> dict[str, Text]:
        """What it consists of, by attribute."""
        values = {part: getattr(self, part) for part in _OPTIONS}
        return {part: value for part, value in values.items() if value is not None}


@dataclass(frozen=True)
class Passages:
    """What a data set holds, in its order: the index of a passage is its place there.

    Attributes:
        name: the file's name without its folder, or the name of the data set.
        items: the passages, all of the same parts.

    Raises:
        FileError: where a passage lacks a part that others have.
    """

    name: str
    items: tuple[Passage, ...]

    def __post_init__(self) -> None:
        for part, (noun, _) in _OPTIONS.items():
            incomplete = [index for index, item in enumerate(self.items) if getattr(item, part) is None]
            if 0 < len(incomplete) < len(self.items):
                raise FileError(
                    f"passage {incomplete[0]} brings no {noun}, and others do; give each passage one, or none."
                )

    def __len__(self) -> int:
        """The number of passages."""
        return len(self.items)

    @property
    def texts(self) -> tuple[Text, ...]:
        """The passages themselves."""
        return tuple(item.text for item in self.items)

    def bring(self, part: str) -> bool:
        """Whether each passage has an "answer", an "other" prompt, or a part "within" which tokens are eligible."""
        return any(getattr(item, part) is not None for item in self.items)

    def digest(self) -> str:
        """SHA-256 of all passages in order, whatever kind of file they came from."""
        digest = hashlib.sha256()
        for item in self.items:
            parts = item.parts()
            digest.update(json.dumps(parts if len(parts) > 1 else item.text).encode("ascii") + b"\n")
        return digest.hexdigest()


def read_passages(
    source: PassagesLike,
    *,
    field: str | None = None,
    answer_field: str | None = None,
    other_field: str | None = None,
    within_field: str | None = None,
    split: str | None = None,
    subset: str | None = None,
) -> Passages:
    """The passages of a file or data set.

    `source` is one of

    - a file: `.txt` (one passage a line, blank lines left out), `.json` (a list), `.jsonl` or `.ndjson` (one a line) or
      `.parquet` (one a row). In JSON a passage is a string, or an object whose `field` is one.
    - a folder that `datasets` saved or can load, or the name of a data set on the hub or in the local cache.
    - the passages themselves: texts, or token ids each; pairs of a passage and another prompt of as many tokens; or
      mappings with the fields, as objects in JSON.

    Args:
        source: where the passages are.
        field: the field or column that holds the text; "text" unless given.
        answer_field: the field or column that holds the answer after each passage; none is read unless given.
        other_field: the field or column that holds another prompt of as many tokens; none is read unless given.
        within_field: the field or column that holds the eligible part of each passage; none is read unless given.
        split: of a data set, such as "test"; only needed where there are several.
        subset: the configuration of a data set, where it has several.

    Raises:
        FileError: when there is nothing to read or it cannot be read; the message names the line or row.
    """
    if isinstance(source, Passages):
        return source
    names = {"text": field or FIELD, "answer": answer_field, "other": other_field, "within": within_field}
    fields = {part: name for part, name in names.items() if name}
    if not isinstance(source, (str, Path)) or source == "":
        return Passages("given", tuple(_from_python(source, fields)))
    path = Path(source)
    try:
        exists = path.is_file()
    except (OSError, ValueError) as error:
        raise FileError(f"cannot read {quote(str(source))}: {error}.") from error
    # A file before a data set of that name; a name that looks like a file's is never looked for on the hub.
    if exists:
        items = _from_file(path, fields)
        name = path.name
    elif path.suffix.lower() in _SUFFIXES:
        raise FileError(f"cannot read {path}: there is no such file.")
    else:
        items = _from_data_set(source, fields, split, subset)
        name = path.name if path.is_dir() else str(source)
    if not items:
        raise FileError(f"{source} holds no passage; give at least one.")
    return Passages(name, tuple(items))


def _from_python(source: Any, fields: _Fields) -> Iterator[Passage]:
    if not isinstance(source, Sequence) or not len(source):
        raise FileError(f"passages are a file, a data set's name or a list of texts, got {type(source).__name__}.")
    for index, item in enumerate(source):
        yield _passage(item, f"passage {index}", fields, from_python=True)


def _from_file(path: Path, fields: _Fields) -> list[Passage]:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _from_parquet(path, fields)
    if suffix not in _SUFFIXES:
        raise FileError(f"cannot tell what {path} holds; give it one of the suffixes {' '.join(_SUFFIXES)}.")
    text = read_utf8(path)
    if suffix == ".json":
        return _from_json(path, text, fields)
    lines = numbered_lines(text)
    if suffix == ".txt":
        return [_passage(line, f"{path} line {number}", fields) for number, line in lines]
    return [
        _passage(parse_line(line, f"{path} line {number}"), f"{path} line {number}", fields) for number, line in lines
    ]


def read_utf8(path: Path) -> str:
    """The text of a file.

    Raises:
        FileError: when it cannot be read, and for what is no UTF-8, with the line.
    """
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


def numbered_lines(text: str) -> list[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1."""
    return [(number, line.removesuffix("\r")) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def parse_line(line: str, where: str) -> Any:
    """The JSON value of one line.

    Raises:
        FileError: for what is no JSON.
    """
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{where} is not JSON ({_why(error)}); expected a string or an object a line.") from error


def _why(error: Exception) -> str:
    """Why a text is no JSON that can be read."""
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return "nested too deeply" if isinstance(error, RecursionError) else "a number of too many digits"


def _from_json(path: Path, text: str, fields: _Fields) -> list[Passage]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise FileError(
            f"{path} line {error.lineno} is not JSON ({error.msg}); a file of one object a line is named .jsonl."
        ) from error
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path} is not JSON ({_why(error)}); expected a list of texts.") from error
    if not isinstance(rows, list):
        raise FileError(
            f"{path} holds {quote(rows)}; expected a list of texts, or of objects with {_list_fields(fields)}."
        )
    lines = _Lines(text)
    return [
        _passage(row, lambda index=index: f"{path} line {lines.of_item(index)}", fields)
        for index, row in enumerate(rows)
    ]


class _Lines:
    """The lines on which the items of a JSON list begin, looked up only for a message."""

    def __init__(self, text: str) -> None:
        self.text = text

    def of_item(self, index: int) -> int:
        decoder = json.JSONDecoder()
        at = self.text.index("[") + 1
        # Items are decoded again to find where they end, since the parsed list does not say.
        for _ in range(index):
            _, at = decoder.raw_decode(self.text, self._start(at))
            at = self.text.index(",", at) + 1
        return self.text.count("\n", 0, self._start(at)) + 1

    def _start(self, at: int) -> int:
        return at + len(self.text[at:]) - len(self.text[at:].lstrip())


def _from_parquet(path: Path, fields: _Fields) -> list[Passage]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_fields(path, fields, file.schema_arrow.names)
            rows = file.read(list(fields.values())).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise FileError(f"cannot read {path}: {' '.join(str(error).split())}") from error
    return [_passage(row, f"{path} row {number}", fields) for number, row in enumerate(rows, 1)]


def _from_data_set(source: str | Path, fields: _Fields, split: str | None, subset: str | None) -> list[Passage]:
    import datasets

    from lens_scopes.models.quiet import quiet_libraries

    with quiet_libraries(download_bars=sys.stderr.isatty()), _data_set_bars(datasets):
        try:
            if (Path(source) / "state.json").is_file() or (Path(source) / "dataset_dict.json").is_file():
                data: Any = datasets.load_from_disk(str(source))
            else:
                data = datasets.load_dataset(str(source), subset)
        except Exception as error:  # whatever the loader of a data set raises
            reason = " ".join(str(error).split()) or type(error).__name__
            raise FileError(f"cannot read {source} as a file or a data set: {reason}") from error
    if isinstance(data, dict):
        splits = list(data)
        if split is None and len(splits) > 1:
            raise FileError(
                f"{source} has the splits {', '.join(splits)}; choose one with split (--split {splits[0]})."
            )
        split_name = split or splits[0]
        if split_name not in data:
            raise FileError(f"{source} has no split {split_name!r}; it has {', '.join(splits)}.")
        data = data[split_name]
    # Columns, since a row at a time decodes every field of a row, those that nobody reads too.
    _check_fields(source, fields, data.column_names)
    names = list(fields.values())
    columns = zip(*(data[name] for name in names), strict=True)
    rows = (dict(zip(names, values, strict=True)) for values in columns)
    return [_passage(row, f"{source} row {number}", fields) for number, row in enumerate(rows, 1)]


@contextmanager
def _data_set_bars(datasets: Any) -> Iterator[None]:
    """Progress bars of `datasets` only where someone watches."""
    were_off = datasets.are_progress_bars_disabled()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not were_off:
            datasets.enable_progress_bars()


def _passage(row: Any, where: str | Callable[[], str], fields: _Fields, *, from_python: bool = False) -> Passage:
    """The passage of a row; `where` is its place, or gives it.

    A value from Python may have token ids for texts, and be a pair of a passage and its other prompt.
    """
    parts = _parts(row, where, fields, pairs=from_python)
    for part, value in parts.items():
        if not (isinstance(value, str) or ((from_python or part == "within") and _is_ids(value))):
            problem = f"has {quote(value)} as {fields[part]!r}" if isinstance(row, Mapping) else f"is {quote(row)}"
            ids = " or (start, stop) in tokens" if part == "within" else " or token ids" * from_python
            raise FileError(f"{_place(where)} {problem}; expected a text{ids}.")
    return Passage(**{part: value if isinstance(value, str) else tuple(value) for part, value in parts.items()})


def _parts(row: Any, where: str | Callable[[], str], fields: _Fields, *, pairs: bool) -> dict[str, Any]:
    """What a row has for each part of a passage, all that have a field among them."""
    if isinstance(row, Mapping):
        _check_fields(where, fields, list(row))
        return {part: row[name] for part, name in fields.items()}
    parts = {"text": row[0], "other": row[1]} if pairs and _is_pair(row) else {"text": row}
    missing = [name for part, name in fields.items() if part not in parts]
    if missing:
        what = "a text alone" if isinstance(row, str) else quote(row)
        raise FileError(
            f"{_place(where)} is {what}, so it has no field {missing[0]!r}; expected an object with "
            f"{_list_fields(fields)}."
        )
    return parts


def _is_pair(item: Any) -> bool:
    """Whether it is a passage with its other prompt, and not two token ids."""
    is_pair = isinstance(item, Sequence) and not isinstance(item, str) and len(item) == 2
    return is_pair and not any(isinstance(part, int) for part in item)


def _is_ids(value: Any) -> bool:
    return isinstance(value, Sequence) and all(isinstance(token_id, int) for token_id in value)


def _check_fields(where: str | Path | Callable[[], str], fields: _Fields, known: Sequence[str]) -> None:
    for part, name in fields.items():
        if name not in known:
            what, option = _OPTIONS[part]
            instead = (*near_names(name, known), *(one for one in known if one not in fields.values()), "NAME")[0]
            raise FileError(
                f"{_place(where)} has no field {name!r}, only {', '.join(map(repr, known)) or 'none'}; name the "
                f"{what}'s ({option} {instead})."
            )


def _list_fields(fields: _Fields) -> str:
    names = [repr(name) for name in fields.values()]
    return f"the field{'s' * (len(names) > 1)} {' and '.join(names)}"


def _place(where: str | Path | Callable[[], str]) -> str:
    return str(where() if callable(where) else where)
