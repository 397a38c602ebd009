"""Sections of a mode inspection: each mode as a contrast over the vocabulary, and what each word does along them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lens_scopes.results.modes import percentage_points
from lens_scopes.views.words.attribution import following, prompt_text
from lens_scopes.views.words.colour import joint_scale
from lens_scopes.views.words.modes import (
    Contrast,
    contrasts,
    modes_caveat,
    modes_data_warnings,
    modes_interpretation,
    replacement_words,
    strongest_replacements,
    weighted_amounts,
)
from lens_scopes.views.words.numbers import number, short_number
from lens_scopes.views.words.pages.attribution import prompt
from lens_scopes.views.words.pages.parts.blocks import (
    Block,
    Section,
    alerts,
    bars,
    cards,
    contract_section,
    heading,
    kind,
    lead,
    legend,
    level,
    note,
    number_cell,
    provenance_section,
    table,
    text_cell,
    token,
)
from lens_scopes.views.words.token_text import inline_token

if TYPE_CHECKING:
    from lens_scopes.results.modes import ModeInspection, TokenReplacement

_CARDS, _TOLD = 6, 3  # words with a card, and in the summary
_BARS = 4  # tokens of a card


def page_title(modes: ModeInspection) -> str:
    """The title of the window."""
    text = prompt_text(modes)
    return f"Modes: {text if len(text) <= 80 else '…' + text[-79:]}"


def header(modes: ModeInspection) -> list[Block]:
    """What was inspected."""
    name = inline_token(str(modes.model.get("name", "a model")))
    place = f"position {modes.position} of {len(modes.tokens)} tokens"
    return [
        kind("Fisher modes · ", {"bold": f"rank {len(modes.modes)}"}, f" · {name} · {place}"),
        prompt(modes, following(modes)),
    ]


def sections(modes: ModeInspection) -> list[Section]:
    """Sections `modes`, `replacements`, `contract`, `details`."""
    return [_modes(modes), _replacements(modes), contract_section(modes.contract), provenance_section(modes)]


def _modes(modes: ModeInspection) -> Section:
    blocks = [
        *alerts("Warnings", modes.warnings),
        *alerts("About these modes", modes_data_warnings(modes)),
        lead(modes_interpretation()),
        lead(modes_caveat(modes), quiet=True),
        cards(_contrast(contrast) for contrast in contrasts(modes)),
    ]
    return Section("modes", "What the directions mean", blocks)


def _contrast(contrast: Contrast) -> list[Block]:
    items = [
        {
            "label": token(shift.token),
            "values": [short_number(shift.change)],
            "shares": [shift.change / contrast.largest if contrast.largest else 0.0],
            "middle": True,
        }
        for shift in contrast.shifts
    ]
    head = heading(f"Mode {contrast.index}", f"λ = {number(contrast.eigenvalue)}")
    none = "No probability changes along it." if contrast.resolved else "Too small to be resolved, so not decoded."
    return [head, bars(items) if items else note(none)]


def _replacements(modes: ModeInspection) -> Section:
    text = (
        f"Each word in turn is replaced by the {inline_token(modes.baseline)} embedding. Bars: the change of each"
        " token’s probability, predicted through the modes above (upper) and as it really was (lower)."
    )
    replacements = strongest_replacements(modes)
    strongest = cards(_card(item) for item in replacements[:_CARDS])
    sentences = (
        "; ".join(inline_token(replacement_words(item)) for item in replacements[:_TOLD]) or "No word has an effect"
    )
    blocks = [note(text), strongest, heading("All words"), *_all(modes)]
    return Section("replacements", "What each word does", blocks, summary=f"{sentences}.")


def _card(item: TokenReplacement) -> list[Block]:
    predicted = {shift.token_id: shift.change for shift in item.predicted}
    sizes = [abs(shift.change) for shift in (*item.predicted, *item.actual) if math.isfinite(shift.change)]
    largest = max(sizes, default=0.0) or 1.0
    rows = []
    for shift in item.actual[:_BARS]:
        told = predicted.get(shift.token_id)
        shares = [(told or 0.0) / largest, shift.change / largest]
        rows.append(
            {
                "label": token(shift.token),
                "values": ["—" if told is None else percentage_points(told), percentage_points(shift.change)],
                "shares": [share if math.isfinite(share) else 0.0 for share in shares],
                "middle": True,
            }
        )
    text = (
        f"KL predicted {number(item.predicted_nats)}, actual {number(item.actual_nats)} nats;"
        f" agreement (cosine of the changes) {short_number(item.agreement)}"
    )
    return [heading(inline_token(replacement_words(item))), note(text), bars(rows, "wide")]


def _all(modes: ModeInspection) -> list[Block]:
    amounts = weighted_amounts(modes)
    scale = joint_scale([list(column) for column in zip(*amounts, strict=True)], modes.special)
    rows = []
    for item, row in zip(modes.replacements, amounts, strict=True):
        special = modes.special[item.index]
        cells = [number_cell(str(item.index), item.index), text_cell(token(item.token), item.token)]
        cells += [number_cell(number(amount), amount, level(amount, special, scale)) for amount in row]
        cells += [number_cell(number(v), v) for v in (item.predicted_nats, item.actual_nats, item.agreement)]
        rows.append(cells)
    names = [("#", "number"), ("token", "text"), *((f"mode {i + 1}", "number") for i in range(len(modes.modes)))]
    names += [(name, "number") for name in ("predicted nats", "actual nats", "agreement")]
    text = (
        "Amounts are a√λ, the signed change along each mode in units where half the square is its share of the"
        " predicted nats; blue is towards the rising tokens of the mode. The buttons in the headings sort."
    )
    broken = not all(math.isfinite(amount) for row in amounts for amount in row)
    of = "the other tokens" if any(modes.special) else "these tokens"
    return [
        note(text),
        table("What replacing each word does", names, rows),
        legend(scale, of, modes.special, broken),
    ]
