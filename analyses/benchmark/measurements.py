"""Time and peak memory of several cases in interleaved rounds.

Every round runs each case once, so a machine that slows down slows all cases down. The median over the rounds is the
time of a case, and only times of one set of rounds are compared.
"""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from lens_scopes.engine.backward import Progress

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")

Kind = Literal["body", "own", "competitor"]


@dataclass(frozen=True)
class Case:
    """Something to measure.

    Attributes:
        name: its name in the results.
        run: runs it once; None if it cannot run here.
        kind: "body" for passes without scores, "own" for lens_scopes, "competitor" for everything else.
        note: what a reader has to know to compare it, or why it cannot run.
        items: number of prompts or predictions that one run handles.
    """

    name: str
    run: Callable[[], Any] | None
    kind: Kind = "own"
    note: str = ""
    items: int = 1


@dataclass(frozen=True)
class Measurement:
    """The measured times and memory of one case.

    Attributes:
        times: seconds of every round; empty if the case could not run.
        peak_bytes: largest memory during a run beyond the memory before it; None if not measured.
    """

    name: str
    times: list[float]
    peak_bytes: int | None = None
    kind: Kind = "own"
    note: str = ""
    items: int = 1

    @property
    def seconds(self) -> float | None:
        """The median over the rounds; None if the case could not run."""
        return statistics.median(self.times) if self.times else None


def clock_name(device: str = "cpu") -> str:
    """The clock that `measure` reads: processor time where one thread does the work, else wall time.

    Other programs on the machine add to wall time, and hardly to processor time.
    """
    return "processor" if device == "cpu" and torch.get_num_threads() == 1 else "wall"


def measure(
    cases: Sequence[Case], *, rounds: int, device: str = "cpu", progress: Progress | None = None
) -> list[Measurement]:
    """Runs all cases once for their memory, which also warms them up, then in `rounds` timed rounds.

    Args:
        rounds: number of times that each case is timed.
        device: where the cases run; on "cuda" the clock waits for the device, and memory is the device's.
        progress: called with (runs done, all runs).
    """
    possible = [case for case in cases if case.run is not None]
    total, done = len(possible) * (rounds + 1), 0
    times: dict[str, list[float]] = {case.name: [] for case in possible}
    peaks: dict[str, int | None] = {}
    gc.collect()
    gc.freeze()  # collections between runs then skip the objects that existed before
    try:
        for round_index in range(rounds + 1):
            for case in possible:
                assert case.run is not None
                if round_index == 0:
                    peaks[case.name] = peak_memory(case.run, device)
                else:
                    times[case.name].append(_timed(case.run, device))
                done += 1
                if progress is not None:
                    progress(done, total)
    finally:
        gc.unfreeze()
    return [
        Measurement(case.name, times.get(case.name, []), peaks.get(case.name), case.kind, case.note, case.items)
        for case in cases
    ]


def _timed(run: Callable[[], Any], device: str) -> float:
    clock = time.process_time if clock_name(device) == "processor" else time.perf_counter
    _settle(device)
    start = clock()
    run()
    _wait(device)
    return clock() - start


def _settle(device: str) -> None:
    """Frees what the case before left behind, so that this case does not pay for it."""
    gc.collect()
    _wait(device)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def peak_memory(run: Callable[[], Any], device: str = "cpu") -> int | None:
    """Bytes that a run holds at its peak beyond those held before.

    On a GPU the allocator counts. On Linux the kernel does: the high-water mark of this process's resident memory is
    reset before the run, after freed memory has been given back to the system. Elsewhere it is None.
    """
    _settle(device)
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    before = _start_of_high_water()
    run()
    return None if before is None else max(0, _resident("VmHWM") - before)


def _start_of_high_water() -> int | None:
    """Resident bytes now, where the high-water mark restarts; None if the system does not count it."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        _CLEAR_REFS.write_text("5")
        return _resident("VmRSS")
    except (OSError, AttributeError, TypeError):
        return None


def _resident(name: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{_STATUS} has no {name}")
