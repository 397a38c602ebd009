"""Views of results: a self-contained HTML page, the terminal, a matplotlib figure, a notebook frame.

    to_html(result)                                          # one HTML document that opens offline
    page(attribution, heads=…, matrix=…, modes=…).to_html()  # several results of one prompt on one page
    print_terminal(attribution, layers=True)                 # print_heads, print_matrix, print_modes, print_flow
    figure_of(result).savefig("figure.pdf")

They share one colour scale (`colour`), one way to write a token (`token_text`) and one set of words (`wording`). Names
are imported when first used, so that a terminal view loads neither matplotlib nor CircuitsVis.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lens_scopes.views.circuitsvis_bundle import View
    from lens_scopes.views.figure_flow import flow_figure
    from lens_scopes.views.figure_heads import heads_figure
    from lens_scopes.views.figure_matrix import matrix_figure
    from lens_scopes.views.figure_modes import modes_figure
    from lens_scopes.views.html_page import Page, Section
    from lens_scopes.views.matplotlib_figure import figure
    from lens_scopes.views.notebook import framed, notebook_html, show
    from lens_scopes.views.report import page
    from lens_scopes.views.results import figure_bytes, figure_of, page_of, print_result, to_html
    from lens_scopes.views.terminal import TerminalReport, print_terminal
    from lens_scopes.views.terminal_flow import print_flow
    from lens_scopes.views.terminal_heads import print_heads
    from lens_scopes.views.terminal_matrix import print_matrix
    from lens_scopes.views.terminal_modes import print_modes

_HOMES = {
    "Page": "html_page",
    "Section": "html_page",
    "TerminalReport": "terminal",
    "View": "circuitsvis_bundle",
    "figure": "matplotlib_figure",
    "figure_bytes": "results",
    "figure_of": "results",
    "flow_figure": "figure_flow",
    "framed": "notebook",
    "heads_figure": "figure_heads",
    "matrix_figure": "figure_matrix",
    "modes_figure": "figure_modes",
    "notebook_html": "notebook",
    "page": "report",
    "page_of": "results",
    "print_flow": "terminal_flow",
    "print_heads": "terminal_heads",
    "print_matrix": "terminal_matrix",
    "print_modes": "terminal_modes",
    "print_result": "results",
    "print_terminal": "terminal",
    "show": "notebook",
    "to_html": "results",
}

__all__ = [
    "Page",
    "Section",
    "TerminalReport",
    "View",
    "figure",
    "figure_bytes",
    "figure_of",
    "flow_figure",
    "framed",
    "heads_figure",
    "matrix_figure",
    "modes_figure",
    "notebook_html",
    "page",
    "page_of",
    "print_flow",
    "print_heads",
    "print_matrix",
    "print_modes",
    "print_result",
    "print_terminal",
    "show",
    "to_html",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
