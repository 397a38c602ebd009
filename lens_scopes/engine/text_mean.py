"""What "mean" means wherever a baseline, an ablation or a path's start is called so: the mean of an activation over the
prompt's non-special tokens. Special tokens (BOS) are attention sinks, whose activations are unlike all others.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import einsum
from jaxtyping import Bool, Float
from torch import Tensor

from lens_scopes.engine.final_state import compute_dtype


def averaged_tokens(special: Sequence[bool]) -> list[bool]:
    """Marks the tokens that "mean" averages: those that are not special; all of them in a prompt of special ones."""
    return [not item for item in special] if not all(special) else [True] * len(special)


def averaged_mask(specials: Sequence[Sequence[bool]]) -> Bool[Tensor, "batch pos"]:
    """`averaged_tokens` of every prompt of a batch that is padded on the right; padding is False."""
    rows = [averaged_tokens(special) for special in specials]
    longest = max(map(len, rows))
    return torch.tensor([row + [False] * (longest - len(row)) for row in rows])


def text_mean(
    values: Float[Tensor, "batch pos *inner"], averaged: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "batch 1 *inner"]:
    """x̄ = Σ_t m_t x_t / Σ_t m_t for the marked tokens, in the compute dtype.

    Args:
        values: an activation, or the embeddings.
        averaged: m_t, as `averaged_mask` gives it.
    """
    values = values.to(compute_dtype(values.dtype))
    weights = averaged.to(values) / averaged.to(values).sum(1, keepdim=True)
    return einsum(weights, values, "batch pos, batch pos ... -> batch ...")[:, None]
