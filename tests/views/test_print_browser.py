"""Pages on paper, and in a picture of their whole height: everything is drawn, folds are open, nothing is cut."""

from collections.abc import Callable
from typing import Any

import pytest
from chromium import browser_marks
from fake_attribution import GERMAN_TOKENS, fake_attribution
from fake_results import fake_cells, fake_heads, fake_influence, fake_matrix, fake_modes
from served import wait_until

from lens_scopes.views import attribution_page, to_html

pytestmark = browser_marks

A4 = {"width": 703, "height": 1000}  # CSS pixels between the margins of a page
EMPTY = """() => [...document.querySelectorAll(".circuitsvis")]
    .filter(place => !place.closest("details:not([open])"))
    .filter(place => !place.querySelector("canvas") && !place.textContent.trim()).map(place => place.id)"""
CUT = """() => [...document.querySelectorAll(".scroll, section, table, canvas, svg, dl, ol, p")]
    .filter(element => element.getBoundingClientRect().right > innerWidth + 1 || element.scrollWidth > innerWidth + 1)
    .map(element => element.outerHTML.slice(0, 80))"""

# What is taller than its place stands over what follows it.
TALL = """() => [...document.querySelectorAll(".scroll, .sentences, blockquote, section")]
    .filter(element => element.scrollHeight > element.clientHeight + 2)
    .map(element => element.outerHTML.slice(0, 80))"""


def whole_page(tokens: list[str] = GERMAN_TOKENS) -> str:
    heads, matrix = fake_heads(tokens), fake_matrix(tokens)
    return attribution_page(fake_attribution(tokens), heads, matrix, fake_modes(tokens)).to_html()


def test_everything_is_on_paper_at_once(visit: Callable[..., Any]) -> None:
    tab = visit(whole_page())
    closed = tab.locator("details:not([open])").count()
    assert closed
    # Printing does not wait, so all must stand there when the event has been handled.
    assert tab.evaluate(f"() => {{ dispatchEvent(new Event('beforeprint')); return ({EMPTY})() }}") == []
    assert tab.locator("details:not([open])").count() == 0
    strips = ".more .circuitsvis"
    text = "".join(GERMAN_TOKENS).split()
    for strip in tab.locator(strips).all_text_contents():
        assert strip.split()[0].startswith("<bos>") and strip.replace("\u00a0", " ").split()[-1] == text[-1]
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert tab.locator("details:not([open])").count() == closed


def test_a_fold_that_was_printed_is_drawn_when_it_is_opened(visit: Callable[..., Any]) -> None:
    tab = visit(to_html(fake_heads()))
    tab.evaluate("['beforeprint', 'afterprint'].forEach(name => dispatchEvent(new Event(name)))")
    tab.locator(".more>summary").click()
    fold = tab.locator(".more>.fold").first
    fold.locator("summary").click()
    fold.locator(".colored-tokens").wait_for()
    assert fold.locator(".still").count() == 0


@pytest.mark.parametrize("n_tokens", [18, 120])
def test_nothing_is_cut_at_the_sides_of_paper(visit: Callable[..., Any], n_tokens: int) -> None:
    tokens = GERMAN_TOKENS if n_tokens == 18 else ["<bos>", *[f" word{i}" for i in range(n_tokens - 1)]]
    tab = visit(whole_page(tokens), viewport=A4)
    tab.emulate_media(media="print")
    wait_until(lambda: tab.locator("details:not([open])").count() == 0 and tab.evaluate(EMPTY) == [])
    assert tab.evaluate(CUT) == [] and tab.evaluate(TALL) == []
    assert not any(control.is_visible() for control in tab.locator("input, select").all())
    assert tab.pdf(format="A4")[:5] == b"%PDF-"


@pytest.mark.parametrize("result", [fake_cells, fake_influence, fake_modes])
def test_other_results_fit_on_paper(visit: Callable[..., Any], result: Callable[[], Any]) -> None:
    tab = visit(to_html(result()), viewport=A4)
    tab.emulate_media(media="print")
    wait_until(lambda: tab.locator("details:not([open])").count() == 0 and tab.evaluate(EMPTY) == [])
    assert tab.evaluate(CUT) == [] and tab.evaluate(TALL) == []


def test_paper_is_light_in_a_dark_window(visit: Callable[..., Any]) -> None:
    tab = visit(to_html(fake_attribution()), color_scheme="dark")
    tab.emulate_media(media="print")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.evaluate("getComputedStyle(document.querySelector('.circuitsvis')).filter") == "none"


def test_a_picture_of_the_whole_page_needs_no_scrolling(visit: Callable[..., Any]) -> None:
    tab = visit(to_html(fake_heads()))
    wait_until(lambda: tab.evaluate(EMPTY) == [])
    assert tab.evaluate("scrollY") == 0
    assert tab.locator("#attention canvas").count() >= 2
