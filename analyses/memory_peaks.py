"""How much memory one scope takes beside the model's weights, measured against the estimate that plans it.

    python analyses/memory_peaks.py 512 2048 --memory 1.1GB

For each length, of tokens drawn at random (seed 0): one scope with the limit given, as planned and with the peak that
the result records. `--before` holds and frees that much first. Linux or CUDA only.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch

import lens_scopes as ls
from lens_scopes.engine.memory import in_units, parse_memory
from lens_scopes.engine.model import MatmulDtype
from lens_scopes.views.words.pages.parts.memory import memory_words

SCOPES = {"semantic": ls.Semantic, "temperature": ls.Temperature, "fisher": ls.Fisher}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lengths", type=int, nargs="+")
    parser.add_argument("--memory", default="100GB", help="a limit; the default leaves room for everything")
    parser.add_argument(
        "--before",
        default=None,
        help="held in pieces of 1 to 16 MB, and freed but for 64 KB after each, before the first length",
    )
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--products", default=None, choices=["bfloat16"])
    parser.add_argument("--scope", default="semantic", choices=SCOPES)
    parser.add_argument("--layers", action="store_true")
    parser.add_argument("--through", default=None)
    options = parser.parse_args()
    model = ls.load_model("gemma-3-270m", dtype=options.dtype)
    products: MatmulDtype = options.products
    choices: Any = {"layers": options.layers, "matmul_dtype": products, "through": options.through}
    ls.attribute(model, [2, *range(100, 130)], SCOPES[options.scope](), **choices)  # sets up what is set up once
    if options.before:
        sizes = [2**20 * (1 + 5 * index % 16) for index in range((parse_memory(options.before) or 0) // (17 * 2**19))]
        pieces = [(torch.ones(size // 4), torch.ones(2**14)) for size in sizes]
        pieces = [small for _, small in pieces]  # between them the heap has gaps now
    generator = torch.Generator().manual_seed(0)
    for length in options.lengths:
        prompt = [2, *torch.randint(100, 200_000, (length - 1,), generator=generator).tolist()]
        start, clock = time.process_time(), time.perf_counter()
        plan = ls.attribute(model, prompt, SCOPES[options.scope](), memory=options.memory, **choices).memory
        seconds, wall = time.process_time() - start, time.perf_counter() - clock
        assert plan is not None and plan.peak is not None, "the system does not count memory"
        print(
            f"{length} tokens, {options.scope}, {options.dtype}: {memory_words(plan)}; "
            f"estimate {in_units(plan.estimate)}, peak {in_units(plan.peak)} ({plan.peak / plan.estimate:.2f}), "
            f"{seconds:.1f} s of processor time, {wall:.1f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
