"""How much memory one scope takes beside the model's weights, measured against the estimate that plans it.

    python analyses/memory_peaks.py 512 2048 --memory 1.1GB

For each length, of tokens drawn at random (seed 0): the whole graph's estimate, then one Semantic Scope with the limit
given (none: a share of what is free), with the peak resident memory above what the loaded model holds. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import re
import time
from pathlib import Path

import torch

import lens_scopes as ls
from lens_scopes.engine.memory import Budget, in_units, parse_memory
from lens_scopes.views.words.memory import memory_words


def resident(field: str) -> int:
    """Bytes resident now (VmRSS) or at the peak (VmHWM)."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def settle() -> int:
    """Gives back what is free, forgets the peak, and returns what is resident."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lengths", type=int, nargs="+")
    parser.add_argument("--memory", default=None)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    model = ls.load_model("gemma-3-270m", dtype=options.dtype)
    generator = torch.Generator().manual_seed(0)
    ls.attribute(model, [2, *range(100, 130)])  # so that what is set up once is not counted
    for length in options.lengths:
        prompt = [2, *torch.randint(100, 200_000, (length - 1,), generator=generator).tolist()]
        budget = Budget(model, parse_memory(options.memory))
        before, start = settle(), time.perf_counter()
        attribution = ls.attribute(model, prompt, ls.Semantic(), memory=options.memory)
        seconds, peak = time.perf_counter() - start, resident("VmHWM") - before
        print(
            f"{length} tokens, {options.dtype}, {torch.get_num_threads()} threads: {memory_words(attribution.memory)}; "
            f"estimate {in_units(budget.plan(length).estimate)} (whole graph {in_units(budget.whole(length))}), "
            f"measured peak {in_units(peak)}, {seconds:.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
