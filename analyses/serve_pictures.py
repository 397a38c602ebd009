"""The page on Gemma 3 270M in headless Chromium: figures/serve-light.png and serve-dark.png, and how soon it paints.

    python analyses/serve_pictures.py

It prints, for a warm server, the first contentful paint of the page and the time until its first answer is shown, as
the browser measures them from the start of the navigation.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import time
import urllib.request
from typing import Any

from playwright.sync_api import sync_playwright
from records import FIGURES

PORT = 8798
ADDRESS = f"http://127.0.0.1:{PORT}/"
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu"]
RUNS = 5


def main() -> None:
    server = subprocess.Popen([sys.executable, "-m", "lens_scopes", "serve", "--port", str(PORT)])
    try:
        _wait()
        with sync_playwright() as started:
            browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
            _visit(browser.new_page())
            paints = [_visit(browser.new_page()) for _ in range(RUNS)]
            for scheme in ("light", "dark"):
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
            },
            indent=2,
        )
    )


def _visit(tab: Any) -> tuple[float, float]:
    """Milliseconds to the first paint, and to the answer."""
    tab.goto(ADDRESS)
    tab.wait_for_selector(".answer", timeout=60_000)
    answered = tab.evaluate("performance.now()")
    return tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"), answered


def _wait(seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(ADDRESS, timeout=2)
            return
        except OSError:
            time.sleep(0.2)
    raise SystemExit("the server did not start")


if __name__ == "__main__":
    main()
