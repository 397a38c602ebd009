"""The forward pass to the final state: padded prompts in, the unembedding's inputs out, no logits at other positions.

Hooks added here are gone when a call returns or raises, and parameters receive no gradients.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lens_scopes.engine.final_state import compute_dtype, unembedding
from lens_scopes.engine.precision import body_products
from lens_scopes.engine.sites import EMBEDDING
from lens_scopes.errors import ModelError, NumericsError

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
class Batch:
    """Prompts padded on the right, which is exact under a causal mask, and the final states wanted of them.

    Attributes:
        token_ids: the padded ids.
        lengths: the real length of each row.
        read: (row, position) of each final state wanted.
    """

    token_ids: Int[Tensor, "batch pos"]
    lengths: Int[Tensor, " batch"]
    read: Int[Tensor, "2 read"]

    @classmethod
    def of(cls, model: Any, prompts: Sequence[Sequence[int]], reads: Sequence[tuple[int, int]] | None = None) -> Batch:
        """Pads prompts for a model; by default each row's last token is read."""
        device = next(model.parameters()).device
        if reads is None:
            reads = [(row, len(ids) - 1) for row, ids in enumerate(prompts)]
        longest = max(map(len, prompts))
        padded = [[*ids, *[0] * (longest - len(ids))] for ids in prompts]
        with torch.inference_mode(False):  # autograd keeps none of the tensors made in inference mode
            return cls(
                token_ids=torch.tensor(padded, device=device),
                lengths=torch.tensor([len(ids) for ids in prompts], device=device),
                read=torch.tensor(reads, device=device).T,
            )

    @property
    def real(self) -> Bool[Tensor, "batch pos"]:
        """Marks positions that are not padding."""
        return torch.arange(self.token_ids.shape[1], device=self.lengths.device) < self.lengths[:, None]


def run_to_final_state(
    model: Any, prompts: Sequence[Sequence[int]], hooks: Sequence[tuple[str, Hook]] = ()
) -> Float[Tensor, "batch d_model"]:
    """y at the last token of each prompt, without a graph, while hooks change the forward pass."""
    with torch.no_grad(), hooked(model, hooks):
        return final_states(model, Batch.of(model, prompts))


def token_embeddings(model: Any, token_ids: Sequence[int]) -> Float[Tensor, "n d_model"]:
    """The activations at hook_embed of the given tokens, as the model makes them (scaled, where it scales)."""
    found: list[Tensor] = []
    step = int(model.cfg.n_ctx)
    with torch.no_grad(), hooked(model, [(EMBEDDING, lambda values: found.append(values[0].detach()))]):
        for start in range(0, len(token_ids), step):
            batch = Batch.of(model, [list(token_ids[start : start + step])])
            if is_bridge(model):
                final_states(model, batch)
            else:
                run_blocks(model, batch.token_ids, 0, 0)
    return torch.cat(found)


def is_bridge(model: Any) -> bool:
    """Whether the model is a TransformerBridge rather than a HookedTransformer."""
    return any(kind.__name__ == "TransformerBridge" for kind in type(model).__mro__)


def final_states(model: Any, batch: Batch) -> Float[Tensor, "read d_model"]:
    """The inputs of the unembedding at the (row, position) pairs that the batch reads."""
    if not is_bridge(model):
        return run_to_reading(model, batch.token_ids, 0, batch)

    kept: list[Tensor] = []

    def only_read(states: Tensor) -> Tensor:
        rows, positions = batch.read.to(states.device)
        kept.append(states[rows, positions])
        return kept[0][:, None]

    with warnings.catch_warnings(), hooked(model, [("unembed.hook_in", only_read)]), body_products(model):
        # Freezing norms makes the bridge rebuild them from their scale, as is meant.
        warnings.filterwarnings("ignore", message="A forward hook edited hook_scale")
        logits = model(batch.token_ids, return_type="logits")
    if model not in _checked:
        _check_logits(model, kept[0].detach(), logits[:, 0].detach())
        _checked.add(model)
    return kept[0]


