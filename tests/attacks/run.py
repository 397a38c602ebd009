"""Attacks lens_scopes from every side and prints the counts: `make attack`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from datetime import datetime, timezone
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", TRANSFORMERS_VERBOSITY="error")
os.environ.setdefault("MPLBACKEND", "agg")
sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]
warnings.simplefilter("ignore")

import commands  # noqa: E402
import files  # noqa: E402
import folders  # noqa: E402
import functions  # noqa: E402
import pages  # noqa: E402
import served_pages  # noqa: E402
import server  # noqa: E402
import state  # noqa: E402
import torch  # noqa: E402
from outcome import ENDS, REFUSED, RIGHT, Target  # noqa: E402

# Folders first: they fork, and a process that has had threads hangs after that.
AREAS = {
    "evaluation folders": folders,
    "result files": files,
    "pages": pages,
    "commands": commands,
    "functions": functions,
    "threads and global state": state,
    "server": server,
    "the served page": served_pages,
}


def main() -> int:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--share", type=float, default=0.1, help="of the attacks that there are (default: %(default)s)")
    asked.add_argument("--only", choices=AREAS, action="append", help="this area; may be repeated")
    asked.add_argument("--record", type=Path, help="write the counts to this file")
    asked = asked.parse_args()
    torch.set_num_threads(1)
    began, counts = time.process_time(), dict[str, Counter[str]]()
    for area in asked.only or AREAS:
        counts[area] = _attack(area, asked.share)
        print(_line(area, counts[area]), flush=True)
    total = sum(counts.values(), Counter())
    seconds = time.process_time() - began
    print(_line("all", total), f"in {seconds:.0f} s of a processor")
    if asked.record is not None:
        record = {
            "made": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "share": asked.share,
            "processor seconds": round(seconds),
            "torch": torch.__version__,
            "areas": {area: _plain(ends) for area, ends in counts.items()},
            "all": _plain(total),
        }
        asked.record.write_text(json.dumps(record, indent=1) + "\n")
    return int(any(count and end not in (RIGHT, REFUSED) for end, count in total.items()))


def _attack(area: str, share: float) -> Counter[str]:
    ends = Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        for outcome in AREAS[area].attacks(Target(Path(folder)), share):
            ends[outcome.end] += 1
            if outcome.end not in (RIGHT, REFUSED):
                print(f"{outcome.case}: {outcome.end}: {outcome.said}", flush=True)
    return ends


def _plain(ends: Counter[str]) -> dict[str, int]:
    return {"attacks": ends.total(), **{end: ends[end] for end in ENDS}}


def _line(area: str, ends: Counter[str]) -> str:
    return f"{area}: {ends.total()} attacks, " + ", ".join(f"{ends[end]} {end}" for end in ENDS)


if __name__ == "__main__":
    sys.exit(main())
