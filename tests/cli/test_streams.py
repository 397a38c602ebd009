"""Standard streams that are closed or full, and prompts far too long: one sentence, and nothing else."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import PROMPT, Run

PROGRAM = """
import sys
sys.path[:0] = {paths!r}
from unittest import mock
from served import served_model
from lens_scopes.cli import main
with mock.patch("lens_scopes.models.load.load_model", lambda *_, **__: served_model()):
    main(sys.argv[1:])
"""


def shell(words: str, redirect: str) -> subprocess.CompletedProcess[str]:
    paths = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]
    program = PROGRAM.format(paths=paths)
    command = f'"$0" -W ignore -c "$1" {words} {redirect}'
    return subprocess.run(["sh", "-c", command, sys.executable, program], capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("words", "redirect", "status", "says"),
    [
        ("attribute -", "<&-", 2, "standard input is closed"),
        (f"attribute '{PROMPT}'", ">&-", 0, ""),
        (f"attribute '{PROMPT}' --json", "> /dev/full", 2, "cannot write to standard output: No space left on device."),
    ],
)
def test_streams_that_are_closed_or_full(words: str, redirect: str, status: int, says: str) -> None:
    done = shell(words, redirect)
    lines = [line for line in done.stderr.splitlines() if line.startswith("lens-scopes: ")]
    assert (done.returncode, "Traceback" in done.stderr) == (status, False), done.stderr
    assert says in done.stderr and len(lines) == (1 if says else 0)


def test_a_prompt_far_beyond_the_window_is_refused_at_once(run: Callable[..., Run], folder: Path) -> None:
    (folder / "long.txt").write_text("The dog sleeps on the sofa. " * 1_000_000)
    began = time.monotonic()
    done = run("attribute", "--file", "long.txt")
    assert done.status == 2 and "context window holds 32" in done.err and time.monotonic() - began < 10
