"""How a gradient becomes a score: the amplitude a_t that one direction gives each token.

The effects are those along one direction v. Over several, Σ_i w_i a_i,t² is a sum of squares, not a largest effect.

- norm: a_t = ‖vᵀJ_t‖₂, the largest first-order effect of a unit change of the activation, whatever its direction;
- dot: a_t = vᵀJ_t (x_t − b), the signed first-order effect of the activation having its value, not the baseline b;
- product: a_t = ‖(vᵀJ_t) ∘ (x_t − b)‖₂, the same effects of the activation's single entries, put together as a norm;
- relative: a_t = ‖vᵀJ_t‖₂ ‖x_t‖₂, the largest first-order effect of a change as large as the activation itself.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_scopes.engine.final_state import compute_dtype
from lens_scopes.errors import ReadoutError


class Readout(ABC):
    """Base of the readouts."""

    name: ClassVar[str]
    signed: ClassVar[bool]
    amplitude_symbol: ClassVar[str]
    from_baseline: ClassVar[bool] = False
    """Whether the score is about the activation's distance from a baseline, rather than any change of it."""

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
class Relative(Readout):
    """a_t = ‖vᵀJ_t‖₂ ‖x_t‖₂, ≥ 0: comparable between sites whose activations differ in size, such as layers."""

    name: ClassVar[str] = "relative"
    signed: ClassVar[bool] = False
    amplitude_symbol: ClassVar[str] = "‖vᵀJ_t‖₂ ‖x_t‖₂"

    def amplitude(self, gradient, activation, real):
        dtype = compute_dtype(gradient.dtype)
        return torch.linalg.vector_norm(gradient, dim=-1, dtype=dtype) * torch.linalg.vector_norm(
            activation, dim=-1, dtype=dtype
        )

    def describe(self) -> str:
        return "the largest first-order effect of a change as large as the activation itself, in any direction"


@dataclass(frozen=True)
class _FromBaseline(Readout):
    """Base of the readouts that take a gradient together with the activation's distance x_t − b from a baseline."""

    baseline: Literal["zero", "mean"] = "zero"
    from_baseline: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.baseline not in ("zero", "mean"):
            raise ReadoutError(f'{self.name} baseline must be "zero" or "mean"; got {self.baseline!r}.')

    def _products(self, gradient: Tensor, activation: Tensor, real: Tensor) -> Tensor:
        dtype = compute_dtype(gradient.dtype)
        activation = activation.to(dtype)
        if self.baseline == "mean":
            weight = real.to(dtype) / real.sum(1, keepdim=True)
            weight = weight.reshape(weight.shape + (1,) * (activation.ndim - 2))
            activation = activation - (weight * activation).sum(1, keepdim=True)
        return gradient.to(dtype) * activation


@dataclass(frozen=True)
class Dot(_FromBaseline):
    """a_t = vᵀJ_t (x_t − b), signed; with b = 0 this is Input × Gradient.

    Args:
        baseline: "zero", or "mean" for the mean of the prompt's own activations at the site.
    """

    name: ClassVar[str] = "dot"
    signed: ClassVar[bool] = True
    amplitude_symbol: ClassVar[str] = "vᵀJ_t (x_t − b)"

    def amplitude(self, gradient, activation, real):
        return self._products(gradient, activation, real).sum(-1)

    def describe(self) -> str:
        return f"the signed first-order effect of the activation's value against the {self.baseline} baseline"


@dataclass(frozen=True)
class Product(_FromBaseline):
    """a_t = ‖(vᵀJ_t) ∘ (x_t − b)‖₂, ≥ 0: Input × Gradient summed up by the norm over d_model instead of the sum.

    It depends on the basis of the activations, which the other readouts do not.

    Args:
        baseline: as for Dot.
    """

    name: ClassVar[str] = "product"
    signed: ClassVar[bool] = False
    amplitude_symbol: ClassVar[str] = "‖(vᵀJ_t) ∘ (x_t − b)‖₂"

    def amplitude(self, gradient, activation, real):
        return torch.linalg.vector_norm(self._products(gradient, activation, real), dim=-1)

    def describe(self) -> str:
        return (
            "the norm of the first-order effects of the activation's entries having their values against the "
            f"{self.baseline} baseline"
        )


_READOUTS = {"norm": Norm, "dot": Dot, "product": Product, "relative": Relative}


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
