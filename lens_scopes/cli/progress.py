"""Progress on standard error, and only where that is a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lens_scopes.engine.backward import Progress


@contextmanager
def spinner(what: str) -> Iterator[None]:
    """A spinner with a few words for as long as the block runs."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(what):
        yield


@contextmanager
def progress_bar(what: str) -> Iterator[Progress]:
    """A bar; the block calls what it is given with (done, in all)."""
    from rich.console import Console
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    # The time left is told from the last hour, since a step of an evaluation may take a minute.
    with Bar(console=console, transient=True, disable=not console.is_terminal, speed_estimate_period=3600) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
