"""What acts on a model beside its weights as they were loaded: hooks, adapters and changed weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lens_scopes.engine.model.cache import WeightSample
from lens_scopes.engine.model.scoped import ScopedModel


def remember(model: ScopedModel) -> None:
    """Notes a model's weights and the hooks that come with it, so that `alterations` names later ones alone."""
    model.cache.known_hooks.update(number for _, part in _parts(model) for number in _hook_ids(part))
    model.cache.loaded_weights = {name: WeightSample.of(weight) for name, weight in model.module.named_parameters()}


def alterations(model: ScopedModel) -> list[str]:
    """What acts on a model beside its weights as they were loaded: hooks, adapters and changed weights.

    Weights are compared with those that `load_model` read: PyTorch counts writes to them, and some numbers of each show
    those that are not counted (`weight.data[...] = `), unless they are few. A call looks once (`noted_alterations`).
    """
    if model.cache.altered is not None:
        return model.cache.altered
    parts = _parts(model)
    hooked = [name for name, part in parts if not model.cache.known_hooks.issuperset(_hook_ids(part))]
    adapted = [f"{name} ({type(part).__name__})" for name, part in parts if _is_adapter(part)]
    weights, loaded = dict(model.module.named_parameters()), model.cache.loaded_weights
    changed = [name for name, weight in weights.items() if name in loaded and not loaded[name].matches(weight)]
    changed += [name for name in loaded.keys() - weights.keys()]
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


def _parts(model: ScopedModel) -> list[tuple[str, Any]]:
    """All modules, each once; a bridge keeps the model that it wraps to itself."""
    modules = [model.module, getattr(model.module, "original_model", None)]
    parts = {id(part): (name, part) for one in modules if one is not None for name, part in one.named_modules()}
    return [(name or "the model", part) for name, part in parts.values()]


def _hook_ids(part: Any) -> set[int]:
    """The hooks of a module by id, without those by which a library connects its own modules."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    hooks = {number: hook for kind in kinds for number, hook in getattr(part, kind).items()}
    if hasattr(part, "fwd_hooks"):  # a hook point, whose hooks come wrapped by TransformerLens
        return set(hooks)
    return {number for number, hook in hooks.items() if _library(hook) not in ("transformer_lens", "transformers")}


def _library(hook: Any) -> str:
    hook = getattr(hook, "func", hook)  # of a partial function
    return str(getattr(hook, "__module__", "")).partition(".")[0]


def _is_adapter(part: Any) -> bool:
    """A layer of the PEFT library, one that is made like its LoRA, or a parametrization of PyTorch."""
    made_by = type(part).__module__.partition(".")[0]
    return (made_by == "peft" and not hasattr(part, "peft_config")) or any(
        hasattr(part, name) for name in ("lora_A", "lora_down", "parametrizations")
    )


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


_NAMED = 4
