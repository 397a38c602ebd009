"""Gradients → scores: every direction's readout at every site, weighted and summed as the objective says.

score_t = Σ_i w_i a_i,t²,   or √w·a_t for an objective that is a number
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_scopes.engine.backward import Progress, Traced
from lens_scopes.errors import NumericsError
from lens_scopes.scopes.objectives import Directions
from lens_scopes.scopes.readouts import Readout


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
    traced: Traced,
    directions: Sequence[Directions],
    readout: Readout,
    averaged: Bool[Tensor, "batch pos"],
    progress: Progress | None = None,
    *,
    starts: Mapping[str, Tensor] | None = None,
    rows_each: int = 1,
) -> dict[str, SiteScores]:
    """Backpropagates every direction and reads the gradients at every site.

    Args:
        directions: one set for each prompt; those with fewer directions are padded with weight zero.
        averaged: marks the tokens whose mean is the baseline "mean", as `averaged_mask` gives it.
        starts: the sites' activations that the readout measures from: at a path's start, or under another prompt.
        progress: called with (backward products done, in all).
        rows_each: rows of the batch that begin with the same prompt, whose gradients add up.

    Raises:
        NumericsError: when a gradient is not finite, naming the site.
    """
    total = max(len(item.vectors) for item in directions)
    vectors = torch.cat([_padded(item.by_prediction, total) for item in directions], dim=1)
    weights = torch.stack([_padded(item.weights, total) for item in directions], dim=1)
    sampled = torch.stack([_padded(_is_sample(item), total) for item in directions], dim=1)
    squared = torch.tensor([item.squared for item in directions])
    sums: dict[str, Tensor] = {}
    draws: dict[str, list[Tensor]] = {}

    def visit(index: int, name: str, gradient: Tensor, activation: Tensor) -> None:
        if rows_each > 1:
            gradient, activation = gradient.unflatten(0, (-1, rows_each)).sum(1), activation[::rows_each]
        if starts is None:
            baseline = readout.baseline_values(activation, averaged.to(activation.device))
        else:
            baseline = starts[name]
        amplitude = readout.amplitude(gradient, activation, baseline)
        check_gradients(amplitude, name, gradient.dtype)
        weight, square, draw = (_rowwise(values, amplitude) for values in (weights[index], squared, sampled[index]))
        term = torch.where(square, weight * amplitude**2, weight.sqrt() * amplitude)
        new_sum = sums[name] + term if name in sums else term
        samples = [torch.where(draw, amplitude**2, torch.nan)] if bool(sampled.any()) else []
        # Nothing is kept before everything is computed: where memory runs out the visit is made again.
        sums[name] = new_sum
        draws.setdefault(name, []).extend(samples)

    traced.backward(vectors, visit, progress)
    return {name: SiteScores(scores, _standard_error(draws.get(name))) for name, scores in sums.items()}


def total_over_sites(
    parts: Sequence[tuple[Tensor, Tensor | None]], *, squared: bool
) -> tuple[Float[Tensor, " pos"], Float[Tensor, " pos"] | None]:
    """Non-negative scores s_l,h,t at several sites put together: total_t = Σ_l a_l,t with a_l,t = √(Σ_h s_l,h,t).

    √(Σ_i w_i ‖v_iᵀ δy‖²) is a norm of what happens to y, so the amplitudes of changes at several sites at once add up,
    at most, to that of all of them.

    Args:
        parts: scores [pos, …] of each site with their standard errors, where directions were sampled.
        squared: whether the scores are sums of squares; else they are amplitudes themselves, squared first.

    Returns:
        The total and, where directions were sampled, a bound of its standard error: the same draws make all the parts,
        so their errors add up, Σ_l Σ_h ε_l,h,t / 2 a_l,t. A root of an unbiased estimate is too low on average.
    """
    flat = [scores.reshape(len(scores), -1) for scores, _ in parts]
    amplitudes = torch.stack([(scores if squared else scores.square()).sum(1).sqrt() for scores in flat])
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


def _padded(values: Tensor, length: int) -> Tensor:
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
