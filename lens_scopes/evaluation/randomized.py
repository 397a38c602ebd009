"""The parameter-randomization check: does an explanation notice that the model it explains is gone?

Blocks are redrawn from the last one down, each parameter from a normal distribution of its own mean and standard
deviation. An explanation that stays the same explained the input, not the model.

Source: Adebayo et al., arXiv:1810.03292.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lens_scopes.engine.final_state import compute_dtype

STAGES = {"final-quarter": 0.25, "final-half": 0.5, "all-blocks": 1.0}
"""Names of the usual stages, with the share of the blocks that is redrawn in each."""


class RandomizedBlocks:
    """A model whose final blocks can be exchanged for redrawn ones for a while.

    Args:
        model: a HookedTransformer or TransformerBridge; its parameters are back in place after each stage.
        seed: of the draws; the global generator is not touched.
    """

    def __init__(self, model: Any, seed: int = 0) -> None:
        self._model = model
        self._seed = seed
        self._drawn: dict[int, list[Tensor]] = {}

    def blocks_of(self, stage: str) -> int:
        """How many blocks a stage of STAGES redraws: its share of them, rounded up."""
        return math.ceil(STAGES[stage] * self._model.cfg.n_layers)

    @contextmanager
    def final(self, count: int) -> Iterator[None]:
        """Redraws the final `count` blocks for a with-block; those of fewer blocks are the same as those of more."""
        n_layers = self._model.cfg.n_layers
        layers = range(n_layers - count, n_layers)
        kept = {layer: [parameter.data for parameter in self._parameters(layer)] for layer in layers}
        try:
            for layer in layers:
                for parameter, drawn in zip(self._parameters(layer), self._redrawn(layer), strict=True):
                    parameter.data = drawn
            yield
        finally:
            for layer, values in kept.items():
                for parameter, value in zip(self._parameters(layer), values, strict=True):
                    parameter.data = value

    def _parameters(self, layer: int) -> list[torch.nn.Parameter]:
        return list(self._model.blocks[layer].parameters())

    def _redrawn(self, layer: int) -> list[Tensor]:
        if layer not in self._drawn:
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + layer)
            self._drawn[layer] = [_like(parameter.data, generator) for parameter in self._parameters(layer)]
        return self._drawn[layer]


def _like(values: Tensor, generator: torch.Generator) -> Tensor:
    """Normal draws with the mean and standard deviation of the values."""
    exact = values.to(compute_dtype(values.dtype))
    spread = exact.std(unbiased=False)
    drawn = torch.randn(values.shape, generator=generator).to(exact.dtype)
    return (exact.mean().cpu() + spread.cpu() * drawn).to(values)
