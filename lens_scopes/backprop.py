"""One forward pass to the final state, then one vector–Jacobian product a direction, to every site at once.

    g_i,t = v_iᵀ J_t,   J_t = ∂y/∂x_t

Logits are computed by the caller at single positions only, parameters receive no gradients, and the model's hooks
and state are as before when a call returns or raises.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lens_scopes.errors import ModelError, NumericsError
from lens_scopes.final_state import compute_dtype, unembedding
from lens_scopes.objectives import Directions
from lens_scopes.readouts import Readout
from lens_scopes.sites import EMBEDDING

Hook = Callable[[Tensor], "Tensor | None"]
"""A function of an activation that returns its replacement, or None to leave it."""


@contextmanager
def hooked(model: Any, hooks: Sequence[tuple[str, Hook]]) -> Iterator[None]:
    """Adds forward hooks by name for a with-block; they are gone afterwards, also after an exception."""
    points = model.hook_dict
    added = []
    try:
        for name, function in hooks:
            point = points[name]
            point.add_hook(lambda activation, hook, function=function: function(activation))
            added.append((point, point.fwd_hooks[-1]))
        yield
    finally:
        for point, handle in reversed(added):
            handle.hook.remove()
            point.fwd_hooks.remove(handle)


@dataclass(frozen=True)
class Trace:
    """A forward pass with the graph from every site to the final states.

    Attributes:
        final_states: y at the positions read: the last real one of each row, unless others were asked for.
        activations: the sites' activations, by the name asked for.
        real: marks positions that are not padding.
    """

    final_states: Float[Tensor, "read d_model"]
    activations: Mapping[str, Tensor]
    real: Bool[Tensor, "batch pos"]

    def gradients(self, vectors: Float[Tensor, "read d_model"], keep_graph: bool) -> dict[str, Tensor]:
        """vᵀJ at every site, for one direction a final state; zeros where no final state depends on the site."""
        names = list(self.activations)
        found = torch.autograd.grad(
            self.final_states,
            [self.activations[name] for name in names],
            vectors.to(self.final_states),
            retain_graph=keep_graph,
            allow_unused=True,
        )
        return {
            name: torch.zeros_like(self.activations[name]) if gradient is None else gradient
            for name, gradient in zip(names, found, strict=True)
        }


def trace(
    model: Any,
    prompts: Sequence[Sequence[int]],
    sites: Sequence[str],
    path: Sequence[tuple[str, Hook]] = (),
    reads: Sequence[tuple[int, int]] | None = None,
) -> Trace:
    """Runs the prompts, padded on the right, to their final states.

    Args:
        prompts: token ids, one list a row; padding on the right is exact under a causal mask.
        sites: hook names; the embedding is always among them.
        path: hooks that decide which routes carry gradient; they leave the forward pass as it is.
        reads: the (row, position) pairs whose final states are wanted; by default each row's last token.

    Raises:
        NumericsError: when a final state is not finite, naming the first layer where that happens.
    """
    token_ids, lengths = _padded_ids(model, prompts)
    activations: dict[str, Tensor] = {}

    def capture(name: str) -> Hook:
        def hook(activation: Tensor) -> Tensor | None:
            if name == EMBEDDING or not activation.requires_grad:  # a root of the graph
                activation = activation.detach().requires_grad_(True)
                activations[name] = activation
                return activation
            activations[name] = activation
            return None

        return hook

    # Sites go first: influence at a component that the path holds fixed is zero, not what it would be without the path.
    hooks = [*((name, capture(name)) for name in dict.fromkeys([EMBEDDING, *sites])), *path]
    read = _last_tokens(lengths) if reads is None else torch.tensor(reads, device=lengths.device).T
    with torch.inference_mode(False), torch.enable_grad(), hooked(model, hooks):
        final_states = _forward(model, token_ids, read)
    if not bool(final_states.isfinite().all()):
        raise NumericsError(_where_not_finite(model, token_ids))
    missing = [name for name in sites if name not in activations]
    if missing:
        raise ModelError(f"the model has a hook named {missing[0]!r} but its forward pass does not call it.")
    steps = torch.arange(token_ids.shape[1], device=lengths.device)
    return Trace(final_states, activations, steps < lengths[:, None])


def run_to_final_state(
    model: Any, prompts: Sequence[Sequence[int]], hooks: Sequence[tuple[str, Hook]] = ()
) -> Float[Tensor, "batch d_model"]:
    """y at the last token of each prompt, without a graph, while hooks change the forward pass."""
    token_ids, lengths = _padded_ids(model, prompts)
    with torch.no_grad(), hooked(model, hooks):
        return _forward(model, token_ids, _last_tokens(lengths))


def _last_tokens(lengths: Int[Tensor, " batch"]) -> Int[Tensor, "2 batch"]:
    return torch.stack([torch.arange(len(lengths), device=lengths.device), lengths - 1])


def _padded_ids(model: Any, prompts: Sequence[Sequence[int]]) -> tuple[Int[Tensor, "batch pos"], Int[Tensor, " batch"]]:
    device = next(model.parameters()).device
    lengths = torch.tensor([len(ids) for ids in prompts], device=device)
    token_ids = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.long, device=device)
    for row, ids in zip(token_ids, prompts, strict=True):
        row[: len(ids)] = torch.as_tensor(ids, device=device)
    return token_ids, lengths


def is_bridge(model: Any) -> bool:
    """Whether the model is a TransformerBridge rather than a HookedTransformer."""
    return any(kind.__name__ == "TransformerBridge" for kind in type(model).__mro__)


def _forward(
    model: Any, token_ids: Int[Tensor, "batch pos"], read: Int[Tensor, "2 read"]
) -> Float[Tensor, "read d_model"]:
    """The inputs of the unembedding at the (row, position) pairs asked for; no logits elsewhere."""
    if not is_bridge(model):
        residual = model(token_ids, stop_at_layer=model.cfg.n_layers, padding_side="right")
        normalized = model.ln_final(residual) if model.cfg.normalization_type is not None else residual
        rows, positions = read.to(residual.device)
        return model.unembed.hook_in(normalized)[rows, positions]

    kept: list[Tensor] = []

    def only_read(states: Tensor) -> Tensor:
        rows, positions = read.to(states.device)
        kept.append(states[rows, positions])
        return kept[0][:, None]

    with hooked(model, [("unembed.hook_in", only_read)]):
        logits = model(token_ids, return_type="logits")
    if model not in _checked:
        _check_logits(model, kept[0].detach(), logits[:, 0].detach())
        _checked.add(model)
    return kept[0]


_checked: weakref.WeakSet[Any] = weakref.WeakSet()


def _check_logits(model: Any, states: Float[Tensor, "batch d_model"], logits: Float[Tensor, "batch d_vocab"]) -> None:
    """An architecture may scale or cap its logits in ways of its own: then objectives would explain another model."""
    head = unembedding(model)
    own = head.logits(states)
    gap = float((own - logits.to(own)).abs().max())
    scale = float(own.abs().max())
    tolerance = 1e-3 if compute_dtype(logits.dtype) == logits.dtype else 0.05
    if gap > tolerance * max(1.0, scale):
        raise ModelError(
            f"the model's logits differ from its unembedding of the final state by {gap:.3g} (of {scale:.3g}): it "
            "transforms logits in a way that lens_scopes does not know, so its scopes would not be this model's."
        )


def _where_not_finite(model: Any, token_ids: Int[Tensor, "batch pos"]) -> str:
    names = [EMBEDDING, *(f"blocks.{layer}.hook_resid_post" for layer in range(model.cfg.n_layers))]
    bad: list[str] = []

    def check(name: str) -> Hook:
        def hook(activation: Tensor) -> None:
            if not bool(activation.isfinite().all()):
                bad.append(name)

        return hook

    lengths = torch.full((len(token_ids),), token_ids.shape[1], device=token_ids.device)
    with torch.no_grad(), hooked(model, [(name, check(name)) for name in names]):
        _forward(model, token_ids, _last_tokens(lengths))
    where = f"first at {bad[0]}" if bad else "after the last block"
    return (
        f"the forward pass gives non-finite activations, {where} ({model.cfg.dtype}); "
        'load the model with dtype="float32" or "bfloat16", and check its weights.'
    )


@dataclass(frozen=True)
class SiteScores:
    """Scores at one site for a batch of prompts.

    Attributes:
        scores: Σ_i w_i a_i,t², or √w·a_t for a single direction.
        standard_error: of the sampled part, where directions were sampled.
    """

    scores: Float[Tensor, "batch pos *inner"]
    standard_error: Float[Tensor, "batch pos *inner"] | None


def score(
    traced: Trace,
    directions: Sequence[Directions],
    readout: Readout,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, SiteScores]:
    """Backpropagates every direction and reads the gradients at every site.

    Args:
        directions: one set for each row of the batch; rows with fewer directions are padded with weight zero.
        progress: called with (directions done, directions in all).

    Raises:
        NumericsError: when a gradient is not finite, naming the site.
    """
    total = max(len(item.vectors) for item in directions)
    vectors = torch.stack([_padded(item.vectors, total) for item in directions], dim=1)
    weights = torch.stack([_padded(item.weights, total) for item in directions], dim=1)
    sampled = torch.stack([_padded(_is_sample(item), total) for item in directions], dim=1)
    squared = torch.tensor([item.squared for item in directions])

    sums: dict[str, Tensor] = {}
    draws: dict[str, list[Tensor]] = {}
    for index in range(total):
        gradients = traced.gradients(vectors[index], keep_graph=index + 1 < total)
        for name, gradient in gradients.items():
            amplitude = readout.amplitude(gradient, traced.activations[name].detach(), traced.real.to(gradient.device))
            if not bool(amplitude.isfinite().all()):
                raise NumericsError(_gradient_not_finite(gradients, gradient.dtype))
            weight, square, draw = (_rowwise(values, amplitude) for values in (weights[index], squared, sampled[index]))
            term = torch.where(square, weight * amplitude**2, weight.sqrt() * amplitude)
            sums[name] = sums[name] + term if name in sums else term
            if bool(sampled.any()):
                draws.setdefault(name, []).append(torch.where(draw, amplitude**2, torch.nan))
        if progress is not None:
            progress(index + 1, total)
    return {name: SiteScores(total_, _standard_error(draws.get(name))) for name, total_ in sums.items()}


def _padded(values: Tensor, length: int) -> Tensor:
    return torch.cat([values, values.new_zeros(length - len(values), *values.shape[1:])])


def _is_sample(directions: Directions) -> Bool[Tensor, " k"]:
    return torch.arange(len(directions.vectors)) >= len(directions.vectors) - directions.sampled


def _rowwise(values: Tensor, like: Tensor) -> Tensor:
    moved = values.to(like.device) if values.dtype == torch.bool else values.to(like)
    return moved.reshape(-1, *(1 for _ in like.shape[1:]))


def _standard_error(draws: list[Tensor] | None) -> Tensor | None:
    """std / √n over the sampled rows' squared amplitudes; NaN marks rows that are not samples."""
    if not draws:
        return None
    values = torch.stack(draws)
    counts = values.isfinite().sum(0)
    spread = (values - values.nanmean(0)).square().nansum(0) / (counts - 1)
    return (spread / counts).sqrt()


def _gradient_not_finite(gradients: Mapping[str, Tensor], dtype: torch.dtype) -> str:
    bad = [name for name, gradient in gradients.items() if not bool(gradient.isfinite().all())]
    where = bad[-1] if bad else "the readout"
    return (
        f"the backward pass gives non-finite gradients, last finite after {where} ({dtype}); "
        'load the model with dtype="float32" or "bfloat16".'
    )
