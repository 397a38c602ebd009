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
from lens_scopes.cli.options.result import PANEL, check_files, json_file, write_files
from lens_scopes.cli.options.spec import CompareOptions, check_scope
from lens_scopes.cli.progress import progress_bar
from lens_scopes.errors import LensScopesError, PromptError
from lens_scopes.results.writing import as_json, data_frame, utf8
from lens_scopes.scopes.registry import DEFAULT_SCOPE

if TYPE_CHECKING:
    from lens_scopes.results.attribution import Attribution

_FIGURES = (".png", ".svg", ".pdf")
_SUFFIXES = (".csv", ".json", *_FIGURES)


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
    asked: CompareOptions,
    model: ModelOptions,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            help="Write the comparison to a file in the format of its suffix: .csv table, .json, or, of one prompt, "
            ".png .svg .pdf figure; may be repeated.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print both results as JSON and nothing else.", rich_help_panel=PANEL)
    ] = False,
) -> None:
    """Compare two prompts, two target tokens or two scopes, token by token.

    Examples:
        lens-scopes compare "The capital of France is" "The capital of Italy is"
        lens-scopes compare "The capital of France is" -t " Paris" -t " Lyon"
        lens-scopes compare "The capital of France is" -s semantic -s fisher -o scopes.png
    """
    # What can be refused without the model is refused before it is loaded.
    check_files(out or [], _SUFFIXES)
    for name in scope or []:
        check_scope(name)
    # A choice that is given once is that of both sides; one of them must differ.
    prompts = _pair(texts or [], "TEXT")
    if prompts[0] is None:
        raise PromptError("no prompt was given; give one TEXT, or two to compare them.")
    scopes, targets = _pair(scope or [], "--scope"), _pair(target or [], "--target")
    if not any(first != second for first, second in (prompts, scopes, targets)):
        raise LensScopesError("there is nothing to compare; give two texts, --scope twice or --target twice.")
    if prompts[0] != prompts[1] and any(path.suffix.lower() in _FIGURES for path in out or []):
        raise LensScopesError("a figure compares scopes or targets of one prompt; write two prompts to .csv or .json.")
    with redirect_stdout(sys.stderr):  # libraries print, and standard output carries the result alone
        from lens_scopes.attribution.attribute import attribute
        from lens_scopes.scopes.spec import Spec

        # One spec per side, checked before the model is there for both.
        given: dict[str, Any] = asdict(asked)  # pyright: ignore[reportArgumentType]
        specs = [
            Spec.from_options(**given, scope=name or DEFAULT_SCOPE, target=token)
            for name, token in zip(scopes, targets, strict=True)
        ]
        loaded = model.load()
        with progress_bar("Backpropagating") as progress:
            sides = [
                attribute(loaded, text, spec, progress=progress)
                for text, spec in zip(prompts, specs, strict=True)
                if text is not None
            ]
    write_files(out or [], lambda suffix: _content(sides, suffix))
    if json:
        print(as_json(_plain(sides)))
        return
    from rich.console import Console

    from lens_scopes.views.terminal.comparison import ComparisonReport

    Console().print(ComparisonReport(*sides))


def _pair(values: list[str], name: str) -> tuple[str | None, str | None]:
    """The value of each side: one value is that of both."""
    if len(values) > 2:
        raise LensScopesError(f"{name} was given {len(values)} times; two are compared at a time.")
    return (values[0], values[-1]) if values else (None, None)


def _content(sides: list[Attribution], suffix: str) -> bytes:
    """Both sides as the contents of a file of a suffix."""
    if suffix == ".json":
        return json_file(_plain(sides))
    if suffix == ".csv":
        return utf8(data_frame(_tokens(sides)).to_csv(index=False))
    from lens_scopes.views.figures.strips import strips_figure
    from lens_scopes.views.figures.style import saved

    labels = [side.objective for side in sides]
    named = labels if labels[0] != labels[1] else [f"{label}, {name}" for label, name in zip(labels, "AB", strict=True)]
    return saved(lambda: strips_figure(dict(zip(named, sides, strict=True))), suffix[1:], 300)


def _plain(sides: list[Attribution]) -> dict[str, Any]:
    from lens_scopes.views.words.comparison import change_unit

    first, second = sides
    return {"a": first.to_dict(), "b": second.to_dict(), "tokens": _tokens(sides), "change": change_unit(first, second)}


def _tokens(sides: list[Attribution]) -> list[dict[str, Any]]:
    from lens_scopes.views.words.comparison import compared_tokens

    return [asdict(line) for line in compared_tokens(*sides)]
