"""Loads a saved result of any kind."""

from __future__ import annotations

import os

from lens_scopes.results.attribution import Attribution
from lens_scopes.results.base import Result
from lens_scopes.results.cells import CellPatches
from lens_scopes.results.flow import InformationFlow
from lens_scopes.results.heads import HeadInspection
from lens_scopes.results.influence import TotalInfluence
from lens_scopes.results.matrix import AttributionMatrix
from lens_scopes.results.modes import ModeInspection
from lens_scopes.results.series import SeriesInspection
from lens_scopes.results.storage import files

KINDS: dict[str, type[Result]] = {
    cls.kind: cls
    for cls in (
        Attribution,
        HeadInspection,
        CellPatches,
        AttributionMatrix,
        TotalInfluence,
        ModeInspection,
        InformationFlow,
        SeriesInspection,
    )
}


def load(path: str | os.PathLike[str]) -> Result:
    """Reads a result of any kind, written by its `save`.

    Args:
        path: of the file.

    Returns:
        An Attribution, HeadInspection, CellPatches, AttributionMatrix, TotalInfluence, ModeInspection,
        InformationFlow or SeriesInspection.

    Raises:
        FileError: when the file is missing, damaged, no result, or of another version.

    Example:
        >>> ls.attribute(model, "The capital of France is").save("france.safetensors")
        >>> ls.load("france.safetensors").kind
        'attribution'
    """
    return files.read(path, {kind: cls.from_record for kind, cls in KINDS.items()})
