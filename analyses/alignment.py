"""Word alignments: gold ones from data/alignments.json, links read from score matrices, and their error rate."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from intervals import LEVEL, RESAMPLES

DATA = Path(__file__).resolve().parent / "data" / "alignments.json"
EDGES = ".,"

Link = tuple[int, int]


@dataclass(frozen=True)
class Pair:
    """A sentence in another language with its English translation and gold links [source word, English word].

    Sure links are what a translator would name; possible ones count neither for nor against an alignment.
    """

    name: str
    language: str
    source: str
    english: str
    sure: frozenset[Link]
    possible: frozenset[Link]

    @property
    def source_words(self) -> list[str]:
        """The words of the sentence, punctuation at their edges aside."""
        return [word.strip(EDGES) for word in self.source.split()]

    @property
    def english_words(self) -> list[str]:
        """The words of the translation, likewise."""
        return [word.strip(EDGES) for word in self.english.split()]


def read_pairs() -> tuple[list[Pair], dict[str, list[list[str]]]]:
    """The gold pairs, and for each language the pairs that stand as examples before each of them."""
    data = json.loads(DATA.read_text(encoding="utf-8"))
    pairs = [
        Pair(
            item["id"],
            item["language"],
            item["source"],
            item["english"],
            frozenset((a, b) for a, b in item["sure"]),
            frozenset((a, b) for a, b in item["possible"]),
        )
        for item in data["pairs"]
    ]
    return pairs, data["examples"]


def links(scores: Any, *, contrast: bool) -> set[Link]:
    """For each English word (rows) the source word (columns) of the largest score.

    Args:
        scores: [English word, source word].
        contrast: whether each column is first divided by its mean, so that a source word which scores high for every
            English word does not take all the links.
    """
    scores = np.asarray(scores, dtype=float)
    if contrast:
        scores = scores / np.maximum(scores.mean(0, keepdims=True), 1e-30)
    return {(int(row.argmax()), word) for word, row in enumerate(scores)}


def diagonal(n_source: int, n_english: int) -> set[Link]:
    """Each English word linked to the source word at the same share of the sentence."""
    return {(min(int((word + 0.5) * n_source / n_english), n_source - 1), word) for word in range(n_english)}


def counts(found: set[Link], pair: Pair) -> list[float]:
    """|A ∩ S|, |A ∩ (S ∪ P)|, |A| and |S| for found links A, sure links S and possible ones P."""
    either = pair.sure | pair.possible
    return [len(found & pair.sure), len(found & either), len(found), len(pair.sure)]


def random_counts(pair: Pair) -> list[float]:
    """What `counts` gives on average when each English word is linked to any source word."""
    n_source, n_english = len(pair.source_words), len(pair.english_words)
    either = pair.sure | pair.possible
    return [len(pair.sure) / n_source, len(either) / n_source, n_english, len(pair.sure)]


def error_rate(rows: Sequence[Sequence[float]], seed: int = 0) -> dict[str, Any]:
    """Alignment error rate 1 − (|A ∩ S| + |A ∩ (S ∪ P)|) / (|A| + |S|) over sentences, 0 best and 1 worst, with its
    bootstrap interval over sentences (Och and Ney 2003)."""
    table = np.asarray(rows, dtype=float)

    def rate(sums: Any) -> Any:
        return 1 - (sums[..., 0] + sums[..., 1]) / (sums[..., 2] + sums[..., 3])

    found = {"mean": float(rate(table.sum(0))), "low": None, "high": None, "n": len(table)}
    if len(table) >= 3:
        draws = np.random.default_rng(seed).integers(0, len(table), (RESAMPLES, len(table)))
        low, high = np.quantile(rate(table[draws].sum(1)), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        found |= {"low": float(low), "high": float(high)}
    return found
