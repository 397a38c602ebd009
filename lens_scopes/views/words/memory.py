"""How a result's work was laid out in memory, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lens_scopes.engine.memory import MemoryPlan


def memory_words(plan: MemoryPlan | None) -> str:
    """`the whole graph at once`, or how many layers and directions at a time, and how often memory ran out."""
    if plan is None:
        return "no graph"
    words = "the whole graph at once"
    if plan.sliced:
        words = f"the graph of {plan.layers_at_once} of {plan.n_layers} layers at a time, run again on the way back"
        if plan.directions_at_once:
            words += f", directions in groups of {plan.directions_at_once}"
    if plan.rows > 1:
        words += f", {plan.rows} prompts together"
    if plan.shortages:
        words += f"; memory ran out {'once' if plan.shortages == 1 else f'{plan.shortages} times'}"
    return words
