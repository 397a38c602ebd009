"""The words and numbers of a source × target matrix, and of influence through its generated text, for all views."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lens_scopes.views.words.attribution import ranking
from lens_scopes.views.words.colour import scale_of
from lens_scopes.views.words.numbers import percent
from lens_scopes.views.words.token_text import inline_token, printable_token

if TYPE_CHECKING:
    import pandas

    from lens_scopes.engine.final_state import PredictedToken
    from lens_scopes.results.influence import Segment, TotalInfluence
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


INFLUENCE_CAVEAT = (
    "Shares follow the gradients of each prediction: every generated token's scores, made non-negative and divided by "
    "their sum, are multiplied along each path. They are first order and local at every step, and do not say what else "
    "the model would have written: leave a sentence out and generate again to see that."
)


def influence_summary(influence: TotalInfluence) -> str:
    """How much reaches the target by itself, and how much through what was generated before it."""
    direct = float(influence.direct.sum())
    leak = f"; {percent(influence.leak)} leads nowhere" if influence.leak > 1e-6 else ""
    return (
        f"{percent(direct)} of the influence on {target_name(influence)} comes from the prompt directly, the other "
        f"{percent(max(0.0, 1 - direct - influence.leak))} through generated text{leak}."
    )


def target_name(influence: TotalInfluence, most: int = 60) -> str:
    """The target's text in quotes, shortened."""
    text = " ".join(inline_token(influence.target_text).split())
    return f"“{text if len(text) <= most else text[: most - 1] + '…'}”"


def segment_names(influence: TotalInfluence, segments: Sequence[Segment]) -> list[str]:
    """A short name for each segment: `prompt 1`, `sentence 2`, and that of the target."""
    target = influence.of if influence.of in ("answer", "generated") else "target"
    by_token = all(segment.stop - segment.start == 1 for segment in segments)
    noun = "token" if by_token else "sentence"
    names, counts = [], {"prompt": 0, noun: 0}
    for segment in segments:
        if (segment.start, segment.stop) == influence.target:
            names.append(target)
        elif influence.special[segment.start] and segment.stop - segment.start == 1:
            names.append(inline_token(influence.tokens[segment.start]))
        else:
            kind = noun if segment.generated else "prompt"
            counts[kind] += 1
            names.append(f"{kind} {counts[kind]}")
    return names


def _places(positions: Sequence[int], most: int = 8) -> str:
    more = len(positions) - most
    text = ", ".join(map(str, positions[:most]))
    return f"after position {text}" + (f" and {more} more" if more > 0 else "")


def _short(token: str, most: int) -> str:
    text = printable_token(token)
    return text if len(text) <= most else text[: most - 1] + "…"
