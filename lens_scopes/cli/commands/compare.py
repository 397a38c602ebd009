"""`lens-scopes compare`: two prompts, targets or scopes, token beside token."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lens_scopes.cli.options.groups import with_option_groups
from lens_scopes.cli.options.model import ModelOptions
from lens_scopes.cli.options.result import PANEL, Contract, check_files, content_of, json_file, write_files
from lens_scopes.cli.options.spec import CompareOptions
from lens_scopes.cli.progress import progress_bar
from lens_scopes.errors import LensScopesError, PromptError
from lens_scopes.results.storage.writing import as_json
from lens_scopes.scopes.registry import DEFAULT_SCOPE
from lens_scopes.scopes.text.lines import read_options

if TYPE_CHECKING:
    from lens_scopes.results.comparison import Comparison

_SUFFIXES = (".html", ".csv", ".json", ".png", ".svg", ".pdf")


@with_option_groups
def compare(
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT [TEXT]", help="One prompt, or two.", show_default=False)
    ] = None,
    *,
    scope: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="What to explain, as for `attribute`; give it twice to compare two scopes."),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TOKEN", help="The next token explained, as for `attribute`; give it twice to compare two tokens."
        ),
    ] = None,
    choices: CompareOptions,
    model: ModelOptions,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            help="Write the comparison to a file in the format of its suffix: .html page, .csv table, .json, .png .svg "
            ".pdf figure; may be repeated.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print both results as JSON and nothing else.", rich_help_panel=PANEL)
    ] = False,
    contract: Contract = False,
) -> None:
    """Compare two prompts, two target tokens or two scopes, token by token.

    Examples:
        lens-scopes compare "The capital of France is" "The capital of Italy is" -o countries.html
        lens-scopes compare "The capital of France is" -t " Paris" -t " Lyon"
        lens-scopes compare "The capital of France is" -s semantic -s fisher -o scopes.png
    """
    # What can be refused without the model is refused before it is loaded.
    check_files(out or [], _SUFFIXES)
    model.check()
    # A choice that is given once is that of both sides; one of them must differ.
    prompts = _pair(texts or [], "TEXT")
    if prompts[0] is None:
        raise PromptError("no prompt was given; give one TEXT, or two to compare them.")
    scopes, targets = _pair(scope or [], "--scope"), _pair(target or [], "--target")
    if not any(first != second for first, second in (prompts, scopes, targets)):
        raise LensScopesError("there is nothing to compare; give two texts, --scope twice or --target twice.")
    # One spec per side, checked as far as that goes before torch is imported, then before the model is there for both.
    options: dict[str, Any] = asdict(choices)  # pyright: ignore[reportArgumentType]
    sides = [
        options | {"scope": name or DEFAULT_SCOPE, "target": token} for name, token in zip(scopes, targets, strict=True)
    ]
    for side in sides:
        read_options(side)
    with redirect_stdout(sys.stderr):  # libraries print, and standard output carries the result alone
        from lens_scopes.attribution.attribute import attribute
        from lens_scopes.scopes.spec import Spec

        specs = [Spec.from_options(**side) for side in sides]
        loaded = model.load()
        with progress_bar("Backpropagating") as progress:
            a, b = [
                attribute(loaded, text, spec, progress=progress)
                for text, spec in zip(prompts, specs, strict=True)
                if text is not None
            ]
    comparison = a.compare(b)
    write_files(out or [], lambda suffix: _content(comparison, suffix))
    if json:
        print(as_json(_plain(comparison)))
        return
    from lens_scopes.views import print_result

    print_result(comparison, contract=contract)


def _pair(values: list[str], name: str) -> tuple[str | None, str | None]:
    """The value of each side: one value is that of both."""
    if len(values) > 2:
        raise LensScopesError(f"{name} was given {len(values)} times; two are compared at a time.")
    return (values[0], values[-1]) if values else (None, None)


def _content(comparison: Comparison, suffix: str) -> bytes:
    return json_file(_plain(comparison)) if suffix == ".json" else content_of(comparison, suffix)


def _plain(comparison: Comparison) -> dict[str, Any]:
    """The comparison, with what its changes are differences of in words."""
    from lens_scopes.views.words.comparison import change_unit

    return comparison.to_dict() | {"change": change_unit(comparison)}
