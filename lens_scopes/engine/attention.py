"""Attention without an n × n matrix, for layers whose scores and patterns nobody reads.

For the length of a call three methods of TransformerLens' attention are replaced on the instance: the one that computes
scores keeps q and k and returns a placeholder, and the one that weighs the values computes

    z_i = Σ_j p_ij v_j,   p_i = softmax_j(q_iᵀk_j / scale)

in tiles of some queries and some keys that they see, as FlashAttention does (Dao et al., arXiv:2205.14135). Tiles are
computed once more on the way back: nothing of n² is ever held. Soft-caps, ALiBi biases and attention sinks are part of
a tile. On accelerators, plain causal layers run through PyTorch's `scaled_dot_product_attention`. On a processor tiles
mostly take less: for four heads of 256 entries that share keys, forward and back on one thread, 0.74, 0.98 and 1.10 of
its time in float32 at 512, 2,048 and 8,192 tokens, 0.63, 0.80 and 0.88 in bfloat16; with a window of 512 they take 0.31
and 0.27 at 4,096 tokens.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

PATTERNS_READ = "a hook or the path reads its patterns"
COMPILED = "the model is compiled"
NOT_CAUSAL = "it is not causal"
FOREIGN_CLASS = "its class is not TransformerLens' own"
RELATIVE = "it adds relative position biases"

# By name: version 4 of TransformerLens has neither.
_KNOWN_CLASSES = (
    "transformer_lens.components.attention.Attention",
    "transformer_lens.components.grouped_query_attention.GroupedQueryAttention",
)
_READABLE = ("hook_attn_scores", "hook_pattern")
_METHODS = ("calculate_attention_scores", "apply_causal_mask", "calculate_z_scores")
_TILE, _TILE_OF_GPU = (64, 1024), (512, 4096)  # queries and keys at a time
_SHORT = 256  # tokens up to which several directions may go back together, which PyTorch's kernels cannot


def has_hooks(module: torch.nn.Module) -> bool:
    """Whether anybody listens to what goes into or out of a module, forward or back."""
    listening = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, hooks) for hooks in listening)


def obstacle(attention: Any) -> str | None:
    """Why the scores of an attention module have to be computed whole; None where they need not."""
    if f"{type(attention).__module__}.{type(attention).__name__}" not in _KNOWN_CLASSES or any(
        name in vars(attention) and not isinstance(getattr(vars(attention)[name], "__self__", None), _TiledMethods)
        for name in _METHODS
    ):
        return FOREIGN_CLASS
    if attention._compiled_call_impl is not None:
        return COMPILED
    if (attention._attention_dir_override or attention.cfg.attention_dir) != "causal":
        return NOT_CAUSAL
    if attention.cfg.positional_embedding_type == "relative_positional_bias":
        return RELATIVE
    return PATTERNS_READ if any(has_hooks(getattr(attention, name)) for name in _READABLE) else None


def reads_patterns(hook_name: str) -> bool:
    """Whether a hook of that name needs a layer's scores or patterns."""
    return hook_name.endswith(_READABLE)


@contextmanager
def fused_attention(attentions: Iterable[Any]) -> Iterator[None]:
    """Computes attention in tiles, wherever there is no `obstacle`, for a with-block; the modules are as they were
    afterwards, also after an exception."""
    changed = []
    try:
        for attention in attentions:
            # What an outer with-block replaced stays; it asks for obstacles at every call.
            if obstacle(attention) in (None, PATTERNS_READ) and not any(name in vars(attention) for name in _METHODS):
                methods = _TiledMethods(attention)
                changed.append(attention)
                for name in _METHODS:
                    setattr(attention, name, getattr(methods, name))
        yield
    finally:
        for attention in changed:
            for name in _METHODS:
                vars(attention).pop(name, None)


