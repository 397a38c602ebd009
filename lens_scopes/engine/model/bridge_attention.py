"""Attention of a TransformerBridge without an n × n matrix, for layers whose scores and patterns nobody reads.

A bridge computes attention step by step, so that hooks see each step. For the length of a call these steps are replaced
on the instance, and scores are computed in tiles by `attend`:

- where a bridge wraps an attention of Transformers, that attention's own forward pass runs, with a function that is
  registered beside its `sdpa`; masks are those of `sdpa`, which are None where a mask is causal and nothing more;
- where it splits a joint projection (GPT-2, Pythia, Phi-3), `attend` runs on the bridge's own queries, keys and values.

Four tokens run both ways, once for each model. A layer that gives something else, or whose code is of neither kind,
computes attention as it did; and so does one where somebody listens to a hook that the other way does not call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.attention import PATTERNS_READ, Scoring, attend, has_hooks

ONE_FORM = "its bridge knows no other form of it"
DIFFERS = "the other form gives something else"
TRAINING = "the model is in training mode"

# The first goes with masks of Transformers' sdpa, the second with those that attention as it was needs in other layers.
_FUSED, _MIXED = "lens_scopes", "lens_scopes_mixed"
_FLAGS = ("use_attn_result", "use_split_qkv_input", "use_attn_in")  # with which a bridge shows each head's part


@dataclass(frozen=True)
class LayerAttention:
    """What is known of one layer's attention.

    Attributes:
        obstacle: why its scores have to be computed whole; None where they need not.
        unseen: the hook points inside it that are not called then, or with other values.
    """

    obstacle: str | None
    unseen: frozenset[str] = frozenset()


@dataclass
class _Call:
    """The state of one with-block: the attention modules of Transformers that compute scores whole, those that asked
    for a function, and the windows of masks that were read."""

    whole: Collection[int]
    modules: set[int] = field(default_factory=set)
    windows: dict[int, tuple[Tensor, int | None]] = field(default_factory=dict)


_state = threading.local()


def attentions(module: Any) -> list[Any]:
    """The attention of each block of a bridge; None for blocks without one."""
    return [getattr(block, "attn", None) for block in getattr(module, "blocks", ())]


def reason_unfused(attention: Any, layer: LayerAttention, more_points: Collection[int] = ()) -> str | None:
    """Why a layer's scores are computed whole now; None where they are not.

    Args:
        attention: the bridge's module.
        layer: what is known of it.
        more_points: ids of hook points that will be listened to, beside those that are.
    """
    if layer.obstacle is not None or attention is None:
        return layer.obstacle
    if attention.training:
        return TRAINING
    points = (point for name, point in attention.named_modules() if name in layer.unseen)
    shows_parts = any(getattr(attention.config, flag, False) for flag in _FLAGS)
    return (
        PATTERNS_READ if shows_parts or any(id(point) in more_points or has_hooks(point) for point in points) else None
    )


def attention_has_hooks(attention: Any) -> bool:
    """Whether somebody listens to anything inside a layer's attention."""
    return attention is not None and any(map(has_hooks, attention.modules()))


def examine(module: Any, run: Callable[[], tuple[Tensor, Tensor]]) -> tuple[LayerAttention, ...]:
    """What is known of each layer's attention after a short prompt ran with scores and without.

    Args:
        module: a bridge that nobody listens to.
        run: gives the final states and a gradient of a pass through it.
    """
    layers = attentions(module)
    obstacles = [ONE_FORM if item is not None and replacement(item) is None else None for item in layers]
    try:
        # As it is and in tiles: what the hook points are called with shows which of them tiles pass by.
        values, results = _record_hook_values(layers, run)
        with fused_bridge(module, obstacles) as modules:
            other_values, other_results = _record_hook_values(layers, run)
    except (AttributeError, IndexError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError):
        return (LayerAttention(DIFFERS),) * len(layers)
    # Which layer is to blame is not known, so all of them stay as they are.
    if modules and not all(map(agree_in_float32, results, other_results)):
        return (LayerAttention(DIFFERS),) * len(layers)

    def describe_layer(index: int) -> LayerAttention:
        if layers[index] is None:
            return LayerAttention(None)
        if obstacles[index] is not None or id(layers[index].original_component) not in modules:
            return LayerAttention(ONE_FORM)
        expected, actual = values[index], other_values[index]
        unseen = [
            name
            for name, tensors in expected.items()
            if len(actual.get(name, [])) != len(tensors) or not all(map(agree_in_float32, tensors, actual[name]))
        ]
        return LayerAttention(None, frozenset(unseen))

    return tuple(describe_layer(index) for index in range(len(layers)))


