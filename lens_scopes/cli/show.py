"""`lens-scopes show`: a saved result again, on the terminal or as other files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lens_scopes.cli.option_groups import with_option_groups
from lens_scopes.cli.output_options import OutputOptions
from lens_scopes.cli.result_options import SavedResultOptions
from lens_scopes.errors import PromptError


@with_option_groups
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE.safetensors", help="A result written by --out.")],
    output: OutputOptions,
) -> None:
    """Show a saved result again, or turn it into other files."""
    output.check()
    from lens_scopes import result_file, span_flow
    from lens_scopes.attribution import Attribution

    if result_file.format_name(file) == span_flow.FORMAT.name:
        if output.group != "token":
            raise PromptError("an information flow is of spans: --group is for the scores of tokens.")
        SavedResultOptions(output.out, output.json).deliver(span_flow.InformationFlow.load(file))
    else:
        output.deliver(Attribution.load(file))
