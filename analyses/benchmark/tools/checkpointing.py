"""Slices of layers (`engine/memory.py`, `engine/backward.py`) against `torch.utils.checkpoint` around every block.

    python analyses/benchmark/tools/checkpointing.py --tokens 1024 --ranks 1 8
    python analyses/benchmark/tools/checkpointing.py --tokens 256 --ranks 8 --slices 250MB --rounds 3

Fisher Scope at the embedding, of tokens drawn at random (seed 0), in one new process per way, rank and round, the ways
by turns: seconds, also of processor time, and the peak of resident memory above what the loaded model holds. The last
block stays outside checkpoints, since its MLP runs at the position that is read alone. Linux only.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the folder that holds the benchmark

from benchmark.measurements import peak_memory

import lens_scopes as ls
from lens_scopes.engine.attention import fused_attention

WHOLE, CHECKPOINTS = "the whole graph", "a checkpoint per block"


def wrap_blocks(model: Any) -> None:
    """Every block but the last keeps its input alone, and runs again on the way back."""
    for block in model.blocks[:-1]:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)


def measure(way: str, memory: str, rank: int, tokens: int) -> None:
    """Times one scope once, after a short one that sets up what is set up once."""
    model = ls.load_model("gemma-3-270m")
    ls.attribute(model, [2, *range(100, 130)], ls.Fisher(rank))
    if way == CHECKPOINTS:
        wrap_blocks(model)
    generator = torch.Generator().manual_seed(0)
    prompt = [2, *torch.randint(100, 200_000, (tokens - 1,), generator=generator).tolist()]
    results: list[Any] = []

    def run() -> None:
        start, start_used = time.perf_counter(), time.process_time()
        # Blocks that run again on the way back need the same attention there as on the way forward.
        with fused_attention([block.attn for block in model.blocks] if way == CHECKPOINTS else []):
            att = ls.attribute(model, prompt, ls.Fisher(rank), memory=memory)
        results.extend((att, time.perf_counter() - start, time.process_time() - start_used))

    peak = peak_memory(run)
    assert peak is not None, "the system does not count memory"
    att, seconds, used = results
    layers = att.memory.layers_at_once if att.memory is not None else 0
    print(
        f"{tokens} tokens, Fisher rank {rank}, {torch.get_num_threads()} threads, {way}"
        f"{f' ({layers} layers at a time)' if way.startswith('slices') else ''}: {seconds:.1f} s, "
        f"{used:.1f} s of processor time, "
        f"peak {peak / 1e9:.2f} GB, scores sum to {float(att.scores.double().sum()):.10g}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=1024)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--slices", nargs="+", default=["1.5GB", "1GB"], help="memory allowed to slices")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    ways = {WHOLE: "1TB", **{f"slices in {memory}": memory for memory in options.slices}, CHECKPOINTS: "1TB"}
    for rank, _, (way, memory) in product(options.ranks, range(options.rounds), ways.items()):
        arguments = (way, memory, rank, options.tokens)
        process = multiprocessing.get_context("spawn").Process(target=measure, args=arguments)
        process.start()
        process.join()


if __name__ == "__main__":
    main()
