"""The commands, and what becomes of their errors."""

from __future__ import annotations

import errno
import inspect
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Annotated, Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

from lens_scopes import __version__
from lens_scopes.cli.commands.attribute import attribute
from lens_scopes.cli.commands.cells import cells
from lens_scopes.cli.commands.compare import compare
from lens_scopes.cli.commands.evaluate import evaluate
from lens_scopes.cli.commands.flow import flow
from lens_scopes.cli.commands.heads import heads
from lens_scopes.cli.commands.matrix import matrix
from lens_scopes.cli.commands.models import models
from lens_scopes.cli.commands.modes import modes
from lens_scopes.cli.commands.results import report, show
from lens_scopes.cli.commands.series import series
from lens_scopes.cli.commands.serve import serve
from lens_scopes.errors import LensScopesError

_PROGRAM = "lens-scopes"
WRONG_INPUT = 2
INTERRUPTED = 130  # of Ctrl-C, as shells have it: 128 and the signal's number

# The base of all of typer's usage errors, whether typer brings its own click or depends on one.
_UsageError: Any = typer.BadParameter.__mro__[1]

_HELP = {"help_option_names": ["-h", "--help"]}


class _PlainHelp:
    """Help that shows the form of values, not the types of Python."""

    def get_help_option(self, ctx: Any) -> Any:
        option = super().get_help_option(ctx)  # pyright: ignore[reportAttributeAccessIssue]
        if option is not None:
            option.metavar = ""
        return option


class _Command(_PlainHelp, TyperCommand):
    def __init__(self, *args: Any, params: list[Any], **settings: Any) -> None:
        super().__init__(*args, params=params, **settings)
        for param in params:
            if isinstance(param, TyperArgument):
                param.display_type_rich = lambda ctx: None  # its name says its form
            elif getattr(param, "min", None) is not None:
                param._get_number_range_help_str = partial(_range, param.min, param.max)


def _range(least: int | float, most: int | float | None) -> str:
    return f"{least:g} or more" if most is None else f"{least:g} to {most:g}"


class _Commands(_PlainHelp, TyperGroup): ...


def _add(commands: typer.Typer, command: Callable[..., None]) -> None:
    """Adds a command, with the examples of its docstring below its options."""
    text, _, examples = inspect.getdoc(command).partition("\n\nExamples:\n")  # pyright: ignore[reportOptionalMemberAccess]
    lines = [line.strip() for line in examples.splitlines()]
    epilog = "\n".join(["Examples:", *(f"  {line}" for line in lines)]) if lines else None
    commands.command(cls=_Command, help=text, epilog=epilog, context_settings=_HELP)(command)


app = typer.Typer(
    name="lens-scopes",
    cls=_Commands,
    context_settings=_HELP,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (attribute, compare, heads, cells, matrix, modes, flow, series, evaluate, report, show, serve, models):
    _add(app, command)


def _print_version(wanted: bool) -> bool:
    if wanted:
        print(f"lens-scopes {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def lens_scopes(
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar="", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Jacobian Scopes: find the tokens, layers and heads that made a language model predict what it predicts."""


def run_command(command: Callable[..., None], arguments: Sequence[str] | None = None) -> None:
    """Runs one more command, such as a script of its own, with the same handling of errors as `main`."""
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    _add(single, command)
    main(arguments, single)


def main(arguments: Sequence[str] | None = None, commands: typer.Typer = app) -> None:
    """Runs a command line (by default the process's own) and exits.

    Wrong input is one line on standard error and exit status 2, as is a full disk behind standard output. Ctrl-C,
    SIGTERM and SIGHUP end the work in order, with the exit statuses 130, 143 and 129. A reader that closes standard
    output early (`| head`) is exit status 1 without a word; `flow --fail-above` exits 1 too, and says why. Anything
    else is a defect of lens_scopes and shows its traceback.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    _prepare_streams()
    with _record_signals() as signals:
        try:
            if commands is app and not arguments:
                arguments = ["--help"]
            status = commands(list(arguments), prog_name=_PROGRAM, standalone_mode=False)
            sys.stdout.flush()
        except (KeyboardInterrupt, typer.Abort):
            status = INTERRUPTED  # which some versions of typer return
        except BrokenPipeError:
            _drop_output()
            status = 1
        except Exception as error:
            if signals:
                status = INTERRUPTED
            elif (message := _message_of(error)) is not None:
                _complain(message)
                status = WRONG_INPUT
                if isinstance(error, OSError):
                    _drop_output()
            else:
                raise
    if status == INTERRUPTED:
        last = signals[0] if signals else signal.SIGINT
        status = _OF_A_SIGNAL + last
        with suppress(OSError):  # SIGHUP says that the terminal is gone
            _complain("interrupted." if last == signal.SIGINT else f"ended by {last.name}.")
        if last != signal.SIGINT:
            _drop_output()
    sys.exit(status or 0)


def _message_of(error: Any) -> str | None:
    """The message of an error about wrong input; None for a defect."""
    if isinstance(error, LensScopesError):
        return str(error)
    if isinstance(error, _UsageError):
        context = getattr(error, "ctx", None)
        return (
            f"{error.format_message().rstrip('.')}. See `{context.command_path if context else 'lens-scopes'} --help`."
        )
    if isinstance(error, OSError) and error.filename is None and error.errno in _OUTPUT_ERRORS:
        return f"cannot write to standard output: {error.strerror}."
    return None


_OUTPUT_ERRORS = (errno.ENOSPC, errno.EIO, errno.EBADF, errno.EDQUOT, errno.EFBIG)


def _prepare_streams() -> None:
    """Streams that a shell has closed are null; what an encoding lacks is written as its escape."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _drop_output() -> None:
    """Python flushes standard output once more at exit, which would complain."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _record_signals() -> Iterator[list[signal.Signals]]:
    """Turns signals that end a process into KeyboardInterrupt, so that files and hooks are tidied up.

    They are noted: a library that is being imported may turn the exception into an error of its own.
    """
    signals: list[signal.Signals] = []
    last_interrupt = -_GRACE

    def interrupt(number: int, frame: object) -> None:
        nonlocal last_interrupt
        signals.append(signal.Signals(number))
        # SIGHUP and SIGTERM come in pairs, and the second is not to cut off the tidying up after the first.
        if number == signal.SIGINT or time.monotonic() - last_interrupt > _GRACE:
            last_interrupt = time.monotonic()
            raise KeyboardInterrupt

    # Whoever set another handler, or has a signal ignored as nohup has, knows what it is to do.
    names = [name for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in (signal.Signals[name] for name in names)}
    before = {number: handler for number, handler in before.items() if handler in _DEFAULT_HANDLERS}
    if threading.current_thread() is not threading.main_thread():
        before = {}  # elsewhere Python sets no handlers
    for number in before:
        signal.signal(number, interrupt)
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_DEFAULT_HANDLERS = (signal.SIG_DFL, signal.default_int_handler)
_GRACE = 5.0  # seconds
_OF_A_SIGNAL = 128


def _complain(message: str) -> None:
    print("lens-scopes: " + " ".join(message.splitlines()), file=sys.stderr)
