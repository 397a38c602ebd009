"""The precision of a model's matrix products: its own dtype, or bfloat16 while everything else stays as it is.

With bfloat16 products the residual stream, norms and softmax keep the model's dtype (float32, say), as do final states,
logits, F and scores; matrix products of the body, forward and backward, read their factors rounded to bfloat16 and add
up in float32. Processors with instructions for that, and GPUs, do them about twice as fast.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch

from lens_scopes.errors import ModelError

if TYPE_CHECKING:
    Products: TypeAlias = Literal["own", "bfloat16"]
else:  # another value is answered with a ModelError that says what to do, also under a run-time type checker
    Products = Any

PRODUCTS = ("own", "bfloat16")

_chosen: ContextVar[str] = ContextVar("products", default="own")


def check_products(products: Any) -> Products:
    """The choice, if it is one.

    Raises:
        ModelError: for anything else.
    """
    if products not in PRODUCTS:
        raise ModelError(f'products are "own" (in the model\'s dtype) or "bfloat16"; got {products!r}.')
    return products


@contextmanager
def products_in(products: str) -> Iterator[None]:
    """Passes through a model's body use such products within the block, also those of a backward pass that runs layers
    again."""
    token = _chosen.set(products)
    try:
        yield
    finally:
        _chosen.reset(token)


@contextmanager
def body_products(model: Any) -> Iterator[None]:
    """The precision chosen, for a forward pass; the backward pass follows from it."""
    if _chosen.get() == "own":
        yield
        return
    parameter = next(model.parameters())
    # Without a cache of rounded weights: frozen ones are not kept in it anyway.
    with torch.autocast(parameter.device.type, torch.bfloat16, cache_enabled=False):
        yield
