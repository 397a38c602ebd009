"""A benchmark as a figure: for each section a bar a case, as a multiple of the section's unit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmark.terminal import seconds
from lens_scopes.errors import PromptError
from lens_scopes.views.figures.style import COLUMN_INCHES, INK, QUIET, STYLE, head_line, paper
from lens_scopes.views.words.colour import POSITIVE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from benchmark.results import Benchmark, Section

_OTHERS = ("paper-style", "captum", "paper", "separate", "one by one")


def benchmark_figure(benchmark: Benchmark, *, width: float = COLUMN_INCHES) -> Figure:
    """Bars of the time of every case over that of its section's unit, on a logarithmic scale; what one would use
    instead is hatched.

    Args:
        benchmark: what to draw; sections with ratios only.
        width: in inches.

    Raises:
        PromptError: when no section has a ratio.
    """
    import matplotlib

    sections = [section for section in benchmark.sections.values() if _bars(section)]
    if not sections:
        raise PromptError("the benchmark holds no ratio to draw; run --only scopes, batch or matrix.")
    rows = [len(_bars(section)) for section in sections]
    with matplotlib.rc_context(STYLE):
        drawn = paper(width, 0.5 + 0.17 * sum(rows) + 0.42 * len(rows))
        panels = drawn.subplots(len(sections), 1, squeeze=False, height_ratios=rows)[:, 0]
        for axes, section in zip(panels, sections, strict=True):
            _panel(axes, section)
        machine = benchmark.machine
        place = machine["accelerator"] or f"{machine['processor']}, {machine['threads']} threads"
        head_line(drawn, (f"Time as a multiple of the first row that is 1, {place}",))
    return drawn


def _bars(section: Section) -> list[tuple[str, float]]:
    ratios = [(item.name, section.ratio(item.name)) for item in section.measurements]
    found = [(name, ratio) for name, ratio in ratios if ratio is not None]
    return found if len(found) > 1 else []


def _panel(axes: Axes, section: Section) -> None:
    bars = _bars(section)
    names = [name for name, _ in bars]
    values = [ratio for _, ratio in bars]
    other = [any(word in name for word in _OTHERS) for name in names]
    drawn = axes.barh(
        range(len(bars)), values, height=0.7, color=["white" if is_other else POSITIVE for is_other in other]
    )
    for bar, is_other in zip(drawn, other, strict=True):
        bar.set_edgecolor(QUIET if is_other else POSITIVE)
        bar.set_linewidth(0.5)
        bar.set_hatch("////" if is_other else "")
    for row, (name, ratio) in enumerate(bars):
        time = section.seconds(name)
        label = f" {ratio:.2f}" + ("" if time is None else f"  ({seconds(time)})")
        axes.text(ratio, row, label, va="center", ha="left", color=INK, fontsize=6)
    axes.axvline(1, color=QUIET, linewidth=0.6)
    axes.set_yticks(range(len(bars)), names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(min(*values, 1) / 1.6, max(values) * 3.2)
    axes.tick_params(length=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(section.title, loc="left", fontsize=7, color=INK)