def _record_hook_values(
    layers: Sequence[Any], run: Callable[[], tuple[Tensor, Tensor]]
) -> tuple[list[dict[str, list[Tensor]]], tuple[Tensor, Tensor]]:
    """What the hook points inside each layer's attention were called with in a pass, and its results."""
    records: list[dict[str, list[Tensor]]] = [{} for _ in layers]

    def recorder(values: dict[str, list[Tensor]], name: str) -> Callable[..., None]:
        return lambda _, __, output: values.setdefault(name, []).append(output.detach())

    with ExitStack() as stack:
        for attention, values in zip(layers, records, strict=True):
            for name, part in attention.named_modules() if attention is not None else ():
                if type(part).__name__ == "HookPoint":
                    stack.callback(part.register_forward_hook(recorder(values, name)).remove)
        return records, run()


def agree(value: Tensor, other: Tensor, eps: float | None = None) -> bool:
    """Whether two results of the same computation differ by rounding alone."""
    allowed = 64 * (eps or torch.finfo(value.dtype).eps) * float(value.abs().max())
    return value.shape == other.shape and float((value - other).abs().max()) <= allowed


def agree_in_float32(value: Tensor, other: Tensor) -> bool:
    """`agree`, where softmax may be computed in float32 whatever the model's dtype is."""
    return agree(value, other, max(torch.finfo(value.dtype).eps, torch.finfo(torch.float32).eps))


def replacement(attention: Any) -> tuple[str, Callable[..., Any]] | None:
    """The method of a bridge's attention to replace, and what replaces it; None where there is nothing."""
    from transformer_lens.model_bridge.generalized_components import (
        AttentionBridge,
        JointQKVAttentionBridge,
        JointQKVPositionEmbeddingsAttentionBridge,
    )

    if not isinstance(attention, AttentionBridge):
        return None
    if not isinstance(attention, JointQKVAttentionBridge):
        # It wraps an attention of Transformers, which then runs by itself.
        return "forward", partial(AttentionBridge.forward, attention)
    steps = type(attention)._reconstruct_attention
    # Only the two ways of putting attention together that are known: a subclass may have one of its own.
    rotary = steps is JointQKVPositionEmbeddingsAttentionBridge._reconstruct_attention
    if not rotary and steps is not JointQKVAttentionBridge._reconstruct_attention:
        return None
    if getattr(attention, "_reorder_and_upcast_attn", False):
        return None
    return "_reconstruct_attention", partial(_joint_attention, attention, rotary)


def _joint_attention(
    attention: Any, rotary: bool, q: Tensor, k: Tensor, v: Tensor, **named: Any
) -> tuple[Tensor, None]:
    """The steps of a bridge that splits a joint projection, without scores."""
    cfg = attention.config
    kv_heads = getattr(cfg, "n_key_value_heads", None) or cfg.n_heads
    q, k, v, batch, length, d_head = attention._reshape_qkv_to_heads(q, k, v, cfg.n_heads, kv_heads)
    scale = d_head**-0.5
    if rotary and isinstance(tables := named.get("position_embeddings"), tuple):
        q, k = attention._apply_rotary_pos_emb(q, k, *attention._apply_position_embedding_hooks(tables))
    elif getattr(cfg, "scale_attn_by_inverse_layer_idx", False) and attention._layer_idx is not None:
        scale /= attention._layer_idx + 1
    k, v = attention._update_kv_cache(k, v, **named)
    mask = named.get("attention_mask")
    z, _ = _attention(attention.original_component, q, k, v, mask, scaling=scale, is_causal=True)
    return attention._apply_output_projection(z.reshape(batch, length, -1)), None


