"""Two attributions token by token: which tokens stand beside each other, and how much more each has in the second."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lens_scopes.prompts.alignment import differences
from lens_scopes.results.base import UNIT_SETTINGS
from lens_scopes.views.words.attribution import quantity_of, rows

if TYPE_CHECKING:
    from lens_scopes.results.attribution import Attribution


@dataclass(frozen=True)
class ComparedToken:
    """A token of one text or of both; what a text lacks is None.

    Attributes:
        a, b: index in the first and in the second text.
        token: its string.
        score_a, score_b: its scores.
        change: of the second minus the first, in the unit that `change_unit` names; None without two of them.
    """

    a: int | None
    b: int | None
    token: str
    special: bool
    score_a: float | None
    score_b: float | None
    change: float | None


def same_unit(first: Attribution, second: Attribution) -> bool:
    """Whether the scores of both are in one unit, which scope, readout and place decide."""
    alike = all(first.settings.get(name) == second.settings.get(name) for name in UNIT_SETTINGS)
    return first.scope == second.scope and alike


def change_unit(first: Attribution, second: Attribution) -> str:
    """What `ComparedToken.change` is a difference of."""
    if same_unit(first, second):
        return f"B − A in scores: {quantity_of(first)}"
    return "B − A of scores relative to the strongest token of each, since the two have different units"


def compared_tokens(first: Attribution, second: Attribution) -> list[ComparedToken]:
    """The tokens of both texts in the order of the first, aligned by a longest common sequence."""
    a, b = rows(first), rows(second)
    alike = same_unit(first, second)
    lines, at = [], (0, 0)
    stretches = differences([line.token_id for line in a], [line.token_id for line in b])
    for start, stop, other_start, other_stop in [*stretches, (len(a), len(a), len(b), len(b))]:
        # What both have, then what stands in its place in each.
        pairs = [*zip(range(at[0], start), range(at[1], other_start), strict=True)]
        pairs += [(i, None) for i in range(start, stop)]
        pairs += [(None, j) for j in range(other_start, other_stop)]
        at = (stop, other_stop)
        for i, j in pairs:
            mine, theirs = None if i is None else a[i], None if j is None else b[j]
            known = mine or theirs
            assert known is not None
            change = None
            if mine is not None and theirs is not None and not known.special:
                before, after = (mine.score, theirs.score) if alike else (mine.relative, theirs.relative)
                if before is not None and after is not None and math.isfinite(after - before):
                    change = after - before
            lines.append(
                ComparedToken(i, j, known.token, known.special, mine and mine.score, theirs and theirs.score, change)
            )
    return lines
