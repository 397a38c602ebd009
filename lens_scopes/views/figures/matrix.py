"""A source × target matrix, and influence through its generated text, as matplotlib figures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lens_scopes.views.figures.style import (
    COLUMN_INCHES,
    DEEP_POSITIVE,
    STYLE,
    add_header,
    drawable,
    families,
    heat_map,
    new_figure,
    scale_bar,
    shorten,
)
from lens_scopes.views.words.attribution import prompt_text
from lens_scopes.views.words.colour import POSITIVE
from lens_scopes.views.words.matrix import (
    influence_summary,
    matrix_data_warnings,
    prediction_lines,
    relative_rows,
    segment_names,
    target_name,
)
from lens_scopes.views.words.token_text import printable_token

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lens_scopes.results.influence import TotalInfluence
    from lens_scopes.results.matrix import AttributionMatrix

_MAX_LABELS = 48


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
            (shorten(prompt_text(matrix), 76), f"Source × target, {matrix.objective}", *matrix_data_warnings(matrix)),
        )
    return figure


def influence_figure(influence: TotalInfluence, *, width: float = COLUMN_INCHES) -> Figure:
    """Influence through generated text as a figure of `width` inches.

    Above, the total influence of every prompt token as a bar, the direct one as a line across it. Below, what each
    segment of the generated text rests on, as shares of its row: segments that carry the answer, nearest to it first.

    Args:
        influence: what to draw.
        width: in inches; 5.5 is the text width of a paper.
    """
    import matplotlib

    segments, flows = influence.segments(), influence.flows()
    names = segment_names(influence, segments)
    rows = [i for i in reversed(range(len(segments))) if bool(flows[i].any())]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(width, min(8.0, 3.1 + 0.16 * len(rows)))
        grid = figure.add_gridspec(2, 1, height_ratios=(1.2, max(0.8, 0.16 * len(rows))))

        # Prompt tokens: total and direct.
        bars = figure.add_subplot(grid[0], label="tokens")
        n = influence.n_prompt
        bars.bar(range(n), influence.scores.tolist(), width=0.82, color=POSITIVE, label="total")
        bars.plot(
            range(n), influence.direct.tolist(), linestyle="none", marker="_", markersize=5, color=DEEP_POSITIVE,
            label="direct",
        )  # fmt: skip
        bars.set_ylabel("share of influence")
        bars.legend(frameon=False, fontsize=6.5)
        bars.spines[["top", "right"]].set_visible(False)
        _label(bars, [_word(token) for token in influence.tokens[:n]], down=False)

        # Segments: what each rests on.
        heat = figure.add_subplot(grid[1], label="hops")
        shares = [(flows[i] / flows[i].sum()).tolist() for i in rows]
        image = heat_map(heat, shares, signed=False)
        _label(heat, [drawable(names[i]) for i in rows], down=True)
        _label(heat, [drawable(name) for name in names], down=False)
        heat.set_xlabel("rests on")
        scale_bar(figure, heat, image, "share of what a segment rests on")
        add_header(figure, (shorten(f"On {target_name(influence)}", 76), influence_summary(influence)))
    return figure


def _word(token: str) -> str:
    return drawable(shorten(printable_token(token), 14))


def _label(axes: Axes, names: list[str], *, down: bool) -> None:
    step = max(1, math.ceil(len(names) / _MAX_LABELS))
    places = range(0, len(names), step)
    texts = {"labels": names[::step], "fontsize": 6.5, "parse_math": False, "fontfamily": families()}
    if down:
        axes.set_yticks(places, **texts)
    else:
        axes.set_xticks(places, **texts, rotation=90)
