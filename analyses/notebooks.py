"""Runs the notebooks of tutorials/ from top to bottom and saves them with what they print and draw.

python analyses/notebooks.py                      all of them
python analyses/notebooks.py --only quickstart    one
"""

from __future__ import annotations

import tempfile
from typing import Annotated, Any

import nbformat
import typer
from nbclient import NotebookClient
from records import ROOT

from lens_scopes.results.storage.writing import utf8, write_whole

TUTORIALS = ROOT / "analyses" / "tutorials"
NAMES = ("quickstart", "heads_and_patching", "evaluating_a_data_set", "time_series")
_SECONDS = 1800  # that a cell may take on a busy machine
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def read_notebook(name: str) -> Any:
    """A notebook of the tutorials."""
    return nbformat.read(TUTORIALS / f"{name}.ipynb", as_version=4)


def execute(notebook: Any) -> Any:
    """The notebook with fresh outputs, run in a kernel of its own whose folder is empty.

    Raises:
        nbclient.exceptions.CellExecutionError: for a cell that fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=_SECONDS,
            kernel_name="python3",
            record_timing=False,
            resources={"metadata": {"path": folder}},
        )
        client.execute()
    notebook.metadata = nbformat.from_dict(_METADATA)  # which would name the machine's Python
    return notebook


def main(
    only: Annotated[list[str] | None, typer.Option(help=f"One notebook, several times: {', '.join(NAMES)}.")] = None,
) -> None:
    """Run the tutorials' notebooks and save their outputs."""
    unknown = [name for name in only or [] if name not in NAMES]
    if unknown:
        raise typer.BadParameter(f"no notebook is called {unknown[0]!r}; they are {', '.join(NAMES)}")
    for name in only or NAMES:
        path = TUTORIALS / f"{name}.ipynb"
        write_whole(path, utf8(nbformat.writes(execute(read_notebook(name))) + "\n"))
        typer.echo(f"{path} ({path.stat().st_size // 1000} kB)")


if __name__ == "__main__":
    typer.run(main)
