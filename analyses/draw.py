"""Draws the figures again from the saved results, without a model.

python analyses/draw.py                      everything, into figures/
python analyses/draw.py --only translation   one study's
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer
from records import FIGURES, RESULTS, load_record
from run import STUDIES

from lens_scopes.results.storage.writing import write_whole
from lens_scopes.views.figures.style import draw_file

DRAWN = (*STUDIES, "faithfulness", "segments", "leaderboard")  # these have commands of their own
KINDS = {"png": 200, "svg": 200}


def draw_study(study: str, results: Path, figures: Path) -> list[Path]:
    """Writes every picture and page of one study; returns their paths."""
    module, record = import_module(study), load_record(results, study)
    written = []
    for stem, figure in module.draw(record).items():
        for kind, dpi in KINDS.items():
            path = figures / f"{stem}.{kind}"
            write_whole(path, draw_file(figure, kind, dpi))
            written.append(path)
    for stem, html in getattr(module, "pages", lambda record: {})(record).items():
        path = figures / f"{stem}.html"
        write_whole(path, html.encode("utf-8"))
        written.append(path)
    return written


def main(
    only: Annotated[list[str] | None, typer.Option(help=f"One study, several times: {', '.join(DRAWN)}.")] = None,
    results: Annotated[Path, typer.Option(help="Folder of the records.")] = RESULTS,
    figures: Annotated[Path, typer.Option(help="Folder for the pictures.")] = FIGURES,
) -> None:
    """Draw the figures from the saved results."""
    unknown = [name for name in only or [] if name not in DRAWN]
    if unknown:
        raise typer.BadParameter(f"no study is called {unknown[0]!r}; the studies are {', '.join(DRAWN)}")
    figures.mkdir(parents=True, exist_ok=True)
    for study in only or DRAWN:
        for path in draw_study(study, results, figures):
            typer.echo(path)


if __name__ == "__main__":
    typer.run(main)
