"""`lens-scopes matrix`: influence of every token on every later prediction."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from typing import Annotated

import typer

from lens_scopes.cli.options.groups import with_option_groups
from lens_scopes.cli.options.model import ModelOptions
from lens_scopes.cli.options.prompt import TextOptions
from lens_scopes.cli.options.result import ResultOptions
from lens_scopes.cli.options.spec import MatrixOptions
from lens_scopes.cli.progress import progress_bar
from lens_scopes.errors import PromptError

_PANEL = "Source and target"


@with_option_groups
def matrix(
    prompt: TextOptions,
    choices: MatrixOptions,
    model: ModelOptions,
    output: ResultOptions,
    answer: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="Explain only the predictions of this answer's tokens after the prompt, one by one: a text, leading "
            "space included, or ids (#12#34).",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    generate: Annotated[
        int,
        typer.Option(help="Generate N tokens first, and explain only those.", min=0, rich_help_panel=_PANEL),
    ] = 0,
    span: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=TEXT",
            help="Name a span, to sum influence over it; may be repeated. Chat messages are named by role.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
    total_influence: Annotated[
        str | None,
        typer.Option(
            metavar="answer|generated|TEXT",
            help="Give the influence of the prompt on this part of the generated text, through the generated text "
            "before it, in place of the matrix: answer (its last sentence), generated (all of it), or a text in it.",
            rich_help_panel=_PANEL,
        ),
    ] = None,
) -> None:
    """Attribute every prediction of a text, given or generated, to every earlier token.

    Examples:
        lens-scopes matrix "The capital of France is" --out matrix.csv
        lens-scopes matrix "The capital of France is" --generate 8 --total-influence answer
    """
    output.check()
    model.check()
    if total_influence is not None and not generate and answer is None:
        raise PromptError(
            "--total-influence goes through text after the prompt, and there is none; add --generate 40, or --answer."
        )
    text = prompt.read()
    spans = dict(_split_name(item) for item in span or [])
    with redirect_stdout(sys.stderr):  # libraries print, and standard output carries the result alone
        spec = choices.spec().require_gradient()
        from lens_scopes.attribution.matrix import attribute_all
        from lens_scopes.scopes.text.values import read_text_or_ids

        loaded = model.load()
        with progress_bar("Backpropagating") as progress:
            result = attribute_all(
                loaded,
                text,
                spec,
                answer=None if answer is None else read_text_or_ids(answer),
                generate=generate,
                spans=spans,
                progress=progress,
            )
    choices.remark(result)
    output.deliver(result if total_influence is None else result.total_influence(total_influence))


def _split_name(item: str) -> tuple[str, str]:
    name, separator, text = item.partition("=")
    if not (name and separator and text):
        raise PromptError(f"--span {item!r} is not NAME=TEXT; write --span 'question=Where is the dog?'.")
    return name, text
