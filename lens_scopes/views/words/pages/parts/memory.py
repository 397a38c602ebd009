"""How a result's work was laid out in memory, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lens_scopes.engine.memory import MemoryPlan


def memory_words(plan: MemoryPlan | None) -> str:
    """`the whole graph at once`, or how many layers and directions at a time, how often memory ran out, and where
    attention holds every score."""
    if plan is None:
        return "no graph"
    words = "the whole graph at once"
    if plan.sliced:
        words = f"the graph of {plan.layers_at_once} of {plan.n_layers} layers at a time, run again on the way back"
        if plan.directions_at_once:
            words += f", directions in groups of {plan.directions_at_once}"
    if plan.frees_at_once:
        words += ", memory given back at once"
    if plan.rows > 1:
        words += f", {plan.rows} prompts together"
    if plan.shortages:
        words += f"; memory ran out {'once' if plan.shortages == 1 else f'{plan.shortages} times'}"
    for reason, layers in (plan.unfused or {}).items():
        count = "all layers" if len(layers) == plan.n_layers else f"{len(layers)} of {plan.n_layers} layers"
        words += f"; attention unfused in {count} ({reason})"
    return words


def memory_amounts(plan: MemoryPlan | None) -> str:
    """The memory planned, and that measured at the peak where the system counts it."""
    from lens_scopes.engine.memory import in_units

    if plan is None:
        return "none planned"
    measured = "" if plan.peak is None else f", {in_units(plan.peak)} at the peak"
    return f"{in_units(plan.estimate)} planned{measured}, beyond the model's weights"
