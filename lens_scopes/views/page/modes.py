"""A mode inspection as sections of a page: each mode as a contrast over the vocabulary, and what each word of the
prompt does along them, checked by replacing it."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from lens_scopes.views.page.document import Page, Section
from lens_scopes.views.page.heat_table import cell_class, legend, marks, token_html
from lens_scopes.views.page.parts import (
    alert,
    contract_section,
    heading,
    number_cell,
    provenance_section,
    sortable_table,
    text,
    text_cell,
    two_sided_bar,
)
from lens_scopes.views.words.attribution import number, prompt_text
from lens_scopes.views.words.colour import joint_scale
from lens_scopes.views.words.modes import (
    Contrast,
    contrasts,
    modes_caution,
    modes_oddities,
    modes_reading,
    removal_words,
    strongest_removals,
    weighted_amounts,
)
from lens_scopes.views.words.numbers import short_number

if TYPE_CHECKING:
    from lens_scopes.results.modes import ModeInspection, TokenReplacement

_CARDS = 6


def modes_page(modes: ModeInspection) -> Page:
    """The inspection as a page of its own."""
    prompt = prompt_text(modes)
    place = f"position {modes.position} of {len(modes.tokens)} tokens"
    kind = f"Fisher modes · <b>rank {len(modes.modes)}</b> · {text(modes.model.get('name', 'a model'))} · {place}"
    return Page(
        title=f"Modes: {prompt if len(prompt) <= 80 else '…' + prompt[-79:]} · lens_scopes",
        header=heading(modes, kind, next(iter(modes.prediction.top), None)),
        sections=(
            *modes_sections(modes),
            contract_section(modes.contract),
            provenance_section(modes),
        ),
    )


def modes_sections(modes: ModeInspection) -> list[Section]:
    """Sections `modes` and `replacements`."""
    return [_modes(modes), _removals(modes)]


def _modes(modes: ModeInspection) -> Section:
    cards = "".join(f'<div class="card">{_contrast(contrast)}</div>' for contrast in contrasts(modes))
    html = (
        f"{alert('Warnings', modes.warnings)}{alert('About these modes', modes_oddities(modes))}"
        f'<p class="lead">{escape(modes_reading())}</p><p class="lead caution">{escape(modes_caution(modes))}</p>'
        f'<div class="cards">{cards}</div>'
    )
    return Section("modes", "What the directions mean", html)


def _contrast(contrast: Contrast) -> str:
    bars = "".join(
        f'<li><span class="token"><bdi>{token_html(shift.token)}</bdi></span>'
        f"{two_sided_bar(shift.change / contrast.largest if contrast.largest else 0.0)}"
        f'<span class="value">{short_number(shift.change)}</span></li>'
        for shift in contrast.shifts
    )
    none = "No probability changes along it." if contrast.resolved else "Too small to be resolved, so not decoded."
    body = f'<ol class="bars">{bars}</ol>' if bars else f'<p class="note">{none}</p>'
    return f"<h3>Mode {contrast.index} <small>λ = {number(contrast.eigenvalue)}</small></h3>{body}"


def _removals(modes: ModeInspection) -> Section:
    cards = "".join(f'<div class="card">{_card(removal)}</div>' for removal in strongest_removals(modes)[:_CARDS])
    html = (
        '<p class="note">Each word in turn is replaced by the'
        f" {text(modes.baseline)} embedding. Bars: the change of each token’s probability, predicted through the modes"
        " above (upper) and as it really was (lower).</p>"
        f'<div class="cards">{cards}</div><h3>All words</h3>{_all_words(modes)}'
    )
    return Section("replacements", "What each word does", html)


def _card(removal: TokenReplacement) -> str:
    predicted = {shift.token_id: shift.change for shift in removal.predicted}
    sizes = [abs(shift.change) for shift in (*removal.predicted, *removal.actual) if math.isfinite(shift.change)]
    largest = max(sizes, default=0.0) or 1.0
    rows = ""
    for shift in removal.actual:
        told = predicted.get(shift.token_id)
        shown = "—" if told is None else short_number(told)
        rows += (
            f'<li><span class="token"><bdi>{token_html(shift.token)}</bdi></span>'
            f'<span class="double">{two_sided_bar((told or 0.0) / largest)}{two_sided_bar(shift.change / largest)}'
            f'</span><span class="value">{shown}<br>{short_number(shift.change)}</span></li>'
        )
    return (
        f"<h3><bdi>{text(removal_words(removal))}</bdi></h3>"
        f'<p class="note">KL predicted {number(removal.predicted_nats)}, actual {number(removal.actual_nats)} nats;'
        f" agreement (cosine of the changes) {short_number(removal.agreement)}</p>"
        f'<ol class="bars wide">{rows}</ol>'
    )


def _all_words(modes: ModeInspection) -> str:
    amounts = weighted_amounts(modes)
    scale = joint_scale([list(column) for column in zip(*amounts, strict=True)], modes.special)
    rows = []
    for removal, row in zip(modes.replacements, amounts, strict=True):
        special = modes.special[removal.index]
        cells = [
            number_cell(str(removal.index), removal.index),
            text_cell(f"<bdi>{token_html(removal.token)}</bdi>", removal.token),
        ]
        for amount in row:
            css = cell_class(amount, special, scale)
            cells.append(number_cell(f'<span class="cell {css}">{number(amount)}</span>', amount))
        for value in (removal.predicted_nats, removal.actual_nats, removal.agreement):
            cells.append(number_cell(number(value), value))
        rows.append(cells)
    headings = [
        ("#", "number"),
        ("token", "text"),
        *((f"mode {i + 1}", "number") for i in range(len(modes.modes))),
        ("predicted nats", "number"),
        ("actual nats", "number"),
        ("agreement", "number"),
    ]
    flat = [amount for row in amounts for amount in row]
    return (
        '<p class="note">Amounts are a√λ, the signed change along each mode in units where half the square is its share'
        " of the predicted nats; blue is towards the rising tokens of the mode. The buttons in the headings sort.</p>"
        f"{sortable_table('What replacing each word does', headings, rows)}"
        f"{legend(scale, marks(flat, modes.special), 'the other tokens' if any(modes.special) else 'these tokens')}"
    )
