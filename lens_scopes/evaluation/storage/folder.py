"""A folder of results that survives anything: a manifest written whole, and shards that grow by whole lines.

    manifest.json       what was measured and with what; nothing in it changes once it is there
    results-000.jsonl   the lines of process 0, results-001.jsonl those of process 1, …

A line is a session (who wrote what follows) or a passage with everything measured about it. It is appended in one
write and brought to the disk before the next passage begins, so a process that is killed leaves at most a torn last
line, which counts for nothing and is cut off when the process is started again. Every line, and the manifest, ends with
a checksum of what it says; those of older versions have none.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lens_scopes.errors import EvaluationError, FileError
from lens_scopes.evaluation.storage.records import MEASURED, PassageRecord, check_fields, session_of_line

FORMAT = "lens_scopes.evaluation"
FORMAT_VERSION = 1

_MANIFEST = "manifest.json"
_PLAN_FIELDS = {
    "began": str,
    "skip": int,
    "limit": int | None,
    "methods": list[str],
    "metrics": list[str],
    "ablations": list[str],
}
_CHECK = "check"
_CHECKED_LINE = re.compile(rf'(.*), "{_CHECK}": "([0-9a-f]{{16}})"\}}'.encode(), re.DOTALL)
_SHARD = re.compile(r"results-(\d{3,9})\.jsonl", re.ASCII)
_PATIENCE = 30.0  # seconds for another process to write the manifest
_BLOCK = 1 << 16
_FREE_FIELDS = ("passages · name",)
_PLAN, _COMMIT = "plan · ", "commit"


@dataclass(frozen=True)
class ResultFolder:
    """The folder at `path`, with the manifest that it has."""

    path: Path
    manifest: dict[str, Any]

    @classmethod
    def begin(cls, path: Path, manifest: Mapping[str, Any], *, mixed_commits: bool = False) -> ResultFolder:
        """The folder for an evaluation: a new one, or one that holds the beginning of the same evaluation.

        The manifest's plan is that of the first start, whatever is asked for later.

        Raises:
            EvaluationError: for a folder of another evaluation, naming the first field that differs, and, unless
                `mixed_commits` allows it, for one measured by another commit of the code.
            FileError: when it cannot be made, read or written.
        """
        from lens_scopes.results.storage.writing import utf8, write_whole

        new_manifest = json.loads(json.dumps({"format": FORMAT, "format_version": FORMAT_VERSION, **manifest}))
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:  # the latter of a NUL in its name
            raise FileError(f"cannot make the folder {path}: {getattr(error, 'strerror', None) or error}.") from error
        # Of several that start at once, one writes the manifest, and the others compare theirs with it.
        lock = _lock(path / _MANIFEST, seconds=_PATIENCE)
        try:
            if not (path / _MANIFEST).exists():
                if _shards(path):
                    raise EvaluationError(f"{path} holds results without a {_MANIFEST}; give another folder.")
                content = new_manifest | {_CHECK: _digest(_canonical(new_manifest))}
                write_whole(path / _MANIFEST, utf8(json.dumps(content, indent=1, ensure_ascii=False)) + b"\n")
            folder = cls.open(path)
        finally:
            lock.release()
        _check_same(path, folder.manifest, new_manifest, mixed_commits)
        return folder

    @classmethod
    def open(cls, path: Path) -> ResultFolder:
        """A folder that is there.

        Raises:
            FileError: when it holds no evaluation, or one in a format of another version.
        """
        try:
            manifest = json.loads((path / _MANIFEST).read_bytes())
        except FileNotFoundError:
            raise FileError(f"{path} holds no evaluation ({_MANIFEST} is missing).") from None
        except OSError as error:
            raise FileError(f"cannot read {path / _MANIFEST}: {error.strerror or error}.") from error
        except (ValueError, RecursionError) as error:
            raise FileError(f"{path / _MANIFEST} is damaged ({error}); give another folder.") from error
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise FileError(f"{path / _MANIFEST} is not of a lens_scopes evaluation; give another folder.")
        if (version := manifest.get("format_version")) != FORMAT_VERSION:
            raise FileError(
                f"{path} has results of format version {version}, and this lens_scopes reads {FORMAT_VERSION}; "
                "use the lens_scopes that wrote them, or another folder."
            )
        if manifest.pop(_CHECK, check := _digest(_canonical(manifest, but=_CHECK))) != check:
            raise FileError(f"{path / _MANIFEST} is damaged (its checksum differs); give another folder.")
        _check_sections(path, manifest)
        return cls(path, manifest)

    def records(self) -> dict[int, PassageRecord]:
        """What became of each passage so far, by index. A passage measured stands, whatever else is said of it.

        Raises:
            FileError: for a line that is damaged, other than a torn last one.
        """
        records: dict[int, PassageRecord] = {}
        for line in self._lines():
            # A passage that failed may be measured later, perhaps by another process's shard.
            if isinstance(line, PassageRecord) and (
                line.passage not in records or records[line.passage].status != MEASURED
            ):
                records[line.passage] = line
        return dict(sorted(records.items()))

    def sessions(self) -> list[dict[str, Any]]:
        """Who wrote the results: when, on what device, at which commit, as which of how many processes."""
        return [line for line in self._lines() if isinstance(line, dict)]

    def shard(self, rank: int, count: int) -> Shard:
        """The shard that process `rank` of `count` writes, held until it is closed.

        Raises:
            EvaluationError: when another process is writing to this folder.
            FileError: when it cannot be written.
        """
        for number, path in _shards(self.path).items():
            if number >= count:  # of a run with more processes, which may still be going on
                _lock(path).release()
        return Shard(self.path / f"results-{rank:03}.jsonl")

    def _lines(self) -> Iterator[PassageRecord | dict[str, Any]]:
        """Each line as what it is: a passage, or a session."""
        for path in _shards(self.path).values():
            try:
                content = path.read_bytes()
            except OSError as error:
                raise FileError(f"cannot read {path}: {error.strerror or error}.") from error
            *lines, rest = content.split(b"\n")
            match = _CHECKED_LINE.match(rest)
            if match is not None and match.end() < len(rest):  # its line break is another byte now
                lines.append(rest)
            for number, text in enumerate(lines, 1):
                try:
                    line = read_line(text)
                    yield session_of_line(line) if "session" in line else PassageRecord.of_line(line)
                except (ValueError, TypeError, AttributeError, RecursionError) as error:
                    cure = "delete the line, and its passage is measured again"
                    raise FileError(f"{path} line {number} is damaged ({error}); {cure}.") from error


class Shard:
    """One process's file of results, which grows by whole lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = _lock(path)
        try:
            self._file = path.open("ab", buffering=0)
            # A line that a killed process left torn goes, before anything is appended to it.
            self._size = _size_of_whole_lines(path)
            self._file.truncate(self._size)
        except OSError as error:
            self._lock.release()
            raise FileError(f"cannot write {path}: {error.strerror or error}.") from error

    def append(self, line: Mapping[str, Any]) -> None:
        """Adds a line, whole or not at all, and waits until it is on the disk.

        Raises:
            FileError: when it cannot be written, as on a full disk.
        """
        content = _line(line)
        try:
            # An unbuffered write may take part of the line.
            count = 0
            while count < len(content):
                count += self._file.write(content[count:])
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(self._size)
            raise FileError(
                f"cannot write {self.path}: {error.strerror or error}; what was measured before is kept, and the same "
                "command goes on from there."
            ) from error
        self._size += len(content)

    def close(self) -> None:
        self._file.close()
        self._lock.release()

    def __enter__(self) -> Shard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _line(line: Mapping[str, Any]) -> bytes:
    """A line of the file, with its checksum."""
    content = json.dumps(line, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")
    return content[:-1] + f', "{_CHECK}": "{_digest(content)}"}}\n'.encode()


def read_line(text: bytes) -> dict[str, Any]:
    """What a line says, without its checksum.

    Raises:
        ValueError: for what is no line, or not as it was written.
    """
    line = json.loads(text)
    if _CHECK in line:
        match = _CHECKED_LINE.fullmatch(text)
        if match is None or _digest(match[1] + b"}") != match[2].decode():
            raise ValueError("its checksum differs")
        del line[_CHECK]
    return line


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _canonical(manifest: Mapping[str, Any], but: str = "") -> bytes:
    """What a manifest says, however it is laid out."""
    return json.dumps({name: value for name, value in manifest.items() if name != but}, sort_keys=True).encode()


def _shards(path: Path) -> dict[int, Path]:
    """The files of results in a folder by their process; files of other names are somebody else's."""
    matches = ((_SHARD.fullmatch(item.name), item) for item in sorted(path.glob("results-*.jsonl")))
    return {int(match[1]): item for match, item in matches if match}


def _check_sections(path: Path, manifest: Mapping[str, Any]) -> None:
    """Raises FileError for a manifest whose parts are not what they should be."""
    for name in ("passages", "laboratory", "model", "versions", "plan"):
        if not isinstance(manifest.get(name, {}), dict):
            raise FileError(
                f"{path / _MANIFEST} is damaged: {name} is {_quote(manifest[name])}, expected an object; give another "
                "folder."
            )
    try:
        check_fields(manifest.get("passages", {}), {"name": str, "count": int, "target": str}, "passages")
        check_fields(manifest.get("model", {}), {"name": str}, "model")
        if plan := manifest.get("plan"):
            check_fields({**dict.fromkeys(_PLAN_FIELDS), **plan}, _PLAN_FIELDS, "plan")
    except ValueError as error:
        raise FileError(f"{path / _MANIFEST} is damaged ({error}); give another folder.") from error


def _lock(path: Path, seconds: float = 0) -> FileLock:
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=seconds)
    try:
        lock.acquire()
    except Timeout:
        raise EvaluationError(
            f"another process is writing to {path}; wait for it, or give another folder (--out)."
        ) from None
    except OSError as error:
        raise FileError(f"cannot write to {path.parent}: {error.strerror or error}.") from error
    return lock


