"""Modes as a page: contrasts as two-sided bars, what each word does, predicted beside actual."""

import io
import math
from dataclasses import replace
from typing import Any

import pytest
from fake_attribution import GERMAN_TOKENS, HOSTILE_TOKENS
from fake_results import fake_modes
from html_document import Document
from page_blocks import blocks, plain, section, table, written
from rich.console import Console

import lens_scopes as ls
from lens_scopes.results.modes import FisherMode, ProbabilityChange
from lens_scopes.views import modes_figure, print_result, to_html
from lens_scopes.views.words.attribution import number
from lens_scopes.views.words.modes import (
    agreement_warning,
    contrasts,
    replacement_words,
    strongest_replacements,
    weighted_amounts,
)
from lens_scopes.views.words.numbers import short_number
from lens_scopes.views.words.token_text import printable_token


def test_each_mode_is_a_two_sided_contrast() -> None:
    modes = fake_modes()
    (cards,) = blocks(section(modes, "modes"), "cards")
    for index, ((head, drawn), mode) in enumerate(zip(cards["items"], modes.modes, strict=True), start=1):
        assert (head["text"], head["small"]) == (f"Mode {index}", f"λ = {number(mode.eigenvalue)}")
        shifts = [*mode.rising, *reversed(mode.falling)]
        largest = max(abs(shift.change) for shift in shifts)
        kept = [shift for shift in shifts if abs(shift.change) >= 0.01 * largest]
        for item, shift in zip(drawn["items"], kept, strict=True):
            assert plain(item["label"]) == printable_token(shift.token)
            assert item["values"] == [short_number(shift.change)]
            assert item["shares"] == pytest.approx([shift.change / largest]) and item["middle"]


def test_words_are_told_by_their_actual_effect_with_predicted_beside_actual() -> None:
    modes = fake_modes()
    (cards,) = blocks(section(modes, "replacements"), "cards")
    assert len(cards["items"]) == 6
    head, about, drawn = cards["items"][0]
    drop_colours = "Replacing '~Sofa': '~couch' +36.0~pp, '~sofa' −40.0~pp (predicted +18.0~pp, −20.0~pp)".replace(
        "~", "\u00a0"
    )
    assert head["text"] == drop_colours and section(modes, "replacements").summary.startswith(drop_colours)
    assert "KL predicted 0.2000, actual 0.5000 nats; agreement (cosine of the changes) 0.95" in written(about)
    assert len(drawn["items"]) == 4 < len(modes.replacements[9].actual)
    assert drawn["items"][0]["values"] == ["−20.0 pp", "−40.0 pp"]
    assert drawn["items"][0]["shares"] == [-0.5, -1.0]
    assert drawn["items"][3]["values"] == ["—", "+0.80 pp"]
    assert "special" not in "".join(replacement_words(item) for item in strongest_replacements(modes))
    assert all(not modes.special[item.index] for item in strongest_replacements(modes))


def test_the_table_has_every_word_with_its_amounts() -> None:
    modes = fake_modes()
    rows = table(section(modes, "replacements"), "What replacing each word does")["rows"]
    for row, replacement, amounts in zip(rows, modes.replacements, weighted_amounts(modes), strict=True):
        assert amounts == [a * math.sqrt(m.eigenvalue) for a, m in zip(replacement.amounts, modes.modes, strict=True)]
        values = [*amounts, replacement.predicted_nats, replacement.actual_nats, replacement.agreement]
        assert [cell["value"] for cell in row[2:]] == values
    assert rows[0][2]["level"] == "s" and "n20" in [cell.get("level") for cell in rows[9]]


def test_half_the_squares_of_the_amounts_are_the_predicted_nats(tiny: Any) -> None:
    found = ls.inspect_modes(tiny, [3, 7, 1, 7, 4], rank=3)
    for replacement, amounts in zip(found.replacements, weighted_amounts(found), strict=True):
        assert 0.5 * sum(a * a for a in amounts) == pytest.approx(replacement.predicted_nats, rel=1e-9, abs=1e-15)
    html = to_html(found)
    assert "What each word does" in html and number(found.modes[0].eigenvalue) in html


def test_a_sentence_does_not_break_inside_a_token() -> None:
    words = replacement_words(fake_modes().replacements[9])
    assert words.replace("\u00a0", " ") == fake_modes().replacements[9].sentence()
    assert words.startswith("Replacing '\u00a0Sofa': '\u00a0couch' +36.0\u00a0pp")


@pytest.mark.parametrize("agreement", [0.49, -0.3, 0.5])
def test_predictions_that_disagree_are_warned_of_in_every_view(agreement: float) -> None:
    plain_modes = fake_modes()
    modes = fake_modes(replacements=[replace(item, agreement=agreement) for item in plain_modes.replacements])
    count = len(strongest_replacements(modes))
    drop_colours = agreement_warning(modes)
    assert bool(drop_colours) == (agreement < 0.5) and agreement_warning(plain_modes) == []
    if drop_colours:
        assert f"their mean agreement is {short_number(agreement)} over {count} words" in drop_colours[0]
        assert (f"below zero for {count} of {count}" in drop_colours[0]) == (agreement < 0)
        (alert,) = blocks(section(modes, "modes"), "alert")
        assert alert["items"] == drop_colours
        console = Console(file=io.StringIO(), width=400)
        print_result(modes, console)
        assert drop_colours[0] in console.file.getvalue()  # type: ignore[attr-defined]
        title = modes_figure(modes).get_suptitle()
        assert drop_colours[0] in " ".join(title.split()) and "Replacing '\u00a0Sofa'" in title


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
    assert all(item.index != 9 for item in strongest_replacements(broken))


def test_a_page_of_modes_needs_no_scripts_of_circuitsvis() -> None:
    html = to_html(fake_modes())
    assert "CircuitsVis=" not in html and len(html) < 160_000
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
