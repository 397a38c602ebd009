"""Number formats: the table of cases that the page's scripts are tested with, and that both sides pass it."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from lens_scopes.views.words.numbers import number, percent, short_number

SCRIPTS = Path(__file__).parents[1] / "scripts"
CASES = json.loads((SCRIPTS / "number_cases.json").read_text(encoding="utf-8"))
FORMATS = {"number": number, "short": short_number, "percent": percent}


@pytest.mark.parametrize("name", FORMATS)
def test_formats_agree_with_the_shared_table(name: str) -> None:
    assert [FORMATS[name](float(value)) for value, _ in CASES[name]] == [text for _, text in CASES[name]]


def test_the_table_holds_a_tie_and_each_way_to_write_a_number() -> None:
    table = dict(map(tuple, CASES["number"]))
    assert table[12345] == "1.234e+04" and table[1234] == "1234" and table[14.2] == "14.20"
    assert dict(map(tuple, CASES["short"]))[12345] == "1.2e4"


@pytest.mark.skipif(shutil.which("node") is None, reason="no node on this machine")
def test_the_scripts_pass_their_own_tests() -> None:
    files = sorted(map(str, SCRIPTS.glob("*.test.js")))
    done = subprocess.run(["node", "--test", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
