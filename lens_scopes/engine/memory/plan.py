"""How the work is laid out in memory: the whole graph where it fits, else slices of layers, as many at a time as fit.

The estimate counts what autograd keeps of a block (`Footprint`), and beside the layers held, what one layer takes while
it runs, and the gradients that are read. Where slices would not fit, freed blocks go back to the system at once.

Why not `torch.utils.checkpoint` around every block? It runs every block again for each direction; slices run again
once for all of them. It would run them when the hooks of sites and paths are gone, and cannot go on without memory.
`analyses/benchmark/tools/checkpointing.py` compares the two: Fisher Scope of rank 8 on 256 tokens of Gemma 3 270M took
1.6 times the processor time with checkpoints (13.7 s against 8.6 s, one round), and 0.11 GB at its peak against 0.27 GB
in slices of 11 layers and 0.40 GB with the whole graph.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch

from lens_scopes.engine.attention import PATTERNS_READ
from lens_scopes.engine.memory.system import LARGE, can_free_at_once, free_bytes
from lens_scopes.engine.memory.units import in_units
from lens_scopes.engine.model import ScopedModel, has_hooked
from lens_scopes.errors import OutOfMemoryError

_SHARE = 0.6  # of the memory that is free: other programs may want some too
_DIRECTIONS_SHARE = 0.1  # of what is allowed, for the directions that travel together between slices
_TRANSIENT_PAIRS = 2.5  # scores of a block, where they are computed whole, that are there for a moment
# What a process holds for each byte of its tensors. The C library's heap ends up in pieces: 1.3 to 1.65 times for Gemma
# 3 270M, whole graphs and slices, 128 to 8,192 tokens. Where blocks are freed at once it is 0.94 to 1.17 times.
_HEAP, _FREED_AT_ONCE = 1.45, 1.1
_SMALL_BLOCKS = 2**27  # bytes of a heap that holds small blocks alone, where large ones are freed at once


@dataclass(frozen=True)
class MemoryPlan:
    """How much is held at a time.

    Attributes:
        rows: prompts run together.
        layers_at_once: n_layers where the whole graph is held.
        n_layers: of the model.
        directions_at_once: directions that travel together between slices; None for all.
        estimate: bytes expected beyond the model's weights.
        budget: bytes allowed, where a limit was given; None for a share of what is free, which no record needs.
        frees_at_once: whether freed blocks go back to the system at once, which takes about a quarter more time and
            less memory: slices would not fit otherwise.
        shortages: how often memory ran out all the same.
        unfused: the layers whose attention scores are computed whole, by the reason; None in files from before
            attention was fused.
        peak: bytes taken at the peak beyond what was held before, as measured; None where the system does not count
            them, on a processor where memory was not limited, and in files from before.
    """

    rows: int
    layers_at_once: int
    n_layers: int
    directions_at_once: int | None
    estimate: int
    budget: int | None
    frees_at_once: bool = False
    shortages: int = 0
    unfused: dict[str, list[int]] | None = None
    peak: int | None = None

    @property
    def sliced(self) -> bool:
        """Whether layers are run again on the way back."""
        return self.layers_at_once < self.n_layers

    @property
    def limited(self) -> bool:
        """Whether memory matters: a limit was given, or the whole graph does not fit."""
        return self.budget is not None or self.sliced

    def outcome(
        self,
        layers_at_once: int,
        directions_at_once: int | None,
        n_directions: int,
        shortages: int,
        peak: int | None,
    ) -> MemoryPlan:
        """The plan as it was carried out, after memory had run out `shortages` times."""
        limit = None if directions_at_once is None or directions_at_once >= n_directions else directions_at_once
        return replace(self, layers_at_once=layers_at_once, directions_at_once=limit, shortages=shortages, peak=peak)


@dataclass(frozen=True)
class Footprint:
    """Bytes that the blocks of a model take for one prompt.

    Attributes:
        token: of one activation of the residual stream.
        attention: kept by autograd of a block's norms and attention, for each token.
        mlp: kept of its MLP.
        moment: taken for a moment, forward or back, by the MLP, which takes the most.
        weights: kept of a block whatever the prompt: weights in another dtype or layout than the model stores.
        pair: of one score for every head.
        score_copies: kept for each pair of tokens where scores are computed whole, in such scores.
        early: whether the last MLP runs at the positions that are read alone.
        once: taken for the prediction.
    """

    token: int
    attention: int
    mlp: int
    moment: int
    weights: int
    pair: int
    score_copies: float
    early: bool
    once: int

    @classmethod
    def of(cls, model: ScopedModel) -> Footprint:
        """The footprint of a model's blocks, by their configuration."""
        cfg = model.cfg
        # Sizes of a number: as stored, as norms and softmax need it, and as matrix products keep their factors.
        dtype = next(values.dtype for values in model.module.parameters() if values.is_floating_point())
        size = torch.finfo(dtype).bits // 8
        wide = max(size, 4)  # norms, scores and softmax are computed in float32 at least
        product = 2 if model.matmul_dtype else size
        d_model, heads, d_mlp = cfg.d_model, cfg.n_heads * cfg.d_head, cfg.d_mlp or 0
        kv = (cfg.n_key_value_heads or cfg.n_heads) * cfg.d_head
        # Each norm keeps its input, centred or in float32 where that is another tensor, once for q, k and v each.
        norm = cfg.normalization_type or ""
        inputs_of_norms = 3 if norm.startswith("LN") or size < wide else 1
        post_norm = wide * d_model if getattr(cfg, "use_normalization_before_and_after", False) else 0
        attention = inputs_of_norms * wide * d_model + product * (heads + 2 * kv) + post_norm
        if getattr(cfg, "use_qk_norm", False):
            attention += wide * (heads + kv)
        # GELU by its formula keeps four tensors, one kernel one; a gate what it multiplies too.
        activations = (4 if cfg.act_fn in ("gelu_new", "gelu_fast") else 1) + 2 * bool(cfg.gated_mlp)
        mlp = wide * d_model + product * activations * d_mlp + post_norm if d_mlp else 0
        moment = 3 * product * d_mlp + 3 * wide * d_model
        bridge = model.backend == "bridge"
        if bridge:  # the expanded keys and values, and rotations and norms in steps of their own
            attention, mlp = attention + 2 * wide * heads + 6 * wide * d_model, mlp + product * d_mlp
        capped = (getattr(cfg, "attn_scores_soft_cap", None) or -1) > 0
        return cls(
            token=size * d_model,
            attention=attention,
            mlp=mlp,
            moment=max(moment, 3 * wide * heads),
            weights=0 if bridge else _copied_weights(model),
            pair=wide * cfg.n_heads,
            score_copies=4.5 if bridge or capped else 2.5,
            early=f"blocks.{cfg.n_layers - 1}.hook_resid_mid" in model.hook_dict and not bridge,
            once=8 * wide * cfg.d_vocab,
        )

    def block_graph(self, length: int) -> int:
        """Kept of one block by autograd, without scores."""
        return length * (self.attention + self.mlp)

    def unread_mlp(self, length: int) -> int:
        """Not kept of the last block, since few positions of its MLP are read."""
        return length * self.mlp if self.early else 0

    def scores(self, length: int) -> int:
        """The scores of one block."""
        return self.pair * length**2

    def score_graph(self, length: int) -> int:
        """Kept of one block's scores and patterns where they are computed whole."""
        return int(self.score_copies * self.scores(length))

    def transient(self, length: int, *, whole_scores: bool) -> int:
        """Taken for a moment while one block runs, forward or back."""
        return length * self.moment + (int(_TRANSIENT_PAIRS * self.scores(length)) if whole_scores else 0)


