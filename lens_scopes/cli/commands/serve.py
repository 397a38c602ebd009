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
            help="Another model to offer on the page, loaded on first use; may be repeated.",
            rich_help_panel="Model",
        ),
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on. Any address other than 127.0.0.1 requires a token.",
            rich_help_panel=_PANEL,
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port to listen on; 0 picks a free one.", min=0, max=65535, rich_help_panel=_PANEL)
    ] = 8765,
    token: Annotated[
        str | None,
        typer.Option(
            help="Access token of 12 or more letters and digits. By default none on 127.0.0.1, otherwise a random "
            "one, which is printed.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(help="Additional host name of this server; may be repeated.", rich_help_panel=_PANEL),
    ] = None,
    prompt_tokens: Annotated[
        int, typer.Option(help="Maximum prompt length, in tokens.", min=1, rich_help_panel=_PANEL)
    ] = 512,
    seconds: Annotated[
        float, typer.Option(help="Maximum time per request, in seconds.", min=0.001, rich_help_panel=_PANEL)
    ] = 120.0,
    log_requests: Annotated[
        bool,
        typer.Option(
            "--log-requests",
            help="Log the path of every request. Nothing that is typed is logged.",
            rich_help_panel=_PANEL,
        ),
    ] = False,
    open_page: Annotated[
        bool, typer.Option("--open", help="Open the page in a browser.", rich_help_panel=_PANEL)
    ] = False,
) -> None:
    """Serve a local web page for exploring a model; works offline.

    Examples:
        lens-scopes serve --open
        lens-scopes serve --model gpt2 --also gemma-3-270m --prompt-tokens 2000
    """
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
