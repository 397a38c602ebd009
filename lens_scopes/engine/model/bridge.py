"""The adapter of a TransformerBridge."""

from __future__ import annotations

import inspect
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.attention import BRIDGE
from lens_scopes.engine.final_state import compute_dtype
from lens_scopes.engine.model.block_call import BlockCall
from lens_scopes.engine.model.refusals import hook_not_called
from lens_scopes.engine.model.scoped import Batch, ScopedModel
from lens_scopes.engine.sites import EMBEDDING
from lens_scopes.errors import ModelError


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
            raise hook_not_called("unembed.hook_in")
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
        calls: list[BlockCall] = []
        reached: list[Tensor] = []
        rest: list[tuple[Any, ...] | None] = []  # of what a block returns beside the residual stream

        def forward(index: int, original: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
            if threading.get_ident() != owner:
                return original(*arguments, **named)
            residual, call = BlockCall.split(arguments, named)
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
            raise hook_not_called(f"blocks.{stop}.hook_resid_pre")
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
