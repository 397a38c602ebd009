"""How the work is laid out in memory: the whole graph where it fits, else slices of layers, as many at a time as fit.

The estimate counts what autograd keeps of a block (`Footprint`), and beside the layers held, what one layer takes while
it runs, and the gradients that are read. Where memory runs out all the same, chunks and slices are halved.

Why not `torch.utils.checkpoint` around every block? It runs every block again for each direction; slices run again
once for all of them. It would run them when the hooks of sites and paths are gone, and cannot go on without memory.
`analyses/benchmark/checkpointing.py` compares the two: Fisher Scope of rank 8 on 256 tokens of Gemma 3 270M took 1.7
times the processor time with checkpoints (medians of 3: 14.9 s against 8.9 s), and 0.17 GB at its peak against 0.25 GB
in slices of 6 layers and 0.54 GB with the whole graph.
"""

from __future__ import annotations

import ctypes
import gc
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lens_scopes.engine.attention import READ
from lens_scopes.engine.model import ScopedModel, has_hooked
from lens_scopes.errors import LensScopesError, OutOfMemoryError, PromptError

_SHARE = 0.6  # of the memory that is free: other programs may want some too
_DIRECTIONS_SHARE = 0.1  # of what is allowed, for the directions that travel together between slices
_TRANSIENT_PAIRS = 2.5  # scores of a block, where they are computed whole, that are there for a moment
# The C library keeps freed blocks below 32 MB in a heap, which ends up in pieces: the process then holds this much more
# than its tensors (1.43 to 1.50 times for whole graphs of Gemma 3 270M, 128 to 2,048 tokens; 1.1 to 1.6 for slices).
# Large blocks should not, and yet slices of 8,192 tokens took 1.65 times their tensors, so the factor is one for all.
_IN_PIECES = 1.45
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}

_SIGNS = ("can't allocate memory", "not enough memory", "out of memory", "STATUS_ALLOC_FAILED")


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
        shortages: how often memory ran out all the same.
        unfused: the layers whose attention scores are computed whole, by the reason; None in files from before
            attention was fused.
        peak: bytes taken at the peak beyond what was held before, as measured; None where the system does not count
            them, and in files from before.
    """

    rows: int
    layers_at_once: int
    n_layers: int
    directions_at_once: int | None
    estimate: int
    budget: int | None
    shortages: int = 0
    unfused: dict[str, list[int]] | None = None
    peak: int | None = None

    @property
    def sliced(self) -> bool:
        """Whether layers are run again on the way back."""
        return self.layers_at_once < self.n_layers

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
        pairs_kept: kept for each pair of tokens where scores are computed whole, in such scores.
        early: whether the last MLP runs at the positions that are read alone.
        once: taken for the prediction.
    """

    token: int
    attention: int
    mlp: int
    moment: int
    weights: int
    pair: int
    pairs_kept: float
    early: bool
    once: int

    @classmethod
    def of(cls, model: ScopedModel) -> Footprint:
        """The footprint of a model's blocks, by their configuration."""
        cfg = model.cfg
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
            pairs_kept=4.5 if bridge or capped else 2.5,
            early=f"blocks.{cfg.n_layers - 1}.hook_resid_mid" in model.hook_dict and not bridge,
            once=8 * wide * cfg.d_vocab,
        )

    def kept(self, length: int) -> int:
        """Kept of one block by autograd, without scores."""
        return length * (self.attention + self.mlp)

    def left_out(self, length: int) -> int:
        """Not kept of the last block, since few positions of its MLP are read."""
        return length * self.mlp if self.early else 0

    def pairs(self, length: int) -> int:
        """The scores of one block."""
        return self.pair * length**2

    def kept_pairs(self, length: int) -> int:
        """Kept of one block's scores and patterns where they are computed whole."""
        return int(self.pairs_kept * self.pairs(length))

    def transient(self, length: int, *, whole_scores: bool) -> int:
        """Taken for a moment while one block runs, forward or back."""
        return length * self.moment + (int(_TRANSIENT_PAIRS * self.pairs(length)) if whole_scores else 0)


