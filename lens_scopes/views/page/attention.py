"""Matrices over tokens as CircuitsVis draws them, within the sizes that it can draw without delay.

It labels its charts on a canvas, where a token cannot act on the page; nothing of a canvas is read out, so that every
chart goes with a table of what stands out in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lens_scopes.views.page.circuitsvis import View
from lens_scopes.views.words.colour import NEGATIVE, POSITIVE
from lens_scopes.views.words.token_text import visible

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

MOST_TOKENS_OF_HEADS = 64
MOST_TOKENS_OF_ONE = 200
MOST_HEADS = 12
_MOST_CELLS = 6 * MOST_TOKENS_OF_HEADS**2
_LONGEST_LABEL = 14
_LEAST = 0.005  # of the full colour


def heads_view(
    identifier: str, matrices: Mapping[str, Float[Tensor, "dest src"]], tokens: Sequence[str], bound: float
) -> View:
    """An `AttentionHeads` view of at most `MOST_HEADS` heads over the last `MOST_TOKENS_OF_HEADS` tokens.

    Args:
        identifier: the id of the view.
        matrices: one for each head, by name.
        tokens: those of rows and columns.
        bound: the magnitude that takes the full colour.
    """
    last = min(len(tokens), MOST_TOKENS_OF_HEADS)
    kept = dict(list(matrices.items())[: _most_heads(len(tokens))])
    return View(
        id=identifier,
        component="AttentionHeads",
        props={
            "tokens": _labels(tokens)[-last:],
            "attention": [_cells(matrix[-last:, -last:].tolist(), bound) for matrix in kept.values()],
            "attentionHeadNames": list(kept),
            **_colours(bound),
        },
        lazy=True,
    )


def pattern_view(identifier: str, rows: Sequence[Sequence[float]], tokens: Sequence[str], bound: float) -> View:
    """An `AttentionPattern` view of one matrix over at most `MOST_TOKENS_OF_ONE` tokens, a row for each; rows may be
    empty."""
    return View(
        id=identifier,
        component="AttentionPattern",
        props={"tokens": _labels(tokens), "attention": _cells(rows, bound), **_colours(bound)},
        lazy=True,
    )


def cropping(n_heads: int, n_tokens: int) -> list[str]:
    """What `heads_view` leaves out of this many heads and tokens, in sentences; empty where it shows all."""
    notes = []
    if n_heads > _most_heads(n_tokens):
        notes.append(f"The {_most_heads(n_tokens)} strongest of {n_heads} heads are drawn.")
    if n_tokens > MOST_TOKENS_OF_HEADS:
        notes.append(
            f"The last {MOST_TOKENS_OF_HEADS} of {n_tokens} tokens are drawn, because charts of more are slow; the"
            " table below is of all tokens."
        )
    return notes


def _most_heads(n_tokens: int) -> int:
    return min(MOST_HEADS, _MOST_CELLS // min(n_tokens, MOST_TOKENS_OF_HEADS) ** 2)


def _colours(bound: float) -> dict[str, object]:
    bound = bound or 1.0
    return {"maxValue": bound, "minValue": -bound, "positiveColor": POSITIVE, "negativeColor": NEGATIVE}


def _cells(rows: Sequence[Sequence[float]], bound: float) -> list[list[int | float]]:
    """The lower triangle in three significant digits. Zero leaves a cell blank: what is not finite, and what would be
    white anyway, which makes a chart several times faster."""
    least = _LEAST * (bound or 1.0)
    return [
        [float(f"{value:.3g}") if math.isfinite(value) and abs(value) >= least else 0 for value in row[: dest + 1]]
        for dest, row in enumerate(rows)
    ]


def _labels(tokens: Sequence[str]) -> list[str]:
    texts = [visible(token) for token in tokens]
    return [text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1] + "…" for text in texts]
