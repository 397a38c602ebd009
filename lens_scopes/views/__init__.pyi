from .figures.flow import flow_figure
from .figures.interventions.cells import cells_figure
from .figures.interventions.heads import heads_figure
from .figures.matrix import matrix_figure
from .figures.modes import modes_figure
from .figures.tokens.attribution import figure
from .notebook import frame_page, notebook_html, show
from .page.document import Page
from .page.pages import attribution_page, page_of
from .render import figure_bytes, figure_of, print_result, to_bytes, to_html
from .terminal.attribution import TerminalReport
from .words.pages.parts.blocks import Section

__all__ = [
    "Page",
    "Section",
    "TerminalReport",
    "cells_figure",
    "figure",
    "figure_bytes",
    "figure_of",
    "flow_figure",
    "frame_page",
    "heads_figure",
    "matrix_figure",
    "modes_figure",
    "notebook_html",
    "attribution_page",
    "page_of",
    "print_result",
    "to_bytes",
    "show",
    "to_html",
]
