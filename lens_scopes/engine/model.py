"""One interface to HookedTransformer and TransformerBridge: run it, hook it, read its unembedding, remember its checks.

`ScopedModel.of` is called once, at the public boundary; everything below takes a `ScopedModel`. Hooks added here are
gone when a call returns or raises, and parameters receive no gradients. Public functions are `exclusive`: one thread at
a time uses a model, whatever the state of PyTorch.
"""

from __future__ import annotations

import inspect
import threading
import warnings
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, partial, wraps
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lens_scopes.engine.attention import BRIDGE, COMPILED, READ, fused_attention, has_hooks, obstacle, reads_patterns
from lens_scopes.engine.final_state import Unembedding, WeightCache, compute_dtype, in_compute_dtype
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
MatmulDtype: TypeAlias = Annotated["Literal['bfloat16'] | None", VALIDATED]

Hook = Callable[[Tensor], "Tensor | None"]
"""A function of an activation that returns its replacement, or None to leave it."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Provenance:
    """Where a model's weights come from.

    Attributes:
        name: the name or folder that was loaded.
        revision: names the exact weights, where they have a name.
        processing: whether weights were folded or centred, by the flag's name.
    """

    name: str
    revision: str | None
    processing: Mapping[str, bool]


@dataclass(frozen=True)
class WeightSample:
    """What shows that a weight was changed: PyTorch's count of writes to it, and some of its numbers.

    Attributes:
        writes: the count; 0 for weights made in inference mode, which have none.
        shape: of the weight.
        places: indices of the numbers, one tensor an axis, spread evenly.
        values: the numbers.
    """

    writes: int
    shape: torch.Size
    places: tuple[Tensor, ...]
    values: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> WeightSample:
        """The state of a weight."""
        flat = torch.linspace(0, weight.numel() - 1, min(weight.numel(), _SAMPLED), dtype=torch.float64).long()
        places = torch.unravel_index(flat, weight.shape) if weight.dim() else ()
        return cls(_writes(weight), weight.shape, places, weight.detach()[places].clone())

    def matches(self, weight: Tensor) -> bool:
        """Whether a weight is the one that was sampled, moved or cast at most."""
        if weight.shape != self.shape or _writes(weight) != self.writes:
            return False
        now = weight.detach()[self.places]
        return torch.equal(self.values.to(now).nan_to_num(), now.nan_to_num())


def _writes(weight: Tensor) -> int:
    return 0 if weight.is_inference() else weight._version


_SAMPLED = 32


@dataclass
class ModelCache:
    """What is known of one model, for as long as the model lives.

    Attributes:
        weights: what was computed from W_U, refused once W_U has changed.
        gradients_flow: whether a backward pass was seen to reach the embedding through every linear layer.
        live_hooks: for hooks that were tried, whether the forward pass goes on with what they return.
        logits_agree: whether the logits were seen to be the unembedding of the final state.
        slice_obstacle: why a bridge's blocks cannot run alone; "" where they gave what the whole pass gives, None
            before that was tried.
        provenance: where the weights come from, if `load_model` read them.
        known_hooks: the ids of hooks that lens_scopes added, or that the model was loaded with.
        loaded_weights: some numbers of every weight as `load_model` read it.
        altered: what acts on the model beside its weights, for the length of a call that has looked; else None.
        lock: held by the thread that uses the model.
    """

    weights: WeightCache = field(default_factory=WeightCache)
    gradients_flow: bool = False
    live_hooks: dict[str, bool] = field(default_factory=dict)
    logits_agree: bool = False
    slice_obstacle: str | None = None
    provenance: Provenance | None = None
    known_hooks: set[int] = field(default_factory=set)
    loaded_weights: Mapping[str, WeightSample] = field(default_factory=dict)
    altered: list[str] | None = None
    lock: Any = field(default_factory=threading.RLock, repr=False, compare=False)


# The one place where something is kept for a model. It keeps caches, not adapters: those hold their model, and would
# keep it alive for ever. Nor is it an attribute of the model: copies and saved files would carry it along, and a
# compiled model, which answers with the attributes of the model inside, would find the other's.
_caches: weakref.WeakKeyDictionary[Any, ModelCache] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class _BlockCall:
    """What Transformers calls a block with: masks, rotations, positions.

    Attributes:
        positional: whether the residual stream comes first, and not by its name.
        others: the positional arguments after it.
        named: the keyword arguments.
    """

    positional: bool
    others: tuple[Any, ...]
    named: Mapping[str, Any]

    @classmethod
    def split(cls, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[Tensor, _BlockCall]:
        """The residual stream that a block is called with, and the rest."""
        if arguments:
            return arguments[0], cls(True, arguments[1:], dict(named))
        return named["hidden_states"], cls(
            False, (), {key: value for key, value in named.items() if key != "hidden_states"}
        )

    def run(self, block: Any, residual: Tensor) -> Tensor:
        """The residual stream after the block, from another one before it."""
        named = dict(self.named) if self.positional else {**self.named, "hidden_states": residual}
        output = block(*((residual, *self.others) if self.positional else ()), **named)
        return output[0] if isinstance(output, tuple) else output


@dataclass(frozen=True)
class Batch:
    """Prompts padded on the right, which is exact under a causal mask, and the final states wanted of them.

    Attributes:
        token_ids: the padded ids.
        lengths: the number of tokens of each row.
        read: (row, position) of each final state wanted.
        block_calls: what a bridge's blocks were called with beside the residual stream, once one of its slices ran.
    """

    token_ids: Int[Tensor, "batch pos"]
    lengths: Int[Tensor, " batch"]
    read: Int[Tensor, "2 read"]
    block_calls: list[_BlockCall] = field(default_factory=list, repr=False, compare=False)

    @classmethod
    def of(
        cls, model: ScopedModel, prompts: Sequence[Sequence[int]], reads: Sequence[tuple[int, int]] | None = None
    ) -> Batch:
        """Pads prompts for a model; by default each row's last token is read."""
        device = model.device
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
            raise _no_unembedding(model)
        if type(model).__name__ == "OptimizedModule":  # hooks are not called in compiled code
            model = cast(Any, model)._orig_mod
        # By name: naming the class would import transformer_lens.
        is_bridge = any(kind.__name__ == "TransformerBridge" for kind in type(model).__mro__)
        try:
            cache = _caches.setdefault(model, ModelCache())
        except TypeError as error:  # a namespace
            raise _no_unembedding(model) from error
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
            raise _no_unembedding(self.module)
        with self.cache.lock, usual_torch(self.device):
            _check_runs_as_written(self.module)
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
            added = []

            def own(activation: Tensor, hook: Any, function: Hook) -> Tensor | None:
                return function(activation) if threading.get_ident() == owner else None

            try:
                for name, function in hooks:
                    point = points[name]
                    point.add_hook(lambda activation, hook, function=function: own(activation, hook, function))
                    added.append((point, point.fwd_hooks[-1]))
                    self.cache.known_hooks.add(point.fwd_hooks[-1].hook.id)
                yield
            finally:
                self.cache.known_hooks.difference_update(handle.hook.id for _, handle in added)
                lost = [point for point, handle in added if handle not in point.fwd_hooks]
                for point, handle in reversed(added):
                    handle.hook.remove()
                    if handle in point.fwd_hooks:
                        point.fwd_hooks.remove(handle)
            if lost:
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
            raise _no_unembedding(self.module)
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


