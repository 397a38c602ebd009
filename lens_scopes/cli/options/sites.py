"""Where influence is read, and how a gradient becomes a score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from lens_scopes.cli.options.path import PANEL

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
    """Sites beside the embedding and the layers, and the readout."""

    site: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A further activation to read: hook_z (every layer) or blocks.3.attn.hook_z; may be repeated.",
            rich_help_panel=PANEL,
        ),
    ] = None
    at: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Where the tokens' scores are read: the embedding unless the scope has a place of its own, or an "
            "activation whose layers are added up, such as hook_v with --readout relative.",
            rich_help_panel=PANEL,
            show_default=False,
        ),
    ] = None
    readout: Annotated[
        str | None,
        typer.Option(
            metavar="norm|dot|product|relative",
            help="norm (by default): largest first-order effect of a unit change; dot: signed effect of the value "
            "against zero or the path's start; product: the norm of gradient × value; relative: largest effect of a "
            "change as large as the value.",
            rich_help_panel=PANEL,
            show_default=False,
        ),
    ] = None
    points: Annotated[
        str | None,
        typer.Option(
            metavar="path[-START][-held]|noise[@N]",
            help="Average gradients over N points: path goes straight from zero to the prompt, path-START from mean, "
            "bos, eos or pad, with special tokens fixed where -held follows (with --readout dot: Integrated "
            "Gradients); noise scatters around it (SmoothGrad). By default the gradient at the prompt alone.",
            rich_help_panel=PANEL,
            show_default=False,
        ),
    ] = None
    products: Annotated[
        str,
        typer.Option(
            metavar="own|bfloat16",
            help="Matrix products of the model's body in its own dtype, or of factors rounded to bfloat16: faster, and "
            "the tokens rank almost alike.",
            rich_help_panel=PANEL,
        ),
    ] = "own"
