"""The tiny random models as TransformerBridges around Transformers' own classes, which transformer-lens 4 has."""

from __future__ import annotations

import warnings
from functools import partial
from typing import Any

import torch
import transformers
from torch import Tensor

from lens_scopes.models.backends import build_bridge
from lens_scopes.models.quiet import quiet_libraries

D_VOCAB = 23
N_CTX = 32
_ENDS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
_NO_DROPOUT = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
_SIZES = {"vocab_size": D_VOCAB, "max_position_embeddings": N_CTX, **_ENDS}


def gpt2_like(seed: int = 0, dtype: torch.dtype = torch.float64, n_ctx: int = N_CTX) -> Any:
    """LayerNorm, learned positions, tied unembedding without a bias."""
    return random_bridge(
        transformers.GPT2Config(
            vocab_size=D_VOCAB, n_positions=n_ctx, n_embd=16, n_layer=2, n_head=4, n_inner=32, **_ENDS, **_NO_DROPOUT
        ),
        seed,
        dtype,
    )


def llama_like(seed: int = 0, dtype: torch.dtype = torch.float64) -> Any:
    """RMSNorm, rotary positions, gated MLP, four query heads that share two key-value heads."""
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3}
    return random_bridge(
        transformers.LlamaConfig(**_SIZES, **sizes, num_attention_heads=4, num_key_value_heads=2), seed, dtype
    )


def gemma_like(seed: int = 0, dtype: torch.dtype = torch.float64) -> Any:
    """Norms before and after each block, soft-caps on scores and logits, q and k norms, local and global attention,
    tied unembedding of embeddings scaled by √d_model."""
    sizes = {"hidden_size": 12, "intermediate_size": 24, "num_hidden_layers": 3, "head_dim": 6}
    return random_bridge(
        transformers.Gemma3TextConfig(
            **_SIZES,
            **sizes,
            num_attention_heads=2,
            num_key_value_heads=1,
            query_pre_attn_scalar=6,
            sliding_window=3,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            attn_logit_softcapping=2.0,
            final_logit_softcapping=3.0,
        ),
        seed,
        dtype,
    )


def neox_like(seed: int = 0, dtype: torch.dtype = torch.float64) -> Any:
    """Attention and MLP in parallel (no `hook_resid_mid`), rotation of half of each head."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    return random_bridge(
        transformers.GPTNeoXConfig(**_SIZES, **sizes, num_attention_heads=2, rotary_pct=0.5), seed, dtype
    )


def random_bridge(config: Any, seed: int, dtype: torch.dtype) -> Any:
    """A frozen TransformerBridge in eval mode with every parameter drawn from its own generator."""
    with quiet_libraries(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=dtype)
        generator = torch.Generator().manual_seed(seed)
        scaled = config.hidden_size**-0.5 if "gemma" in config.model_type else 1.0
        for name, parameter in model.named_parameters():
            _draw(name, parameter, generator, scaled)
        bridge = build_bridge(model.eval().requires_grad_(False), type(model).__name__, None, "custom")
        bridge(torch.zeros(1, 1, dtype=torch.long))  # which adds the hooks that a bridge adds for good
    if dtype == torch.float64:
        _compute_in_float64(bridge)
    return bridge.eval().requires_grad_(False)


def _compute_in_float64(bridge: Any) -> None:
    """Transformers computes norms and softmax in float32 whatever the weights are: no law would hold to more digits."""
    for part in bridge.modules():
        if type(part).__name__.endswith("RMSNorm"):
            vars(part)["forward"] = partial(_rms_norm, part)
        elif hasattr(part, "_masked_softmax"):
            vars(part)["_masked_softmax"] = lambda scores, dtype=None: scores.softmax(-1)


def _rms_norm(norm: Any, values: Tensor) -> Tensor:
    is_gemma = "Gemma" in type(norm).__name__  # which scales by 1 + weight
    weight, epsilon = (1 + norm.weight, norm.eps) if is_gemma else (norm.weight, norm.variance_epsilon)
    return values * (values.square().mean(-1, keepdim=True) + epsilon).rsqrt() * weight


def _draw(name: str, parameter: Tensor, generator: torch.Generator, scaled: float) -> None:
    draw = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    in_norm = "norm" in name or "ln_" in name
    if name.endswith("bias"):
        mean, spread = 0.0, 0.3
    elif in_norm:  # Gemma's norms scale by 1 + weight
        mean, spread = (0.0 if scaled != 1 else 1.0), 0.25
    elif any(part in name for part in ("embed_tokens", "embed_in", "wte", "wpe")):
        mean, spread = 0.0, scaled
    else:
        mean, spread = 0.0, parameter.shape[0 if "c_" in name else -1] ** -0.5
    parameter.data.copy_(mean + spread * draw)
