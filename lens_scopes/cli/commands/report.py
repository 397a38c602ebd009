"""`lens-scopes report`: an evaluation again, on the terminal or as files, without measuring anything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lens_scopes.cli.options.groups import with_option_groups
from lens_scopes.cli.options.report import ReportOptions


@with_option_groups
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A result folder of `lens-scopes evaluate`.")],
    output: ReportOptions,
) -> None:
    """Show a saved evaluation, or write reports of it.

    Examples:
        lens-scopes report results
        lens-scopes report results --report table.md --report figure.pdf
    """
    output.check()
    output.deliver(folder)
