"""Integrated Gradients of one token's logit or log-probability, from any start, by any rule of points and weights.

    score_t = ‖ mean_n w_n ∂s/∂x_t (x(α_n)) ∘ ρ (x_t − b) ‖₂,   x(α) = b + α (x − b)

The midpoint rule with w = ρ = 1 is Integrated Gradients. arXiv:2601.16407 has two others, one for each of its tables:

- its AOPC table: log p, α = 0.2 … 1 from zero, w = α, since its gradient is taken before the scaling by α; ρ = 1;
- its leave-one-out table: the logit, α = 0.1 … 1 from zero, w = 1, and ρ = 0.9, the part of the line between the first
  and the last point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.backward import trace
from lens_scopes.engine.final_state import FinalState
from lens_scopes.engine.forward import Hook, token_embeddings
from lens_scopes.engine.sites import EMBEDDING
from lens_scopes.errors import EvaluationError
from lens_scopes.scopes.comparisons import Baseline
from lens_scopes.scopes.objectives import LogProb, Semantic

STARTS = ("zero", "mean", "bos", "eos", "pad")
_TOKENS_AT_ONCE = 1024  # of all points run together


@dataclass(frozen=True)
class PathGradients(Baseline):
    """Integrated Gradients as a comparison method; see the module for the equation.

    Args:
        measure: "logit" or "logprob" of the token explained.
        alphas: the points α_n of the straight path.
        weights: w_n, one for each point.
        distance: ρ, the share of x − b that multiplies the mean gradient.
        start: b: "zero", the "mean" of the prompt's tokens but special ones, or the embedding of "bos", "eos" or "pad".
        hold_special: special tokens stay as they are along the path.
    """

    measure: str
    alphas: tuple[float, ...]
    weights: tuple[float, ...]
    distance: float = 1.0
    start: str = "zero"
    hold_special: bool = False
    scope: ClassVar[str] = "path-gradients"
    output: ClassVar[str] = "the next token"
    equation: ClassVar[str] = "score_t = ‖mean_n w_n ∂s/∂x_t(x(α_n)) ∘ ρ (x_t − b)‖₂"
    process: ClassVar[str] = "all tokens move together on a straight line from a baseline"
    held: ClassVar[str] = "the weights and the positions"

    @classmethod
    def midpoints(cls, steps: int, start: str, *, hold_special: bool = False) -> PathGradients:
        """Integrated Gradients of the logit by the midpoint rule."""
        alphas = tuple((n + 0.5) / steps for n in range(steps))
        return cls("logit", alphas, (1.0,) * steps, start=start, hold_special=hold_special)

    def prepare(self, model: Any) -> PathGradients:
        """Checks that the tokenizer has the token of the start."""
        if self.start not in STARTS:
            raise EvaluationError(f"a path starts at {', '.join(STARTS)}; got {self.start!r}.")
        if self.start not in ("zero", "mean") and _token(model, self.start) is None:
            raise EvaluationError(f"a path from {self.start!r} needs a tokenizer with such a token; choose another.")
        return self

    @property
    def takes_target(self) -> bool:
        return True

    def targets(self, state: FinalState) -> list[int]:
        return [state.top_token if state.target is None else state.target]

    def scores(
        self, model: Any, token_ids: Sequence[int], special: Sequence[bool], state: FinalState
    ) -> Float[Tensor, " pos"]:
        own = token_embeddings(model, token_ids)
        start = self._baseline(model, own, special)
        held = torch.tensor(special, device=own.device)[:, None] & self.hold_special
        path = [torch.where(held, own, start + alpha * (own - start)) for alpha in self.alphas]
        gradients = self._gradients(model, token_ids, torch.stack(path), state)
        weights = torch.tensor(self.weights, dtype=gradients.dtype, device=gradients.device)
        mean = (weights[:, None, None] * gradients).mean(0)
        return (mean * self.distance * (own - start).to(mean)).norm(dim=-1).to(state.y.dtype).cpu()

    def _baseline(self, model: Any, own: Tensor, special: Sequence[bool]) -> Tensor:
        if self.start == "zero":
            return torch.zeros_like(own)
        if self.start == "mean":
            chosen = [place for place, is_special in enumerate(special) if not is_special] or list(range(len(own)))
            return own[chosen].mean(0).expand_as(own)
        token = _token(model, self.start)
        assert token is not None
        return token_embeddings(model, [token])[0].expand_as(own)

    def _gradients(
        self, model: Any, token_ids: Sequence[int], path: Float[Tensor, "n pos d_model"], state: FinalState
    ) -> Float[Tensor, "n pos d_model"]:
        """∂s/∂x at every point of the path."""
        (target,) = self.targets(state)
        objective = Semantic(target) if self.measure == "logit" else LogProb(target)
        found = []
        for part in path.split(max(1, _TOKENS_AT_ONCE // len(token_ids))):
            changes: list[tuple[str, Hook]] = [(EMBEDDING, lambda values, part=part: part.to(values))]
            traced = trace(model, [list(token_ids)] * len(part), [EMBEDDING], (), changes=changes)
            ys = traced.final_states.detach().to(state.y)
            states = FinalState.several(ys, state.unembedding, [target] * len(ys))
            vectors = torch.stack([objective.directions(item).vectors[0] for item in states])
            traced.backward(vectors[None], lambda _, __, gradient, ___: found.append(gradient))
        return torch.cat(found)


def weighted_integrated_gradients() -> PathGradients:
    """Integrated Gradients of the AOPC table of arXiv:2601.16407."""
    alphas = (0.2, 0.4, 0.6, 0.8, 1.0)
    return PathGradients("logprob", alphas, alphas)


def path_integrated_semantic() -> PathGradients:
    """Integrated Gradients of the leave-one-out table of arXiv:2601.16407: its path-integrated Semantic Scope."""
    alphas = tuple(round(0.1 * n, 1) for n in range(1, 11))
    return PathGradients("logit", alphas, (1.0,) * len(alphas), distance=alphas[-1] - alphas[0])


def _token(model: Any, name: str) -> int | None:
    return getattr(model.tokenizer, f"{name}_token_id", None)
