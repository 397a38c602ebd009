"""How the work is laid out in memory: the whole graph where it fits, else slices of layers, as many at a time as fit.

The estimate counts what autograd keeps of a TransformerLens block: some activations of each width for every token, and
the attention scores and pattern for every pair of tokens; and beside the layers held, what one layer
takes while it runs. It errs on the large side. Where memory runs out all the same, chunks and slices are halved.

Why not `torch.utils.checkpoint` around every block? It runs every block again for each direction; slices run again
once for all of them. It would run them when the hooks of sites and paths are gone, and cannot go on without memory.
`analyses/benchmark/checkpointing.py` compares the two: Fisher Scope of rank 8 on 256 tokens of Gemma 3 270M took 1.7
times the processor time with checkpoints (medians of 3: 14.9 s against 8.9 s), and 0.17 GB at its peak against 0.25 GB
in slices of 6 layers and 0.54 GB with the whole graph.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from lens_scopes.engine.model import ScopedModel
from lens_scopes.errors import LensScopesError, OutOfMemoryError, PromptError

_SHARE = 0.6  # of the memory that is free: other programs may want some too
_DIRECTIONS_SHARE = 0.1  # of what is allowed, for the directions that travel together between slices
_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}

# Tensors that autograd keeps per block and token, by width, and per pair of tokens and head; and what a block takes
# for a moment beside them.
_OF_D_MODEL, _OF_HEADS, _OF_D_MLP, _OF_PAIRS = 14, 6, 5, 2.5
_CAPPED_PAIRS = 2  # more where attention scores are soft-capped, and in what Transformers computes
_TRANSIENT_PAIRS = 2.5

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
    """

    rows: int
    layers_at_once: int
    n_layers: int
    directions_at_once: int | None
    estimate: int
    budget: int | None
    shortages: int = 0

    @property
    def sliced(self) -> bool:
        """Whether layers are run again on the way back."""
        return self.layers_at_once < self.n_layers

    def outcome(
        self, layers_at_once: int, directions_at_once: int | None, n_directions: int, shortages: int
    ) -> MemoryPlan:
        """The plan as it was carried out, after memory had run out `shortages` times."""
        limit = None if directions_at_once is None or directions_at_once >= n_directions else directions_at_once
        return replace(self, layers_at_once=layers_at_once, directions_at_once=limit, shortages=shortages)


class Budget:
    """What a model may use beyond its weights, and what parts of the work are expected to take.

    Args:
        model: the model, whose sizes, dtype and devices count.
        allowed: bytes; by default a share of what is free on the model's devices.
    """

    def __init__(self, model: ScopedModel, allowed: int | None = None) -> None:
        self.model = model
        self.given = allowed is not None
        self._free = free_bytes(model) if allowed is None else allowed
        self.limit = allowed
        self.allowed = self._free if allowed is not None else int(_SHARE * self._free)
        cfg = model.cfg
        dtype = next(values.dtype for values in model.module.parameters() if values.is_floating_point())
        size = torch.finfo(dtype).bits // 8
        wide = max(size, 4)  # scores, softmax and norms are computed in float32 at least
        self._token = size * cfg.d_model
        self._token_graph = (size + wide) // 2 * _OF_D_MODEL * cfg.d_model + size * (
            _OF_HEADS * cfg.n_heads * cfg.d_head + _OF_D_MLP * (cfg.d_mlp or 0)
        )
        self._pair = wide * cfg.n_heads
        capped = (getattr(cfg, "attn_scores_soft_cap", None) or -1) > 0 or not model.can_slice
        self._pair_graph = _OF_PAIRS + (_CAPPED_PAIRS if capped else 0)

    def layer(self, length: int) -> int:
        """Bytes of one layer's graph for one prompt."""
        return int(length * (self._token_graph + self._pair_graph * self._pair * length))

    def transient(self, length: int) -> int:
        """Bytes that one layer takes for a moment while it runs, forward or back, for one prompt."""
        return int(length * (self._token_graph / 2 + _TRANSIENT_PAIRS * self._pair * length))

    def whole(self, length: int) -> int:
        """Bytes of the whole graph of one prompt, at its peak."""
        return self.model.n_layers * self.layer(length) + self.transient(length)

    def rows(self, length: int, most: int) -> int:
        """How many prompts of this length, of `most`, can hold their whole graphs together; one at least."""
        return max(1, min(most, self.allowed // self.whole(length)))

    def forward_rows(self, length: int, most: int) -> int:
        """How many prompts of this length, of `most`, can run forward together without a graph; one at least."""
        return max(1, min(most, self.allowed // (self.layer(length) + self.transient(length))))

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
        whole = rows * self.whole(length) + held
        if whole <= self.allowed:
            return MemoryPlan(rows, n_layers, n_layers, None, whole, self.limit)
        if not self.model.can_slice:
            self._refuse(whole, f"{rows} × {length} tokens", "", 'load the model with backend="hooked", ')
            return MemoryPlan(rows, n_layers, n_layers, None, whole, self.limit)
        token = rows * length * self._token
        layer, transient = rows * self.layer(length), rows * self.transient(length)
        directions = max(1, int(_DIRECTIONS_SHARE * self.allowed) // token)
        carried = (n_layers + 1 + directions) * token + transient + held
        self._refuse(
            (n_layers + 2) * token + transient + layer + held, f"{rows} × {length} tokens", " one layer at a time", ""
        )
        layers = max(1, min(n_layers - 1, (self.allowed - carried) // layer))
        return MemoryPlan(rows, layers, n_layers, directions, carried + layers * layer, self.limit)

    def plan_patterns(self, length: int, rows: int = 1) -> MemoryPlan:
        """The plan of the whole graph of a prompt, or of several rows that begin with it, together with what is
        computed from every layer's pattern.

        Raises:
            OutOfMemoryError: when it does not, with the estimate.
        """
        patterns = self.model.n_layers * self._pair * length**2
        estimate, n_layers = int(rows * (self.whole(length) + 3 * patterns)), self.model.n_layers
        self._refuse(estimate, f"the heads of {length} tokens", "", "")
        return MemoryPlan(1, n_layers, n_layers, None, estimate, self.limit)

    def _refuse(self, estimate: int, what: str, how: str, cure: str) -> None:
        if estimate <= self._free:
            return
        limit = f"{in_units(self._free)} {'are allowed' if self.given else 'are free'}"
        raise OutOfMemoryError(
            f"{what} need about {in_units(estimate)} beyond the model's weights{' even' if how else ''}{how}, and "
            f"{limit}; {cure}{'allow' if self.given else 'free'} more memory or give a shorter prompt."
        )


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
