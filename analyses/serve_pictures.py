"""The page on Gemma 3 270M in headless Chromium: figures/serve-light.png and serve-dark.png, and how soon it paints.

    python analyses/serve_pictures.py
    python analyses/serve_pictures.py --times    # without the pictures

It prints, for a warm server, the first contentful paint of the page and the time until its first answer is shown, as
the browser measures them from the start of the navigation; and, for prompts of 20 tokens with every layer, the time
from a click on “Explain” until the strip and the map of the new answer are drawn, with the server's processor time in
it, which hardly depends on what else the machine does. Times are medians of five, after two to warm up, beside the
load.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
import urllib.request
from typing import Any

import psutil
import typer
from playwright.sync_api import sync_playwright
from records import FIGURES

PORT = 8798
ADDRESS = f"http://127.0.0.1:{PORT}/"
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu"]
RUNS, WARM_UP = 5, 2
# 20 tokens with <bos>, another one each time: what was asked before is answered from memory.
TEXT = "The old {} in the village told the children that the small house on the hill belonged to the"
WORDS = ("king", "cat", "girl", "dog", "boy", "man", "queen")
# From the click on to the frame after the one in which both are there; the old answer is marked, and gone by then.
CLICKED = """() => new Promise((drawn) => {
    const old = document.querySelector(".answer");
    const began = performance.now();
    document.querySelector("#explain").click();
    const look = () => {
        const strip = document.querySelectorAll("#a-token-strip .colored-tokens>span>span");
        const map = document.querySelector("#a-layers .heat tbody td");
        if (old.isConnected || !strip.length || !map) return requestAnimationFrame(look);
        return requestAnimationFrame(() => drawn([performance.now() - began, strip.length]));
    };
    requestAnimationFrame(look);
})"""


def main(times: bool = typer.Option(False, "--times", help="Measure, and leave the pictures as they are.")) -> None:
    """Measure the page and take its pictures."""
    server = subprocess.Popen([sys.executable, "-m", "lens_scopes", "serve", "--port", str(PORT)])
    try:
        _wait()
        with sync_playwright() as started:
            browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
            _visit(browser.new_page())
            paints = [_visit(browser.new_page()) for _ in range(RUNS)]
            clicks, work = zip(*_clicked(browser, psutil.Process(server.pid)), strict=True)
            for scheme in () if times else ("light", "dark"):
                tab = browser.new_page(viewport={"width": 1280, "height": 1240}, color_scheme=scheme)
                _visit(tab)
                tab.mouse.move(0, 0)
                tab.screenshot(path=FIGURES / f"serve-{scheme}.png")
            browser.close()
    finally:
        server.terminate()
        server.wait(30)
    print(
        json.dumps(
            {
                "runs": RUNS,
                "first contentful paint, ms": statistics.median(paint for paint, _ in paints),
                "first answer shown, ms": statistics.median(answered for _, answered in paints),
                "click to strip and map, ms": statistics.median(clicks),
                "of it the server's processor time, ms": statistics.median(work),
                "load": os.getloadavg()[0],
            },
            indent=2,
        )
    )


def _visit(tab: Any) -> tuple[float, float]:
    """Milliseconds to the first paint, and to the answer."""
    tab.goto(ADDRESS)
    tab.wait_for_selector(".answer", timeout=180_000)
    answered = tab.evaluate("performance.now()")
    return tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"), answered


def _clicked(browser: Any, server: psutil.Process) -> list[tuple[float, float]]:
    """Milliseconds from a click to the drawn answer, and of the server's processor, for each prompt after the first."""
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    _visit(tab)
    taken = []
    for word in WORDS:
        tab.fill("[name=text]", TEXT.format(word))
        before = _processor(server)
        milliseconds, tokens = tab.evaluate(CLICKED)
        assert tokens == 20, f"{TEXT.format(word)!r} has {tokens} tokens"
        taken.append((milliseconds, _processor(server) - before))
    return taken[WARM_UP:]


def _processor(server: psutil.Process) -> float:
    """Milliseconds that a process has worked."""
    times = server.cpu_times()
    return 1000 * (times.user + times.system)


def _wait(seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(ADDRESS, timeout=2)
            return
        except OSError:
            time.sleep(0.2)
    raise SystemExit("the server did not start")


if __name__ == "__main__":
    typer.run(main)
