"""Times and peak memory of a set of cases.

Cases take turns, so that a machine that slows down for a while slows all of them down; a median over the turns then
compares like with like. Peak memory is taken in a turn of its own, without a clock.
"""

from __future__ import annotations

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lens_scopes.engine.backward import Progress

_CLEAR_REFS = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Case:
    """Something to measure.

    Attributes:
        name: how the results name it.
        run: does it once; None where it cannot be run here.
        note: what a reader should know, such as why it cannot be run.
        items: how many prompts or predictions one run handles.
    """

    name: str
    run: Callable[[], Any] | None
    note: str = ""
    items: int = 1


@dataclass(frozen=True)
class Measurement:
    """What was measured of a case.

    Attributes:
        seconds: the median over `times`; None where the case could not be run.
        times: seconds of each turn.
        peak_bytes: the most memory held during a run beyond what was held before it; None where not measured.
    """

    name: str
    seconds: float | None
    times: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    note: str = ""
    items: int = 1


def measure(
    cases: Sequence[Case],
    *,
    turns: int,
    patience: float = 20.0,
    memory: bool = True,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[Measurement]:
    """Runs every case once to warm up and once for its memory, then all of them in turns.

    Args:
        turns: how often each case is timed.
        patience: seconds after which a case is slow: it gets as many turns as fit; where not even one does, the run
            that measured its memory is the one that was timed.
        memory: whether to measure peak memory.
        device: where the cases run; on "cuda" the clock waits for the device, and memory is the device's.
        progress: called with (runs done, runs in all).
    """
    gc.collect()
    gc.freeze()  # collecting between runs then looks at what the runs left behind alone
    try:
        return _measure(cases, turns, patience, memory, device, progress)
    finally:
        gc.unfreeze()


def _measure(
    cases: Sequence[Case], turns: int, patience: float, memory: bool, device: str, progress: Progress | None
) -> list[Measurement]:
    possible = [case for case in cases if case.run is not None]
    steps = _Steps(progress, len(possible) * (turns + 2))
    times: dict[str, list[float]] = {case.name: [] for case in possible}
    peaks: dict[str, int | None] = {}
    allowed: dict[str, int] = {}
    for case in possible:
        allowed[case.name] = min(turns, int(patience / _timed(case, device)))
        steps.done()
        if memory or not allowed[case.name]:
            peak, seconds = _peak_and_seconds(case, device)
            peaks[case.name] = peak if memory else None
            if not allowed[case.name]:
                times[case.name].append(seconds)
        steps.done()
    for turn in range(turns):
        for case in possible:
            if turn < allowed[case.name]:
                times[case.name].append(_timed(case, device))
            steps.done()
    return [
        Measurement(
            name=case.name,
            seconds=statistics.median(times[case.name]) if case.name in times else None,
            times=times.get(case.name, []),
            peak_bytes=peaks.get(case.name),
            note=case.note,
            items=case.items,
        )
        for case in cases
    ]


class _Steps:
    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def done(self) -> None:
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, self._total)


def _timed(case: Case, device: str) -> float:
    assert case.run is not None
    _settle(device)
    start = time.perf_counter()
    case.run()
    _wait(device)
    return time.perf_counter() - start


def _settle(device: str) -> None:
    """What the case before left behind is not cleaned up at this one's expense."""
    gc.collect()
    _wait(device)


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def _peak_and_seconds(case: Case, device: str) -> tuple[int | None, float]:
    found: list[float] = []
    peak = peak_memory(lambda: found.append(_timed(case, device)), device)
    return peak, found[0]


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
    """Resident bytes now, from which the high-water mark starts anew; None where the system does not count that way."""
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
