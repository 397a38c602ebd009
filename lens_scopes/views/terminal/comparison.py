"""Two attributions in the terminal, token beside token."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from lens_scopes.views.terminal.parts import ScoreStyle, TerminalView, blocks, spaced, warning_lines
from lens_scopes.views.words.attribution import data_warnings, number, title
from lens_scopes.views.words.comparison import change_unit, compared_tokens
from lens_scopes.views.words.token_text import inline_token, printable_token

if TYPE_CHECKING:
    from lens_scopes.results.attribution import Attribution


class ComparisonReport(TerminalView):
    """A rich renderable of two attributions, A and B; fits the width of the console it is printed on."""

    def __init__(self, first: Attribution, second: Attribution, *, on_dark: bool | None = None) -> None:
        super().__init__(on_dark=on_dark)
        self.sides = (first, second)

    def parts(self, styles: ScoreStyle, width: int) -> Iterator[RenderableType]:
        for name, side in zip("AB", self.sides, strict=True):
            model = inline_token(str(side.model.get("name", "")))
            yield Text.assemble(f"{name}  ", (inline_token(side.objective), "bold"), (f"  {model}", "dim"))
            yield Text(f"   {title(side)}")
            yield from warning_lines((*side.warnings, *data_warnings(side)))
        yield spaced(self._table(styles, width))
        yield Text(change_unit(*self.sides), "dim")

    def _table(self, styles: ScoreStyle, width: int) -> RenderableType:
        lines = compared_tokens(*self.sides)
        largest = max((abs(line.change) for line in lines if line.change is not None), default=0.0)
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
        table.add_column("token", overflow="fold", max_width=max(12, width // 3))
        for column in ("A", "B", "B − A"):
            table.add_column(column, justify="right")
        table.add_column("")
        for line in lines:
            change = line.change
            bar = Text("outside the scale" if line.special else "only in A" if line.b is None else "")
            bar = Text("only in B") if line.a is None else bar
            if change is not None and largest:
                style = styles.negative_bar if change < 0 else styles.bar
                bar = Text(blocks(abs(change) / largest, max(6, min(24, width - 56))), style)
            told = (
                "—"
                if change is None or not math.isfinite(change)
                else f"{'−' if change < 0 else '+'}{number(abs(change))}"
            )
            scores = ["—" if score is None else number(score) for score in (line.score_a, line.score_b)]
            row = [printable_token(line.token), *scores, told]
            table.add_row(*map(Text, row), bar, style="dim" if line.special else "")
        return table
