"""Views of an attribution: a self-contained HTML page, the terminal, a matplotlib figure, a notebook frame.

    to_html(attribution)                # one HTML document that opens offline
    page(attribution)                   # the same as a Page, to add sections to before .to_html()
    print_terminal(attribution, layers=True)
    figure(attribution).savefig("figure.pdf")

They share one colour scale (`colour`), one way to write a token (`token_text`) and one set of words (`wording`). Names
are imported when first used, so that a terminal view loads neither matplotlib nor CircuitsVis.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lens_scopes.views.circuitsvis_bundle import View
    from lens_scopes.views.html_page import Page, Section
    from lens_scopes.views.matplotlib_figure import figure, figure_bytes
    from lens_scopes.views.notebook import framed, notebook_html, show
    from lens_scopes.views.report import page, to_html
    from lens_scopes.views.terminal import TerminalReport, print_terminal

_HOMES = {
    "Page": "html_page",
    "Section": "html_page",
    "TerminalReport": "terminal",
    "View": "circuitsvis_bundle",
    "figure": "matplotlib_figure",
    "figure_bytes": "matplotlib_figure",
    "framed": "notebook",
    "notebook_html": "notebook",
    "page": "report",
    "print_terminal": "terminal",
    "show": "notebook",
    "to_html": "report",
}

__all__ = [
    "Page",
    "Section",
    "TerminalReport",
    "View",
    "figure",
    "figure_bytes",
    "framed",
    "notebook_html",
    "page",
    "print_terminal",
    "show",
    "to_html",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
