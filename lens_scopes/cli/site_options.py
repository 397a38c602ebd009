"""Where influence is read, through what it may flow, and how a gradient becomes a score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from lens_scopes.paths import Path

PANEL = "Where influence is read, and through what"

LayerSite = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The residual stream read at each layer: resid_pre, resid_mid or resid_post. By default resid_pre.",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]


@dataclass(frozen=True)
class SiteOptions:
    """Sites beside the embedding and the layers, the path, and the readout."""

    site: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A further activation to read: hook_z (every layer) or blocks.3.attn.hook_z; may be repeated.",
            rich_help_panel=PANEL,
        ),
    ] = None
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
    readout: Annotated[
        str,
        typer.Option(
            metavar="norm|dot",
            help="norm: largest first-order effect of a unit change; dot: signed effect of the value against zero.",
            rich_help_panel=PANEL,
        ),
    ] = "norm"

    def path(self) -> Path | None:
        """What carries gradient; None for everything.

        Raises:
            PathError: for a path or a part that is none.
        """
        from lens_scopes.paths import Frozen, as_path

        through = as_path(self.through)
        if not self.freeze:
            return through
        frozen = Frozen(*self.freeze)
        return frozen if through is None else through & frozen
