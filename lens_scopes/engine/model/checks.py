"""Whether a model's backward pass is what it seems: linear layers may compute without a graph, hooks be mere copies.

The residual stream goes around every component, so a quantized layer without a graph would not stop the backward pass:
its influence would be missing from the scores without a word. And a bridge to an architecture may offer a hook whose
value its forward pass does not go on with, or only in part: holding it fixed would change nothing or too little.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.model.refusals import has_hooked
from lens_scopes.engine.model.scoped import Batch, Hook, ScopedModel
from lens_scopes.engine.sites import EMBEDDING
from lens_scopes.errors import LensScopesError, ModelError

_PART = 0.1  # a difference of gradients, as a share, that no rounding explains
_NORM_INPUTS = 256  # entries of the final norm that are tried
_CONSTANT = 1e-4  # relative spread of ‖y‖ below which it is constant


def require_gradients(model: ScopedModel) -> None:
    """Runs two tokens through a model with linear layers that are not PyTorch's own, forward and back; once a model.

    Raises:
        ModelError: naming the first layer whose output does not depend on its input for autograd.
    """
    if model.cache.gradients_flow:
        return
    layers = {
        name: part
        for name, part in model.module.named_modules()
        if "linear" in type(part).__name__.lower() and type(part) is not torch.nn.Linear and not list(part.children())
    }
    if layers:
        _try_backward(model, layers)
    model.cache.gradients_flow = True


def require_live_hooks(model: ScopedModel, names: Sequence[str], error: type[LensScopesError]) -> None:
    """Runs four tokens through a bridge, forward and back, to see that it goes on with what these hooks return.

    Raises:
        LensScopesError: of the kind given, naming the first hook that is a mere copy, or that the bridge fails with.
    """
    if model.backend == "hooked":  # which computes what its hooks return
        return
    known = model.cache.live_hooks
    if new := [name for name in dict.fromkeys(names) if name not in known and name != EMBEDDING]:
        known.update(_hooks_in_use(model, new, error))
    cure = '; load the model with backend="hooked" if it can be' if has_hooked() else ""
    for name in names:
        if not known.get(name, True):
            raise error(
                f"the bridge of {model.cfg.architecture} shows {name!r} and computes on without it, or with a part of "
                f"it, so influence can be neither read nor held fixed there{cure}."
            )


def _hooks_in_use(model: ScopedModel, names: Sequence[str], error: type[LensScopesError]) -> dict[str, bool]:
    """For each hook, whether the forward pass goes on with all of what it returns.

    Each hook returns a copy of its activation. Without gradient at the copy, the bridge goes on without it. And where
    an activation is a summand of another one, as hook_attn_out is of hook_resid_mid, both have the same gradient if all
    of the sum goes on.
    """
    summands = [summand for name in names if (summand := _summand(name)) in model.hook_dict]
    activations, copies, states = _run_on_copies(model, [*names, *summands], error)
    live_names = [name for name, copy in copies.items() if copy.requires_grad]
    if not live_names:
        return {}
    # In no special direction: the sum of a centred state's entries depends on nothing.
    weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32).to(
        states.device
    )
    tensors = [tensors[name] for tensors in (copies, activations) for name in live_names]
    gradients = torch.autograd.grad((states.float() * weights).sum(), tensors, allow_unused=True)
    at_copy = dict(zip(live_names, gradients[: len(live_names)], strict=True))
    at_activation = dict(zip(live_names, gradients[len(live_names) :], strict=True))

    def whole(name: str) -> bool:
        gradient, of_summand = at_activation[name], at_activation.get(_summand(name))
        if gradient is None or of_summand is None:
            return True
        return bool((gradient - of_summand).norm() <= _PART * of_summand.norm())

    return {name: at_copy[name] is not None and whole(name) for name in live_names if name in names}


def _run_on_copies(
    model: ScopedModel, names: Sequence[str], error: type[LensScopesError]
) -> tuple[dict[str, Tensor], dict[str, Tensor], Float[Tensor, "1 d_model"]]:
    """Activations by name, the copies that hooks returned of them, and the final state of four tokens."""
    activations: dict[str, Tensor] = {}
    copies: dict[str, Tensor] = {}

    def root(embeddings: Tensor) -> Tensor:
        return embeddings.detach().requires_grad_(True)

    def copy(name: str) -> Hook:
        def hook(activation: Tensor) -> Tensor:
            activations[name] = activation
            copies[name] = activation.clone()
            return copies[name]

        return hook

    hooks = [(EMBEDDING, root), *((name, copy(name)) for name in dict.fromkeys(names))]
    try:
        with torch.inference_mode(False), torch.enable_grad(), model.hooked(hooks):
            return activations, copies, model.final_states(Batch.of(model, [[0, 1, 2, 3]]))
    except AttributeError as problem:  # as of a norm without weights, whose hooks nobody ever listened to
        raise error(
            f"the bridge of {model.cfg.architecture} fails with a hook at {names[0]!r} ({problem})."
        ) from problem


def _summand(name: str) -> str:
    """What is added to the residual stream to give hook_resid_mid, so that both have the same gradient."""
    head, dot, site = name.rpartition(".")
    return f"{head}{dot}hook_attn_out" if site == "hook_resid_mid" else ""


def _try_backward(model: ScopedModel, layers: dict[str, Any]) -> None:
    """Runs two tokens forward and back: a layer without a graph shows in its output, one without a backward raises.

    The embeddings alone require gradients, since parameters are frozen: what depends on a layer's input has a graph.
    """
    # Names of layers whose output has no graph though their input has, and the embeddings that gradients go back to.
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
        with torch.inference_mode(False), torch.enable_grad(), model.hooked([(EMBEDDING, root)]):
            states = model.final_states(Batch.of(model, [[0, 1]]))
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


def final_norm_is_constant(model: ScopedModel) -> bool:
    """Whether the final norm gives every y the same length: it has no weights, or all of one size.

    ‖y‖ is then constant and its gradient is rounding error. Tried on inputs of one entry each, whose y is as long as
    that entry's weight.
    """
    cfg, module = model.cfg, model.module
    if cfg.normalization_type is None:
        return False
    d_model, weight = cfg.d_model, module.W_U
    entries = torch.linspace(0, d_model - 1, min(d_model, _NORM_INPUTS), dtype=torch.float32).long()
    inputs = torch.zeros(len(entries), d_model, dtype=torch.float32)
    inputs[range(len(entries)), entries] = 100 * d_model**0.5  # the norm's ε is nothing beside it
    place = next((item.device for item in module.ln_final.parameters()), weight.device)
    with torch.no_grad():
        lengths = module.ln_final(inputs.to(place, cfg.dtype)[None])[0].float().norm(dim=-1)
    allowed = max(_CONSTANT, 4 * torch.finfo(cfg.dtype).eps)
    return bool(lengths.max() - lengths.min() <= allowed * lengths.max())
