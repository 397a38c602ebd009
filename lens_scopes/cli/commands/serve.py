"""`lens-scopes serve`: the local web page."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import replace
from typing import Annotated

import typer

from lens_scopes.cli.options.groups import with_option_groups
from lens_scopes.cli.options.model import ModelOptions
from lens_scopes.errors import LensScopesError

_PANEL = "Server"


@with_option_groups
def serve(
    model: ModelOptions,
    also: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME_OR_PATH",
            help="A further model to choose on the page, loaded when first used; may be repeated.",
            rich_help_panel="Model",
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            help="The address to listen at. Any other than 127.0.0.1 is served to those with the token alone.",
            rich_help_panel=_PANEL,
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="The port; 0 takes a free one.", min=0, max=65535, rich_help_panel=_PANEL)
    ] = 8765,
    token: Annotated[
        str | None,
        typer.Option(
            help="What requests must show. By default none on 127.0.0.1, else one that is made up and printed.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(
            help="A further host name that browsers reach the server by; may be repeated.", rich_help_panel=_PANEL
        ),
    ] = None,
    prompt_tokens: Annotated[
        int, typer.Option(help="The longest prompt to take.", min=1, rich_help_panel=_PANEL)
    ] = 512,
    seconds: Annotated[
        float, typer.Option(help="The longest that one request may work.", min=0.001, rich_help_panel=_PANEL)
    ] = 120.0,
    log_requests: Annotated[
        bool,
        typer.Option(
            "--log-requests",
            help="Log the address of every request. What is typed into prompts is never logged.",
            rich_help_panel=_PANEL,
        ),
    ] = False,
    open_page: Annotated[
        bool, typer.Option("--open", help="Open the page in the browser.", rich_help_panel=_PANEL)
    ] = False,
) -> None:
    """A web page on this machine to explore a model with; offline."""
    with redirect_stdout(sys.stderr):
        try:
            from lens_scopes.server.launch import run
            from lens_scopes.server.settings import Limits
        except ModuleNotFoundError as error:
            if error.name not in ("fastapi", "pydantic", "starlette", "uvicorn"):
                raise
            raise LensScopesError(
                f"the page needs {error.name}, which is not installed: pip install 'lens-scopes[serve]'."
            ) from error

        run(
            [model, *(replace(model, model=other) for other in also or [])],
            host=host,
            port=port,
            token=token,
            names=name or (),
            limits=Limits(prompt_tokens=prompt_tokens, seconds=seconds),
            log_requests=log_requests,
            open_page=open_page,
        )
