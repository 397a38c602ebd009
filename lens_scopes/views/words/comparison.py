"""The words of a comparison of two attributions, for all views."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lens_scopes.views.words.attribution import data_warnings, quantity_of, title
from lens_scopes.views.words.numbers import number
from lens_scopes.views.words.token_text import inline_token

if TYPE_CHECKING:
    from lens_scopes.results.comparison import ComparedToken, Comparison


def change_unit(comparison: Comparison) -> str:
    """What `ComparedToken.change` is a difference of."""
    if comparison.same_unit:
        return f"B − A in scores: {quantity_of(comparison.a)}"
    return "B − A of scores relative to the strongest token of each, since the two have different units"


def side_lines(comparison: Comparison) -> list[tuple[str, str, str]]:
    """Of each side its letter, its objective with the model, and its prompt with what follows."""
    lines = []
    for letter, side in zip("AB", (comparison.a, comparison.b), strict=True):
        model = inline_token(str(side.model.get("name", "a model")))
        lines.append((letter, f"{inline_token(side.objective)} on {model}", title(side)))
    return lines


def comparison_warnings(comparison: Comparison) -> list[str]:
    """The warnings of both sides, each once."""
    sides = (comparison.a, comparison.b)
    return list(dict.fromkeys(sentence for side in sides for sentence in (*side.warnings, *data_warnings(side))))


def change_text(pair: ComparedToken) -> str:
    """The change with its sign, or a dash."""
    if pair.change is None:
        return "—"
    sign = "−" if pair.change < 0 else "+" if pair.change else ""
    return f"{sign}{number(abs(pair.change))}"


def whose(pair: ComparedToken) -> str:
    """Where a token is that has no change; empty where both texts have it."""
    if pair.special:
        return "outside the scale"
    return "only in A" if pair.b is None else "only in B" if pair.a is None else ""


def pair_text(pair: ComparedToken) -> str:
    """What is said of a pair: its scores and its change."""
    scores = [
        f"{letter} {number(score)}" for letter, score in (("A", pair.score_a), ("B", pair.score_b)) if score is not None
    ]
    told = [*scores, whose(pair) or f"B − A {change_text(pair)}"]
    return f"“{inline_token(pair.token).strip() or inline_token(pair.token)}”: {', '.join(told)}"
