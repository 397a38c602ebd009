"""A source × target matrix as a matplotlib figure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lens_scopes.views.figures.style import (
    COLUMN_INCHES,
    STYLE,
    add_header,
    drawable,
    families,
    heat_map,
    new_figure,
    scale_bar,
    shortened,
)
from lens_scopes.views.words.attribution import prompt_text
from lens_scopes.views.words.matrix import matrix_data_warnings, prediction_lines, relative_rows
from lens_scopes.views.words.token_text import printable_token

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lens_scopes.results.matrix import AttributionMatrix

_MOST_LABELS = 48


def matrix_figure(matrix: AttributionMatrix, *, width: float = COLUMN_INCHES) -> Figure:
    """The matrix as a figure of `width` inches: predictions down, source tokens across, each prediction relative to its
    own largest magnitude. Special tokens and scores that are not finite are hatched; sources after a prediction are
    left white. A prediction is named by the token it was made after and the token explained.

    Args:
        matrix: what to draw.
        width: in inches; 5.5 is the text width of a paper.
    """
    import matplotlib

    lines = prediction_lines(matrix)
    rows = relative_rows(matrix.matrix.tolist(), matrix.special)
    signed = any(value < 0 for row in rows for value in row)
    with matplotlib.rc_context(STYLE):
        figure = new_figure(width, min(7.0, max(1.8, 0.13 * len(lines) + 1.5)))
        axes = figure.add_subplot(label="matrix")
        image = heat_map(axes, rows, signed=signed)
        _label(axes, [f"{_word(line.after)} → {_word(line.explained.token)}" for line in lines], down=True)
        _label(axes, [_word(token) for token in matrix.tokens], down=False)
        axes.set_xlabel("source token")
        axes.set_ylabel("after → explained")
        scale_bar(figure, axes, image, "score relative to the largest magnitude of its prediction")
        add_header(
            figure,
            (shortened(prompt_text(matrix), 76), f"Source × target, {matrix.objective}", *matrix_data_warnings(matrix)),
        )
    return figure


def _word(token: str) -> str:
    return drawable(shortened(printable_token(token), 14))


def _label(axes: Axes, names: list[str], *, down: bool) -> None:
    step = max(1, math.ceil(len(names) / _MOST_LABELS))
    places = range(0, len(names), step)
    texts = {"labels": names[::step], "fontsize": 6.5, "parse_math": False, "fontfamily": families()}
    if down:
        axes.set_yticks(places, **texts)
    else:
        axes.set_xticks(places, **texts, rotation=90)
