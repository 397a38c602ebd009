"""The times of a benchmark as a figure: one panel per section, one dot per case, as multiples of a yardstick."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from benchmark.results import place
from benchmark.table import seconds_text
from lens_scopes.errors import FileError
from lens_scopes.views.figures.style import INK, QUIET, STYLE, head_line, paper
from lens_scopes.views.words.colour import NEGATIVE, POSITIVE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 7.0  # inches
_ROW = 0.155
_COLOURS = {"body": QUIET, "own": POSITIVE, "competitor": NEGATIVE}
_MEANING = {"body": "forward and backward passes alone", "own": "lens_scopes", "competitor": "competitors"}


def benchmark_figure(sections: Mapping[str, Any], *, width: float = _WIDTH) -> Figure:
    """The median time of every case over that of its section's first yardstick, on a logarithmic scale.

    Thin marks are the rounds. Each dot is labelled with its ratio, its time, and its number of rounds.

    Args:
        sections: plain sections, as `Section.to_dict` makes them; those without a yardstick are left out.
        width: in inches.

    Raises:
        FileError: if no section has a ratio.
    """
    import matplotlib

    drawable = [section for section in sections.values() if len(_rows(section)) > 1]
    drawable.sort(key=lambda section: section["settings"]["tokens"])
    if not drawable:
        raise FileError("the benchmark holds no ratio to draw; run --only prompt, batch or matrix.")
    heights = [len(_rows(section)) for section in drawable]
    with matplotlib.rc_context(STYLE):
        figure = paper(width, 0.45 + _ROW * sum(heights) + 0.55 * len(heights))
        panels = figure.subplots(len(drawable), 1, squeeze=False, height_ratios=heights, sharex=True)[:, 0]
        for axes, section in zip(panels, drawable, strict=True):
            _draw_panel(axes, section)
        panels[0].set_xlim(*_limits(drawable))
        handles = [
            matplotlib.lines.Line2D([], [], marker="o", ls="", ms=4, color=_COLOURS[kind], label=meaning)
            for kind, meaning in _MEANING.items()
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=6.5)
        clock = drawable[0]["settings"]["clock"]
        head_line(
            figure,
            (
                f"Median {clock} time of each case, as a multiple of the first row of its panel",
                f"{place(drawable[0]['environment'])}; reference: the steps of the paper's code, written anew",
            ),
        )
    return figure


def _rows(section: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], float]]:
    """The measurements that have a ratio to the first yardstick, with that ratio."""
    if not section["yardsticks"]:
        return []
    ratios = [(item, item["ratios"][section["yardsticks"][0]]) for item in section["measurements"]]
    return [(item, ratio) for item, ratio in ratios if ratio is not None]


def _limits(sections: list[Mapping[str, Any]]) -> tuple[float, float]:
    ratios = [ratio for section in sections for _, ratio in _rows(section)]
    return min(ratios) / 1.2, max(ratios) * 2.2  # room for the label of the largest


def _draw_panel(axes: Axes, section: Mapping[str, Any]) -> None:
    rows = _rows(section)
    axes.axvline(1, color=QUIET, linewidth=0.6, zorder=0)
    for index, (item, ratio) in enumerate(rows):
        unit = item["seconds"] / ratio
        colour = _COLOURS[item["kind"]]
        axes.plot([time / unit for time in item["times"]], [index] * len(item["times"]), "|", ms=5, mew=0.6, c=colour)
        axes.plot([ratio], [index], "o", ms=4, color=colour)
        axes.annotate(
            f"{ratio:.2f}  ({seconds_text(item['seconds'])}, n = {len(item['times'])})",
            (max(time / unit for time in item["times"]), index),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=6,
            color=INK,
            bbox={"boxstyle": "square,pad=0.05", "facecolor": "white", "edgecolor": "none"},
        )
    axes.set_yticks(range(len(rows)), [item["name"] for item, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xscale("log")
    axes.set_xticks([0.5, 1, 2, 5, 10], ["0.5", "1", "2", "5", "10"])
    axes.minorticks_off()
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_title(section["title"], loc="left", fontsize=7, color=INK)
