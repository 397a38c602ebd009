"""Sections of a comparison of two attributions: the difference, then each side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lens_scopes.views.words.attribution import prompt_text, unit_of_score
from lens_scopes.views.words.comparison import (
    change_text,
    change_unit,
    comparison_warnings,
    pair_text,
    side_lines,
    whose,
)
from lens_scopes.views.words.numbers import number
from lens_scopes.views.words.pages.attribution import about
from lens_scopes.views.words.pages.parts.blocks import (
    Block,
    Section,
    alerts,
    bar_cell,
    contract_section,
    details_section,
    kind,
    note,
    number_cell,
    reference,
    table,
    text_cell,
    token,
)

if TYPE_CHECKING:
    from lens_scopes.results.attribution import Attribution
    from lens_scopes.results.comparison import Comparison


def page_title(comparison: Comparison) -> str:
    """The title of the window."""
    return f"Comparison: {_heading(comparison)}"


def results(comparison: Comparison) -> tuple[Comparison, Attribution, Attribution]:
    """The results that the sections are of, by `Section.part`."""
    return comparison, comparison.a, comparison.b


def header(comparison: Comparison) -> list[Block]:
    """What is compared."""
    return [
        kind("Comparison"),
        {"type": "prompt", "text": _heading(comparison)},
        *[kind({"bold": letter}, f" · {objective} · {prompt}") for letter, objective, prompt in side_lines(comparison)],
        *alerts("Warnings", comparison_warnings(comparison)),
    ]


def sections(comparison: Comparison) -> list[Section]:
    """Sections `difference`, `side-a`, `side-b`, `contract`, `details`."""
    a, b = comparison.a, comparison.b
    return [
        _difference(comparison),
        _side("a", a, 1),
        _side("b", b, 2),
        contract_section(comparison.contract),
        details_section({"A": a.model, "B": b.model}, {"A": a.settings, "B": b.settings}, a.versions),
    ]


def _heading(comparison: Comparison) -> str:
    texts = list(dict.fromkeys(prompt_text(side) for side in (comparison.a, comparison.b)))
    return " | ".join(text if len(text) <= 120 else "…" + text[-119:] for text in texts)


def _difference(comparison: Comparison) -> Section:
    pairs = comparison.pairs
    largest = max((abs(pair.change) for pair in pairs if pair.change is not None), default=0.0)
    strip: Block = {
        "type": "strip",
        "id": "difference-strip",
        "values": [pair.change for pair in pairs],
        "about": [pair_text(pair) for pair in pairs],
        "of": "these differences",
        "label": "The tokens of both texts, coloured by the difference of their scores",
        "broken": "only in one prompt",
    }
    rows = [
        [
            text_cell(token(pair.token), pair.token),
            *(number_cell("—" if score is None else number(score), score) for score in (pair.score_a, pair.score_b)),
            number_cell(change_text(pair), pair.change),
            text_cell(whose(pair), whose(pair), "prose")
            if whose(pair)
            else bar_cell((pair.change or 0.0) / (largest or 1.0), "graph"),
        ]
        for pair in pairs
    ]
    columns = [("token", "text"), ("A", "number"), ("B", "number"), ("B − A", "number"), ("", "")]
    numbers = table("Scores of each token in A and in B", columns, rows, comparison.special)
    text = f"{change_unit(comparison)}. Blue: more in B; orange: more in A."
    return Section("difference", "Difference", [note(text), strip, numbers])


def _side(letter: str, side: Attribution, part: int) -> Section:
    strip: Block = {
        "type": "strip",
        "id": f"strip-{letter}",
        "values": reference("scores"),
        "unit": unit_of_score(side),
        "of": "the other tokens" if any(side.special) else "these tokens",
        "label": f"The prompt of {letter.upper()}, coloured by influence",
    }
    return Section(f"side-{letter}", letter.upper(), [kind(*about(side)), strip], part=part)
