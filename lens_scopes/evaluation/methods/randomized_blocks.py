"""The parameter-randomization check: does an explanation notice that the model it explains is gone?

Blocks are redrawn from the last one down, in one of two ways. An explanation that stays the same explained the input,
not the model.

- "spread": each parameter from a normal distribution of its own mean and standard deviation. Activations keep about
  their size.
- "initializer": weights of linear maps from N(0, initializer_range²), biases 0, weights of norms 1, as
  arXiv:2601.16407 does it. Blocks whose trained norms are large lose most of their say in the residual stream.

Source: Adebayo et al., arXiv:1810.03292.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from lens_scopes.engine.final_state import compute_dtype
from lens_scopes.engine.model import ModelLike, ScopedModel
from lens_scopes.evaluation.protocol import is_gemma

Redraw: TypeAlias = Literal["spread", "initializer"]

STAGES = {"final-quarter": 0.25, "final-half": 0.5, "all-blocks": 1.0}
"""Names of the usual stages, with the share of the blocks that is redrawn in each."""


class RandomizedBlocks:
    """A model whose final blocks can be exchanged for redrawn ones for a while.

    Args:
        model: a HookedTransformer or TransformerBridge; its parameters are back in place after each stage.
        seed: of the draws; the global generator is not touched.
        redraw: "spread" or "initializer"; see the module.
    """

    def __init__(self, model: ModelLike, seed: int = 0, redraw: Redraw = "spread") -> None:
        self._model = model
        self._seed = seed
        self.redraw: Redraw = redraw
        self._others: dict[str, RandomizedBlocks] = {redraw: self}
        self._draws: dict[int, list[Tensor]] = {}

    def by(self, redraw: Redraw) -> RandomizedBlocks:
        """The same model's blocks redrawn in a way."""
        if redraw not in self._others:
            self._others[redraw] = RandomizedBlocks(self._model, self._seed, redraw)
        return self._others[redraw]

    def blocks_of(self, stage: str) -> int:
        """How many blocks a stage of STAGES redraws: its share of them, rounded up."""
        return math.ceil(STAGES[stage] * self._model.cfg.n_layers)

    @contextmanager
    def final(self, count: int) -> Iterator[None]:
        """Redraws the final `count` blocks for a with-block; those of fewer blocks are the same as those of more."""
        n_layers = self._model.cfg.n_layers
        layers = range(n_layers - count, n_layers)
        trained = {layer: [parameter.data for parameter in self._parameters(layer)] for layer in layers}
        try:
            for layer in layers:
                for parameter, values in zip(self._parameters(layer), self._draw(layer), strict=True):
                    parameter.data = values
            yield
        finally:
            for layer, values in trained.items():
                for parameter, value in zip(self._parameters(layer), values, strict=True):
                    parameter.data = value

    def _parameters(self, layer: int) -> list[torch.nn.Parameter]:
        return list(ScopedModel.of(self._model).module.blocks[layer].parameters())

    def _draw(self, layer: int) -> list[Tensor]:
        if layer not in self._draws:
            # By layer, so that a block is the same in every stage that redraws it.
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + layer)
            values = []
            for name, parameter in ScopedModel.of(self._model).module.blocks[layer].named_parameters():
                if self.redraw == "spread":
                    values.append(_like(parameter.data, generator))
                else:
                    values.append(self._initial_values(name, parameter.data, generator))
            self._draws[layer] = values
        return self._draws[layer]

    def _initial_values(self, name: str, values: Tensor, generator: torch.Generator) -> Tensor:
        """A parameter as before training, told by its name: ln1.w, ln1.b, attn.W_Q, attn.b_Q, mlp.W_in, …"""
        *owners, last = name.split(".")
        in_norm = any("norm" in owner.lower() or owner.startswith("ln") for owner in owners)
        if last.lstrip("_").startswith("b"):
            return torch.zeros_like(values)
        if in_norm:
            # Gemma's norms scale by 1 + weight, and a HookedTransformer holds that sum.
            holds_sum = is_gemma(self._model) and ScopedModel.of(self._model).backend == "hooked"
            return torch.full_like(values, 2.0 if holds_sum else 1.0)
        spread = float(getattr(self._model.cfg, "initializer_range", 0.0) or 0.0)
        if spread <= 0:  # TransformerLens writes −1 where a configuration states none
            spread = _USUAL_RANGE
        noise = torch.randn(values.shape, generator=generator, dtype=compute_dtype(values.dtype))
        return (spread * noise).to(values)


_USUAL_RANGE = 0.02  # Transformers' initializer_range where a configuration states none


def _like(values: Tensor, generator: torch.Generator) -> Tensor:
    """Normal draws with the mean and standard deviation of the values."""
    exact = values.to(compute_dtype(values.dtype))
    spread = exact.std(unbiased=False)
    noise = torch.randn(values.shape, generator=generator, dtype=torch.float32).to(exact.dtype)
    return (exact.mean().cpu() + spread.cpu() * noise).to(values)
