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
    asked: MatrixOptions,
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
) -> None:
    """Attribute every prediction of a text, given or generated, to every earlier token."""
    output.check()
    text = prompt.read()
    spans = dict(_named(item) for item in span or [])
    with redirect_stdout(sys.stderr):  # libraries print, and standard output carries the result alone
        from lens_scopes.attribution.matrix import attribute_all
        from lens_scopes.scopes.registry import read_text_or_ids

        spec = asked.spec().require_gradient()
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
    asked.remark(result)
    output.deliver(result)


def _named(item: str) -> tuple[str, str]:
    name, separator, text = item.partition("=")
    if not (name and separator and text):
        raise PromptError(f"--span {item!r} is not NAME=TEXT; write --span 'question=Where is the dog?'.")
    return name, text
