"""Gradients → scores: the amplitude of every direction at every site, weighted and summed.

score_t = Σ_i w_i a_i,t²,   or √w·a_t for an objective that is a number
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_scopes.engine.backward import GradientSource, Progress
from lens_scopes.errors import NumericsError

Amplitude: TypeAlias = Callable[[str, Tensor, Tensor], Tensor]
"""a_t [batch, pos, …] of one direction, from a site's name, the gradient and the activation there."""


@dataclass(frozen=True)
class Directions:
    """Weighted directions in the space of the final state.

    Attributes:
        vectors: v_i as rows; of an answer, with one row of its own for each prediction that v_i is backpropagated from.
        weights: w_i ≥ 0.
        squared: whether scores are Σ w_i a_i² (any number of directions) or √w·a (exactly one).
        sampled: how many of the last rows are independent draws whose mean squared readout estimates a
            remainder; each carries the weight 1/sampled, and the spread of the draws gives a standard error.
        details: what a reader of the score should know: eigenvalues, draws.
        warnings: sentences for the result on why the directions may not be what was asked for.

    Example:
        >>> ls.Directions(torch.eye(2), torch.tensor([1.0, 0.5]), squared=True).weights
        tensor([1.0000, 0.5000])
    """

    vectors: Float[Tensor, "k *prediction d_model"]
    weights: Float[Tensor, " k"]
    squared: bool = False
    sampled: int = 0
    details: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()

    @property
    def by_prediction(self) -> Float[Tensor, "k prediction d_model"]:
        """The vectors, with one row for each prediction, also where there is a single one."""
        return self.vectors.reshape(len(self.vectors), -1, self.vectors.shape[-1])


@dataclass(frozen=True)
class SiteScores:
    """Scores at one site for a batch of prompts.

    Attributes:
        scores: Σ_i w_i a_i,t², or √w·a_t for a single direction.
        standard_error: of the sampled part, where directions were sampled.
    """

    scores: Float[Tensor, "batch pos *inner"]
    standard_error: Float[Tensor, "batch pos *inner"] | None


def score(
    graph: GradientSource,
    directions: Sequence[Directions],
    amplitude_of: Amplitude,
    progress: Progress | None = None,
    *,
    rows_each: int = 1,
) -> dict[str, SiteScores]:
    """Backpropagates every direction and sums its amplitudes at every site.

    Args:
        directions: one set for each prompt; those with fewer directions are padded with weight zero.
        amplitude_of: how a gradient is read.
        progress: called with (backward products done, in all).
        rows_each: rows of the batch that begin with the same prompt, whose gradients add up.

    Raises:
        NumericsError: when a gradient is not finite, naming the site.
    """
    total = max(len(item.vectors) for item in directions)
    # Zeros for prompts with fewer directions, so that one backward pass serves the i-th direction of all prompts.
    vectors = torch.cat([_pad(item.by_prediction, total) for item in directions], dim=1)
    weights = torch.stack([_pad(item.weights, total) for item in directions], dim=1)
    sampled = torch.stack([_pad(_is_sample(item), total) for item in directions], dim=1)
    squared = torch.tensor([item.squared for item in directions])
    sums: dict[str, Tensor] = {}
    draws: dict[str, list[Tensor]] = {}

    def visit(index: int, name: str, gradient: Tensor, activation: Tensor) -> None:
        # Rows that begin with one prompt: its gradients add up, and its activations are the same in each.
        if rows_each > 1:
            gradient, activation = gradient.unflatten(0, (-1, rows_each)).sum(1), activation[::rows_each]
        amplitude = amplitude_of(name, gradient, activation)
        check_gradients(amplitude, name, gradient.dtype)
        weight, square, draw = (_rowwise(values, amplitude) for values in (weights[index], squared, sampled[index]))
        term = torch.where(square, weight * amplitude**2, weight.sqrt() * amplitude)
        new_sum = sums[name] + term if name in sums else term
        samples = [torch.where(draw, amplitude**2, torch.nan)] if bool(sampled.any()) else []
        # Nothing is kept before everything is computed: where memory runs out the visit is made again.
        sums[name] = new_sum
        draws.setdefault(name, []).extend(samples)

    graph.backward(vectors, visit, progress)
    return {name: SiteScores(scores, _standard_error(draws.get(name))) for name, scores in sums.items()}


def site_amplitudes(scores: Sequence[Float[Tensor, "pos ..."]], *, squared: bool) -> Float[Tensor, "site pos"]:
    """a_l,t = √(Σ_h s_l,h,t): the scores of each site's heads put together.

    √(Σ_i w_i ‖v_iᵀ δy‖²) is a norm of what happens to y, so the squares of a site's heads add up.

    Args:
        squared: whether the scores are sums of squares; else they are amplitudes themselves, squared first.
    """
    flat = [values.reshape(len(values), -1) for values in scores]
    return torch.stack([(values if squared else values.square()).sum(1).sqrt() for values in flat])


def total_over_sites(
    parts: Sequence[tuple[Tensor, Tensor | None]], *, squared: bool
) -> tuple[Float[Tensor, " pos"], Float[Tensor, " pos"] | None]:
    """Non-negative scores s_l,h,t at several sites put together: total_t = Σ_l a_l,t with a_l,t = √(Σ_h s_l,h,t).

    The amplitudes of changes at several sites at once add up, at most, to that of all of them.

    Args:
        parts: scores [pos, …] of each site with their standard errors, where directions were sampled.
        squared: as for `site_amplitudes`.

    Returns:
        The total and, where directions were sampled, a bound of its standard error: the same draws make all the parts,
        so their errors add up, Σ_l Σ_h ε_l,h,t / 2 a_l,t. A root of an unbiased estimate is too low on average.
    """
    amplitudes = site_amplitudes([scores for scores, _ in parts], squared=squared)
    errors = [error.reshape(len(error), -1).sum(1) for _, error in parts if error is not None]
    if not errors:
        return amplitudes.sum(0), None
    slopes = torch.where(amplitudes > 0, 0.5 / amplitudes, 0.0)
    return amplitudes.sum(0), (slopes * torch.stack(errors)).sum(0)


def check_gradients(values: Tensor, name: str, dtype: torch.dtype) -> None:
    """Raises NumericsError where what was read from a gradient is not finite, naming the site."""
    if not bool(values.isfinite().all()):
        raise NumericsError(
            f"the backward pass gives non-finite gradients at {name} ({dtype}); "
            'load the model with dtype="float32" or "bfloat16".'
        )


def _pad(values: Tensor, length: int) -> Tensor:
    return torch.cat([values, values.new_zeros(length - len(values), *values.shape[1:])])


def _is_sample(directions: Directions) -> Bool[Tensor, " k"]:
    return torch.arange(len(directions.vectors)) >= len(directions.vectors) - directions.sampled


def _rowwise(values: Tensor, like: Tensor) -> Tensor:
    moved = values.to(like.device) if values.dtype == torch.bool else values.to(like)
    return moved.reshape(-1, *(1 for _ in like.shape[1:]))


def _standard_error(draws: list[Tensor] | None) -> Tensor | None:
    """std / √n over the sampled rows' squared amplitudes; NaN marks rows that are not samples."""
    if not draws:
        return None
    values = torch.stack(draws)
    counts = values.isfinite().sum(0)
    spread = (values - values.nanmean(0)).square().nansum(0) / (counts - 1)
    return (spread / counts).sqrt()
