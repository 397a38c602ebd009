"""File formats of a report by suffix: what each file holds, and how it is made.

Help, errors and `EvaluationReport.save` take suffixes and words from here. This module imports nothing heavy, so that
`--help` is quick.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from lens_scopes.results.storage.writing import utf8

if TYPE_CHECKING:
    from lens_scopes.evaluation.report import EvaluationReport


@dataclass(frozen=True)
class ReportFormat:
    """One kind of file.

    Attributes:
        suffix: of the file's name.
        holds: what is in the file, in a word or two.
        content: the file's bytes.
    """

    suffix: str
    holds: str
    content: Callable[[EvaluationReport], bytes]


def _view(suffix: str) -> Callable[[EvaluationReport], bytes]:
    return lambda report: report.to_bytes(suffix)


def _rows(report: EvaluationReport) -> bytes:
    return utf8(report.to_pandas().to_csv(index=False))


def _json(report: EvaluationReport) -> bytes:
    return utf8(json.dumps(report.to_dict(), ensure_ascii=False, indent=1)) + b"\n"


FORMATS = {
    format.suffix: format
    for format in (
        ReportFormat(".html", "page", _view(".html")),
        ReportFormat(".png", "figure", _view(".png")),
        ReportFormat(".svg", "figure", _view(".svg")),
        ReportFormat(".pdf", "figure", _view(".pdf")),
        ReportFormat(".md", "tables", _view(".md")),
        ReportFormat(".tex", "tables", _view(".tex")),
        ReportFormat(".csv", "rows", _rows),
        ReportFormat(".json", "means and comparisons", _json),
    )
}


def formats_text() -> str:
    """The suffixes with what their files hold: ".html page, .png .svg .pdf figure, …"."""
    groups = groupby(FORMATS.values(), key=lambda format: format.holds)
    return ", ".join(f"{' '.join(format.suffix for format in group)} {holds}" for holds, group in groups)
