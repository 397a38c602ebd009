"""The words and numbers of predicted and actual changes, for all views: those of heads and MLPs set to a baseline, and
of cells set to another prompt's values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lens_scopes.scopes.registry import entry_of_result
from lens_scopes.views.words.attribution import HasScope, answer_of, is_divergence, quantity_of, ranking, short_names
from lens_scopes.views.words.token_text import printable_token

if TYPE_CHECKING:
    from lens_scopes.results.cells import CellPatches, PatchedCell
    from lens_scopes.results.heads import HeadInspection

_BASELINES = {
    "zero": "zero",
    "mean": "its mean over the prompt’s non-special tokens",
    "shuffle": "its output in a prompt of the same tokens in a random order, special tokens in place",
    "prompt": "its output under the other prompt, which the contract names",
}


@dataclass(frozen=True)
class HeadLine:
    """One head's line: what it was predicted to do, what it did, and where from."""

    layer: int
    head: int
    effect: float
    actual: float | None
    direct: float
    kind: str | None
    share: float
    sources: list[float]

    @property
    def name(self) -> str:
        return f"L{self.layer}H{self.head}"

    @property
    def key(self) -> str:
        """The id of its strip on a page."""
        return f"head-l{self.layer}h{self.head}"

    def carriers(self, special: Sequence[bool], most: int = 3) -> list[int]:
        """The source tokens with the largest parts of the change, outside the special ones."""
        return ranking(self.sources, special)[:most]


def head_lines(heads: HeadInspection) -> list[HeadLine]:
    """One line per head, strongest first; changes that are not finite come last."""
    actual = {(item.layer, item.head): item.actual for item in heads.ablations}
    direct = heads.direct_effect.tolist()
    sources = heads.by_source.tolist()
    lines = []
    for layer, row in enumerate(heads.effect.tolist()):
        for head, change in enumerate(row):
            kind, share = _kind(heads, layer, head)
            lines.append(
                HeadLine(
                    layer=layer,
                    head=head,
                    effect=change,
                    actual=actual.get((layer, head)),
                    direct=direct[layer][head],
                    kind=kind,
                    share=share,
                    sources=sources[layer][head],
                )
            )
    return sorted(lines, key=lambda line: -abs(line.effect) if math.isfinite(line.effect) else math.inf)


def _kind(heads: HeadInspection, layer: int, head: int) -> tuple[str | None, float]:
    name = heads.type_of(layer, head) if heads.head_types else None
    if name is None:
        return None, 0.0
    return name.replace("_token", "-token").replace("_", " "), float(heads.head_types[name][layer, head])


def unit_of_change(result: HasScope) -> str:
    """The unit of the changes."""
    fallback = "squared units of the directions" if is_divergence(result) else "units of the explained quantity"
    return entry_of_result(result.scope).unit or fallback


def heads_interpretation(heads: HeadInspection) -> str:
    """What a head's change means, in a few sentences, with its unit."""
    baseline = _BASELINES.get(heads.baseline, heads.baseline)
    moved = f"when the output of a head or an MLP is set to {baseline}, at every position"
    return _interpretation(heads, moved, "without it")


def cells_interpretation(patches: CellPatches) -> str:
    """What a cell's change means, in a few sentences, with its unit."""
    moved = "when the residual stream at one layer and token is set to its value under the other prompt"
    return _interpretation(patches, moved, "with the other prompt’s value there")


def _interpretation(result: HasScope, moved: str, then: str) -> str:
    if is_divergence(result):
        if not entry_of_result(result.scope).is_divergence:
            return (
                f"Each number is ½ Σ w a², with a the amounts along the objective's directions by which the final state"
                f" moves {moved}: predicted to second order. It has no sign."
            )
        whole = answer_of(result) is not None
        moves = "distributions of the answer's tokens move, added up," if whole else "distribution moves"
        return (
            f"Each number says how far the predicted {moves} {moved}: a Kullback–Leibler divergence in nats, predicted"
            " to second order. It has no sign."
        )
    return (
        f"Each number is the change of {quantity_of(result)} {moved}, predicted to first order."
        f" Below zero (orange): {then} that quantity falls, so it supports the output. Above zero (blue): it works"
        " against it."
    )


def heads_caveat(heads: HeadInspection) -> str:
    """How far predictions hold, and what those of MLPs are made of."""
    rules = heads.settings.get("mlp_rules")
    of_mlps = f" An MLP’s is the mean of that and of one by another backward pass ({rules})." if rules else ""
    return (
        f"Predictions are extrapolated from one backward pass.{of_mlps} The ablations do it for real, one component"
        " at a time; where the two differ, believe the ablation. The direct effect is the part that goes straight to"
        " the final state, its norm’s scale frozen. What a head carries from each source token is measured against"
        " zero, whatever the baseline."
    )


