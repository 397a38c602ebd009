"""CellPatches: another prompt's residual stream put into cells of a layers × tokens map, predicted and then done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.final_state import PredictedToken
from lens_scopes.results.base import AnswerRecord, Entry, Result
from lens_scopes.results.storage.writing import data_frame

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


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class CellPatches(Result):
    """What another prompt's residual stream changes at every layer and token, the strongest cells patched for real.

    Attributes:
        effect: [layer, pos], predicted change of the output explained when the cell's activation is that of the other
            prompt: logits, nats or units of β, as the objective's; negative for a cell that supports the output. For
            Fisher Scope a divergence in nats, ≥ 0.
        layer_names: the hook names of its rows.
        baseline_tokens: the tokens of the other prompt, aligned with `tokens`; an answer's own stand in both.
        cells: predicted and actual change of the cells that were patched, strongest first by what was predicted; those
            whose activation is the same under both prompts are left out.
        spearman: rank correlation of the two; None for fewer than three cells.
        target: the token explained, for objectives that have one.
        answer: the answer explained in place of the next token, which follows either prompt; else None.
        other_answer: the answer that it is contrasted with; else None.

    The other attributes are those of Result.

    Example:
        >>> other = ls.Dot("The capital of Italy is")
        >>> att = ls.attribute(model, "The capital of France is", layers=True, readout=other)
        >>> patches = ls.patch_cells(model, att, 2)
        >>> patches.effect.shape, len(patches.cells), patches.top(1)[0].index
        (torch.Size([2, 6]), 2, (1, 4))
    """

    kind = "cells"
    aligned = {"pos": (*Result.aligned["pos"], "baseline_tokens"), "layer": ("layer_names",)}

    effect: Float[Tensor, "layer pos"]
    layer_names: list[str]
    baseline_tokens: list[str]
    cells: list[PatchedCell]
    spearman: float | None
    target: PredictedToken | None = None
    answer: AnswerRecord | None = None
    other_answer: AnswerRecord | None = None

    def __repr__(self) -> str:
        named = ", ".join(f"{item.label} {item.score:.3g}" for item in self.top(3))
        agreement = "" if self.spearman is None else f"; patches agree with Spearman {self.spearman:.2f}"
        return f"CellPatches({self.objective} on {self.model['name']}; strongest: {named}{agreement})"

    def entries(self) -> list[Entry]:
        return [
            Entry((layer, position), f"L{layer} {token!r}", self.special[position])
            for layer in range(len(self.layer_names))
            for position, token in enumerate(self.tokens)
        ]

    def values(self) -> Float[Tensor, " layer_pos"]:
        return rearrange(self.effect, "layer pos -> (layer pos)")

    def difference_parts(self) -> dict[str, Tensor]:
        return {"effect": self.effect}

    def to_pandas(self) -> pandas.DataFrame:
        """One row per cell: layer, site, position, token, other_token, predicted, and actual where it was patched."""
        actual = {(cell.layer, cell.position): cell.actual for cell in self.cells}
        rows: list[Mapping[str, Any]] = [
            {
                "layer": layer,
                "site": site,
                "position": position,
                "token": token,
                "other_token": self.baseline_tokens[position],
                "predicted": float(self.effect[layer, position]),
                "actual": actual.get((layer, position), float("nan")),
            }
            for layer, site in enumerate(self.layer_names)
            for position, token in enumerate(self.tokens)
        ]
        return data_frame(rows)