class _TiledMethods:
    """What takes the place of three methods of an attention module, in the order in which its forward pass calls them.

    Hooks may come after the replacement, so every call asks for itself whether somebody listens. A forward pass that
    another thread runs meanwhile is left as it is.
    """

    def __init__(self, attention: Any) -> None:
        self._attention = attention
        self._owner = threading.get_ident()
        self._queries_and_keys: tuple[Tensor, Tensor] | None = None

    @property
    def _is_owner(self) -> bool:
        return threading.get_ident() == self._owner

    def _original(self, name: str) -> Callable[..., Tensor]:
        return getattr(type(self._attention), name).__get__(self._attention)

    def calculate_attention_scores(
        self, q: Float[Tensor, "batch query head d_head"], k: Float[Tensor, "batch key kv_head d_head"]
    ) -> Float[Tensor, "_ head _ _"]:
        if not self._is_owner:
            return self._original("calculate_attention_scores")(q, k)
        self._queries_and_keys = None
        if obstacle(self._attention) is not None:
            return self._original("calculate_attention_scores")(q, k)
        self._queries_and_keys = q, k
        return q.new_zeros(1, q.shape[2], 1, 1)  # the forward pass adds biases to it, one for each head

    def apply_causal_mask(
        self,
        attn_scores: Float[Tensor, "_ head _ _"],
        past_kv_pos_offset: int = 0,
        attention_mask: Tensor | None = None,
    ) -> Float[Tensor, "_ head _ _"]:
        """The mask is that of the tiles. Prompts are padded on the right, so `attention_mask` hides nothing more."""
        if self._queries_and_keys is None or not self._is_owner:
            return self._original("apply_causal_mask")(attn_scores, past_kv_pos_offset, attention_mask)
        return attn_scores

    def calculate_z_scores(
        self, v: Float[Tensor, "batch key kv_head d_head"], pattern: Float[Tensor, "_ head _ _"]
    ) -> Float[Tensor, "batch _ head d_head"]:
        if not self._is_owner:
            return self._original("calculate_z_scores")(v, pattern)
        queries_and_keys, self._queries_and_keys = self._queries_and_keys, None
        if queries_and_keys is None:
            return self._original("calculate_z_scores")(v, pattern)
        return self._attention.hook_z(attend(*queries_and_keys, v, Scoring.of(self._attention)))


@dataclass(frozen=True)
class Scoring:
    """How an attention module scores keys, beside the products q_iᵀk_j.

    Attributes:
        scale: what they are divided by.
        window: how many keys a query sees, itself included; None for all before it.
        soft_cap: c in c·tanh(score/c).
        slopes: of ALiBi: what a score loses for each position that the key is further away.
        sinks: logits that join each query's softmax and weigh no value.
    """

    scale: float = 1.0
    window: int | None = None
    soft_cap: float | None = None
    slopes: Float[Tensor, " head"] | None = None
    sinks: Float[Tensor, " head"] | None = None

    @classmethod
    def of(cls, attention: Any) -> Scoring:
        """The scoring of a TransformerLens module."""
        cfg = attention.cfg
        alibi = cfg.positional_embedding_type == "alibi"
        return cls(
            scale=float(attention.attn_scale),
            window=cfg.window_size if attention.attn_type == "local" else None,
            soft_cap=cfg.attn_scores_soft_cap if cfg.attn_scores_soft_cap > 0 else None,
            slopes=attention.create_alibi_multipliers(cfg.n_heads, cfg.device) if alibi else None,
            sinks=attention.sinks.detach() if cfg.use_attention_sinks else None,
        )

    @property
    def plain(self) -> bool:
        """Whether PyTorch's kernels know it."""
        return self.window is self.soft_cap is self.slopes is self.sinks is None


def attend(
    q: Float[Tensor, "batch query head d_head"],
    k: Float[Tensor, "batch key kv_head d_head"],
    v: Float[Tensor, "batch key kv_head d_head"],
    scoring: Scoring,
) -> Float[Tensor, "batch query head d_head"]:
    """z under a causal mask, where the queries are those of the last positions and heads share keys in groups.

    Args:
        q: queries of each head.
        k: keys; each key–value head serves as many neighbouring heads as there are to it.
        v: values.
        scoring: what else decides the scores.
    """
    if torch.is_autocast_enabled(q.device.type):
        # Rounded here once, as autocast would before each product; tiles take factors as they are.
        q, k, v = (values.to(torch.get_autocast_dtype(q.device.type)) for values in (q, k, v))
    q, k = q.to(v.dtype), k.to(v.dtype)
    with torch.autocast(q.device.type, enabled=False):
        if q.device.type != "cpu" and scoring.plain and q.shape[1] == k.shape[1] > _SHORT:
            return _by_kernel(q, k, v, scoring.scale)
        return _Tiles.apply(q, k, v, scoring)


