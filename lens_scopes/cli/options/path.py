"""Through what influence may flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lens_scopes.scopes.paths import Path

PANEL = "Where influence is read, and through what"


@dataclass(frozen=True)
class PathOptions:
    """The components that carry gradient, and what is frozen."""

    through: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help='Components that carry gradient, the rest held fixed: "5-9" (layers), "L3H2,L5H0" (heads), '
            '"attention & 5-9", "mlp", "skip". By default all.',
            rich_help_panel=PANEL,
            show_default=False,
        ),
    ] = None
    freeze: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PART",
            help="Hold attention patterns, norms or gates constant; may be repeated.",
            rich_help_panel=PANEL,
        ),
    ] = None

    def path(self) -> Path | None:
        """What carries gradient; None for everything.

        Raises:
            PathError: for a path or a part that is none.
        """
        from lens_scopes.scopes.paths import read_path

        return read_path(self.through, self.freeze)
