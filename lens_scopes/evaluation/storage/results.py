"""What an evaluation found, as tidy tables."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lens_scopes.evaluation.storage.folder import ResultFolder
from lens_scopes.evaluation.storage.records import COLUMNS, MEASURED, PassageRecord
from lens_scopes.results.storage.writing import data_frame, file_path

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Results:
    """What is in a result folder.

    Attributes:
        rows: one for each passage × method × metric × ablation (× fraction of a curve), the passage's facts joined.
        records: what became of each passage, by index.
        manifest: the settings, model, data and versions.
        sessions: who wrote the results, one for each start of each process.
    """

    rows: pandas.DataFrame
    records: dict[int, PassageRecord]
    manifest: dict[str, Any]
    sessions: list[dict[str, Any]]

    def counts(self) -> dict[str, int]:
        """How many passages were measured, failed, or were too long."""
        return dict(Counter(record.status for record in self.records.values()))

    def reasons(self) -> dict[int, str]:
        """Why passages were not measured, by index."""
        return {index: record.reason or "" for index, record in self.records.items() if record.status != MEASURED}


def read_results(path: str | Path) -> Results:
    """Everything in a result folder.

    Raises:
        FileError: when it holds no evaluation, one of another format version, or a damaged line.
    """
    folder = ResultFolder.open(file_path(path))
    records = folder.records()
    return Results(_rows(records), records, folder.manifest, folder.sessions())


def load_results(path: str | Path) -> pandas.DataFrame:
    """The numbers in a result folder, one row for each passage × method × metric × ablation (× fraction of a curve).

    Args:
        path: the folder, as `out` of `evaluate` named it.

    Returns:
        A data frame with the columns `passage` (its index in the data set), `method`, `metric`, `ablation` (None where
        the metric needs none), `fraction` (NaN except for points of a curve), `value` (in the metric's unit; NaN where
        undefined, and `note` says why), `forwards` and `backwards` (rows of passes that the method's scores took),
        `note`, and the facts of the passage (`n_tokens`, `correct`, …). `attrs` counts the passages that were measured,
        failed or were too long.

    Raises:
        FileError: when the folder holds no evaluation, one of another format version, or a damaged line.

    Example:
        >>> texts = ["The capital of France is Paris", "The capital of Italy is Rome"]
        >>> rows = ls.evaluate(model, texts, methods=["fisher"], metrics=["first-token"], out="results")
        >>> ls.load_results("results").equals(rows), rows.attrs
        (True, {'measured': 2})
    """
    return read_results(path).rows


def _rows(records: dict[int, PassageRecord]) -> pandas.DataFrame:

    complete = [record for record in records.values() if record.status == MEASURED]
    # Passages may have facts that others lack: one column for each name.
    facts = dict.fromkeys(name for record in complete for name in record.facts)
    lines = [
        (record.passage, m.method, m.metric, m.ablation, m.fraction, m.value, m.forwards, m.backwards, m.note)
        + tuple(record.facts.get(name) for name in facts)
        for record in complete
        for m in record.measurements
    ]
    rows = data_frame(lines, columns=[*COLUMNS, *facts])
    rows = rows.astype({"passage": "int64", "fraction": "float64", "value": "float64"})
    for name in ("forwards", "backwards"):
        rows[name] = rows[name].astype("int64")
    # pandas reads None as NaN.
    for name in ("ablation", "note", "correct"):
        if name in rows:
            rows[name] = rows[name].astype(object).where(rows[name].notna(), None)
    rows.attrs = dict(Counter(record.status for record in records.values()))
    return rows
