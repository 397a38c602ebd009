"""The page of a result, and of several results of one prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lens_scopes.views.page.document import Page
from lens_scopes.views.words.attribution import answer_of, prompt_text
from lens_scopes.views.words.pages.parts.blocks import FurtherContract, alerts, contract_section

if TYPE_CHECKING:
    from lens_scopes.results.attribution import Attribution
    from lens_scopes.results.cells import CellPatches
    from lens_scopes.results.flow import InformationFlow
    from lens_scopes.results.heads import HeadInspection
    from lens_scopes.results.influence import TotalInfluence
    from lens_scopes.results.matrix import AttributionMatrix
    from lens_scopes.results.modes import ModeInspection
    from lens_scopes.results.series import SeriesInspection

_WORDS = {
    "Attribution": "attribution",
    "Comparison": "comparison",
    "HeadInspection": "heads",
    "CellPatches": "cells",
    "AttributionMatrix": "matrix",
    "TotalInfluence": "influence",
    "ModeInspection": "modes",
    "EvaluationReport": "evaluation",
    "InformationFlow": "flow",
    "SeriesInspection": "series",
    "FlowCalibration": "calibration",
}
_OF = {
    "heads": "the heads",
    "cells": "the cells",
    "matrix": "source × target",
    "modes": "the modes",
    "influence": "the total influence",
    "flow": "the information flow",
    "series": "the series",
}
_SHARED = ("contract", "details")


def page_of(result: Any) -> Page:
    """The page of any result alone."""
    words = _words(result)
    results = words.results(result) if hasattr(words, "results") else (result,)
    return Page(
        f"{words.page_title(result)} · lens_scopes", words.header(result), tuple(words.sections(result)), results
    )


def attribution_page(
    attribution: Attribution,
    heads: HeadInspection | None = None,
    matrix: AttributionMatrix | None = None,
    modes: ModeInspection | None = None,
    influence: TotalInfluence | None = None,
    cells: CellPatches | None = None,
    flow: InformationFlow | None = None,
    series: SeriesInspection | None = None,
    *,
    later: Sequence[str] = (),
    group: str = "token",
) -> Page:
    """The attribution as a page of sections: tokens, prediction, scores, layers, other sites; then heads, source ×
    target, modes, cells, information flow and series, each with its finding first and its details folded; the contract
    of all, and details.

    The sections for layers and other sites are there where the attribution has them. Add your own with
    `Page.with_section`.

    Args:
        attribution: what the page is about.
        heads, matrix, modes, influence, cells, flow, series: other results on the same prompt, each with its contract,
            shown on the same page. Where one is about another prompt, position or model, the page says so.
        later: tokens of the prompt after the position explained, for a page where a reader can choose them.
        group: what the strip of tokens is folded by at first: "token", or as for `Attribution.group` the name of a
            grouping. A reader can choose another.

    Raises:
        PromptError: for a grouping that these tokens do not have.
    """
    others = {
        "heads": heads,
        "matrix": matrix,
        "modes": modes,
        "influence": influence,
        "cells": cells,
        "flow": flow,
        "series": series,
    }
    companions = {kind: result for kind, result in others.items() if result is not None}
    if group != "token":
        attribution.groups(group)
    own = _words(attribution).sections(attribution, with_heads=heads is not None, later=later, group=group)
    sections = [section for section in own if section.key not in _SHARED]
    for place, (kind, result) in enumerate(companions.items(), start=1):
        # The influence has the way through generated text itself, and the matrix one that begins at its end.
        shown_once = (*_SHARED, "chain") if kind == "matrix" and influence is not None else _SHARED
        first, *rest = [section for section in _words(result).sections(result) if section.key not in shown_once]
        differences = alerts("Mind the difference", _differences(attribution, result))
        sections.append(replace(first, part=place, blocks=[*differences, *first.blocks]))
        # What a further result found is in sight, and how it was found a click away.
        sections += [replace(section, part=place, folded=bool(section.summary)) for section in rest]
    contracts = [FurtherContract(_OF[kind], result.contract, result.settings) for kind, result in companions.items()]
    details = [section for section in own if section.key == "details"]
    return replace(
        page_of(attribution),
        sections=(*sections, contract_section(attribution.contract, contracts), *details),
        results=(attribution, *companions.values()),
    )


def _words(result: Any) -> Any:
    """The module with the sections of a result; results are told apart by the name of their class."""
    for kind in type(result).__mro__:
        if kind.__name__ in _WORDS:
            return import_module(f"lens_scopes.views.words.pages.{_WORDS[kind.__name__]}")
    raise TypeError(f"there is no page of a {type(result).__name__}; results of lens_scopes have one")


def _prompt_tokens(result: Any) -> list[str]:
    """The tokens up to the position explained, without those of answers after it."""
    return result.tokens if answer_of(result) is None else result.tokens[: result.position + 1]


def _differences(attribution: Attribution, other: Any) -> list[str]:
    """What a reader must know where another result is not about the same tokens of the same model."""
    notes = []
    covers_more = hasattr(other, "destinations") or hasattr(other, "through")
    mine = _prompt_tokens(attribution)
    if (other.tokens[: len(mine)] if covers_more else _prompt_tokens(other)) != mine:
        notes.append(f"This part is about another prompt or position: {prompt_text(other)}")
    if other.model.get("name") != attribution.model.get("name"):
        notes.append(f"This part is about another model: {other.model.get('name')}")
    return notes
