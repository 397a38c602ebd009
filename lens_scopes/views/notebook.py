"""A result in a notebook: its HTML page in a frame of its own, as offline and as closed as the file."""

from __future__ import annotations

import sys
from html import escape
from typing import TYPE_CHECKING

from lens_scopes.views.page.document import Page
from lens_scopes.views.page.pages import page_of
from lens_scopes.views.render import print_result

if TYPE_CHECKING:
    from lens_scopes.results.base import Viewable


def notebook_html(result: Viewable, *, height: int = 720) -> str:
    """HTML for `_repr_html_`: the page of the result in a sandboxed frame; see `framed`."""
    return framed(page_of(result), height=height)


def framed(page: Page, *, height: int = 720) -> str:
    """Any page as a frame of `height` pixels, which the reader can drag taller.

    The frame may run its own scripts and nothing else: it has no access to the notebook, and the page's security
    policy forbids every request. It carries the whole page (some 1.5 MB), which stays in a saved notebook.
    """
    return (
        f'<iframe sandbox="allow-scripts" srcdoc="{escape(page.to_html())}" title="{escape(page.title)}"'
        f' width="100%" height="{height}"'
        ' style="border:1px solid #8884;border-radius:8px;resize:vertical;overflow:auto"></iframe>'
    )


def show(result: Viewable) -> None:
    """Show a result where the reader is: as an offline page in a notebook, else in the terminal."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None and hasattr(shell, "kernel"):
        from IPython.display import HTML, display  # pyright: ignore[reportMissingImports]

        display(HTML(notebook_html(result)))
    else:
        print_result(result)
