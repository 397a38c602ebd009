"""SIGTERM, SIGHUP and Ctrl-C in the middle of a command: nothing is half-written, and the status names the signal."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import PROMPT, SIGNALS, TEXTS, Loader, Run

pytestmark = pytest.mark.usefixtures("usual_signals")
EVALUATE = ["evaluate", "passages.json", "--metrics", "first-token", "--methods", "fisher,random", "--out"]


def at_call(number: signal.Signals, time: int = 0) -> Callable[..., None]:
    """A function that gets the process a signal at one of its calls."""
    calls = itertools.count()

    def called(*_: Any, **__: Any) -> None:
        if next(calls) == time:
            signal.raise_signal(number)

    return called


def last_words(number: signal.Signals) -> str:
    return "lens-scopes: " + ("interrupted.\n" if number == signal.SIGINT else f"ended by {number.name}.\n")


@pytest.mark.parametrize("place", ["forward", "first file", "second file"])
@pytest.mark.parametrize("number", SIGNALS)
def test_files_are_whole_or_as_before(
    number: signal.Signals,
    place: str,
    run: Callable[..., Run],
    loader: Loader,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handlers = [signal.getsignal(number) for number in SIGNALS]
    for name in ("first.html", "second.csv"):
        (folder / name).write_text("earlier")
    if place == "forward":
        loader.model.hook_embed.add_hook(at_call(number))
    else:
        signalled, replace = at_call(number, ["first file", "second file"].index(place)), os.replace
        monkeypatch.setattr(os, "replace", lambda *paths: (signalled(), replace(*paths)))
    ended = run("attribute", PROMPT, "--out", "first.html", "--out", "second.csv")
    assert (ended.status, ended.err.replace(f"lens-scopes: wrote {Path('first.html')}\n", "")) == (
        128 + number,
        last_words(number),
    )
    assert sorted(os.listdir(folder)) == ["first.html", "second.csv"]
    assert (folder / "second.csv").read_text() == "earlier"
    first = (folder / "first.html").read_text()
    assert first.rstrip().endswith("</html>") if place == "second file" else first == "earlier"
    assert [signal.getsignal(number) for number in SIGNALS] == handlers


@pytest.mark.parametrize("number", SIGNALS)
def test_an_evaluation_goes_on_where_it_was_ended(
    number: signal.Signals,
    run: Callable[..., Run],
    loader: Loader,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (folder / "passages.json").write_text(json.dumps(list(TEXTS[:4])))
    signalled = at_call(number, 5)
    with monkeypatch.context() as patch:  # a hook would be recorded
        patch.setattr(loader.model.hook_embed, "forward", lambda x: (signalled(), x)[1])
        ended = run(*EVALUATE, "ended")
    assert ended.status == 128 + number and ended.err.endswith(last_words(number))
    lines = (folder / "ended" / "results-000.jsonl").read_bytes()
    assert lines.endswith(b"\n") and 0 < len(rows(folder / "ended")) < 4
    for name in ("whole", "ended"):
        assert run(*EVALUATE, name).status == 0
    assert rows(folder / "whole") == rows(folder / "ended") and len(rows(folder / "ended")) == 4
    assert not list(folder.rglob(".lens-scopes-*"))


def rows(folder: Path) -> dict[int, list[object]]:
    """What was measured of every passage."""
    lines = [json.loads(line) for line in (folder / "results-000.jsonl").read_text().splitlines()]
    return {line["passage"]: line["measurements"] for line in lines if "passage" in line}


def test_the_second_of_two_signals_does_not_cut_off_what_the_first_began(
    run: Callable[..., Run], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As systemd sends them, and a terminal that closes."""
    (folder / "page.html").write_text("earlier")
    unlink = Path.unlink
    monkeypatch.setattr(os, "replace", at_call(signal.SIGTERM))
    monkeypatch.setattr(Path, "unlink", lambda path, **keys: (signal.raise_signal(signal.SIGHUP), unlink(path, **keys)))
    ended = run("attribute", PROMPT, "--out", "page.html")
    assert (ended.status, ended.err) == (128 + signal.SIGTERM, last_words(signal.SIGTERM))
    assert os.listdir(folder) == ["page.html"] and (folder / "page.html").read_text() == "earlier"


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_is_ignored_or_handled_elsewhere_is_left_alone(
    number: signal.Signals, run: Callable[..., Run], loader: Loader
) -> None:
    """As nohup has SIGHUP ignored."""
    signal.signal(number, signal.SIG_IGN)
    with loader.model.hooks(fwd_hooks=[("hook_embed", at_call(number))]):
        assert run("attribute", PROMPT).status == 0
    assert signal.getsignal(number) == signal.SIG_IGN
