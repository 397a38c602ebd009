"""Vector–Jacobian products from the final states to every site, in one pass over the layers.

    g_i,t = v_iᵀ J_t,   J_t = ∂y/∂x_t

A `Trace` holds the whole graph of a forward pass. A `SlicedTrace` holds only the residual stream between slices of
layers: going back, each slice runs forward once more and hands its gradients to the slice before it, all directions
at a time, so that memory grows with the longest slice instead of the depth. Both give the same gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_scopes.errors import ModelError, SiteError
from lens_scopes.forward import (
    Batch,
    Hook,
    check_finite,
    final_states,
    hooked,
    is_bridge,
    run_blocks,
    run_to_reading,
)
from lens_scopes.sites import EMBEDDING

Visit = Callable[[int, str, Tensor, Tensor], None]
"""Called with (direction, site, gradient, activation) for every direction at every site."""

Progress = Callable[[int, int], None]
"""Called with (done, in all)."""

BATCHED = 256  # tokens times directions up to which directions go through one backward pass together


@dataclass(frozen=True)
class Trace:
    """A forward pass with the graph from every site to the final states.

    Attributes:
        final_states: y at the positions read: the last real one of each row, unless others were asked for.
        activations: the sites' activations, by the name asked for.
        real: marks positions that are not padding.
    """

    final_states: Float[Tensor, "read d_model"]
    activations: dict[str, Tensor]
    real: Bool[Tensor, "batch pos"]

    def gradients(self, vectors: Float[Tensor, "read d_model"], keep_graph: bool) -> dict[str, Tensor]:
        """vᵀJ at every site, for one direction a final state; zeros where no final state depends on the site."""
        return next(_gradients(self.final_states, self.activations, vectors[None], keep_graph))

    def _gradients_of_each(self, vectors: Float[Tensor, "k read d_model"]) -> Iterator[dict[str, Tensor]]:
        """`gradients` of every direction; those of a short prompt are taken several at a time, so that the weights are
        read once for all of them."""
        several = max(1, BATCHED // self.real.numel())
        for start in range(0, len(vectors), several):
            more = start + several < len(vectors)
            yield from _gradients(self.final_states, self.activations, vectors[start : start + several], more)

    def backward(
        self, vectors: Float[Tensor, "k read d_model"], visit: Visit, progress: Progress | None = None
    ) -> None:
        """Visits every direction's gradients at every site; the graph is gone afterwards."""
        for index, gradients in enumerate(self._gradients_of_each(vectors)):
            for name in reversed(
                self.activations
            ):  # as the gradient flows, so that the first one gone wrong is met first
                visit(index, name, gradients[name], self.activations[name].detach())
            if progress is not None:
                progress(index + 1, len(vectors))


@dataclass(frozen=True)
class SlicedTrace:
    """A forward pass that keeps the residual stream at slice boundaries only.

    Attributes:
        final_states: as for Trace.
        real: as for Trace.
        entering: what each slice starts from: the token ids, then the residual stream.
        bounds: the first layer of each slice.
    """

    model: Any
    batch: Batch
    sites: Sequence[str]
    path: Sequence[tuple[str, Hook]]
    final_states: Float[Tensor, "read d_model"]
    real: Bool[Tensor, "batch pos"]
    entering: Sequence[Tensor]
    bounds: Sequence[int]

    def backward(
        self, vectors: Float[Tensor, "k read d_model"], visit: Visit, progress: Progress | None = None
    ) -> None:
        """Visits every direction's gradients at every site, from the last slice to the first."""
        arriving = list(vectors.to(self.final_states))
        done, total = 0, len(arriving) * len(self.bounds)
        stops = [*self.bounds[1:], self.model.cfg.n_layers]
        for first, stop, entering in reversed(list(zip(self.bounds, stops, self.entering, strict=True))):
            start = entering if first == 0 else entering.detach().requires_grad_(True)
            activations: dict[str, Tensor] = {}
            with torch.inference_mode(False), torch.enable_grad(), hooked(self.model, self._hooks(activations)):
                last = stop == self.model.cfg.n_layers
                out = (
                    run_to_reading(self.model, start, first, self.batch)
                    if last
                    else run_blocks(self.model, start, first, stop)
                )
            inputs = activations if first == 0 else {"": start, **activations}
            for index, vector in enumerate(arriving):
                gradients = next(_gradients(out, inputs, vector[None], keep_graph=index + 1 < len(arriving)))
                for name in reversed(activations):
                    visit(index, name, gradients[name], activations[name].detach())
                arriving[index] = gradients.get("", vector)
                done += 1
                if progress is not None:
                    progress(done, total)

    def _hooks(self, activations: dict[str, Tensor]) -> list[tuple[str, Hook]]:
        return [*_captures(self.sites, activations), *self.path]


