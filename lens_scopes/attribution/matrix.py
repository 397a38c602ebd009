"""Source × target: the influence of every token on every later prediction of a text, as one [dest, src] matrix.

Destinations are taken in blocks. A block runs one forward pass over the text up to its end, so early destinations do
not pay for late tokens, and its backward passes share that pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_scopes.attribution.resolved import ResolvedSpec, choice_record
from lens_scopes.attribution.scoring import check_gradients
from lens_scopes.engine.backward import Progress, SlicedTrace, trace_within
from lens_scopes.engine.final_state import FinalState, PredictedToken
from lens_scopes.engine.memory import MemoryPlan, in_portions
from lens_scopes.engine.precision import Products, products_in
from lens_scopes.engine.text_mean import averaged_mask
from lens_scopes.prompts.generation import with_continuation
from lens_scopes.prompts.prompt import next_token_id
from lens_scopes.prompts.read import PromptLike, read_prompt
from lens_scopes.prompts.spans import SpanLike
from lens_scopes.results.matrix import AttributionMatrix
from lens_scopes.scopes.contract import ContractTerms, attribution_contract
from lens_scopes.scopes.objectives import DirectionFunction, Directions, Objective
from lens_scopes.scopes.paths import PathLike
from lens_scopes.scopes.readouts import Readout

_BLOCK = 16  # destinations that share a forward pass


def attribute_all(
    model: Any,
    prompt: PromptLike,
    objective: Objective | str | DirectionFunction | None = None,
    *,
    generate: int = 0,
    spans: Mapping[str, SpanLike] | None = None,
    through: PathLike = None,
    readout: Readout | str = "norm",
    memory: str | int | None = None,
    products: Products = "own",
    progress: Progress | None = None,
) -> AttributionMatrix:
    """The influence of every token on every later prediction of a text.

    Row d holds the scores that `attribute(..., position=d)` gives; the target of a row is the token that follows it
    in the text.

    Args:
        model, prompt, objective, through, readout, memory, products: as for `attribute`.
        generate: tokens for the model to add first, each its most probable one; only the predictions of those are
            explained then.
        spans: named parts of the prompt, for `span_totals`: a part of the text, `Chars(start, stop)`, or (start, stop)
            in tokens; chat messages are named by themselves.
        progress: called with (destinations done, destinations in all).

    Raises:
        LensScopesError: as `attribute`; PromptError when the generated text would not fit the context window.
    """
    resolved = ResolvedSpec.read(
        model, objective, False, (), through, readout, memory, products=products
    ).require_embedding()
    read = read_prompt(model, prompt, spans=spans)
    first = 0
    if generate:
        first = len(read.token_ids) - 1
        read = with_continuation(model, read, generate)
    length = len(read.token_ids)
    destinations = list(range(first, length - 1)) if generate else list(range(length))
    rows: list[Tensor] = []
    targets: list[PredictedToken | None] = []
    predicted: list[PredictedToken] = []
    directions: list[Directions] = []
    memory_used: list[MemoryPlan] = []
    last: list[FinalState] = []

    def run(items: range) -> None:
        block = destinations[items.start : items.stop]
        ids = read.token_ids[: block[-1] + 1]
        plan = resolved.budget().plan(len(ids))
        traced = trace_within(model, [ids], [], plan, resolved.path_hooks(), reads=[(0, dest) for dest in block])
        with torch.no_grad():
            states = resolved.final_states(traced, [next_token_id(read, dest) for dest in block])
            explained = [resolved.objective.directions(state) for state in states]
            named = [(resolved.predicted_target(state), resolved.prediction(state).top[0]) for state in states]
        scores = _rows(traced, explained, resolved.readout, averaged_mask([read.special[: len(ids)]]))
        rows.extend(torch.nn.functional.pad(row, (0, length - len(row))) for row in scores)
        targets.extend(target for target, _ in named)
        predicted.extend(top for _, top in named)
        directions.extend(explained)
        last[:] = states[-1:]
        memory_used.append(traced.outcome(plan, sum(len(item.vectors) for item in explained)))
        if progress is not None:
            progress(len(rows), len(destinations))

    with products_in(resolved.products):
        in_portions(len(destinations), lambda _: _BLOCK, run)
    record = resolved.record(read, destinations[-1], last[-1], whole=True)
    record["objective"] = type(resolved.objective).__name__  # each row has a target of its own
    return AttributionMatrix(
        matrix=torch.stack(rows),
        destinations=destinations,
        targets=targets,
        predicted=predicted,
        generated=generate,
        spans=dict(read.spans),
        **record,
        contract=attribution_contract(
            ContractTerms(
                output=f"{resolved.objective.output}, at each of {len(destinations)} positions",
                position=destinations[-1],
                n_tokens=length,
                sites=[],
                path=None if resolved.path is None else str(resolved.path),
                equation=resolved.objective.equation,
                readout=resolved.readout,
                n_directions=max(len(item.vectors) for item in directions),
                squared=directions[-1].squared,
                sampled=directions[-1].sampled,
            )
        ),
        settings=resolved.settings(
            destinations[-1],
            readout=choice_record(resolved.readout),
            generated=generate,
            products=resolved.products,
            divergence=directions[-1].squared,
        ),
        memory=memory_used[-1],  # of the longest part of the text
        warnings=_direction_warnings(directions, destinations),
    )


def _direction_warnings(directions: Sequence[Directions], destinations: Sequence[int]) -> list[str]:
    """One sentence on the predictions whose directions carry a warning, with the first of them in full."""
    flagged = [(dest, item.warnings[0]) for dest, item in zip(destinations, directions, strict=True) if item.warnings]
    if not flagged:
        return []
    return [f"{len(flagged)} of {len(destinations)} predictions, first after position {flagged[0][0]}: {flagged[0][1]}"]


def _rows(
    traced: SlicedTrace, directions: Sequence[Directions], readout: Readout, averaged: Bool[Tensor, "1 pos"]
) -> list[Float[Tensor, " src"]]:
    """The scores of each destination: its directions through the graph that the block shares."""
    owners = [row for row, item in enumerate(directions) for _ in item.vectors]
    weights = torch.cat([item.weights for item in directions])
    vectors = torch.zeros(len(owners), *traced.final_states.shape).to(traced.final_states)
    for index, vector in enumerate(torch.cat([item.vectors for item in directions])):
        vectors[index, owners[index]] = vector.to(vectors)
    totals: dict[int, Tensor] = {}

    def visit(index: int, name: str, gradient: Tensor, activation: Tensor) -> None:
        baseline = readout.baseline_values(activation, averaged.to(activation.device))
        amplitude = readout.amplitude(gradient, activation, baseline)[0]
        check_gradients(amplitude, name, gradient.dtype)
        row, weight = owners[index], weights[index].to(amplitude)
        term = weight * amplitude**2 if directions[row].squared else weight.sqrt() * amplitude
        totals[row] = totals[row] + term if row in totals else term

    traced.backward(vectors, visit)
    return [totals[row].cpu() for row in range(len(directions))]
