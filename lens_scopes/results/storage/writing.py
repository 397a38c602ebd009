"""Writes files whole or not at all, tells before the work what could not be written, and writes plain values as JSON.

Imports nothing heavy, so that `--help` is quick.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lens_scopes.errors import FileError

if TYPE_CHECKING:
    import pandas

_TEMPORARY = ".lens-scopes-"  # a name of its own: a sibling of a name as long as a name may be would be too long
_BINARY = getattr(os, "O_BINARY", 0)  # of Windows


def utf8(text: str) -> bytes:
    """A text as UTF-8; a lone surrogate, which no file may hold, is written as its escape, such as \\ud800."""
    return text.encode("utf-8", "backslashreplace")


def data_frame(data: Any, columns: Sequence[str] | None = None) -> pandas.DataFrame:
    """A table; lone surrogates, which its texts may not hold, are written as their escapes."""
    import pandas

    names: Any = None if columns is None else list(columns)
    try:
        return pandas.DataFrame(data, columns=names)
    except UnicodeEncodeError:
        return pandas.DataFrame(_escape(data), columns=names)


def _escape(value: Any) -> Any:
    if isinstance(value, str):
        return utf8(value).decode("utf-8")
    if isinstance(value, dict):
        return {_escape(key): _escape(item) for key, item in value.items()}
    return [_escape(item) for item in value] if isinstance(value, list | tuple) else value


def file_path(path: str | os.PathLike[str]) -> Path:
    """The path of a file or folder.

    Raises:
        FileError: for what is none.
    """
    if not isinstance(path, str | os.PathLike):
        raise FileError(f"a file is named by a text or a Path; got {type(path).__name__}.")
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise FileError(f"{os.fspath(path)[:60]!r} is no name of a file ({error.reason}).") from error
    return Path(path)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Refuses what `write_whole` could not write, without a trace on the disk.

    Raises:
        FileError: for a folder, a special file, a read-only file, a name that is none, and a folder that is missing or
            cannot be written to.
    """
    with _refusals(path):
        target = _target(path)
        with tempfile.TemporaryFile(dir=target.parent):
            pass


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file whole or not at all: into a temporary sibling first, then renamed into place.

    A file that is there keeps its permissions, a symbolic link its target; hard links to it keep what was in it.

    Raises:
        FileError: as `check_writable`, and when the disk is full.
    """
    temporary: str | None = None
    with _refusals(path):
        try:
            target = _target(path)
            permissions = stat.S_IMODE(target.stat().st_mode) if target.exists() else None
            # Named before it is made: a signal may come in between.
            temporary = str(target.parent / f"{_TEMPORARY}{secrets.token_hex(8)}")
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, permissions or 0o666)
            with os.fdopen(descriptor, "wb") as file:
                if permissions is not None:
                    os.chmod(temporary, permissions)
                file.write(content)
            os.replace(temporary, target)
            temporary = None
        finally:
            if temporary is not None:
                Path(temporary).unlink(missing_ok=True)


@contextmanager
def _refusals(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except ValueError as error:  # a NUL in the name
        raise FileError(f"cannot write {os.fspath(path)!r}: {error}.") from error
    except OSError as error:
        raise FileError(f"cannot write {path}: {error.strerror or error}.") from error


def _target(path: str | os.PathLike[str]) -> Path:
    """Where the file is, or will be, behind symbolic links.

    Raises:
        FileError: where no plain file could be, or a read-only one is.
    """
    target = Path(os.path.realpath(file_path(path)))
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return target
    if stat.S_ISDIR(mode):
        raise FileError(f"cannot write {path}: it is a folder; give a file name inside it.")
    if not stat.S_ISREG(mode):
        raise FileError(f"cannot write {path}: it is not a plain file, and writing would replace it.")
    # By its permissions too: root may write anything, and whoever made a file read-only meant it.
    if not mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH) or not os.access(target, os.W_OK):
        raise FileError(f"cannot write {path}: it is read-only; give another name, or make it writable.")
    return target


def as_json(plain: dict[str, Any]) -> str:
    """A result's plain values as JSON; what is not finite is null."""
    return json.dumps(_finite(plain), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
