"""The run-time type checker of the tests: beartype, but for values that the public functions check themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, get_args

from beartype import beartype

_Function = TypeVar("_Function", bound=Callable[..., Any])


def check_types(function: _Function) -> _Function:
    """beartype without the annotations that are marked as validated; their errors are tested instead."""
    annotations = function.__annotations__
    for parameter in [name for name, annotation in annotations.items() if _is_validated(annotation)]:
        del annotations[parameter]
    return beartype(function)


def _is_validated(annotation: Any) -> bool:
    from lens_scopes.errors import VALIDATED  # here: this module is loaded while the first of the package's is

    return VALIDATED in getattr(annotation, "__metadata__", ()) or any(map(_is_validated, get_args(annotation)))
