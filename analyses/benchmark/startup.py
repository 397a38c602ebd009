"""Time until the first score can be computed: imports, `--help` and loading, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmark.goals import Goal
from benchmark.measurements import Measurement, Progress
from benchmark.results import Section

HELP = "lens-scopes --help"
LIBRARIES = "import torch, transformer_lens"
IMPORT = "import lens_scopes after them"
LOAD = "load the embedded model from the cache"

_CLOCKED = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"
_PROGRAMS = {
    LIBRARIES: _CLOCKED.format("import torch, transformer_lens"),
    IMPORT: "import torch, transformer_lens; " + _CLOCKED.format("import lens_scopes; lens_scopes.attribute"),
    LOAD: "import torch, transformer_lens, lens_scopes; " + _CLOCKED.format("lens_scopes.load_model()"),
}


def startup_section(rounds: int, *, load: bool = True, progress: Progress | None = None) -> Section:
    """Wall seconds until ready; `load` needs the weights of the embedded model in the cache."""
    names = [HELP, LIBRARIES, IMPORT, *([LOAD] if load else [])]
    times: dict[str, list[float]] = {name: [] for name in names}
    for round_index in range(rounds + 1):
        for index, name in enumerate(names):
            elapsed = _seconds(name)
            if round_index:  # the first round reads the disk
                times[name].append(elapsed)
            if progress is not None:
                progress(round_index * len(names) + index + 1, (rounds + 1) * len(names))
    goals = [Goal(HELP, "seconds", 0.4), Goal(IMPORT, "seconds", 0.15), Goal(LOAD, "seconds", 8.0)]
    measurements = [Measurement(name, values) for name, values in times.items()]
    return Section("startup", "Until ready", [], measurements, goals, settings={"rounds": rounds, "clock": "wall"})


def _seconds(name: str) -> float:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "lens_scopes", "--help"]
    if name in _PROGRAMS:
        command = [sys.executable, "-c", _PROGRAMS[name]]
    start = time.perf_counter()
    process = subprocess.run(
        command, capture_output=True, text=True, check=True, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
    )
    elapsed = time.perf_counter() - start
    return float(process.stdout.split()[-1]) if name in _PROGRAMS else elapsed
