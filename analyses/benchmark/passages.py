"""Prompts: neutral stories generated from a few parts, the same in every run; and natural text for long ones."""

from __future__ import annotations

import random
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_WHO = (
    "the gardener",
    "a teacher",
    "the old captain",
    "my neighbour",
    "the baker",
    "a young engineer",
    "the librarian",
)
_DID = ("repaired", "looked for", "carried", "described", "painted", "forgot about", "sold", "returned")
_WHAT = ("the wooden boat", "a box of letters", "the garden gate", "two silver spoons", "the map", "a broken clock")
_WHERE = ("near the harbour", "behind the station", "in the small kitchen", "across the river", "at the market")
_WHEN = ("in the morning", "before the rain", "after dinner", "on the last day of May", "while everyone was asleep")


def generated_passages(count: int, seed: int = 0) -> list[str]:
    """`count` short stories of five to nine sentences, 60 to 130 tokens in most vocabularies."""
    generator = random.Random(seed)
    return [_story(generator, generator.randint(5, 9)) for _ in range(count)]


def long_text(words: int, seed: int = 0) -> str:
    """A story of at least `words` words."""
    generator = random.Random(seed)
    return _story(generator, words // 10 + 1)


def natural_text() -> str:
    """The project's own texts, some 30,000 tokens. Of repeated sentences scores hardly differ, and any two
    implementations differ by their rounding."""
    names = ("README.md", "analyses/README.md", "analyses/LOG.md")
    return "\n".join((_ROOT / name).read_text(encoding="utf-8") for name in names)


def _story(generator: random.Random, sentences: int) -> str:
    return " ".join(_sentence(generator) for _ in range(sentences))


def _sentence(generator: random.Random) -> str:
    who, did, what, where, when = (generator.choice(part) for part in (_WHO, _DID, _WHAT, _WHERE, _WHEN))
    text = generator.choice((f"{when} {who} {did} {what} {where}.", f"{who} {did} {what} {where} {when}."))
    return text[0].upper() + text[1:]
