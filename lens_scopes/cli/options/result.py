"""Where results go: files by suffix, JSON on standard output, or the terminal view."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from lens_scopes.errors import FileError
from lens_scopes.results.storage.writing import as_json, check_writable, utf8, write_whole

PANEL = "Output"
RESULT_SUFFIXES = (".html", ".safetensors", ".json", ".csv", ".png", ".svg", ".pdf")


Contract = Annotated[
    bool,
    typer.Option(
        "--contract",
        help="Also print what the scores claim: the output explained, the eligible features, the generative "
        "process, what is held fixed, and the formula.",
        rich_help_panel=PANEL,
    ),
]


@dataclass(frozen=True)
class ResultOptions:
    """Where the result goes."""

    out: Annotated[
        list[Path] | None,
        typer.Option(
            help="Write the result to a file in the format of its suffix: .html page, .safetensors result, .json, "
            ".csv table, .png .svg .pdf figure; may be repeated.",
            rich_help_panel=PANEL,
        ),
    ] = None
    json: Annotated[
        bool,
        typer.Option("--json", help="Print the whole result as JSON and nothing else.", rich_help_panel=PANEL),
    ] = False
    contract: Contract = False

    def check(self) -> None:
        """Refuses what could not be written, before any work is done.

        Raises:
            FileError: for a suffix of no known kind, and a folder that is missing or cannot be written to.
        """
        check_files(self.out or [], RESULT_SUFFIXES)

    def deliver(self, result: Any) -> None:
        """Writes the files, each whole or not at all, then prints JSON or the terminal view.

        Raises:
            FileError: when a file cannot be written after all.
        """
        from lens_scopes.views import print_result

        write_files(self.out or [], lambda suffix: content_of(result, suffix))
        if self.json:
            print(as_json(result.to_dict()))
        else:
            print_result(result, contract=self.contract)


def check_files(paths: Iterable[Path], suffixes: Iterable[str]) -> None:
    """Refuses files of another kind and places that cannot be written to.

    Raises:
        FileError: for the first such file.
    """
    for path in paths:
        if path.suffix.lower() not in suffixes:
            raise FileError(f"cannot tell what to write to {path}; give it one of the suffixes {' '.join(suffixes)}.")
        check_writable(path)


def write_files(paths: Iterable[Path], content: Callable[[str], bytes]) -> None:
    """Writes files, each whole or not at all, and says so on standard error.

    Args:
        content: what a file of a suffix holds.

    Raises:
        FileError: when a file cannot be written.
    """
    for path in paths:
        with redirect_stdout(sys.stderr):  # standard output carries the result alone
            write_whole(path, content(path.suffix.lower()))
        print(f"lens-scopes: wrote {path}", file=sys.stderr)


def json_file(plain: Any) -> bytes:
    """The contents of a JSON file."""
    return as_json(plain).encode("utf-8") + b"\n"


def content_of(result: Any, suffix: str) -> bytes:
    """A result as the contents of a file of a suffix."""
    if suffix == ".html":
        return utf8(result.to_html())
    if suffix == ".safetensors":
        return result.to_safetensors()
    if suffix == ".json":
        return json_file(result.to_dict())
    if suffix == ".csv":
        return utf8(result.to_pandas().to_csv(index=False))
    from lens_scopes.views import figure_bytes

    return figure_bytes(result, suffix[1:])
