"""Small random HookedTransformers, one a family of architectures, in float64 and built in memory.

With transformer-lens 4, which has no HookedTransformer, they are the bridges of `tiny_bridges`; what no bridge computes
skips the test that asks for it.

Every parameter is drawn at random, norm weights and biases included, so that a formula that forgets one
of them gives another number. The global generator is left alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

import pytest
import tiny_bridges
import torch
from tiny_bridges import D_VOCAB, N_CTX
from torch import Tensor

from lens_scopes.engine.model import has_hooked

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer


def on_either_line(builder: Callable[..., Any]) -> Callable[..., Any]:
    """The builder; with transformer-lens 4 the bridge of its name, or a skip of the test where there is none."""
    if has_hooked():
        return builder

    @wraps(builder)
    def skipped(*_: Any, **__: Any) -> Any:
        pytest.skip(f"transformer-lens 4 has no HookedTransformer, and no bridge stands for {builder.__name__}")

    return getattr(tiny_bridges, builder.__name__, skipped)


@on_either_line
def gpt2_like(seed: int = 0, dtype: torch.dtype = torch.float64, n_ctx: int = N_CTX) -> HookedTransformer:
    """LayerNorm, learned positions, tied unembedding without a bias."""
    return random_transformer(
        seed, dtype, tied=True, n_ctx=n_ctx, n_layers=2, d_model=16, d_head=4, n_heads=4, d_mlp=32, act_fn="gelu_new"
    )


@on_either_line
def llama_like(seed: int = 0, dtype: torch.dtype = torch.float64) -> HookedTransformer:
    """RMSNorm, rotary positions, gated MLP, four query heads that share two key-value heads."""
    return random_transformer(
        seed,
        dtype,
        n_layers=3,
        d_model=16,
        d_head=4,
        n_heads=4,
        n_key_value_heads=2,
        d_mlp=24,
        act_fn="silu",
        gated_mlp=True,
        normalization_type="RMS",
        positional_embedding_type="rotary",
    )


@on_either_line
def gemma_like(seed: int = 0, dtype: torch.dtype = torch.float64) -> HookedTransformer:
    """Norms before and after each block, soft-caps on scores and logits, q and k norms, local and global
    attention, tied unembedding of embeddings scaled by √d_model."""
    return random_transformer(
        seed,
        dtype,
        tied=True,
        n_layers=3,
        d_model=12,
        d_head=6,
        n_heads=2,
        n_key_value_heads=1,
        d_mlp=24,
        act_fn="gelu_pytorch_tanh",
        gated_mlp=True,
        normalization_type="RMS",
        positional_embedding_type="rotary",
        rotary_base=100_000,
        rotary_base_local=10_000,
        use_normalization_before_and_after=True,
        use_qk_norm=True,
        use_local_attn=True,
        window_size=3,
        attn_types=["local", "global", "local"],
        attn_scores_soft_cap=2.0,
        output_logits_soft_cap=3.0,
    )


@on_either_line
def neox_like(seed: int = 0, dtype: torch.dtype = torch.float64) -> HookedTransformer:
    """Attention and MLP in parallel (no `hook_resid_mid`), rotation of half of each head."""
    return random_transformer(
        seed,
        dtype,
        n_layers=2,
        d_model=16,
        d_head=8,
        n_heads=2,
        d_mlp=32,
        act_fn="gelu",
        parallel_attn_mlp=True,
        positional_embedding_type="rotary",
        rotary_dim=4,
    )


@on_either_line
def attention_only(seed: int = 0, dtype: torch.dtype = torch.float64) -> HookedTransformer:
    """No MLP and no norm anywhere: y is the residual stream itself."""
    return random_transformer(
        seed, dtype, n_layers=2, d_model=12, d_head=4, n_heads=3, attn_only=True, normalization_type=None
    )


@on_either_line
def learned_positions_with_bU(seed: int = 0, dtype: torch.dtype = torch.float64) -> HookedTransformer:  # noqa: N802
    """LayerNorm, learned positions, untied unembedding with a bias."""
    return random_transformer(
        seed, dtype, unembed_bias=True, n_layers=2, d_model=14, d_head=7, n_heads=2, d_mlp=28, act_fn="silu"
    )


TINY_MODELS: dict[str, Callable[..., HookedTransformer]] = {
    builder.__name__: builder
    for builder in (gpt2_like, llama_like, gemma_like, neox_like, attention_only, learned_positions_with_bU)
    if has_hooked() or hasattr(tiny_bridges, builder.__name__)
}


@on_either_line
def linear_toy(
    seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[HookedTransformer, Callable[[int, int], Tensor]]:
    """A model whose y is linear in the embeddings, and its J in closed form.

    With no norms, no MLP and W_Q = 0, every head of layer l attends evenly to the tokens so far. With
    A[s, t] = 1/(s+1) for t ≤ s and M_l = Σ_h W_V W_O, a layer maps the rows X to X + A X M_l (+ constants).

    Returns the model and `jacobian(n_tokens, layer=0)`: J of y at the last token by `resid_pre` of the layer
    (the embedding for 0, `resid_post` of the last layer for 2), [pos, d_model (out), d_model (in)].
    """
    model = random_transformer(
        seed,
        dtype,
        unembed_bias=True,
        n_layers=2,
        d_model=12,
        d_head=4,
        n_heads=3,
        attn_only=True,
        normalization_type=None,
    )
    for block in model.blocks:
        block.attn.W_Q.data.zero_()
        block.attn.b_Q.data.zero_()
    layer_maps = [torch.einsum("hdk,hke->de", block.attn.W_V, block.attn.W_O) for block in model.blocks]

    def jacobian(n_tokens: int, layer: int = 0) -> Tensor:
        attention = torch.ones(n_tokens, n_tokens, dtype=dtype).tril()
        attention = attention / attention.sum(1, keepdim=True)
        identity = torch.eye(model.cfg.d_model, dtype=dtype)
        is_last = torch.eye(n_tokens, dtype=dtype)[-1]
        if layer == 0:
            first, second = layer_maps
            maps = (
                torch.einsum("t,de->tde", is_last, identity)
                + torch.einsum("t,de->tde", attention[-1], first + second)
                + torch.einsum("t,de->tde", (attention @ attention)[-1], first @ second)
            )
        elif layer == 1:
            maps = torch.einsum("t,de->tde", is_last, identity) + torch.einsum(
                "t,de->tde", attention[-1], layer_maps[1]
            )
        else:
            maps = torch.einsum("t,de->tde", is_last, identity)
        return maps.transpose(1, 2)

    return model, jacobian


@on_either_line
def random_transformer(
    seed: int,
    dtype: torch.dtype,
    *,
    tied: bool = False,
    unembed_bias: bool = False,
    n_ctx: int = N_CTX,
    **config: Any,
) -> HookedTransformer:
    """A frozen HookedTransformer in eval mode with every parameter drawn from its own generator.

    Tied models read logits with W_U = W_Eᵀ/√d_model, which is what Gemma's scaled embeddings amount to.
    """
    model = hooked_transformer(d_vocab=D_VOCAB, n_ctx=n_ctx, dtype=dtype, device="cpu", init_weights=False, **config)
    generator = torch.Generator().manual_seed(seed)

    def normal(parameter: Tensor, mean: float, standard_deviation: float) -> None:
        draw = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data.copy_(mean + standard_deviation * draw)

    for name, parameter in model.named_parameters():
        last_name = name.rpartition(".")[2]
        if last_name == "w":
            normal(parameter, 1.0, 0.25)
        elif last_name.startswith(("b", "_b")):
            normal(parameter, 0.0, 0.3)
        elif last_name in ("W_E", "W_pos"):
            normal(parameter, 0.0, 1.0)
        else:
            fan_in = model.cfg.d_mlp if name.endswith("mlp.W_out") else model.cfg.d_model
            normal(parameter, 0.0, fan_in**-0.5)
    if tied:
        model.unembed.W_U.data.copy_(model.embed.W_E.data.T * model.cfg.d_model**-0.5)
    if not unembed_bias:
        model.unembed.b_U.data.zero_()
    return model.eval().requires_grad_(False)


@on_either_line
def hooked_transformer(**config: Any) -> HookedTransformer:
    """A HookedTransformer of this configuration, as it is made."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return HookedTransformer(HookedTransformerConfig(**config))
