"""Where gradients are taken: at the prompt itself, or averaged over points around it or on the way to it.

    ḡ_i,t = mean over α of v_iᵀ J_t(x(α))

A scope is local unless asked otherwise. Averaged over a straight path from a baseline b, x(α) = b + α (x − b), and
read by `dot` from the same baseline, its scores add up to what the path changes (completeness): Integrated Gradients
for a logit or log-probability, and the path-integrated version of every other scope. Averaged over noise around the
prompt it is SmoothGrad.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.errors import ReadoutError

if TYPE_CHECKING:
    Start: TypeAlias = Literal["zero", "mean"]
    Count: TypeAlias = int
    PointsLike: TypeAlias = "Points | str | None"
else:  # what is none of these is answered with a ReadoutError that says what to do, also under a run-time type checker
    Start = Count = PointsLike = Any

_POINTS = 16  # unless a number is given


class Points(ABC):
    """Base of the ways to choose where gradients are taken."""

    name: ClassVar[str]

    @property
    @abstractmethod
    def count(self) -> int:
        """How many there are."""

    @abstractmethod
    def embeddings(self, own: Float[Tensor, "pos d_model"]) -> Float[Tensor, "point pos d_model"]:
        """The prompts' embeddings at every point, from the prompt's own."""

    @abstractmethod
    def describe(self) -> str:
        """The points in words, for the contract."""


@dataclass(frozen=True)
class StraightPath(Points):
    """Points on the straight line from a baseline to the prompt, all tokens moving together.

    x(α_n) = b + α_n (x − b) with α_n = (n − ½)/steps, n = 1 … steps (midpoint rule).

    Models that normalise the bare embeddings first (rotary positions: LLaMA, Gemma, Pythia) see hardly any difference
    between x and αx until α is next to zero, where the output jumps: no feasible number of steps catches that part of
    the change from the zero baseline, so completeness fails there. From the mean it holds.

    Args:
        baseline: where the path starts: "zero", or "mean" for the mean of the prompt's embeddings.
        steps: number of points; completeness holds up to the error of the midpoint rule.

    Raises:
        ReadoutError: for another baseline, and for steps that are not a positive integer.

    Source: Integrated Gradients, Sundararajan et al., arXiv:1703.01365; the path-integrated scopes of
    arXiv:2601.16407.
    """

    baseline: Start = "zero"
    steps: Count = _POINTS
    name: ClassVar[str] = "path"

    def __post_init__(self) -> None:
        if self.baseline not in ("zero", "mean"):
            raise ReadoutError(f'a path starts at the baseline "zero" or "mean"; got {self.baseline!r}.')
        if not _is_count(self.steps):
            raise ReadoutError(f"a path needs at least one step, a whole number of them; got {self.steps!r}.")

    @property
    def count(self) -> int:
        return self.steps

    def embeddings(self, own: Float[Tensor, "pos d_model"]) -> Float[Tensor, "point pos d_model"]:
        start = torch.zeros_like(own) if self.baseline == "zero" else own.mean(0).expand_as(own)
        alphas = (torch.arange(self.steps, device=own.device, dtype=own.dtype) + 0.5) / self.steps
        return start + alphas[:, None, None] * (own - start)

    def describe(self) -> str:
        return f"{self.steps} points of the straight path from the {self.baseline} baseline to the prompt"


@dataclass(frozen=True)
class Noise(Points):
    """Points scattered around the prompt: x + ε with ε ~ N(0, σ² I) on every token's embedding.

    σ = scale × the root mean square entry of the prompt's embeddings.

    Args:
        samples: number of points.
        scale: the noise, in units of a typical entry.
        seed: of the noise; the global generator is not touched.

    Raises:
        ReadoutError: for samples that are not a positive integer, and a scale that is not positive.

    Source: SmoothGrad, Smilkov et al., arXiv:1706.03825.
    """

    samples: Count = _POINTS
    scale: float = 0.1
    seed: int = 0
    name: ClassVar[str] = "noise"

    def __post_init__(self) -> None:
        if not _is_count(self.samples) or not (self.scale > 0 and isfinite(self.scale)):
            raise ReadoutError(
                "noise needs at least one sample, a whole number of them, and a positive scale; got "
                f"{self.samples!r} and {self.scale!r}."
            )

    @property
    def count(self) -> int:
        return self.samples

    def embeddings(self, own: Float[Tensor, "pos d_model"]) -> Float[Tensor, "point pos d_model"]:
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randn(self.samples, *own.shape, generator=generator, dtype=torch.float64)
        sigma = self.scale * own.double().square().mean().sqrt()
        return own + (sigma.cpu() * drawn).to(own)

    def describe(self) -> str:
        return (
            f"{self.samples} points with noise of {self.scale:g} times a typical entry on every embedding "
            f"(seed {self.seed})"
        )


POINTS: dict[str, Callable[[int], Points]] = {
    "path": lambda count: StraightPath("zero", count),
    "path-mean": lambda count: StraightPath("mean", count),
    "noise": lambda count: Noise(count),
}


def as_points(points: PointsLike) -> Points | None:
    """Reads points given by object, or as text such as "path", "path-mean@32" or "noise@8" (16 unless a number is
    given); None stands for the prompt itself.

    Raises:
        ReadoutError: for anything else.
    """
    if points is None or isinstance(points, Points):
        return points
    if isinstance(points, str):
        return _named(points)
    got = f"the class {points.__name__}" if isinstance(points, type) else repr(points)
    raise ReadoutError(f"points takes ls.StraightPath(), ls.Noise() or None for the prompt itself; got {got}.")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _named(text: str) -> Points:
    name, _, count = text.partition("@")
    if name not in POINTS or (count and not count.isdecimal()):
        near = difflib.get_close_matches(name, POINTS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near and near[0] != name else ""
        raise ReadoutError(
            f"unknown points {text!r}{hint} (expected {', '.join(POINTS)}, each with @N for the number of points)."
        )
    return POINTS[name](int(count or _POINTS))
