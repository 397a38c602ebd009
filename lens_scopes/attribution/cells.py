"""Cells of the layers × tokens map: what another prompt's residual stream there changes, predicted and then done.

A cell's score by the readout `dot` from another prompt, a_l,t = vᵀJ_l,t (x_l,t − x′_l,t), predicts that the output
explained changes by −a_l,t when x′_l,t is put in place of x_l,t, and that a divergence becomes ½ Σ_i w_i a_i,l,t².
Of a whole answer both are summed over its predictions, and the answer follows either prompt. Gradients averaged along
the path from that prompt predict large changes better than those at the prompt alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from lens_scopes.attribution.component_ablation import changed_final_states, disagreement_warnings, rank_agreement
from lens_scopes.attribution.prompt_position import PromptPosition
from lens_scopes.attribution.provenance import record_alterations
from lens_scopes.attribution.resolved import ResolvedSpec
from lens_scopes.engine.backward import Progress, read_activations
from lens_scopes.engine.model import Hook, ModelLike, ScopedModel, one_at_a_time
from lens_scopes.errors import ModelError, ObjectiveError, ReadoutError, whole_number
from lens_scopes.models.load import model_record
from lens_scopes.prompts.answer import tokenize_answer
from lens_scopes.prompts.read import read_prompt
from lens_scopes.results.attribution import Attribution
from lens_scopes.results.base import Result
from lens_scopes.results.cells import CellPatches, PatchedCell
from lens_scopes.scopes.contract import OF_ANSWER, contract
from lens_scopes.scopes.other_prompt import OtherPrompt, describe_other_prompt
from lens_scopes.scopes.readouts import Dot
from lens_scopes.scopes.registry import scope_entries
from lens_scopes.scopes.spec import Spec

_MAX_NAMED = 2  # sites in the contract


@one_at_a_time
@record_alterations
def patch_cells(
    model: ModelLike, attribution: Attribution, strongest: int = 10, *, progress: Progress | None = None
) -> CellPatches:
    """Puts another prompt's residual stream into the strongest cells of a map, one at a time.

    Args:
        model: the model that the attribution is of.
        attribution: from `attribute(..., layers=True, readout=ls.Dot(other_prompt))`, also with
            `points=ls.StraightPath(other_prompt)`; of the next token or of whole answers, which follow both prompts.
        strongest: how many cells to patch, of those whose activation differs between the two prompts.
        progress: called with (cells patched, cells to patch).

    Returns:
        A CellPatches: the predicted change of the output explained for every cell, in the output's unit (logits, nats
        or β), and beside it the actual one for the strongest.

    Raises:
        ReadoutError: for an attribution without layers, or by another readout.
        ModelError: for another model than the attribution's.
        LensScopesError: as `attribute`; ObjectiveError for a function of one's own, which no record holds.

    Example:
        >>> other = ls.Dot("The capital of Italy is")
        >>> att = ls.attribute(model, "The capital of France is", layers=True, readout=other)
        >>> [(cell.layer, cell.token, cell.other_token) for cell in ls.patch_cells(model, att, 1).cells]
        [(1, ' France', ' Italy')]
    """
    if not isinstance(attribution, Attribution):
        raise ReadoutError(f"patch_cells takes an Attribution, and got {type(attribution).__name__}.")
    strongest = whole_number(strongest, "the number of cells to patch", ReadoutError)
    scoped = ScopedModel.of(model)
    _check_model(scoped, attribution)
    spec, other = _spec_and_other(scoped, attribution)
    resolved = ResolvedSpec.of(scoped, spec, takes_answers=True)
    # From here on with the attribution's own precision of matrix products.
    scoped = resolved.model
    # The runs between which patches move. The attribution has put the two prompts beside each other, before it cut
    # either at its position.
    place = replace(_place(scoped, attribution, spec), other=read_prompt(scoped, other))
    activations, other_activations = (
        read_activations(scoped, sequences, attribution.layer_names)
        for sequences in (place.sequences, place.other_sequences)
    )
    before = resolved.check_states(scoped.run_to_final_states(place.sequences, reads=place.reads), place.targets)

    # What is predicted of every cell, and the strongest.
    assert attribution.layers is not None
    # Of a divergence the scores are Σ_i w_i a_i², of a number they are a itself; 0 − a leaves no minus zero.
    effect = 0.5 * attribution.layers if attribution.settings["divergence"] else 0.0 - attribution.layers
    order = effect.abs().flatten().argsort(descending=True, stable=True).tolist()
    cells = [divmod(index, len(attribution)) for index in order]
    # Where both prompts have the same activation, a patch is none. Of two answers both rows begin with the prompt.
    differs = [
        (activations[name][0] != other_activations[name][0]).any(-1).tolist() for name in attribution.layer_names
    ]
    cells = [(layer, position) for layer, position in cells if differs[layer][position]][:strongest]

    # What patching does.
    def hooks(copies: Sequence[tuple[int, int]]) -> list[tuple[str, Hook]]:
        return [
            (name, _patch_hook(copies, layer, other_activations[name]))
            for layer, name in enumerate(attribution.layer_names)
        ]

    ys = changed_final_states(scoped, place, cells, hooks, progress, resolved.budget()) if cells else ()
    actual = [resolved.change(place, before, resolved.check_states(y, place.targets)) for y in ys]
    expected = [float(effect[cell]) for cell in cells]
    spearman = rank_agreement(expected, actual)
    tokens = place.baseline_tokens(attribution.tokens)
    record = {item.name: getattr(attribution, item.name) for item in fields(Result)} | {
        "contract": _contract(attribution, resolved, place),
        "settings": {**attribution.settings, "verified": len(cells)},
        "warnings": [
            *attribution.warnings,
            *disagreement_warnings(spearman, f"{len(cells)} cells", "patches"),
        ],
    }
    return CellPatches(
        **record,
        effect=effect,
        layer_names=list(attribution.layer_names),
        baseline_tokens=tokens,
        cells=[
            PatchedCell(layer, attribution.layer_names[layer], at, attribution.tokens[at], tokens[at], *changes)
            for (layer, at), *changes in zip(cells, expected, actual, strict=True)
        ],
        spearman=spearman,
        target=attribution.target,
        answer=attribution.answer,
        other_answer=attribution.other_answer,
    )


def _place(model: ScopedModel, attribution: Attribution, spec: Spec) -> PromptPosition:
    """The prompt of an attribution with what was explained after it: the next token, or the tokens of the answers."""
    ids = attribution.token_ids[: attribution.position + 1]
    place = PromptPosition.read(model, ids, -1, None if attribution.target is None else attribution.target.token_id)
    records = [record for record in (attribution.answer, attribution.other_answer) if record is not None]
    if not records:
        return place
    answers = tuple(
        replace(tokenize_answer(model, place.prompt, record.token_ids), generated=record.generated)
        for record in records
    )
    return PromptPosition(place.prompt, place.position, None, answers, spec.eligible == "all", spec)


def _check_model(model: ScopedModel, attribution: Attribution) -> None:
    """Raises ModelError where the attribution is of another model."""
    record: Any = model_record(model)
    for name in ("name", "n_layers", "d_model", "d_vocab"):
        mine, theirs = getattr(record, name), attribution.model.get(name)
        if mine != theirs:
            raise ModelError(
                f"the attribution is of a model whose {name} is {theirs!r}, and this one's is {mine!r}; give the model "
                "that it is of."
            )


def _spec_and_other(model: ScopedModel, attribution: Attribution) -> tuple[Spec, OtherPrompt]:
    """What an attribution was asked for, and the other prompt that its map is measured from.

    Raises:
        ReadoutError: where there is no such map.
        ObjectiveError: for a function of one's own, which no record holds.
    """
    if attribution.spec["scope"] not in scope_entries():
        raise ObjectiveError(
            f"{attribution.objective} is a value of Python alone, which no record holds; give it a name with "
            "ls.register_objective."
        )
    spec = Spec.from_options(**attribution.spec)
    other = spec.other_prompt(model) if isinstance(spec.readout, Dot) else None
    if attribution.layers is None or other is None:
        raise ReadoutError(
            "cells are patched from the other prompt of an attribution at every layer; make one with "
            "attribute(..., layers=True, readout=ls.Dot(other_prompt)), on the command line with --layers --against."
        )
    return spec, other


def _contract(attribution: Attribution, resolved: ResolvedSpec, place: PromptPosition) -> dict[str, str]:
    names, points, path = attribution.layer_names, resolved.points, resolved.path
    sites = " and ".join(names) if len(names) <= _MAX_NAMED else f"{names[0]} … {names[-1]} ({len(names)} layers)"
    averaging = "" if points is None else f", gradients averaged over {points.describe()}"
    held = (
        "the weights, all embeddings, the residual stream at the same layer's other positions, and the explained "
        "directions v; later layers respond"
    )
    if path is not None:
        held += f"; {path.held}; a patch moves everything, as the model does"
    assert place.other is not None
    moved_to = f"its value x′ under {describe_other_prompt(place.other.text or place.other.token_ids)}"
    process = f"one cell at a time is set to {moved_to}; predicted to first order{averaging}, verified by patching"
    amount = "½ Σ_i w_i a_i²" if attribution.settings["divergence"] else "−a"
    tokens = f"the {len(attribution)} tokens up to that position"
    if place.answers:
        n_answer = len(attribution) - len(place.token_ids)
        tokens = f"the prompt's {len(place.token_ids)} tokens"
        tokens += f" and the first {n_answer} of the answer" if n_answer else ""
        process = f"{place.answer_process}, and follow either prompt; {process}"
    return contract(
        output=attribution.contract["output explained"],
        features=f"the residual stream ({sites}) of {tokens}",
        process=process,
        held=held,
        score=f"change of the output explained: {amount} with a = vᵀJ (x − x′) along {resolved.objective.equation}"
        f"{OF_ANSWER if place.answers else ''}",
    )


def _patch_hook(copies: Sequence[tuple[int, int]], layer: int, values: Float[Tensor, "row pos d_model"]) -> Hook:
    """Puts values into one layer's cells, one cell in all rows of a copy."""
    mine = [(copy, position) for copy, (its_layer, position) in enumerate(copies) if its_layer == layer]

    def hook(activation: Tensor) -> Tensor:
        changed = activation.clone()
        # Each copy has a row for each answer, all of which get the same cell.
        by_copy = changed.unflatten(0, (-1, len(values)))
        for copy, position in mine:
            by_copy[copy, :, position] = values[:, position]
        return changed

    return hook
