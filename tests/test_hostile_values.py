"""A share of the attacks of `make attack`: each ends with an answer or an error of the project's own."""

import re
import subprocess
import sys
from pathlib import Path

SHARE = 0.01
ATTACKS = Path(__file__).parent / "attacks" / "hostile_values.py"


def test_commands_and_functions_hold_hostile_values() -> None:
    # In a process of its own: the tests' run-time type checker would answer before the functions do.
    done = subprocess.run([sys.executable, ATTACKS, str(SHARE)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    counts = re.search(r"(\d+) attacks: \d+ answer, \d+ refused", done.stdout)
    assert counts and int(counts[1]) > 200
