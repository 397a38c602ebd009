"""Keys and values from which Transformers' forward pass goes on, in Transformers' own cache."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, cast

from jaxtyping import Float
from torch import Tensor, cat

if TYPE_CHECKING:
    from transformers import DynamicCache


def empty_cache() -> DynamicCache:
    """A cache that takes up keys and values of every position, also in layers that see a window of them."""
    from transformers import DynamicCache

    return DynamicCache()


def first_positions(whole: Any, first: int, rows: int) -> DynamicCache:
    """A prompt's keys and values before position `first`, for `rows` copies of it; passes add nothing to them."""
    cut = empty_cache()
    cut.layers = [_frozen(*(_repeat(values, first, rows) for values in (at.keys, at.values))) for at in whole.layers]
    return cut


def _repeat(
    values: Float[Tensor, "1 head pos d_head"], first: int, rows: int
) -> Float[Tensor, "{rows} head {first} d_head"]:
    # Views: the copies share the prompt's own numbers, and frozen layers are not written to.
    return values[:, :, :first].expand(rows, -1, -1, -1)


def _frozen(keys: Tensor, values: Tensor) -> Any:
    layer = _frozen_class()()
    layer.lazy_initialization(keys, values)
    layer.keys, layer.values = keys, values
    return layer


@cache
def _frozen_class() -> type[Any]:
    """Made when it is asked for: naming its base would import Transformers."""
    from transformers.cache_utils import DynamicLayer

    class Frozen(DynamicLayer):
        """Keys and values that a pass reads together with its own, of which one layer's are there at a time."""

        def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
            keys, values = cast(Tensor, self.keys), cast(Tensor, self.values)
            return cat([keys, key_states], dim=-2), cat([values, value_states], dim=-2)

    return Frozen
