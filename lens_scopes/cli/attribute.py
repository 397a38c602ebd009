"""`lens-scopes attribute`: influence of every token on one prediction."""

from __future__ import annotations

from typing import Annotated

import typer

from lens_scopes.cli.explain import explain
from lens_scopes.cli.options.companions import CompanionOptions
from lens_scopes.cli.options.groups import with_option_groups
from lens_scopes.cli.options.memory import MemoryOptions
from lens_scopes.cli.options.model import ModelOptions
from lens_scopes.cli.options.objective import ObjectiveOptions
from lens_scopes.cli.options.output import OutputOptions
from lens_scopes.cli.options.path import PathOptions
from lens_scopes.cli.options.prompt import PromptOptions
from lens_scopes.cli.options.sites import PANEL, LayerSite, SiteOptions


@with_option_groups
def attribute(
    prompt: PromptOptions,
    objective: ObjectiveOptions,
    sites: SiteOptions,
    paths: PathOptions,
    model: ModelOptions,
    memory: MemoryOptions,
    output: OutputOptions,
    companions: CompanionOptions,
    layers: Annotated[
        bool | None,
        typer.Option(
            "--layers/--no-layers",
            help="Also compute the influence at every layer's residual stream. Off unless --layer-site is given.",
            rich_help_panel=PANEL,
            show_default=False,
        ),
    ] = None,
    layer_site: LayerSite = None,
) -> None:
    """Compute the influence of every token on one prediction."""
    chosen = layer_site or True if layers or (layers is None and layer_site) else False
    explain(prompt, objective, sites, paths, model, memory, output, companions, chosen)
