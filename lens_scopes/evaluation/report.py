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
    """The results of an evaluation with their statistics, from `report`.

    `to_html`, `figure`, `show` and `save` present it; `to_pandas` gives the rows behind it.

    Attributes:
        results: everything in the result folder.
        means: a row for each method, metric and ablation, in the metric's unit, with 95% bootstrap intervals over
            passages; see `mean_values`.
        compared: a row for each method against the reference: mean paired difference, effect size, and Wilcoxon's p
            corrected after Holm; see `compare_methods`.
        reference: the method that the others are compared with.
        verdicts: on the sanity checks that the metrics allow; see `sanity_verdicts`.

    Example:
        >>> texts = ["The capital of France is Paris", "The capital of Italy is Rome"]
        >>> settings = {"methods": ["fisher", "random"], "metrics": ["aopc", "first-token"], "out": "results"}
        >>> rows = ls.evaluate(model, texts, **settings)
        >>> evaluation = ls.report("results")
        >>> evaluation.methods, evaluation.metrics, evaluation.ablations("aopc")
        (['fisher', 'random'], ['aopc', 'first-token'], ['zero'])
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
        from lens_scopes.results.storage.writing import write_whole

        file_format = FORMATS.get(Path(path).suffix.lower())
        if file_format is None:
            raise FileError(f"cannot tell what to write to {path}; give it one of the suffixes {' '.join(FORMATS)}.")
        write_whole(path, file_format.content(self))


def report(source: Results | str | Path, *, reference: str | None = None) -> EvaluationReport:
    """Computes the statistics of a result folder: means, paired comparisons and sanity verdicts; nothing is measured.

    Args:
        source: the folder, or what `read_results` read from it.
        reference: the method that the others are compared with. By default the first.

    Returns:
        An EvaluationReport, which draws itself and saves itself as a page, a figure or tables.

    Raises:
        EvaluationError: when nothing was measured, or the reference was not.
        FileError: when the folder cannot be read.

    Example:
        >>> texts = [f"The capital of {country} is Paris" for country in ("France", "Italy")]
        >>> rows = ls.evaluate(model, texts, methods=["fisher", "random"], metrics=["aopc"], out="results")
        >>> evaluation = ls.report("results", reference="random")
        >>> evaluation.compared[["method", "reference", "pairs"]].values.tolist()[0]
        ['fisher', 'random', 2]
        >>> evaluation.save("tables.tex")
    """
    if not isinstance(reference, str | None):
        raise EvaluationError(f"the reference is the name of a method; got {type(reference).__name__}.")
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
