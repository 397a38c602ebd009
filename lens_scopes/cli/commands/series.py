"""`lens-scopes series`: which past numbers of a series a forecast rests on, and the forecast over values."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Annotated

import typer

from lens_scopes.cli.options.groups import with_option_groups
from lens_scopes.cli.options.model import ModelOptions
from lens_scopes.cli.options.prompt import TextOptions
from lens_scopes.cli.options.result import ResultOptions
from lens_scopes.cli.options.spec import SeriesOptions
from lens_scopes.cli.progress import progress_bar

_PANEL = "Series"


@with_option_groups
def series(
    prompt: TextOptions,
    choices: SeriesOptions,
    model: ModelOptions,
    output: ResultOptions,
    separator: Annotated[
        str, typer.Option(help="What stands between numbers, besides spaces.", rich_help_panel=_PANEL)
    ] = ",",
    width: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Characters at which a number is complete; 0 lets each end where the model ends it. By default the "
            "width that all numbers of the series share.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    least: Annotated[
        float,
        typer.Option(help="Smallest probability of the beginning of a value that is followed.", rich_help_panel=_PANEL),
    ] = 1e-4,
    longest: Annotated[
        int, typer.Option(min=1, help="Most characters of a value, where there is no width.", rich_help_panel=_PANEL)
    ] = 8,
) -> None:
    """Score how much each past number of a series influences the next one, and forecast it as a distribution.

    The text is the numbers with a separator after each, the last one included. Scores explain the first token of the
    next number; --answer explains a whole number.

    Examples:
        lens-scopes series "12,37,62,87,12,37,62,87,12,37," --scope fisher
    """
    output.check()
    model.check()
    text = prompt.read()
    with redirect_stdout(sys.stderr):  # libraries print, and standard output carries the result alone
        from lens_scopes.attribution.series import inspect_series

        spec = choices.spec()
        loaded = model.load()
        with progress_bar("Backpropagating") as progress:
            result = inspect_series(
                loaded,
                text,  # pyright: ignore[reportArgumentType]
                spec,
                separator=separator,
                width=width,
                least=least,
                longest=longest,
                progress=progress,
            )
    choices.remark(result)
    output.deliver(result)
