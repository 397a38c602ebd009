"""Each architecture gives the scopes of Transformers' autograd on each backend, or is refused in a sentence; and the
table of docs/pages/models.md says which."""

from typing import Any

import architectures
import pytest

import lens_scopes as ls
from lens_scopes.engine.sites import _IN_BLOCK
from lens_scopes.errors import PathError, SiteError


def supports(cells: tuple[str, ...], written: tuple[str, ...]) -> bool:
    """Whether the table says what was found; a later transformer-lens than the table's may support more."""
    if architectures.BACKENDS == ("bridge",):
        return all(missing(found) <= missing(cell) for found, cell in zip(cells, written, strict=True))
    return cells == written


def missing(cell: str) -> set[str]:
    """What a cell of the table says is not supported."""
    if cell.startswith("all but "):
        return set(cell.removeprefix("all but ").split(", "))
    return set() if cell in ("all", "✓") else {
        *_IN_BLOCK, *architectures.PATHS, *architectures.RULES, "Temperature", "everything"
    }  # fmt: skip


@pytest.mark.parametrize("name", architectures.CONFIGS)
def test_an_architecture_is_right_or_refused_and_its_row_is_true(name: str) -> None:
    written = architectures.written()
    for backend, support in architectures.examine(name).items():
        assert support.refused is None or "\n" not in support.refused and len(support.refused) > 30, backend
        assert supports(support.cells, written[name, backend]), "python tests/architectures.py writes the table anew"


def test_the_table_has_no_other_rows() -> None:
    named = {name for name, _ in architectures.written()}
    assert named == set(architectures.CONFIGS) and len(named) >= 12


@pytest.mark.parametrize(
    ("name", "choice", "refusal"),
    [
        ("GPT-J", {"through": ls.Frozen("patterns")}, (PathError, "computes on without it")),
        pytest.param(
            "Granite",
            {"sites": "hook_attn_out"},
            (SiteError, "computes on without it"),
            marks=pytest.mark.skipif(
                architectures.BACKENDS == ("bridge",), reason="transformer-lens 4 goes on with it"
            ),
        ),
        ("OPT", {"sites": "hook_resid_mid"}, (SiteError, "with a part of it")),
        ("OLMo", {"through": ls.Frozen("norms")}, (PathError, "fails with a hook at")),
    ],
)
def test_hooks_that_a_bridge_does_not_go_on_with_are_refused(
    name: str, choice: dict[str, Any], refusal: tuple[type[Exception], str]
) -> None:
    """They would be shown as without influence or with a part of it, or held fixed without effect."""
    error, message = refusal
    with architectures.loaded(name) as (_, models), pytest.raises(error, match=message):
        ls.attribute(models["bridge"], architectures.IDS, **choice)
