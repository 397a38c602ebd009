"""The page on a phone with hostile texts everywhere: nothing scrolls sideways, and no text is run.

`make attack` does the same with every kind of text by itself, and with hostile values in every field.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from chromium import browser_marks
from hostile_page import MIXED, WORDS, address, check_width, hostile_model, named, phone, views, wait
from served import serving

from lens_scopes.server import create_app

pytestmark = browser_marks

PROBLEM = "document.querySelector('#problem').hidden === false"
OFFERED = "[...document.querySelectorAll('[role=option]')].some((one) => one.textContent.includes(%s))"
SURROGATE = """((field) => { field.value = "\\ud800".repeat(80); field.form.requestSubmit(); })
    (document.querySelector("[name=%s]"))"""


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving(create_app({named(MIXED): hostile_model(MIXED)})) as served:
        yield served


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    with phone(browser) as opened:
        yield opened


@pytest.mark.parametrize("view", views(MIXED))
def test_a_view_scrolls_nowhere_sideways(tab: Any, server: str, view: str) -> None:
    tab.goto(address(server, views(MIXED)[view]))
    wait(tab)
    refused = view.startswith("an unheard-of")
    assert tab.locator("#problem").is_visible() == refused, tab.locator("#problem").inner_text()
    assert tab.locator(".answer").count() == (0 if refused else 2 if view == "two texts" else 1)
    check_width(tab)
    assert tab.locator("#results img, #results script").count() == 0


def test_suggestions_and_what_differs_stay_on_the_page(tab: Any, server: str) -> None:
    words = WORDS[MIXED]
    tab.goto(address(server, {"text": "".join(words)}))
    wait(tab)
    tab.fill("[name=against]", "".join(words[::-1]))
    tab.wait_for_selector(".alignment:not([hidden])")
    check_width(tab)
    for typed in ("x", "ｗ", "ש", "<", "e\u0301"):
        tab.fill("[name=target]", "")
        tab.locator("[name=target]").press_sequentially(typed)
        wait(tab, OFFERED % json.dumps(typed))
        check_width(tab)


def test_a_surrogate_is_refused_in_a_sentence(tab: Any, server: str) -> None:
    tab.goto(address(server, {"text": "x"}))
    wait(tab)
    for field in ("answer", "target", "against", "text"):
        tab.evaluate(SURROGATE % field)
        wait(tab, PROBLEM)
        assert any(word in tab.locator("#problem").inner_text() for word in ("surrogate", "unicode"))
        check_width(tab)
