"""Chance: scores that know nothing of the model."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.final_state import FinalState
from lens_scopes.engine.model import ScopedModel
from lens_scopes.errors import check_seed
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.scopes.comparisons.baseline import Baseline


@dataclass(frozen=True)
class RandomScores(Baseline):
    """Scores drawn evenly from [0, 1): what chance gives. Other prompts get other draws.

    Args:
        seed: of the draws; the global generator is not touched.

    Example:
        >>> prompt = "The capital of France is"
        >>> first, again = (ls.attribute(model, prompt, ls.RandomScores(seed=7)).scores for _ in range(2))
        >>> torch.equal(first, again)
        True
    """

    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", check_seed(self.seed))

    scope: ClassVar[str] = "random"
    output: ClassVar[str] = "nothing: chance"
    equation: ClassVar[str] = "score_t ~ U[0, 1)"
    process: ClassVar[str] = "none"
    held: ClassVar[str] = "nothing"

    def scores(self, model: ScopedModel, prompt: Prompt, states: Sequence[FinalState]) -> Float[Tensor, " pos"]:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed}:{list(prompt.token_ids)}".encode()))
        return torch.rand(len(prompt), generator=generator, dtype=torch.float32).to(states[0].y.dtype)
