"""`lens-scopes models`: what can be loaded by name."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from typing import Annotated

import typer

from lens_scopes.cli.options.groups import with_option_groups


@with_option_groups
def models(
    filter_text: Annotated[
        str | None,
        typer.Argument(metavar="FILTER", help="List only names and aliases with this text.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """List the models that can be loaded by name: embedded, in the local cache, and on the hub.

    Examples:
        lens-scopes models
        lens-scopes models gpt2
    """
    from lens_scopes.models.gemma import EMBEDDED_NAME
    from lens_scopes.models.load import available_models

    with redirect_stdout(sys.stderr):
        known = available_models()
    wanted = (filter_text or "").lower()
    matching = [model for model in known if any(wanted in name.lower() for name in (model.name, *model.aliases))]
    matching.sort(key=lambda model: (model.name != EMBEDDED_NAME, not model.cached))
    if as_json:
        print(json.dumps([asdict(model) for model in matching]))
        return
    width = max((len(model.name) for model in matching), default=0)
    for model in matching:
        place = "embedded" if model.name == EMBEDDED_NAME else "cached" if model.cached else "hub"
        print(f"{model.name:<{width}}  {place:<8}  {', '.join(model.aliases)}".rstrip())
    if not matching:
        print(
            f"lens-scopes: no known name contains {filter_text!r}; a local folder can be given by its path.",
            file=sys.stderr,
        )
