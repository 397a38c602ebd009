"""Attacks on the served page in a browser: hostile tokens in every view, and hostile values in every field of it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

from chromium import CHROMIUM, FLAGS
from hostile_page import WORDS, address, check_width, hostile_model, named, phone, views, wait
from outcome import REFUSED, RIGHT, Outcome, Target, ended
from pages import hostile_text
from playwright.sync_api import sync_playwright
from served import served_model, serving
from values import OTHER_TEXTS, USUAL_TEXTS, some

from lens_scopes.server import create_app

_USUAL = {"text": "The dog sleeps on the", "against": "The sofa sleeps on the"}
_IN_ADDRESS = (
    "text", "chat", "answer", "generate", "scope", "target", "other", "rank", "position", "through", "score_site",
    "readout", "lens", "model", "against", "steps", "freeze", "rules", "layer", "fold", "head", "show", "b.text",
)  # fmt: skip
_TYPED = ("text", "answer", "generate", "target", "rank", "position", "through", "against", "steps")
_SUBMIT = """(values) => {
    for (const [name, value] of Object.entries(values)) document.querySelector(`[name="${name}"]`).value = value;
    document.querySelector("#question").requestSubmit();
}"""


def attacks(target: Target, share: float) -> Iterator[Outcome]:
    """The outcome of every visit of the page."""
    draw = random.Random(0)
    models = {"tiny": served_model()} | {named(kind): hostile_model(kind) for kind in WORDS}
    with sync_playwright() as playwright, serving(create_app(models)) as server:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for case, fields in _views(share, draw):
            yield ended(case, lambda fields=fields: _visited(browser, address(server, fields)))
        for number in range(max(1, round(80 * share))):
            values = {name: hostile_text(draw) for name in draw.sample(_TYPED, 3)}
            yield ended(f"typed {number}", lambda values=values: _typed(browser, server, values))
        browser.close()


def _views(share: float, draw: random.Random) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Addresses with every view of every kind of words, and with a hostile value in each field."""
    for kind in WORDS:
        for view, fields in views(kind).items():
            if draw.random() < 8 * share:
                yield f"{view} of {kind}", fields
    for field in _IN_ADDRESS:
        for value in some(USUAL_TEXTS, OTHER_TEXTS, share, draw):
            yield f"address {field}={value[:40]!r}", {"text": _USUAL["text"], field: value}


def _visited(browser: Any, where: str) -> str:
    with phone(browser) as tab:
        tab.goto(where)
        return _end(tab)


def _typed(browser: Any, server: str, values: Mapping[str, str]) -> str:
    """Hostile texts in the fields of a page that has answered."""
    with phone(browser) as tab:
        tab.goto(address(server, _USUAL))
        wait(tab)
        tab.evaluate("document.querySelector('#results').replaceChildren()")
        tab.evaluate(_SUBMIT, dict(values))
        return _end(tab)


def _end(tab: Any) -> str:
    wait(tab)
    check_width(tab)
    return REFUSED if tab.locator("#problem").is_visible() else RIGHT
