"""Each architecture gives the scopes of Transformers' autograd on each backend, or is refused in a sentence; and the
README's table says which."""

import architectures
import pytest


@pytest.mark.parametrize("name", architectures.CONFIGS)
def test_an_architecture_is_right_or_refused_and_its_row_is_true(name: str) -> None:
    written = architectures.written()
    for backend, support in architectures.examine(name).items():
        assert support.refused is None or "\n" not in support.refused and len(support.refused) > 30, backend
        assert support.cells == written[name, backend], "python tests/architectures.py writes the table anew"


def test_the_table_has_no_other_rows() -> None:
    named = {name for name, _ in architectures.written()}
    assert named == set(architectures.CONFIGS) and len(named) >= 12
