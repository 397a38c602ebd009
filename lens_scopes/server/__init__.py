"""The local web page and the HTTP API under it: `lens-scopes serve`.

    create_app(models)   the application, for a server or a test client
    run(...)             serves it on 127.0.0.1 until it is told to stop
    run_space()          the whole of an `app.py` for a hosting platform

A request goes one way: guard → schema → the one queue for model work → result → JSON, page or file.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lens_scopes.server.app import create_app
    from lens_scopes.server.run import run, run_space

_HOMES = {"create_app": "app", "run": "run", "run_space": "run"}

__all__ = ["create_app", "run", "run_space"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
