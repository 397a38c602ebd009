"""What each backend can compute, a TransformerBridge from a Transformers model, and the comparison of their logits."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_scopes.errors import ModelError

# The difference between logits, as a share of their spread (both root mean squares), that rounding explains. float64 is
# no stricter than float32 because Transformers computes norms and softmax in float32 whatever the weights are. Gemma 3
# 270M has 4e-6, 1e-2 and 7e-2 in float32, float16 and bfloat16; wrong conversions have 0.3 and more.
TOLERANCES = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 0.05, torch.bfloat16: 0.25}


def refuse_unsupported(config: Any, class_name: str, backend: str) -> None:
    """Raises ModelError for what is no causal language model, or what `backend` cannot compute at all."""
    from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES
    from transformer_lens.utilities.architectures import classify_architecture

    stated = (getattr(config, "architectures", None) or [class_name])[0]
    kinds = {classify_architecture(stated), classify_architecture(class_name)} - {"causal_lm", "multimodal"}
    if kinds or getattr(config, "is_encoder_decoder", False):
        raise ModelError(f"{stated} is not a causal language model: the scopes explain next-token predictions")
    if backend == "bridge" and class_name not in SUPPORTED_ARCHITECTURES:
        raise ModelError(f"TransformerBridge does not know the architecture {class_name}")
    if backend == "hooked" and getattr(config, "quantization_config", None):
        raise ModelError('HookedTransformer cannot read quantized weights: dequantize them, or use backend="bridge"')


def possible_processing(wanted: Mapping[str, bool], cfg: Any, architecture: str, *, strict: bool) -> dict[str, bool]:
    """`wanted` without the flags that would change what this architecture computes; `strict` refuses those instead."""
    from transformer_lens.utilities.architectures import POST_NORM_ARCHITECTURES

    normalization = cfg.normalization_type or ""
    obstacles = {}
    if architecture in POST_NORM_ARCHITECTURES or not normalization:
        obstacles["fold_ln"] = "it has no norms before its sublayers"
    if architecture in POST_NORM_ARCHITECTURES or normalization[:2] != "LN" or getattr(cfg, "final_rms", False):
        obstacles["center_writing_weights"] = "its norms do not subtract the mean"
    if (getattr(cfg, "output_logits_soft_cap", None) or -1) > 0:
        obstacles["center_unembed"] = "its logits are soft-capped"
    for flag, obstacle in obstacles.items():
        if strict and wanted[flag]:
            raise ModelError(
                f"processing {flag!r} would change what {architecture} computes ({obstacle}): leave it out"
            )
    return {flag: on and flag not in obstacles for flag, on in wanted.items()}


def build_bridge(pretrained: Any, class_name: str, tokenizer: Any, name: str) -> Any:
    """A TransformerBridge around `pretrained`, unprocessed."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    return build_bridge_from_module(
        pretrained, class_name, hf_config=copy.deepcopy(pretrained.config), tokenizer=tokenizer, model_name=name
    )


def probe_tokens(pretrained: Any) -> Int[Tensor, "1 pos"]:
    """Eight token ids drawn at random, always the same, from the whole vocabulary of `pretrained`."""
    n_vocab = pretrained.get_input_embeddings().num_embeddings
    token_ids = torch.randint(n_vocab, (1, 8), generator=torch.Generator().manual_seed(0))
    return token_ids.to(pretrained.device)


def compare_logits(
    logits: Float[Tensor, "pos d_vocab"],
    expected: Float[Tensor, "pos d_vocab"],
    *,
    dtype: torch.dtype,
    name: str,
    backend: str,
    centered: bool,
) -> None:
    """Raises ModelError where `logits` differs from `expected` by more than rounding in `dtype` explains.

    `centered` leaves out the mean over the vocabulary, which centring the unembedding removes.
    """
    spread = expected - expected.mean(-1, keepdim=True)
    difference = (logits - logits.mean(-1, keepdim=True) - spread) if centered else logits - expected
    share, allowed, largest = float(difference.norm() / spread.norm()), TOLERANCES[dtype], float(difference.abs().max())
    if not share <= allowed:
        computer, cure = {
            "hooked": ("HookedTransformer", 'load it with backend="bridge"'),
            "bridge": ("TransformerBridge", "it cannot be explained with this version of transformer-lens"),
        }[backend]
        raise ModelError(
            f"{computer} does not compute {name!r} as Transformers does: in {str(dtype).removeprefix('torch.')} their "
            f"logits differ by {share:.2g} of their spread (by up to {largest:.2g}) where rounding explains "
            f"{allowed:g}; {cure}"
        )