def cells_caveat() -> str:
    return (
        "Predictions are extrapolated from the gradients that the contract names. The patches do it for real, one cell"
        " at a time; where the two differ, believe the patch. Cells do not add up: what moves through one layer passes"
        " through the cells of the next."
    )


def heads_data_warnings(heads: HeadInspection) -> list[str]:
    """Sentences on what the maps cannot show: numbers that are not finite, all zero. Usually empty."""
    notes = []
    changes = heads.effect.flatten().tolist()
    broken = sum(not math.isfinite(change) for change in changes)
    if broken:
        verb = "has a change that is" if broken == 1 else "have changes that are"
        notes.append(f"{broken} of {len(changes)} heads {verb} not finite (NaN or infinite), outside the colour scale.")
    finite = [change for change in changes if math.isfinite(change)]
    if finite and not any(finite):
        notes.append(
            f"The change of every {'other ' if broken else ''}head is exactly zero: within this objective and path no"
            " head has a first-order effect."
        )
    mlps = sum(not math.isfinite(change) for change in heads.mlp_effect.tolist())
    if mlps:
        notes.append(f"{mlps} of {len(heads.mlp_effect)} MLPs have changes that are not finite.")
    undone = sum(not math.isfinite(item.actual) for item in heads.ablations)
    if undone:
        notes.append(f"{undone} of {len(heads.ablations)} ablations gave a change that is not finite.")
    return notes


def cells_data_warnings(patches: CellPatches) -> list[str]:
    """Sentences on what the map cannot show: numbers that are not finite, all zero. Usually empty."""
    notes = []
    changes = patches.effect.flatten().tolist()
    broken = sum(not math.isfinite(change) for change in changes)
    if broken:
        notes.append(f"{broken} of {len(changes)} cells have changes that are not finite, outside the colour scale.")
    if not broken and not any(changes):
        notes.append("The change of every cell is exactly zero: the two prompts do not differ there for this output.")
    undone = sum(not math.isfinite(cell.actual) for cell in patches.cells)
    if undone:
        notes.append(f"{undone} of {len(patches.cells)} patches gave a change that is not finite.")
    return notes


def tokens_pair(mine: str, other: str) -> str:
    """`␣France → ␣Italy`, or one token where the two prompts have the same."""
    return printable_token(mine) if mine == other else f"{printable_token(mine)} → {printable_token(other)}"


@dataclass(frozen=True)
class Change:
    """One intervention as charts draw it: what it was predicted to change, and what it changed.

    Attributes:
        name: of the component or cell.
        apart: whether it is drawn with the second mark, as MLPs are.
    """

    name: str
    predicted: float
    actual: float
    apart: bool = False

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.predicted) and math.isfinite(self.actual)


def changes_of_heads(heads: HeadInspection) -> list[Change]:
    """The ablated components."""
    return [Change(item.name, item.predicted, item.actual, item.head is None) for item in heads.ablations]


def changes_of_cells(patches: CellPatches) -> list[Change]:
    """The patched cells."""
    return [Change(_cell_name(patches, cell), cell.predicted, cell.actual) for cell in patches.cells]


def _cell_name(patches: CellPatches, cell: PatchedCell) -> str:
    """`L3 ␣France`, with its position where the token comes more than once."""
    place = f" ({cell.position})" if patches.tokens.count(cell.token) > 1 else ""
    return f"{short_names(patches.layer_names)[cell.layer]} {printable_token(cell.token)}{place}"


def heads_agreement(heads: HeadInspection) -> str:
    """How well predictions and ablations agree, in a sentence."""
    total = heads.effect.numel() + heads.mlp_effect.numel()
    if not heads.ablations:
        return "No component was ablated, so the predictions are unchecked."
    return f"Ablated: {_agreement(len(heads.ablations), total, 'components', heads.spearman)}"


def cells_agreement(patches: CellPatches) -> str:
    """How well predictions and patches agree, in a sentence."""
    if not patches.cells:
        return "No cell was patched, so the predictions are unchecked."
    return f"Patched: {_agreement(len(patches.cells), patches.effect.numel(), 'cells', patches.spearman)}"


def _agreement(done: int, total: int, noun: str, spearman: float | None) -> str:
    which = f"all {total} {noun}" if done == total else f"the {done} strongest of {total} {noun}"
    if spearman is None:
        return f"{which}. A rank correlation takes at least three {noun} with different changes."
    return f"{which}. Spearman’s ρ = {spearman:.2f} between predicted and actual changes."
