"""`lens-scopes show`: a saved result again, on the terminal or as other files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lens_scopes.cli.option_groups import with_option_groups
from lens_scopes.cli.output_options import OutputOptions


@with_option_groups
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE.safetensors", help="A result written by --out.")],
    output: OutputOptions,
) -> None:
    """Show a saved result again, or turn it into other files."""
    output.check()
    from lens_scopes.attribution import Attribution

    output.deliver(Attribution.load(file))