class HookedModel(ScopedModel):
    """A HookedTransformer, which can start and stop between any two blocks."""

    backend = "hooked"

    def run_slice(self, batch: Batch, start: Tensor, first: int, stop: int) -> Tensor:
        if stop == self.n_layers:
            return self._run_to_positions(batch, start, first)
        return self._run_blocks(start, first, stop)

    @property
    def has_attention_sinks(self) -> bool:
        return bool(getattr(self.cfg, "use_attention_sinks", False))

    def gated_bias(self, layer: int) -> Float[Tensor, " d_mlp"] | None:
        mlp = getattr(self.module.blocks[layer], "mlp", None)
        return getattr(mlp, "b_in", None) if self.cfg.gated_mlp else None

    def unfused_layers(self, hook_names: Iterable[str] = ()) -> dict[str, list[int]]:
        read = {int(name.split(".")[1]) for name in hook_names if reads_patterns(name)}
        reasons: dict[str, list[int]] = {}
        for layer, block in enumerate(self.module.blocks):
            reason = COMPILED if self._is_compiled(block) else obstacle(block.attn)
            if reason is not None or layer in read:
                reasons.setdefault(reason or READ, []).append(layer)
        return reasons

    def fused_attention(self, first: int, stop: int) -> AbstractContextManager[None]:
        """Lets attention run without n × n matrices, in the blocks from `first` to before `stop` where that can be."""
        blocks = self.module.blocks[first:stop]
        return fused_attention(block.attn for block in blocks if not self._is_compiled(block))

    def _is_compiled(self, block: Any) -> bool:
        """Whether the block's code was fixed before: it would not see that methods are replaced, or keep them so."""
        parts = (self.module, block)
        return any(type(part).__name__ == "OptimizedModule" or part._compiled_call_impl is not None for part in parts)

    def _run_blocks(self, start: Tensor, first: int, stop: int) -> Float[Tensor, "batch pos d_model"]:
        with self._body_precision(), self.fused_attention(first, stop):
            if first == 0:
                return self.module(start, stop_at_layer=stop, padding_side="right")
            return self.module(start, start_at_layer=first, stop_at_layer=stop, padding_side="right")

    def _run_to_positions(self, batch: Batch, start: Tensor, first: int) -> Float[Tensor, "read d_model"]:
        """The final states that the batch reads, from block `first` on.

        After the last attention tokens no longer meet, so the last MLP and the final norm run at the positions that
        are read alone, unless a hook there would see it.
        """
        early = self._reads_early(batch)
        calls: list[str] = []

        def only_read(residual: Tensor) -> Tensor:
            calls.append(self._last_middle)
            rows, positions = batch.read.to(residual.device)
            return residual[rows, positions][:, None]

        with self.hooked([(self._last_middle, only_read)] if early else []):
            residual = self._run_blocks(start, first, self.n_layers)
        if early and not calls:
            raise _hook_not_called(self._last_middle)
        states = self.apply_final_norm(residual)
        rows, positions = batch.read.to(states.device)
        return states[:, 0] if early else states[rows, positions]

    @property
    def _last_middle(self) -> str:
        return f"blocks.{self.n_layers - 1}.hook_resid_mid"

    def _reads_early(self, batch: Batch) -> bool:
        """Whether the last block's MLP runs after its attention, on fewer positions than all, and nobody listens."""
        if batch.read.shape[1] >= batch.token_ids.numel() or self._last_middle not in self.hook_dict:
            return False
        block = self.module.blocks[-1]
        parts = [getattr(block, name) for name in _AFTER_ATTENTION if hasattr(block, name)]
        parts += [self.module.unembed.hook_in, *([self.module.ln_final] if self._has_final_norm else [])]
        return not any(has_hooks(module) for part in parts for module in part.modules())


