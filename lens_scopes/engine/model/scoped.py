"""One interface to HookedTransformer and TransformerBridge: run it, hook it, read its unembedding.

`ScopedModel.of` is called once, at the public boundary; everything below takes a `ScopedModel`. Hooks added here are
gone when a call returns or raises, and parameters receive no gradients. Public functions are `exclusive`: one thread at
a time uses a model, whatever the state of PyTorch.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lens_scopes.engine.final_state import Unembedding, in_compute_dtype
from lens_scopes.engine.model.block_call import BlockCall
from lens_scopes.engine.model.cache import ModelCache, cache_of
from lens_scopes.engine.model.refusals import check_runs_as_written, has_hooked, no_unembedding
from lens_scopes.engine.model.torch_state import MatmulDtype, check_matmul_dtype, usual_torch
from lens_scopes.engine.sites import EMBEDDING
from lens_scopes.errors import VALIDATED, ModelError, NumericsError

if TYPE_CHECKING:
    from transformer_lens import HookedTransformer
    from transformer_lens.model_bridge import TransformerBridge

    Model: TypeAlias = HookedTransformer | TransformerBridge
else:
    # Both are modules; naming them here would import transformer_lens, of which version 4 has no HookedTransformer.
    Model = torch.nn.Module

ModelLike: TypeAlias = Annotated["HookedTransformer | TransformerBridge | ScopedModel", VALIDATED]

Hook = Callable[[Tensor], "Tensor | None"]
"""A function of an activation that returns its replacement, or None to leave it."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Batch:
    """Prompts padded on the right, which is exact under a causal mask, and the final states wanted of them.

    Attributes:
        token_ids: the padded ids.
        lengths: the number of tokens of each row.
        read: (row, position) of each final state wanted.
        block_calls: what a bridge's blocks were called with beside the residual stream, once one of its slices ran; by
            whether masks of all pairs of tokens are among it.
    """

    token_ids: Int[Tensor, "batch pos"]
    lengths: Int[Tensor, " batch"]
    read: Int[Tensor, "2 read"]
    block_calls: dict[bool, list[BlockCall]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(
        cls, model: ScopedModel, prompts: Sequence[Sequence[int]], reads: Sequence[tuple[int, int]] | None = None
    ) -> Batch:
        """Pads prompts for a model; by default each row's last token is read.

        Raises:
            ModelError: where prompts of these lengths cannot run together.
        """
        device = model.device
        if reads is None:
            reads = [(row, len(ids) - 1) for row, ids in enumerate(prompts)]
        model.check_lengths([len(ids) for ids in prompts])
        longest = max(map(len, prompts))
        padded = [[*ids, *[0] * (longest - len(ids))] for ids in prompts]
        with torch.inference_mode(False):  # autograd keeps none of the tensors made in inference mode
            return cls(
                token_ids=torch.tensor(padded, device=device),
                lengths=torch.tensor([len(ids) for ids in prompts], device=device),
                read=torch.tensor(reads, device=device).T,
            )

    @property
    def token_mask(self) -> Bool[Tensor, "batch pos"]:
        """Marks positions that are not padding."""
        return torch.arange(self.token_ids.shape[1], device=self.lengths.device) < self.lengths[:, None]


@dataclass(frozen=True, eq=False, repr=False)
class ScopedModel(ABC):
    """A causal language model with hooks, whichever library it comes from.

    Adapters are made anew whenever they are asked for; those of one model share one cache.

    Attributes:
        module: the HookedTransformer or TransformerBridge.
        cache: what is known of it.
        matmul_dtype: None for matrix products in the model's own dtype. "bfloat16": those of the body, forward and
            backward, read their factors rounded to bfloat16 and add up in float32, about twice as fast where a
            processor or GPU has instructions for it. The residual stream, norms, softmax, final states, logits, F and
            scores keep the model's dtype.
    """

    module: Any  # a union of both classes would give every attribute two types, most of them wrong
    cache: ModelCache
    matmul_dtype: MatmulDtype = None

    backend: ClassVar[Literal["hooked", "bridge"]]
    """Which of `load_model`'s backends the model is of."""

    @staticmethod
    def of(model: ModelLike) -> ScopedModel:
        """The adapter of a model; an adapter is its own, and that of `torch.compile(model)` is the model's.

        Raises:
            ModelError: for what cannot be a model.
        """
        if isinstance(model, ScopedModel):
            return model
        if isinstance(model, Tensor) or not hasattr(model, "cfg"):  # a number, text, …
            raise no_unembedding(model)
        if type(model).__name__ == "OptimizedModule":  # hooks are not called in compiled code
            model = cast(Any, model)._orig_mod
        try:
            cache = cache_of(model)
        except TypeError as error:  # a namespace
            raise no_unembedding(model) from error
        # Imported here, since both adapters build on this module.
        from lens_scopes.engine.model.bridge import BridgeModel
        from lens_scopes.engine.model.hooked import HookedModel

        # By name: naming the class would import transformer_lens.
        is_bridge = any(kind.__name__ == "TransformerBridge" for kind in type(model).__mro__)
        return BridgeModel(model, cache) if is_bridge else HookedModel(model, cache)

    def with_matmul_dtype(self, matmul_dtype: MatmulDtype) -> ScopedModel:
        """The same model with its body's matrix products in another precision.

        Raises:
            ModelError: for anything but None and "bfloat16".
        """
        return replace(self, matmul_dtype=check_matmul_dtype(matmul_dtype))

    @property
    def cfg(self) -> Any:
        """The model's configuration, in TransformerLens' words."""
        return self.module.cfg

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer; None where it has none."""
        return self.module.tokenizer

    @property
    def hook_dict(self) -> Mapping[str, Any]:
        """The hook points by name."""
        return self.module.hook_dict

    @property
    def device(self) -> torch.device:
        """Where the first parameter is, and so where prompts go."""
        return next(self.module.parameters()).device

    @property
    def n_layers(self) -> int:
        """The number of blocks."""
        return self.cfg.n_layers

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keeps the model to this thread for a with-block, in which PyTorch is as it is in a new process.

        Others wait, since the hooks of two calls would act on both. The thread itself may enter again.

        Raises:
            ModelError: for what is no language model, a compiled part, in which hooks are not called, and weights that
                are on no device.
        """
        if not isinstance(getattr(self.module, "W_U", None), Tensor):
            raise no_unembedding(self.module)
        with self.cache.lock, usual_torch(self.device):
            check_runs_as_written(self.module)
            yield

    @contextmanager
    def hooked(self, hooks: Sequence[tuple[str, Hook]]) -> Iterator[None]:
        """Adds forward hooks by name for a with-block; they are gone afterwards, also after an exception.

        They act in this thread alone: a forward pass that another one runs meanwhile is left as it is.

        Raises:
            ModelError: when someone else has removed them meanwhile, so that the numbers may be wrong.
        """
        with self.cache.lock:
            points, owner = self.hook_dict, threading.get_ident()
            handles = []

            def run_in_owner(activation: Tensor, hook: Any, function: Hook) -> Tensor | None:
                return function(activation) if threading.get_ident() == owner and not self.cache.silent else None

            try:
                for name, function in hooks:
                    # The hook's id goes on record, so that it is not taken for one of the caller's.
                    point = points[name]
                    point.add_hook(lambda activation, hook, function=function: run_in_owner(activation, hook, function))
                    handles.append((point, point.fwd_hooks[-1]))
                    self.cache.known_hooks.add(point.fwd_hooks[-1].hook.id)
                yield
            finally:
                self.cache.known_hooks.difference_update(handle.hook.id for _, handle in handles)
                missing = [point for point, handle in handles if handle not in point.fwd_hooks]
                # TransformerLens keeps a list beside PyTorch's own: both let go of the hook.
                for point, handle in reversed(handles):
                    handle.hook.remove()
                    if handle in point.fwd_hooks:
                        point.fwd_hooks.remove(handle)
            if missing:
                raise ModelError(
                    "the model's hooks were reset while lens_scopes was using it, so the numbers would be wrong; call "
                    "reset_hooks before or after."
                )

    @abstractmethod
    def run_slice(self, batch: Batch, start: Tensor, first: int, stop: int) -> Tensor:
        """The residual stream [batch, pos, d_model] before block `stop`; after the last block, the final states
        [read, d_model] that the batch reads.

        Args:
            start: the token ids where `first` is 0, else the residual stream before block `first`.

        Raises:
            ModelError: for a part of the blocks where the model cannot slice.
        """

    @property
    def slice_obstacle(self) -> str:
        """Why blocks cannot run alone, from the residual stream between two of them; "" where they can."""
        return ""

    @property
    def can_slice(self) -> bool:
        """Whether some of the blocks can run alone."""
        return not self.slice_obstacle

    @property
    def prefix_obstacle(self) -> str:
        """Why copies of a prompt cannot start in its middle, from the keys and values before; "" where they can."""
        return ""

    @abstractmethod
    def start_prefix(self) -> Any:
        """A cache without keys and values, which `run_after` fills."""

    @abstractmethod
    def cut_prefix(self, keys_and_values: Any, first: int, rows: int) -> Any:
        """The keys and values of a prompt before position `first`, for `rows` copies of it; no pass adds to them."""

    @abstractmethod
    def run_after(self, batch: Batch, keys_and_values: Any) -> Float[Tensor, "read d_model"]:
        """The final states that a batch reads of tokens that follow those of a cache, which takes up theirs."""

    @abstractmethod
    def unfused_layers(self, hook_names: Iterable[str] = ()) -> dict[str, list[int]]:
        """The layers whose attention scores are computed whole, by the reason.

        Args:
            hook_names: hooks that will be added, beside those that are there.
        """

    @property
    @abstractmethod
    def has_attention_sinks(self) -> bool:
        """Whether logits that weigh no value join every softmax."""

    @property
    @abstractmethod
    def has_experts(self) -> bool:
        """Whether each token goes to some of a layer's MLPs, which a router chooses."""

    @property
    def long_from(self) -> int | None:
        """The number of tokens from which on all positions of a prompt are rotated otherwise; None for no such
        number. A batch is rotated as its longest row is, so rows of both kinds cannot run together."""
        return None

    def check_lengths(self, lengths: Sequence[int]) -> None:
        """Raises ModelError where prompts of these lengths cannot run together (`long_from`)."""
        limit = self.long_from
        if limit is not None and min(lengths) < limit <= max(lengths):
            raise ModelError(
                f"this model rotates the positions of prompts of {limit} and more tokens in another way (LongRoPE), so "
                f"prompts of {min(lengths)} and {max(lengths)} tokens cannot run together; give them one by one."
            )

    def gated_bias(self, layer: int) -> Float[Tensor, " d_mlp"] | None:
        """What a gated MLP adds to act(gate)·up; None for nothing."""
        return None

    def require_slices(self) -> None:
        """Raises ModelError where the model cannot run some of its blocks alone."""
        if self.slice_obstacle:
            cure = 'load the model with backend="hooked", or ' if has_hooked() else ""
            raise ModelError(
                f"the bridge of {self.cfg.architecture} cannot run a slice of its layers, as long prompts need to save "
                f"memory ({self.slice_obstacle}); {cure}give a shorter prompt."
            )

    def final_states(self, batch: Batch) -> Float[Tensor, "read d_model"]:
        """The inputs of the unembedding at the (row, position) pairs that the batch reads."""
        return self.run_slice(batch, batch.token_ids, 0, self.n_layers)

    def apply_final_norm(self, residual: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        """What the unembedding reads of the last residual stream."""
        module = self.module
        return module.unembed.hook_in(module.ln_final(residual) if self._has_final_norm else residual)

    @property
    def _has_final_norm(self) -> bool:
        return self.cfg.normalization_type is not None and hasattr(self.module, "ln_final")

    def run_to_final_states(
        self,
        prompts: Sequence[Sequence[int]],
        hooks: Sequence[tuple[str, Hook]] = (),
        reads: Sequence[tuple[int, int]] | None = None,
    ) -> Float[Tensor, "read d_model"]:
        """y at the last token of each prompt, or at other (row, position) pairs, without a graph, while hooks change
        the forward pass."""
        with torch.no_grad(), self.hooked(hooks):
            return self.final_states(Batch.of(self, prompts, reads))

    def token_embeddings(self, token_ids: Sequence[int]) -> Float[Tensor, "n d_model"]:
        """The activations at hook_embed of the given tokens, as the model makes them (scaled, where it scales)."""
        embeddings: list[Tensor] = []
        step = int(self.cfg.n_ctx)
        stop = 0 if self.can_slice else self.n_layers
        with torch.no_grad(), self.hooked([(EMBEDDING, lambda values: embeddings.append(values[0].detach()))]):
            for start in range(0, len(token_ids), step):
                batch = Batch.of(self, [list(token_ids[start : start + step])])
                self.run_slice(batch, batch.token_ids, 0, stop)
        return torch.cat(embeddings)

    def unembedding(self) -> Unembedding:
        """W_U, b_U and the output soft-cap, as they are now.

        Raises:
            ModelError: when the model has no unembedding matrix, or a quantized one.
        """
        weight = getattr(self.module, "W_U", None)
        if not isinstance(weight, Tensor):
            raise no_unembedding(self.module)
        if not weight.is_floating_point():
            raise ModelError(
                f"the unembedding matrix W_U holds {weight.dtype} numbers, and directions need its columns as they "
                "are; leave the unembedding unquantized."
            )
        bias = getattr(self.module, "b_U", None)
        cap = getattr(self.cfg, "output_logits_soft_cap", None)
        # Fisher's eigenvectors are computed in float64, which MPS does not have.
        place = torch.device("cpu") if weight.device.type == "mps" else weight.device
        return Unembedding(
            W_U=in_compute_dtype(weight.detach().to(place), self.cache.weights),
            b_U=bias.detach().to(place) if isinstance(bias, Tensor) and bool(bias.any()) else None,
            soft_cap=float(cap) if cap is not None and cap > 0 else None,
            cache=self.cache.weights,
        )

    def check_finite(self, states: Tensor, batch: Batch) -> None:
        """Looks for the layer where a forward pass went wrong.

        Raises:
            NumericsError: when a final state is not finite, naming the first layer where that happens.
        """
        if bool(states.isfinite().all()):
            return
        # The pass at hand kept nothing to look at, so another one looks at every layer.
        names = [EMBEDDING, *(f"blocks.{layer}.hook_resid_post" for layer in range(self.n_layers))]
        bad: list[str] = []

        def check(name: str) -> Hook:
            def hook(activation: Tensor) -> None:
                if not bool(activation.isfinite().all()):
                    bad.append(name)

            return hook

        with torch.no_grad(), self.hooked([(name, check(name)) for name in names]):
            self.final_states(batch)
        where = f"first at {bad[0]}" if bad else "after the last block"
        raise NumericsError(
            f"the forward pass gives non-finite activations, {where} ({self.cfg.dtype}); "
            'load the model with dtype="float32" or "bfloat16", and check its weights.'
        )

    @contextmanager
    def _body_precision(self) -> Iterator[None]:
        """The precision of matrix products for a forward pass; the backward pass follows from it."""
        if self.matmul_dtype is None:
            yield
            return
        # Without a cache of rounded weights: frozen ones are not kept in it anyway.
        with torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False):
            yield


def one_at_a_time(function: _Function) -> _Function:
    """A function whose first argument is a model that it keeps to itself: `ScopedModel.exclusive` around each call."""

    @wraps(function)
    def exclusive(*arguments: Any, **named: Any) -> Any:
        if not arguments and "model" not in named:
            return function(*arguments, **named)  # which says what is missing
        with ScopedModel.of(arguments[0] if arguments else named["model"]).exclusive():
            return function(*arguments, **named)

    return cast(_Function, exclusive)