def _by_kernel(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Float[Tensor, "batch query head d_head"]:
    groups = q.shape[2] // k.shape[2]
    q, k, v = (rearrange(values, "batch pos head d_head -> batch head pos d_head") for values in (q, k, v))
    k, v = (values.repeat_interleave(groups, dim=1) for values in (k, v))
    z = scaled_dot_product_attention(q, k, v, is_causal=True, scale=1 / scale)
    return rearrange(z, "batch head pos d_head -> batch pos head d_head")


class _Tiles(torch.autograd.Function):
    """z in tiles of queries and keys, each of which holds its scores for a moment, forward and once more on the way
    back. Tiles keep to a processor's caches, and have few shapes: oneDNN keeps a kernel of 0.7 MB for every shape of a
    product in bfloat16."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, scoring: Scoring) -> Tensor:
        queries, keys, values = _by_group(q, k.shape[2]), k.transpose(1, 2), v.transpose(1, 2)
        z = torch.empty_like(q)
        z_by_group, several = _by_group(z, k.shape[2]), False
        log_sums = queries.new_empty((*queries.shape[:-1], 1), dtype=_wide(q.dtype))
        # One block of queries at a time, whose softmax grows part by part.
        for rows, parts in _tiles(queries, keys, scoring.window):
            block, sums = _part(queries, rows), None
            several |= len(parts) > 1
            for part, ahead in parts:
                scores, _ = _scores(block, _part(keys, part), ahead, scoring)
                sums = _softmax_with(sums, scores, _part(values, part))
            assert sums is not None, "every query sees a key"
            largest, total, weighted = sums
            # A sink joins the sum of each softmax and weighs no value.
            if scoring.sinks is not None:
                total += (_each_head(scoring.sinks, total) - largest).exp_()
            _part(z_by_group, rows).copy_(weighted.div_(total))
            # log Σ exp(score), from which the way back computes the pattern again.
            _part(log_sums, rows).copy_(largest.add_(total.log_()))
        # A copy of z, which hooks may change in place, where the way back needs it.
        ctx.save_for_backward(q, k, v, log_sums, z.clone() if several else None)
        ctx.scoring = scoring
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, log_sums, z = ctx.saved_tensors
        scoring, wide = ctx.scoring, _wide(q.dtype)
        queries, keys, values = _by_group(q, k.shape[2]), k.transpose(1, 2), v.transpose(1, 2)
        by_z = _by_group(gradients[0].to(q.dtype), k.shape[2])
        # Many blocks of queries add to a key's gradient, so it is summed in the wide dtype; a query's is one block's.
        by_q, by_k, by_v = [], by_z.new_zeros(keys.shape, dtype=wide), by_z.new_zeros(values.shape, dtype=wide)
        for rows, parts in _tiles(queries, keys, scoring.window):
            block, block_by_z = _part(queries, rows), _part(by_z, rows)
            # Of the softmax: p_j (g_j − Σ p g), with g_j the gradient by the pattern; over all parts, Σ p g = zᵀ ∂/∂z.
            inner_of_all = None
            if z is not None:
                inner_of_all = (block_by_z.to(wide) * _part(_by_group(z, k.shape[2]), rows)).sum(-1, keepdim=True)
            by_block = block_by_z.new_zeros(block.shape, dtype=wide)
            for part, ahead in parts:
                tile_keys = _part(keys, part)
                scores, capped = _scores(block, tile_keys, ahead, scoring)
                pattern = scores.sub_(_part(log_sums, rows)).exp_()
                _part(by_v, part).add_(_transposed_times(pattern.to(q.dtype), block_by_z))
                by_pattern = _times(block_by_z, _part(values, part).mT).to(wide)
                inner = (by_pattern * pattern).sum(-1, keepdim=True) if inner_of_all is None else inner_of_all
                by_scores = by_pattern.sub_(inner).mul_(pattern)
                # Through c·tanh(s/c), whose slope is 1 − tanh².
                if capped is not None:
                    by_scores.mul_(1 - capped.square_())
                by_scores = by_scores.to(q.dtype)
                by_block.add_(_times(by_scores, tile_keys))
                _part(by_k, part).add_(_transposed_times(by_scores, block))
            by_q.append(by_block.div_(scoring.scale).to(q.dtype))
        return (
            rearrange(torch.cat(by_q, dim=-2), "batch kv group pos d_head -> batch pos (kv group) d_head"),
            by_k.div_(scoring.scale).transpose(1, 2).to(k.dtype),
            by_v.transpose(1, 2).to(v.dtype),
            None,
        )


def _softmax_with(
    sums: tuple[Tensor, Tensor, Tensor] | None, scores: Tensor, values: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A softmax in parts, with one more: the largest score of each query, Σ exp(score − largest), and the values
    weighted by that. What has been summed up shrinks when a larger score comes."""
    largest = scores.amax(-1, keepdim=True)
    if sums is not None:
        largest = largest.maximum(sums[0])
    weights = scores.sub_(largest).exp_()
    total, weighted = weights.sum(-1, keepdim=True), _times(weights.to(values.dtype), values).to(weights.dtype)
    if sums is not None:
        before, total_before, weighted_before = sums
        shrinkage = before.sub_(largest).exp_()
        total += total_before.mul_(shrinkage)
        weighted += weighted_before.mul_(shrinkage)
    return largest, total, weighted


def _tiles(queries: Tensor, keys: Tensor, window: int | None) -> Iterator[tuple[slice, list[tuple[slice, int]]]]:
    """Blocks of queries, each with the keys that one of them sees, a part at a time: which keys, and the position of
    the first less that of the first query. The queries are those of the last positions. The last keys come first, so
    that every query meets a key it sees at once."""
    size, width = _TILE if queries.device.type == "cpu" else _TILE_OF_GPU
    if window is None and keys.shape[-2] > width:  # each part of a block costs a pass over what is summed up
        size *= 2
    count, before = queries.shape[-2], keys.shape[-2] - queries.shape[-2]
    for start in range(0, count, size):
        stop = min(start + size, count)
        first, after = start + before, stop + before
        earliest = 0 if window is None else max(0, first - window + 1)
        bounds = [*range(after, earliest, -width), earliest]
        parts = [slice(low, high) for high, low in zip(bounds, bounds[1:], strict=False)]
        yield slice(start, stop), [(part, part.start - first) for part in parts]


def _scores(
    queries: Float[Tensor, "batch kv group query d_head"],
    keys: Float[Tensor, "batch kv key d_head"],
    ahead: int,
    scoring: Scoring,
) -> tuple[Float[Tensor, "batch kv group query key"], Float[Tensor, "batch kv group query key"] | None]:
    """A tile's scores, −∞ for keys that a query does not see; and tanh(score/c) where they are soft-capped.

    Args:
        ahead: the position of the first key less that of the first query.
    """
    scores, capped = _times(queries, keys.mT).to(_wide(queries.dtype)).div_(scoring.scale), None
    if scoring.soft_cap is not None:
        capped = scores.div_(scoring.soft_cap).tanh_()
        scores = capped * scoring.soft_cap
    n_queries, n_keys = scores.shape[-2:]
    query = torch.arange(n_queries, device=scores.device)[:, None]
    key = torch.arange(ahead, ahead + n_keys, device=scores.device)
    if scoring.slopes is not None:
        # In float32, as TransformerLens adds them up.
        scores += _each_head(scoring.slopes, scores) * (key - query).clamp(max=0)
    # Keys after a query come from the first query on; keys before its window are among the tile's first.
    if (late := max(0, -ahead)) < n_keys:
        scores[..., late:].masked_fill_(key[late:] > query, -math.inf)
    if scoring.window is not None and (early := n_queries - ahead - scoring.window) > 0:
        scores[..., :early].masked_fill_(key[:early] <= query - scoring.window, -math.inf)
    return scores, capped


def _part(values: Float[Tensor, "*heads pos inner"], positions: slice) -> Float[Tensor, "*heads some inner"]:
    """A view of some positions; PyTorch runs several directions together through `narrow`, and not through indexing."""
    return values.narrow(-2, positions.start, positions.stop - positions.start)


def _by_group(heads: Float[Tensor, "batch pos head d_head"], kv: int) -> Float[Tensor, "batch kv group pos d_head"]:
    """A view by key–value head and the heads that share it."""
    return rearrange(heads, "batch pos (kv group) d_head -> batch kv group pos d_head", kv=kv)


def _each_head(values: Float[Tensor, " head"], scores: Float[Tensor, "batch kv group query key"]) -> Tensor:
    """Values of each head, ready for a block's scores."""
    return values.to(scores.device).reshape(*scores.shape[1:3], 1, 1)


def _times(
    left: Float[Tensor, "batch kv group query inner"], right: Float[Tensor, "batch kv inner outer"]
) -> Float[Tensor, "batch kv group query outer"]:
    """One product for all heads of a group, so that what they share is read once."""
    rows = rearrange(left, "batch kv group query inner -> batch kv (group query) inner")
    return rearrange(rows @ right, "batch kv (group query) outer -> batch kv group query outer", group=left.shape[2])


def _transposed_times(
    left: Float[Tensor, "batch kv group query key"], right: Float[Tensor, "batch kv group query d_head"]
) -> Float[Tensor, "batch kv key d_head"]:
    """leftᵀ right, summed over the heads of a group."""
    left = rearrange(left, "batch kv group query key -> batch kv key (group query)")
    return left @ rearrange(right, "batch kv group query d_head -> batch kv (group query) d_head")


def _wide(dtype: torch.dtype) -> torch.dtype:
    """What scores and their softmax are computed in."""
    return torch.promote_types(dtype, torch.float32)
