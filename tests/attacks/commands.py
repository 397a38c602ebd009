"""Attacks on the command line: every option of every command at hostile values."""

from __future__ import annotations

import contextlib
import io
import random
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Any
from unittest import mock

import typer
from command_line import PROMPT, Loader
from outcome import DEFECT, REFUSED, RIGHT, Outcome, Target
from values import OTHER_TEXTS, USUAL_TEXTS, some

import lens_scopes as ls
from lens_scopes.cli import main
from lens_scopes.cli.app import app

_USUAL: dict[str, list[str]] = {
    "attribute": [PROMPT],
    "compare": [PROMPT, "--target", " dog", "--target", " sofa"],
    "heads": [PROMPT],
    "cells": [PROMPT, "--against", "The sofa sleeps on the", "--verify", "1"],
    "matrix": [PROMPT],
    "modes": [PROMPT],
    "flow": [PROMPT, "--span", "a=dog"],
    "series": ["1,2,"],
    "evaluate": ["passages.json", "--out", "out", "--metrics", "first-token", "--methods", "fisher"],
    "report": ["evaluated"],
    "show": ["saved.safetensors"],
    "serve": ["--port", "0"],
    "models": [],
}
_NOT_TRIED = ("--help", "--version")


def attacks(target: Target, share: float) -> Iterator[Outcome]:
    """The outcome of every command line."""
    draw = random.Random(0)
    for case, words in _command_lines(share, draw):
        yield target.watched(case, lambda words=words: _ended(target, words))


def _command_lines(share: float, draw: random.Random) -> Iterator[tuple[str, list[str]]]:
    group: Any = typer.main.get_command(app)
    assert set(group.commands) == set(_USUAL), "a command is not attacked"
    for name, usual in _USUAL.items():
        for parameter in group.commands[name].params:
            flag = parameter.opts[0]
            if flag in _NOT_TRIED:
                continue
            if getattr(parameter, "is_flag", False):
                yield f"{name} {flag}", [name, *usual, flag]
                continue
            for value in some(USUAL_TEXTS, OTHER_TEXTS, share, draw):
                case = f"{name} {flag} {value[:20]!r}"
                if parameter.param_type_name == "argument":
                    yield case, [name, *([value] if not value.startswith("-") else ["--", value]), *usual[1:]]
                else:
                    yield case, [name, *_without(usual, flag), f"{flag}={value}"]


def _without(words: list[str], flag: str) -> list[str]:
    at = words.index(flag) if flag in words else len(words)
    return [*words[:at], *words[at + 2 :]]


def _ended(target: Target, words: list[str]) -> str:
    """Refused in one line with status 2; or answered, and by a model that nobody has used as well."""
    status, out, err = run(target, target.model, words)
    if status == 2:
        said = [line for line in err.splitlines() if line.startswith("lens-scopes: ")]
        assert out == "" or words[0] == "evaluate", f"refused after an output: {out[:80]!r}"
        return REFUSED if said and "Traceback" not in err else DEFECT
    if status not in (0, 1):
        return DEFECT
    if words[0] not in ("serve", "models"):
        out = _numbers(target, words, out)
        with target.untouched() as model:
            status_again, out_again, _ = run(target, model, words)
            assert (status_again, _numbers(target, words, out_again)) == (status, out), "another answer the second time"
    return RIGHT


def _numbers(target: Target, words: list[str], out: str) -> str:
    """What is printed; of an evaluation, whose view has the time, what it saved."""
    if words[0] != "evaluate":
        return out
    *_, folder = (word.removeprefix("--out=") for flag, word in pairwise(words) if flag == "--out" or "--out=" in word)
    folder = target.folder / folder
    return ls.load_results(folder).to_csv()


def run(target: Target, model: Any, words: list[str]) -> tuple[int, str, str]:
    """Status, output and errors of a command line on the model given."""
    err = io.StringIO()
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    with (
        mock.patch("lens_scopes.models.load.load_model", Loader(model)),
        mock.patch("lens_scopes.server.launch.serve", lambda app, listening, **_: listening.close()),
        mock.patch("lens_scopes.server.launch._warm", lambda models: None),
        mock.patch("webbrowser.open", lambda address: True),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"The dog"), encoding="utf-8")),
        contextlib.chdir(target.folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main(words)
        except SystemExit as ended:
            status = int(ended.code or 0)
    out.flush()
    return status, out.buffer.getvalue().decode(), err.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