def _copied_weights(model: ScopedModel) -> int:
    """Bytes of a block's weights that autograd keeps copies of: all where products are in another dtype than they are,
    else those that TransformerLens puts into another layout for its products."""
    block = model.module.blocks[0]
    if model.matmul_dtype:
        return 2 * sum(values.numel() for values in block.parameters() if values.ndim > 1)
    attention = block.attn
    gated = bool(model.cfg.gated_mlp) and hasattr(getattr(block, "mlp", None), "W_in")  # experts have their own
    as_products = [attention.W_O.permute(2, 0, 1)]
    as_products += [
        getattr(attention, name).transpose(1, 2)
        for name in ("W_Q", "_W_K", "_W_V", "W_K", "W_V")
        if isinstance(vars(attention)["_parameters"].get(name), torch.nn.Parameter)
    ]
    as_products += [getattr(block.mlp, name).T for name in ("W_in", "W_gate", "W_out")] if gated else []
    return sum(values.nbytes for values in as_products if not values.is_contiguous())


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
        self.given = allowed is not None
        self._free = free_bytes(model) if allowed is None else allowed
        self.limit = allowed
        self.allowed = self._free if allowed is not None else int(_SHARE * self._free)
        self.unfused = model.unfused_layers(hook_names)
        self._sites = sites
        self._footprint = Footprint.of(model)

    def _layers(self, length: int, count: int) -> int:
        """Bytes that autograd keeps of the `count` layers that keep the most, for one prompt."""
        unfused = min(count, sum(map(len, self.unfused.values())))
        return count * self._footprint.kept(length) + unfused * self._footprint.kept_pairs(length)

    def _transient(self, length: int) -> int:
        """Bytes that one layer takes for a moment while it runs, forward or back, for one prompt."""
        return self._footprint.transient(length, whole_scores=bool(self.unfused))

    def _whole_row(self, length: int) -> int:
        gradients = (self._sites + 1) * length * self._footprint.token
        graph = self._layers(length, self.model.n_layers) - self._footprint.left_out(length)
        return graph + self._transient(length) + gradients

    def _fixed(self, layers: int) -> int:
        """Bytes taken however many prompts run together."""
        return layers * self._footprint.weights + self._footprint.once

    def whole(self, length: int, rows: int = 1) -> int:
        """Bytes of the whole graph of some prompts, at its peak, with the gradients at all sites."""
        return self._in_pieces(rows * self._whole_row(length)) + self._fixed(self.model.n_layers)

    def _in_pieces(self, amount: int) -> int:
        """What a process holds for tensors of that many bytes."""
        if self.model.device.type != "cpu":
            return amount
        return int(_IN_PIECES * amount)

    def rows(self, length: int, most: int) -> int:
        """How many prompts of this length, of `most`, can hold their whole graphs together; one at least."""
        return max((rows for rows in range(1, most + 1) if self.whole(length, rows) <= self.allowed), default=1)

    def forward_rows(self, length: int, most: int) -> int:
        """How many prompts of this length, of `most`, can run forward together without a graph; one at least."""
        each = self._in_pieces(self._layers(length, 1) + self._transient(length))
        return max(1, min(most, (self.allowed - self._fixed(1)) // each))

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

        def planned(layers: int, directions: int | None, estimate: int) -> MemoryPlan:
            return MemoryPlan(rows, layers, n_layers, directions, estimate, self.limit, unfused=self.unfused)

        whole = self.whole(length, rows) + held
        if whole <= self.allowed:
            return planned(n_layers, None, whole)
        if not self.model.can_slice:
            cure = 'load the model with backend="hooked", ' if has_hooked() else ""
            self._refuse(whole, f"{rows} × {length} tokens", "", cure)
            return planned(n_layers, None, whole)
        token, transient = rows * length * self._footprint.token, rows * self._transient(length)

        def estimate(layers: int, directions: int) -> int:
            """A slice with what it starts from and the gradients inside; the directions that travel between slices."""
            sites = -(-self._sites * layers // n_layers) + 1
            inputs = -(-n_layers // layers)
            tensors = rows * self._layers(length, layers) + transient + (inputs + directions + sites) * token
            return self._in_pieces(tensors) + self._fixed(layers) + held

        self._refuse(estimate(1, 1), f"{rows} × {length} tokens", " one layer at a time", "")
        directions = max(1, int(_DIRECTIONS_SHARE * self.allowed) // token)
        while directions > 1 and estimate(1, directions) > self.allowed:
            directions //= 2
        fitting = [layers for layers in range(1, n_layers) if estimate(layers, directions) <= self.allowed]
        layers = max(fitting, default=1)
        return planned(layers, directions, estimate(layers, directions))

    def plan_patterns(self, length: int, rows: int = 1) -> MemoryPlan:
        """The plan of the whole graph of a prompt, or of several rows that begin with it, together with what is
        computed from every layer's pattern.

        Raises:
            OutOfMemoryError: when it does not, with the estimate.
        """
        n_layers, footprint = self.model.n_layers, self._footprint
        kept = n_layers * (footprint.kept(length) + footprint.kept_pairs(length))
        whole = rows * (kept + footprint.transient(length, whole_scores=True)) + self._fixed(n_layers)
        estimate = whole + rows * 3 * n_layers * footprint.pairs(length)
        self._refuse(estimate, f"the heads of {length} tokens", "", "")
        unfused = {READ: list(range(n_layers))}
        return MemoryPlan(1, n_layers, n_layers, None, estimate, self.limit, unfused=unfused)

    def _refuse(self, estimate: int, what: str, how: str, cure: str) -> None:
        if estimate <= self._free:
            return
        limit = f"{in_units(self._free)} {'are allowed' if self.given else 'are free'}"
        raise OutOfMemoryError(
            f"{what} need about {in_units(estimate)} beyond the model's weights{' even' if how else ''}{how}, and "
            f"{limit}; {cure}{'allow' if self.given else 'free'} more memory or give a shorter prompt."
        )


class PeakGauge:
    """Measures how much memory is taken at the peak beyond what is held when it starts.

    On CUDA devices the allocator counts. On Linux the kernel does: the high-water mark of this process's resident
    memory starts anew, after freed memory has gone back to the system, so that a process that held more before is
    measured alike. Elsewhere nothing is known.
    """

    def __init__(self, model: ScopedModel) -> None:
        self._devices = {parameter.device for parameter in model.module.parameters()}
        self._on_cuda = all(device.type == "cuda" for device in self._devices)
        self._before: int | None = None
        if self._on_cuda:
            for device in self._devices:
                torch.cuda.reset_peak_memory_stats(device)
            self._before = sum(map(torch.cuda.memory_allocated, self._devices))
        elif all(device.type == "cpu" for device in self._devices):
            self._before = _start_high_water()

    def peak(self) -> int | None:
        """Bytes at the peak since the start; None where the system does not count them."""
        if self._before is None:
            return None
        most = sum(map(torch.cuda.max_memory_allocated, self._devices)) if self._on_cuda else _resident("VmHWM")
        return None if most is None else max(0, most - self._before)


_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _start_high_water() -> int | None:
    """Bytes resident now, where the high-water mark starts anew; None where the system does not count it."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        _CLEAR_REFS.write_text("5")
    except (OSError, AttributeError, TypeError):
        return None
    return _resident("VmRSS")


def _resident(name: str) -> int | None:
    """Bytes resident now (VmRSS) or at the peak (VmHWM), as Linux counts them."""
    try:
        found = re.search(rf"^{name}:\s+(\d+) kB$", _STATUS.read_text(), flags=re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def parse_memory(amount: str | int | None) -> int | None:
    """Bytes from a number, or from text such as "4GB" or "800 MB"; None stays None.

    Raises:
        PromptError: for anything else, and amounts that are not positive.
    """
    if amount is None:
        return None
    match = None
    if isinstance(amount, int) and not 0 < amount < 2**63:
        raise PromptError('memory is a positive number of bytes below 2^63, or an amount such as "4GB".')
    if isinstance(amount, str | int) and not isinstance(amount, bool):
        match = re.fullmatch(r"\s*([0-9]{1,19}(?:\.[0-9]{1,9})?)\s*((?:[KMGT]B)?)\s*", str(amount), re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise PromptError(f'memory is a positive amount such as "4GB" or a number of bytes; got {str(amount)[:60]!r}.')
    return int(float(match[1]) * _UNITS[match[2].upper()])


def in_units(amount: int) -> str:
    """Bytes as a reader wants them: 1.3 GB, 450 MB."""
    for unit in ("TB", "GB", "MB", "KB"):
        if amount >= _UNITS[unit]:
            return f"{amount / _UNITS[unit]:.3g} {unit}"
    return f"{amount} bytes"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a processor or a device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError | OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def try_or_oom(work: Callable[[], None]) -> str | None:
    """Runs work that memory may be too small for; None, or the first line of what said so, once memory is free again.

    The error itself would keep alive what filled the memory: it is not kept.
    """
    try:
        work()
        return None
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        message = _first_line(error)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return message


@contextmanager
def shortage_named(what: str) -> Iterator[None]:
    """Says of work that cannot be cut what it was that memory ran out for.

    Raises:
        OutOfMemoryError: instead of whatever the libraries raise.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, LensScopesError) or not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"memory ran out for {what} ({_first_line(error)}); give a shorter prompt.") from error


def run_in_chunks(count: int, at_once: Callable[[int], int], run: Callable[[range], None]) -> None:
    """Runs items 0 … count − 1 in order; where memory runs out the chunk is halved, and what is done stays done.

    Args:
        at_once: how many to run together from a given item on.
        run: runs some of the items.

    Raises:
        OutOfMemoryError: when memory runs out for a single item.
    """
    done, most = 0, count
    while done < count:
        size = min(at_once(done), most, count - done)
        shortage = try_or_oom(lambda items=range(done, done + size): run(items))
        if shortage is None:
            done += size
        elif size > 1:
            most = size // 2
        else:
            raise OutOfMemoryError(f"memory ran out with the smallest chunk of the work ({shortage}).")


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def free_bytes(model: ScopedModel) -> int:
    """Memory that is free on the model's devices."""
    devices = {parameter.device for parameter in model.module.parameters()}
    return sum(_free_on(device) for device in devices)


def _free_on(device: torch.device) -> int:
    if device.type == "cuda":
        # PyTorch holds on to what it has freed: to this process it is free too.
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reserved
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    import psutil

    return int(min(psutil.virtual_memory().available, _left_to_the_container()))


def _left_to_the_container(folder: Path = Path("/sys/fs/cgroup")) -> int | float:
    """What a container's limit leaves; pages of files that can be dropped do not count as used."""
    try:
        limit = int((folder / "memory.max").read_text())
        used = int((folder / "memory.current").read_text())
        inactive = re.search(r"^inactive_file (\d+)$", (folder / "memory.stat").read_text(), flags=re.MULTILINE)
    except (OSError, ValueError):  # no container, or one without a limit
        return float("inf")
    return limit - used + (int(inactive[1]) if inactive else 0)