_AFTER_ATTENTION = ("hook_mlp_in", "ln2", "mlp", "ln2_post", "hook_mlp_out", "hook_resid_post")


class BridgeModel(ScopedModel):
    """A TransformerBridge. Its forward pass is Transformers' own, and starts with tokens.

    A slice that starts later calls its blocks as that forward pass called them: the first slice of a batch notes with
    what, and passes the residual stream through the blocks after it untouched.
    """

    backend = "bridge"

    @property
    def has_attention_sinks(self) -> bool:
        return any(name.endswith(".sinks") for name, _ in self.module.named_parameters())

    def unfused_layers(self, hook_names: Iterable[str] = ()) -> dict[str, list[int]]:
        return {BRIDGE: list(range(self.n_layers))}

    @property
    def slice_obstacle(self) -> str:
        if self.cache.slice_obstacle is None:
            self.cache.slice_obstacle = self._try_slices()
        return self.cache.slice_obstacle

    def run_slice(self, batch: Batch, start: Tensor, first: int, stop: int) -> Tensor:
        if first == 0 and stop == self.n_layers:
            return self._run_whole(batch, start)
        self.require_slices()
        return self._run_part(batch, start, first, stop)

    def _run_whole(self, batch: Batch, token_ids: Tensor) -> Float[Tensor, "read d_model"]:
        states: list[Tensor] = []

        def only_read(inputs: Tensor) -> Tensor:
            rows, positions = batch.read.to(inputs.device)
            states.append(inputs[rows, positions])
            return states[0][:, None]

        with self.hooked([("unembed.hook_in", only_read)]):
            logits = self._forward(token_ids)
        if not states:
            raise _hook_not_called("unembed.hook_in")
        if not self.cache.logits_agree:
            self._check_logits(states[0].detach(), logits[:, 0].detach())
            self.cache.logits_agree = True
        return states[0]

    def _forward(self, token_ids: Tensor) -> Tensor:
        """Transformers' forward pass, without keys and values for tokens to come where it can be told so."""
        named = inspect.signature(self.module.original_model.forward).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in named.values())
        options = {"use_cache": False} if takes_any or "use_cache" in named else {}
        with self._as_set():
            return self.module(token_ids, return_type="logits", **options)

    @contextmanager
    def _as_set(self) -> Iterator[None]:
        with warnings.catch_warnings(), self._body_precision():
            # Freezing norms makes the bridge rebuild them from their scale, as is meant.
            warnings.filterwarnings("ignore", message="A forward hook edited hook_scale")
            yield

    def _run_part(self, batch: Batch, start: Tensor, first: int, stop: int) -> Tensor:
        if first == 0:
            return self._run_first(batch, start, stop)
        if not batch.block_calls:
            with torch.no_grad():
                self._run_first(batch, batch.token_ids, 1)
        residual = start
        with self._as_set():
            for block, call in zip(self.module.blocks[first:stop], batch.block_calls[first:stop], strict=True):
                residual = call.run(block, residual)
            if stop < self.n_layers:
                return residual
            states = self.apply_final_norm(residual)
        rows, positions = batch.read.to(states.device)
        return states[rows, positions]

    def _run_first(self, batch: Batch, token_ids: Tensor, stop: int) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream before block `stop`; the batch's block calls are noted where they are not known.

        For the length of the call, the forward method of each block is replaced on the instance: blocks from `stop` on
        pass on what they are given, and the last one that is needed ends the pass.
        """
        from transformer_lens.model_bridge.exceptions import StopAtLayerException

        blocks, owner = list(self.module.blocks), threading.get_ident()
        last = stop if batch.block_calls or stop == 0 else self.n_layers - 1
        calls: list[_BlockCall] = []
        reached: list[Tensor] = []
        rest: list[tuple[Any, ...] | None] = []  # of what a block returns beside the residual stream

        def forward(index: int, original: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
            if threading.get_ident() != owner:
                return original(*arguments, **named)
            residual, call = _BlockCall.split(arguments, named)
            calls.append(call)
            if index == stop:
                reached.append(residual)
            if index == last:
                raise StopAtLayerException(reached[0])
            if index >= stop:
                return residual if rest[0] is None else (residual, *rest[0])
            output = original(*arguments, **named)
            if not rest:
                rest.append(output[1:] if isinstance(output, tuple) else None)
            return output

        before = [vars(block).get("forward") for block in blocks]
        try:
            for index, block in enumerate(blocks):
                vars(block)["forward"] = partial(forward, index, block.forward)
            self._forward(token_ids)
        finally:
            for block, original in zip(blocks, before, strict=True):
                vars(block).pop("forward", None)
                if original is not None:
                    vars(block)["forward"] = original
        if not reached:
            raise _hook_not_called(f"blocks.{stop}.hook_resid_pre")
        if not batch.block_calls and last == self.n_layers - 1:
            batch.block_calls.extend(calls)
        return reached[0]

    def _try_slices(self) -> str:
        """Runs four tokens forward and back, whole and one block at a time: what is against slices, or ""."""
        blocks = getattr(self.module, "blocks", None)
        if blocks is None or len(blocks) != self.n_layers:
            return "it has no list of its blocks"
        if self.n_layers == 1:
            return ""
        batch = Batch.of(self, [[0, 1, 2, 3]], [(0, position) for position in range(4)])
        roots: list[Tensor] = []

        def root(embeddings: Tensor) -> Tensor:
            roots.append(embeddings.detach().requires_grad_(True))
            return roots[-1]

        with torch.inference_mode(False), torch.enable_grad(), self.hooked([(EMBEDDING, root)]):
            whole = self._run_whole(batch, batch.token_ids)
            generator = torch.Generator().manual_seed(0)
            direction = torch.randn(whole.shape, generator=generator, dtype=torch.float32).to(whole)
            expected = torch.autograd.grad(whole, roots[0], direction)[0]
            try:
                starts, outputs = [batch.token_ids], []
                for layer in range(self.n_layers):
                    outputs.append(self._run_part(batch, starts[-1], layer, layer + 1))
                    starts.append(outputs[-1].detach().requires_grad_(True))
                for output, start in zip(reversed(outputs), [*reversed(starts[1:-1]), roots[-1]], strict=True):
                    direction = torch.autograd.grad(output, start, direction)[0]
            except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
                return f"a block does not run alone: {type(error).__name__}"

        def agree(value: Tensor, other: Tensor) -> bool:
            allowed = 64 * torch.finfo(value.dtype).eps * float(value.abs().max())
            return value.shape == other.shape and float((value - other).abs().max()) <= allowed

        if not agree(whole.detach(), outputs[-1].detach()) or not agree(expected, direction):
            return "blocks that run alone give something else than the whole pass"
        return ""

    def _check_logits(self, states: Float[Tensor, "batch d_model"], logits: Float[Tensor, "batch d_vocab"]) -> None:
        """An architecture may scale or cap its logits in ways of its own: objectives would explain another model."""
        expected = self.unembedding().logits(states)
        gap = float((expected - logits.to(expected)).abs().max())
        scale = float(expected.abs().max())
        tolerance = 1e-3 if compute_dtype(logits.dtype) == logits.dtype else 0.05
        if gap > tolerance * max(1.0, scale):
            raise ModelError(
                f"the model's logits differ from its unembedding of the final state by {gap:.3g} (of {scale:.3g}): it "
                "transforms logits in a way that lens_scopes does not know, so its scopes would not be this model's."
            )


@cache
def has_hooked() -> bool:
    """Whether the installed TransformerLens has HookedTransformer, which 4 removed; without importing it."""
    spec = find_spec("transformer_lens")
    folders = (spec.submodule_search_locations if spec else None) or ()
    return any((Path(folder) / "HookedTransformer.py").is_file() for folder in folders)


def one_at_a_time(function: _Function) -> _Function:
    """A function whose first argument is a model that it keeps to itself: `ScopedModel.exclusive` around each call."""

    @wraps(function)
    def exclusive(*arguments: Any, **named: Any) -> Any:
        if not arguments and "model" not in named:
            return function(*arguments, **named)  # which says what is missing
        with ScopedModel.of(arguments[0] if arguments else named["model"]).exclusive():
            return function(*arguments, **named)

    return cast(_Function, exclusive)


@contextmanager
def usual_torch(device: torch.device) -> Iterator[None]:
    """A with-block without the caller's inference mode, autocast, default device and hooks on what autograd saves.

    Each of them is this thread's own. The default dtype is that of all threads, so it is not touched: whatever is made
    here without a tensor to go by names its dtype. Nor are the precision of matrix products and other switches of
    rounding: `rounded_products` and `unusual_rounding` name them for the record.
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        for kind in {"cpu", device.type}:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if _saved_tensors_are_hooked():  # a caller's hooks may round what the backward pass reads
            stack.enter_context(torch.autograd.graph.saved_tensors_hooks(_as_it_is, _as_it_is))
        yield


