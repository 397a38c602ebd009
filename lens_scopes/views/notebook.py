"""A result in a notebook: its coloured tokens, and a page in a frame, as offline and as closed as the file."""

from __future__ import annotations

import math
import sys
from html import escape
from typing import TYPE_CHECKING, Any

from lens_scopes.views.page.document import Page
from lens_scopes.views.page.pages import page_of
from lens_scopes.views.render import print_result
from lens_scopes.views.words.colour import ink, level_colour, scale_of, to_hex
from lens_scopes.views.words.numbers import number
from lens_scopes.views.words.token_text import inline_token

if TYPE_CHECKING:
    from lens_scopes.results.base import Viewable

_HEIGHT = 480  # pixels of a frame until its page says how tall it is
_FULL_HEIGHT = 720  # of a whole page, which is several screens long and scrolls in its frame
# A frame may not be measured from outside, so its page tells its height; all else that a message says is ignored.
_FIT = """<script>addEventListener("message", (event) => {
  for (const frame of document.querySelectorAll("iframe[data-lens-scopes]"))
    if (frame.contentWindow === event.source && Number.isFinite(event.data?.lensScopes))
      frame.style.height = `${event.data.lensScopes + 2}px`;
});</script>"""


def notebook_html(result: Viewable, *, full: bool = False, height: int | None = None) -> str:
    """HTML for `_repr_html_`: the coloured tokens, which viewers without frames show too, and the result's page.

    Args:
        result: what to show.
        full: the whole page, as in a file (1.4 MB), in place of the compact one (under 100 kB).
        height: of the frame in pixels; None fits the compact page to its content, and gives the whole one 720.
    """
    page = page_of(result)
    return (
        frame_page(page, height=height or _FULL_HEIGHT)
        if full
        else _strip(result) + frame_page(page.compact(), height=height, still=False)
    )


def frame_page(page: Page, *, height: int | None = None, still: bool = True) -> str:
    """Any page as a frame, as tall as its content or `height` pixels, which the reader can drag taller.

    The frame may run its own scripts and nothing else: it has no access to the notebook, and the page's security
    policy forbids every request. It carries its page, which stays in a saved notebook.
    """
    fit = "" if height is not None else " data-lens-scopes"
    # In apostrophes, since a page has ten times as many quotation marks, which would each take six characters.
    document = page.to_html(still=still).replace("&", "&amp;").replace("'", "&#39;")
    frame = (
        f'<iframe sandbox="allow-scripts" srcdoc=\'{document}\' title="{escape(page.title)}"'
        f' width="100%" height="{height or _HEIGHT}"{fit}'
        ' style="border:1px solid #8884;border-radius:8px;resize:vertical;overflow:auto"></iframe>'
    )
    return frame if height is not None else frame + _FIT


def show(result: Viewable, *, full: bool = False, height: int | None = None) -> None:
    """Shows a result where the reader is: in a notebook as `notebook_html`, else in the terminal."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None and hasattr(shell, "kernel"):
        from IPython.display import display  # pyright: ignore[reportMissingImports]

        display(_Display(notebook_html(result, full=full, height=height)))
    else:
        print_result(result)


class _Display:
    """HTML to display. IPython's own class warns of every frame."""

    def __init__(self, html: str) -> None:
        self._html = html

    def _repr_html_(self) -> str:
        return self._html


def _strip(result: Any) -> str:
    """The tokens of an attribution, or of two compared, in plain HTML with colours of their own; else nothing."""
    if hasattr(result, "pairs"):
        return _strip(result.a) + _strip(result.b)
    scores, tokens = getattr(result, "scores", None), getattr(result, "tokens", ())
    if scores is None or scores.ndim != 1 or len(scores) != len(tokens):
        return ""
    values = scores.tolist()
    scale = scale_of(values, result.special)
    spans, before = [], ""
    for token, score, special in zip(tokens, values, result.special, strict=True):
        if before.endswith((",", ";")) and token[:1].isdigit():
            spans.append("<wbr>")  # a series has no spaces, and its lines would end within numbers
        before = token
        paper = "#ddd" if special or not math.isfinite(score) else to_hex(level_colour(scale.level(score)))
        style = f"background:{paper};color:{to_hex(ink())};padding:2px 1px;border-radius:2px"
        spans.append(f'<span title="{number(score)}" style="{style}">{escape(inline_token(token))}</span>')
    text = '<div dir="auto" style="line-height:2;white-space:pre-wrap;overflow-wrap:anywhere;margin:4px 0">'
    return f"{text}<b>{escape(inline_token(result.objective))}</b> {''.join(spans)}</div>"
