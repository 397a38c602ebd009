"""Comparison: two attributions, token beside token."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lens_scopes.prompts.alignment import differences
from lens_scopes.results.attribution import Attribution, relative_scores
from lens_scopes.results.base import UNIT_SETTINGS, Viewable
from lens_scopes.results.storage.writing import data_frame

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class ComparedToken:
    """A token of one text or of both; what a text lacks is None.

    Attributes:
        a, b: index in the first and in the second text.
        token: its string.
        special: whether it is a special token.
        score_a, score_b: its scores.
        change: of the second minus the first: of scores in one unit, else of scores relative to the strongest token of
            each text; None without two of them.
    """

    a: int | None
    b: int | None
    token: str
    special: bool
    score_a: float | None
    score_b: float | None
    change: float | None


@dataclass(frozen=True, eq=False)
class Comparison(Viewable):
    """Two attributions, token beside token, aligned by a longest common sequence.

    Attributes:
        a, b: the two.

    Example:
        >>> paris, rome = (ls.attribute(model, "The capital of France is", ls.Semantic(t)) for t in (" Paris", " Rome"))
        >>> comparison = paris.compare(rome)
        >>> comparison.same_unit, comparison.to_pandas().columns.tolist()
        (True, ['a', 'b', 'token', 'special', 'score_a', 'score_b', 'change'])
    """

    a: Attribution
    b: Attribution

    def __repr__(self) -> str:
        changes = [pair for pair in self.pairs if pair.change is not None]
        leading = sorted(changes, key=lambda pair: -abs(pair.change or 0.0))[:3]
        named = ", ".join(f"{pair.token!r} {pair.change:+.3g}" for pair in leading)
        return f"Comparison({self.a.objective} and {self.b.objective}; largest changes: {named or 'none'})"

    @property
    def same_unit(self) -> bool:
        """Whether the scores of both are in one unit, which scope, readout and place decide."""
        alike = all(self.a.settings.get(name) == self.b.settings.get(name) for name in UNIT_SETTINGS)
        return self.a.scope == self.b.scope and alike

    @cached_property
    def pairs(self) -> list[ComparedToken]:
        """The tokens of both texts in the order of the first, and what the second has in their place."""
        pairs, at = [], (0, 0)
        length = len(self.a.tokens)
        stretches = differences(self.a.token_ids, self.b.token_ids)
        for start, stop, other_start, other_stop in [*stretches, (length, length, len(self.b.tokens), 0)]:
            # What both have, then what stands in its place in each.
            places = [*zip(range(at[0], start), range(at[1], other_start), strict=True)]
            places += [(i, None) for i in range(start, stop)]
            places += [(None, j) for j in range(other_start, other_stop)]
            at = (stop, other_stop)
            pairs += [self._pair(i, j) for i, j in places]
        return pairs

    def _pair(self, i: int | None, j: int | None) -> ComparedToken:
        source, index = (self.b, j) if i is None else (self.a, i)
        assert index is not None
        special = source.special[index]
        before, after = self._values[0][i] if i is not None else None, self._values[1][j] if j is not None else None
        change = None if special or before is None or after is None else after - before
        return ComparedToken(
            a=i,
            b=j,
            token=source.tokens[index],
            special=special,
            score_a=None if i is None else float(self.a.scores[i]),
            score_b=None if j is None else float(self.b.scores[j]),
            change=change if change is not None and math.isfinite(change) else None,
        )

    @cached_property
    def _values(self) -> list[list[float | None]]:
        """What changes are differences of, for each side."""
        sides = [(side.scores.tolist(), side.special) for side in (self.a, self.b)]
        if self.same_unit:
            return [scores for scores, _ in sides]
        relative = [relative_scores(scores, special) for scores, special in sides]
        return [
            [None if part is None else math.copysign(part, score) for part, score in zip(parts, scores, strict=True)]
            for parts, (scores, _) in zip(relative, sides, strict=True)
        ]

    @property
    def tokens(self) -> list[str]:
        """The tokens of the pairs."""
        return [pair.token for pair in self.pairs]

    @property
    def special(self) -> list[bool]:
        """Which of the pairs are of special tokens."""
        return [pair.special for pair in self.pairs]

    @property
    def contract(self) -> dict[str, str]:
        """The five elements of the claim; where the two differ, those of both."""
        other = self.b.contract
        return {
            name: text if other.get(name) == text else f"A: {text}. B: {other.get(name)}"
            for name, text in self.a.contract.items()
        }

    def to_pandas(self) -> pandas.DataFrame:
        """One row per pair: a, b, token, special, score_a, score_b, change."""
        return data_frame([asdict(pair) for pair in self.pairs])

    def to_dict(self) -> dict[str, Any]:
        """Both attributions, the pairs under `tokens`, and whether the two have one unit, as plain values."""
        return {
            "a": self.a.to_dict(),
            "b": self.b.to_dict(),
            "tokens": [asdict(pair) for pair in self.pairs],
            "same_unit": self.same_unit,
        }