def _saved_tensors_are_hooked() -> bool:
    top = getattr(getattr(torch._C, "_autograd", None), "_top_saved_tensors_default_hooks", None)
    return top is not None and top(True) is not None


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def rounded_products(device: torch.device, dtype: torch.dtype) -> str | None:
    """What PyTorch was told to round the factors of float32 matrix products to, on that device: "tf32" or "bf16".

    None where it rounds nothing, which is PyTorch's default. The setting is of the whole process: by
    `torch.set_float32_matmul_precision` or `torch.backends`.
    """
    if dtype != torch.float32 or device.type not in ("cpu", "cuda"):
        return None
    backend: Any = torch.backends.cuda if device.type == "cuda" else torch.backends.mkldnn
    precision = getattr(getattr(backend, "matmul", None), "fp32_precision", None)
    if precision is None:  # PyTorch before 2.9
        lowest = torch.get_float32_matmul_precision() == "medium"
        on_cpu = "bf16" if lowest else None
        return on_cpu if device.type == "cpu" else "tf32" if torch.backends.cuda.matmul.allow_tf32 else None
    return precision if precision in ("tf32", "bf16") else None


def unusual_rounding(device: torch.device) -> dict[str, bool]:
    """The switches of `torch.backends` that change rounding on that device and are not as PyTorch starts, by name.

    Like `rounded_products` they are of the whole process, so a call leaves them as they are.
    """
    unusual: dict[str, bool] = {}
    for name, usual in {"cpu": _CPU_ROUNDING, "cuda": _CUDA_ROUNDING}.get(device.type, {}).items():
        try:
            value = attrgetter(name)(torch.backends)
            value = value() if callable(value) else value
        except (AttributeError, RuntimeError):  # not in this PyTorch, or set by its newer name
            continue
        if bool(value) != usual:
            unusual[name] = bool(value)
    return unusual


