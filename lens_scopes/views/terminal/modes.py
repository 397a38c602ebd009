"""A mode inspection in the terminal: each mode as a contrast, and what the strongest words do, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from lens_scopes.views.terminal.parts import (
    ScoreStyle,
    TerminalView,
    add_gap,
    blocks,
    folded,
    grid,
    heading,
    right,
    warning_lines,
)
from lens_scopes.views.words.attribution import number, prompt_text
from lens_scopes.views.words.modes import (
    Contrast,
    contrasts,
    modes_caveat,
    modes_data_warnings,
    modes_interpretation,
    strongest_replacements,
    weighted_amounts,
)
from lens_scopes.views.words.numbers import short_number
from lens_scopes.views.words.token_text import inline_token, printable_token

if TYPE_CHECKING:
    from lens_scopes.results.modes import ModeInspection, TokenReplacement
_MAX_WORDS = 6


class ModesReport(TerminalView["ModeInspection"]):
    """A rich renderable of a mode inspection; fits the width of the console it is printed on."""

    def parts(self, styles: ScoreStyle, width: int) -> Iterator[RenderableType]:
        modes = self.result
        yield heading(f"Fisher modes, rank {len(modes.modes)}", modes)
        yield Text(prompt_text(modes))
        yield from warning_lines((*modes.warnings, *modes_data_warnings(modes)))
        yield add_gap(Text(modes_interpretation(), "dim"))
        for contrast in contrasts(modes):
            yield add_gap(_contrast(contrast, styles, width))
        yield add_gap(Text(styles.drop_colours(modes_caveat(modes)), "dim"))
        yield add_gap(_words(modes, strongest_replacements(modes)[:_MAX_WORDS], styles))


def _contrast(contrast: Contrast, styles: ScoreStyle, width: int, most: int = 6) -> RenderableType:
    """The tokens that rise above those that fall, each with its change."""
    rising = [shift for shift in contrast.shifts if shift.change > 0][: most // 2]
    falling = [shift for shift in contrast.shifts if shift.change < 0][-(most // 2) :]
    table = grid(folded(max_width=max(10, width // 3)), right(), "")
    for shift in (*rising, *falling):
        table.add_row(
            Text(printable_token(shift.token)),
            Text(f"{'+' if shift.change > 0 else ''}{short_number(shift.change)}"),
            Text(
                blocks(abs(shift.change) / contrast.largest, max(4, min(24, width - 40))),
                styles.bar_style(shift.change),
            ),
        )
    head = Text.assemble((f"mode {contrast.index}", "bold"), (f"  λ = {number(contrast.eigenvalue)}", "dim"))
    if not (rising or falling):
        none = "no probability changes along it" if contrast.resolved else "too small to be resolved, so not decoded"
        return Group(head, Text(none, "dim"))
    return Group(head, table)


def _words(modes: ModeInspection, replacements: list[TokenReplacement], styles: ScoreStyle) -> RenderableType:
    amounts = dict(zip((item.index for item in modes.replacements), weighted_amounts(modes), strict=True))
    parts: list[RenderableType] = [Text("what replacing each word does, the strongest first", "dim")]
    for item in replacements:
        parts.append(Text(inline_token(item.sentence()), "bold"))
        line = Text("  along the modes ", "dim")
        for index, amount in enumerate(amounts[item.index], start=1):
            sign = "+" if amount > 0 else ""
            line.append(f" {index}: ", "dim").append(f"{sign}{short_number(amount)}", styles.bar_style(amount))
        line.append(
            f"   KL predicted {short_number(item.predicted_nats)}, actual {short_number(item.actual_nats)} nats;"
            f" agreement {short_number(item.agreement)}",
            "dim",
        )
        parts.append(line)
    if not replacements:
        parts.append(Text("no word has an effect that is a number", "dim"))
    return Group(*parts)
