"""Hops that can be followed in a real browser: by mouse, by key, on a phone, in the dark, and with hostile text."""

from collections.abc import Callable
from typing import Any

import pytest
from chromium import browser_marks, texts
from fake_attribution import HOSTILE_TOKENS
from fake_results import fake_influence, fake_story

from lens_scopes.views import to_html
from lens_scopes.views.words.numbers import percent

pytestmark = browser_marks

LONG = [f" Sentence {i} says something {'long ' * 12}here." for i in range(40)]


def way(tab: Any) -> list[str]:
    return texts(tab, ".way button")


def test_a_sentence_shows_what_it_rests_on_and_hops_lead_to_the_prompt(visit: Callable[..., Any]) -> None:
    influence = fake_story().total_influence()
    tab = visit(to_html(influence))
    assert way(tab) == ["answer"]
    tab.click('.sentences button:has-text("Joe sings.")')
    assert way(tab) == ["answer", "sentence 2"]
    hops = influence.hops()
    expected = hops[hops["segment"] == "Joe sings."]
    assert texts(tab, ".hops .bars .sentence") == expected["rests_on"].tolist()
    assert texts(tab, ".hops .bars .value") == [percent(share) for share in expected["share"]]
    tab.click('.hops .bars button:has-text("sentence 1")')
    assert way(tab) == ["answer", "sentence 2", "sentence 1"]
    tab.click('.hops .bars button:has-text("prompt 2")')
    assert way(tab)[-1] == "prompt 2" and "where the way ends" in tab.inner_text(".hops .note")
    assert texts(tab, ".sentences [aria-current] bdi") == ["Joe is in Bonn."]
    tab.click(".way li:nth-child(2) button")
    assert way(tab) == ["answer", "sentence 2"]


def test_the_hops_are_followed_by_keys(visit: Callable[..., Any]) -> None:
    tab = visit(to_html(fake_story().total_influence()))
    tab.focus(".sentences button")
    for _ in range(3):
        tab.keyboard.press("ArrowDown")
    tab.keyboard.press("Enter")
    assert way(tab) == ["answer", "sentence 1"]
    tab.focus(".hops .bars button")
    tab.keyboard.press("Enter")
    assert len(way(tab)) == 3 and tab.evaluate("document.activeElement.closest('.hops') !== null")


def test_weak_sentences_of_a_long_text_are_folded_and_open_when_reached(visit: Callable[..., Any]) -> None:
    matrix = fake_story(["Begin.", *LONG], given=1)
    matrix.matrix[:, 20:-1] *= 1e-6
    tab = visit(to_html(matrix.total_influence()))
    fold = tab.locator(".sentences details").first
    assert fold.get_attribute("open") is None and "more," in fold.locator("summary").inner_text()
    assert len(texts(tab, ".sentences > button")) < 20
    fold.locator("summary").click()
    fold.locator("button").first.click()
    assert way(tab)[-1].startswith("sentence")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1280])
@pytest.mark.parametrize("make", ["story", "hostile"])
def test_no_page_scrolls_sideways(visit: Callable[..., Any], scheme: str, width: int, make: str) -> None:
    influence = fake_story(["Begin " + "x" * 300 + ".", *LONG], given=1).total_influence()
    if make == "hostile":
        influence = fake_influence(HOSTILE_TOKENS)
    tab = visit(to_html(influence), viewport={"width": width, "height": 800}, color_scheme=scheme)
    tab.click(".sentences button >> nth=1")
    tab.click(".hops .bars button >> nth=0") if tab.locator(".hops .bars button").count() else None
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
