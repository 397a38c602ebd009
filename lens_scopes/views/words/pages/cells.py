"""Sections of patched cells: the layers × tokens map with the patched cells marked, and predictions against patches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lens_scopes.views.words.attribution import following, short_names, title
from lens_scopes.views.words.changes import (
    cells_agreement,
    cells_caveat,
    cells_data_warnings,
    cells_interpretation,
    changes_of_cells,
    unit_of_change,
)
from lens_scopes.views.words.numbers import number
from lens_scopes.views.words.pages.attribution import about, answer_notes, prompt
from lens_scopes.views.words.pages.parts.alignment import alignment_blocks
from lens_scopes.views.words.pages.parts.blocks import (
    Block,
    Section,
    alerts,
    contract_section,
    heat_map,
    kind,
    lead,
    note,
    provenance_section,
    reference,
)
from lens_scopes.views.words.pages.parts.changes import Comparison
from lens_scopes.views.words.token_text import inline_token, printable_token

if TYPE_CHECKING:
    from lens_scopes.results.cells import CellPatches


def page_title(patches: CellPatches) -> str:
    """The title of the window."""
    return f"Cells: {title(patches)}"


def header(patches: CellPatches) -> list[Block]:
    """What was patched."""
    return [kind("Cells · ", *about(patches)), prompt(patches, following(patches))]


def sections(patches: CellPatches) -> list[Section]:
    """Sections `cells`, `patches`, `contract`, `details`."""
    parts = [_map(patches)]
    if patches.cells:
        parts.append(_patches(patches))
    return [*parts, contract_section(patches.contract), provenance_section(patches)]


def _map(patches: CellPatches) -> Section:
    names, length = short_names(patches.layer_names), patches.position + 1
    cell_map = heat_map(
        "cells",
        "Predicted change when a cell is set to its value under the other prompt",
        "layer",
        names,
        reference("effect"),
        marks=[[cell.layer, cell.position, f"patched: {number(cell.actual)}"] for cell in patches.cells],
        by_all=True,
        unit=unit_of_change(patches),
    )
    text = (
        f"In {unit_of_change(patches)}. Rows are layers of the residual stream, from the first"
        f" ({patches.layer_names[0]}) to the last ({patches.layer_names[-1]}). Framed cells were patched for real."
    )
    blocks = [
        kind({"bold": inline_token(patches.objective)}, " · against another prompt"),
        *alerts("Warnings", patches.warnings),
        *alerts("About these changes", cells_data_warnings(patches)),
        *alignment_blocks(patches.tokens[:length], patches.baseline_tokens[:length]),
        *answer_notes(patches),
        lead(cells_interpretation(patches)),
        lead(cells_caveat(), quiet=True),
        note(text),
        cell_map,
    ]
    return Section("cells", "Layers × tokens, against the other prompt", blocks)


def _patches(patches: CellPatches) -> Section:
    others = [printable_token(cell.other_token) if cell.other_token != cell.token else "" for cell in patches.cells]
    unit = unit_of_change(patches)
    more = (("the other’s", others),) if any(others) else ()
    comparison = Comparison("cell", unit, changes_of_cells(patches), {}, ("cell",), more)
    text = f"Change in {unit} when a cell is set to its value under the other prompt"
    blocks = [lead(cells_agreement(patches)), *comparison.blocks(text)]
    return Section("patches", "Checked by patching", blocks, summary=cells_agreement(patches))
