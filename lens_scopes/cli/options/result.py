"""Where heads, matrices, modes and flows go: files by suffix, JSON on standard output, or the terminal view."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from lens_scopes.cli.options.output import PANEL, check_files
from lens_scopes.results.writing import as_json, utf8, write_whole

_SUFFIXES = (".html", ".safetensors", ".json", ".csv", ".png", ".svg", ".pdf")


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
    contract: Annotated[
        bool,
        typer.Option(
            "--contract",
            help="Also print what the scores claim: the output explained, the eligible features, the generative "
            "process, what is held fixed, and the formula.",
            rich_help_panel=PANEL,
        ),
    ] = False

    def check(self) -> None:
        """Refuses what could not be written, before any work is done.

        Raises:
            FileError: for a suffix of no known kind, and a folder that is missing or cannot be written to.
        """
        check_files(self.out or [], _SUFFIXES)

    def deliver(self, result: Any) -> None:
        """Writes the files, each whole or not at all, then prints JSON or the terminal view.

        Raises:
            FileError: when a file cannot be written after all.
        """
        from lens_scopes.views import print_result

        for path in self.out or []:
            with redirect_stdout(sys.stderr):  # standard output carries the result alone
                write_whole(path, _content(result, path.suffix.lower()))
            print(f"lens-scopes: wrote {path}", file=sys.stderr)
        if self.json:
            print(as_json(result.to_dict()))
        else:
            print_result(result, contract=self.contract)


def _content(result: Any, suffix: str) -> bytes:
    if suffix == ".html":
        return utf8(result.to_html())
    if suffix == ".safetensors":
        return result.to_safetensors()
    if suffix == ".json":
        return as_json(result.to_dict()).encode("utf-8") + b"\n"
    if suffix == ".csv":
        return utf8(result.to_pandas().to_csv(index=False))
    from lens_scopes.views import figure_bytes

    return figure_bytes(result, suffix[1:])
