"""What one waits for before the first score: imports, `--help` and loading, each in a process of its own."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path

from benchmark.measurements import Measurement, Progress
from benchmark.results import Section
from benchmark.targets import Target

HELP = "lens-scopes --help"
LIBRARIES = "import torch, transformer_lens"
OURS = "import lens_scopes on top of them, ready to attribute"
LOAD = "load the embedded model from the cache"

_CLOCKED = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"
_PROGRAMS = {
    LIBRARIES: _CLOCKED.format("import torch, transformer_lens"),
    OURS: "import torch, transformer_lens; " + _CLOCKED.format("import lens_scopes; lens_scopes.attribute"),
    LOAD: "import torch, transformer_lens, lens_scopes; " + _CLOCKED.format("lens_scopes.load_model()"),
}


def startup_section(turns: int, *, load: bool = True, progress: Progress | None = None) -> Section:
    """Seconds until ready; `load` needs the weights of the embedded model in the cache."""
    names = [HELP, LIBRARIES, OURS, *([LOAD] if load else [])]
    found = []
    for done, name in enumerate(names):
        times = [_seconds(name) for _ in range(turns + 1)][1:]  # the first one reads the disk
        found.append(Measurement(name, statistics.median(times), times))
        if progress is not None:
            progress(done + 1, len(names))
    targets = [Target(HELP, "seconds", 0.4), Target(OURS, "seconds", 0.15), Target(LOAD, "seconds", 8.0)]
    return Section("startup", "Until ready", LIBRARIES, found, targets)


def _seconds(name: str) -> float:
    import time

    command = [sys.executable, "-m", "lens_scopes", "--help"]
    if name in _PROGRAMS:
        command = [sys.executable, "-c", _PROGRAMS[name]]
    start = time.perf_counter()
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    elapsed = time.perf_counter() - start
    return float(ran.stdout.split()[-1]) if name in _PROGRAMS else elapsed
