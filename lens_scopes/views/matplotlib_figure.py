"""An attribution as a matplotlib figure for a paper column: token bars, prediction, layers × tokens map.

Built on the Figure object alone: no pyplot, no window, no change of global settings.
"""

from __future__ import annotations

import math
import textwrap
from functools import cache
from io import BytesIO
from typing import TYPE_CHECKING, Any

from lens_scopes.errors import FileError
from lens_scopes.views.colour import NEGATIVE, POSITIVE, Scale, scale_of
from lens_scopes.views.token_text import visible
from lens_scopes.views.wording import likely, number, oddities, percent, ranking, short_names, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lens_scopes.attribution import Attribution

COLUMN_INCHES = 5.5
FORMATS = ("png", "pdf", "svg", "eps")

_DEEP_POSITIVE = "#123c8c"
_DEEP_NEGATIVE = "#8f3d00"
_INK = "#1b1e24"
_QUIET = "#5f6673"
_HATCH = "#a5abb6"
_STYLE: Any = {
    "axes.edgecolor": _QUIET,
    "axes.facecolor": "white",
    "axes.labelcolor": _INK,
    "axes.linewidth": 0.6,
    "axes.grid": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 7,
    "hatch.linewidth": 0.6,
    "text.color": _INK,
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
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

# Beyond this many tokens only the strongest are named under the axis.
_MOST_LABELS = 48


def figure(attribution: Attribution, *, width: float = COLUMN_INCHES) -> Figure:
    """The attribution as a figure of `width` inches.

    Above, the score of every token as a bar, with its standard error where there is one, and beside it the
    prediction. Below, where the attribution has layers, the layers × tokens map with each layer relative to
    its own largest magnitude, and beside it that magnitude. Special tokens and scores that are not finite are
    hatched, have their numbers written out, and do not set any scale. Characters that no installed font has
    are drawn as □.

    Args:
        attribution: what to draw.
        width: in inches; 5.5 is the text width of a paper.

    Returns:
        A figure to be saved with its `savefig`; `figure_bytes` does that with settings for print.
    """
    import matplotlib
    from matplotlib.figure import Figure

    n_layers = 0 if attribution.layers is None else len(attribution.layer_names)
    map_height = min(4.5, max(1.0, 0.095 * n_layers)) if n_layers else 0.0
    with matplotlib.rc_context(_STYLE):
        drawn = Figure(figsize=(width, 2.25 + (map_height + 0.35 if n_layers else 0)), layout="constrained")
        drawn.set_facecolor("white")
        grid = drawn.add_gridspec(
            2 if n_layers else 1,
            2,
            width_ratios=(3.2, 1),
            height_ratios=(1.15, map_height) if n_layers else None,
        )
        bars = drawn.add_subplot(grid[0, 0], label="tokens")
        _token_bars(bars, attribution)
        _prediction_bars(drawn.add_subplot(grid[0, 1], label="prediction"), attribution)
        labelled = bars
        if n_layers:
            heat = drawn.add_subplot(grid[1, 0], sharex=bars, label="layers")
            _layer_map(drawn, heat, attribution)
            _layer_magnitudes(drawn.add_subplot(grid[1, 1], sharey=heat, label="magnitudes"), attribution)
            bars.tick_params(labelbottom=False, bottom=False)
            labelled = heat
        _token_labels(labelled, attribution)
        # Wrapped here: matplotlib's own wrapping reads $ as mathematics, whatever parse_math says.
        lines = [textwrap.fill(line, int(14.5 * width)) for line in (title(attribution), *oddities(attribution))]
        drawn.suptitle(
            _drawable("\n".join(lines)),
            x=0.01,
            ha="left",
            fontsize=7.5,
            parse_math=False,
            fontfamily=_families(),
        )
    return drawn


def figure_bytes(
    attribution: Attribution, format: str = "png", *, width: float = COLUMN_INCHES, dpi: int = 300
) -> bytes:
    """The figure as the contents of a file, with fonts embedded; the same attribution gives the same bytes.

    Args:
        attribution: what to draw.
        format: `png`, `pdf`, `svg` or `eps`.
        width: in inches.
        dpi: dots per inch of a PNG.

    Raises:
        FileError: another format.
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
        figure(attribution, width=width).savefig(buffer, format=format, dpi=dpi, metadata=undated[format])
    return buffer.getvalue()


def _token_bars(axes: Axes, attribution: Attribution) -> None:
    scores = attribution.scores.tolist()
    scale = scale_of(scores, attribution.special)
    errors = None if attribution.standard_error is None else attribution.standard_error.tolist()
    shown = [i for i in range(len(scores)) if not attribution.special[i] and math.isfinite(scores[i])]
    axes.bar(
        shown,
        [scores[i] for i in shown],
        width=0.82,
        color=[POSITIVE if scores[i] >= 0 else NEGATIVE for i in shown],
        yerr=None if errors is None else [errors[i] for i in shown],
        error_kw={"elinewidth": 0.6, "ecolor": _INK, "capsize": 1.2, "capthick": 0.6},
    )
    top = 1.08 * _reach(scale, scores, errors, shown)
    axes.set_ylim(-top if scale.signed else 0, top)
    outside = sorted(set(range(len(scores))) - set(shown))
    for i in outside:
        axes.axvspan(i - 0.41, i + 0.41, facecolor="none", edgecolor=_HATCH, hatch="//////", linewidth=0)
        if len(scores) <= _MOST_LABELS or len(outside) <= 4:
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
        axes.axhline(0, color=_QUIET, linewidth=0.6)
    axes.set_xlim(-0.6, len(scores) - 0.4)
    axes.set_ylabel("influence")
    axes.spines[["top", "right"]].set_visible(False)


def _reach(scale: Scale, scores: list[float], errors: list[float] | None, shown: list[int]) -> float:
    if not scale.bound:
        return 1.0
    if errors is None:
        return scale.bound
    return max(abs(scores[i]) + (errors[i] if math.isfinite(errors[i]) else 0.0) for i in shown)


def _prediction_bars(axes: Axes, attribution: Attribution, most: int = 6) -> None:
    target = attribution.target
    shown = likely(attribution, most)
    is_target = [target is not None and token.token_id == target.token_id for token in shown]
    axes.barh(
        range(len(shown)),
        [token.probability for token in shown],
        height=0.7,
        color=[_DEEP_POSITIVE if chosen else POSITIVE for chosen in is_target],
    )
    for i, token in enumerate(shown):
        axes.text(
            min(token.probability, 1) + 0.03,
            i,
            percent(token.probability),
            va="center",
            fontsize=6,
            color=_QUIET,
        )
    axes.set_yticks(
        range(len(shown)),
        [_drawable(_shortened(visible(token.token), 12)) for token in shown],
        parse_math=False,
        fontfamily=_families(),
    )
    axes.invert_yaxis()
    axes.set_xlim(0, 1.38)
    axes.set_xticks([])
    axes.set_xlabel("next token")
    axes.tick_params(left=False)
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def _layer_map(drawn: Figure, axes: Axes, attribution: Attribution) -> None:
    from matplotlib.colors import LinearSegmentedColormap

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
    colours = ["white", POSITIVE, _DEEP_POSITIVE]
    colour_map = LinearSegmentedColormap.from_list(
        "influence", [_DEEP_NEGATIVE, NEGATIVE, *colours] if signed else colours
    )
    image = axes.imshow(
        relative,
        cmap=colour_map,
        vmin=-1 if signed else 0,
        vmax=1,
        aspect="auto",
        interpolation="nearest",
        rasterized=len(rows) * len(rows[0]) > 4000,
    )
    for y, row in enumerate(relative):
        for start, stop in _unknown_runs(row):
            axes.fill_between(
                (start - 0.5, stop - 0.5),
                y - 0.5,
                y + 0.5,
                facecolor="none",
                edgecolor=_HATCH,
                hatch="//////",
                linewidth=0,
            )
    names = short_names(attribution.layer_names)
    step = max(1, math.ceil(len(names) / 12))
    axes.set_yticks(range(0, len(names), step), names[::step], parse_math=False)
    axes.set_ylabel("layer")
    bar = drawn.colorbar(image, ax=axes, location="bottom", aspect=40, shrink=0.55, pad=0.02, anchor=(0.0, 1.0))
    bar.outline.set_linewidth(0.4)
    bar.set_label("score relative to the largest magnitude in its layer")


def _layer_magnitudes(axes: Axes, attribution: Attribution) -> None:
    assert attribution.layers is not None
    bounds = [scale_of(row, attribution.special).bound for row in attribution.layers.tolist()]
    axes.plot(bounds, range(len(bounds)), color=_DEEP_POSITIVE, linewidth=0.8, marker="o", markersize=2)
    axes.set_xlim(0, 1.1 * max(bounds) or 1.0)
    axes.set_xlabel("largest magnitude")
    axes.tick_params(labelleft=False)
    axes.spines[["top", "right"]].set_visible(False)


def _token_labels(axes: Axes, attribution: Attribution) -> None:
    tokens = attribution.tokens
    named = list(range(len(tokens)))
    if len(tokens) > _MOST_LABELS:
        apart = len(tokens) / _MOST_LABELS
        named = []
        for i in ranking(attribution.scores.tolist(), attribution.special):
            if all(abs(i - other) >= apart for other in named):
                named.append(i)
            if len(named) == _MOST_LABELS // 2:
                break
    axes.set_xticks(
        named,
        [_drawable(_shortened(visible(tokens[i]), 16)) for i in named],
        rotation=90,
        fontsize=6.5,
        parse_math=False,
        fontfamily=_families(),
    )


def _unknown_runs(row: list[float]) -> list[tuple[int, int]]:
    """Half-open ranges of consecutive columns without a relative score."""
    runs: list[tuple[int, int]] = []
    for i, value in enumerate(row):
        if math.isnan(value):
            if runs and runs[-1][1] == i:
                runs[-1] = (runs[-1][0], i + 1)
            else:
                runs.append((i, i + 1))
    return runs


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _drawable(text: str) -> str:
    """The text with □ for every character that none of the fonts has, so that nothing is warned about later."""
    known = _characters()
    return "".join(character if ord(character) in known or character == "\n" else _MISSING for character in text)


@cache
def _families() -> list[str]:
    return [family for family, _ in _installed()]


@cache
def _characters() -> frozenset[int]:
    from matplotlib.font_manager import get_font

    return frozenset().union(*(get_font(path).get_charmap() for _, path in _installed()))


@cache
def _installed() -> list[tuple[str, str]]:
    from matplotlib.font_manager import fontManager

    paths = {font.name: font.fname for font in reversed(fontManager.ttflist) if font.style == "normal"}
    return [(family, paths[family]) for family in _FAMILIES if family in paths]
