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
from lens_scopes.attribution.attribute import package_versions
from lens_scopes.engine.final_state import PredictedToken, Prediction
from lens_scopes.errors import FileError
from lens_scopes.results.attribution import Attribution
from lens_scopes.results.files import write_whole
from lens_scopes.results.heads import AblationEffect, HeadInspection

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "analyses" / "results"
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
    write_whole(path, json.dumps(_short(record), ensure_ascii=False, indent=1).encode("utf-8") + b"\n")
    return path


def load_record(folder: Path, study: str) -> dict[str, Any]:
    """Reads what `save_record` wrote.

    Raises:
        FileError: when the study has not been run yet.
    """
    path = folder / f"{study}.json"
    if not path.is_file():
        raise FileError(f"{path} does not exist; make it with: python analyses/run.py --only {study}")
    return json.loads(path.read_text(encoding="utf-8"))


def saved_attribution(plain: Mapping[str, Any]) -> Attribution:
    """The Attribution whose `to_dict` a record holds."""
    fields = dict(plain)
    for name in ("scores", "layers", "standard_error", "layers_standard_error"):
        fields[name] = None if fields[name] is None else torch.tensor(fields[name])
    fields["sites"] = {name: torch.tensor(values) for name, values in fields["sites"].items()}
    fields["offsets"] = None if fields["offsets"] is None else [tuple(pair) for pair in fields["offsets"]]
    return Attribution(**_predicted(fields))


def saved_heads(plain: Mapping[str, Any]) -> HeadInspection:
    """The HeadInspection whose `to_dict` a record holds."""
    fields = dict(plain)
    for name in ("effect", "mlp_effect", "by_source", "norms", "direct_effect"):
        fields[name] = torch.tensor(fields[name])
    for name in ("patterns", "pattern_gradients", "head_types"):
        fields[name] = {key: torch.tensor(values) for key, values in fields[name].items()}
    fields["ablations"] = [AblationEffect(**item) for item in fields["ablations"]]
    return HeadInspection(**_predicted(fields))


def _predicted(fields: dict[str, Any]) -> dict[str, Any]:
    prediction, target = fields["prediction"], fields["target"]
    top = [PredictedToken(**item) for item in prediction["top"]]
    fields["prediction"] = Prediction(top, prediction["entropy"], prediction["beta"])
    fields["target"] = None if target is None else PredictedToken(**target)
    return fields


def _short(value: Any) -> Any:
    """Floats to five significant digits: what a figure or a table shows, and a file that can be read."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {str(key): _short(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_short(item) for item in value]
    return value
