"""Cells of the layers × tokens map: what another prompt's residual stream there changes, predicted and then done.

A cell's score by the readout `dot` from another prompt, a_l,t = vᵀJ_l,t (x_l,t − x′_l,t), predicts that the output
explained changes by −a_l,t when x′_l,t is put in place of x_l,t, and that a divergence becomes ½ Σ_i w_i a_i,l,t².
Gradients averaged along the path from that prompt predict large changes better than those at the prompt alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lens_scopes.attribution.component_ablation import changed_final_states, disagreement_warnings, rank_agreement
from lens_scopes.attribution.resolved import ResolvedSpec
from lens_scopes.engine.backward import Progress, read_activations
from lens_scopes.engine.model import Hook, ModelLike, ScopedModel, one_at_a_time
from lens_scopes.errors import ObjectiveError, ReadoutError, whole_number
from lens_scopes.prompts.read import read_prompt
from lens_scopes.results.attribution import Attribution
from lens_scopes.scopes.other_prompt import OtherPrompt
from lens_scopes.scopes.points import StraightPath
from lens_scopes.scopes.readouts import Dot
from lens_scopes.scopes.registry import scope_entries
from lens_scopes.scopes.spec import Spec

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class PatchedCell:
    """One cell of a layers × tokens map, patched.

    Attributes:
        layer, position: the cell; its activation is that of the hook `site` at this position.
        token, other_token: the tokens of the two prompts there.
        predicted: predicted change of the output explained when the other prompt's activation is put there.
        actual: the change that doing it brings about.
    """

    layer: int
    site: str
    position: int
    token: str
    other_token: str
    predicted: float
    actual: float


@dataclass(frozen=True)
class CellPatches:
    """The strongest cells of a map, patched one at a time.

    Attributes:
        cells: strongest first, by what was predicted.
        spearman: rank correlation of predicted and actual changes; None for fewer than three cells.
        warnings: a sentence where the two do not agree.

    Example:
        >>> other = ls.Dot("The capital of Italy is")
        >>> att = ls.attribute(model, "The capital of France is", layers=True, readout=other)
        >>> ls.patch_cells(model, att, 2).to_pandas().columns.tolist()
        ['layer', 'site', 'position', 'token', 'other_token', 'predicted', 'actual']
    """

    cells: list[PatchedCell]
    spearman: float | None
    warnings: list[str] = field(default_factory=list)

    def to_pandas(self) -> pandas.DataFrame:
        """One row per cell: layer, site, position, token, other_token, predicted and actual."""
        import pandas

        return pandas.DataFrame([asdict(cell) for cell in self.cells], columns=list(PatchedCell.__dataclass_fields__))


@one_at_a_time
def patch_cells(
    model: ModelLike, attribution: Attribution, strongest: int = 10, *, progress: Progress | None = None
) -> CellPatches:
    """Puts another prompt's residual stream into the strongest cells of a map, one at a time.

    Args:
        model: the model that the attribution is of.
        attribution: of the next token, from `attribute(..., layers=True, readout=ls.Dot(other_prompt))`, also with
            `points=ls.StraightPath(other_prompt)`.
        strongest: how many cells to patch.
        progress: called with (cells patched, cells to patch).

    Returns:
        The predicted and actual change of the output explained for each cell, in the output's unit: logits, nats or β.

    Raises:
        ReadoutError: for an attribution without layers, of a whole answer, or by another readout.
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
    if attribution.spec["scope"] not in scope_entries():
        raise ObjectiveError(
            f"{attribution.objective} is a value of Python alone, which no record holds; give it a name with "
            "ls.register_objective."
        )
    spec = Spec.from_options(**attribution.spec)
    scoped = ScopedModel.of(model)
    other = _other_prompt(spec, scoped)
    if attribution.layers is None or attribution.answer is not None or spec.answers or other is None:
        raise ReadoutError(
            "cells are patched from the other prompt of an attribution of the next token; make one with "
            "attribute(..., layers=True, readout=ls.Dot(other_prompt))."
        )
    resolved = ResolvedSpec.of(scoped, spec)
    scoped, ids = resolved.model, attribution.token_ids
    beside = read_prompt(scoped, other)
    there = read_activations(scoped, [beside.token_ids[: len(ids)]], attribution.layer_names)
    target = None if attribution.target is None else attribution.target.token_id
    (state,) = resolved.checked_states(scoped.run_to_final_states([ids]), [target])

    # The strongest cells, and what was predicted of them.
    divergence = attribution.settings["divergence"]
    predicted = 0.5 * attribution.layers if divergence else -attribution.layers
    order = predicted.abs().flatten().argsort(descending=True, stable=True)[:strongest].tolist()
    places = [divmod(index, len(ids)) for index in order]

    # What patching does.
    def hooks(rows: Sequence[tuple[int, int]]) -> list[tuple[str, Hook]]:
        return [(name, _patching(rows, layer, there[name][0])) for layer, name in enumerate(attribution.layer_names)]

    ys = changed_final_states(scoped, ids, places, hooks, progress, resolved.budget()) if places else torch.empty(0)
    after = resolved.checked_states(ys, [target] * len(places)) if places else []
    actual = [resolved.objective.change(state, reached) for reached in after]
    expected = [float(predicted[place]) for place in places]
    spearman = rank_agreement(expected, actual)
    return CellPatches(
        [
            PatchedCell(layer, attribution.layer_names[layer], at, attribution.tokens[at], beside.tokens[at], *changes)
            for (layer, at), *changes in zip(places, expected, actual, strict=True)
        ],
        spearman,
        disagreement_warnings(spearman, f"{len(places)} cells", "patches"),
    )


def _other_prompt(spec: Spec, model: ScopedModel) -> OtherPrompt | None:
    """The prompt that scores are measured from, by the readout alone or along a path."""
    if not isinstance(spec.readout, Dot):
        return None
    return spec.points.other_prompt(model) if isinstance(spec.points, StraightPath) else spec.readout.other_prompt


def _patching(rows: Sequence[tuple[int, int]], layer: int, values: Tensor) -> Hook:
    """Puts values [pos, d_model] into one layer's cells of the rows of a batch."""
    mine = [(row, position) for row, (its_layer, position) in enumerate(rows) if its_layer == layer]

    def hook(activation: Tensor) -> Tensor:
        changed = activation.clone()
        for row, position in mine:
            changed[row, position] = values[position]
        return changed

    return hook
