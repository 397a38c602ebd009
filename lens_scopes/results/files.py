"""Results as safetensors files: tensors, and the rest as JSON metadata with a format name and version."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from lens_scopes.errors import FileError

Result = TypeVar("Result")


@dataclass(frozen=True)
class ResultFormat:
    """One kind of result on disk.

    Attributes:
        name: what the file says it is.
        version: the newest version that is read, and the one written.
        writer: the method that writes it, for messages.
    """

    name: str
    version: int
    writer: str

    def content(self, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
        """The contents of a file that holds a record of plain values and tensors."""
        from safetensors.torch import save

        metadata = {
            "format": self.name,
            "version": str(self.version),
            "record": json.dumps(record, ensure_ascii=False),
        }
        # Clones: the file format refuses tensors that share memory.
        own = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        return save(own, metadata)

    def read(
        self, path: str | os.PathLike[str], build: Callable[[dict[str, Any], dict[str, Tensor]], Result]
    ) -> Result:
        """The result that `build` makes of a file's record and tensors.

        Raises:
            FileError: when the file is missing, truncated, of another kind, from a newer version, or its record does
                not describe a result.
        """
        metadata, tensors = _opened(path, self.writer)
        if metadata.get("format") != self.name:
            raise FileError(f"{path} is a safetensors file, but not a result written by {self.writer}.")
        version = metadata.get("version", "")
        if not (version.isascii() and version.isdigit() and int(version) <= self.version):
            raise FileError(
                f"{path} has format version {version or 'none'}; this lens_scopes reads up to {self.version}. "
                "Upgrade lens_scopes to read it."
            )
        try:
            return build(json.loads(metadata["record"]), tensors)
        except (KeyError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise FileError(f"{path} is damaged: its record does not describe a result ({reason}).") from error


def format_name(path: str | os.PathLike[str]) -> str | None:
    """The format that a safetensors file says it is, if any.

    Raises:
        FileError: when the file is missing, truncated or of another kind.
    """
    return _opened(path, "save", with_tensors=False)[0].get("format")


def _opened(
    path: str | os.PathLike[str], writer: str, *, with_tensors: bool = True
) -> tuple[dict[str, str], dict[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        if not Path(path).is_file():
            raise FileError(f"{path} does not exist or is not a file; expected a result written by {writer}.")
        with safe_open(path, framework="pt") as file:
            names = file.keys() if with_tensors else []
            return file.metadata() or {}, {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise FileError(f"{path} is not a readable safetensors file (truncated or of another kind): {error}") from error


def write_whole(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes a file whole or not at all: into a temporary sibling first, then renamed into place.

    Raises:
        FileError: when the folder is missing or cannot be written, or the disk is full.
    """
    target = Path(path)
    temporary: str | None = None
    try:
        if target.is_dir():
            raise FileError(f"cannot write {target}: it is a folder; give a file name inside it.")
        if target.exists() and not target.is_file():
            raise FileError(f"cannot write {target}: it is not a plain file, and writing would replace it.")
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, target)
        temporary = None
    except OSError as error:
        raise FileError(f"cannot write {target}: {error.strerror or error}.") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
