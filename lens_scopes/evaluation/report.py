"""A result folder as something to read: means, comparisons and curves, for pages, figures and papers."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lens_scopes.errors import EvaluationError, FileError
from lens_scopes.evaluation.formats import FORMATS
from lens_scopes.evaluation.statistics.comparison import compare_methods, mean_values
from lens_scopes.evaluation.statistics.sanity import Verdict, sanity_verdicts
from lens_scopes.evaluation.storage.results import Results, read_results
from lens_scopes.results.base import Viewable

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False, repr=False)
class EvaluationReport(Viewable):
    """What an evaluation found, with its statistics; nothing is measured again.

    Attributes:
        results: everything in the result folder.
        means: of every method, metric and ablation, with 95 % intervals; see `mean_values`.
        compared: every method against the reference; see `compare_methods`.
        reference: the method that the others are compared with.
        verdicts: on the sanity checks that the metrics allow; see `sanity_verdicts`.
    """

    results: Results
    means: pandas.DataFrame
    compared: pandas.DataFrame
    reference: str
    verdicts: list[Verdict]

    @property
    def methods(self) -> list[str]:
        """In the order in which they were named."""
        return list(dict.fromkeys(self.results.rows["method"]))

    @property
    def metrics(self) -> list[str]:
        """Those that are one number a passage."""
        return list(dict.fromkeys(self.means["metric"][self.means["fraction"].isna()]))

    @property
    def curves(self) -> list[tuple[str, str | None]]:
        """Metric and ablation of each curve."""
        points = self.means[self.means["fraction"].notna()]
        return list(dict.fromkeys(zip(points["metric"], points["ablation"], strict=True)))

    def ablations(self, metric: str) -> list[str | None]:
        """What tokens were replaced by, for one metric."""
        return list(dict.fromkeys(self.means["ablation"][self.means["metric"] == metric]))

    def to_dict(self) -> dict[str, Any]:
        """The settings, means, comparisons and verdicts as plain values; what is not a number is None."""
        return {
            "manifest": self.results.manifest,
            "sessions": self.results.sessions,
            "passages": self.results.counts(),
            "reference": self.reference,
            "means": _records(self.means),
            "comparisons": _records(self.compared),
            "sanity": [
                {name: None if value != value else value for name, value in asdict(verdict).items()}  # NaN ≠ NaN
                for verdict in self.verdicts
            ],
        }

    def to_pandas(self) -> pandas.DataFrame:
        """The rows that everything was computed from, as `load_results` gives them."""
        return self.results.rows

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a file in the format of its suffix: a page, a figure, tables, rows, or means and comparisons; see
        `FORMATS`.

        Raises:
            FileError: for another suffix, and when the file cannot be written.
        """
        from lens_scopes.results.files import write_whole

        file_format = FORMATS.get(Path(path).suffix.lower())
        if file_format is None:
            raise FileError(f"cannot tell what to write to {path}; give it one of the suffixes {' '.join(FORMATS)}.")
        write_whole(path, file_format.content(self))


def report(source: Results | str | Path, *, reference: str | None = None) -> EvaluationReport:
    """The report of a result folder.

    Args:
        source: the folder, or what `read_results` read from it.
        reference: the method that the others are compared with; the first one unless given.

    Raises:
        EvaluationError: when nothing was measured, or the reference was not.
        FileError: when the folder cannot be read.
    """
    results = source if isinstance(source, Results) else read_results(source)
    if not len(results.rows):
        reasons = results.reasons()
        some = f"; passage {min(reasons)}: {reasons[min(reasons)]}" if reasons else ""
        raise EvaluationError(f"no passage has been measured, so there is nothing to report{some}.")
    compared = compare_methods(results.rows, reference=reference)
    return EvaluationReport(
        results, mean_values(results.rows), compared, compared.attrs["reference"], sanity_verdicts(results.rows)
    )


def _records(frame: pandas.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain values; what is not a number is None."""
    plain = frame.astype(object).where(frame.notna(), None)
    return plain.to_dict("records")
