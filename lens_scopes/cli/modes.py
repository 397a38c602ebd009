"""`lens-scopes modes`: what the leading Fisher directions mean."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Annotated

import typer

from lens_scopes.cli.options.groups import with_option_groups
from lens_scopes.cli.options.memory import MemoryOptions
from lens_scopes.cli.options.model import ModelOptions
from lens_scopes.cli.options.path import PathOptions
from lens_scopes.cli.options.prompt import PromptOptions
from lens_scopes.cli.options.result import ResultOptions
from lens_scopes.cli.progress import progress_bar

_PANEL = "Modes"


@with_option_groups
def modes(
    prompt: PromptOptions,
    paths: PathOptions,
    model: ModelOptions,
    memory: MemoryOptions,
    output: ResultOptions,
    rank: Annotated[int, typer.Option(help="How many Fisher modes to decode.", rich_help_panel=_PANEL)] = 4,
    baseline: Annotated[
        str,
        typer.Option(
            metavar="zero|mean",
            help="What a source token's embedding is replaced by: zero, or the mean over the prompt's non-special "
            "tokens.",
            rich_help_panel=_PANEL,
        ),
    ] = "mean",
) -> None:
    """What moves where: each Fisher mode as a contrast of next tokens, and what every source token does along it."""
    output.check()
    text = prompt.read()
    with redirect_stdout(sys.stderr):  # libraries print, and standard output carries the result alone
        from lens_scopes.attribution.modes import inspect_modes

        through = paths.path()
        memory.check()
        loaded = model.load()
        with progress_bar("Replacing tokens") as progress:
            found = inspect_modes(
                loaded,
                text,
                rank,
                position=prompt.position,
                baseline=baseline,
                through=through,
                memory=memory.memory,
                progress=progress,
            )
    memory.remark(found)
    output.deliver(found)
