"""Which figure and terminal view belong to which kind of result.

Results are told apart by the name of their class, so that a view of one kind loads nothing of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lens_scopes.errors import FileError
from lens_scopes.results.storage.writing import utf8
from lens_scopes.views.page.pages import page_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console

    from lens_scopes.results.base import Drawable, Viewable

_FIGURES = {
    "Attribution": "figures.tokens.attribution.figure",
    "Comparison": "figures.tokens.comparison.comparison_figure",
    "HeadInspection": "figures.interventions.heads.heads_figure",
    "CellPatches": "figures.interventions.cells.cells_figure",
    "AttributionMatrix": "figures.matrix.matrix_figure",
    "TotalInfluence": "figures.matrix.influence_figure",
    "ModeInspection": "figures.modes.modes_figure",
    "EvaluationReport": "figures.evaluation.evaluation_figure",
    "InformationFlow": "figures.flow.flow_figure",
    "FlowCalibration": "figures.calibration.calibration_figure",
    "SeriesInspection": "figures.series.inspection_figure",
    "Series": "figures.series.series_figure",
    "ValueDistribution": "figures.series.distribution_figure",
}
_TABLES = {"EvaluationReport": "tables.table"}
_TERMINAL = {
    "Attribution": "terminal.attribution.TerminalReport",
    "Comparison": "terminal.comparison.ComparisonReport",
    "HeadInspection": "terminal.heads.HeadsReport",
    "CellPatches": "terminal.cells.CellsReport",
    "AttributionMatrix": "terminal.matrix.MatrixReport",
    "TotalInfluence": "terminal.matrix.InfluenceReport",
    "ModeInspection": "terminal.modes.ModesReport",
    "EvaluationReport": "terminal.evaluation.EvaluationView",
    "InformationFlow": "terminal.flow.FlowReport",
    "SeriesInspection": "terminal.series.SeriesReport",
    "FlowCalibration": "terminal.calibration.CalibrationView",
}


def to_html(result: Viewable) -> str:
    """Any result as one self-contained HTML document, to be written as UTF-8."""
    return page_of(result).to_html()


def figure_of(result: Drawable, **settings: Any) -> Figure:
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
    from lens_scopes.views.figures.style import draw_file

    return draw_file(lambda: figure_of(result, **settings), format, dpi)


def to_bytes(result: Viewable, suffix: str) -> bytes:
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


def print_result(result: Viewable, console: Console | None = None, *, contract: bool = False, **settings: Any) -> None:
    """Print any result to a terminal.

    Args:
        result: what to print.
        console: where to; by default standard output.
        contract: whether the five elements of the claim follow.
        settings: of the view, such as the `group` of an attribution.
    """
    from rich.console import Console as StandardOutput

    console = console or StandardOutput()
    console.print(_view(_TERMINAL, result)(result, **settings))
    if contract:
        from lens_scopes.views.terminal.parts import ContractView

        console.print(ContractView(result))  # pyright: ignore[reportArgumentType]


def _view(views: dict[str, str], result: Drawable) -> Callable[..., Any]:
    for kind in type(result).__mro__:
        if kind.__name__ in views:
            module, _, name = views[kind.__name__].rpartition(".")
            return getattr(import_module(f"lens_scopes.views.{module}"), name)
    raise TypeError(f"there is no view of a {type(result).__name__}; results of lens_scopes have one")
