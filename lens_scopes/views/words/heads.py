"""The words and numbers of a head inspection, for all its views: what a change means, and what is odd about these."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lens_scopes.scopes.registry import entry_of_result
from lens_scopes.views.words.attribution import is_divergence, quantity_of, ranking

if TYPE_CHECKING:
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


def unit_of_change(heads: HeadInspection) -> str:
    """The unit of the changes."""
    fallback = "squared units of the directions" if is_divergence(heads) else "units of the explained quantity"
    return entry_of_result(heads.scope).unit or fallback


def heads_interpretation(heads: HeadInspection) -> str:
    """What a change means, in a few sentences, with its unit."""
    moved = f"when the output of a head or an MLP is set to {_BASELINES.get(heads.baseline, heads.baseline)}"
    if is_divergence(heads):
        if not entry_of_result(heads.scope).is_divergence:
            return (
                f"Each number is ½ Σ w a², with a the amounts along the objective's directions by which the final state"
                f" moves {moved}, at every position: predicted to second order. It has no sign."
            )
        moves = "distribution moves" if heads.answer is None else "distributions of the answer's tokens move, added up,"
        return (
            f"Each number says how far the predicted {moves} {moved}, at every position: a Kullback–Leibler divergence"
            " in nats, predicted to second order. It has no sign."
        )
    return (
        f"Each number is the change of {quantity_of(heads)} {moved}, at every position, predicted to first order."
        " Below zero (orange): without it that quantity falls, so it supports the output. Above zero (blue): it works"
        " against it."
    )


def heads_caveat() -> str:
    return (
        "Predictions are extrapolated from one backward pass. The ablations do it for real, one component at a time;"
        " where the two differ, believe the ablation. The direct effect is the part that goes straight to the final"
        " state, its norm’s scale frozen. What a head carries from each source token is measured against zero, whatever"
        " the baseline."
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


def agreement(heads: HeadInspection) -> str:
    """How well predictions and ablations agree, in a sentence."""
    total = heads.effect.numel() + heads.mlp_effect.numel()
    done = len(heads.ablations)
    if not done:
        return "No component was ablated, so the predictions are unchecked."
    which = f"all {total} components" if done == total else f"the {done} strongest of {total} components"
    if heads.spearman is None:
        return f"Ablated: {which}. A rank correlation takes at least three components with different changes."
    return f"Ablated: {which}. Predicted and actual changes rank alike with Spearman’s ρ = {heads.spearman:.2f}."
