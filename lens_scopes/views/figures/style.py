"""Style of all figures: colours, sizes, fonts, and text limited to the characters of the installed fonts."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Sequence
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Any

from lens_scopes.errors import FileError
from lens_scopes.views.words.colour import DEEP_NEGATIVE as DEEP_NEGATIVE
from lens_scopes.views.words.colour import DEEP_POSITIVE as DEEP_POSITIVE
from lens_scopes.views.words.colour import LEVELS, level_colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

COLUMN_INCHES = 5.5
FORMATS = ("png", "pdf", "svg", "eps")

INK = "#1b1e24"
QUIET = "#5f6673"
HATCH = "#a5abb6"
STYLE: Any = {
    "axes.edgecolor": QUIET,
    "axes.facecolor": "white",
    "axes.labelcolor": INK,
    "axes.linewidth": 0.6,
    "axes.grid": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 7,
    "hatch.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 2,
    "ytick.major.size": 2,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "text.usetex": False,
}

# Tried in turn for characters the first family lacks; those that are not installed are passed over.
_FAMILIES = (
    "DejaVu Sans",
    "Noto Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "PingFang SC",
    "Hiragino Sans",
    "Noto Sans Arabic",
    "Noto Sans Hebrew",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Noto Sans Symbols2",
    "Noto Emoji",
    "Segoe UI Symbol",
    "Arial Unicode MS",
)
_MISSING = "□"
_HEADER_SIZE = 7.5  # points


def shorten(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def drawable(text: str) -> str:
    """The text with □ for every character that none of the fonts has, so that nothing is warned about later."""
    known = _characters()
    return "".join(character if ord(character) in known or character == "\n" else _MISSING for character in text)


def colour_map(*, signed: bool) -> Colormap:
    """The colour scale of the pages."""
    from matplotlib.colors import LinearSegmentedColormap

    colours = [level_colour(level) for level in range(-LEVELS if signed else 0, LEVELS + 1)]
    return LinearSegmentedColormap.from_list("influence", colours)


def draw_file(draw: Callable[[], Figure], format: str, dpi: int) -> bytes:
    """The figure that `draw` makes as the contents of a file, fonts embedded, without a date.

    Raises:
        FileError: a format other than `png`, `pdf`, `svg` or `eps`.
    """
    import matplotlib

    if format not in FORMATS:
        raise FileError(f"figures cannot be written as {format!r}: choose one of {', '.join(FORMATS)}")
    undated = {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}, "eps": {"CreationDate": None}}
    settings: Any = {
        "pdf.fonttype": 42,
        "ps.fonttype": 42,
        "svg.fonttype": "path",
        "svg.hashsalt": "lens",
    }
    buffer = BytesIO()
    with matplotlib.rc_context(settings):
        draw().savefig(buffer, format=format, dpi=dpi, metadata=undated[format])
    return buffer.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """An empty figure in inches, which a notebook shows as a picture. Draw in `matplotlib.rc_context(STYLE)`."""
    figure = _notebook_figure()(figsize=(width, height), layout="constrained")
    figure.set_facecolor("white")
    return figure


@cache
def _notebook_figure() -> type[Figure]:
    """A figure that is a picture in a notebook: pyplot, which would see to that, is not loaded."""
    from matplotlib.figure import Figure

    class NotebookFigure(Figure):
        def _repr_png_(self) -> bytes:
            picture = BytesIO()
            self.savefig(picture, format="png", dpi=150)
            return picture.getvalue()

    return NotebookFigure


def add_header(figure: Figure, lines: Sequence[str]) -> None:
    """The lines above the panels, each wrapped to the width of the figure."""
    text = drawable(_wrap(lines, figure.get_figwidth()))
    figure.suptitle(text, x=0.01, ha="left", fontsize=_HEADER_SIZE, parse_math=False, fontfamily=families())


def header_height(lines: Sequence[str], width: float) -> float:
    """The inches that the lines take above the panels of a figure of that width."""
    return (_wrap(lines, width).count("\n") + 1) * 1.2 * _HEADER_SIZE / 72


def _wrap(lines: Sequence[str], width: float) -> str:
    # Wrapped here: matplotlib's own wrapping reads $ as mathematics, whatever parse_math says.
    return "\n".join(textwrap.fill(line, int(14.5 * width)) for line in lines)


def heat_map(axes: Axes, relative: Sequence[Sequence[float]], *, signed: bool) -> AxesImage:
    """Rows of values from −1 to 1 in the colours of the scale; those that are NaN are hatched."""
    image = axes.imshow(
        relative,
        cmap=colour_map(signed=signed),
        vmin=-1 if signed else 0,
        vmax=1,
        aspect="auto",
        interpolation="nearest",
        rasterized=len(relative) * len(relative[0]) > 4000,
    )
    for y, row in enumerate(relative):
        for start, stop in _unknown_runs(row):
            axes.fill_between(
                (start - 0.5, stop - 0.5),
                y - 0.5,
                y + 0.5,
                facecolor="none",
                edgecolor=HATCH,
                hatch="//////",
                linewidth=0,
            )
    return image


def scale_bar(figure: Figure, axes: Axes, image: AxesImage, label: str, shrink: float = 0.55) -> None:
    """The scale of a heat map, below it, over a share of its width."""
    bar = figure.colorbar(
        image, ax=axes, location="bottom", aspect=72 * shrink, shrink=shrink, pad=0.02, anchor=(0.0, 1.0)
    )
    bar.outline.set_linewidth(0.4)
    bar.set_label(label)


@cache
def families() -> list[str]:
    return [family for family, _ in _font_paths()]


@cache
def _characters() -> frozenset[int]:
    from matplotlib.font_manager import get_font

    return frozenset().union(*(get_font(path).get_charmap() for _, path in _font_paths()))


@cache
def _font_paths() -> list[tuple[str, str]]:
    from matplotlib.font_manager import fontManager

    paths = {font.name: font.fname for font in reversed(fontManager.ttflist) if font.style == "normal"}
    return [(family, paths[family]) for family in _FAMILIES if family in paths]


def _unknown_runs(row: Sequence[float]) -> list[tuple[int, int]]:
    """Half-open ranges of consecutive columns without a relative score."""
    runs: list[tuple[int, int]] = []
    for i, value in enumerate(row):
        if math.isnan(value):
            if runs and runs[-1][1] == i:
                runs[-1] = (runs[-1][0], i + 1)
            else:
                runs.append((i, i + 1))
    return runs
