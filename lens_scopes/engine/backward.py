"""Vector–Jacobian products from the final states to every site, in one pass over the layers.

    g_i,t = v_iᵀ J_t,   J_t = ∂y/∂x_t

A `Trace` holds the whole graph of a forward pass, to be asked for gradients. A `SlicedTrace` holds the graph of one
slice of layers at a time, which may be all of them, and the residual stream between slices: going back, each slice
runs forward once more and hands its gradients to the slice before it, some directions at a time, so that memory grows
with the longest slice instead of the depth. Both give the same gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_scopes.engine.forward import (
    Batch,
    Hook,
    check_finite,
    final_states,
    hooked,
    is_bridge,
    run_blocks,
    run_to_reading,
)
from lens_scopes.engine.memory import MemoryPlan, attempt
from lens_scopes.engine.sites import EMBEDDING
from lens_scopes.errors import ModelError, OutOfMemoryError, SiteError

Visit = Callable[[int, str, Tensor, Tensor], None]
"""Called with (direction, site, gradient, activation) for every direction at every site."""

Progress = Callable[[int, int], None]
"""Called with (done, in all)."""

BATCHED = 256  # tokens times directions up to which directions go through one backward pass together


@runtime_checkable
class Traced(Protocol):
    """What gives every direction's gradients at every site, however it comes by them."""

    @property
    def real(self) -> Bool[Tensor, "batch pos"]:
        """Marks positions that are not padding."""
        ...

    def backward(
        self, vectors: Float[Tensor, "k read d_model"], visit: Visit, progress: Progress | None = None
    ) -> None:
        """Visits every direction's gradients at every site."""
        ...


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
            # As the gradient flows, so that the first one gone wrong is met first.
            for name in reversed(self.activations):
                visit(index, name, gradients[name], self.activations[name].detach())
            if progress is not None:
                progress(index + 1, len(vectors))


@dataclass(frozen=True)
class _Slice:
    """The graph of some layers: what comes out of them, and the activations inside."""

    out: Tensor
    start: Tensor
    activations: dict[str, Tensor]


