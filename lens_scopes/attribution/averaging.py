"""Gradients averaged over the points of a path or of noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from einops import repeat
from jaxtyping import Bool, Float
from torch import Tensor

from lens_scopes.engine.backward import Progress, Trace, Visit, trace
from lens_scopes.engine.final_state import FinalState
from lens_scopes.engine.memory import Budget, run_in_chunks
from lens_scopes.engine.model import Hook, ScopedModel
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
        token_mask: marks positions that are not padding: all of them.
        gradients: the mean gradient of each direction at each site.
        directions: the prompt's own; of a number, the weight is in the gradients already.
        starts: the sites' activations at the points' start, where they have one and it was asked for.
    """

    activations: Mapping[str, Tensor]
    token_mask: Bool[Tensor, "1 pos"]
    gradients: Sequence[Mapping[str, Tensor]]
    directions: Directions
    starts: Mapping[str, Tensor] | None

    def backward(self, vectors: Float[Tensor, "k 1 d_model"], visit: Visit, progress: Progress | None = None) -> None:
        """Visits every direction's mean gradients; `vectors` have been used up in making them."""
        for index, gradients in enumerate(self.gradients):
            for name, gradient in gradients.items():
                visit(index, name, gradient, self.activations[name])


def average_over_points(
    model: ScopedModel,
    prompt: Prompt,
    points: Points,
    objective: Objective,
    state: FinalState,
    directions: Directions,
    traced: Trace,
    path: Sequence[tuple[str, Hook]],
    budget: Budget,
    *,
    with_starts: bool,
    progress: Progress | None = None,
) -> AveragedTrace:
    """Mean gradients over points.

    An output that is a number has a direction √w ∂output/∂y of its own at each point. The directions of a divergence
    are those of the prompt, held fixed, as its axes have no sign to average.

    Args:
        prompt: its first tokens, as many as `traced` has, are explained.
        state, directions, traced: of the prompt itself.
        budget: decides how many points run together.
        with_starts: whether to run the points' start too, for readouts that measure from it.
        progress: called with (points done, points in all).

    Raises:
        ObjectiveError: when a number has several directions at some point.
    """
    token_ids = prompt.token_ids[: traced.token_mask.shape[1]]
    names = list(traced.activations)
    start = points.start_embeddings(model, prompt, len(token_ids))
    embeddings = points.embeddings(model.token_embeddings(token_ids), start)
    sums: list[dict[str, Tensor]] = [{} for _ in directions.vectors]

    def run(items: range) -> None:
        here = embeddings[items.start : items.stop]
        traced_here = trace(model, [token_ids] * len(here), names, path, changes=[_embedded(here)])
        vectors = _directions_at(traced_here, objective, state, directions)
        parts: list[dict[str, Tensor]] = [{} for _ in directions.vectors]

        def add(index: int, name: str, gradient: Tensor, activation: Tensor) -> None:
            parts[index][name] = gradient.sum(0, keepdim=True) / len(embeddings)

        traced_here.backward(vectors, add)
        # At the end: points that memory ran out for count nothing, and are run again.
        for total, part in zip(sums, parts, strict=True):
            for name, gradient in part.items():
                total[name] = total.get(name, 0) + gradient
        if progress is not None:
            progress(items.stop, len(embeddings))

    most = max(1, _TOKENS_AT_ONCE // len(token_ids))
    run_in_chunks(len(embeddings), lambda _: budget.rows(len(token_ids), most), run)
    if not directions.squared:  # √w is in the gradients already
        directions = replace(directions, weights=torch.ones_like(directions.weights))
    return AveragedTrace(
        activations={name: values.detach() for name, values in traced.activations.items()},
        token_mask=traced.token_mask,
        gradients=sums,
        directions=directions,
        starts=_activations(model, token_ids, start, names, path) if with_starts and start is not None else None,
    )


def _directions_at(
    traced: Trace, objective: Objective, state: FinalState, directions: Directions
) -> Float[Tensor, "k point d_model"]:
    """The directions at each point: of a number √w v there, for the prompt's own target; else the prompt's."""
    ys = traced.final_states.detach().to(state.y)
    if directions.squared:
        return repeat(directions.vectors, "k d_model -> k point d_model", point=len(ys))
    # A default target is decided at the prompt: along the path the model's top token changes.
    target = state.top_token if state.target is None else state.target
    states = FinalState.several(ys, state.unembedding, [target] * len(ys))
    return torch.stack([_number_direction(objective.directions(item)) for item in states], dim=1)


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
    model: ScopedModel,
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
