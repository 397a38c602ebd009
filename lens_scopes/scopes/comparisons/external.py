"""Scores from outside, shown, kept and evaluated like the suite's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.final_state import FinalState
from lens_scopes.engine.model import ScopedModel
from lens_scopes.errors import VALIDATED, ObjectiveError
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.scopes.comparisons.baseline import Baseline

if TYPE_CHECKING:
    from numpy.typing import NDArray

OutsideArray: TypeAlias = Annotated["Tensor | Sequence[float] | NDArray[Any]", VALIDATED]
OutsideFunction: TypeAlias = Annotated["Callable[[Any, Sequence[int]], OutsideArray]", VALIDATED]


@dataclass(frozen=True)
class ExternalScores(Baseline):
    """Scores made elsewhere, to be shown, kept and evaluated like the suite's own.

    Args:
        source: one score a token, or a function of (model, token ids) that returns them.
        name: how results name it.

    Example:
        >>> att = ls.attribute(model, "The capital of France is", ls.ExternalScores([0, 0.1, 0.7, 0.1, 0.4, 0.2]))
        >>> [item.label for item in att.top(2)]
        [' capital', ' France']
    """

    source: OutsideFunction | OutsideArray
    name: str = "outside"
    scope: ClassVar[str] = "outside"
    output: ClassVar[str] = "what the outside scores explain"
    equation: ClassVar[str] = "score_t as given"
    process: ClassVar[str] = "as the outside scores assume"
    held: ClassVar[str] = "as the outside scores hold it"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise ObjectiveError(f"outside scores are named by a text; got {type(self.name).__name__}.")

    def settings(self) -> dict[str, Any]:
        return {"name": self.name}

    def signature(self, label: Callable[[int], str], state: FinalState) -> str:
        return self.name

    def forwards(self, prompt: Prompt) -> int:
        return 0  # what an outside function runs is not known

    def scores(self, model: ScopedModel, prompt: Prompt, states: Sequence[FinalState]) -> Float[Tensor, " pos"]:
        given: Any = self.source(model.module, prompt.token_ids) if callable(self.source) else self.source
        try:
            values = torch.as_tensor(given).detach().to(states[0].y.dtype).cpu()
        except (TypeError, ValueError, RuntimeError) as error:
            raise ObjectiveError(f"outside scores {self.name!r} are not an array of numbers: {error}.") from error
        if values.shape != (len(prompt),):
            raise ObjectiveError(
                f"outside scores {self.name!r} have the shape {tuple(values.shape)}; expected one score for each of "
                f"the {len(prompt)} tokens up to the position explained (BOS included)."
            )
        if not bool(values.isfinite().all()):
            raise ObjectiveError(f"outside scores {self.name!r} are not all finite.")
        return values
