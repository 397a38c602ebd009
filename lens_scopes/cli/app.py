"""The commands, and what becomes of their errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from lens_scopes import __version__
from lens_scopes.cli.attribute import attribute
from lens_scopes.cli.layers import layers
from lens_scopes.cli.models import models
from lens_scopes.cli.show import show
from lens_scopes.errors import LensScopesError

WRONG_INPUT = 2
INTERRUPTED = 130

# The base of all of typer's usage errors, whether typer brings its own click or depends on one.
_UsageError: Any = typer.BadParameter.__mro__[1]

app = typer.Typer(name="lens-scopes", add_completion=False, pretty_exceptions_enable=False)
for command in (attribute, layers, show, models):
    app.command()(command)


def _print_version(asked: bool) -> bool:
    if asked:
        print(f"lens-scopes {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def lens_scopes(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Which tokens, at which layers, made a language model predict what it predicts: Jacobian Scopes."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a command line (by default the process's own) and exits.

    Wrong input is one line on standard error and exit status 2, Ctrl-C exit status 130, a reader that closes standard
    output early (`| head`) exit status 1 without a word. Anything else is a defect of lens_scopes and shows its
    traceback.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        status = app(list(arguments) or ["--help"], prog_name="lens-scopes", standalone_mode=False)
        if status == INTERRUPTED:  # how some versions of typer report Ctrl-C, others raise
            raise KeyboardInterrupt
        sys.stdout.flush()
    except LensScopesError as error:
        sys.exit(_complain(str(error), WRONG_INPUT))
    except _UsageError as error:
        sys.exit(_complain(f"{error.format_message()} See `{_help_command(error)}`.", WRONG_INPUT))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(_complain("interrupted.", INTERRUPTED))
    except BrokenPipeError:
        # Python flushes standard output once more at exit, which would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    sys.exit(status or 0)


def _complain(message: str, status: int) -> int:
    print("lens-scopes: " + message, file=sys.stderr)
    return status


def _help_command(error: Exception) -> str:
    context = getattr(error, "ctx", None)
    return f"{context.command_path if context else 'lens-scopes'} --help"
