"""How much the page costs beside the bare scope, and what becomes of many requests at once.

    python analyses/server_load.py [--runs 7] [--parallel 50]

It starts `lens-scopes serve` on Gemma 3 270M, and prints one JSON object: the median time of a 64-token request, layers
included, over the wire and without it, both in the server's own number of threads; the time until the page answers;
what became of the parallel requests; and the server's memory before and after them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil

import lens_scopes as ls

PORT = 8799
ADDRESS = f"http://127.0.0.1:{PORT}"
TEXT = "The quick brown fox jumps over the lazy dog, and then it runs far away. " * 4


def measure(runs: int, parallel: int) -> dict[str, object]:
    """All the numbers, the server started and ended on the way."""
    model = ls.load_model("gemma-3-270m")
    token_ids = ls.read_prompt(model, TEXT).token_ids[:64]
    # Other words each time, since a question that is asked again is answered from memory.
    texts = [f"{index} " + model.tokenizer.decode(token_ids[1:-3]) for index in range(runs + 1)]
    bare = [_seconds(lambda text=text: ls.attribute(model, text)) for text in texts][1:]
    layers = [_seconds(lambda text=text: ls.attribute(model, text, layers=True)) for text in texts][1:]
    lengths = [len(ls.read_prompt(model, text)) for text in texts]
    del model
    server = subprocess.Popen([sys.executable, "-m", "lens_scopes", "serve", "--port", str(PORT)])
    try:
        _wait()
        process = psutil.Process(server.pid)
        with httpx.Client(base_url=ADDRESS, timeout=120) as http:
            served = [_seconds(lambda text=text: _ask(http, text)) for text in texts][1:]
            page = statistics.median(_seconds(lambda: http.get("/").raise_for_status()) for _ in range(runs))
        before = process.memory_info().rss
        began = time.perf_counter()
        with ThreadPoolExecutor(parallel) as pool:
            statuses = Counter(pool.map(_status, (f"{index}: {TEXT[:120]}" for index in range(parallel))))
        took = time.perf_counter() - began
        after = process.memory_info().rss
    finally:
        server.terminate()
        status = server.wait(30)
    return {
        "tokens": lengths[-1],
        "runs": runs,
        "bare scope, seconds": statistics.median(bare),
        "with layers, seconds": statistics.median(layers),
        "over the wire with layers, seconds": statistics.median(served),
        "over the wire / bare": statistics.median(served) / statistics.median(bare),
        "page, seconds": page,
        "parallel requests": parallel,
        "statuses": dict(statuses),
        "seconds for all of them": took,
        "memory before, MB": round(before / 1e6),
        "memory after, MB": round(after / 1e6),
        "exit status after SIGTERM": status,
    }


def _seconds(act) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def _ask(http: httpx.Client, text: str) -> None:
    http.post("/api/attribute", json={"text": text, "layers": True}).raise_for_status()


def _status(text: str) -> int:
    return httpx.post(f"{ADDRESS}/api/attribute", json={"text": text, "layers": True}, timeout=300).status_code


def _wait(seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            httpx.get(ADDRESS, timeout=2)
            return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise SystemExit("the server did not start")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--parallel", type=int, default=50)
    options = parser.parse_args()
    print(json.dumps(measure(options.runs, options.parallel), indent=2))
