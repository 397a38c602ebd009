"""Attribution patching on circuits set by hand: the heads that carry the name come first, and the map follows it."""

from typing import Any

import induction_circuit as induction
import ioi_circuit as ioi
import pytest
import torch

import lens_scopes as ls

NAMES = ls.LogitDiff(ioi.MARY, ioi.JOHN)


@pytest.fixture(scope="module")
def finder() -> Any:
    return ioi.ioi_circuit()


@pytest.fixture(scope="module")
def inductor() -> Any:
    return induction.induction_circuit()


def test_the_model_names_the_indirect_object(finder: Any) -> None:
    for prompt, name in ((ioi.PROMPT, ioi.MARY), (ioi.SWAPPED, ioi.JOHN), (ioi.RENAMED, ioi.ANNE)):
        logits = finder(torch.tensor([prompt]))[0, -1]
        assert int(logits.argmax()) == name and float(logits.sort().values.diff()[-1]) > 3


def test_the_three_heads_that_find_the_name_come_first(finder: Any) -> None:
    heads = ls.inspect_heads(finder, ioi.PROMPT, NAMES, baseline=ioi.SWAPPED)
    assert {item.name for item in heads.ablations[:3]} == {"L0H0", "L1H1", "L2H2"}
    assert all(item.predicted < -3 and item.actual < -6 for item in heads.ablations[:3])
    assert all(abs(item.predicted) < 0.01 and abs(item.actual) < 0.01 for item in heads.ablations[3:])


def test_of_another_name_the_mover_alone_has_an_effect(finder: Any) -> None:
    heads = ls.inspect_heads(finder, ioi.PROMPT, NAMES, baseline=ioi.RENAMED)
    first, *others = heads.ablations
    assert first.name == "L2H2" and first.actual < -3
    assert all(abs(item.predicted) < 0.01 and abs(item.actual) < 0.01 for item in others)


@pytest.mark.parametrize("other", [ioi.SWAPPED, ioi.RENAMED])
def test_patches_of_the_last_layers_heads_are_exactly_as_predicted(finder: Any, other: list[int]) -> None:
    """After the last attention the logits are linear; before it a softmax stands between."""
    heads = ls.inspect_heads(finder, ioi.PROMPT, NAMES, baseline=other)
    last = [item for item in heads.ablations if item.layer == 2]
    assert len(last) == 3
    for item in last:
        assert item.actual == pytest.approx(item.predicted, rel=1e-9, abs=1e-12)
    assert heads.spearman is not None and heads.spearman > 0.9


def test_the_map_follows_the_name_from_where_it_is_repeated_to_the_end(finder: Any) -> None:
    att = ls.attribute(finder, ioi.PROMPT, NAMES, layers=True, readout=ls.Dot(ioi.SWAPPED))
    assert att.layers is not None
    assert att.layers.argmax(1).tolist() == [ioi.SECOND_JOHN, ioi.SECOND_JOHN, ioi.END]
    assert not att.layers[:, : ioi.SECOND_JOHN].any(), "before the first difference nothing differs"
    patches = ls.patch_cells(finder, att, 4)
    strongest = [(cell.layer, cell.position) for cell in patches.cells[:3]]
    assert sorted(strongest) == [(0, ioi.SECOND_JOHN), (1, ioi.SECOND_JOHN), (2, ioi.END)]
    assert all(cell.actual < -6 for cell in patches.cells[:3])
    assert abs(patches.cells[3].actual) < 1


def test_the_map_stays_with_a_name_that_is_copied_at_the_end(finder: Any) -> None:
    att = ls.attribute(finder, ioi.PROMPT, NAMES, layers=True, readout=ls.Dot(ioi.RENAMED))
    assert att.layers is not None and att.layers.argmax(1).tolist() == [ioi.FIRST_NAME] * 3
    for cell in ls.patch_cells(finder, att, 3).cells:
        assert cell.position == ioi.FIRST_NAME and cell.actual == pytest.approx(cell.predicted, rel=0.01)


@pytest.mark.parametrize(
    ("changed", "leading", "route"),
    [
        (1, ["L1H1", "L0H0"], [1, 2]),  # the token that is repeated: told to the next position, and looked for there
        (2, ["L1H1"], [2, 2]),  # the token that follows it: copied from where it stands
    ],
)
def test_an_induction_circuit_is_patched_head_by_head(
    inductor: Any, changed: int, leading: list[str], route: list[int]
) -> None:
    other = [6 if index == changed else token for index, token in enumerate(induction.PROMPT)]
    objective = ls.Semantic(induction.ANSWER)
    heads = ls.inspect_heads(inductor, induction.PROMPT, objective, baseline=other)
    assert [item.name for item in heads.ablations[: len(leading)]] == leading
    for item in heads.ablations:
        assert item.actual < -3 if item.name in leading else abs(item.actual) < 0.01
        if item.layer == 1:
            assert item.actual == pytest.approx(item.predicted, rel=1e-9, abs=1e-12)
    att = ls.attribute(inductor, induction.PROMPT, objective, layers=True, readout=ls.Dot(other))
    assert att.layers is not None and att.layers.argmax(1).tolist() == route
    assert {cell.position for cell in ls.patch_cells(inductor, att, 2).cells} == set(route)
