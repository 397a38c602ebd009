"""What the system says of memory: what is free, and what was taken at the peak; and how it gets freed blocks back."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from lens_scopes.engine.model import ScopedModel

LARGE = 2**20
"""Bytes of a block that `free_at_once` gives back by itself."""

_THRESHOLD, _USUAL_THRESHOLD = -3, 2**25  # mallopt's M_MMAP_THRESHOLD, and what it grows to by itself


def can_free_at_once() -> bool:
    """Whether the C library can be told to give large blocks back when they are freed: GNU's can."""
    try:
        return ctypes.CDLL(None).mallopt is not None
    except (OSError, AttributeError, TypeError):
        return False


@contextmanager
def free_at_once(active: bool) -> Iterator[None]:
    """Gives every block of 1 MB and more back to the system as soon as it is freed.

    By default the C library keeps freed blocks below 32 MB in a heap, which ends up in pieces: fast, but the process
    holds much more than its tensors. It has one setting for the whole process, which is put to what it grows to by
    itself afterwards.
    """
    if not active:
        yield
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_THRESHOLD, LARGE)
    try:
        yield
    finally:
        mallopt(_THRESHOLD, _USUAL_THRESHOLD)


def return_free_pages() -> bool:
    """Gives what is free inside the C library's heap back to the system; False where that cannot be asked for.

    Blocks that fill a gap of the heap stay there when they are freed, and a process that held more has many gaps.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):
        return False
    return True


class PeakGauge:
    """Measures how much memory is taken at the peak beyond what is held when it starts.

    On CUDA devices the allocator counts. On Linux the kernel does: the high-water mark of this process's resident
    memory starts anew, after freed memory has gone back to the system, so that a process that held more before is
    measured alike. That takes 6 to 18% of a call, since the memory has to be had again. Elsewhere nothing is known.

    Args:
        model: the model at work.
        worth_it: whether to measure where that takes time.
    """

    def __init__(self, model: ScopedModel, worth_it: bool = True) -> None:
        self._devices = {parameter.device for parameter in model.module.parameters()}
        self._on_cuda = all(device.type == "cuda" for device in self._devices)
        self._before: int | None = None
        if self._on_cuda:
            for device in self._devices:
                torch.cuda.reset_peak_memory_stats(device)
            self._before = sum(map(torch.cuda.memory_allocated, self._devices))
        elif worth_it and all(device.type == "cpu" for device in self._devices):
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
    # What was freed before goes back first: the process would fill it again without its resident size growing.
    if not return_free_pages():
        return None
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return None
    return _resident("VmRSS")


def _resident(name: str) -> int | None:
    """Bytes resident now (VmRSS) or at the peak (VmHWM), as Linux counts them."""
    try:
        match = re.search(rf"^{name}:\s+(\d+) kB$", _STATUS.read_text(), flags=re.MULTILINE)
    except OSError:
        return None
    return int(match[1]) * 1024 if match else None


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
