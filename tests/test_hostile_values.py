"""A share of the attacks of `make attack`: each ends with an answer or an error of the project's own."""

from pathlib import Path

from hostile import Target, attacks

SHARE = 0.01


def test_commands_and_functions_hold_hostile_values(tmp_path: Path) -> None:
    outcomes = list(attacks(Target(tmp_path), SHARE))
    assert len(outcomes) > 50
    assert [outcome for outcome in outcomes if not outcome.held] == []
