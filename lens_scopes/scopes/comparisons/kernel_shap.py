"""Shapley values of the tokens or segments of a prompt, by random ablations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_scopes.engine.final_state import FinalState
from lens_scopes.engine.model import ScopedModel
from lens_scopes.prompts.groups import segments
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.scopes.comparisons.ablation_method import SubsetAblationMethod, spread
from lens_scopes.scopes.objectives.base import log_probability_of_answer

_MAX_SEGMENTS_OF_ALL = 16  # all subsets of more are never run


@dataclass(frozen=True)
class KernelShap(SubsetAblationMethod):
    """Shapley values of log p: what a token adds to it, averaged over all orders in which tokens are put back.

    Subsets S are drawn with the Shapley kernel, p(S) ∝ 1 / (C(n, |S|) |S| (n − |S|)), each with its complement. With
    v(S) = log P(answer | S is kept) and b_t = mean over S of v(S) [t ∈ S] the estimate is

        φ_t = (v(all) − v(none)) / n + (b_t − b̄) / (½ − a),   a = P(two given tokens are both in S)

    which has no bias at any number of subsets, and adds up to v(all) − v(none). Where there are no more proper subsets
    than `ablations`, all are run, and the values are exact. φ is divided evenly over a segment's tokens. Special tokens
    and the answer's own stay in place. It takes one forward pass for each subset and one for v(none).

    Args:
        ablations: how many subsets are run.
        by: what is put back as a whole, as for `LeaveOneOut`.
        ablation: what a token that is left out is replaced by, as for `LeaveOneOut`.
        seed: of the draws; the global generator is not touched.
        within: the eligible part of the prompt, as for `LeaveOneOut`.

    Raises:
        ObjectiveError: for fewer than two ablations and another unit.
        PromptError, EvaluationError: as for `LeaveOneOut`.

    Source: Kernel SHAP (arXiv:1705.07874) in its unbiased, paired version (arXiv:2012.01536).

    Example:
        >>> att = ls.attribute(model, "The capital of France is", ls.KernelShap(ablations=30))
        >>> att.scores.shape, float(att.scores[0])
        (torch.Size([6]), 0.0)
    """

    scope: ClassVar[str] = "kernel-shap"
    output: ClassVar[str] = "log-probability of the next token"

    @property
    def equation(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        of = "t" if self.by == "token" else f"the {self.by} s of token t, divided by its number of tokens"
        return f"score_t = the Shapley value of {of}, in log p, estimated from {self.ablations} subsets"

    @property
    def process(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return (
            f"every {self.by} is kept or left out at random, by the Shapley kernel; each token left out is replaced by "
            f"{self.replacement}"
        )

    def describe_answer(self, text: str, n_tokens: int) -> str:
        return log_probability_of_answer(text, n_tokens)

    def forwards(self, prompt: Prompt) -> int:
        n = len(segments(prompt, self.by, self.within))
        return 1 + (_number_of_subsets(n) if _runs_all(n, self.ablations) else self.ablations)

    def scores(self, model: ScopedModel, prompt: Prompt, states: Sequence[FinalState]) -> Float[Tensor, " pos"]:
        parts = segments(prompt, self.by, self.within)
        if not parts:
            return torch.zeros(len(prompt), dtype=states[0].y.dtype)
        subsets, weights = shapley_subsets(len(parts), self.ablations, self.seed)
        masks = torch.cat([~subsets, subsets.new_ones(1, len(parts))])
        ablated, after = self.run_subsets(model, prompt, states, parts, masks)
        *_, empty = values = after.log_probability
        shapley = shapley_values(subsets, weights, values[:-1] - empty, ablated.clean_log_probability - float(empty))
        return spread(shapley, parts, len(prompt)).to(states[0].y.dtype)


def _probability_of_sizes(n: int) -> Float[Tensor, " size"]:
    """The Shapley kernel, summed over the subsets of each size from 1 to n − 1."""
    sizes = torch.arange(1, n, dtype=torch.float64)
    kernel = 1 / (sizes * (n - sizes))
    return kernel / kernel.sum()


def _number_of_subsets(n: int) -> int:
    """How many subsets of n there are but the empty one and the whole."""
    return 2**n - 2


def _runs_all(n: int, count: int) -> bool:
    return n <= _MAX_SEGMENTS_OF_ALL and _number_of_subsets(n) <= count


def shapley_subsets(n: int, count: int, seed: int) -> tuple[Bool[Tensor, "row segment"], Float[Tensor, " row"]]:
    """Proper subsets of n segments, and weights that add up to 1: all of them with the probabilities of the Shapley
    kernel where there are no more than `count`, else as many drawn with them, in pairs of a subset and its complement.
    """
    of_size = _probability_of_sizes(n)
    if _runs_all(n, count):
        codes = torch.arange(1, 2**n - 1)  # a subset is the bits of its number
        subsets = (codes[:, None] >> torch.arange(n)) % 2 == 1
        number = subsets.sum(1)
        return subsets, of_size[number - 1] / torch.bincount(number, minlength=n)[number]
    generator = torch.Generator().manual_seed(seed)
    subsets = torch.zeros(2 * ((count + 1) // 2), n, dtype=torch.bool)
    # A size with the kernel's probability, then any subset of that size. Its complement is as probable, and the errors
    # of the two partly cancel.
    for row in range(0, len(subsets), 2):
        size = 1 + int(torch.multinomial(of_size, 1, generator=generator))
        subsets[row, torch.randperm(n, generator=generator)[:size]] = True
        subsets[row + 1] = ~subsets[row]
    return subsets[:count], torch.full((count,), 1 / count, dtype=torch.float64)


def shapley_values(
    subsets: Bool[Tensor, "row segment"], weights: Float[Tensor, " row"], gains: Float[Tensor, " row"], total: float
) -> Float[Tensor, " segment"]:
    """The estimate from v(S) − v(none) of each subset and of the whole; exact where all subsets have the kernel's
    weights.

    Args:
        gains: v(S) − v(none).
        total: v(all) − v(none).
    """
    n = subsets.shape[1]
    if n == 1:
        return torch.tensor([total], dtype=torch.float64)
    # The least squares of Kernel SHAP in closed form: under the kernel E[z zᵀ] has 1/2 on its diagonal and P(two given
    # segments are kept) everywhere else, and the values add up to the total.
    sizes = torch.arange(1, n, dtype=torch.float64)
    p_both = float((_probability_of_sizes(n) * sizes * (sizes - 1)).sum()) / (n * (n - 1))
    b = (weights * gains.double()) @ subsets.double()
    return total / n + (b - b.mean()) / (0.5 - p_both)
