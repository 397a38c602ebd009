"""`lens-scopes heads`: influence of every head and MLP, verified by ablation."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Annotated, Any

import typer

from lens_scopes.cli.options.groups import with_option_groups
from lens_scopes.cli.options.memory import MemoryOptions
from lens_scopes.cli.options.model import ModelOptions
from lens_scopes.cli.options.objective import ObjectiveOptions
from lens_scopes.cli.options.path import PathOptions
from lens_scopes.cli.options.prompt import PromptOptions
from lens_scopes.cli.options.result import ResultOptions
from lens_scopes.cli.progress import progress_bar

_PANEL = "Heads"


@with_option_groups
def heads(
    prompt: PromptOptions,
    objective: ObjectiveOptions,
    paths: PathOptions,
    model: ModelOptions,
    memory: MemoryOptions,
    output: ResultOptions,
    baseline: Annotated[
        str,
        typer.Option(
            metavar="zero|mean|shuffle",
            help="What a component's output is set to: zero, its mean over the prompt's non-special tokens, "
            "or its value in a prompt of the same tokens in a random order (special tokens in place).",
            rich_help_panel=_PANEL,
        ),
    ] = "mean",
    head: Annotated[
        list[str] | None,
        typer.Option(
            metavar="L3H2", help="A head whose attention pattern to show; may be repeated.", rich_help_panel=_PANEL
        ),
    ] = None,
    top: Annotated[
        int, typer.Option(help="How many of the strongest heads to show patterns of.", min=1, rich_help_panel=_PANEL)
    ] = 6,
    verify: Annotated[
        int | None,
        typer.Option(
            help="How many of the strongest components to ablate; 0 for none. By default as many as is cheap.",
            min=0,
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Which heads made the model predict that: predicted effects of all heads and MLPs, verified by ablating them."""
    output.check()
    text = prompt.read()
    with redirect_stdout(sys.stderr):  # libraries print, and standard output carries the result alone
        from lens_scopes.attribution.heads import inspect_heads

        explained, through = objective.objective(), paths.path()
        memory.check()
        loaded = model.load()
        kind: Any = baseline
        with progress_bar("Ablating") as progress:
            found = inspect_heads(
                loaded,
                text,
                explained,
                position=prompt.position,
                baseline=kind,
                through=through,
                patterns=head or top,
                verify=verify,
                memory=memory.memory,
                progress=progress,
            )
    memory.remark(found)
    output.deliver(found)
