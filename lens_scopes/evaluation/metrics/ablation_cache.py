"""One passage under one ablation: which tokens are ablated, what it does, and nothing computed twice."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_scopes.engine.token_ablation import AblatedPrompt, Outcomes


class AblationCache:
    """The outcomes of ablating sets of tokens of one prompt, kept for all the methods and metrics that ask for them.

    Args:
        ablated: the prompt with its ablation.
        seed: of the random sets of tokens.
        within: the tokens [start, stop) that alone are eligible; None for all that are not special.
    """

    def __init__(self, ablated: AblatedPrompt, seed: int, within: tuple[int, int] | None = None) -> None:
        self.ablated = ablated
        self.seed = seed
        part = range(len(ablated.token_ids)) if within is None else range(*within)
        self.eligible = torch.tensor([index for index in ablated.eligible if index in part])
        self._known: dict[bytes, Tensor] = {}

    @property
    def clean_log_probability(self) -> float:
        """log p(target) of the whole prompt, in nats."""
        return self.ablated.clean_log_probability

    @cached_property
    def leave_one_out(self) -> Outcomes:
        """Each eligible token ablated alone."""
        return self.outcomes(self.masks([[index] for index in range(len(self.eligible))]))

    def masks(self, sets: Sequence[Sequence[int]]) -> Bool[Tensor, "row pos"]:
        """Masks of sets of eligible tokens, which are counted without all others."""
        masks = torch.zeros(len(sets), len(self.ablated.token_ids), dtype=torch.bool)
        for row, tokens in enumerate(sets):
            masks[row, self.eligible[list(tokens)]] = True
        return masks

    def outcomes(self, masks: Bool[Tensor, "row pos"]) -> Outcomes:
        """The prediction after each set of tokens is ablated; sets that were asked for before are not run again."""
        keys = [mask.numpy().tobytes() for mask in masks]
        new = {key: row for row, key in enumerate(keys) if key not in self._known}
        # Sets that several methods rank first are common, and so run once.
        if new:
            after = self.ablated.outcomes(masks[list(new.values())])
            values = torch.stack([after.log_probability, after.probability, after.logit, after.divergence], dim=1)
            self._known.update(zip(new, values, strict=True))
        log_probability, probability, logit, divergence = torch.stack([self._known[key] for key in keys], dim=1)
        return Outcomes(log_probability, probability, logit, divergence)

    @cached_property
    def random_sets(self) -> tuple[Bool[Tensor, "row pos"], Outcomes]:
        """Random sets of up to half of the eligible tokens, with what ablating them does."""
        generator = torch.Generator().manual_seed(self.seed)
        count = len(self.eligible)
        sets = []
        for _ in range(_RANDOM_SETS):
            size = int(torch.randint(1, max(2, count // 2 + 1), (1,), generator=generator))
            sets.append(torch.randperm(count, generator=generator)[:size].tolist())
        masks = self.masks(sets)
        return masks, self.outcomes(masks)


_RANDOM_SETS = 64


def ranking(scores: Float[Tensor, " n"]) -> list[int]:
    """Indices from the highest score to the lowest; of equal ones the earlier comes first."""
    return torch.argsort(scores, descending=True, stable=True).tolist()


def count_of(fraction: float, n: int) -> int:
    """How many of n tokens a fraction of them is: rounded, at least one unless the fraction is 0, at most all."""
    return 0 if fraction == 0 else min(n, max(1, round(fraction * n)))
