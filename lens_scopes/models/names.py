"""Finds the weights of a named model: embedded, in a local folder, or in a hub repository."""

from __future__ import annotations

import importlib.util
import runpy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lens_scopes.errors import ModelError, near_names
from lens_scopes.models import gemma as embedded
from lens_scopes.models.quiet import quiet_libraries

# Encoders and encoder-decoders, which TransformerLens lists beside the causal language models.
_NOT_CAUSAL_WORDS = ("bert", "t5", "wav2vec2")
# Stored in TransformerLens's own format, which is a pickle: reading one runs whatever code is in it.
_PICKLED_OWNERS = ("NeelNanda/", "ArthurConmy/", "Baidicoot/")


@dataclass(frozen=True)
class Source:
    """Where weights come from: `location` is a folder, or the name of a repository on the hub."""

    name: str
    location: Path | str
    revision: str | None = None
    embedded: bool = False

    @property
    def is_pickled(self) -> bool:
        """Whether the weights are a pickle in TransformerLens's own format."""
        return isinstance(self.location, str) and self.location.startswith(_PICKLED_OWNERS)


def find_source(name: str | Path) -> Source:
    """Where the model called `name` is; converts the embedded one first where its cache lacks it.

    In this order: the embedded name, a name or alias that TransformerLens knows, a folder, any other "owner/name".
    Raises ModelError with near names where it is none of these, or where a folder holds no model.
    """
    if isinstance(name, Path):
        return _folder(name)
    if not isinstance(name, str):
        kind = type(name).__name__
        raise ModelError(f"a model is loaded by its name or folder, and this is a {kind}; a model needs no loading.")
    if not name.strip():
        raise ModelError(f"model {name!r} is neither a name nor a folder")
    if name.lower() == embedded.EMBEDDED_NAME:
        revision = f"gguf sha256 {embedded.EMBEDDED_SHA256[:12]}"
        return Source(embedded.EMBEDDED_NAME, embedded.embedded_folder(), revision, embedded=True)
    if name.startswith((".", "/", "~")):
        return _folder(Path(name))
    if official := official_name(name):
        return Source(official, official)
    if is_folder(name):
        return _folder(Path(name))
    if name.count("/") == 1 and all(name.split("/")):
        return Source(name, name)
    raise ModelError(f"model {_quote(name)} is unknown and no such folder exists{suggest_models(name)}")


@cache
def transformer_lens_names() -> Mapping[str, Sequence[str]]:
    """The causal language models that TransformerLens knows by name, each with its aliases."""
    package = importlib.util.find_spec("transformer_lens")
    assert package is not None and package.submodule_search_locations is not None
    # The list by itself, where it needs nothing of its package, which imports torch and takes seconds.
    path = Path(package.submodule_search_locations[0]) / "supported_models.py"
    alone = "\nfrom transformer_lens" not in path.read_text(encoding="utf-8")
    with nullcontext() if alone else quiet_libraries():
        listed = runpy.run_path(str(path))
    return {
        name: [alias for alias in listed["MODEL_ALIASES"].get(name, ()) if alias != embedded.EMBEDDED_NAME]
        for name in listed["OFFICIAL_MODEL_NAMES"]
        if not any(word in name.lower() for word in _NOT_CAUSAL_WORDS)
    }


def official_name(name: str) -> str | None:
    """TransformerLens's name for the model that `name` is the name or an alias of, whatever the case; else None."""
    wanted = name.lower()
    for official, aliases in transformer_lens_names().items():
        if wanted in (spelling.lower() for spelling in (official, *aliases)):
            return official
    return None


def suggest_models(name: str) -> str:
    """The end of an error message: known names that look like `name`, or how to list the known names."""
    officials = {embedded.EMBEDDED_NAME: embedded.EMBEDDED_NAME}
    for official, aliases in transformer_lens_names().items():
        for spelling in (official, official.split("/")[-1], *aliases):
            officials.setdefault(spelling, official)
    # Several spellings may be of one model.
    near = dict.fromkeys(officials[spelling] for spelling in near_names(name, officials, n=6, cutoff=0.55))
    if not near:
        return ": `lens-scopes models` lists the known names"
    return f": did you mean {' or '.join(map(repr, list(near)[:3]))}?"


def _quote(name: str) -> str:
    return repr(name if len(name) <= 200 else name[:199] + "…")


def is_folder(name: str) -> bool:
    """Whether there is a folder of that name; what is no name of a file is none."""
    try:
        return Path(name).is_dir()
    except (OSError, ValueError):
        return False


def _folder(path: Path) -> Source:
    try:
        folder = path.expanduser()
        there = folder.is_dir()
    except (OSError, RuntimeError) as error:  # a name too long, a user that does not exist
        raise ModelError(f"model folder {_quote(str(path))} cannot be read: {error}") from error
    if not there:
        raise ModelError(f"model folder {_quote(str(path))} does not exist")
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"model folder {str(path)!r} has no config.json: give the folder that it and model.safetensors are in"
        )
    return Source(folder.resolve().name, folder.resolve())
