"""Which figure and terminal view belong to which kind of result.

Results are told apart by the name of their class, so that a view of one kind loads nothing of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lens_scopes.errors import FileError
from lens_scopes.results.writing import utf8
from lens_scopes.views.page.pages import page_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

    from lens_scopes.results.base import Viewable

_FIGURES = {
    "Attribution": "figures.attribution.figure",
    "HeadInspection": "figures.heads.heads_figure",
    "CellPatches": "figures.cells.cells_figure",
    "AttributionMatrix": "figures.matrix.matrix_figure",
    "TotalInfluence": "figures.matrix.influence_figure",
    "ModeInspection": "figures.modes.modes_figure",
    "EvaluationReport": "figures.evaluation.evaluation_figure",
    "InformationFlow": "figures.flow.flow_figure",
}
_TABLES = {"EvaluationReport": "tables.table"}
_PRINTERS = {
    "Attribution": "terminal.attribution.print_terminal",
    "HeadInspection": "terminal.heads.print_heads",
    "CellPatches": "terminal.cells.print_cells",
    "AttributionMatrix": "terminal.matrix.print_matrix",
    "TotalInfluence": "terminal.matrix.print_influence",
    "ModeInspection": "terminal.modes.print_modes",
    "EvaluationReport": "terminal.evaluation.print_evaluation",
    "InformationFlow": "terminal.flow.print_flow",
}


def to_html(result: Viewable) -> str:
    """Any result as one self-contained HTML document, to be written as UTF-8."""
    return page_of(result).to_html()


def figure_of(result: Viewable, **settings: Any) -> Figure:
    """The matplotlib figure of any result; `width` is in inches."""
    return _view(_FIGURES, result)(result, **settings)


def figure_bytes(result: Viewable, format: str = "png", *, dpi: int = 300, **settings: Any) -> bytes:
    """The figure as the contents of a file, with fonts embedded; the same result gives the same bytes.

    Args:
        result: what to draw.
        format: `png`, `pdf`, `svg` or `eps`.
        dpi: dots per inch of a PNG.
        settings: of the figure, such as its `width` in inches.

    Raises:
        FileError: another format.
    """
    from lens_scopes.views.figures.style import saved

    return saved(lambda: figure_of(result, **settings), format, dpi)


def rendered(result: Viewable, suffix: str) -> bytes:
    """Any result as the contents of a file: a page, a figure, or, for an evaluation report, a table.

    Raises:
        FileError: for a suffix that stands for none of them.
    """
    if not isinstance(suffix, str):
        raise FileError(f"a kind of file is named by its suffix, such as '.html'; got {type(suffix).__name__}.")
    if suffix == ".html":
        return utf8(to_html(result))
    if suffix in (".md", ".tex"):
        return _view(_TABLES, result)(result, suffix).encode("utf-8", "backslashreplace")
    return figure_bytes(result, suffix[1:])


def print_result(result: Viewable, console: Console | None = None) -> None:
    """Print any result to a terminal."""
    settings = {"layers": True} if getattr(result, "layers", None) is not None else {}
    _view(_PRINTERS, result)(result, console, **settings)


def _view(views: dict[str, str], result: Viewable) -> Callable[..., Any]:
    for kind in type(result).__mro__:
        if kind.__name__ in views:
            module, _, name = views[kind.__name__].rpartition(".")
            return getattr(import_module(f"lens_scopes.views.{module}"), name)
    raise TypeError(f"there is no view of a {type(result).__name__}; results of lens_scopes have one")
