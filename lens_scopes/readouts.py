"""How a gradient becomes a score: the amplitude a_t that one direction gives each token.

- norm: a_t = ‖vᵀJ_t‖₂, the largest first-order effect of a unit change of the activation, whatever its direction;
- dot: a_t = vᵀJ_t (x_t − b), the signed first-order effect of the activation having its value, not the baseline b.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_scopes.errors import ReadoutError
from lens_scopes.final_state import compute_dtype


class Readout(ABC):
    """Base of the readouts."""

    name: ClassVar[str]
    signed: ClassVar[bool]
    amplitude_symbol: ClassVar[str]

    @abstractmethod
    def amplitude(
        self,
        gradient: Float[Tensor, "batch pos *inner d"],
        activation: Float[Tensor, "batch pos *inner d"],
        real: Bool[Tensor, "batch pos"],
    ) -> Float[Tensor, "batch pos *inner"]:
        """a_t for one direction; `real` marks positions that are not padding."""

    @abstractmethod
    def describe(self) -> str:
        """The readout in words, for the contract."""


@dataclass(frozen=True)
class Norm(Readout):
    """a_t = ‖vᵀJ_t‖₂ (Jacobian Scopes, arXiv:2601.16407)."""

    name: ClassVar[str] = "norm"
    signed: ClassVar[bool] = False
    amplitude_symbol: ClassVar[str] = "‖vᵀJ_t‖₂"

    def amplitude(self, gradient, activation, real):
        return torch.linalg.vector_norm(gradient, dim=-1, dtype=compute_dtype(gradient.dtype))

    def describe(self) -> str:
        return "the largest first-order effect of a unit change of the activation, in any direction"


@dataclass(frozen=True)
class Dot(Readout):
    """a_t = vᵀJ_t (x_t − b), signed; with b = 0 this is Input × Gradient.

    Args:
        baseline: "zero", or "mean" for the mean of the prompt's own activations at the site.
    """

    baseline: Literal["zero", "mean"] = "zero"
    name: ClassVar[str] = "dot"
    signed: ClassVar[bool] = True
    amplitude_symbol: ClassVar[str] = "vᵀJ_t (x_t − b)"

    def __post_init__(self) -> None:
        if self.baseline not in ("zero", "mean"):
            raise ReadoutError(f'dot baseline must be "zero" or "mean"; got {self.baseline!r}.')

    def amplitude(self, gradient, activation, real):
        dtype = compute_dtype(gradient.dtype)
        activation = activation.to(dtype)
        if self.baseline == "mean":
            weight = real.to(dtype) / real.sum(1, keepdim=True)
            weight = weight.reshape(weight.shape + (1,) * (activation.ndim - 2))
            activation = activation - (weight * activation).sum(1, keepdim=True)
        return (gradient.to(dtype) * activation).sum(-1)

    def describe(self) -> str:
        return f"the signed first-order effect of the activation's value against the {self.baseline} baseline"


_READOUTS = {"norm": Norm, "dot": Dot}


def as_readout(readout: Readout | str) -> Readout:
    """Reads a readout given by object or by name.

    Raises:
        ReadoutError: for an unknown one.
    """
    if isinstance(readout, Readout):
        return readout
    if readout not in _READOUTS:
        near = difflib.get_close_matches(str(readout), _READOUTS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ReadoutError(f"unknown readout {readout!r}{hint} (expected {' or '.join(map(repr, _READOUTS))}).")
    return _READOUTS[readout]()
