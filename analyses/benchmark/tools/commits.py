"""Times and memory of the scopes at one commit against those at another.

    python analyses/benchmark/tools/commits.py BEFORE [AFTER] --tokens 256 --rounds 3

Each commit is checked out beside the other in a folder of its own. Every case runs in a new process per round, the two
commits by turns, on one thread: processor time, and the peak of resident memory above what the loaded model holds. The
ratios are of medians. Linux only.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).resolve().parents[3]
CASES = {
    "Semantic": "ls.attribute(model, ids, ls.Semantic())",
    "Fisher, every layer": "ls.attribute(model, ids, ls.Fisher(), layers=True)",
    "Fisher rank 8": "ls.attribute(model, ids, ls.Fisher(8))",
    "heads": "ls.inspect_heads(model, ids, ls.Semantic(), verify=8)",
}
# Runs under either commit: only names that both have.
PROBE = """
import ctypes, gc, json, re, sys, time
from pathlib import Path
import torch
import lens_scopes as ls

torch.set_num_threads(1)
tokens, call = int(sys.argv[1]), sys.argv[2]
model = ls.load_model("gemma-3-270m")
ids = [2, *range(100, 130)]
eval(call)  # sets up what is set up once
ids = [2, *torch.randint(100, 200_000, (tokens - 1,), generator=torch.Generator().manual_seed(0)).tolist()]
resident = lambda field: int(re.search(field + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
gc.collect()
ctypes.CDLL("libc.so.6").malloc_trim(0)
Path("/proc/self/clear_refs").write_text("5")
before, start = resident("VmRSS"), time.process_time()
eval(call)
print(json.dumps({"seconds": time.process_time() - start, "bytes": resident("VmHWM") - before}))
"""


def probe(folder: Path, tokens: int, call: str) -> dict[str, float]:
    """One case in a new process of one commit."""
    environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROBE, str(tokens), call]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def ratio(found: Sequence[Sequence[dict[str, float]]], name: str) -> str:
    """The median of the second commit beside that of the first."""
    before, after = (statistics.median(item[name] for item in rounds) for rounds in found)
    unit = 1 if name == "seconds" else 1e9
    return f"{before / unit:.2f} → {after / unit:.2f} {'s' if unit == 1 else 'GB'} ({after / before:.3f})"


def main(
    before: Annotated[str, typer.Argument(help="The commit compared with.")],
    after: Annotated[str, typer.Argument(help="The commit compared.")] = "HEAD",
    tokens: Annotated[int, typer.Option(help="Length of the prompt.", min=2)] = 256,
    rounds: Annotated[int, typer.Option(help="Number of timed rounds.", min=1)] = 3,
) -> None:
    """Time one commit against another."""
    with tempfile.TemporaryDirectory() as temporary:
        folders = [Path(temporary) / name for name in ("before", "after")]
        try:
            for folder, commit in zip(folders, (before, after), strict=True):
                git("worktree", "add", "--quiet", "--detach", str(folder), commit)
            for case, call in CASES.items():
                found: list[list[dict[str, float]]] = [[], []]
                for _ in range(rounds):
                    for rows, folder in zip(found, folders, strict=True):
                        rows.append(probe(folder, tokens, call))
                times, peaks = ratio(found, "seconds"), ratio(found, "bytes")
                typer.echo(f"{case}, {tokens} tokens, n = {rounds}: {times}, peak {peaks}")
        finally:
            for folder in folders:
                git("worktree", "remove", "--force", str(folder), check=False)


def git(*arguments: str, check: bool = True) -> None:
    """A git command in this repository."""
    subprocess.run(["git", *arguments], cwd=ROOT, check=check, capture_output=not check)


if __name__ == "__main__":
    typer.run(main)
