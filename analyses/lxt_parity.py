"""Relevances by AttnLRP's published package on tiny random models, with which a test compares `ls.Rules("attnlrp")`.

python analyses/lxt_parity.py tests/support/golden/attnlrp_lxt.json      in an environment of its own

lxt 2.1 does not import under Transformers 5, so the numbers came from Python 3.11 with torch 2.13.0 (CPU),
transformers 4.57.6 and lxt 2.1, installed with `pip install --no-deps lxt==2.1` beside matplotlib. lxt also imports
torchvision for vision models; a stub stands for it. `build` runs under both versions of Transformers and draws every
weight from one NumPy generator, so that a test makes the same models. Explained is one logit after the last token;
relevance is Σ x·g over the entries of a token's embedding, with `inputs_embeds` for x.
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

SEED = 0
IDS = (3, 17, 5, 11, 17, 8, 2, 20, 13)
TARGET = 7
_COMMON = {"vocab_size": 24, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
_GATED = {
    **{"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "max_position_embeddings": 32},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "tie_word_embeddings": False},
}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {**_COMMON, **_GATED, "hidden_act": "silu"},
    "qwen2": {**_COMMON, **{name: value for name, value in _GATED.items() if name != "head_dim"}, "hidden_act": "silu"},
    "qwen3": {**_COMMON, **_GATED, "hidden_act": "silu"},
    "gemma3_text": {
        **_COMMON,
        **_GATED,
        **{"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 4, "sliding_window": 4},
        **{"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    },
    "gpt2": {
        **_COMMON,
        **{"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32, "activation_function": "gelu_new"},
        **{"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    },
}
"""Grouped heads and gated MLPs: alone, with biases on q, k and v, with norms on q and k, with norms after each part and
layers that attend to the last four tokens; and LayerNorm without a gate."""


def build(model_type: str) -> Any:
    """A Transformers model in float64 whose parameters are drawn in the order of their names."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(model_type, **MODELS[model_type])
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").double().eval()
    generator = np.random.default_rng(SEED)
    for name, values in sorted(model.named_parameters()):
        # Norm weights lie around one, and every other parameter around zero.
        around = 1.0 if values.ndim == 1 and "bias" not in name else 0.0
        draw = torch.from_numpy(generator.standard_normal(tuple(values.shape)))
        values.data.copy_(around + draw * (0.2 if values.ndim == 1 else 0.3))
    return model.requires_grad_(False)


def measure(model_type: str) -> dict[str, Any]:
    """The logit explained, and each token's relevance and gradient norm under lxt's rules."""
    model = build(model_type)
    x = model.get_input_embeddings()(torch.tensor([IDS])).detach().requires_grad_()
    logit = model(inputs_embeds=x, use_cache=False).logits[0, -1, TARGET]
    (gradient,) = torch.autograd.grad(logit, x)
    return {
        "logit": logit.item(),
        "relevance": [float(f"{value:.9g}") for value in (x.detach() * gradient).sum(-1)[0]],
        "norm": [float(f"{value:.9g}") for value in gradient.norm(dim=-1)[0]],
    }


def patch_transformers() -> dict[str, str]:
    """Puts lxt's rules into Transformers' classes, and returns the versions that made the numbers."""
    names = [model_type.removesuffix("_text") for model_type in MODELS]
    modules = [importlib.import_module(f"transformers.models.{name}.modeling_{name}") for name in names]

    # Of torchvision, lxt needs only the names of three classes of torch.nn.
    vision = ("torchvision", "torchvision.models", "torchvision.models.vision_transformer")
    sys.modules |= {name: types.ModuleType(name) for name in vision}
    vars(sys.modules[vision[1]])["vision_transformer"] = sys.modules[vision[2]]
    vars(sys.modules[vision[2]])["nn"] = torch.nn

    lxt = importlib.import_module("lxt.efficient")
    for module in modules:
        lxt.monkey_patch(module)
    return {name: version(name) for name in ("lxt", "transformers", "torch")}


if __name__ == "__main__":
    versions = patch_transformers()
    record = {"seed": SEED, "ids": IDS, "target": TARGET, "versions": versions}
    record["models"] = {model_type: measure(model_type) for model_type in MODELS}
    Path(sys.argv[1]).write_text(json.dumps(record) + "\n", encoding="utf-8")
