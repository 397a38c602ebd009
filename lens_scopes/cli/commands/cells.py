"""`lens-scopes cells`: what another prompt changes at every layer and token, verified by patching."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Annotated

import typer

from lens_scopes.cli.options.groups import with_option_groups
from lens_scopes.cli.options.model import ModelOptions
from lens_scopes.cli.options.prompt import PromptOptions
from lens_scopes.cli.options.result import ResultOptions
from lens_scopes.cli.options.spec import CellOptions
from lens_scopes.cli.progress import progress_bar
from lens_scopes.errors import LensScopesError


@with_option_groups
def cells(
    prompt: PromptOptions,
    choices: CellOptions,
    model: ModelOptions,
    output: ResultOptions,
    verify: Annotated[
        int,
        typer.Option(help="Patch the N strongest cells, or none with 0.", min=0, rich_help_panel="Cells"),
    ] = 10,
) -> None:
    """Predict what another prompt's residual stream changes at every layer and token, and patch the strongest cells.

    `--against` names the other prompt, of as many tokens. With `--points path@8` gradients are averaged on the way from
    it, which predicts large changes better than those at the prompt alone.

    Examples:
        lens-scopes cells "The capital of France is" --against "The capital of Italy is" --target " Paris"
    """
    if choices.against is None:  # pyright: ignore[reportAttributeAccessIssue]
        raise LensScopesError("cells are patched from another prompt of as many tokens; give it with --against.")
    output.check()
    model.check()
    text = prompt.read()
    with redirect_stdout(sys.stderr):  # libraries print, and standard output carries the result alone
        spec = choices.spec().require_gradient().with_layers()
        from lens_scopes.attribution.attribute import attribute
        from lens_scopes.attribution.cells import patch_cells

        loaded = model.load()
        with progress_bar("Backpropagating") as progress:
            attribution = attribute(loaded, text, spec, position=prompt.position, progress=progress)
        with progress_bar("Patching") as progress:
            result = patch_cells(loaded, attribution, verify, progress=progress)
    choices.remark(result)
    output.deliver(result)
