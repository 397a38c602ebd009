"""The smallest memory limit that a plan fits in."""

from collections.abc import Sequence
from typing import Any

from lens_scopes.engine.memory import Budget
from lens_scopes.engine.model import ScopedModel
from lens_scopes.errors import PromptError


def smallest(model: Any, length: int, sites: int = 0, hook_names: Sequence[str] = ()) -> int:
    """The least budget that any plan fits in, with gradients at some sites and hooks of a path."""
    low, high = 1, 10**12
    while low < high:
        middle = (low + high) // 2
        try:
            Budget(ScopedModel.of(model), middle, hook_names, sites).plan(length, 1)
            high = middle
        except PromptError:
            low = middle + 1
    return low
