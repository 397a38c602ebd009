"""What acts on a model beside its weights as they were loaded: hooks, adapters and changed weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from typing import Any

from lens_scopes.engine.model.cache import WeightSample, changed_weights
from lens_scopes.engine.model.parts import modules_of, weights_of
from lens_scopes.engine.model.scoped import ScopedModel


def remember(model: ScopedModel) -> None:
    """Notes a model's weights and the hooks that come with it, so that `alterations` names later ones alone."""
    parts = modules_of(model.module)
    model.cache.known_hooks.update(number for part in parts.values() for number in _hook_ids(part))
    model.cache.loaded_weights = {name: WeightSample.of(weight) for name, weight in weights_of(parts).items()}


def alterations(model: ScopedModel) -> list[str]:
    """What acts on a model beside its weights as they were loaded: hooks, adapters and changed weights.

    Weights are compared with those that `load_model` read: PyTorch counts writes to them, and some numbers of each show
    those that are not counted (`weight.data[...] = `), unless they are few. A call looks once (`noted_alterations`).
    """
    if model.cache.altered is not None:
        return model.cache.altered
    parts, known = modules_of(model.module), model.cache.known_hooks
    hooked = [name or _WHOLE for name, part in parts.items() if not known.issuperset(_hook_ids(part))]
    adapted = [f"{name or _WHOLE} ({type(part).__name__})" for name, part in parts.items() if _is_adapter(part)]
    changed = changed_weights(model.cache.loaded_weights, weights_of(parts))
    noted = {HOOKS: hooked, "adapters": adapted, "weights changed since they were loaded:": sorted(changed)}
    return [f"{what} {_few(names)}" for what, names in noted.items() if names]


@contextmanager
def noted_alterations(model: ScopedModel) -> Iterator[list[str]]:
    """`alterations`, which look at every weight, held for a with-block in which they are asked for more than once."""
    before = model.cache.altered
    model.cache.altered = alterations(model)
    try:
        yield model.cache.altered
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
        return hooks.keys()
    return {number for number, hook in hooks.items() if _library(hook) not in ("transformer_lens", "transformers")}


def _library(hook: Any) -> str:
    hook = getattr(hook, "func", hook)  # of a partial function
    return str(getattr(hook, "__module__", "")).partition(".")[0]


def _is_adapter(part: Any) -> bool:
    """A layer of the PEFT library, one that is made like its LoRA, or a parametrization of PyTorch."""
    if type(part).__module__.startswith("peft.") and not hasattr(part, "peft_config"):
        return True
    for names in (part._modules, part._parameters, vars(part)):
        if "lora_A" in names or "lora_down" in names or "parametrizations" in names:
            return True
    return False


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


_NAMED = 4
