"""A mode inspection in the terminal: each mode as a contrast, and what the strongest words do, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from lens_scopes.views.terminal.parts import (
    ScoreStyle,
    TerminalView,
    blocks,
    folded,
    grid,
    heading,
    right,
    spaced,
    warning_lines,
)
from lens_scopes.views.words.attribution import number, prompt_text
from lens_scopes.views.words.modes import (
    Contrast,
    contrasts,
    modes_caveat,
    modes_data_warnings,
    modes_interpretation,
    strongest_removals,
    weighted_amounts,
)
from lens_scopes.views.words.numbers import short_number
from lens_scopes.views.words.token_text import inline_token, printable_token

if TYPE_CHECKING:
    from lens_scopes.results.modes import ModeInspection, TokenReplacement


class ModesReport(TerminalView["ModeInspection"]):
    """A rich renderable of a mode inspection; fits the width of the console it is printed on.

    Args:
        result: what to show.
        most: how many words are told about.
        on_dark: colours for a dark terminal background; None asks the terminal.
    """

    def __init__(self, result: ModeInspection, *, most: int = 6, on_dark: bool | None = None) -> None:
        super().__init__(result, on_dark=on_dark)
        self.most = most

    def parts(self, styles: ScoreStyle, width: int) -> Iterator[RenderableType]:
        modes = self.result
        yield heading(f"Fisher modes, rank {len(modes.modes)}", modes)
        yield Text(prompt_text(modes))
        yield from warning_lines((*modes.warnings, *modes_data_warnings(modes)))
        yield spaced(Text(modes_interpretation(), "dim"))
        for contrast in contrasts(modes):
            yield spaced(_contrast(contrast, styles, width))
        yield spaced(Text(styles.told(modes_caveat(modes)), "dim"))
        yield spaced(_words(modes, strongest_removals(modes)[: self.most], styles, width))


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


def _words(
    modes: ModeInspection, replacements: list[TokenReplacement], styles: ScoreStyle, width: int
) -> RenderableType:
    amounts = dict(zip((removal.index for removal in modes.replacements), weighted_amounts(modes), strict=True))
    parts: list[RenderableType] = [Text("what replacing each word does, the strongest first", "dim")]
    for removal in replacements:
        parts.append(Text(inline_token(removal.sentence()), "bold"))
        line = Text("  along the modes ", "dim")
        for index, amount in enumerate(amounts[removal.index], start=1):
            sign = "+" if amount > 0 else ""
            line.append(f" {index}: ", "dim").append(f"{sign}{short_number(amount)}", styles.bar_style(amount))
        line.append(
            f"   KL predicted {short_number(removal.predicted_nats)}, actual {short_number(removal.actual_nats)} nats;"
            f" agreement {short_number(removal.agreement)}",
            "dim",
        )
        parts.append(line)
    if not replacements:
        parts.append(Text("no word has an effect that is a number", "dim"))
    return Group(*parts)