@dataclass
class SlicedTrace:
    """A forward pass that holds the graph of one slice of layers, and the residual stream between slices.

    Where memory runs out on the way back, the slice at hand and those after it are halved; what was visited is not
    visited again.

    Attributes:
        final_states: y at the positions read: the last real one of each row, unless others were asked for.
        real: marks positions that are not padding.
        entering: what each slice starts from: the token ids, then the residual stream.
        bounds: the first layer of each slice.
        layers_at_once: the longest slice that memory has held.
        directions_at_once: directions that travel together; None for all.
        shortages: how often memory ran out.
    """

    model: Any
    batch: Batch
    sites: Sequence[str]
    path: Sequence[tuple[str, Hook]]
    final_states: Float[Tensor, "read d_model"]
    entering: Sequence[Tensor]
    bounds: Sequence[int]
    layers_at_once: int
    directions_at_once: int | None
    last: _Slice | None  # its graph is built on the way forward, and used once
    shortages: int = 0

    @property
    def real(self) -> Bool[Tensor, "batch pos"]:
        return self.batch.real

    def outcome(self, plan: MemoryPlan, n_directions: int) -> MemoryPlan:
        """The plan as it was carried out, for the record."""
        return plan.outcome(self.layers_at_once, self.directions_at_once, n_directions, self.shortages)

    def backward(
        self, vectors: Float[Tensor, "k read d_model"], visit: Visit, progress: Progress | None = None
    ) -> None:
        """Visits every direction's gradients at every site, from the last slice to the first.

        Raises:
            OutOfMemoryError: when memory runs out for one layer and one direction.
        """
        ledger = _Ledger(visit, progress, len(vectors), self.model.cfg.n_layers, whole=len(self.bounds) == 1)
        waiting = list(range(len(vectors)))
        while waiting:
            together = waiting[: self.directions_at_once]
            try:
                self._carry({index: vectors[index].to(self.final_states) for index in together}, ledger)
            except OutOfMemoryError:
                if len(together) == 1 or is_bridge(self.model):
                    raise
                self.directions_at_once = len(together) // 2
                continue
            waiting = waiting[len(together) :]

    def _carry(self, arriving: dict[int, Tensor], ledger: _Ledger) -> None:
        stops = [*self.bounds[1:], self.model.cfg.n_layers]
        for first, stop, entering in reversed(list(zip(self.bounds, stops, self.entering, strict=True))):
            self._through(first, stop, entering, arriving, ledger)

    def _through(self, first: int, stop: int, entering: Tensor, arriving: dict[int, Tensor], ledger: _Ledger) -> None:
        """Takes the directions that arrive at `stop` on to `first`."""
        pending = list(arriving)

        def run() -> None:
            held = self.last if self.last is not None and stop == self.model.cfg.n_layers else None
            self.last = None
            held = held or _slice(self.model, self.batch, self.sites, self.path, first, stop, entering)
            inputs = held.activations if first == 0 else {"": held.start, **held.activations}
            several = max(1, BATCHED // self.real.numel())
            while pending:
                together = pending[:several]
                vectors = torch.stack([arriving[index] for index in together])
                found = _gradients(held.out, inputs, vectors, keep_graph=len(pending) > len(together))
                for index, gradients in zip(together, found, strict=True):
                    # As the gradient flows, so that the first one gone wrong is met first.
                    for name in reversed(held.activations):
                        ledger.visit(index, name, gradients[name], held.activations[name].detach())
                    arriving[index] = gradients.get("", arriving[index])
                    ledger.passed(index, stop - first)
                    del pending[0]

        shortage = attempt(run) if stop - first <= self.layers_at_once else ""
        if shortage is None:
            return
        if shortage:
            self.shortages += 1
            if stop - first == 1 or is_bridge(self.model):
                raise OutOfMemoryError(
                    f"memory ran out with the graph of {stop - first} of {self.model.cfg.n_layers} layers "
                    f"({shortage}); give a shorter prompt or fewer sites."
                )
            self.layers_at_once = (stop - first) // 2
        middle = (first + stop + 1) // 2
        with torch.inference_mode(False), torch.no_grad():
            between = run_blocks(self.model, entering, first, middle)
        left = {index: arriving[index] for index in pending}
        self._through(middle, stop, between, left, ledger)
        self._through(first, middle, entering, left, ledger)
        arriving.update(left)


class _Ledger:
    """What has been visited and how far the directions have come, so that work begun anew counts once."""

    def __init__(self, visit: Visit, progress: Progress | None, directions: int, n_layers: int, *, whole: bool) -> None:
        self._visit, self._progress = visit, progress
        self._visited: set[tuple[int, str]] = set()
        self._layers_left = dict.fromkeys(range(directions), n_layers)
        self._total, self._unit = directions * n_layers, n_layers if whole else 1

    def visit(self, index: int, name: str, gradient: Tensor, activation: Tensor) -> None:
        if (index, name) not in self._visited:
            self._visit(index, name, gradient, activation)
            self._visited.add((index, name))

    def passed(self, index: int, layers: int) -> None:
        self._layers_left[index] = max(0, self._layers_left[index] - layers)
        done = self._total - sum(self._layers_left.values())
        if self._progress is not None:
            self._progress(done // self._unit, self._total // self._unit)


def trace(
    model: Any,
    prompts: Sequence[Sequence[int]],
    sites: Sequence[str],
    path: Sequence[tuple[str, Hook]] = (),
    reads: Sequence[tuple[int, int]] | None = None,
    changes: Sequence[tuple[str, Hook]] = (),
) -> Trace:
    """Runs the prompts, padded on the right, to their final states.

    Args:
        prompts: token ids, one list a row.
        sites: hook names; the embedding is always among them.
        path: hooks that decide which routes carry gradient; they leave the forward pass as it is.
        reads: the (row, position) pairs whose final states are wanted; by default each row's last token.
        changes: hooks that change the forward pass, before anything is read.

    Raises:
        NumericsError: when a final state is not finite, naming the first layer where that happens.
        ModelError: when the model has a site's hook but its forward pass does not call it.
    """
    batch = Batch.of(model, prompts, reads)
    activations: dict[str, Tensor] = {}
    # Sites go first: influence at a component that the path holds fixed is zero, not what it would be without the path.
    hooks = [*changes, *_captures(sites, activations), *path]
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
    reads: Sequence[tuple[int, int]] | None = None,
    directions_at_once: int | None = None,
) -> SlicedTrace:
    """`trace`, holding the graph of `layers_at_once` layers at a time; where those are not all, hooks of the user's own
    run twice.

    Raises:
        ModelError: for slices of a TransformerBridge, whose forward pass cannot start in the middle.
        NumericsError: as `trace`.
    """
    n_layers = model.cfg.n_layers
    if is_bridge(model) and layers_at_once < n_layers:
        raise ModelError(
            "a TransformerBridge cannot run a slice of its layers, which long prompts need to save memory; "
            'load the model with backend="hooked", or give a shorter prompt.'
        )
    batch = Batch.of(model, prompts, reads)
    bounds = range(0, n_layers, layers_at_once)
    entering = [batch.token_ids]
    called: set[str] = set()
    notes = [(name, lambda activation, name=name: called.add(name)) for name in sites]
    with torch.inference_mode(False), torch.no_grad(), hooked(model, notes):
        for first, stop in zip(bounds, bounds[1:], strict=False):
            entering.append(run_blocks(model, entering[-1], first, stop))
    last = _slice(model, batch, sites, path, bounds[-1], n_layers, entering[-1])
    states = last.out.detach()
    check_finite(model, states, batch)
    _check_called(sites, called | set(last.activations))
    return SlicedTrace(model, batch, sites, path, states, entering, bounds, layers_at_once, directions_at_once, last)


def trace_within(
    model: Any,
    prompts: Sequence[Sequence[int]],
    sites: Sequence[str],
    plan: MemoryPlan,
    path: Sequence[tuple[str, Hook]] = (),
    reads: Sequence[tuple[int, int]] | None = None,
) -> SlicedTrace:
    """`trace_in_slices` as planned; where memory runs out for a single prompt, with fewer layers at a time.

    Raises:
        OutOfMemoryError: when memory runs out for several prompts, or for one layer of one.
        NumericsError, ModelError: as `trace_in_slices`.
    """
    layers, shortages, made = plan.layers_at_once, 0, []

    def run() -> None:
        made.append(trace_in_slices(model, prompts, sites, layers, path, reads, plan.directions_at_once))

    while (shortage := attempt(run)) is not None:
        shortages += 1
        if len(prompts) > 1 or layers == 1 or is_bridge(model):
            raise OutOfMemoryError(
                f"memory ran out on the way forward with {len(prompts)} × {max(map(len, prompts))} tokens and the "
                f"graph of {layers} of {model.cfg.n_layers} layers ({shortage}); give a shorter prompt."
            )
        layers //= 2
    made[0].shortages = shortages
    return made[0]


def _slice(
    model: Any,
    batch: Batch,
    sites: Sequence[str],
    path: Sequence[tuple[str, Hook]],
    first: int,
    stop: int,
    entering: Tensor,
) -> _Slice:
    start = entering if first == 0 else entering.detach().requires_grad_(True)
    activations: dict[str, Tensor] = {}
    # Sites go first: influence at a component that the path holds fixed is zero, not what it would be without the path.
    hooks = [*_captures(sites, activations), *path]
    with torch.inference_mode(False), torch.enable_grad(), hooked(model, hooks):
        if is_bridge(model):
            out = final_states(model, batch)
        else:
            whole = stop == model.cfg.n_layers
            out = run_to_reading(model, start, first, batch) if whole else run_blocks(model, start, first, stop)
    return _Slice(out, start, activations)


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
