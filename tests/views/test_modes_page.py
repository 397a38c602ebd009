"""Modes as a page: contrasts as two-sided bars, what each word does, predicted beside actual."""

import math
import re
from dataclasses import replace
from typing import Any

import pytest
from fake_attribution import GERMAN_TOKENS, HOSTILE_TOKENS
from fake_results import fake_modes
from html_document import Document

import lens_scopes as ls
from lens_scopes.results.modes import FisherMode, ModeInspection, ProbabilityChange
from lens_scopes.views import page_of, to_html
from lens_scopes.views.page.heat_table import token_html
from lens_scopes.views.words.attribution import number
from lens_scopes.views.words.modes import contrasts, removal_words, strongest_removals, weighted_amounts
from lens_scopes.views.words.numbers import short_number


def section(modes: ModeInspection, key: str) -> Any:
    (found,) = [part for part in page_of(modes).sections if part.key == key]
    return found


def test_each_mode_is_a_two_sided_contrast() -> None:
    modes = fake_modes()
    html = section(modes, "modes").html
    cards = html.split('<div class="card">')[1:]
    assert len(cards) == 2
    for index, (card, mode) in enumerate(zip(cards, modes.modes, strict=True), start=1):
        assert f"Mode {index} <small>λ = {number(mode.eigenvalue)}</small>" in card
        shifts = [*mode.rising, *reversed(mode.falling)]
        largest = max(abs(shift.change) for shift in shifts)
        kept = [shift for shift in shifts if abs(shift.change) >= 0.01 * largest]
        lines = re.findall(r"<li>(.*?)</li>", card)
        assert len(lines) == len(kept)
        for line, shift in zip(lines, kept, strict=True):
            assert f"<bdi>{token_html(shift.token)}</bdi>" in line
            assert f">{short_number(shift.change)}</span>" in line
            assert f"width:{50 * abs(shift.change) / largest:.2f}%" in line
            left = 50 - 50 * abs(shift.change) / largest if shift.change < 0 else 50
            assert f"margin-left:{left:.2f}%" in line
            assert ("bar negative" in line) == (shift.change < 0)


def test_words_are_told_by_their_actual_effect_with_predicted_beside_actual() -> None:
    modes = fake_modes()
    html = section(modes, "replacements").html
    cards = html.split('<div class="card">')[1:]
    assert len(cards) == 6
    assert "&#x27;\u00a0Sofa&#x27; moves mass from &#x27;\u00a0couch&#x27; to &#x27;\u00a0sofa&#x27;" in cards[0]
    removal = modes.replacements[9]
    assert "KL predicted 0.2000, actual 0.5000 nats; agreement (cosine of the changes) 0.95" in cards[0]
    lines = re.findall(r"<li>(.*?)</li>", cards[0])
    assert len(lines) == len(removal.actual)
    assert f"{short_number(-0.2)}<br>{short_number(-0.4)}" in lines[0]
    widths = [float(width) for width in re.findall(r"width:([\d.]+)%", lines[0])]
    assert widths == [25.0, 50.0]
    assert "—<br>0.008" in lines[3]
    assert "special" not in "".join(removal_words(item) for item in strongest_removals(modes))
    assert all(not modes.special[item.index] for item in strongest_removals(modes))


def test_the_table_has_every_word_with_its_amounts() -> None:
    modes = fake_modes()
    html = section(modes, "replacements").html
    rows = re.findall(r"<tr><td (.*?)</tr>", html)
    assert len(rows) == 18
    for row, removal, amounts in zip(rows, modes.replacements, weighted_amounts(modes), strict=True):
        assert amounts == [a * math.sqrt(m.eigenvalue) for a, m in zip(removal.amounts, modes.modes, strict=True)]
        for value in (*amounts, removal.predicted_nats, removal.actual_nats, removal.agreement):
            assert f'data-value="{value!r}"' in row
    assert 'class="cell s"' in rows[0] and 'class="cell s"' not in rows[9]
    assert 'class="cell n20"' in rows[9]


def test_half_the_squares_of_the_amounts_are_the_predicted_nats(tiny: Any) -> None:
    found = ls.inspect_modes(tiny, [3, 7, 1, 7, 4], rank=3)
    for removal, amounts in zip(found.replacements, weighted_amounts(found), strict=True):
        assert 0.5 * sum(a * a for a in amounts) == pytest.approx(removal.predicted_nats, rel=1e-9, abs=1e-15)
    html = to_html(found)
    assert "What each word does" in html and number(found.modes[0].eigenvalue) in html


def test_a_sentence_does_not_break_inside_a_token() -> None:
    words = removal_words(fake_modes().replacements[9])
    assert words.replace("\u00a0", " ") == fake_modes().replacements[9].sentence()
    assert words.startswith("'\u00a0Sofa' moves mass from")


def test_no_information_and_broken_numbers_are_said_in_words() -> None:
    still = fake_modes(modes=[FisherMode(0.0, [], []), FisherMode(0.0, [], [])])
    html = to_html(still)
    assert "Every λ is zero" in html and "No probability changes along it." in html
    plain = fake_modes()
    unmoved = fake_modes(
        replacements=[replace(item, predicted_nats=0.0, actual_nats=0.0) for item in plain.replacements]
    )
    assert "leaves the prediction exactly as it is" in to_html(unmoved)
    replacements = [
        *plain.replacements[:9],
        replace(plain.replacements[9], actual_nats=math.nan),
        *plain.replacements[10:],
    ]
    modes = [replace(plain.modes[0], eigenvalue=math.inf), plain.modes[1]]
    rising = [ProbabilityChange(5, "x", math.nan), *plain.modes[1].rising]
    broken = fake_modes(replacements=replacements, modes=[modes[0], replace(modes[1], rising=rising)])
    html = to_html(broken)
    assert "1 of 2 modes have a λ that is not finite" in html
    assert "1 of 18 words have numbers that are not finite" in html
    assert [shift.token for shift in contrasts(broken)[1].shifts].count("x") == 0
    assert all(item.index != 9 for item in strongest_removals(broken))


def test_a_page_of_modes_needs_no_scripts_of_circuitsvis() -> None:
    html = to_html(fake_modes())
    assert "CircuitsVis" not in html and len(html) < 120_000
    assert "German: Der Hund" in html and "position 17 of 18 tokens" in html


def test_hostile_text_stays_text() -> None:
    evil = "<img src=x onerror=window.executed=1>"
    modes = fake_modes(HOSTILE_TOKENS, HOSTILE_TOKENS[1:], baseline=evil, model={"name": evil}, warnings=[evil])
    document = Document(to_html(modes))
    plain = Document(to_html(fake_modes(warnings=["x"])))
    assert {name for name, _ in document.tags} <= {name for name, _ in plain.tags}
    assert not [name for _, attributes in document.tags for name in attributes if name.startswith("on")]
    assert document.open == []


def test_no_words_and_no_modes() -> None:
    assert "What each word does" in to_html(fake_modes(GERMAN_TOKENS[:1]))
    assert "What the directions mean" in to_html(fake_modes(modes=[], replacements=[]))
