"""How a pass is laid out in memory: the whole graph where it fits, else slices of layers, as many at a time as fit.

The estimate counts what autograd keeps of a TransformerLens block: some activations of each width for every token, and
the attention scores, masked scores and pattern for every pair of tokens. It errs on the large side.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch

from lens_scopes.errors import PromptError
from lens_scopes.forward import is_bridge

_SHARE = 0.6  # of the memory that is free: other programs may want some too
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}

# Tensors that autograd keeps per block and token, by width, and per pair of tokens and head.
_OF_D_MODEL, _OF_HEADS, _OF_D_MLP, _OF_PAIRS = 14, 6, 5, 3.5


@dataclass(frozen=True)
class MemoryPlan:
    """How many layers' graphs are held at a time.

    Attributes:
        layers_at_once: n_layers where the whole graph is held.
        n_layers: of the model.
        estimate: bytes expected beyond the model's weights.
        budget: bytes allowed.
    """

    layers_at_once: int
    n_layers: int
    estimate: int
    budget: int

    @property
    def sliced(self) -> bool:
        """Whether layers are run again on the way back."""
        return self.layers_at_once < self.n_layers

    def describe(self) -> str:
        """The plan in words, for the record."""
        if not self.sliced:
            return "the whole graph at once"
        return f"the graph of {self.layers_at_once} of {self.n_layers} layers at a time, run again on the way back"


def plan_memory(model: Any, length: int, rows: int, budget: int | None) -> MemoryPlan:
    """The fastest plan that fits: no layer is run twice unless it has to be.

    Args:
        length: tokens of the longest prompt.
        rows: prompts run together.
        budget: bytes allowed beyond the model's weights; by default a share of what is free on the model's device.

    Raises:
        PromptError: when even one layer at a time does not fit a budget that was given, with the estimate.
    """
    cfg = model.cfg
    allowed = int(_SHARE * _free_bytes(model)) if budget is None else budget
    size = torch.finfo(next(model.parameters()).dtype).bits // 8
    widths = _OF_D_MODEL * cfg.d_model + _OF_HEADS * cfg.n_heads * cfg.d_head + _OF_D_MLP * (cfg.d_mlp or 0)
    layer = int(size * rows * length * (widths + _OF_PAIRS * cfg.n_heads * length))
    whole = cfg.n_layers * layer
    if whole <= allowed or is_bridge(model):
        return MemoryPlan(cfg.n_layers, cfg.n_layers, whole, allowed)
    carried = 2 * cfg.n_layers * size * rows * length * cfg.d_model
    if budget is not None and carried + layer > budget:
        raise PromptError(
            f"{rows} × {length} tokens need about {(carried + layer) / 1e9:.2g} GB beyond the model's weights even "
            f"with one layer at a time, and {budget / 1e9:.2g} GB are allowed; allow more memory or give a shorter "
            "prompt."
        )
    layers = max(1, min(cfg.n_layers - 1, (allowed - carried) // layer))
    return MemoryPlan(layers, cfg.n_layers, carried + layers * layer, allowed)


def parse_memory(amount: str | int | None) -> int | None:
    """Bytes from a number, or from text such as "4GB" or "800 MB"; None stays None.

    Raises:
        PromptError: for anything else, and amounts that are not positive.
    """
    if amount is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*((?:[KMGT]B)?)\s*", str(amount), flags=re.IGNORECASE)
    if found is None or float(found[1]) == 0:
        raise PromptError(f'memory is a positive amount such as "4GB" or a number of bytes; got {amount!r}.')
    return int(float(found[1]) * _UNITS[found[2].upper()])


def _free_bytes(model: Any) -> int:
    device = next(model.parameters()).device
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    return psutil.virtual_memory().available
