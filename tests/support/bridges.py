"""Bridges to the architectures of the table, and the gradients that passes through them give."""

from typing import Any

import architectures
import torch
from torch import Tensor

from lens_scopes.models.backends import build_bridge
from lens_scopes.models.quiet import quiet_libraries


def bridge_of(name: str, dtype: torch.dtype = torch.float64) -> Any:
    """A bridge to a tiny random model of an architecture of the table."""
    with quiet_libraries():
        pretrained = architectures.random_pretrained(name).to(dtype)
        return build_bridge(pretrained, type(pretrained).__name__, None, "custom").eval().requires_grad_(False)


def gradients(traced: Any) -> dict[tuple[int, str], Tensor]:
    """Those of three random directions at every site."""
    states = traced.final_states
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(3, *states.shape, generator=generator, dtype=states.dtype)
    seen: dict[tuple[int, str], Tensor] = {}
    traced.backward(vectors, lambda index, name, gradient, _: seen.update({(index, name): gradient}))
    return seen
