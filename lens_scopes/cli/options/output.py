"""What becomes of a result: files by suffix, JSON on standard output, or the terminal view."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lens_scopes.errors import FileError, PromptError
from lens_scopes.prompts.groups import UNITS
from lens_scopes.results.writing import as_json, check_writable, utf8, write_whole

if TYPE_CHECKING:
    from lens_scopes.results.attribution import Attribution

PANEL = "Output"


@dataclass(frozen=True)
class OutputOptions:
    """Where the result goes."""

    out: Annotated[
        list[Path] | None,
        typer.Option(
            help="Write the result to a file in the format of its suffix: .html page, .safetensors result, .png .svg "
            ".pdf figure, .csv table, .json; may be repeated.",
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
    group: Annotated[
        str,
        typer.Option(
            metavar="|".join(UNITS),
            help="Sum token scores over words, lines, sentences, paragraphs or chat messages: on the terminal, on the "
            "page and in .csv; JSON has the sums beside the tokens.",
            rich_help_panel=PANEL,
        ),
    ] = "token"

    def check(self) -> None:
        """Refuses what could not be written, before any work is done.

        Raises:
            FileError: for a suffix of no known kind, and a folder that is missing or cannot be written to.
            PromptError: for an unknown grouping.
        """
        if self.group not in UNITS:
            raise PromptError(f"unknown grouping {self.group!r}; give --group {', '.join(UNITS[:-1])} or {UNITS[-1]}.")
        check_files(self.out or [], _WRITERS)

    def deliver(self, attribution: Attribution, companions: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Writes the files, each whole or not at all, then prints JSON or the terminal view.

        Args:
            attribution: the result.
            companions: other results on the same prompt, by kind: they go on the page, into JSON and the terminal.

        Raises:
            FileError: when a file cannot be written after all.
        """
        for path in self.out or []:
            with redirect_stdout(sys.stderr):  # standard output carries the result alone
                _WRITERS[path.suffix.lower()](attribution, path, self.group, companions)
            print(f"lens-scopes: wrote {path}", file=sys.stderr)
        if self.json:
            print(as_json(_plain(attribution, self.group, companions)))
            return
        from lens_scopes.views import print_result

        print_result(attribution, group=self.group, contract=self.contract)
        for result in companions.values():
            print()
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


def _plain(attribution: Attribution, group: str, companions: Mapping[str, Any]) -> dict[str, Any]:
    """The whole result, with `groups` beside the tokens where asked for, and every companion under its kind."""
    plain = attribution.to_dict() | {kind: result.to_dict() for kind, result in companions.items()}
    if group != "token":
        plain["groups"] = attribution.group(group).to_dict("records")
    return plain


def _write_page(attribution: Attribution, path: Path, group: str, companions: Mapping[str, Any]) -> None:
    from lens_scopes.views import attribution_page

    write_whole(path, utf8(attribution_page(attribution, **companions, group=group).to_html()))


def _write_result(attribution: Attribution, path: Path, group: str, companions: Mapping[str, Any]) -> None:
    attribution.save(path)


def _write_figure(attribution: Attribution, path: Path, group: str, companions: Mapping[str, Any]) -> None:
    from lens_scopes.views import figure_bytes

    write_whole(path, figure_bytes(attribution, path.suffix[1:].lower()))


def _write_table(attribution: Attribution, path: Path, group: str, companions: Mapping[str, Any]) -> None:
    frame = attribution.to_pandas() if group == "token" else attribution.group(group)
    write_whole(path, utf8(frame.to_csv(index=False)))


def _write_json(attribution: Attribution, path: Path, group: str, companions: Mapping[str, Any]) -> None:
    write_whole(path, as_json(_plain(attribution, group, companions)).encode("utf-8") + b"\n")


_WRITERS: dict[str, Callable[[Attribution, Path, str, Mapping[str, Any]], None]] = {
    ".html": _write_page,
    ".safetensors": _write_result,
    ".png": _write_figure,
    ".svg": _write_figure,
    ".pdf": _write_figure,
    ".csv": _write_table,
    ".json": _write_json,
}