# Those of cuDNN act on convolutions alone, which some bridges have.
_CPU_ROUNDING = {"mkldnn.enabled": True}
_CUDA_ROUNDING = {
    "cuda.matmul.allow_fp16_accumulation": False,
    "cuda.matmul.allow_fp16_reduced_precision_reduction": True,
    "cuda.matmul.allow_bf16_reduced_precision_reduction": True,
    "cuda.flash_sdp_enabled": True,
    "cuda.mem_efficient_sdp_enabled": True,
    "cuda.math_sdp_enabled": True,
    "cudnn.enabled": True,
    "cudnn.allow_tf32": True,
    "cudnn.benchmark": False,
    "cudnn.deterministic": False,
}


def _check_runs_as_written(module: Any) -> None:
    """Raises ModelError for a compiled part, and for a weight that is on no device."""
    for whole in (module, getattr(module, "original_model", None)):
        if not isinstance(whole, torch.nn.Module):
            continue
        for name, part in whole.named_modules():
            if _is_compiled(part):
                raise ModelError(
                    f"{name or 'the model'} is compiled (torch.compile), and compiled code does not call the hooks by "
                    "which scopes read it; give the model as it was before."
                )
        for name, parameter in whole.named_parameters():
            if parameter.is_meta:
                raise ModelError(
                    f"the weight {name} is on no device (it is offloaded, or was never loaded), and gradients need all "
                    "weights; load the model onto a device."
                )


