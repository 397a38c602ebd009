"""Result files: safetensors with JSON metadata, a format version and a checksum."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

from torch import Tensor

from lens_scopes.errors import FileError
from lens_scopes.results.storage.record import encode
from lens_scopes.results.storage.writing import file_path

FORMAT, VERSION = "lens_scopes.result", 2
_CHECKSUM = re.compile(rb'"checksum":"([0-9a-f]{64})"')  # in the record, quotes are escaped: it cannot match there
_SURROGATE = re.compile("[\ud800-\udfff]")
_BLANK = b'"checksum":"' + b"0" * 64 + b'"'

Build = Callable[[dict[str, Any], Callable[[Any], Tensor]], Any]


def content(kind: str, result: Any) -> bytes:
    """The contents of a file that holds a result; the same for equal results, in every process.

    The checksum is the SHA-256 of the whole file with zeros in the checksum's place.
    """
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}

    def name(place: str, tensor: Tensor) -> str:
        # A clone: the file format refuses tensors that share memory.
        tensors[place] = tensor.detach().cpu().clone().contiguous()
        return place

    plain = encode(result, name)
    record = json.dumps(plain, ensure_ascii=False)
    if _SURROGATE.search(record):  # which no file may hold, but its escape may
        record = json.dumps(plain)
    metadata = {"format": FORMAT, "version": str(VERSION), "kind": kind, "record": record, "checksum": "0" * 64}
    blank = _in_order(save(tensors, metadata))
    return blank.replace(_BLANK, b'"checksum":"' + sha256(blank).hexdigest().encode() + b'"', 1)


def _in_order(contents: bytes) -> bytes:
    """The same file with sorted names in its header: safetensors writes those of metadata in a random order."""
    start = 8 + int.from_bytes(contents[:8], "little")
    header = json.dumps(
        json.loads(contents[8:start]), ensure_ascii=False, separators=(",", ":"), sort_keys=True
    ).encode()
    header += b" " * (-len(header) % 8)  # tensors begin at a multiple of eight bytes
    return len(header).to_bytes(8, "little") + header + contents[start:]


def read(path: str | os.PathLike[str], kinds: Mapping[str, Build]) -> Any:
    """The result in a file.

    Args:
        path: of a file that a result's `save` wrote.
        kinds: for each kind that may be there, what builds it from a record and its tensors.

    Raises:
        FileError: when the file is missing, damaged, of another kind or of another version.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = file_path(path)
    try:
        if not path.is_file():
            raise FileError(f"{path} does not exist or is not a file; expected a result that save wrote.")
        # The file is a safetensors one: 8 bytes that say how long its JSON header is, the header, the tensors.
        contents = path.read_bytes()
        tensors = load(contents)
        header = json.loads(contents[8 : 8 + int.from_bytes(contents[:8], "little")])
    except (SafetensorError, OSError, ValueError, KeyError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise FileError(
            f"{path} is not a readable safetensors file (truncated or of another kind): {reason}"
        ) from error
    kind, record = _open(path, header.get("__metadata__") or {}, contents)
    if kind not in kinds:
        expected = " or ".join(kinds)
        raise FileError(
            f"{path} holds a result of kind {kind!r}; expected {expected}. lens_scopes.load reads any kind."
        )
    try:
        return kinds[kind](json.loads(record), tensors.__getitem__)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise FileError(f"{path} is damaged: its record does not describe a result ({reason}).") from error


def _open(path: str | os.PathLike[str], metadata: Mapping[str, str], contents: bytes) -> tuple[str, str]:
    """The kind and the record of a file of this format and version with the right checksum."""
    format, version = metadata.get("format", ""), metadata.get("version", "")
    if format in ("lens_scopes.attribution", "lens_scopes.information_flow"):
        raise FileError(f"{path} was written in a format of before the first release; compute and save it again.")
    if format != FORMAT:
        raise FileError(f"{path} is a safetensors file, but not a result that save wrote.")
    if version != str(VERSION):
        newer = len(version) < 10 and version.isascii() and version.isdigit() and int(version) > VERSION
        cure = "Upgrade lens_scopes to read it." if newer else "Compute and save it again."
        raise FileError(f"{path} has format version {version or 'none'}; this lens_scopes reads {VERSION}. {cure}")
    blank = _CHECKSUM.sub(_BLANK, contents, count=1)
    if metadata.get("checksum") != sha256(blank).hexdigest():
        raise FileError(f"{path} is damaged: its contents are not those that were written (the checksum differs).")
    return metadata.get("kind", ""), metadata.get("record", "null")
