"""What is no model that scopes can read, each said with its cure."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

from lens_scopes.engine.model.parts import modules_of, weights_of
from lens_scopes.errors import ModelError


def check_runs_as_written(module: object) -> None:
    """Raises ModelError for a compiled part, and for a weight that is on no device."""
    parts = modules_of(module)
    for name, part in parts.items():
        if _is_compiled(part):
            raise ModelError(
                f"{name or 'the model'} is compiled (torch.compile), and compiled code does not call the hooks by "
                "which scopes read it; give the model as it was before."
            )
    for name, weight in weights_of(parts).items():
        if weight.is_meta:
            raise ModelError(
                f"the weight {name} is on no device (it is offloaded, or was never loaded), and gradients need all "
                "weights; load the model onto a device."
            )


def _is_compiled(part: torch.nn.Module) -> bool:
    forward = part.forward
    compiled = hasattr(forward, "_torchdynamo_orig_callable") and not hasattr(forward, "_torchdynamo_disable")
    return compiled or part._compiled_call_impl is not None or type(part).__name__ == "OptimizedModule"


def hook_not_called(name: str) -> ModelError:
    return ModelError(
        f"the model ran without calling its hook {name!r}, so its code is not what its hooks belong to (compiled or "
        "replaced); give the model as it was loaded."
    )


def no_unembedding(model: object) -> ModelError:
    kind = type(model).__name__
    if isinstance(model, str):
        return ModelError(
            f"got the text {model[:60]!r} in place of a model; load it first: ls.load_model({model[:60]!r})."
        )
    if type(model).__module__.partition(".")[0] in ("transformers", "peft"):
        name = str(getattr(model, "name_or_path", ""))[:100] or "gpt2"
        return ModelError(
            f"{kind} is a model of Transformers, without the hooks that scopes read; wrap it: HookedTransformer."
            f"from_pretrained_no_processing({name!r}, hf_model=model, tokenizer=tokenizer), with transformer_lens's "
            "HookedTransformer and adapters merged."
        )
    return ModelError(
        f"{kind} has no unembedding matrix W_U; scopes need a causal language model that "
        "predicts tokens (a HookedTransformer or TransformerBridge)."
    )


@cache
def has_hooked() -> bool:
    """Whether the installed TransformerLens has HookedTransformer, which 4 removed; without importing it."""
    spec = find_spec("transformer_lens")
    folders = (spec.submodule_search_locations if spec else None) or ()
    return any((Path(folder) / "HookedTransformer.py").is_file() for folder in folders)
