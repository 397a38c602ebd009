"""`lens-scopes attribute`: influence of every token on one prediction."""

from __future__ import annotations

from typing import Annotated

import typer

from lens_scopes.cli.companion_options import CompanionOptions
from lens_scopes.cli.explain import explain
from lens_scopes.cli.memory_options import MemoryOptions
from lens_scopes.cli.model_options import ModelOptions
from lens_scopes.cli.objective_options import ObjectiveOptions
from lens_scopes.cli.option_groups import with_option_groups
from lens_scopes.cli.output_options import OutputOptions
from lens_scopes.cli.path_options import PathOptions
from lens_scopes.cli.prompt_options import PromptOptions
from lens_scopes.cli.site_options import PANEL, LayerSite, SiteOptions


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
            help="Influence at every layer's residual stream too. Off unless --layer-site is given.",
            rich_help_panel=PANEL,
            show_default=False,
        ),
    ] = None,
    layer_site: LayerSite = None,
) -> None:
    """Which tokens made the model predict that: influence of every token on one prediction."""
    chosen = layer_site or True if layers or (layers is None and layer_site) else False
    explain(prompt, objective, sites, paths, model, memory, output, companions, chosen)
