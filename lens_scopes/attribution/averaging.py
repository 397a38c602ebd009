"""Gradients averaged over the points of a path or of noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from einops import repeat
from jaxtyping import Bool, Float
from torch import Tensor

from lens_scopes.attribution.prompt_position import PromptPosition
from lens_scopes.engine.backward import Progress, Trace, Visit, read_activations, trace
from lens_scopes.engine.final_state import FinalState
from lens_scopes.engine.memory import Budget, run_in_chunks
from lens_scopes.engine.model import Hook, ScopedModel
from lens_scopes.engine.scoring import Directions
from lens_scopes.engine.sites import EMBEDDING
from lens_scopes.errors import ObjectiveError
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

    def backward(
        self, vectors: Float[Tensor, "k read d_model"], visit: Visit, progress: Progress | None = None
    ) -> None:
        """Visits every direction's mean gradients; `vectors` have been used up in making them."""
        for index, gradients in enumerate(self.gradients):
            for name, gradient in gradients.items():
                visit(index, name, gradient, self.activations[name])


def average_over_points(
    model: ScopedModel,
    place: PromptPosition,
    points: Points,
    directions_of: Callable[[Sequence[FinalState]], Directions],
    states: Sequence[FinalState],
    directions: Directions,
    graph: Trace,
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
        place: the prompt, whose embeddings the points move, and the answers after it, whose embeddings stay.
        directions_of: gives the objective's directions, from the final states of the predictions explained.
        states, directions, graph: of the prompt itself.
        budget: decides how many points run together.
        with_starts: whether to run the points' start too, for readouts that measure from it.
        progress: called with (points done, points in all).

    Raises:
        ObjectiveError: when a number has several directions at some point.
    """
    # The embeddings of every point, with those of the answers after each.
    sequences, reads = place.sequences, place.reads
    names, length = list(graph.activations), len(place.token_ids)
    start = points.start_embeddings(model, place.prompt, length)
    embeddings = points.embeddings(model.token_embeddings(place.token_ids), start)
    answers = [model.token_embeddings(sequence)[length:] for sequence in sequences]
    sums: list[dict[str, Tensor]] = [{} for _ in directions.vectors]

    # Some points at a time, each a row of one forward pass and of one backward pass per direction.
    def run(items: range) -> None:
        batch = _before_each(embeddings[items.start : items.stop], answers)
        rows = len(items) * len(sequences)
        batch_reads = [(first + row, position) for first in range(0, rows, len(sequences)) for row, position in reads]
        changes = [_set_embeddings(batch)]
        batch_graph = trace(model, [*sequences] * len(items), names, path, batch_reads, changes)
        vectors = _directions_at(batch_graph, directions_of, states, directions)
        parts: list[dict[str, Tensor]] = [{} for _ in directions.vectors]

        def add(index: int, name: str, gradient: Tensor, activation: Tensor) -> None:
            parts[index][name] = gradient.sum(0, keepdim=True) / len(embeddings)

        batch_graph.backward(vectors, add)
        # At the end: points that memory ran out for count nothing, and are run again.
        for total, part in zip(sums, parts, strict=True):
            for name, gradient in part.items():
                total[name] = total.get(name, 0) + gradient
        if progress is not None:
            progress(items.stop, len(embeddings))

    longest = max(map(len, sequences)) * len(sequences)
    # As many points as a batch of usual size holds, fewer where memory is short.
    most = max(1, _TOKENS_AT_ONCE // longest)
    run_in_chunks(len(embeddings), lambda _: budget.rows(longest, most), run)
    # What stands in for the prompt's own trace.
    if not directions.squared:  # √w is in the gradients already
        directions = replace(directions, weights=torch.ones_like(directions.weights))
    return AveragedTrace(
        activations={name: values[:1].detach() for name, values in graph.activations.items()},
        token_mask=graph.token_mask[:1],
        gradients=sums,
        directions=directions,
        starts=_activations(model, sequences, _before_each(start[None], answers), names)
        if with_starts and start is not None
        else None,
    )


def _before_each(
    points: Float[Tensor, "point pos d_model"], answers: Sequence[Float[Tensor, "_ d_model"]]
) -> Float[Tensor, "row longest d_model"]:
    """Each point's embeddings before those of each answer, padded with zeros on the right."""
    rows = [torch.cat([point, answer.to(point)]) for point in points for answer in answers]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


def _directions_at(
    graph: Trace,
    directions_of: Callable[[Sequence[FinalState]], Directions],
    states: Sequence[FinalState],
    directions: Directions,
) -> Float[Tensor, "k read d_model"]:
    """The directions at each point: of a number √w v there, for the prompt's own targets; else the prompt's."""
    ys = graph.final_states.detach().to(states[0].y)
    vectors = directions.vectors.reshape(len(directions.vectors), len(states), -1)
    if directions.squared:
        return repeat(vectors, "k read d_model -> k (point read) d_model", point=len(ys) // len(states))
    # A default target is decided at the prompt: along the path the model's top token changes.
    targets = [state.followed_token for state in states]
    at_points = FinalState.several(ys, states[0].unembedding, targets * (len(ys) // len(states)))
    each = [at_points[first : first + len(states)] for first in range(0, len(at_points), len(states))]
    return torch.cat([_number_direction(directions_of(at_point)) for at_point in each], dim=1)


def _set_embeddings(embeddings: Float[Tensor, "row pos d_model"]) -> tuple[str, Hook]:
    """The change that gives a batch these embeddings."""
    return EMBEDDING, lambda embedding: embeddings.to(embedding)


def _number_direction(directions: Directions) -> Float[Tensor, "1 read d_model"]:
    """√w v of an output that is a number, for each of its predictions."""
    if directions.squared or len(directions.vectors) != 1:
        raise ObjectiveError(
            f"the objective has one direction at the prompt and {len(directions.vectors)} at a point of the path; one "
            "that is a number has one everywhere."
        )
    d_model = directions.vectors.shape[-1]
    return directions.weights.sqrt() * directions.vectors.reshape(1, -1, d_model)


def _activations(
    model: ScopedModel,
    sequences: Sequence[Sequence[int]],
    embeddings: Float[Tensor, "row pos d_model"],
    names: Sequence[str],
) -> dict[str, Tensor]:
    """The sites' activations of the prompt with other embeddings."""
    if list(names) == [EMBEDDING]:
        return {EMBEDDING: embeddings[:1]}
    activations = read_activations(model, sequences, names, [_set_embeddings(embeddings)])
    return {name: values[:1] for name, values in activations.items()}
