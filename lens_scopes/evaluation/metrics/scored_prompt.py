"""One prompt with one method's scores, and everything a metric needs to judge them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.model import ModelLike
from lens_scopes.evaluation.methods.method import Method, MethodScores, TargetIds
from lens_scopes.evaluation.methods.randomized_blocks import RandomizedBlocks
from lens_scopes.evaluation.metrics.ablation_cache import AblationCache
from lens_scopes.evaluation.protocol import OWN, Protocol
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.scopes.comparisons.trivial import RandomScores


@dataclass(frozen=True)
class ScoredPrompt:
    """One method's scores of one passage, with what a metric may need to judge them.

    Attributes:
        target: the token that methods of one token explain, or the tokens of the answer.
        ablation_cache: the passage under the ablation in question; None for metrics that ablate nothing.
        protocol: the conventions of the evaluation.
        correct: whether the model predicts the true next token; None where that is not known.
        by: what metrics of segments leave out as a whole.
        within: the tokens [start, stop) that alone are ranked and ablated; None for all that are not special.
    """

    model: ModelLike
    prompt: Prompt
    target: TargetIds
    method: Method
    method_scores: MethodScores
    ablation_cache: AblationCache | None
    randomized: RandomizedBlocks
    seed: int
    protocol: Protocol = OWN
    correct: bool | None = None
    by: str = "sentence"
    within: tuple[int, int] | None = None

    @property
    def eligible(self) -> list[int]:
        """The tokens that can be ablated: all but special ones, and those outside the eligible part."""
        return self._eligible_of(self.prompt)

    def _eligible_of(self, prompt: Prompt) -> list[int]:
        part = range(len(prompt)) if self.within is None else range(*self.within)
        return [index for index in part if not prompt.special[index]]

    @property
    def values(self) -> Float[Tensor, " n"]:
        """The ranked tokens' scores with their sign."""
        return self.rankable_scores(self.method_scores, self.prompt)

    @property
    def magnitudes(self) -> Float[Tensor, " n"]:
        """The ranked tokens' scores without their sign."""
        return self.values.abs()

    @property
    def effects(self) -> Float[Tensor, " n"]:
        """KL(p ‖ p without the token) of each ranked token."""
        return self.with_target(self.cache.leave_one_out.divergence)

    def rankable_scores(self, scores: MethodScores, prompt: Prompt) -> Float[Tensor, " n"]:
        """The scores of a prompt's eligible tokens, and of the token after it where the protocol ranks it."""
        values = scores.scores[self._eligible_of(prompt)].double()
        chance = isinstance(self.method.explanation, RandomScores)
        draw = torch.rand((), generator=self._generator(), dtype=torch.float32)
        return self.with_target(values, float(draw) if chance else 0.0)

    def with_target(self, values: Float[Tensor, " n"], target: float = 0.0) -> Float[Tensor, " m"]:
        """The values, and that of the token after the prompt where the protocol ranks it."""
        return torch.cat([values, values.new_tensor([target])]) if self.protocol.target_ranked else values

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    @property
    def cache(self) -> AblationCache:
        """The ablation's outcomes, for metrics that ablate."""
        assert self.ablation_cache is not None
        return self.ablation_cache


@dataclass(frozen=True)
class MetricValue:
    """One number of a metric; a curve gives several, at their fractions."""

    name: str
    value: float
    fraction: float | None = None
    note: str | None = None
