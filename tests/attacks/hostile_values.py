"""Drives every command and public function with every hostile value, and prints the counts: `make attack`."""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]
warnings.simplefilter("ignore")

import torch  # noqa: E402
from hostile import Target, attacks, environment  # noqa: E402


def main() -> int:
    environment()
    torch.set_num_threads(1)
    ends, fallen = Counter[str](), 0
    share = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    with tempfile.TemporaryDirectory() as folder:
        for outcome in attacks(Target(Path(folder)), share):
            ends[outcome.end if outcome.held else "fell"] += 1
            if not outcome.held:
                fallen += 1
                print(f"{outcome.case}: {outcome.end}", flush=True)
    print(f"{sum(ends.values())} attacks: " + ", ".join(f"{count} {end}" for end, count in sorted(ends.items())))
    return min(fallen, 1)


if __name__ == "__main__":
    sys.exit(main())
