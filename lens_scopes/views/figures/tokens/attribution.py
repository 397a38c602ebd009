"""An attribution as a matplotlib figure for a paper column: token bars, prediction, layers × tokens map.

Built on the Figure object alone: no pyplot, no window, no change of global settings.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lens_scopes.views.figures.style import (
    COLUMN_INCHES,
    DEEP_POSITIVE,
    HATCH,
    INK,
    QUIET,
    STYLE,
    add_header,
    drawable,
    families,
    heat_map,
    new_figure,
    scale_bar,
    shorten,
)
from lens_scopes.views.words.attribution import (
    data_warnings,
    layer_leaders,
    likely,
    number,
    percent,
    ranking,
    short_names,
    title,
)
from lens_scopes.views.words.colour import NEGATIVE, POSITIVE, Scale, scale_of
from lens_scopes.views.words.token_text import printable_token

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lens_scopes.results.attribution import Attribution


# Beyond this many tokens only the strongest are named under the axis.
_MAX_LABELS = 48


def figure(attribution: Attribution, *, width: float = COLUMN_INCHES) -> Figure:
    """The attribution as a figure of `width` inches.

    Above, the score of every token as a bar, with its standard error where there is one, and beside it the
    prediction. Below, where the attribution has layers, the layers × tokens map with each layer relative to
    its own largest magnitude, with what a lens reads in its strongest cell, and beside it that magnitude.
    Special tokens and scores that are not finite are
    hatched, have their numbers written out, and do not set any scale. Characters that no installed font has
    are drawn as □.

    Args:
        attribution: what to draw.
        width: in inches; 5.5 is the text width of a paper.

    Returns:
        A figure to be saved with its `savefig`; `figure_bytes` does that with settings for print.
    """
    import matplotlib

    n_layers = 0 if attribution.layers is None else len(attribution.layer_names)
    row_height = 0.095 if attribution.lens is None else 0.125  # room for a token's text
    map_height = min(4.5, max(1.0, row_height * n_layers)) if n_layers else 0.0
    with matplotlib.rc_context(STYLE):
        figure = new_figure(width, 2.25 + (map_height + 0.35 if n_layers else 0))
        grid = figure.add_gridspec(
            2 if n_layers else 1,
            2,
            width_ratios=(3.2, 1),
            height_ratios=(1.15, map_height) if n_layers else None,
        )
        bars = figure.add_subplot(grid[0, 0], label="tokens")
        _token_bars(bars, attribution)
        _prediction_bars(figure.add_subplot(grid[0, 1], label="prediction"), attribution)
        labelled = bars
        if n_layers:
            heat = figure.add_subplot(grid[1, 0], sharex=bars, label="layers")
            _layer_map(figure, heat, attribution)
            _layer_magnitudes(figure.add_subplot(grid[1, 1], sharey=heat, label="magnitudes"), attribution)
            bars.tick_params(labelbottom=False, bottom=False)
            labelled = heat
        _token_labels(labelled, attribution)
        add_header(figure, (title(attribution), *data_warnings(attribution)))
    return figure


def _token_bars(axes: Axes, attribution: Attribution) -> None:
    scores = attribution.scores.tolist()
    # Special tokens set no scale and get no bar: an attention sink would flatten all the others.
    scale = scale_of(scores, attribution.special)
    errors = None if attribution.standard_error is None else attribution.standard_error.tolist()
    bars = [i for i in range(len(scores)) if not attribution.special[i] and math.isfinite(scores[i])]
    axes.bar(
        bars,
        [scores[i] for i in bars],
        width=0.82,
        color=[POSITIVE if scores[i] >= 0 else NEGATIVE for i in bars],
        yerr=None if errors is None else [errors[i] for i in bars],
        error_kw={"elinewidth": 0.6, "ecolor": INK, "capsize": 1.2, "capthick": 0.6},
    )
    top = 1.08 * _reach(scale, scores, errors, bars)
    axes.set_ylim(-top if scale.signed else 0, top)
    # What has no bar is hatched, with its number where there is room.
    outside = sorted(set(range(len(scores))) - set(bars))
    for i in outside:
        axes.axvspan(i - 0.41, i + 0.41, facecolor="none", edgecolor=HATCH, hatch="//////", linewidth=0)
        if len(scores) <= _MAX_LABELS or len(outside) <= 4:
            axes.text(
                i,
                top * 0.95,
                number(scores[i]),
                rotation=90,
                ha="center",
                va="top",
                fontsize=6,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
            )
    if scale.signed:
        axes.axhline(0, color=QUIET, linewidth=0.6)
    axes.set_xlim(-0.6, len(scores) - 0.4)
    axes.set_ylabel("influence")
    axes.spines[["top", "right"]].set_visible(False)


def _reach(scale: Scale, scores: list[float], errors: list[float] | None, bars: list[int]) -> float:
    if not scale.bound:
        return 1.0
    if errors is None:
        return scale.bound
    return max(abs(scores[i]) + (errors[i] if math.isfinite(errors[i]) else 0.0) for i in bars)


def _prediction_bars(axes: Axes, attribution: Attribution, most: int = 6) -> None:
    target = attribution.target
    predictions = likely(attribution, most)
    is_target = [target is not None and token.token_id == target.token_id for token in predictions]
    axes.barh(
        range(len(predictions)),
        [token.probability for token in predictions],
        height=0.7,
        color=[DEEP_POSITIVE if chosen else POSITIVE for chosen in is_target],
    )
    for i, token in enumerate(predictions):
        axes.text(
            min(token.probability, 1) + 0.03,
            i,
            percent(token.probability),
            va="center",
            fontsize=6,
            color=QUIET,
        )
    axes.set_yticks(
        range(len(predictions)),
        [drawable(shorten(printable_token(token.token), 12)) for token in predictions],
        parse_math=False,
        fontfamily=families(),
    )
    axes.invert_yaxis()
    # Room for the number behind the longest bar.
    axes.set_xlim(0, 1.38)
    axes.set_xticks([])
    axes.set_xlabel("next token")
    axes.tick_params(left=False)
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def _layer_map(figure: Figure, axes: Axes, attribution: Attribution) -> None:
    assert attribution.layers is not None
    rows = attribution.layers.tolist()
    scales = [scale_of(row, attribution.special) for row in rows]
    signed = any(scale.signed for scale in scales)
    relative = [
        [
            math.nan if special else scale.relative(score)
            for score, special in zip(row, attribution.special, strict=True)
        ]
        for row, scale in zip(rows, scales, strict=True)
    ]
    image = heat_map(axes, relative, signed=signed)
    if attribution.lens is not None:
        _write_readings(axes, attribution)
    names = short_names(attribution.layer_names)
    step = max(1, math.ceil(len(names) / 12))
    axes.set_yticks(range(0, len(names), step), names[::step], parse_math=False)
    axes.set_ylabel("layer")
    scale_bar(figure, axes, image, "score relative to the largest magnitude in its layer")


def _write_readings(axes: Axes, attribution: Attribution) -> None:
    """The most probable token of the lens in the strongest cell of each layer."""
    assert attribution.lens is not None
    edge = len(attribution.tokens) * 0.8
    for row, index, _ in layer_leaders(attribution):
        read = attribution.lens.at(row, index)
        if not read:
            continue
        # From the cell to the side with more room, for a token is often wider than its cell.
        side = "right" if index > edge else "left"
        axes.text(
            index + (0.4 if side == "right" else -0.4),
            row,
            drawable(shorten(printable_token(read[0].token), 14)),
            ha=side,
            va="center_baseline",
            fontsize=5.5,
            color=INK,
            parse_math=False,
            fontfamily=families(),
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.4},
        )


def _layer_magnitudes(axes: Axes, attribution: Attribution) -> None:
    assert attribution.layers is not None
    bounds = [scale_of(row, attribution.special).bound for row in attribution.layers.tolist()]
    axes.plot(bounds, range(len(bounds)), color=DEEP_POSITIVE, linewidth=0.8, marker="o", markersize=2)
    if min(bounds) > 0 and max(bounds) > 30 * min(bounds):
        axes.set_xscale("log")
        axes.set_xlim(min(bounds) / 1.5, max(bounds) * 1.5)
        axes.tick_params(which="minor", bottom=False)
    else:
        axes.set_xlim(0, 1.1 * max(bounds) or 1.0)
    axes.set_xlabel("largest magnitude")
    axes.tick_params(labelleft=False)
    axes.spines[["top", "right"]].set_visible(False)


def _token_labels(axes: Axes, attribution: Attribution) -> None:
    tokens = attribution.tokens
    named = list(range(len(tokens)))
    if len(tokens) > _MAX_LABELS:
        apart = len(tokens) / _MAX_LABELS
        named = []
        for i in ranking(attribution.scores.tolist(), attribution.special):
            if all(abs(i - other) >= apart for other in named):
                named.append(i)
            if len(named) == _MAX_LABELS // 2:
                break
    axes.set_xticks(
        named,
        [drawable(shorten(printable_token(tokens[i]), 16)) for i in named],
        rotation=90,
        fontsize=6.5,
        parse_math=False,
        fontfamily=families(),
    )
