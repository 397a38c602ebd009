"""`lens-scopes layers`: influence of every token at every layer."""

from __future__ import annotations

from lens_scopes.cli.companion_options import CompanionOptions
from lens_scopes.cli.explain import explain
from lens_scopes.cli.memory_options import MemoryOptions
from lens_scopes.cli.model_options import ModelOptions
from lens_scopes.cli.objective_options import ObjectiveOptions
from lens_scopes.cli.option_groups import with_option_groups
from lens_scopes.cli.output_options import OutputOptions
from lens_scopes.cli.path_options import PathOptions
from lens_scopes.cli.prompt_options import PromptOptions
from lens_scopes.cli.site_options import LayerSite, SiteOptions


@with_option_groups
def layers(
    prompt: PromptOptions,
    objective: ObjectiveOptions,
    sites: SiteOptions,
    paths: PathOptions,
    model: ModelOptions,
    memory: MemoryOptions,
    output: OutputOptions,
    companions: CompanionOptions,
    layer_site: LayerSite = None,
) -> None:
    """At which layers: influence of every token at every layer's residual stream."""
    explain(prompt, objective, sites, paths, model, memory, output, companions, layer_site or True)
