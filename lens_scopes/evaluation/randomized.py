"""The parameter-randomization check: does an explanation notice that the model it explains is gone?

Blocks are redrawn from the last one down, each parameter from a normal distribution of its own mean and standard
deviation. An explanation that stays the same explained the input, not the model.

Source: Adebayo et al., arXiv:1810.03292.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

STAGES = {"final-quarter": 0.25, "final-half": 0.5, "all-blocks": 1.0}
BY_LAYER = "randomization-by-layer"


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

    @contextmanager
    def stage(self, fraction: float) -> Iterator[None]:
        """Redraws the final ⌈fraction · n_layers⌉ blocks for a with-block; a smaller stage is part of a larger one."""
        n_layers = self._model.cfg.n_layers
        count = -int(-(fraction * n_layers) // 1)
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
    exact = values.float()
    spread = exact.std(unbiased=False)
    drawn = torch.randn(values.shape, generator=generator)
    return (exact.mean().cpu() + spread.cpu() * drawn).to(values)
