"""A share of the attacks of `make attack`: each ends with a right answer or an error of the project's own."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ATTACKS = Path(__file__).parent / "run.py"
SHARE = "0.004"


def test_attacks_end_with_an_answer_or_a_refusal(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    # In a process of its own: the tests' run-time type checker would answer before the functions do.
    words = [sys.executable, str(ATTACKS), "--share", SHARE, "--record", str(tmp_path / "attacks.json")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    record = json.loads((tmp_path / "attacks.json").read_text())
    assert record["all"]["attacks"] == record["all"]["right answers"] + record["all"]["own errors"] > 800
    assert all(counts["right answers"] for counts in record["areas"].values())
    record_property("attacks", done.stdout)  # printed at the end, see conftest.py


def test_the_readme_has_the_counts_of_the_long_run() -> None:
    root = ATTACKS.parents[2]
    counts = json.loads((root / "analyses" / "results" / "attacks.json").read_text())["all"]
    readme = " ".join((root / "README.md").read_text(encoding="utf-8").split())
    for end in ("attacks", "right answers", "own errors"):
        assert f"{counts[end]:,}" in readme
    assert counts["attacks"] == counts["right answers"] + counts["own errors"]