def trace(
    model: Any,
    prompts: Sequence[Sequence[int]],
    sites: Sequence[str],
    path: Sequence[tuple[str, Hook]] = (),
    reads: Sequence[tuple[int, int]] | None = None,
) -> Trace:
    """Runs the prompts, padded on the right, to their final states.

    Args:
        prompts: token ids, one list a row.
        sites: hook names; the embedding is always among them.
        path: hooks that decide which routes carry gradient; they leave the forward pass as it is.
        reads: the (row, position) pairs whose final states are wanted; by default each row's last token.

    Raises:
        NumericsError: when a final state is not finite, naming the first layer where that happens.
        ModelError: when the model has a site's hook but its forward pass does not call it.
    """
    batch = Batch.of(model, prompts, reads)
    activations: dict[str, Tensor] = {}
    # Sites go first: influence at a component that the path holds fixed is zero, not what it would be without the path.
    hooks = [*_captures(sites, activations), *path]
    with torch.inference_mode(False), torch.enable_grad(), hooked(model, hooks):
        states = final_states(model, batch)
    check_finite(model, states, batch)
    _check_called(sites, activations)
    return Trace(states, activations, batch.real)


def trace_in_slices(
    model: Any,
    prompts: Sequence[Sequence[int]],
    sites: Sequence[str],
    layers_at_once: int,
    path: Sequence[tuple[str, Hook]] = (),
) -> SlicedTrace:
    """`trace`, holding the graph of `layers_at_once` layers at a time; hooks of the user's own run twice.

    Raises:
        ModelError: for a TransformerBridge, whose forward pass cannot start in the middle.
        NumericsError: as `trace`.
    """
    if is_bridge(model):
        raise ModelError(
            "a TransformerBridge cannot run a slice of its layers, which long prompts need to save memory; "
            'load the model with backend="hooked", or give a shorter prompt.'
        )
    batch = Batch.of(model, prompts)
    bounds = range(0, model.cfg.n_layers, layers_at_once)
    entering = [batch.token_ids]
    called: set[str] = set()
    notes = [(name, lambda activation, name=name: called.add(name)) for name in sites]
    with torch.inference_mode(False), torch.no_grad(), hooked(model, notes):
        for first, stop in zip(bounds, bounds[1:], strict=False):
            entering.append(run_blocks(model, entering[-1], first, stop))
        states = run_to_reading(model, entering[-1], bounds[-1], batch)
    check_finite(model, states, batch)
    _check_called(sites, called)
    return SlicedTrace(model, batch, sites, path, states, batch.real, entering, bounds)


def _check_called(sites: Sequence[str], called: Container[str]) -> None:
    for name in sites:
        if name not in called:
            raise ModelError(f"the model has a hook named {name!r} but its forward pass does not call it.")


def _captures(sites: Sequence[str], activations: dict[str, Tensor]) -> list[tuple[str, Hook]]:
    def capture(name: str) -> Hook:
        def hook(activation: Tensor) -> Tensor:
            if name in activations:
                raise SiteError(
                    f"{name} is called more than once in a forward pass, so it is not one place to read influence at; "
                    "name a hook that is called once, such as one of the residual stream."
                )
            if name == EMBEDDING or not activation.requires_grad:  # a root of the graph
                activation = activation.detach().requires_grad_(True)
            activations[name] = activation
            return activation  # a hook point that reshapes for its hooks must go on with the very tensor that was kept

        return hook

    return [(name, capture(name)) for name in dict.fromkeys([EMBEDDING, *sites])]


def _gradients(
    out: Tensor, activations: Mapping[str, Tensor], vectors: Float[Tensor, "k ..."], keep_graph: bool
) -> Iterator[dict[str, Tensor]]:
    """For each direction the gradients by the activations, from one backward pass for all directions."""
    inputs, batched = list(activations.values()), len(vectors) > 1
    found = torch.autograd.grad(
        out,
        inputs,
        (vectors if batched else vectors[0]).to(out),
        retain_graph=keep_graph,
        allow_unused=True,
        is_grads_batched=batched,
    )
    for index in range(len(vectors)):
        yield {
            name: torch.zeros_like(activation) if gradient is None else gradient[index] if batched else gradient
            for (name, activation), gradient in zip(activations.items(), found, strict=True)
        }
