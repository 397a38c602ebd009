"""A user's own function of the final state and the logits as an objective."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from lens_scopes.engine.final_state import FinalState
from lens_scopes.engine.scoring import Directions
from lens_scopes.errors import ObjectiveError, whole_number
from lens_scopes.scopes.objectives.base import Objective

DirectionFunction = Callable[[Tensor, Tensor], "Directions | Tensor | tuple[Tensor, Tensor]"]


@dataclass(frozen=True)
class Custom(Objective):
    """A user's own objective: any function from the final state and the logits to directions.

    Args:
        function: takes y [d_model] and logits [d_vocab] and returns one direction [d_model], several [k, d_model]
            (weight one each), a pair (vectors [k, d_model], weights [k]), or Directions.
        name: how results name it.

    Example:
        >>> top = ls.Custom(lambda y, logits: y / y.norm(), name="confidence")
        >>> scores = ls.attribute(model, "The capital of France is", top).scores
        >>> torch.allclose(scores, ls.attribute(model, "The capital of France is", ls.Temperature()).scores)
        True
    """

    function: DirectionFunction
    name: str = "custom"
    scope: ClassVar[str] = "custom"
    equation: ClassVar[str] = "v_i and w_i as the function gives them"
    output: ClassVar[str] = "a user-defined function of the final state"

    def __post_init__(self) -> None:
        if not callable(self.function) or not isinstance(self.name, str):
            raise ObjectiveError("a custom objective is a function of (y, logits), and its name is a text.")

    def directions(self, state: FinalState) -> Directions:
        with torch.no_grad():
            returned = self.function(state.y.clone(), state.logits.clone())
        if isinstance(returned, Directions):
            self._check_fields(returned)
            self._check(returned.vectors, returned.weights, len(state.y))
            return returned
        vectors, weights = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, None)
        if not isinstance(vectors, Tensor):
            raise ObjectiveError(
                f"objective {self.name!r} returned {type(returned).__name__}; expected a tensor of directions, a pair "
                "(vectors, weights), or Directions."
            )
        vectors = vectors[None] if vectors.ndim == 1 else vectors
        weights = vectors.new_ones(vectors.shape[:1]) if weights is None else torch.as_tensor(weights)
        self._check(vectors, weights, len(state.y))
        return Directions(vectors.to(state.y), weights.to(state.y), squared=len(vectors) > 1)

    def _check_fields(self, returned: Directions) -> None:
        """Raises ObjectiveError for Directions whose fields are something else."""
        for name, kind in (("vectors", Tensor), ("weights", Tensor), ("squared", bool), ("details", Mapping)):
            if not isinstance(value := getattr(returned, name), kind):
                raise ObjectiveError(
                    f"objective {self.name!r} returned Directions whose {name} are {type(value).__name__}; expected "
                    f"{kind.__name__}."
                )
        words = returned.warnings
        if not isinstance(words, list | tuple) or not all(isinstance(text, str) for text in words):
            raise ObjectiveError(f"objective {self.name!r} returned Directions whose warnings are no list of texts.")
        rows = returned.vectors.shape[0] if returned.vectors.ndim else 0
        whole_number(returned.sampled, "sampled", ObjectiveError, most=rows)

    def _check(self, vectors: Tensor, weights: Tensor, d_model: int) -> None:
        problem = None
        if vectors.ndim != 2 or vectors.shape[1] != d_model or len(vectors) == 0:
            problem = f"directions of shape {tuple(vectors.shape)}; expected [{d_model}] or [k, {d_model}]"
        elif weights.shape != (len(vectors),):
            problem = f"weights of shape {tuple(weights.shape)}; expected {len(vectors)}, one for each direction"
        elif not bool(vectors.isfinite().all()):
            problem = "non-finite directions"
        elif not bool((weights.isfinite() & (weights >= 0)).all()):
            problem = f"the weights {[round(value, 6) for value in weights.tolist()]}; expected non-negative numbers"
        if problem is not None:
            raise ObjectiveError(f"objective {self.name!r} returned {problem}.")

    def change(self, before: FinalState, after: FinalState) -> float:
        directions = self.directions(before)
        amounts = directions.vectors @ (after.y - before.y)
        return float(self.predicted_change(directions, amounts))

    def settings(self) -> dict[str, Any]:
        return {"name": self.name}

    def signature(self, label: Callable[[int], str], state: FinalState) -> str:
        return self.name
