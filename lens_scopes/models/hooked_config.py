"""Converts a Hugging Face config to a HookedTransformerConfig, independent of the model's name.

TransformerLens decides how to read a config by looking for words such as "llama" and "gemma" in the model's name or
path, and knows the dimensions of the Gemma models by name only. Here everything follows from the config itself.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lens_scopes.errors import ModelError
from lens_scopes.models.hooked import convert_config, new_config

_GEMMA = ("GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM", "Gemma3ForConditionalGeneration")
_OLMO = ("OlmoForCausalLM", "Olmo2ForCausalLM")
_DECIDING_WORDS = ("llama", "gemma", "wav2vec2", "santacoder")
# Rotary embeddings other than these differ from TransformerLens's at long distances, where no quick check sees it.
_ROTARY_TYPES = {
    "Gemma3ForCausalLM": ("default", "linear"),
    "Gemma3ForConditionalGeneration": ("default", "linear"),
    "LlamaForCausalLM": ("default", "llama3"),
    "ApertusForCausalLM": ("default", "llama3"),
    "GptOssForCausalLM": ("default", "yarn"),
    "Olmo3ForCausalLM": ("default", "yarn"),
}


def hooked_config(config: Any, architecture: str, *, dtype: torch.dtype, device: str) -> Any:
    """The HookedTransformer configuration for a model of class `architecture` with this Hugging Face config.

    The context length is the config's own (TransformerLens caps some): rotary tables grow only when used.
    Raises ModelError for an architecture or a feature of it that HookedTransformer does not compute.
    """
    text = config.get_text_config()
    _refuse_unsupported(text, architecture)
    if architecture in _GEMMA:
        fields = _gemma_fields(text, architecture)
    elif architecture in _OLMO:
        fields = _olmo_fields(text, architecture)
    else:
        fields = _known_fields(config, architecture)
    fields = _correct(fields, text, architecture)
    fields |= {
        "original_architecture": architecture,
        "dtype": dtype,
        "device": device,
        "init_weights": False,
        "tokenizer_name": None,
    }
    return new_config(fields)


def _refuse_unsupported(text: Any, architecture: str) -> None:
    allowed = _ROTARY_TYPES.get(architecture, ("default",))
    for rope in _rope_parameters(text):
        if (kind := rope.get("rope_type", "default")) not in allowed:
            raise ModelError(
                f"HookedTransformer does not compute the {kind!r} rotary embedding of this {architecture}: "
                'load it with backend="bridge"'
            )


def _rope_parameters(text: Any) -> list[dict[str, Any]]:
    parameters = getattr(text, "rope_parameters", None) or {}
    by_layer_type = [value for value in parameters.values() if isinstance(value, dict)]
    return by_layer_type or [parameters]


def _gated_rotary_fields(text: Any) -> dict[str, Any]:
    return {
        "d_model": text.hidden_size,
        "n_heads": text.num_attention_heads,
        "d_mlp": text.intermediate_size,
        "n_layers": text.num_hidden_layers,
        "n_ctx": text.max_position_embeddings,
        "d_vocab": text.vocab_size,
        "initializer_range": text.initializer_range,
        "gated_mlp": True,
        "positional_embedding_type": "rotary",
    }


def _olmo_fields(text: Any, architecture: str) -> dict[str, Any]:
    fields = _gated_rotary_fields(text) | {
        "d_head": text.hidden_size // text.num_attention_heads,
        "act_fn": text.hidden_act,
        "rotary_base": text.rope_parameters["rope_theta"],
    }
    if text.num_key_value_heads != text.num_attention_heads:
        fields["n_key_value_heads"] = text.num_key_value_heads
    if architecture == "OlmoForCausalLM":
        # The norm has no weights, and the only value of its eps that exists is not in the config.
        return fields | {"normalization_type": "LN", "eps": 1e-5, "clip_qkv": text.clip_qkv}
    return fields | {"normalization_type": "RMS", "eps": text.rms_norm_eps}


def _gemma_fields(text: Any, architecture: str) -> dict[str, Any]:
    fields = _gated_rotary_fields(text) | {
        "d_head": text.head_dim,
        "n_key_value_heads": text.num_key_value_heads,
        "eps": text.rms_norm_eps,
        "act_fn": getattr(text, "hidden_activation", None) or text.hidden_act,
        "normalization_type": "RMS",
        "final_rms": True,
    }
    if architecture == "GemmaForCausalLM":
        return fields | {"rotary_base": text.rope_parameters["rope_theta"]}
    # Gemma 2 and 3. No soft cap is -1 in TransformerLens.
    fields |= {
        "use_normalization_before_and_after": True,
        "attn_scale": math.sqrt(text.query_pre_attn_scalar),
        "attn_scores_soft_cap": text.attn_logit_softcapping or -1.0,
        "output_logits_soft_cap": text.final_logit_softcapping or -1.0,
    }
    if architecture == "Gemma2ForCausalLM":
        return fields | {"rotary_base": text.rope_parameters["rope_theta"]}
    # Gemma 3 turns layers of full and of sliding attention at rates of their own.
    everywhere, nearby = (text.rope_parameters[kind] for kind in ("full_attention", "sliding_attention"))
    return fields | {
        "use_qk_norm": True,
        "rotary_base": everywhere["rope_theta"],
        "rotary_base_local": nearby["rope_theta"],
        "rotary_scaling_factor": everywhere.get("factor", 1.0),
    }


def _known_fields(config: Any, architecture: str) -> dict[str, Any]:
    plain = copy.deepcopy(config)
    plain.architectures = [architecture]
    if architecture == "GPT2LMHeadModel":
        # TransformerLens reads a field that Transformers no longer writes.
        plain.n_ctx = plain.n_positions
    settings = json.loads(plain.to_json_string(use_diff=False))
    settings.pop("auto_map", None)
    with _neutral_folder() as folder:
        (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
        try:
            return convert_config(folder)
        except NotImplementedError:
            raise ModelError(
                f'HookedTransformer does not compute {architecture}: load it with backend="bridge"'
            ) from None
        except AttributeError as error:
            # Transformers has moved some fields since TransformerLens was written to read them.
            raise ModelError(
                f'TransformerLens cannot read this config of {architecture} ({error}): load it with backend="bridge"'
            ) from error


def _correct(fields: dict[str, Any], text: Any, architecture: str) -> dict[str, Any]:
    """Fields that TransformerLens takes from a default, a cap or another field although the config states them."""
    fields = dict(fields)
    if architecture == "GPT2LMHeadModel" and text.n_inner:
        fields["d_mlp"] = text.n_inner
    if fields.get("positional_embedding_type") == "rotary":
        fields["n_ctx"] = getattr(text, "max_position_embeddings", None) or fields["n_ctx"]
        if architecture not in _GEMMA and len(ropes := _rope_parameters(text)) == 1 and "rope_theta" in ropes[0]:
            fields["rotary_base"] = ropes[0]["rope_theta"]
        d_head = getattr(text, "head_dim", None)
        if isinstance(d_head, int) and d_head > 0 and d_head != fields["d_head"]:
            if fields.get("rotary_dim") == fields["d_head"]:
                fields["rotary_dim"] = d_head
            fields["d_head"] = d_head
    layer_types = getattr(text, "layer_types", None) or []
    if "sliding_attention" in layer_types and getattr(text, "sliding_window", None):
        fields["use_local_attn"] = True
        fields["window_size"] = text.sliding_window
        fields["attn_types"] = ["local" if kind == "sliding_attention" else "global" for kind in layer_types]
    return fields


@contextlib.contextmanager
def _neutral_folder() -> Iterator[Path]:
    """A temporary folder whose path has none of the words by which TransformerLens picks an architecture."""
    for parent in (None, "/tmp", "/var/tmp", Path.home(), Path.cwd()):
        try:
            folder = tempfile.TemporaryDirectory(prefix="lens_scopes-", dir=parent)
        except OSError:
            continue
        with folder as path:
            if not any(word in path.lower() for word in _DECIDING_WORDS):
                yield Path(path)
                return
    raise ModelError(
        f"TransformerLens misreads configs in folders named like models ({', '.join(_DECIDING_WORDS)}), and every "
        "temporary folder here is: set TMPDIR to a folder with another name"
    )
