"""What becomes of an attribution: as for other results, with its scores in groups and other results beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lens_scopes.cli.options.result import PANEL, ResultOptions, content_of, json_file, write_files
from lens_scopes.errors import PromptError
from lens_scopes.prompts.groups import UNITS
from lens_scopes.results.storage.writing import as_json, utf8

if TYPE_CHECKING:
    from lens_scopes.results.attribution import Attribution


@dataclass(frozen=True)
class OutputOptions(ResultOptions):
    """Where an attribution goes."""

    group: Annotated[
        str,
        typer.Option(
            metavar="UNIT",
            help=f"Sum token scores by {', '.join(UNITS[1:-1])} or {UNITS[-1]}: on the terminal, on the page and in "
            ".csv; JSON has the sums beside the tokens.",
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
        super().check()

    def deliver(self, attribution: Attribution, companions: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Writes the files, each whole or not at all, then prints JSON or the terminal view.

        Args:
            attribution: the result.
            companions: other results on the same prompt, by kind: they go on the page, into JSON and the terminal.

        Raises:
            FileError: when a file cannot be written after all.
        """
        write_files(self.out or [], lambda suffix: self._content(attribution, companions, suffix))
        if self.json:
            print(as_json(self._plain(attribution, companions)))
            return
        from lens_scopes.views import print_result

        print_result(attribution, group=self.group, contract=self.contract)
        for result in companions.values():
            print()
            print_result(result, contract=self.contract)

    def _content(self, attribution: Attribution, companions: Mapping[str, Any], suffix: str) -> bytes:
        """The contents of a file of a suffix; other kinds than these hold the attribution alone."""
        if suffix == ".html":
            from lens_scopes.views import attribution_page

            return utf8(attribution_page(attribution, **companions, group=self.group).to_html())
        if suffix == ".json":
            return json_file(self._plain(attribution, companions))
        if suffix == ".csv" and self.group != "token":
            return utf8(attribution.group(self.group).to_csv(index=False))
        return content_of(attribution, suffix)

    def _plain(self, attribution: Attribution, companions: Mapping[str, Any]) -> dict[str, Any]:
        """The whole result, with `groups` beside the tokens where asked for, and companions under their kinds."""
        plain = attribution.to_dict() | {kind: result.to_dict() for kind, result in companions.items()}
        if self.group != "token":
            plain["groups"] = attribution.group(self.group).to_dict("records")
        return plain
