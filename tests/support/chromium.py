"""A headless Chromium for tests of pages: fixtures that open HTML from a file and watch what it does, and readers."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lens_scopes.views.words.token_text import inline_token

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-quic",
]
STRIP = "#token-strip .colored-tokens>span"
WORD_JOINER = "\u2060"

browser_marks = [
    pytest.mark.browser,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="no Chromium on this machine: apt-get install chromium"),
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Opens HTML from a file; afterwards nothing has executed, failed, or left the page."""
    opened: list[tuple[Any, list[str], list[str], str]] = []

    def open_page(html: str, **options: Any) -> Any:
        file = tmp_path / f"page-{len(opened)}.html"
        file.write_text(html, encoding="utf-8")
        tab = browser.new_page(**({"viewport": {"width": 1280, "height": 900}} | options))
        requests: list[str] = []
        errors: list[str] = []
        tab.on("request", lambda request: requests.append(request.url))
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        tab.goto(file.as_uri())
        opened.append((tab, requests, errors, file.as_uri()))
        if options.get("java_script_enabled", True) and '"token-strip"' in html and "<iframe" not in html:
            tab.wait_for_selector(STRIP, state="attached")
        return tab

    yield open_page
    for tab, requests, errors, uri in opened:
        assert tab.evaluate("window.executed") is None
        assert errors == []
        assert requests in ([uri], [uri, "about:srcdoc"])
        tab.close()


def texts(tab: Any, selector: str) -> list[str]:
    return tab.eval_on_selector_all(selector, "elements => elements.map(element => element.textContent)")


def as_painted(token: str) -> str:
    return "".join("\u00a0" if character.isspace() else character for character in inline_token(token))


def background(tab: Any, selector: str) -> tuple[float, ...]:
    return rgb(tab.eval_on_selector(selector, "element => getComputedStyle(element).backgroundColor"))


def rgb(css: str) -> tuple[float, ...]:
    return tuple(int(part) / 255 for part in css[4:-1].split(","))
