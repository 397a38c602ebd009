"""Copies of a prompt that differ from some position on run only from there: what comes before is the same for all.

A change of token t leaves keys and values before t as they are, so leaving out each token of a prompt in turn costs
half of what as many whole forward passes would.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.model import Hook, HookedModel, ScopedModel

if TYPE_CHECKING:
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache


class Prefixed:
    """The keys and values of one prompt at every layer, to start changed copies of it from any position.

    Args:
        model: a HookedTransformer, for which `start` says so.
        token_ids: the whole prompt, and what is read after it.
        n_read: how many of the last positions are read.

    Attributes:
        own_states: y at those positions of the prompt itself.
    """

    own_states: Float[Tensor, "read d_model"]

    def __init__(self, model: HookedModel, token_ids: Sequence[int], n_read: int = 1) -> None:
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

        self.model = model
        self.n_read = n_read
        self.token_ids = torch.tensor([list(token_ids)], device=model.device)
        self._cache = TransformerLensKeyValueCache.init_cache(model.cfg, self.token_ids.device, 1)
        self.own_states = self._last(self._run(self.token_ids, self._cache))[0]

    @classmethod
    def start(cls, model: ScopedModel, token_ids: Sequence[int], n_read: int = 1) -> Prefixed | None:
        """The prompt's keys and values; None where the model cannot start in the middle of a prompt. A
        TransformerBridge keeps its caches to itself, and a user's own hooks expect to see every position."""
        listening = (module._forward_hooks or module._forward_pre_hooks for module in model.module.modules())
        return cls(model, token_ids, n_read) if isinstance(model, HookedModel) and not any(listening) else None

    def final_states(
        self, first: int, rows: int, hooks: Sequence[tuple[str, Hook]]
    ) -> Float[Tensor, "{rows} read d_model"]:
        """y at the last positions of `rows` copies that are equal before position `first`.

        Args:
            first: the first position that runs again, none of those read being before it.
            hooks: forward hooks that change the copies; they see positions from `first` on.
        """
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache
        from transformer_lens.cache.key_value_cache_entry import TransformerLensKeyValueCacheEntry

        def repeated(values: Tensor) -> Tensor:
            return values[:, :first].expand(rows, *values[:, :first].shape[1:])

        cache = TransformerLensKeyValueCache(
            entries=[
                TransformerLensKeyValueCacheEntry(repeated(entry.past_keys), repeated(entry.past_values), frozen=True)
                for entry in self._cache.entries
            ],
            previous_attention_mask=repeated(self._cache.previous_attention_mask),
            frozen=True,
        )
        with self.model.hooked(hooks):
            residual = self._run(self.token_ids[:, first:].expand(rows, -1), cache)
        return self._last(residual)

    def _last(self, residual: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch read d_model"]:
        with torch.no_grad():
            return self.model.apply_final_norm(residual[:, -self.n_read :])

    def _run(self, tokens: Tensor, cache: TransformerLensKeyValueCache) -> Tensor:
        with torch.no_grad(), self.model.fused_attention(0, self.model.n_layers):
            return self.model.module(
                tokens,
                stop_at_layer=self.model.n_layers,
                past_kv_cache=cache,
                attention_mask=torch.ones_like(tokens),
                padding_side="right",
            )
