"""The answer that an attribution explains, with its probability token by token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class AnswerRecord:
    """An answer, teacher-forced.

    Attributes:
        tokens: its tokens as strings.
        token_ids: their ids.
        log_probabilities: log P(token | prompt and the answer's tokens before it), in nats, ≤ 0.
        generated: whether the model chose the tokens, each its most probable one; else they were given.
    """

    aligned: ClassVar[dict[str, tuple[str, ...]]] = {"answer": ("tokens", "token_ids", "log_probabilities")}
    """As `Result.aligned`."""

    tokens: list[str]
    token_ids: list[int]
    log_probabilities: list[float]
    generated: bool = False

    @property
    def text(self) -> str:
        """The answer as text."""
        return "".join(self.tokens)

    @property
    def log_probability(self) -> float:
        """log P(answer | prompt), in nats."""
        return sum(self.log_probabilities)
