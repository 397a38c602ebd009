"""Builds a HookedTransformer or TransformerBridge from a Transformers model, and compares their logits."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
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


def build_hooked(pretrained: Any, cfg: Any, tokenizer: Any, processing: Mapping[str, bool]) -> Any:
    """A HookedTransformer with configuration `cfg` and the weights of `pretrained`, which it shares where it can."""
    from transformer_lens import HookedTransformer
    from transformer_lens.loading_from_pretrained import get_pretrained_state_dict

    try:
        # With the model in hand the first argument only has to be a path that exists.
        weights = get_pretrained_state_dict(str(Path(__file__).parent), cfg, pretrained, dtype=cfg.dtype)
        model = HookedTransformer(cfg, tokenizer, move_to_device=False)
        if any(processing.values()):
            model.load_and_process_state_dict(dict(weights), **processing)
        else:
            _adopt(model, weights)
        if cfg.n_devices > 1:
            _spread(model)
        else:
            model.move_model_modules_to_device()
        if not any(processing.values()):
            _tie(model, weights)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ModelError(
            f"HookedTransformer cannot take the weights of this {type(pretrained).__name__} "
            f'({type(error).__name__}): load it with backend="bridge"'
        ) from error
    return model


def _adopt(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Makes `weights` the parameters of `model` without copying them.

    They stay views in the layout of Transformers, in which HookedTransformer's matrix products need no copy at
    every forward pass either. Other weights that are one in Transformers are parted, so that a change to one does not
    reach the other; `_tie` sees to W_E and W_U.
    """
    owners: set[tuple[int, int]] = set()
    tied = _tied_embeddings(weights)
    adopted = {}
    for key, value in model.fill_missing_keys(dict(weights)).items():
        value = value.detach()
        if value.is_floating_point():
            value = value.to(model.cfg.dtype)
        owner = (value.data_ptr(), value.numel())
        parted = value.numel() and owner in owners and not (tied and key in _EMBEDDINGS)
        adopted[key] = value.clone() if parted else value
        owners.add(owner)
    model.load_state_dict(adopted, assign=True, strict=False)


_EMBEDDINGS = ("embed.W_E", "unembed.W_U")


def _tied_embeddings(weights: Mapping[str, Tensor]) -> bool:
    """Whether W_U is W_Eᵀ, in one place. Gemma's W_E is scaled, and so another matrix."""
    W_E, W_U = (weights.get(name) for name in _EMBEDDINGS)
    if W_E is None or W_U is None:
        return False
    return W_E.data_ptr() == W_U.data_ptr() and W_E.shape == W_U.T.shape and W_E.stride() == W_U.T.stride()


def _tie(model: Any, weights: Mapping[str, Tensor]) -> None:
    """Makes tied embeddings one matrix in memory, as in Transformers: casts and moves to a device have parted them."""
    W_E, unembed = model.embed.W_E, model.unembed
    if _tied_embeddings(weights) and W_E.device == unembed.W_U.device:
        unembed.W_U.data = W_E.data.T
        model.register_load_state_dict_pre_hook(_untie)


def _untie(model: Any, *_: Any) -> None:
    """Parts the two before other weights are copied into them, as processing them later does."""
    if model.unembed.W_U.data_ptr() == model.embed.W_E.data_ptr():
        model.unembed.W_U.data = model.unembed.W_U.data.clone()


def _spread(model: Any) -> None:
    """Puts every layer where the forward pass takes the residual stream: TransformerLens itself goes by free memory."""
    from transformer_lens.utilities.multi_gpu import get_device_for_block_index

    places = [get_device_for_block_index(layer, model.cfg) for layer in range(model.cfg.n_layers)]
    for block, place in zip(model.blocks, places, strict=True):
        block.to(place)
    for name, place in {"embed": 0, "pos_embed": 0, "ln_final": -1, "unembed": -1}.items():
        if hasattr(model, name):
            getattr(model, name).to(places[place])


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
