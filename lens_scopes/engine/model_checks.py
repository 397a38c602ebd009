"""Whether a model's backward pass is what it seems: linear layers may compute without a graph, hooks be mere copies.

The residual stream goes around every component, so a quantized layer without a graph would not stop the backward pass:
its influence would be missing from the scores without a word. And a bridge to an architecture may offer a hook whose
value its forward pass does not go on with, or only in part: holding it fixed would change nothing or too little.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lens_scopes.engine.forward import Batch, Hook, final_states, hooked, is_bridge
from lens_scopes.engine.sites import EMBEDDING
from lens_scopes.errors import LensScopesError, ModelError

_PART = 0.1  # a difference of gradients, as a share, that no rounding explains

_passing: weakref.WeakSet[Any] = weakref.WeakSet()
_goes_on: weakref.WeakKeyDictionary[Any, dict[str, bool]] = weakref.WeakKeyDictionary()


def require_gradients(model: Any) -> None:
    """Runs two tokens through a model with linear layers that are not PyTorch's own, forward and back; once a model.

    Raises:
        ModelError: naming the first layer whose output does not depend on its input for autograd.
    """
    if model in _passing:
        return
    layers = {
        name: part
        for name, part in model.named_modules()
        if "linear" in type(part).__name__.lower() and type(part) is not torch.nn.Linear and not list(part.children())
    }
    if layers:
        _try(model, layers)
    _passing.add(model)


def require_used(model: Any, names: Sequence[str], error: type[LensScopesError]) -> None:
    """Runs four tokens through a bridge, forward and back, to see that it goes on with what these hooks return.

    Raises:
        LensScopesError: of the kind given, naming the first hook that is a mere copy, or that the bridge fails with.
    """
    if not is_bridge(model):
        return
    known = _goes_on.setdefault(model, {})
    if new := [name for name in dict.fromkeys(names) if name not in known and name != EMBEDDING]:
        known |= _used(model, new, error)
    for name in names:
        if not known.get(name, True):
            raise error(
                f"the bridge of {model.cfg.architecture} shows {name!r} and computes on without it, or with a part of "
                'it, so influence can be neither read nor held fixed there; load the model with backend="hooked" if it '
                "can be."
            )


def _used(model: Any, names: Sequence[str], error: type[LensScopesError]) -> dict[str, bool]:
    shown: dict[str, Tensor] = {}
    copies: dict[str, Tensor] = {}

    def root(embeddings: Tensor) -> Tensor:
        return embeddings.detach().requires_grad_(True)

    def copy(name: str) -> Hook:
        def hook(activation: Tensor) -> Tensor:
            shown[name] = activation
            copies[name] = activation.clone()
            return copies[name]

        return hook

    summands = [summand for name in names if (summand := _summand(name)) in model.hook_dict]
    hooks = [(EMBEDDING, root), *((name, copy(name)) for name in dict.fromkeys([*names, *summands]))]
    try:
        with torch.inference_mode(False), torch.enable_grad(), hooked(model, hooks):
            states = final_states(model, Batch.of(model, [[0, 1, 2, 3]]))
    except AttributeError as problem:  # as of a norm without weights, whose hooks nobody ever listened to
        raise error(
            f"the bridge of {model.cfg.architecture} fails with a hook at {names[0]!r} ({problem})."
        ) from problem
    reached = [name for name, values in copies.items() if values.requires_grad]
    if not reached:
        return {}
    # In no special direction: the sum of a centred state's entries depends on nothing.
    weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(0)).to(states.device)
    tensors = [part[name] for part in (copies, shown) for name in reached]
    found = torch.autograd.grad((states.float() * weights).sum(), tensors, allow_unused=True)
    of_copy, of_shown = (
        dict(zip(reached, part, strict=True)) for part in (found[: len(reached)], found[len(reached) :])
    )

    def whole(name: str) -> bool:
        gradient, of_summand = of_shown[name], of_shown.get(_summand(name))
        if gradient is None or of_summand is None:
            return True
        return bool((gradient - of_summand).norm() <= _PART * of_summand.norm())

    return {name: of_copy[name] is not None and whole(name) for name in reached if name in names}


def _summand(name: str) -> str:
    """What is added to the residual stream to give hook_resid_mid, so that both have the same gradient."""
    head, dot, site = name.rpartition(".")
    return f"{head}{dot}hook_attn_out" if site == "hook_resid_mid" else ""


def _try(model: Any, layers: dict[str, Any]) -> None:
    broken: list[str] = []
    roots: list[Tensor] = []

    def check(name: str) -> Callable[[Any, tuple[Any, ...], Any], None]:
        def hook(part: Any, inputs: tuple[Any, ...], output: Any) -> None:
            depends = bool(inputs) and isinstance(inputs[0], Tensor) and inputs[0].requires_grad
            if depends and isinstance(output, Tensor) and not output.requires_grad:
                broken.append(name)

        return hook

    def root(embeddings: Tensor) -> Tensor:
        roots.append(embeddings.detach().requires_grad_(True))
        return roots[0]

    handles = [part.register_forward_hook(check(name)) for name, part in layers.items()]
    try:
        with torch.inference_mode(False), torch.enable_grad(), hooked(model, [(EMBEDDING, root)]):
            states = final_states(model, Batch.of(model, [[0, 1]]))
        if not broken:
            torch.autograd.grad(states.float().sum(), roots)
    except (RuntimeError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(f"{_cannot(layers, next(iter(layers)))} ({reason}); {_CURE}") from error
    finally:
        for handle in handles:
            handle.remove()
    if broken:
        raise ModelError(f"{_cannot(layers, broken[0])}; {_CURE}")


_CURE = "load the weights unquantized, or dequantize them"


def _cannot(layers: dict[str, Any], name: str) -> str:
    return f"gradients do not flow through {name} ({type(layers[name]).__name__}), so influence cannot be read"
