"""`lens-scopes heads`: influence of every head and MLP, verified by ablation."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Annotated, Any

import typer

from lens_scopes.cli.options.groups import with_option_groups
from lens_scopes.cli.options.model import ModelOptions
from lens_scopes.cli.options.prompt import PromptOptions
from lens_scopes.cli.options.result import ResultOptions
from lens_scopes.cli.options.spec import HeadsOptions
from lens_scopes.cli.progress import progress_bar
from lens_scopes.engine.ablations import COMPONENT_BASELINES, unknown_baseline
from lens_scopes.errors import LensScopesError

_PANEL = "Heads"


@with_option_groups
def heads(
    prompt: PromptOptions,
    choices: HeadsOptions,
    model: ModelOptions,
    output: ResultOptions,
    baseline: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(COMPONENT_BASELINES),
            help="What replaces a component's output: zero, its mean over the prompt's non-special tokens, or its "
            "output on a random order of the same tokens (special tokens stay in place). By default mean.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Replace a component's output by its output under this prompt, of as many tokens as the prompt "
            "explained: a text, ids ('#2#651'), or a chat's JSON ('[{\"role\": …}]').",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    mlp_rules: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Predict the effects of MLPs by these rules too, such as relp, and give the mean of both predictions; "
            "none leaves the gradient's alone. By default auto: relp, and norms and patterns with --against.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(
            metavar="L3H2", help="Show the attention pattern of this head; may be repeated.", rich_help_panel=_PANEL
        ),
    ] = None,
    top: Annotated[
        int, typer.Option(help="Show the attention patterns of the N strongest heads.", min=1, rich_help_panel=_PANEL)
    ] = 6,
    verify: Annotated[
        int | None,
        typer.Option(
            help="Ablate the N strongest components, or none with 0. By default as many as are cheap to ablate.",
            min=0,
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
) -> None:
    """Predict the effect of every head and MLP on one prediction or a whole answer, and verify the strongest by
    ablation.

    Examples:
        lens-scopes heads "The Eiffel Tower is in the city of" --target " Paris"
        lens-scopes heads "When Mary and John went out, John gave a drink to" --verify 20 --out heads.html
    """
    if baseline is not None and against is not None:
        raise LensScopesError("--baseline and --against both say what replaces an output; give one of them.")
    if baseline not in (None, *COMPONENT_BASELINES):
        raise LensScopesError(unknown_baseline(baseline))
    output.check()
    model.check()
    text = prompt.read()
    with redirect_stdout(sys.stderr):  # libraries print, and standard output carries the result alone
        spec = choices.spec().require_gradient()
        from lens_scopes.attribution.heads import inspect_heads
        from lens_scopes.scopes.text.values import read_whole_prompt

        loaded = model.load()
        replacement: Any = baseline or "mean" if against is None else read_whole_prompt(against)
        with progress_bar("Ablating") as progress:
            result = inspect_heads(
                loaded,
                text,
                spec,
                position=prompt.position,
                baseline=replacement,
                mlp_rules=mlp_rules or "auto",
                patterns=head or top,
                verify=verify,
                progress=progress,
            )
    choices.remark(result)
    output.deliver(result)
