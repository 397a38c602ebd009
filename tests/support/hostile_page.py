"""The served page on a phone, with a model whose tokens are hostile texts: what is asked, and what may not happen."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote, urlencode

from command_line import tokenizer
from fake_attribution import HOSTILE_TOKENS
from tiny_models import D_VOCAB, gpt2_like

WIDTH = 390
"""Of a phone, in CSS pixels."""

WORDS: dict[str, list[str]] = {
    "long": ["x" * 300, " " + "y" * 200, "-" * 250, "_" * 250, "/" * 250],
    "wide": ["漢字" * 90, "ｗ" * 200, "🛋" * 90, "\u3000" * 120, "\u00a0" * 200],
    "right-to-left": ["مرحبا" * 60, "שלום" * 60, "\u202e" + "abc" * 80, "\u2067" + "def" * 80, " שלום"],
    "markup": [word for word in HOSTILE_TOKENS if re.search(r"[<>&{}'\"$\\\[]", word) and word != "<bos>"],
    "control characters": ["\0", "\x1b[31m", "\t" * 90, "\r\n", "\x7f", "\u2028", "\u2029", "\ufeff", "\n" * 40],
    "combined": [
        "e\u0301" * 200,
        "a" + "\u0338" * 300,
        "👩\u200d👩\u200d👧\u200d👦" * 60,
        "\u200b" * 40,
        "\u2060" * 40,
    ],
}
"""Tokens by what is hostile in them; a lone surrogate is none, since no tokenizer's vocabulary can hold it."""
MIXED = "of every kind"
WORDS[MIXED] = [word for words in zip(*WORDS.values(), strict=False) for word in words][: D_VOCAB - 2]

_DONE = """!!document.querySelector(".answer, #problem:not([hidden])")
    && document.querySelector("#results").getAttribute("aria-busy") !== "true" """
_BEYOND = """[...document.querySelectorAll("body *")]
    .filter((element) => element.getBoundingClientRect().right > document.documentElement.clientWidth
        && !element.closest(".scroll, pre, .completions"))
    .slice(0, 4).map((element) => `${element.tagName}.${element.className}#${element.id}`)"""
_SCROLLED = """(async () => {
    for (let y = 0; y < document.body.scrollHeight; y += 2000) {
        scrollTo(0, y);
        await new Promise((later) => setTimeout(later, 10));
    }
})()"""


def named(kind: str) -> str:
    """The name of the model of a kind of words, which is hostile as well."""
    return f"{kind} {WORDS[kind][0]}"[:150]


def hostile_model(kind: str) -> Any:
    """A tiny model whose vocabulary are the words of a kind."""
    vocabulary = ["<bos>", "<unk>", *WORDS[kind]]
    model = gpt2_like()
    pieces = "|".join(re.escape(word) for word in sorted(vocabulary[2:], key=len, reverse=True))
    model.tokenizer = tokenizer(vocabulary, pieces)
    model.tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    return model


def views(kind: str) -> dict[str, dict[str, str]]:
    """The fields of addresses that show everything there is of the words of a kind."""
    words = WORDS[kind]
    text, other = ("".join(order) for order in (words, words[::-1]))
    chat = json.dumps([{"role": word[:200], "content": word} for word in words])
    answer = "".join(words[:2])
    spans = json.dumps(
        [{"name": word[:200].replace("=", "-"), "text": word, "start": text.find(word)} for word in words[:4]]
    )
    asked = {
        "two texts": {"text": text, "show": "heads,matrix,modes", "b.text": other, "b.model": named(kind)},
        "two prompts": {"text": text, "against": other, "show": "cells,heads"},
        "an answer": {"text": text, "answer": answer, "scope": "logprob", "show": "influence"},
        "spans": {"text": text, "spans": spans, "show": "flow"},
        "a chat": {"chat": chat, "fold": "word", "layer": "L1", "head": "L0H1"},
        "an unheard-of target": {"text": text, "target": text + "?"},
        "an unheard-of path": {"text": text, "through": text},
    }
    return {view: {"model": named(kind), **fields} for view, fields in asked.items()}


def address(server: str, fields: Mapping[str, str]) -> str:
    """The address of a view."""
    return f"{server}/#{urlencode(fields, errors='replace', quote_via=quote)}"


@contextmanager
def phone(browser: Any) -> Iterator[Any]:
    """A tab of a phone's width in which nothing fails, no text is run, and nothing is asked of another server."""
    tab = browser.new_page(viewport={"width": WIDTH, "height": 844})
    requests: list[str] = []
    errors: list[str] = []
    tab.on("request", lambda request: requests.append(request.url))
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    try:
        yield tab
        assert tab.evaluate("window.executed") is None, "a text was run as a script"
        # A refusal is an answer, but the browser notes its status as an error.
        failed = [error for error in errors if not re.search(r"status of 4\d\d", error)]
        assert not failed, f"the page failed: {failed[0]}"
        elsewhere = [url for url in requests if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))]
        assert not elsewhere, f"something was asked of {elsewhere[0][:80]}"
    finally:
        tab.close()


def wait(tab: Any, condition: str = _DONE, seconds: float = 60) -> None:
    """Waits for a condition, by default for an answer or a problem; the page's policy forbids Playwright's own way."""
    deadline = time.monotonic() + seconds
    while not tab.evaluate(condition):
        assert time.monotonic() < deadline, f"nothing happened: {condition}"
        time.sleep(0.02)


def check_width(tab: Any) -> None:
    """With everything open and every number written out, nothing scrolls sideways."""
    tab.eval_on_selector_all("details", "folds => folds.forEach(fold => { fold.open = true })")
    tab.eval_on_selector_all("input.numbers:not(:checked)", "boxes => boxes.forEach(box => box.click())")
    tab.evaluate(_SCROLLED)  # what is drawn when it comes into view is drawn
    width = tab.evaluate("document.documentElement.scrollWidth")
    assert width <= WIDTH, f"the page is {width} pixels wide because of {tab.evaluate(_BEYOND)}"
    problem = tab.evaluate("document.querySelector('#problem').textContent")
    assert not problem.startswith("The page failed"), problem
