"""The tutorials' notebooks run without an error or a word on standard error, and their prose says what they print."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from command_line import Loader
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from nbclient.exceptions import CellExecutionError
from nbformat.v4 import new_code_cell, new_notebook
from notebooks import NAMES, TUTORIALS, execute, read_notebook
from traitlets.config import Config

import lens_scopes as ls

DECIMAL = re.compile(r"(?<![\w.])\d+\.\d+(?![\w.]*\w)")


def code_cells(name: str) -> list[Any]:
    return [cell for cell in read_notebook(name).cells if cell.cell_type == "code"]


def prose(name: str) -> str:
    """The text of a notebook, without addresses and numbers of papers."""
    text = "\n".join(cell.source for cell in read_notebook(name).cells if cell.cell_type == "markdown")
    return re.sub(r"\]\([^)]*\)|arXiv:\S+", "", text)


def printed(cell: Any) -> str:
    """What a saved cell prints and shows, as text."""
    streams = [output.text for output in cell.outputs if output.output_type == "stream"]
    shown = [output.data["text/plain"] for output in cell.outputs if "data" in output]
    return "".join([*streams, *shown])


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """IPython in this process, in an empty folder, without a history."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for name in ("displayhook", "excepthook"):
        monkeypatch.setattr(sys, name, getattr(sys, name))  # IPython sets its own
    yield InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
    InteractiveShell.clear_instance()


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_and_prints_what_its_prose_says_and_what_was_saved(
    name: str, gemma: Any, shell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ls, "load_model", Loader(gemma), raising=False)
    everything = ""
    for cell in code_cells(name):
        values: list[Any] = []
        shell.display_trap.hook = lambda value, values=values: values.append(value) if value is not None else None
        with capture_output() as captured:
            result = shell.run_cell(cell.source)
        assert result.success and captured.stderr == "", f"{cell.source}\n{captured.stdout}{captured.stderr}"
        shown = [shell.display_formatter.format(value)[0] for value in values]
        text = captured.stdout + "".join(data["text/plain"] for data in shown)
        everything += f"{text}\n"
        if cell.execution_count is not None:
            assert text == printed(cell), cell.source
            saved = [set(output.data) for output in cell.outputs if "data" in output]
            assert [set(data) for data in shown] == saved, cell.source
    numbers = DECIMAL.findall(prose(name))
    assert len(numbers) >= 4 and not set(numbers) - set(DECIMAL.findall(everything))


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_notebook_is_whole_and_clean(name: str) -> None:
    cells = code_cells(name)
    outputs = [output for cell in cells for output in cell.outputs]
    counts = [cell.execution_count for cell in cells]
    assert counts in (list(range(1, len(cells) + 1)), [None] * len(cells))  # from one run, or without outputs
    assert {output.get("name", "stdout") for output in outputs} <= {"stdout"}
    assert not [output for output in outputs if output.output_type == "error"]
    assert not any(counts) or any(
        "image/png" in output.get("data", {}) for output in outputs
    )  # which GitHub shows, and no frame
    assert "lens-scopes[gemma]" in cells[0].source and "google.colab" in cells[0].source
    assert "https://ai.google.dev/gemma/terms" in read_notebook(name).cells[0].source
    assert read_notebook(name).metadata.language_info == {"name": "python"}
    assert not re.search(r"/(home|root|tmp|work|Users)/", "\n".join(map(printed, cells)))
    nbformat.validate(read_notebook(name))


def test_all_notebooks_together_are_small_and_known() -> None:
    paths = sorted(TUTORIALS.iterdir())
    assert [path.stem for path in paths if path.suffix == ".ipynb"] == sorted(NAMES)
    assert sum(path.stat().st_size for path in paths) < 1_000_000


def test_notebooks_are_run_in_a_kernel_of_their_own() -> None:
    notebook = new_notebook(cells=[new_code_cell("import os\nprint(os.listdir())\n6 * 7")])
    cell = execute(notebook).cells[0]
    assert printed(cell) == "[]\n42" and "execution" not in cell.metadata
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        execute(new_notebook(cells=[new_code_cell("1 / 0")]))
