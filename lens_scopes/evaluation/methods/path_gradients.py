"""Integrated Gradients from zero by any rule of points and weights, of one token's logit or log-probability.

    score_t = ‖ mean_n w_n ∂s/∂x_t (α_n x) ∘ ρ x_t ‖₂

The midpoint rule with w = ρ = 1 is Integrated Gradients, the scope Semantic with points "path" and readout "product".
arXiv:2601.16407 has two other rules, one for each of its tables:

- its AOPC table: log p, α = 0.2 … 1 from zero, w = α, since its gradient is taken before the scaling by α; ρ = 1;
- its leave-one-out table: the logit, α = 0.1 … 1 from zero, w = 1, and ρ = 0.9, the part of the line between the first
  and the last point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.backward import trace
from lens_scopes.engine.final_state import FinalState
from lens_scopes.engine.model import Hook, ScopedModel
from lens_scopes.engine.sites import EMBEDDING
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.scopes.comparisons.baseline import OfOneToken
from lens_scopes.scopes.objectives import LogProb, Semantic

_TOKENS_AT_ONCE = 1024  # of all points run together


@dataclass(frozen=True)
class PathGradients(OfOneToken):
    """Integrated Gradients as a comparison method; see the module for the equation.

    Args:
        measure: "logit" or "logprob" of the token explained.
        alphas: the points α_n of the straight path.
        weights: w_n, one for each point.
        distance: ρ, the share of x that multiplies the mean gradient.
    """

    measure: str
    alphas: tuple[float, ...]
    weights: tuple[float, ...]
    distance: float = 1.0
    scope: ClassVar[str] = "path-gradients"
    output: ClassVar[str] = "the next token"
    equation: ClassVar[str] = "score_t = ‖mean_n w_n ∂s/∂x_t(α_n x) ∘ ρ x_t‖₂"
    process: ClassVar[str] = "all tokens move together on a straight line from zero"
    held: ClassVar[str] = "the weights and the positions"

    def forwards(self, prompt: Prompt) -> int:
        return 1 + len(self.alphas)

    @property
    def backwards(self) -> int:
        return len(self.alphas)

    def scores(self, model: ScopedModel, prompt: Prompt, states: Sequence[FinalState]) -> Float[Tensor, " pos"]:
        embeddings = model.token_embeddings(prompt.token_ids)
        path = [alpha * embeddings for alpha in self.alphas]
        gradients = self._gradients(model, prompt.token_ids, torch.stack(path), states[0])
        weights = torch.tensor(self.weights, dtype=gradients.dtype, device=gradients.device)
        mean = (weights[:, None, None] * gradients).mean(0)
        return (mean * self.distance * embeddings.to(mean)).norm(dim=-1).to(states[0].y.dtype).cpu()

    def _gradients(
        self, model: ScopedModel, token_ids: Sequence[int], path: Float[Tensor, "n pos d_model"], state: FinalState
    ) -> Float[Tensor, "n pos d_model"]:
        """∂s/∂x at every point of the path."""
        (target,) = self.targets(state)
        objective = Semantic(target) if self.measure == "logit" else LogProb(target)
        gradients = []
        for part in path.split(max(1, _TOKENS_AT_ONCE // len(token_ids))):
            changes: list[tuple[str, Hook]] = [(EMBEDDING, lambda values, part=part: part.to(values))]
            graph = trace(model, [list(token_ids)] * len(part), [EMBEDDING], (), changes=changes)
            ys = graph.final_states.detach().to(state.y)
            states = FinalState.several(ys, state.unembedding, [target] * len(ys))
            vectors = torch.stack([objective.directions(item).vectors[0] for item in states])
            graph.backward(vectors[None], lambda _, __, gradient, ___: gradients.append(gradient))
        return torch.cat(gradients)


def weighted_integrated_gradients() -> PathGradients:
    """Integrated Gradients of the AOPC table of arXiv:2601.16407."""
    alphas = (0.2, 0.4, 0.6, 0.8, 1.0)
    return PathGradients("logprob", alphas, alphas)


def path_integrated_semantic() -> PathGradients:
    """Integrated Gradients of the leave-one-out table of arXiv:2601.16407: its path-integrated Semantic Scope."""
    alphas = tuple(round(0.1 * n, 1) for n in range(1, 11))
    return PathGradients("logit", alphas, (1.0,) * len(alphas), distance=alphas[-1] - alphas[0])
