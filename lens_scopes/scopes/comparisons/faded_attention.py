"""Faded attention: which segments of a prompt an answer rests on, by slopes in the weight that others give them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lens_scopes.engine.final_state import FinalState, log_softmax
from lens_scopes.engine.model import Batch, Hook, ScopedModel
from lens_scopes.errors import VALIDATED, ObjectiveError
from lens_scopes.prompts.groups import segments
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.prompts.spans import SpanLike
from lens_scopes.scopes.comparisons.ablation_method import check_part, check_unit, part_argument, spread
from lens_scopes.scopes.comparisons.baseline import OfOneToken
from lens_scopes.scopes.objectives.base import log_probability_of_answer

Weights: TypeAlias = Annotated["Sequence[float]", VALIDATED]


@dataclass(frozen=True)
class FadedAttention(OfOneToken):
    """Which segments an answer rests on: slopes of log P(answer) in the weight α_s that other tokens give to segment s.

        w_s = mean over α of ∂ log P / ∂α_s, all α_s = α,  where  A′[d, t] ∝ α_s(t) A[d, t] for d outside of s(t)

    At α_s = 1 the prompt is itself, and at α_s = 0 nobody outside of s attends to it, in any layer. ContextCite fits a
    linear model to prompts of which half of the segments are left out; the mean slopes of that model are those around
    α = ½, and a backward pass gives them for all segments at once. It takes one forward and one backward pass for each
    α, at any number of segments, and ContextCite one forward pass for each of its ablations.

    Scores have a sign: negative where more attention to the segment makes the answer less probable. w_s is divided
    evenly over the segment's tokens, so that `att.group("sentence")` gives it back. Special tokens, the answer's own
    and those outside of `within` are attended to as ever.

    Args:
        by: what a segment is, as for `LeaveOneOut`.
        alphas: where slopes are taken, above 0 and up to 1.
        within: the eligible part of the prompt, as for `LeaveOneOut`.

    Raises:
        ObjectiveError: for another unit, and for weights outside of 0 to 1.
        PromptError: as for `LeaveOneOut`.

    Example:
        >>> prompt = "The capital of France is Paris. The capital of Italy is"
        >>> att = ls.attribute(model, prompt, ls.FadedAttention(), answer=" Rome.")
        >>> att.group("sentence")["label"].tolist()
        ['<bos>', 'The capital of France is Paris.', 'The capital of Italy is']
    """

    by: str = "sentence"
    alphas: Weights = (0.25, 0.75)
    within: SpanLike | None = None
    scope: ClassVar[str] = "faded-attention"
    output: ClassVar[str] = "log-probability of the next token"
    held: ClassVar[str] = "the weights, the embeddings and the positions"
    takes_answer: ClassVar[bool] = True
    of_answer: ClassVar[str] = ""
    why_alone: ClassVar[str] = "has a readout of its own"

    def __post_init__(self) -> None:
        try:
            alphas = tuple(float(alpha) for alpha in self.alphas)
        except (TypeError, ValueError, RuntimeError):  # the last of tensors
            alphas = ()
        if not alphas or not all(0 < alpha <= 1 for alpha in alphas):
            raise ObjectiveError(
                f"alphas are weights above 0 and up to 1, such as (0.25, 0.75); got {str(self.alphas)[:60]}."
            )
        object.__setattr__(self, "alphas", alphas)
        check_unit(self.by)
        check_part(self)

    @property
    def equation(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return f"score_t = (mean over α of ∂ log p / ∂α_s) / |s| for the {self.by} s of token t, of |s| tokens"

    @property
    def process(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        values = ", ".join(f"{alpha:g}" for alpha in self.alphas)
        return (
            f"the attention of other tokens to every {self.by} s is weighted by α_s = {values}, all at once, in every "
            "layer, and normalised anew; to first order in one α_s at a time"
        )

    def describe_answer(self, text: str, n_tokens: int) -> str:
        return log_probability_of_answer(text, n_tokens)

    def signature(self, label: Callable[[int], str], state: FinalState) -> str:
        return f"FadedAttention(by={self.by!r}, alphas={self.alphas!r}{part_argument(self)})"

    def forwards(self, prompt: Prompt) -> int:
        return 1 + len(self.alphas)

    @property
    def backwards(self) -> int:
        return len(self.alphas)

    def scores(self, model: ScopedModel, prompt: Prompt, states: Sequence[FinalState]) -> Float[Tensor, " pos"]:
        parts, targets = segments(prompt, self.by, self.within), [state.followed_token for state in states]
        # The answer but its last token follows the prompt, and belongs to no segment: its attention is what fades.
        ids = [*prompt.token_ids, *targets[:-1]]
        owner = torch.full((len(ids),), -1)
        for place, tokens in enumerate(parts):
            owner[list(tokens)] = place
        reads = [(0, len(prompt) - 1 + place) for place in range(len(targets))]
        batch = Batch.of(model, [ids], reads)
        slopes = []
        for alpha in self.alphas:
            with torch.inference_mode(False), torch.enable_grad():
                alphas = torch.full((len(parts),), alpha, dtype=torch.float32, requires_grad=True)
                with model.hooked(_fading_hooks(model, alphas, owner)):
                    logits = states[0].unembedding.logits(model.final_states(batch))
                log_probability = log_softmax(logits)[range(len(targets)), targets].sum()
                slopes.append(torch.autograd.grad(log_probability, alphas)[0])
        return spread(torch.stack(slopes).double().mean(0), parts, len(prompt)).to(states[0].y.dtype)


def _fading_hooks(
    model: ScopedModel, alphas: Float[Tensor, " segment"], owner: Int[Tensor, " pos"]
) -> list[tuple[str, Hook]]:
    """Hooks that weigh every segment by its α in the attention patterns of the tokens outside of it.

    Args:
        owner: the segment of each token; −1 for none.
    """
    outside: Bool[Tensor, "dest src"] = (owner[:, None] != owner) & (owner >= 0)
    weights = torch.where(outside, alphas[owner], 1.0)

    def fade(pattern: Tensor) -> Tensor:
        faded = pattern * weights.to(pattern)
        return faded / faded.sum(-1, keepdim=True)

    return [(f"blocks.{layer}.attn.hook_pattern", fade) for layer in range(model.n_layers)]