def _is_compiled(part: Any) -> bool:
    forward = part.forward
    compiled = hasattr(forward, "_torchdynamo_orig_callable") and not hasattr(forward, "_torchdynamo_disable")
    return compiled or part._compiled_call_impl is not None or type(part).__name__ == "OptimizedModule"


def _hook_not_called(name: str) -> ModelError:
    return ModelError(
        f"the model ran without calling its hook {name!r}, so its code is not what its hooks belong to (compiled or "
        "replaced); give the model as it was loaded."
    )


def check_matmul_dtype(matmul_dtype: Any) -> MatmulDtype:
    """The choice, if it is one.

    Raises:
        ModelError: for anything but None and "bfloat16".
    """
    if matmul_dtype is not None and not (isinstance(matmul_dtype, str) and matmul_dtype == "bfloat16"):
        raise ModelError(
            'matmul_dtype is None (matrix products in the model\'s own dtype) or "bfloat16"; got '
            f"{str(matmul_dtype)[:60]}."
        )
    return matmul_dtype


def _no_unembedding(model: Any) -> ModelError:
    kind = type(model).__name__
    if isinstance(model, str):
        return ModelError(
            f"got the text {model[:60]!r} in place of a model; load it first: ls.load_model({model[:60]!r})."
        )
    if type(model).__module__.partition(".")[0] in ("transformers", "peft"):
        name = str(getattr(model, "name_or_path", ""))[:100] or "gpt2"
        return ModelError(
            f"{kind} is a model of Transformers, without the hooks that scopes read; wrap it: HookedTransformer."
            f"from_pretrained_no_processing({name!r}, hf_model=model, tokenizer=tokenizer), with transformer_lens's "
            "HookedTransformer and adapters merged."
        )
    return ModelError(
        f"{kind} has no unembedding matrix W_U; scopes need a causal language model that "
        "predicts tokens (a HookedTransformer or TransformerBridge)."
    )