def _attention(
    module: Any,
    query: Float[Tensor, "batch head query d_head"],
    key: Float[Tensor, "batch kv_head key d_head"],
    value: Float[Tensor, "batch kv_head key d_head"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Float[Tensor, "batch query head d_head"], None]:
    """An attention function of Transformers' interface."""
    import sys

    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    call: _Call | None = getattr(_state, "call", None)
    if call is not None:
        call.modules.add(id(module))
        if id(module) in call.whole:
            # Somebody reads this layer's scores: it runs as Transformers' eager attention does.
            eager = sys.modules[type(module).__module__].eager_attention_forward  # type: ignore[attr-defined]
            return eager(module, query, key, value, attention_mask, scaling=scaling, **others)
    is_causal = others.get("is_causal")
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    window = _window(attention_mask, query, key, call) if causal or attention_mask is not None else None
    # Tiles know causal windows alone: no other mask, no position biases, no dropout.
    if window is None or others.get("position_bias") is not None or others.get("dropout"):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **others)
    scoring = Scoring(
        scale=query.shape[-1] ** 0.5 if scaling is None else 1 / scaling,
        window=window if window < key.shape[2] else None,
        soft_cap=others.get("softcap"),
        sinks=None if (sinks := others.get("s_aux")) is None else sinks.detach(),
    )
    q, k, v = (rearrange(values, "batch head pos d_head -> batch pos head d_head") for values in (query, key, value))
    return attend(q, k, v, scoring), None


def _window(mask: Tensor | None, query: Tensor, key: Tensor, call: _Call | None) -> int | None:
    """How many keys a query sees by a mask, itself included, the queries being the last; None for any other mask."""
    if mask is None:
        return key.shape[2]
    windows = call.windows if call is not None else {}
    if id(mask) not in windows:
        windows[id(mask)] = mask, _read_window(mask, query.shape[2], key.shape[2])
    return windows[id(mask)][1]


def _read_window(mask: Tensor, queries: int, keys: int) -> int | None:
    if mask.ndim != 4 or mask.shape[2:] != (queries, keys):
        return None
    visible = mask if mask.dtype == torch.bool else mask == 0
    if mask.dtype != torch.bool and bool((visible | (mask <= torch.finfo(mask.dtype).min / 2)).logical_not().any()):
        return None  # it adds biases
    window = int(visible[0, 0, -1].sum())
    keys_at = torch.arange(keys, device=mask.device)
    queries_at = torch.arange(keys - queries, keys, device=mask.device)[:, None]
    expected = (keys_at <= queries_at) & (keys_at > queries_at - window)
    return window if bool((visible == expected).all()) else None


@cache
def _register() -> None:
    from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask
    from transformers.modeling_utils import AttentionInterface

    for name, mask in ((_FUSED, sdpa_mask), (_MIXED, eager_mask)):
        AttentionInterface.register(name, _attention)
        AttentionMaskInterface.register(name, mask)


@contextmanager
def fused_bridge(module: Any, reasons: Sequence[str | None]) -> Iterator[set[int]]:
    """Computes attention in tiles in the layers without a reason against it, for a with-block.

    The modules and configurations are as they were afterwards, also after an exception. A forward pass that another
    thread runs meanwhile computes attention as it did.

    Args:
        module: the bridge.
        reasons: why a layer's scores are computed whole, by layer.

    Yields:
        The ids of Transformers' modules that asked for an attention function so far.
    """
    layers = attentions(module)
    changes = [
        (attention, *change)
        for attention, reason in zip(layers, reasons, strict=False)
        if attention is not None and reason is None and (change := replacement(attention)) is not None
    ]
    if not changes:
        yield set()
        return
    _register()
    changed = {id(attention) for attention, *_ in changes}
    # Layers that compute scores whole take part too: the configuration that names the function is theirs as well.
    whole = [item for item in layers if item is not None and id(item) not in changed]
    call, outer = _Call({id(item.original_component) for item in whole}), getattr(_state, "call", None)
    # Parts share configurations or have their own: each is set once.
    configs = {id(config): config for part in module.original_model.modules() if (config := _config(part)) is not None}
    implementations = [config._attn_implementation_internal for config in configs.values()]
    before = [vars(attention).get(name) for attention, name, _ in changes]
    try:
        for config in configs.values():
            config._attn_implementation_internal = _MIXED if whole else _FUSED
        for attention, name, function in changes:
            vars(attention)[name] = _of_this_thread(function, getattr(attention, name))
        _state.call = call
        yield call.modules
    finally:
        _state.call = outer
        for (attention, name, _), original in zip(changes, before, strict=True):
            vars(attention).pop(name, None)
            if original is not None:
                vars(attention)[name] = original
        for config, implementation in zip(configs.values(), implementations, strict=True):
            config._attn_implementation_internal = implementation


def _config(part: Any) -> Any:
    config = vars(part).get("config")
    return config if hasattr(config, "_attn_implementation_internal") else None


def _of_this_thread(function: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    owner = threading.get_ident()

    def choose(*arguments: Any, **named: Any) -> Any:
        return (function if threading.get_ident() == owner else original)(*arguments, **named)

    return choose