def _copied_weights(model: ScopedModel) -> int:
    """Bytes of a block's weights that autograd keeps copies of: all where products are in another dtype than they are,
    else those that TransformerLens puts into another layout for its products."""
    block = model.module.blocks[0]
    if model.matmul_dtype:
        return 2 * sum(values.numel() for values in block.parameters() if values.ndim > 1)
    attention = block.attn
    gated_mlp = bool(model.cfg.gated_mlp) and hasattr(getattr(block, "mlp", None), "W_in")  # experts have their own
    factors = [attention.W_O.permute(2, 0, 1)]
    factors += [
        getattr(attention, name).transpose(1, 2)
        for name in ("W_Q", "_W_K", "_W_V", "W_K", "W_V")
        if isinstance(vars(attention)["_parameters"].get(name), torch.nn.Parameter)
    ]
    factors += [getattr(block.mlp, name).T for name in ("W_in", "W_gate", "W_out")] if gated_mlp else []
    return sum(values.nbytes for values in factors if not values.is_contiguous())


class Budget:
    """What a model may use beyond its weights, and what parts of the work are expected to take.

    Args:
        model: the model, whose sizes, dtype and devices count.
        allowed: bytes; by default a share of what is free on the model's devices.
        hook_names: hooks that will be added to the model: those that read patterns cost n² bytes.
        sites: how many sites gradients are read at, besides the embedding.
    """

    def __init__(
        self, model: ScopedModel, allowed: int | None = None, hook_names: Iterable[str] = (), sites: int = 0
    ) -> None:
        self.model = model
        self.has_limit = allowed is not None
        self._free = free_bytes(model) if allowed is None else allowed
        self.limit = allowed
        self.allowed = self._free if allowed is not None else int(_SHARE * self._free)
        self.unfused = model.unfused_layers(hook_names)
        self._sites = sites
        self._footprint = Footprint.of(model)

    def _layers(self, length: int, count: int) -> int:
        """Bytes that autograd keeps of the `count` layers that keep the most, for one prompt."""
        # The worst choice of layers: as many as there are whose scores are computed whole.
        unfused = min(count, sum(map(len, self.unfused.values())))
        return count * self._footprint.block_graph(length) + unfused * self._footprint.score_graph(length)

    def _transient(self, length: int) -> int:
        """Bytes that one layer takes for a moment while it runs, forward or back, for one prompt."""
        return self._footprint.transient(length, whole_scores=bool(self.unfused))

    def _whole_row(self, length: int) -> int:
        gradients = (self._sites + 1) * length * self._footprint.token
        graph = self._layers(length, self.model.n_layers) - self._footprint.unread_mlp(length)
        return graph + self._transient(length) + gradients

    def _fixed_bytes(self, layers: int) -> int:
        """Bytes taken however many prompts run together."""
        return layers * self._footprint.weights + self._footprint.once

    def whole(self, length: int, rows: int = 1) -> int:
        """Bytes of the whole graph of some prompts, at its peak, with the gradients at all sites."""
        return self._process(rows * self._whole_row(length)) + self._fixed_bytes(self.model.n_layers)

    def _process(self, tensors: int, frees_at_once: bool = False) -> int:
        """What a process holds for tensors of that many bytes."""
        if self.model.device.type != "cpu":
            return tensors
        return int(_FREED_AT_ONCE * tensors) + _SMALL_BLOCKS if frees_at_once else int(_HEAP * tensors)

    def rows(self, length: int, most: int) -> int:
        """How many prompts of this length, of `most`, can hold their whole graphs together; one at least."""
        return max((rows for rows in range(1, most + 1) if self.whole(length, rows) <= self.allowed), default=1)

    def forward_rows(self, length: int, most: int) -> int:
        """How many prompts of this length, of `most`, can run forward together without a graph; one at least."""
        # Without a graph a layer's memory is free again before the next one runs.
        each = self._process(self._layers(length, 1) + self._transient(length))
        return max(1, min(most, (self.allowed - self._fixed_bytes(1)) // each))

    def plan(self, length: int, rows: int = 1, held: int = 0) -> MemoryPlan:
        """The fastest plan that fits: no layer is run twice unless it has to be.

        Args:
            length: tokens of the longest prompt.
            rows: prompts run together.
            held: bytes held beside the graph, such as the activations of another prompt.

        Raises:
            OutOfMemoryError: when even the smallest plan does not fit, with the estimate.
        """
        n_layers = self.model.n_layers

        def make_plan(layers: int, directions: int | None, estimate: int, frees_at_once: bool = False) -> MemoryPlan:
            return MemoryPlan(
                rows, layers, n_layers, directions, estimate, self.limit, frees_at_once, unfused=self.unfused
            )

        # First choice: the whole graph, in which no layer runs twice.
        whole_graph = self.whole(length, rows) + held
        if whole_graph <= self.allowed:
            return make_plan(n_layers, None, whole_graph)
        if not self.model.can_slice:
            cure = 'load the model with backend="hooked", ' if has_hooked() else ""
            self._require_room(whole_graph, f"{rows} × {length} tokens", "", cure)
            return make_plan(n_layers, None, whole_graph)
        # Second choice: slices.
        token, transient = rows * length * self._footprint.token, rows * self._transient(length)

        def estimate(layers: int, directions: int, frees_at_once: bool = False) -> int:
            """A slice with what it starts from and the gradients inside; the directions that travel between slices."""
            sites = -(-self._sites * layers // n_layers) + 1
            inputs = -(-n_layers // layers)
            tensors = rows * self._layers(length, layers) + transient + (inputs + directions + sites) * token
            return self._process(tensors, frees_at_once) + self._fixed_bytes(layers) + held

        # Blocks are freed at once where one layer would not fit otherwise, and where that takes less. With rounded
        # products always: 32,768 tokens took 15 GB where 5 were planned. That was before attention ran in tiles.
        on_processor = self.model.device.type == "cpu" and can_free_at_once()
        helps = estimate(1, 1) > max(self.allowed, estimate(1, 1, True)) or self.model.matmul_dtype is not None
        at_once = on_processor and token >= LARGE and helps
        self._require_room(estimate(1, 1, at_once), f"{rows} × {length} tokens", " one layer at a time", "")
        # Directions first, since each group of them runs every slice again; what is left of the memory goes to layers.
        directions = max(1, int(_DIRECTIONS_SHARE * self.allowed) // token)
        # No more than fit beside a slice of a single layer.
        while directions > 1 and estimate(1, directions, at_once) > self.allowed:
            directions //= 2
        lengths = [layers for layers in range(1, n_layers) if estimate(layers, directions, at_once) <= self.allowed]
        layers = max(lengths, default=1)
        return make_plan(layers, directions, estimate(layers, directions, at_once), at_once)

    def plan_patterns(self, length: int, rows: int = 1) -> MemoryPlan:
        """The plan of the whole graph of a prompt, or of several rows that begin with it, together with what is
        computed from every layer's pattern.

        Raises:
            OutOfMemoryError: when it does not, with the estimate.
        """
        n_layers, footprint = self.model.n_layers, self._footprint
        graph = n_layers * (footprint.block_graph(length) + footprint.score_graph(length))
        whole = rows * (graph + footprint.transient(length, whole_scores=True)) + self._fixed_bytes(n_layers)
        estimate = whole + rows * 3 * n_layers * footprint.scores(length)
        self._require_room(estimate, f"the heads of {length} tokens", "", "")
        unfused = {PATTERNS_READ: list(range(n_layers))}
        return MemoryPlan(1, n_layers, n_layers, None, estimate, self.limit, unfused=unfused)

    def _require_room(self, estimate: int, work: str, manner: str, cure: str) -> None:
        # Against all that is free: where the plan's share of it is too small, one may still try.
        if estimate <= self._free:
            return
        limit = f"{in_units(self._free)} {'are allowed' if self.has_limit else 'are free'}"
        raise OutOfMemoryError(
            f"{work} need about {in_units(estimate)} beyond the model's weights{' even' if manner else ''}{manner}, "
            f"and {limit}; {cure}{'allow' if self.has_limit else 'free'} more memory or give a shorter prompt."
        )
