"""A comparison of two attributions as a matplotlib figure: a strip for each, and one for the difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lens_scopes.views.figures.style import (
    COLUMN_INCHES,
    STYLE,
    add_header,
    drawable,
    families,
    header_height,
    heat_map,
    new_figure,
    scale_bar,
    shorten,
)
from lens_scopes.views.words.colour import scale_of
from lens_scopes.views.words.comparison import change_unit, side_lines
from lens_scopes.views.words.numbers import number
from lens_scopes.views.words.token_text import printable_token

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lens_scopes.results.comparison import Comparison

_MAX_LABELS = 60


def comparison_figure(comparison: Comparison, *, width: float = COLUMN_INCHES) -> Figure:
    """The comparison as a figure of `width` inches: the scores of A and of B and their difference, each relative to the
    largest magnitude of its strip, which stands beside it. Hatched are special tokens and those that one text lacks.

    Args:
        comparison: what to draw.
        width: in inches.
    """
    import matplotlib

    pairs, special = comparison.pairs, comparison.special
    columns: list[list[float | None]] = [
        [pair.score_a for pair in pairs],
        [pair.score_b for pair in pairs],
        [pair.change for pair in pairs],
    ]
    rows = [[math.nan if value is None else value for value in column] for column in columns]
    scales = [scale_of(row, special) for row in rows]
    relative = [
        [math.nan if outside else scale.relative(value) for value, outside in zip(row, special, strict=True)]
        for row, scale in zip(rows, scales, strict=True)
    ]
    sides = [f"{letter}  {objective}: {prompt}" for letter, objective, prompt in side_lines(comparison)]
    header = (*sides, change_unit(comparison))
    with matplotlib.rc_context(STYLE):
        figure = new_figure(width, 1.95 + header_height(header, width))
        axes = figure.add_subplot(label="comparison")
        image = heat_map(axes, relative, signed=any(scale.signed for scale in scales))
        axes.set_yticks(range(3), ["A", "B", "B − A"])
        _name_tokens(axes, comparison.tokens)
        beside = axes.secondary_yaxis("right")
        beside.set_yticks(range(3), [number(scale.bound) for scale in scales])
        beside.tick_params(length=0)
        beside.set_ylabel("largest magnitude")
        beside.spines[:].set_visible(False)
        scale_bar(figure, axes, image, "relative to the largest magnitude of its strip")
        add_header(figure, header)
    return figure


def _name_tokens(axes: Axes, tokens: Sequence[str]) -> None:
    step = max(1, math.ceil(len(tokens) / _MAX_LABELS))
    names = [drawable(shorten(printable_token(token), 14)) for token in tokens[::step]]
    places = range(0, len(tokens), step)
    axes.set_xticks(places, names, rotation=90, parse_math=False, fontfamily=families())
    axes.tick_params(length=0)
