"""ContextCite: which segments of a prompt an answer rests on, by a sparse linear model of random ablations."""

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
from lens_scopes.scopes.comparisons.ablation_method import Ablation, SubsetAblationMethod, spread

_PENALTY = 0.01  # as in ContextCite, of standardized columns and the logit divided by the answer's length
_LARGEST_LOG_PROBABILITY = -1e-30  # a probability that rounds to one still has a logit


@dataclass(frozen=True)
class ContextCite(SubsetAblationMethod):
    """Which segments an answer rests on: the weights of a sparse linear model of what random ablations do.

    Each ablation keeps every segment with probability ½. The logit of the answer's probability, log p − log(1 − p) with
    p = P(answer | what is kept), is fitted by b + Σ_s w_s [s is kept] with Lasso, whose penalty is 0.01 for
    standardized columns and the logit divided by the number of the answer's tokens. w_s is the score of segment s,
    negative where keeping it makes the answer less probable; it is divided evenly over the segment's tokens, so that
    `att.group("sentence")` gives it back. Without an answer the next token is explained. Special tokens and the
    answer's own stay in place. It takes as many forward passes as `ablations`, besides the result's own.

    Args:
        ablations: how many random ablations are run.
        by: what a segment is: "token", or as for `Attribution.group` "word", "line", "sentence", "paragraph" or "turn".
        ablation: what a token that is left out is replaced by, as for `LeaveOneOut`: "remove" takes it out.
        seed: of the draws; the global generator is not touched.
        within: the eligible part of the prompt, as for `LeaveOneOut`: `within=document` leaves the question in place.

    Raises:
        ObjectiveError: for fewer than two ablations and another unit.
        PromptError, EvaluationError: as for `LeaveOneOut`.

    Source: ContextCite, arXiv:2409.00729.

    Example:
        >>> prompt = "The capital of France is Paris. The capital of Italy is"
        >>> att = ls.attribute(model, prompt, ls.ContextCite(ablations=16), answer=" Rome.")
        >>> att.group("sentence")["label"].tolist()
        ['<bos>', 'The capital of France is Paris.', 'The capital of Italy is']
    """

    by: str = "sentence"
    ablation: Ablation = "remove"
    scope: ClassVar[str] = "context-cite"
    output: ClassVar[str] = "log p − log(1 − p) of the probability p of the next token"

    @property
    def equation(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return (
            f"score_t = w_s / |s| for the {self.by} s of token t, of |s| tokens, with log p/(1 − p) ≈ "
            f"b + Σ_s w_s [s is kept], by Lasso of penalty {_PENALTY}"
        )

    @property
    def process(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return (
            f"{self.ablations} times, every {self.by} is kept with probability ½; each token of the others is replaced "
            f"by {self.replacement}"
        )

    def describe_answer(self, text: str, n_tokens: int) -> str:
        return f"log p − log(1 − p) of p = P(answer | prompt) of the answer {text!r}, of {n_tokens} tokens"

    def forwards(self, prompt: Prompt) -> int:
        return self.ablations

    def scores(self, model: ScopedModel, prompt: Prompt, states: Sequence[FinalState]) -> Float[Tensor, " pos"]:
        parts = segments(prompt, self.by, self.within)
        subsets = random_subsets(self.ablations, len(parts), self.seed, with_empty=any(prompt.special))
        _, after = self.run_subsets(model, prompt, states, parts, ~subsets)
        # The penalty is one for outcomes of a token: a long answer's would outweigh it.
        weights = segment_weights(subsets, logit(after.log_probability) / len(states)) * len(states)
        return spread(weights, parts, len(prompt)).to(states[0].y.dtype)


def random_subsets(count: int, n_segments: int, seed: int, *, with_empty: bool) -> Bool[Tensor, "row segment"]:
    """Which segments are kept, each with probability ½; without the empty set where nothing would be left to read."""
    generator = torch.Generator().manual_seed(seed)
    subsets = torch.zeros(count, n_segments, dtype=torch.bool)
    for row in subsets:
        while True:
            row.copy_(torch.rand(n_segments, generator=generator, dtype=torch.float32) < 0.5)
            if with_empty or bool(row.any()):
                break
    return subsets


def logit(log_probability: Float[Tensor, "*row"]) -> Float[Tensor, "*row"]:
    """log p − log(1 − p) from log p, exact where p is near one."""
    bounded = log_probability.clamp_max(_LARGEST_LOG_PROBABILITY)
    return bounded - torch.log(-torch.expm1(bounded))


def segment_weights(subsets: Bool[Tensor, "row segment"], outcomes: Float[Tensor, " row"]) -> Float[Tensor, " segment"]:
    """The weights of a sparse linear model of the outcomes, penalized as of columns of variance one."""
    columns = subsets.double()
    scale = columns.std(0, correction=0)
    scale = torch.where(scale > 0, scale, 1.0)  # a segment always kept, or never, has no weight
    return lasso(columns / scale, outcomes.double(), _PENALTY) / scale


def lasso(
    columns: Float[Tensor, "row column"],
    outcomes: Float[Tensor, " row"],
    penalty: float,
    *,
    tolerance: float = 1e-12,
    most_sweeps: int = 10_000,
) -> Float[Tensor, " column"]:
    """argmin_w ½ mean_i (y_i − b − x_i·w)² + penalty ‖w‖₁ with a free intercept b, by coordinate descent.

    Args:
        columns: x, in float64.
        outcomes: y.
        penalty: of ‖w‖₁.
        tolerance: how small, against the largest weight, the largest change of a sweep must be to stop.
        most_sweeps: after how many it stops anyway.
    """
    # Centred, so that the intercept drops out.
    x, y = columns - columns.mean(0), outcomes - outcomes.mean()
    gram, pull = x.T @ x / len(x), x.T @ y / len(x)
    movable = [column for column in range(len(pull)) if gram[column, column] > 0]
    weights = torch.zeros_like(pull)
    for _ in range(most_sweeps):
        before = weights.clone()
        for column in movable:
            # The best weight of one column, the others fixed: what they leave of the outcome, moved towards zero.
            size = gram[column, column]
            rest = pull[column] - gram[column] @ weights + size * weights[column]
            weights[column] = torch.sign(rest) * (rest.abs() - penalty).clamp_min(0) / size
        if bool((weights - before).abs().max() <= tolerance * weights.abs().max()):
            break
    return weights
