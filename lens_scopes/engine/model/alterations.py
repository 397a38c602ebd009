"""What acts on a model beside its weights as they were loaded: hooks, adapters and changed weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from typing import Any

import torch

from lens_scopes.engine.model.cache import Alterations, WeightSample, changed_weights
from lens_scopes.engine.model.parts import modules_of, weights_of
from lens_scopes.engine.model.scoped import Batch, ScopedModel
from lens_scopes.errors import ModelError


def remember(model: ScopedModel) -> None:
    """Notes a model's weights and the hooks that come with it, so that `alterations` names later ones alone."""
    parts = modules_of(model.module)
    model.cache.known_hooks.update(number for part in parts.values() for number in _hook_ids(part))
    model.cache.loaded_weights = {name: WeightSample.of(weight) for name, weight in weights_of(parts).items()}


def alterations(model: ScopedModel) -> list[str]:
    """What acts on a model beside its weights as they were loaded: hooks, adapters and changed weights.

    Weights are compared with those that `load_model` read: PyTorch counts writes to them, and some numbers of each show
    those that are not counted (`weight.data[...] = `), unless they are few. A call looks once (`hold_alterations`).
    """
    return _examine(model).sentences


def _examine(model: ScopedModel) -> Alterations:
    """One walk through a model's modules, or what the walk of the call at hand has seen."""
    if model.cache.altered is not None:
        return model.cache.altered
    parts, known = modules_of(model.module), model.cache.known_hooks
    parts_with_hooks = {name: part for name, part in parts.items() if not known.issuperset(_hook_ids(part))}
    # A bridge has several names for a hook point, the last of which are those of HookedTransformer.
    points = {id(point): name for name, point in model.hook_dict.items()} if parts_with_hooks else {}
    adapters = {name: part for name, part in parts.items() if _is_adapter(part)}
    findings = {
        HOOKS: [points.get(id(part), name) for name, part in parts_with_hooks.items()],
        "adapters": [f"{name or _WHOLE} ({type(part).__name__})" for name, part in adapters.items()],
        "weights changed since they were loaded:": sorted(
            changed_weights(model.cache.loaded_weights, weights_of(parts))
        ),
    }
    return Alterations([f"{what} {_join_few(names)}" for what, names in findings.items() if names], adapters)


def model_has_hooks(model: ScopedModel) -> bool:
    """Whether any hook acts on the model, whoever added it."""
    return any(map(_hook_ids, modules_of(model.module).values()))


def require_adapters(model: ScopedModel) -> None:
    """Runs two tokens through a bridge with adapters, to see that it calls them; once for each.

    A bridge splits joint projections when it is made: it goes on with the weights, without what was put around them.

    Raises:
        ModelError: naming the first adapter that is left out.
    """
    if model.backend == "hooked":
        return
    known = model.cache.live_adapters
    adapters = {
        name: part
        for name, part in _examine(model).adapters.items()
        if name.startswith("blocks.") and id(part) not in known
    }
    if not adapters:
        return
    called: set[int] = set()
    handles = [part.register_forward_hook(lambda part, *_: called.add(id(part))) for part in adapters.values()]
    try:
        with torch.no_grad():
            model.final_states(Batch.of(model, [[0, 1]]))
    finally:
        for handle in handles:
            handle.remove()
    # No token may be sent to an expert.
    left_out = [name for name, part in adapters.items() if id(part) not in called and "expert" not in name]
    if left_out:
        raise ModelError(
            f"the bridge of {model.cfg.architecture} split the weights of {_display_name(left_out[0])} and computes "
            "without the adapter on it; merge adapters into the weights (peft's merge_and_unload), and wrap the model "
            "then."
        )
    known.update(map(id, adapters.values()))


@contextmanager
def hold_alterations(model: ScopedModel) -> Iterator[list[str]]:
    """`alterations`, which look at every weight, held for a with-block in which they are asked for more than once."""
    before = model.cache.altered
    model.cache.altered = _examine(model)
    try:
        yield model.cache.altered.sentences
    finally:
        model.cache.altered = before


HOOKS = "the caller's hooks at"
_WHOLE = "the model"


# What follows does without `hasattr` where it can, which takes several times as long as to look into a dict.


def _hook_ids(part: Any) -> Set[int]:
    """The hooks of a module by id, without those by which a library connects its own modules."""
    kinds = (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks)
    if not any(kinds):
        return frozenset()
    hooks = {number: hook for kind in kinds for number, hook in kind.items()}
    if hasattr(part, "fwd_hooks"):  # a hook point, whose hooks come wrapped by TransformerLens
        return hooks.keys() - {handle.hook.id for handle in (*part.fwd_hooks, *part.bwd_hooks) if _is_builtin(handle)}
    return {number for number, hook in hooks.items() if _library(hook) not in ("transformer_lens", "transformers")}


def _is_builtin(handle: Any) -> bool:
    """Whether a bridge added the hook when it was made, as where its parts name one another's activations."""
    return handle.is_permanent and _library(getattr(handle, "user_hook", None)) == "transformer_lens"


def _library(hook: Any) -> str:
    hook = getattr(hook, "func", hook)  # of a partial function
    return str(getattr(hook, "__module__", "")).partition(".")[0]


def _is_adapter(part: Any) -> bool:
    """A layer of the PEFT library, one that is made like its LoRA, or a parametrization of PyTorch."""
    if type(part).__module__.startswith("peft.") and "base_layer" in part._modules:
        return True
    for names in (part._modules, part._parameters, vars(part)):
        if "lora_A" in names or "lora_down" in names or "parametrizations" in names:
            return True
    return False


def _display_name(name: str) -> str:
    """A part's name, without what a bridge calls the part inside it."""
    return name.replace("._original_component", "") or _WHOLE


def _join_few(names: Sequence[str]) -> str:
    names = list(dict.fromkeys(map(_display_name, names)))
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(names[:_MAX_NAMES]) + more


_MAX_NAMES = 4
