"""The words and numbers of a source × target matrix, for all its views."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lens_scopes.views.words.attribution import ranking
from lens_scopes.views.words.colour import scale_of
from lens_scopes.views.words.token_text import printable_token

if TYPE_CHECKING:
    import pandas

    from lens_scopes.engine.final_state import PredictedToken
    from lens_scopes.results.matrix import AttributionMatrix


@dataclass(frozen=True)
class PredictionLine:
    """One row of the matrix: what was predicted after a token, and from which tokens.

    Args:
        dest: the position of the token.
        after: the token.
        explained: the token that the row's objective is about, or the model's own where it is about none.
        predicted: the model's most probable token.
        scores: by source, up to `dest`.
        sources: indices of the strongest, outside the special ones.
    """

    dest: int
    after: str
    explained: PredictedToken
    predicted: PredictedToken
    scores: list[float]
    sources: list[int]


def prediction_lines(matrix: AttributionMatrix, most: int = 3) -> list[PredictionLine]:
    """One line per destination, in the order of the text."""
    lines = []
    rows = matrix.matrix.tolist()
    for row, dest, target, predicted in zip(rows, matrix.destinations, matrix.targets, matrix.predicted, strict=True):
        scores = row[: dest + 1]
        lines.append(
            PredictionLine(
                dest=dest,
                after=matrix.tokens[dest],
                explained=target or predicted,
                predicted=predicted,
                scores=scores,
                sources=ranking(scores, matrix.special[: dest + 1])[:most],
            )
        )
    return lines


def relative_rows(rows: Sequence[Sequence[float]], special: Sequence[bool]) -> list[list[float]]:
    """Each row over its largest magnitude outside the special tokens; NaN for those and for what is not finite."""
    relative = []
    for row in rows:
        scale = scale_of(row, special)
        relative.append([math.nan if special[i] else scale.relative(score) for i, score in enumerate(row)])
    return relative


def row_name(line: PredictionLine, most: int = 10) -> str:
    """`18 ␣the → ␣sofa`, the tokens shortened."""
    return prediction_name(line.dest, line.after, line.explained.token, most)


def prediction_name(dest: int, after: str, explained: str, most: int = 10) -> str:
    """`18 ␣the → ␣sofa` of a position, the token there and the token explained, both shortened."""
    return f"{dest} {_short(after, most)} → {_short(explained, most)}"


def explained_spans(totals: pandas.DataFrame) -> list[tuple[str, list[float]]]:
    """The rows of span totals, without spans of which no prediction was explained."""
    names = [str(name) for name in totals.index]
    rows = zip(names, totals.to_numpy().tolist(), strict=True)
    return [(name, row) for name, row in rows if not all(map(math.isnan, row))]


def matrix_data_warnings(matrix: AttributionMatrix) -> list[str]:
    """Sentences on rows that a picture cannot show: not finite, all zero. Usually empty."""
    notes = []
    lines = prediction_lines(matrix)
    broken = [line.dest for line in lines if not all(map(math.isfinite, line.scores))]
    if broken:
        notes.append(f"Predictions with scores that are not finite (NaN or infinite): {_places(broken)}.")
    counted = [line for line in lines if not all(matrix.special[: line.dest + 1])]
    zero = [line.dest for line in counted if line.dest not in broken and not line.sources]
    if zero and len(zero) == len(counted):
        notes.append(
            "Every score is exactly zero: within this objective and path no token has a first-order influence."
        )
    elif zero:
        notes.append(f"Predictions on which no token has an influence: {_places(zero)}.")
    return notes


def _places(positions: Sequence[int], most: int = 8) -> str:
    more = len(positions) - most
    shown = ", ".join(map(str, positions[:most]))
    return f"after position {shown}" + (f" and {more} more" if more > 0 else "")


def _short(token: str, most: int) -> str:
    text = printable_token(token)
    return text if len(text) <= most else text[: most - 1] + "…"
