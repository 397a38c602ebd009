"""ModeInspection: the leading Fisher modes of one prediction, decoded into tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.results.base import Entry, Result
from lens_scopes.results.storage.writing import data_frame

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class ProbabilityChange:
    """A change of one token's probability."""

    token_id: int
    token: str
    change: float


@dataclass(frozen=True)
class FisherMode:
    """One eigenvector of the Fisher information, decoded.

    Attributes:
        eigenvalue: λ_i, in nats per squared unit of y.
        rising, falling: the tokens whose probability changes most along u_i, by p_j (w_j − w̄)ᵀu_i / √λ_i: the
            change for a step that costs ½ nat to second order. The sign of u_i is chosen so that the largest change
            is a rise. Empty for a mode that is not resolved.
        resolved: whether λ_i is above the solver's error, residual · λ_1, and above rounding.
    """

    eigenvalue: float
    rising: list[ProbabilityChange]
    falling: list[ProbabilityChange]
    resolved: bool = True

    @property
    def contrast(self) -> str:
        """The mode in a few words: its two strongest rising tokens against its two strongest falling ones."""
        if not self.resolved:
            return "too small to be resolved"
        sides = [" ".join(repr(shift.token) for shift in side[:2]) for side in (self.rising, self.falling)]
        return f"{sides[0]} ↔ {sides[1]}"


@dataclass(frozen=True)
class TokenReplacement:
    """What moving one source token to its baseline does to the prediction.

    Attributes:
        index, token: the source token.
        amounts: a_i, the signed change of y along each mode, in units of y; positive towards the mode's rising tokens.
        predicted: the largest predicted changes of probability, first order, through the modes kept.
        actual: what happened to the same tokens when the embedding was really replaced.
        agreement: cosine of predicted and actual Δp over all tokens of the vocabulary, between −1 and 1.
        predicted_nats, actual_nats: KL(before ‖ after), ½ Σ_i λ_i a_i² and as it came out.
    """

    index: int
    token: str
    amounts: list[float]
    predicted: list[ProbabilityChange]
    actual: list[ProbabilityChange]
    agreement: float
    predicted_nats: float
    actual_nats: float

    def sentence(self) -> str:
        """What replacing the token did, in words: the largest rise and fall of a probability, in percentage points,
        and what was predicted for the same two tokens.

        Example:
            >>> rise, fall = ProbabilityChange(1, " is", 0.112), ProbabilityChange(2, " the", -0.101)
            >>> predicted = [ProbabilityChange(1, " is", 0.02), ProbabilityChange(2, " the", 0.004)]
            >>> TokenReplacement(5, " is", [], predicted, [rise, fall], -0.25, 0.02, 1.95).sentence()
            "Replacing ' is': ' is' +11.2 pp, ' the' −10.1 pp (predicted +2.0 pp, +0.40 pp)"
        """
        rises = max(self.actual, key=lambda shift: shift.change, default=None)
        falls = min(self.actual, key=lambda shift: shift.change, default=None)
        if falls is None or rises is None or falls.change >= 0 or rises.change <= 0:
            return f"Replacing {self.token!r} barely moves the prediction"
        told = ", ".join(f"{shift.token!r} {percentage_points(shift.change)}" for shift in (rises, falls))
        predicted = ", ".join(self._predicted(shift.token_id) for shift in (rises, falls))
        return f"Replacing {self.token!r}: {told} (predicted {predicted})"

    def _predicted(self, token_id: int) -> str:
        """The predicted change of a token; those that `predicted` leaves out are smaller than any in it."""
        changes = {shift.token_id: shift.change for shift in self.predicted}
        if token_id in changes:
            return percentage_points(changes[token_id])
        least = min(map(abs, changes.values()), default=0.0)
        return f"under {percentage_points(least)[1:]}" if least else "none"


def percentage_points(change: float) -> str:
    """A change of a probability, with its sign: one decimal from 1 pp, else two digits.

    >>> percentage_points(0.112), percentage_points(-0.0031), percentage_points(0.0)
    ('+11.2 pp', '−0.31 pp', '+0 pp')
    """
    points = 100 * abs(change)
    size = f"{points:.1f}" if points >= 1 else f"{points:#.2g}" if points >= 0.01 else "0" if not points else "0.01"
    return f"{'−' if change < 0 else '+'}{size} pp"


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class ModeInspection(Result):
    """The leading Fisher modes of one prediction and what every source token does along them.

    Attributes:
        modes: largest eigenvalue first.
        replacements: one for each token of the prompt up to the position, in order.
        baseline: what embeddings were moved to.

    The other attributes are those of Result.

    Example:
        >>> modes = ls.inspect_modes(model, "The capital of France is", rank=2)
        >>> modes.modes[0].eigenvalue >= modes.modes[1].eigenvalue, modes.replacements[2].token
        (True, ' capital')
    """

    kind = "modes"
    aligned = {"pos": (*Result.aligned["pos"], "replacements")}

    modes: list[FisherMode]
    replacements: list[TokenReplacement]
    baseline: str

    @classmethod
    def from_record(cls, record: Mapping[str, Any], tensor: Any) -> ModeInspection:
        result = super().from_record(record, tensor)
        for index, item in enumerate(result.replacements):
            if item.index != index:
                raise ValueError(f"replacements[{index}].index is {item.index}, expected {index}")
            if len(item.amounts) != len(result.modes):
                raise ValueError(
                    f"replacements[{index}].amounts has {len(item.amounts)} entries for {len(result.modes)} modes"
                )
        return result

    def __repr__(self) -> str:
        named = "; ".join(f"λ={mode.eigenvalue:.3g} {mode.contrast}" for mode in self.modes[:3])
        return f"ModeInspection({len(self.modes)} modes on {self.model['name']}: {named})"

    def entries(self) -> list[Entry]:
        return [Entry(item.index, item.token, self.special[item.index]) for item in self.replacements]

    def values(self) -> Float[Tensor, " pos"]:
        """KL(before ‖ after) of each replacement, in nats."""
        return torch.tensor([item.actual_nats for item in self.replacements], dtype=torch.float64, device="cpu")

    def difference_parts(self) -> dict[str, Tensor]:
        predicted = torch.tensor([item.predicted_nats for item in self.replacements], dtype=torch.float64, device="cpu")
        return {"actual_nats": self.values(), "predicted_nats": predicted}

    def to_pandas(self) -> pandas.DataFrame:
        """One row per source token: index, token, special, actual and predicted nats, agreement, amount along modes."""
        rows = [
            {
                "index": item.index,
                "token": item.token,
                "special": self.special[item.index],
                "actual_nats": item.actual_nats,
                "predicted_nats": item.predicted_nats,
                "agreement": item.agreement,
                **{f"mode_{index}": amount for index, amount in enumerate(item.amounts)},
            }
            for item in self.replacements
        ]
        return data_frame(rows)