def _size_of_whole_lines(path: Path) -> int:
    """The size of a file without its torn last line."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - _BLOCK)
            file.seek(start)
            # From the end backwards: results may be large, and the last line break is near.
            at = file.read(end - start).rfind(b"\n")
            if at >= 0:
                return start + at + 1
            end = start
    return 0


def _check_same(path: Path, existing: Mapping[str, Any], new_manifest: Mapping[str, Any], mixed_commits: bool) -> None:
    old, new = _flat(existing), _flat(new_manifest)
    for name in (*new, *(name for name in old if name not in new)):
        if name in _FREE_FIELDS or name.startswith(_PLAN) or old.get(name) == new.get(name):
            continue
        if name == _COMMIT and not mixed_commits:
            raise EvaluationError(
                f"{path} was begun by the code of commit {_quote(old.get(name))}, and this is {_quote(new.get(name))}; "
                "go back to that commit, give another folder (--out), or allow the mix with mixed_commits=True "
                "(--mixed-commits), which every report will say."
            )
        if name != _COMMIT:
            raise EvaluationError(
                f"{path} holds another evaluation: its {name} is {_quote(old.get(name))}, this one's is "
                f"{_quote(new.get(name))}; give another folder (--out), or the same settings to go on."
            )


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in mapping.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name} · ")
        else:
            flat[prefix + name] = value
    return flat


def _quote(value: Any) -> str:
    text = "missing" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 100 else text[:99] + "…"
