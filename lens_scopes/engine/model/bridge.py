"""The adapter of a TransformerBridge."""

from __future__ import annotations

import inspect
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.attention import PATTERNS_READ
from lens_scopes.engine.final_state import compute_dtype
from lens_scopes.engine.model.block_call import BlockCall
from lens_scopes.engine.model.bridge_attention import (
    ONE_FORM,
    LayerAttention,
    agree,
    agree_in_float32,
    attention_has_hooks,
    attentions,
    examine,
    fused_bridge,
    reason_unfused,
)
from lens_scopes.engine.model.key_values import empty_cache, first_positions
from lens_scopes.engine.model.refusals import hook_not_called
from lens_scopes.engine.model.scoped import Batch, Hook, ScopedModel
from lens_scopes.engine.sites import EMBEDDING
from lens_scopes.errors import ModelError

if TYPE_CHECKING:
    from transformers import DynamicCache


class BridgeModel(ScopedModel):
    """A TransformerBridge. Its forward pass is Transformers' own, and starts with tokens.

    A slice that starts later calls its blocks as that forward pass called them: the first slice of a batch notes with
    what, and passes the residual stream through the blocks after it untouched.
    """

    backend = "bridge"

    @property
    def has_attention_sinks(self) -> bool:
        return any(name.endswith(".sinks") for name, _ in self.module.named_parameters())

    @property
    def has_experts(self) -> bool:
        return any((getattr(self._text_config, name, None) or 0) > 1 for name in _EXPERTS)

    @property
    def long_from(self) -> int | None:
        rotation = getattr(self._text_config, "rope_parameters", None) or {}
        kinds = [rotation, *(kind for kind in rotation.values() if isinstance(kind, dict))]  # of layers, where several
        scaled = (kind for kind in kinds if kind.get("rope_type") == "longrope")
        return next((kind["original_max_position_embeddings"] + 1 for kind in scaled), None)

    @property
    def _text_config(self) -> Any:
        config = self.module.original_model.config
        return config.get_text_config() if hasattr(config, "get_text_config") else config

    def unfused_layers(self, hook_names: Iterable[str] = ()) -> dict[str, list[int]]:
        reasons: dict[str, list[int]] = {}
        for layer, reason in enumerate(self._reasons_unfused(hook_names)):
            if reason is not None:
                reasons.setdefault(reason, []).append(layer)
        return reasons

    def _reasons_unfused(self, hook_names: Iterable[str] = ()) -> list[str | None]:
        """Why each layer's scores are computed whole; None where they are not."""
        if len(attentions(self.module)) != self.n_layers:
            return [ONE_FORM] * self.n_layers
        self._examine_attention()
        if self.cache.attention is None:
            return [PATTERNS_READ] * self.n_layers
        points = self.hook_dict
        added = {id(points[name]) for name in hook_names if name in points}
        layers = zip(attentions(self.module), self.cache.attention, strict=True)
        return [reason_unfused(attention, layer, added) for attention, layer in layers]

    @contextmanager
    def hooked(self, hooks: Sequence[tuple[str, Hook]]) -> Iterator[None]:
        self._examine_attention()  # before there are hooks that the trial would call
        with super().hooked(hooks):
            yield

    def _examine_attention(self) -> None:
        """Tries the other form of attention, once a model, unless somebody listens to what the trial would compare."""
        layers = attentions(self.module)
        if self.cache.attention is not None or len(layers) != self.n_layers or any(map(attention_has_hooks, layers)):
            return
        self.cache.attention = (LayerAttention(ONE_FORM),) * self.n_layers  # in the trial itself
        try:
            self.cache.attention = examine(self.module, self._try)
        except BaseException:
            self.cache.attention = None
            raise

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

    @property
    def prefix_obstacle(self) -> str:
        if self.cache.prefix_obstacle is None:
            self.cache.prefix_obstacle = self._try_prefix()
        return self.cache.prefix_obstacle

    def start_prefix(self) -> DynamicCache:
        return empty_cache()

    def cut_prefix(self, keys_and_values: Any, first: int, rows: int) -> DynamicCache:
        return first_positions(keys_and_values, first, rows)

    def run_after(self, batch: Batch, keys_and_values: Any) -> Float[Tensor, "read d_model"]:
        return self._run_whole(batch, batch.token_ids, past_key_values=keys_and_values, use_cache=True)

    def _run_whole(self, batch: Batch, token_ids: Tensor, **options: Any) -> Float[Tensor, "read d_model"]:
        """The final states that the batch reads; options are those of `_forward`."""
        states: list[Tensor] = []

        def only_read(inputs: Tensor) -> Tensor:
            rows, positions = batch.read.to(inputs.device)
            states.append(inputs[rows, positions])
            # Logits are looked at once a model; whoever needs them computes them from the states.
            return states[0][: 1 if self.cache.logits_agree else None, None]

        with self.hooked([("unembed.hook_in", only_read)]):
            logits = self._forward(token_ids, **options)
        if not states:
            raise hook_not_called("unembed.hook_in")
        if not self.cache.logits_agree:
            self._check_logits(states[0].detach(), logits[:, 0].detach())
            self.cache.logits_agree = True
        return states[0]

    def _forward(self, token_ids: Tensor, **options: Any) -> Tensor:
        """Transformers' forward pass; without options and where it can be told so, it holds no keys and values."""
        parameters = inspect.signature(self.module.original_model.forward).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        options = options or ({"use_cache": False} if takes_any or "use_cache" in parameters else {})
        with self._as_set():
            return self.module(token_ids, return_type="logits", **options)

    @contextmanager
    def _as_set(self) -> Iterator[None]:
        fused = fused_bridge(self.module, self._reasons_unfused())
        with warnings.catch_warnings(), self._body_precision(), fused:
            # Freezing norms makes the bridge rebuild them from their scale, as is meant.
            warnings.filterwarnings("ignore", message="A forward hook edited hook_scale")
            yield

    def _run_part(self, batch: Batch, start: Tensor, first: int, stop: int) -> Tensor:
        if first == 0:
            return self._run_first(batch, start, stop)
        calls = self._block_calls(batch)
        if calls is None:  # as where the way forward needed no masks, and the path on the way back reads patterns
            self.cache.silent = True
            try:
                with torch.no_grad():
                    self._run_first(batch, batch.token_ids, 1)
            finally:
                self.cache.silent = False
            calls = batch.block_calls[self._whole_masks]
        residual = start
        with self._as_set():
            for block, call in zip(self.module.blocks[first:stop], calls[first:stop], strict=True):
                residual = call.run(block, residual)
            if stop < self.n_layers:
                return residual
            states = self.apply_final_norm(residual)
        rows, positions = batch.read.to(states.device)
        return states[rows, positions]

    @property
    def _whole_masks(self) -> bool:
        """Whether some layer's attention needs a mask of all pairs of tokens."""
        return any(self._reasons_unfused())

    def _block_calls(self, batch: Batch) -> list[BlockCall] | None:
        """What blocks were called with, if that was noted; masks of all pairs serve every layer."""
        return batch.block_calls.get(self._whole_masks, batch.block_calls.get(True))

    def _run_first(self, batch: Batch, token_ids: Tensor, stop: int) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream before block `stop`; the batch's block calls are noted where they are not known.

        For the length of the call, the forward method of each block is replaced on the instance: blocks from `stop` on
        pass on what they are given, and the last one that is needed ends the pass.
        """
        from transformer_lens.model_bridge.exceptions import StopAtLayerException

        blocks, owner = list(self.module.blocks), threading.get_ident()
        calls_known = self._block_calls(batch) is not None
        # Where the calls are known the pass ends at `stop`; else it goes on to the last block, to note each one's call.
        last = stop if calls_known or stop == 0 else self.n_layers - 1
        calls: list[BlockCall] = []
        residuals: list[Tensor] = []
        other_outputs: list[tuple[Any, ...] | None] = []  # of what a block returns beside the residual stream

        def forward(index: int, original: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
            if threading.get_ident() != owner:
                return original(*arguments, **named)
            residual, call = BlockCall.split(arguments, named)
            calls.append(call)
            if index == stop:
                residuals.append(residual)
            if index == last:
                raise StopAtLayerException(residuals[0])
            # A block may return more than the residual stream: later ones return beside it what the first one did.
            if index >= stop:
                return residual if other_outputs[0] is None else (residual, *other_outputs[0])
            output = original(*arguments, **named)
            if not other_outputs:
                other_outputs.append(output[1:] if isinstance(output, tuple) else None)
            return output

        # Another replacement, such as that of a with-block around this one, comes back afterwards.
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
        if not residuals:
            raise hook_not_called(f"blocks.{stop}.hook_resid_pre")
        if not calls_known and last == self.n_layers - 1:
            batch.block_calls[self._whole_masks] = calls
        return residuals[0]

    def _try_slices(self) -> str:
        """Runs four tokens forward and back, whole and one block at a time: what is against slices, or ""."""
        blocks = getattr(self.module, "blocks", None)
        if blocks is None or len(blocks) != self.n_layers:
            return "it has no list of its blocks"
        if self.n_layers == 1:
            return ""
        # The whole pass first, then every block alone, from a leaf at what the block before it gave.
        states, expected = self._try()
        batch, root, direction = _four_tokens(self), _Root(), _direction(states)
        with torch.inference_mode(False), torch.enable_grad(), self.hooked([(EMBEDDING, root)]):
            try:
                starts, outputs = [batch.token_ids], []
                for layer in range(self.n_layers):
                    outputs.append(self._run_part(batch, starts[-1], layer, layer + 1))
                    starts.append(outputs[-1].detach().requires_grad_(True))
                # Back through the blocks, each handing its gradient to the one before.
                for output, start in zip(reversed(outputs), [*reversed(starts[1:-1]), root.embeddings], strict=True):
                    direction = torch.autograd.grad(output, start, direction)[0]
            except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
                return f"a block does not run alone: {type(error).__name__}"
        if not agree(states, outputs[-1].detach()) or not agree(expected, direction):
            return "blocks that run alone give something else than the whole pass"
        return ""

    def _try_prefix(self) -> str:
        """Runs four tokens whole, and the last two of them again: what is against starting later, or ""."""
        batch, later = _four_tokens(self), Batch.of(self, [[2, 3]] * 2, [(0, 0), (0, 1), (1, 0), (1, 1)])
        with torch.inference_mode(False), torch.no_grad():
            states = self._run_whole(batch, batch.token_ids)
            try:
                whole_states = self.run_after(batch, keys_and_values := self.start_prefix())
                later_states = self.run_after(later, self.cut_prefix(keys_and_values, 2, 2))
            except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
                return f"it does not go on from keys and values: {type(error).__name__}"
        if not agree_in_float32(states, whole_states) or not agree_in_float32(states[2:].repeat(2, 1), later_states):
            return "what goes on from keys and values gives something else than the whole pass"
        return ""

    def _try(self) -> tuple[Tensor, Tensor]:
        """Four tokens through the whole model, forward and back: final states, and a gradient at the embeddings."""
        with torch.inference_mode(False), torch.enable_grad(), self.hooked([(EMBEDDING, root := _Root())]):
            states = self._run_whole(batch := _four_tokens(self), batch.token_ids)
            return states.detach(), torch.autograd.grad(states, root.embeddings, _direction(states))[0]

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


# What the configurations of Transformers call the number of experts.
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


class _Root:
    """A hook that starts a graph at the embeddings it sees."""

    embeddings: Tensor

    def __call__(self, embeddings: Tensor) -> Tensor:
        self.embeddings = embeddings.detach().requires_grad_(True)
        return self.embeddings


def _four_tokens(model: ScopedModel) -> Batch:
    """A short prompt, of which every position is read."""
    return Batch.of(model, [[0, 1, 2, 3]], [(0, position) for position in range(4)])


def _direction(states: Float[Tensor, "read d_model"]) -> Float[Tensor, "read d_model"]:
    """In no special direction: the sum of a centred state's entries depends on nothing."""
    return torch.randn(states.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32).to(states)
