"""`lens-scopes show` and `report`: a saved result or evaluation again, without measuring anything."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lens_scopes.cli.options.groups import with_option_groups
from lens_scopes.cli.options.output import OutputOptions
from lens_scopes.cli.options.report import ReportOptions
from lens_scopes.cli.options.result import ResultOptions
from lens_scopes.errors import PromptError


@with_option_groups
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE.safetensors", help="A result of any kind, saved with --out.")],
    output: OutputOptions,
) -> None:
    """Show a saved result, or convert it to other formats.

    Examples:
        lens-scopes show paris.safetensors --contract
        lens-scopes show paris.safetensors --out paris.html --out paris.pdf
    """
    output.check()
    from lens_scopes.results.attribution import Attribution
    from lens_scopes.results.load import load

    result = load(file)
    if isinstance(result, Attribution):
        output.deliver(result)
        return
    if output.group != "token":
        raise PromptError(f"--group sums the scores of tokens, and {file} holds a result of kind {result.kind}.")
    ResultOptions(output.out, output.json, output.contract).deliver(result)


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
