"""Several attributions of one prompt as strips under each other: scopes, paths or models side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lens_scopes.errors import PromptError
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
from lens_scopes.views.words.attribution import number, title
from lens_scopes.views.words.colour import scale_of
from lens_scopes.views.words.token_text import printable_token

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lens_scopes.results.attribution import Attribution


def strips_figure(attributions: Mapping[str, Attribution], *, width: float = COLUMN_INCHES) -> Figure:
    """One strip a label: the scores of each attribution relative to its own largest magnitude, which stands beside it.

    Args:
        attributions: label → attribution, all of the same tokens.
        width: in inches.

    Raises:
        PromptError: for no attribution, or attributions of different tokens.
    """
    import matplotlib

    labels, results = list(attributions), list(attributions.values())
    if not results:
        raise PromptError("strips need at least one attribution.")
    for label, result in attributions.items():
        if result.token_ids != results[0].token_ids:
            raise PromptError(f"the strip {label!r} is of other tokens than {labels[0]!r}; explain the same prompt.")
    # Scopes have different units: each strip is drawn relative to its own largest magnitude.
    scales = [scale_of(result.scores.tolist(), result.special) for result in results]
    relative = [
        [
            math.nan if special or not scale.bound or not math.isfinite(score) else score / scale.bound
            for score, special in zip(result.scores.tolist(), result.special, strict=True)
        ]
        for result, scale in zip(results, scales, strict=True)
    ]
    with matplotlib.rc_context(STYLE):
        figure = new_figure(width, 1.35 + 0.26 * len(results))
        axes = figure.add_subplot(label="strips")
        image = heat_map(axes, relative, signed=any(scale.signed for scale in scales))
        axes.set_yticks(range(len(labels)), [drawable(label) for label in labels])
        tokens = [drawable(shortened(printable_token(token), 14)) for token in results[0].tokens]
        axes.set_xticks(range(len(tokens)), tokens, rotation=90, parse_math=False, fontfamily=families())
        axes.tick_params(length=0)
        # That magnitude stands on the right, so that no information is lost.
        beside = axes.secondary_yaxis("right")
        beside.set_yticks(range(len(labels)), [number(scale.bound) for scale in scales])
        beside.tick_params(length=0)
        beside.set_ylabel("largest magnitude")
        beside.spines[:].set_visible(False)
        scale_bar(figure, axes, image, "score relative to the largest magnitude of its strip")
        add_header(figure, (title(results[0]),))
    return figure
