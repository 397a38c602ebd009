"""The adapter of a HookedTransformer."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.attention import COMPILED, PATTERNS_READ, fused_attention, has_hooks, obstacle, reads_patterns
from lens_scopes.engine.model.refusals import hook_not_called
from lens_scopes.engine.model.scoped import Batch, ScopedModel

if TYPE_CHECKING:
    from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache


class HookedModel(ScopedModel):
    """A HookedTransformer, which can start and stop between any two blocks."""

    backend = "hooked"

    def run_slice(self, batch: Batch, start: Tensor, first: int, stop: int) -> Tensor:
        if stop == self.n_layers:
            return self._run_to_positions(batch, start, first)
        return self._run_blocks(start, first, stop)

    @property
    def has_attention_sinks(self) -> bool:
        return bool(getattr(self.cfg, "use_attention_sinks", False))

    @property
    def has_experts(self) -> bool:
        return bool(getattr(self.cfg, "num_experts", None))

    def gated_bias(self, layer: int) -> Float[Tensor, " d_mlp"] | None:
        mlp = getattr(self.module.blocks[layer], "mlp", None)
        return getattr(mlp, "b_in", None) if self.cfg.gated_mlp else None

    def unfused_layers(self, hook_names: Iterable[str] = ()) -> dict[str, list[int]]:
        read = {int(name.split(".")[1]) for name in hook_names if reads_patterns(name)}
        reasons: dict[str, list[int]] = {}
        for layer, block in enumerate(self.module.blocks):
            reason = COMPILED if self._is_compiled(block) else obstacle(block.attn)
            if reason is not None or layer in read:
                reasons.setdefault(reason or PATTERNS_READ, []).append(layer)
        return reasons

    def start_prefix(self) -> TransformerLensKeyValueCache:
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

        return TransformerLensKeyValueCache.init_cache(self.cfg, self.device, 1)

    def cut_prefix(self, keys_and_values: Any, first: int, rows: int) -> TransformerLensKeyValueCache:
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache
        from transformer_lens.cache.key_value_cache_entry import TransformerLensKeyValueCacheEntry

        def repeat(values: Tensor) -> Tensor:
            # Views: the copies share the prompt's own numbers, and a frozen cache is not written to.
            return values[:, :first].expand(rows, *values[:, :first].shape[1:])

        return TransformerLensKeyValueCache(
            entries=[
                TransformerLensKeyValueCacheEntry(repeat(entry.past_keys), repeat(entry.past_values), frozen=True)
                for entry in keys_and_values.entries
            ],
            previous_attention_mask=repeat(keys_and_values.previous_attention_mask),
            frozen=True,
        )

    def run_after(self, batch: Batch, keys_and_values: Any) -> Float[Tensor, "read d_model"]:
        with self._body_precision(), self.fused_attention(0, self.n_layers):
            residual = self.module(
                batch.token_ids,
                stop_at_layer=self.n_layers,
                past_kv_cache=keys_and_values,
                attention_mask=torch.ones_like(batch.token_ids),
                padding_side="right",
            )
        rows, positions = batch.read.to(residual.device)
        return self.apply_final_norm(residual[rows, positions][:, None])[:, 0]

    def fused_attention(self, first: int, stop: int) -> AbstractContextManager[None]:
        """Lets attention run without n × n matrices, in the blocks from `first` to before `stop` where that can be."""
        blocks = self.module.blocks[first:stop]
        return fused_attention(block.attn for block in blocks if not self._is_compiled(block))

    def _is_compiled(self, block: Any) -> bool:
        """Whether the block's code was fixed before: it would not see that methods are replaced, or keep them so."""
        parts = (self.module, block)
        return any(type(part).__name__ == "OptimizedModule" or part._compiled_call_impl is not None for part in parts)

    def _run_blocks(self, start: Tensor, first: int, stop: int) -> Float[Tensor, "batch pos d_model"]:
        with self._body_precision(), self.fused_attention(first, stop):
            if first == 0:
                return self.module(start, stop_at_layer=stop, padding_side="right")
            return self.module(start, start_at_layer=first, stop_at_layer=stop, padding_side="right")

    def _run_to_positions(self, batch: Batch, start: Tensor, first: int) -> Float[Tensor, "read d_model"]:
        """The final states that the batch reads, from block `first` on.

        After the last attention tokens no longer meet, so the last MLP and the final norm run at the positions that
        are read alone, unless a hook there would see it.
        """
        early = self._reads_early(batch)
        calls: list[str] = []

        def only_read(residual: Tensor) -> Tensor:
            calls.append(self._last_middle)
            rows, positions = batch.read.to(residual.device)
            return residual[rows, positions][:, None]

        with self.hooked([(self._last_middle, only_read)] if early else []):
            residual = self._run_blocks(start, first, self.n_layers)
        if early and not calls:
            raise hook_not_called(self._last_middle)
        states = self.apply_final_norm(residual)
        rows, positions = batch.read.to(states.device)
        return states[:, 0] if early else states[rows, positions]

    @property
    def _last_middle(self) -> str:
        return f"blocks.{self.n_layers - 1}.hook_resid_mid"

    def _reads_early(self, batch: Batch) -> bool:
        """Whether the last block's MLP runs after its attention, on fewer positions than all, and nobody listens."""
        if batch.read.shape[1] >= batch.token_ids.numel() or self._last_middle not in self.hook_dict:
            return False
        block = self.module.blocks[-1]
        parts = [getattr(block, name) for name in _AFTER_ATTENTION if hasattr(block, name)]
        parts += [self.module.unembed.hook_in, *([self.module.ln_final] if self._has_final_norm else [])]
        return not any(has_hooks(module) for part in parts for module in part.modules())


_AFTER_ATTENTION = ("hook_mlp_in", "ln2", "mlp", "ln2_post", "hook_mlp_out", "hook_resid_post")
