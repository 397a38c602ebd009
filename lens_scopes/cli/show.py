"""`lens-scopes show`: a saved result again, on the terminal or as other files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lens_scopes.cli.options.groups import with_option_groups
from lens_scopes.cli.options.output import OutputOptions
from lens_scopes.cli.options.result import SavedResultOptions
from lens_scopes.errors import PromptError


@with_option_groups
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE.safetensors", help="A result written by --out.")],
    output: OutputOptions,
) -> None:
    """Show a saved result again, or turn it into other files."""
    output.check()
    from lens_scopes.results import files as result_file
    from lens_scopes.results import flow as span_flow
    from lens_scopes.results.attribution import Attribution

    if result_file.format_name(file) == span_flow.FORMAT.name:
        if output.group != "token":
            raise PromptError("an information flow is of spans: --group is for the scores of tokens.")
        SavedResultOptions(output.out, output.json).deliver(span_flow.InformationFlow.load(file))
    else:
        output.deliver(Attribution.load(file))
