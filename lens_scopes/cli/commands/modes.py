"""`lens-scopes modes`: what the leading Fisher directions mean."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Annotated

import typer

from lens_scopes.cli.options.groups import with_option_groups
from lens_scopes.cli.options.model import ModelOptions
from lens_scopes.cli.options.prompt import PromptOptions
from lens_scopes.cli.options.result import ResultOptions
from lens_scopes.cli.options.spec import PathOptions
from lens_scopes.cli.progress import progress_bar

_PANEL = "Modes"


@with_option_groups
def modes(
    prompt: PromptOptions,
    choices: PathOptions,
    model: ModelOptions,
    output: ResultOptions,
    rank: Annotated[int, typer.Option(help="Number of Fisher modes to decode.", rich_help_panel=_PANEL)] = 4,
    baseline: Annotated[
        str,
        typer.Option(
            metavar="zero|mean",
            help="What replaces a source token's embedding: zero, or the mean over the prompt's non-special tokens.",
            rich_help_panel=_PANEL,
        ),
    ] = "mean",
) -> None:
    """Decode the leading Fisher modes as contrasts of next tokens, with the effect of every source token on each.

    Examples:
        lens-scopes modes "The capital of France is" --rank 3 --out modes.html
    """
    output.check()
    model.check()
    text = prompt.read()
    with redirect_stdout(sys.stderr):  # libraries print, and standard output carries the result alone
        from lens_scopes.attribution.modes import inspect_modes

        spec = choices.spec()
        loaded = model.load()
        with progress_bar("Replacing tokens") as progress:
            result = inspect_modes(
                loaded,
                text,
                rank,
                position=prompt.position,
                baseline=baseline,
                through=spec.through,
                matmul_dtype=spec.matmul_dtype,
                memory=spec.memory,
                progress=progress,
            )
    choices.remark(result)
    output.deliver(result)
