"""Every public name is documented: an example that runs, and all arguments of functions by name."""

import inspect
import re

import pytest

import lens_scopes as ls

PUBLIC = [name for name in ls.__all__ if name != "__version__"]
FUNCTIONS = [name for name in PUBLIC if inspect.isfunction(getattr(ls, name)) and name[0].islower()]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_docstring_has_an_example(name: str) -> None:
    assert ">>> " in (inspect.getdoc(getattr(ls, name)) or ""), f"{name} has no example"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_public_function_names_all_its_arguments(name: str) -> None:
    function = getattr(ls, name)
    documented = re.findall(r"^    ([\w, ]+): ", inspect.getdoc(function) or "", re.MULTILINE)
    names = {part.strip() for line in documented for part in line.split(",")}
    missing = set(inspect.signature(function).parameters) - names
    assert not missing, f"the docstring of {name} leaves out {sorted(missing)}"