def run_blocks(model: Any, entering: Tensor, first: int, stop: int) -> Float[Tensor, "batch pos d_model"]:
    """The residual stream of a HookedTransformer before block `stop`, from token ids (first 0) or from the residual
    stream before block `first`."""
    with body_products(model):
        if first == 0:
            return model(entering, stop_at_layer=stop, padding_side="right")
        return model(entering, start_at_layer=first, stop_at_layer=stop, padding_side="right")


def run_to_reading(model: Any, entering: Tensor, first: int, batch: Batch) -> Float[Tensor, "read d_model"]:
    """The final states of a HookedTransformer that the batch reads, from block `first` on.

    After the last attention tokens no longer meet, so the last MLP and the final norm run at the positions that are
    read alone, unless a hook there would see it.
    """
    early = _reads_early(model, batch)

    def only_read(residual: Tensor) -> Tensor:
        rows, positions = batch.read.to(residual.device)
        return residual[rows, positions][:, None]

    with hooked(model, [(_last_middle(model), only_read)] if early else []):
        residual = run_blocks(model, entering, first, model.cfg.n_layers)
    read = normalized(model, residual)
    rows, positions = batch.read.to(read.device)
    return read[:, 0] if early else read[rows, positions]


def normalized(model: Any, residual: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
    """What the unembedding of a HookedTransformer reads of the last residual stream."""
    return model.unembed.hook_in(model.ln_final(residual) if model.cfg.normalization_type is not None else residual)


_AFTER_ATTENTION = ("hook_mlp_in", "ln2", "mlp", "ln2_post", "hook_mlp_out", "hook_resid_post")


def _last_middle(model: Any) -> str:
    return f"blocks.{model.cfg.n_layers - 1}.hook_resid_mid"


def _reads_early(model: Any, batch: Batch) -> bool:
    """Whether the last block's MLP runs after its attention, on fewer positions than all, and nobody listens there."""
    block = model.blocks[-1]
    if batch.read.shape[1] >= batch.token_ids.numel() or _last_middle(model) not in model.hook_dict:
        return False
    parts = [getattr(block, name) for name in _AFTER_ATTENTION if hasattr(block, name)]
    parts += [model.unembed.hook_in, *([model.ln_final] if model.cfg.normalization_type is not None else [])]
    listening = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return not any(getattr(module, hooks) for part in parts for module in part.modules() for hooks in listening)


_checked: weakref.WeakSet[Any] = weakref.WeakSet()


def _check_logits(model: Any, states: Float[Tensor, "batch d_model"], logits: Float[Tensor, "batch d_vocab"]) -> None:
    """An architecture may scale or cap its logits in ways of its own: then objectives would explain another model."""
    own = unembedding(model).logits(states)
    gap = float((own - logits.to(own)).abs().max())
    scale = float(own.abs().max())
    tolerance = 1e-3 if compute_dtype(logits.dtype) == logits.dtype else 0.05
    if gap > tolerance * max(1.0, scale):
        raise ModelError(
            f"the model's logits differ from its unembedding of the final state by {gap:.3g} (of {scale:.3g}): it "
            "transforms logits in a way that lens_scopes does not know, so its scopes would not be this model's."
        )


def check_finite(model: Any, states: Tensor, batch: Batch) -> None:
    """Looks for the layer where a forward pass went wrong.

    Raises:
        NumericsError: when a final state is not finite, naming the first layer where that happens.
    """
    if bool(states.isfinite().all()):
        return
    names = [EMBEDDING, *(f"blocks.{layer}.hook_resid_post" for layer in range(model.cfg.n_layers))]
    bad: list[str] = []

    def check(name: str) -> Hook:
        def hook(activation: Tensor) -> None:
            if not bool(activation.isfinite().all()):
                bad.append(name)

        return hook

    with torch.no_grad(), hooked(model, [(name, check(name)) for name in names]):
        final_states(model, batch)
    where = f"first at {bad[0]}" if bad else "after the last block"
    raise NumericsError(
        f"the forward pass gives non-finite activations, {where} ({model.cfg.dtype}); "
        'load the model with dtype="float32" or "bfloat16", and check its weights.'
    )
