"""Gradients averaged over the points of a path or of noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_scopes.engine.backward import Progress, Trace, Visit, trace
from lens_scopes.engine.final_state import FinalState
from lens_scopes.engine.forward import Hook, token_embeddings
from lens_scopes.engine.memory import Budget, in_portions
from lens_scopes.engine.sites import EMBEDDING
from lens_scopes.scopes.objectives import Directions, Objective

if TYPE_CHECKING:
    Start: TypeAlias = Literal["zero", "mean"]
    Count: TypeAlias = int
    PointsLike: TypeAlias = "Points | str | None"
else:  # what is none of these is answered with a ReadoutError that says what to do, also under a run-time type checker
    Start = Count = PointsLike = Any

from lens_scopes.scopes.points import Points

_TOKENS_AT_ONCE = 1024  # of all points run together


@dataclass(frozen=True)
class AveragedTrace:
    """Gradients that are means over points, at the activations of the prompt itself.

    Attributes:
        activations: the sites' activations at the prompt.
        real: marks positions that are not padding: all of them.
        gradients: the mean gradient of each direction at each site.
    """

    activations: Mapping[str, Tensor]
    real: Bool[Tensor, "1 pos"]
    gradients: Sequence[Mapping[str, Tensor]]

    def backward(self, vectors: Float[Tensor, "k 1 d_model"], visit: Visit, progress: Progress | None = None) -> None:
        """Visits every direction's mean gradients; `vectors` have been used up in making them."""
        for index, gradients in enumerate(self.gradients):
            for name, gradient in gradients.items():
                visit(index, name, gradient, self.activations[name])


def average_over_points(
    model: Any,
    token_ids: Sequence[int],
    points: Points,
    objective: Objective,
    state: FinalState,
    directions: Directions,
    own: Trace,
    path: Sequence[tuple[str, Hook]],
    budget: Budget,
    progress: Progress | None = None,
) -> AveragedTrace:
    """Mean gradients over points. An output that is a number has its own direction ∂output/∂y at each point; the
    directions of a divergence are those of the prompt, held fixed, as its axes have no sign to average.

    Args:
        state, directions, own: the prompt's own final state, directions and trace.
        budget: decides how many points run together.
        progress: called with (points done, points in all).
    """
    target = state.top_token if state.target is None else state.target
    names = list(own.activations)
    everywhere = points.embeddings(token_embeddings(model, token_ids))
    sums: list[dict[str, Tensor]] = [{} for _ in directions.vectors]

    def run(items: range) -> None:
        here = everywhere[items.start : items.stop]
        changes: list[tuple[str, Hook]] = [(EMBEDDING, lambda embedding, here=here: here.to(embedding))]
        traced = trace(model, [token_ids] * len(here), names, path, changes=changes)
        vectors = directions.vectors[:, None].expand(-1, len(here), -1)
        if objective.numeric:
            ys = traced.final_states.detach().to(state.y)
            states = FinalState.several(ys, state.unembedding, [target] * len(ys))
            vectors = torch.stack([objective.directions(item).vectors for item in states], dim=1)

        found: list[dict[str, Tensor]] = [{} for _ in directions.vectors]

        def keep(index: int, name: str, gradient: Tensor, activation: Tensor) -> None:
            found[index][name] = gradient.sum(0, keepdim=True) / len(everywhere)

        traced.backward(vectors, keep)
        # At the end: a portion that memory ran out for counts nothing.
        for total, part in zip(sums, found, strict=True):
            for name, gradient in part.items():
                total[name] = total.get(name, 0) + gradient
        if progress is not None:
            progress(items.stop, len(everywhere))

    most = max(1, _TOKENS_AT_ONCE // len(token_ids))
    in_portions(len(everywhere), lambda _: budget.rows(len(token_ids), most), run)
    activations = {name: values.detach() for name, values in own.activations.items()}
    return AveragedTrace(activations, own.real, sums)
