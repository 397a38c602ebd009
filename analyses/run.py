"""Runs the studies of this folder and saves what they find.

python analyses/run.py --all                 every study at full size, into analyses/results/
python analyses/run.py --only translation    one of them
python analyses/run.py --all --quick         a few cases of each, into out/quick/, in about a minute
"""

from __future__ import annotations

import time
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from records import RESULTS, ROOT, load_record, save_record

STUDIES = (
    "readme_pictures",
    "through_layers",
    "scopes_compared",
    "time_series",
    "translation",
    "instruction_bias",
    "information_flow",
)


def run_study(model: Any, study: str, folder: Path, *, quick: bool = False, seed: int = 0) -> Path:
    """Measures one study and saves its record in a folder."""
    started = time.perf_counter()
    settings, findings = import_module(study).measure(model, quick, seed)
    seconds = time.perf_counter() - started
    return save_record(folder, study, model, {**settings, "quick": quick}, findings, seconds)


def main(
    everything: Annotated[bool, typer.Option("--all", help="Run every study.")] = False,
    only: Annotated[list[str] | None, typer.Option(help=f"One study, several times: {', '.join(STUDIES)}.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few cases of each, into out/quick/.")] = False,
    seed: Annotated[int, typer.Option(help="Of whatever a study draws at random.")] = 0,
    results: Annotated[Path | None, typer.Option(help="Folder for the records.")] = None,
) -> None:
    """Run studies on the embedded Gemma 3 270M and save their results as JSON."""
    unknown = [name for name in only or [] if name not in STUDIES]
    if unknown or everything == bool(only):
        asked = f"no study is called {unknown[0]!r}" if unknown else "give either --all or --only NAME"
        raise typer.BadParameter(f"{asked}; the studies are {', '.join(STUDIES)}")
    import lens_scopes as ls

    folder = results or (ROOT / "out" / "quick" if quick else RESULTS)
    model = ls.load_model()
    for study in STUDIES if everything else only or []:
        path = run_study(model, study, folder, quick=quick, seed=seed)
        record = load_record(folder, study)
        typer.echo(f"{study} ({record['seconds']:.0f} s): {path}")
        for line in import_module(study).summary(record):
            typer.echo(f"  {line}")


if __name__ == "__main__":
    typer.run(main)
