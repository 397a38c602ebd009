"""A benchmark in the terminal: one table a section, and the targets as met or missed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from lens_scopes.views.terminal.parts import Brush, TerminalView, spaced

if TYPE_CHECKING:
    from benchmark.results import Benchmark, Section
    from benchmark.targets import Verdict


class BenchmarkReport(TerminalView):
    """A rich renderable of a benchmark; fits the width of the console it is printed on."""

    def __init__(self, benchmark: Benchmark, *, on_dark: bool | None = None) -> None:
        super().__init__(on_dark=on_dark)
        self.benchmark = benchmark

    def parts(self, brush: Brush, width: int) -> Iterator[RenderableType]:
        machine = self.benchmark.machine
        place = machine["accelerator"] or f"{machine['processor']}, {machine['threads']} threads"
        yield Text.assemble(("Benchmark", "bold"), (f"  {place}", "dim"))
        for section in self.benchmark.sections.values():
            yield spaced(_table(section))
            for verdict in section.verdicts():
                yield _line(verdict)


def print_benchmark(benchmark: Benchmark, console: Console | None = None) -> None:
    """Print a benchmark to a terminal; see `BenchmarkReport`."""
    (console or Console()).print(BenchmarkReport(benchmark))


def seconds(value: float) -> str:
    """A time in the unit that suits it."""
    return f"{value * 1000:.0f} ms" if value < 0.9995 else f"{value:.2f} s"


def _table(section: Section) -> Table:
    table = Table(title=section.title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for name in ("time", "ratio", "turns", "extra memory") if section.measurements else ("",):
        table.add_column(name, justify="right", no_wrap=True)
    for item in section.measurements:
        ratio = section.ratio(item.name)
        table.add_row(
            f"{item.name} ({item.note})" if item.note else item.name,
            "–" if item.seconds is None else seconds(item.seconds),
            "–" if ratio is None else f"{ratio:.2f}",
            str(len(item.times)),
            "–" if item.peak_bytes is None else f"{item.peak_bytes / 1e9:.2f} GB",
        )
    for name, value in section.figures.items():
        table.add_row(name, f"{value:.5g}")
    return table


def _line(verdict: Verdict) -> Text:
    if verdict.met is None or verdict.reached is None:
        return Text(f"  ?       {verdict.target}: not measured", "dim")
    reached = f"{verdict.reached / 1e9:.2f} GB" if verdict.reached > 1e6 else f"{verdict.reached:.4g}"
    mark, style = ("met", "green") if verdict.met else ("missed", "yellow")
    return Text.assemble((f"  {mark:7} ", style), f"{verdict.target}: {reached}")
