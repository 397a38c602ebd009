"""Results of studies on disk: findings with the settings, seed, versions, date and time that made them, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import lens_scopes as ls
from lens_scopes.attribution.provenance import package_versions
from lens_scopes.errors import FileError
from lens_scopes.results.storage.writing import write_whole

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "analyses" / "results"
MEASURED = RESULTS / "measured"  # what long studies have measured so far, from which they go on
FIGURES = ROOT / "figures"


def save_record(
    folder: Path, study: str, model: Any, settings: Mapping[str, Any], findings: Mapping[str, Any], seconds: float
) -> Path:
    """Writes one study's results as `folder`/`study`.json, whole or not at all."""
    record = {
        "study": study,
        "made": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
        "settings": settings,
        "model": asdict(ls.model_record(model)),
        "versions": package_versions(),
        "findings": findings,
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{study}.json"
    write_whole(path, json.dumps(shortened_floats(record), ensure_ascii=False, indent=1).encode("utf-8") + b"\n")
    return path


def load_record(folder: Path, study: str) -> dict[str, Any]:
    """Reads what `save_record` wrote.

    Raises:
        FileError: when the study has not been run yet.
    """
    path = folder / f"{study}.json"
    if not path.is_file():
        own = Path(__file__).with_name(f"{study}.py")
        alone = own.is_file() and "typer.run(" in own.read_text(encoding="utf-8")
        command = own.name if alone else f"run.py --only {study}"
        raise FileError(f"{path} does not exist; make it with: python analyses/{command}")
    return json.loads(path.read_text(encoding="utf-8"))


def shortened_floats(value: Any) -> Any:
    """Floats to five significant digits: what a figure or a table shows, and a file that can be read."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {str(key): shortened_floats(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [shortened_floats(item) for item in value]
    return value
