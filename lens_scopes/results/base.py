"""What every result can do to be seen: a page, a figure, a notebook or terminal view."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Result:
    """The views of a result, for its class to inherit."""

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """The result as one self-contained page that opens offline.

        Args:
            path: where to write it; None only returns the HTML.

        Raises:
            FileError: when it cannot be written.
        """
        from lens_scopes.views import to_html

        page = to_html(self)
        if path is not None:
            from lens_scopes.results.files import write_whole

            write_whole(path, page.encode("utf-8"))
        return page

    def figure(self) -> Figure:
        """A matplotlib figure of the result, for papers."""
        from lens_scopes.views import figure_of

        return figure_of(self)

    def rendered(self, suffix: str) -> bytes:
        """The result as the contents of a file of that kind: a page, a figure or a table.

        Args:
            suffix: `.html`, `.png`, `.pdf`, `.svg` or `.eps`; for an evaluation report also `.md` and `.tex`.

        Raises:
            FileError: for another suffix.
        """
        from lens_scopes.views import rendered

        return rendered(self, suffix)

    def show(self) -> None:
        """Shows the result: in a notebook as an offline page, elsewhere in the terminal."""
        from lens_scopes.views import show

        show(self)

    def _repr_html_(self) -> str:
        from lens_scopes.views import notebook_html

        return notebook_html(self)
