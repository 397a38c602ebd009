"""Gradients averaged over the points of a path or of noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import repeat
from jaxtyping import Bool, Float
from torch import Tensor

from lens_scopes.engine.backward import Progress, Trace, Visit, trace
from lens_scopes.engine.final_state import FinalState
from lens_scopes.engine.forward import Hook, token_embeddings
from lens_scopes.engine.memory import Budget, in_portions
from lens_scopes.engine.sites import EMBEDDING
from lens_scopes.errors import ObjectiveError
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.scopes.objectives import Directions, Objective
from lens_scopes.scopes.points import Points

_TOKENS_AT_ONCE = 1024  # of all points run together


@dataclass(frozen=True)
class AveragedTrace:
    """Gradients that are means over points, at the activations of the prompt itself.

    Attributes:
        activations: the sites' activations at the prompt.
        real: marks positions that are not padding: all of them.
        gradients: the mean gradient of each direction at each site.
        directions: the prompt's own; of a number, the weight is in the gradients already.
        starts: the sites' activations at the points' start, where they have one and it was asked for.
    """

    activations: Mapping[str, Tensor]
    real: Bool[Tensor, "1 pos"]
    gradients: Sequence[Mapping[str, Tensor]]
    directions: Directions
    starts: Mapping[str, Tensor] | None

    def backward(self, vectors: Float[Tensor, "k 1 d_model"], visit: Visit, progress: Progress | None = None) -> None:
        """Visits every direction's mean gradients; `vectors` have been used up in making them."""
        for index, gradients in enumerate(self.gradients):
            for name, gradient in gradients.items():
                visit(index, name, gradient, self.activations[name])


def average_over_points(
    model: Any,
    prompt: Prompt,
    points: Points,
    objective: Objective,
    state: FinalState,
    directions: Directions,
    own: Trace,
    path: Sequence[tuple[str, Hook]],
    budget: Budget,
    *,
    with_starts: bool,
    progress: Progress | None = None,
) -> AveragedTrace:
    """Mean gradients over points.

    An output that is a number has its own direction √w ∂output/∂y at each point. The directions of a divergence are
    those of the prompt, held fixed, as its axes have no sign to average.

    Args:
        prompt: its first tokens, as many as `own` has, are explained.
        state, directions, own: the prompt's own final state, directions and trace.
        budget: decides how many points run together.
        with_starts: whether to run the points' start too, for readouts that measure from it.
        progress: called with (points done, points in all).

    Raises:
        ObjectiveError: when a number has several directions at some point.
    """
    token_ids = prompt.token_ids[: own.real.shape[1]]
    target = state.top_token if state.target is None else state.target
    is_number = not directions.squared
    names = list(own.activations)
    start = points.start_embeddings(model, prompt, len(token_ids))
    everywhere = points.embeddings(token_embeddings(model, token_ids), start)
    sums: list[dict[str, Tensor]] = [{} for _ in directions.vectors]

    def run(items: range) -> None:
        here = everywhere[items.start : items.stop]
        traced = trace(model, [token_ids] * len(here), names, path, changes=[_embedded(here)])
        vectors = repeat(directions.vectors, "k d_model -> k point d_model", point=len(here))
        if is_number:
            ys = traced.final_states.detach().to(state.y)
            states = FinalState.several(ys, state.unembedding, [target] * len(ys))
            vectors = torch.stack([_number_direction(objective.directions(item)) for item in states], dim=1)

        parts: list[dict[str, Tensor]] = [{} for _ in directions.vectors]

        def add(index: int, name: str, gradient: Tensor, activation: Tensor) -> None:
            parts[index][name] = gradient.sum(0, keepdim=True) / len(everywhere)

        traced.backward(vectors, add)
        # At the end: a portion that memory ran out for counts nothing.
        for total, part in zip(sums, parts, strict=True):
            for name, gradient in part.items():
                total[name] = total.get(name, 0) + gradient
        if progress is not None:
            progress(items.stop, len(everywhere))

    most = max(1, _TOKENS_AT_ONCE // len(token_ids))
    in_portions(len(everywhere), lambda _: budget.rows(len(token_ids), most), run)
    return AveragedTrace(
        activations={name: values.detach() for name, values in own.activations.items()},
        real=own.real,
        gradients=sums,
        directions=replace(directions, weights=torch.ones_like(directions.weights)) if is_number else directions,
        starts=_activations(model, token_ids, start, names, path) if with_starts and start is not None else None,
    )


def _embedded(embeddings: Float[Tensor, "row pos d_model"]) -> tuple[str, Hook]:
    """The change that gives a batch these embeddings."""
    return EMBEDDING, lambda embedding: embeddings.to(embedding)


def _number_direction(directions: Directions) -> Float[Tensor, "1 d_model"]:
    """√w v of an output that is a number."""
    if directions.squared or len(directions.vectors) != 1:
        raise ObjectiveError(
            f"the objective has one direction at the prompt and {len(directions.vectors)} at a point of the path; one "
            "that is a number has one everywhere."
        )
    return directions.weights.sqrt()[:, None] * directions.vectors


def _activations(
    model: Any,
    token_ids: Sequence[int],
    embeddings: Float[Tensor, "pos d_model"],
    names: Sequence[str],
    path: Sequence[tuple[str, Hook]],
) -> dict[str, Tensor]:
    """The sites' activations of the prompt with other embeddings."""
    if list(names) == [EMBEDDING]:
        return {EMBEDDING: embeddings[None]}
    traced = trace(model, [token_ids], names, path, changes=[_embedded(embeddings[None])])
    return {name: values.detach() for name, values in traced.activations.items()}
