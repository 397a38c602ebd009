"""What becomes of an evaluation: reports by suffix, JSON on standard output, or the terminal view."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from lens_scopes.cli.options.result import PANEL, check_files, write_files
from lens_scopes.evaluation.formats import FORMATS, formats_text
from lens_scopes.results.storage.writing import as_json


@dataclass(frozen=True)
class ReportOptions:
    """Where the report goes."""

    report: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help=f"Write a report in the format of its suffix: {formats_text()}; may be repeated.",
            rich_help_panel=PANEL,
        ),
    ] = None
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD",
            help="Method to compare the others with. By default the first.",
            rich_help_panel=PANEL,
            show_default=False,
        ),
    ] = None
    json: Annotated[
        bool,
        typer.Option("--json", help="Print means and comparisons as JSON and nothing else.", rich_help_panel=PANEL),
    ] = False

    def check(self) -> None:
        """Refuses what could not be written, before any work is done.

        Raises:
            FileError: for a suffix of no known kind, and a folder that is missing or cannot be written to.
        """
        check_files(self.report or [], FORMATS)

    def deliver(self, folder: Path) -> None:
        """Writes the reports, each whole or not at all, then prints JSON or the terminal view.

        Raises:
            EvaluationError: when nothing was measured, or not the reference.
            FileError: when results cannot be read or a report cannot be written.
        """
        from lens_scopes.evaluation.report import report

        evaluation = report(folder, reference=self.reference)
        write_files(self.report or [], lambda suffix: FORMATS[suffix].content(evaluation))
        if self.json:
            print(as_json(evaluation.to_dict()))
        else:
            from lens_scopes.views import print_result

            print_result(evaluation)
