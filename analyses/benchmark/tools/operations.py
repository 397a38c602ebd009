"""Where the time of one scope goes: the share of each of PyTorch's operations.

python analyses/benchmark/tools/operations.py                                 Temperature Scope, every layer, 512 tokens
python analyses/benchmark/tools/operations.py --tokens 2048 --products bfloat16

Processor time of the operations themselves, on one thread, of one call after another that sets up what is set up once.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the folder that holds this package

from benchmark.passages import natural_text

import lens_scopes as ls

KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm"),
    "copies and roundings": ("copy_", "_to_copy", "clone", "contiguous", "cat"),
}
"""Operations by name; everything else is "the rest"."""
SHOWN = 12


def shares(call: Any) -> tuple[dict[str, float], dict[str, float]]:
    """The shares of kinds of operations and of single ones in the processor time of a call, the largest first."""
    call()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call()
    times = {event.key.removeprefix("aten::"): event.self_cpu_time_total for event in profile.key_averages()}
    total = sum(times.values())
    single = {name: time / total for name, time in sorted(times.items(), key=lambda item: -item[1])}
    kinds: dict[str, float] = defaultdict(float)
    for name, share in single.items():
        kinds[next((kind for kind, names in KINDS.items() if name in names), "the rest")] += share
    return dict(kinds), single


def main(
    tokens: Annotated[int, typer.Option(help="Length of the prompt.")] = 512,
    products: Annotated[str | None, typer.Option(help="bfloat16 to round the factors of products.")] = None,
) -> None:
    """Print the shares."""
    torch.set_num_threads(1)
    model: Any = ls.load_model()
    ids = model.to_tokens(natural_text())[0, :tokens].tolist()
    choices: Any = {"layers": True, "matmul_dtype": products}
    kinds, single = shares(lambda: ls.attribute(model, ids, ls.Temperature(), **choices))
    for name, share in [*kinds.items(), *list(single.items())[:SHOWN]]:
        typer.echo(f"{share:6.1%}  {name}")


if __name__ == "__main__":
    typer.run(main)
