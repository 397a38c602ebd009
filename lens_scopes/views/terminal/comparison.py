"""Two attributions in the terminal, token beside token."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from lens_scopes.views.terminal.parts import (
    ScoreStyle,
    TerminalView,
    add_gap,
    blocks,
    folded,
    plain_table,
    right,
    warning_lines,
)
from lens_scopes.views.words.attribution import number
from lens_scopes.views.words.comparison import change_text, change_unit, comparison_warnings, side_lines, whose
from lens_scopes.views.words.token_text import printable_token

if TYPE_CHECKING:
    from lens_scopes.results.comparison import Comparison


class ComparisonReport(TerminalView["Comparison"]):
    """A rich renderable of two attributions, A and B; fits the width of the console it is printed on."""

    def parts(self, styles: ScoreStyle, width: int) -> Iterator[RenderableType]:
        for letter, objective, prompt in side_lines(self.result):
            yield Text.assemble(f"{letter}  ", (objective, "bold"))
            yield Text(f"   {prompt}")
        yield from warning_lines(comparison_warnings(self.result))
        yield add_gap(_table(self.result, styles, width))
        yield Text(change_unit(self.result), "dim")


def _table(comparison: Comparison, styles: ScoreStyle, width: int) -> RenderableType:
    pairs = comparison.pairs
    largest = max((abs(pair.change) for pair in pairs if pair.change is not None), default=0.0)
    token = folded("token", max_width=max(12, width // 3))
    table = plain_table(token, right("A"), right("B"), right("B − A"), "")
    for pair in pairs:
        bar = Text(whose(pair))
        if pair.change is not None and largest:
            style = styles.negative_bar if pair.change < 0 else styles.bar
            bar = Text(blocks(abs(pair.change) / largest, max(6, min(24, width - 56))), style)
        scores = ["—" if score is None else number(score) for score in (pair.score_a, pair.score_b)]
        row = [printable_token(pair.token), *scores, change_text(pair)]
        table.add_row(*map(Text, row), bar, style="dim" if pair.special else "")
    return table
