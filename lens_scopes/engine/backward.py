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
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_scopes.engine.memory import MemoryPlan, PeakGauge, free_at_once, return_free_pages, try_or_oom
from lens_scopes.engine.model import Batch, Hook, ScopedModel
from lens_scopes.engine.sites import EMBEDDING
from lens_scopes.errors import ModelError, OutOfMemoryError, SiteError

Visit = Callable[[int, str, Tensor, Tensor], None]
"""Called with (direction, site, gradient, activation) for every direction at every site."""

Progress = Callable[[int, int], None]
"""Called with (done, in all)."""

BATCH_LIMIT = 256  # tokens times directions up to which directions go through one backward pass together


@runtime_checkable
class GradientSource(Protocol):
    """What gives every direction's gradients at every site, however it comes by them."""

    @property
    def token_mask(self) -> Bool[Tensor, "batch pos"]:
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
        final_states: y at the positions read: the last token of each row, unless others were asked for.
        activations: the sites' activations, by the name asked for.
        token_mask: marks positions that are not padding.
    """

    final_states: Float[Tensor, "read d_model"]
    activations: dict[str, Tensor]
    token_mask: Bool[Tensor, "batch pos"]

    def gradients(self, vectors: Float[Tensor, "read d_model"], keep_graph: bool) -> dict[str, Tensor]:
        """vᵀJ at every site, for one direction a final state; zeros where no final state depends on the site."""
        return next(_gradients(self.final_states, self.activations, vectors[None], keep_graph))

    def _gradients_of_each(self, vectors: Float[Tensor, "k read d_model"]) -> Iterator[dict[str, Tensor]]:
        """`gradients` of every direction; those of a short prompt are taken several at a time, so that the weights are
        read once for all of them."""
        several = max(1, BATCH_LIMIT // self.token_mask.numel())
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
        final_states: y at the positions read: the last token of each row, unless others were asked for.
        token_mask: marks positions that are not padding.
        slice_inputs: what each slice starts from: the token ids, then the residual stream.
        bounds: the first layer of each slice.
        layers_at_once: the longest slice that memory has held.
        directions_at_once: directions that travel together; None for all.
        shortages: how often memory ran out.
        frees_at_once: whether freed blocks go back to the system at once.
        memory_matters: whether the heap's free pages go back to the system after every slice, which takes 6% more time.
        gauge: measures the memory taken since the way forward began.
    """

    model: ScopedModel
    batch: Batch
    sites: Sequence[str]
    path: Sequence[tuple[str, Hook]]
    final_states: Float[Tensor, "read d_model"]
    slice_inputs: Sequence[Tensor]
    bounds: Sequence[int]
    layers_at_once: int
    directions_at_once: int | None
    last: _Slice | None  # its graph is built on the way forward, and used once
    shortages: int = 0
    frees_at_once: bool = False
    memory_matters: bool = False
    gauge: PeakGauge | None = None

    @property
    def token_mask(self) -> Bool[Tensor, "batch pos"]:
        return self.batch.token_mask

    def outcome(self, plan: MemoryPlan, n_directions: int) -> MemoryPlan:
        """The plan as it was carried out, for the record."""
        peak = None if self.gauge is None else self.gauge.peak()
        return plan.outcome(self.layers_at_once, self.directions_at_once, n_directions, self.shortages, peak)

    def backward(
        self, vectors: Float[Tensor, "k read d_model"], visit: Visit, progress: Progress | None = None
    ) -> None:
        """Visits every direction's gradients at every site, from the last slice to the first.

        Raises:
            OutOfMemoryError: when memory runs out for one layer and one direction.
        """
        tracker = _Progress(visit, progress, len(vectors), self.model.n_layers, whole=len(self.bounds) == 1)
        remaining = list(range(len(vectors)))
        while remaining:
            together = remaining[: self.directions_at_once]
            try:
                with free_at_once(self.frees_at_once):
                    self._backward_together({item: vectors[item].to(self.final_states) for item in together}, tracker)
            except OutOfMemoryError:
                # Memory ran out for one layer: half as many directions take less, if there are several.
                if len(together) == 1 or not self.model.can_slice:
                    raise
                self.directions_at_once = len(together) // 2
                continue
            remaining = remaining[len(together) :]

    def _backward_together(self, upstream: dict[int, Tensor], tracker: _Progress) -> None:
        """Takes some directions from the final states to the embedding, all of them through a slice before the next."""
        stops = [*self.bounds[1:], self.model.n_layers]
        for first, stop, start in reversed(list(zip(self.bounds, stops, self.slice_inputs, strict=True))):
            self._backward_slice(first, stop, start, upstream, tracker)

    def _backward_slice(
        self, first: int, stop: int, start: Tensor, upstream: dict[int, Tensor], tracker: _Progress
    ) -> None:
        """Takes each direction's gradient at `stop` to `first`, in halves where memory is too small.

        Args:
            start: what the slice starts from.
            upstream: the gradients by direction; replaced one by one.
        """
        # Shared with `run`: directions leave the list as they come through, also where memory runs out later.
        pending = list(upstream)

        def run() -> None:
            graph = self._slice_graph(first, stop, start)
            self._visit_slice(graph, first, stop, upstream, pending, tracker)
            del graph
            if self.memory_matters:
                return_free_pages()

        # Whole, unless a slice as long as this has been too much before.
        shortage = try_or_oom(run) if stop - first <= self.layers_at_once else ""
        if shortage is None:
            return
        if shortage:
            self.shortages += 1
            if stop - first == 1 or not self.model.can_slice:
                raise OutOfMemoryError(
                    f"memory ran out with the graph of {stop - first} of {self.model.n_layers} layers "
                    f"({shortage}); give a shorter prompt or fewer sites."
                )
            self.layers_at_once = (stop - first) // 2
        # In halves, the later one first, with the directions that have not come through.
        middle = (first + stop + 1) // 2
        with torch.inference_mode(False), torch.no_grad():
            between = self.model.run_slice(self.batch, start, first, middle)
        remaining = {index: upstream[index] for index in pending}
        self._backward_slice(middle, stop, between, remaining, tracker)
        self._backward_slice(first, middle, start, remaining, tracker)
        upstream.update(remaining)

    def _slice_graph(self, first: int, stop: int, start: Tensor) -> _Slice:
        """The graph of the last slice from the way forward, once; else the slice runs again."""
        last, self.last = self.last, None
        if last is not None and stop == self.model.n_layers:
            return last
        return _run_slice(self.model, self.batch, self.sites, self.path, first, stop, start)

    def _visit_slice(
        self,
        graph: _Slice,
        first: int,
        stop: int,
        upstream: dict[int, Tensor],
        pending: list[int],
        tracker: _Progress,
    ) -> None:
        """Visits the gradients inside a slice for every direction that is pending, and takes it off the list."""
        inputs = graph.activations if first == 0 else {"": graph.start, **graph.activations}
        several = max(1, BATCH_LIMIT // self.token_mask.numel())
        while pending:
            together = pending[:several]
            vectors = torch.stack([upstream[index] for index in together])
            gradients = _gradients(graph.out, inputs, vectors, keep_graph=len(pending) > len(together))
            for index, of_direction in zip(together, gradients, strict=True):
                # As the gradient flows, so that the first one gone wrong is met first.
                for name in reversed(graph.activations):
                    tracker.visit(index, name, of_direction[name], graph.activations[name].detach())
                upstream[index] = of_direction.get("", upstream[index])
                tracker.count_layers(index, stop - first)
                del pending[0]


class _Progress:
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

    def count_layers(self, index: int, layers: int) -> None:
        self._layers_left[index] = max(0, self._layers_left[index] - layers)
        done = self._total - sum(self._layers_left.values())
        if self._progress is not None:
            self._progress(done // self._unit, self._total // self._unit)


def trace(
    model: ScopedModel,
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
    with torch.inference_mode(False), torch.enable_grad(), model.hooked(hooks):
        states = model.final_states(batch)
    model.check_finite(states, batch)
    _check_called(sites, activations)
    return Trace(states, activations, batch.token_mask)


def read_activations(
    model: ScopedModel,
    prompts: Sequence[Sequence[int]],
    sites: Sequence[str],
    changes: Sequence[tuple[str, Hook]] = (),
) -> dict[str, Float[Tensor, "batch pos ..."]]:
    """The sites' activations of prompts, padded on the right, without a graph.

    Args:
        changes: hooks that change the forward pass, before anything is read.

    Raises:
        NumericsError: as `trace`.
    """
    batch = Batch.of(model, prompts)
    activations: dict[str, Tensor] = {}

    def keep(name: str) -> Hook:
        return lambda activation: activations.update({name: activation.detach()})

    with (
        torch.inference_mode(False),
        torch.no_grad(),
        model.hooked([*changes, *((name, keep(name)) for name in sites)]),
    ):
        states = model.final_states(batch)
    model.check_finite(states, batch)
    return activations


def trace_in_slices(
    model: ScopedModel,
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
        ModelError: for slices of a TransformerBridge whose blocks do not run alone.
        NumericsError: as `trace`.
    """
    n_layers = model.n_layers
    if layers_at_once < n_layers:
        model.require_slices()
    batch = Batch.of(model, prompts, reads)
    bounds = range(0, n_layers, layers_at_once)
    # Forward without a graph: what each slice starts from, and which sites are called at all.
    slice_inputs = [batch.token_ids]
    called_sites: set[str] = set()
    observers = [(name, lambda activation, name=name: called_sites.add(name)) for name in sites]
    with torch.inference_mode(False), torch.no_grad(), model.hooked(observers):
        for first, stop in zip(bounds, bounds[1:], strict=False):
            slice_inputs.append(model.run_slice(batch, slice_inputs[-1], first, stop))
    # The last slice with its graph, which the way back needs first.
    last = _run_slice(model, batch, sites, path, bounds[-1], n_layers, slice_inputs[-1])
    states = last.out.detach()
    model.check_finite(states, batch)
    _check_called(sites, called_sites | set(last.activations))
    return SlicedTrace(
        model, batch, sites, path, states, slice_inputs, bounds, layers_at_once, directions_at_once, last
    )


def trace_within(
    model: ScopedModel,
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
    layers, shortages, traces = plan.layers_at_once, 0, []
    gauge = PeakGauge(model, plan.limited)

    def run() -> None:
        with free_at_once(plan.frees_at_once):
            traces.append(trace_in_slices(model, prompts, sites, layers, path, reads, plan.directions_at_once))

    while (shortage := try_or_oom(run)) is not None:
        shortages += 1
        if len(prompts) > 1 or layers == 1 or not model.can_slice:
            raise OutOfMemoryError(
                f"memory ran out on the way forward with {len(prompts)} × {max(map(len, prompts))} tokens and the "
                f"graph of {layers} of {model.n_layers} layers ({shortage}); give a shorter prompt."
            )
        layers //= 2
    traces[0].shortages, traces[0].gauge, traces[0].frees_at_once = shortages, gauge, plan.frees_at_once
    traces[0].memory_matters = plan.limited
    return traces[0]


def _run_slice(
    model: ScopedModel,
    batch: Batch,
    sites: Sequence[str],
    path: Sequence[tuple[str, Hook]],
    first: int,
    stop: int,
    start: Tensor,
) -> _Slice:
    """Runs some layers with their graph, from `start` as a leaf."""
    start = start if first == 0 else start.detach().requires_grad_(True)
    activations: dict[str, Tensor] = {}
    # Sites go first: influence at a component that the path holds fixed is zero, not what it would be without the path.
    hooks = [*_captures(sites, activations), *path]
    with torch.inference_mode(False), torch.enable_grad(), model.hooked(hooks):
        out = model.run_slice(batch, start, first, stop)
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
    if len(vectors) > 1 and torch.is_anomaly_enabled():  # whose checks take one direction at a time
        for index in range(len(vectors)):
            keep = keep_graph or index + 1 < len(vectors)
            yield from _gradients(out, activations, vectors[index : index + 1], keep)
        return
    inputs, batched = list(activations.values()), len(vectors) > 1
    gradients = torch.autograd.grad(
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
            for (name, activation), gradient in zip(activations.items(), gradients, strict=True)
        }
