"""The sections of a benchmark as tables in the terminal, with the goals as met or missed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmark.results import place


def print_sections(sections: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints plain sections, as `Section.to_dict` makes them: one table each, then their goals."""
    console = console or Console()
    for section in sections.values():
        console.print(_table(section), soft_wrap=False)
        for result in section["goal_results"]:
            console.print(_goal_line(result))
        console.print()


def seconds_text(value: float) -> str:
    """A time in the unit that suits it."""
    return f"{value * 1000:.0f} ms" if value < 0.9995 else f"{value:.2f} s"


def _table(section: Mapping[str, Any]) -> Table:
    settings, yardsticks = section["settings"], section["yardsticks"]
    clock = f", {settings['clock']} time" if "clock" in settings else ""
    title = f"{section['title']} ({place(section['environment'])}{clock})"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    columns = ("time", "rounds", "spread", *(f"÷ {letter}" for letter in "AB"[: len(yardsticks)]), "extra memory")
    for column in columns if section["measurements"] else ("",):
        table.add_column(column, justify="right", no_wrap=True)
    for item in section["measurements"]:
        letter = f"{'AB'[yardsticks.index(item['name'])]} = " if item["name"] in yardsticks else ""
        ratios = [item["ratios"][yardstick] for yardstick in yardsticks]
        table.add_row(
            letter + (f"{item['name']} ({item['note']})" if item["note"] else item["name"]),
            "–" if item["seconds"] is None else seconds_text(item["seconds"]),
            str(len(item["times"])),
            "–" if item["seconds"] is None else f"{(max(item['times']) - min(item['times'])) / item['seconds']:.0%}",
            *("–" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
            "–" if item["peak_bytes"] is None else f"{item['peak_bytes'] / 1e9:.2f} GB",
        )
    for name, value in section["numbers"].items():
        table.add_row(name, f"{value:.5g}")
    return table


def _goal_line(result: Mapping[str, Any]) -> Text:
    if result["value"] is None:
        return Text(f"  ?       {result['goal']}: not measured", "dim")
    value = f"{result['value'] / 1e9:.2f} GB" if result["value"] > 1e6 else f"{result['value']:.4g}"
    mark, style = ("met", "green") if result["is_met"] else ("missed", "yellow")
    return Text.assemble((f"  {mark:7} ", style), f"{result['goal']}: {value}")
