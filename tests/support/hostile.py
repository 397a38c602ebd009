"""Hostile values for every option of every command and every argument of every public function, and what must hold.

A call ends with a right answer or with an error of the project's own; nothing half-written is left behind, and the
model is as before. `attacks` gives the cases one by one; the quick tests take some, `make attack` takes all.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import os
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy
import torch
import typer
from command_line import PROMPT, TEXTS, Loader, tokenizer
from tiny_models import gpt2_like

import lens_scopes as ls
from lens_scopes.cli import main
from lens_scopes.cli.app import app
from lens_scopes.errors import LensScopesError

DIGITS = "9" * 4301
TEXT_VALUES = (
    "",
    " ",
    "-",
    "--",
    "\0",
    "a\0b",
    "\ud800",
    "~nosuch/x",
    "~",
    "/dev/null",
    "/",
    "x" * 5000,
    "é" * 300,
    "9" * 30,
    DIGITS,
    "-1",
    "-" + DIGITS,
    "1e300",
    "nan",
    "inf",
    "-inf",
    "1e-320",
    "٣",
    "1_0",
    " 1",
    "#",
    "#٣",
    "#" + DIGITS,
    "#1#2",
    "#99999",
    "[" * 3000,
    "{}",
    "null",
    "true",
    "'",
    '"',
    "\\",
    "%s",
    "{0}",
    "a=b",
    "=",
    "a=",
    "a=1:2",
    f"a={DIGITS}:1",
    "a=0:99999",
    "L0H0",
    f"L{DIGITS}H0",
    "L99H99",
    "path@",
    f"path@{DIGITS}",
    "path@-1",
    "noise@0",
    "fisher@",
    f"fisher@{DIGITS}",
    "fisher+",
    "+",
    "@",
    "fisher+path@2",
    "norm",
    "dot-",
    'dot-"',
    f"{DIGITS}GB",
    "0GB",
    "-1GB",
    "٣GB",
    "1GB",
    "5-9",
    "9-5",
    f"0-{DIGITS}",
    "0-",
    "attention & ",
    "a\nb",
    "cpu:99",
    "results.html",
    "missing/results.html",
    "x" * 250 + ".html",
    "trace",
    "kl",
    "token",
    "zero",
    "mean",
    "0",
    "1",
    "2",
    "1000000",
    "..",
)
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    10**6,
    2**63,
    2**64,
    10**30,
    -(2**70),
    1.5,
    -0.0,
    float("nan"),
    float("inf"),
    1e300,
    1e-320,
    "",
    *TEXT_VALUES[::4],
    "\ud800",
    b"x",
    [],
    [1],
    [None],
    ["a", "b"],
    [1.5],
    [[1]],
    (1, 2),
    (2, 1),
    {},
    {"a": 1},
    {"a": "dog"},
    {1: 2},
    {"": (0, 1)},
    {"\ud800": (0, 1)},
    {"a": (0, 10**30)},
    object(),
    int,
    len,
    lambda *_: None,
    numpy.int64(2),
    numpy.float32(1.5),
    numpy.array([0, 2, 3]),
    torch.tensor([0, 2, 3]),
    torch.tensor(2),
    torch.tensor([1.5]),
    torch.zeros(0),
    torch.zeros(2, 3),
    range(0),
    range(2, 5),
    Path("x.html"),
    Ellipsis,
    1j,
    frozenset({1}),
    ls.Fisher(),
    ls.Fisher,
    ls.Norm(),
    ls.Layers(1),
    ls.Noise(2),
    ls.StraightPath("mean", 2),
    ls.Chars(0, 3),
    ls.RandomScores(),
    ls.LeaveOneOut(),
    ls.FisherAtValues(),
)


@dataclass
class Outcome:
    """What became of one attack: "answer", "refused", or what went wrong."""

    case: str
    end: str

    @property
    def held(self) -> bool:
        return self.end in ("answer", "refused")


class Target:
    """A tiny model in an empty folder, watched from outside."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = gpt2_like()
        self.model.tokenizer = tokenizer()
        self.model.tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}.{% endfor %}"
        (folder / "passages.json").write_text(json.dumps(list(TEXTS[:2])))
        (folder / "chat.json").write_text(json.dumps([{"role": "user", "content": "The dog sleeps"}]))
        self.result = ls.attribute(self.model, PROMPT, layers=True)
        self.result.save(folder / "saved.safetensors")
        self.evaluation = folder / "evaluated"
        ls.evaluate(self.model, list(TEXTS[:2]), methods=["fisher"], metrics=["aopc"], out=self.evaluation)
        self.before = self._state()

    def _state(self) -> Any:
        model = self.model
        weights = [float(values.double().sum()) for values in model.parameters()]
        hooks = sum(len(point.fwd_hooks) + len(point.bwd_hooks) for point in model.hook_dict.values())
        hooks += sum(len(part._forward_hooks) + len(part._backward_hooks) for part in model.modules())
        torch_state = (torch.get_default_dtype(), torch.is_grad_enabled(), torch.random.initial_seed())
        return weights, hooks, model.training, any(item.requires_grad for item in model.parameters()), torch_state

    def watched(self, case: str, call: Callable[[], str]) -> Outcome:
        """The outcome of a call that says how it ended."""
        try:
            end = call()
        except BaseException as error:  # whatever comes out is the finding
            end = f"{type(error).__name__}: {str(error)[:80]!r}"
        if self._state() != self.before:
            end = f"the model or PyTorch is not as before ({end})"
            self.before = self._state()
        if left := [path.name for path in self.folder.rglob(".lens-scopes-*")]:
            end = f"left behind {left[0]} ({end})"
            (self.folder / left[0]).unlink(missing_ok=True)
        return Outcome(case, end)

    # Commands

    def command(self, *words: str, stdin: bytes = b"The dog") -> str:
        """Runs a command line: an answer, or one line and status 2."""
        loader, err = Loader(self.model), io.StringIO()
        out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        source = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
        with (
            mock.patch("lens_scopes.models.load.load_model", loader),
            mock.patch("lens_scopes.server.launch.serve", lambda app, listening, **_: listening.close()),
            mock.patch("lens_scopes.server.launch._warm", lambda models: None),
            mock.patch("webbrowser.open", lambda address: True),
            mock.patch.object(sys, "stdin", source),
            contextlib.chdir(self.folder) if hasattr(contextlib, "chdir") else contextlib.nullcontext(),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                main(list(words))
            except SystemExit as ended:
                status = ended.code or 0
        said = [line for line in err.getvalue().splitlines() if line.startswith("lens-scopes: ")]
        if status in (0, 1):
            return "answer"
        if status == 2 and said and "Traceback" not in err.getvalue():
            return "refused"
        return f"status {status}: {err.getvalue()[-80:]!r}"

    # Functions

    def call(self, function: Callable[..., Any], arguments: dict[str, Any]) -> str:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                with contextlib.chdir(self.folder) if hasattr(contextlib, "chdir") else contextlib.nullcontext():
                    function(**arguments)
            except LensScopesError as error:
                return "refused" if str(error).strip() else "an error without a message"
        return "answer"


_COMMANDS: dict[str, list[str]] = {
    "attribute": [PROMPT],
    "heads": [PROMPT],
    "matrix": [PROMPT],
    "modes": [PROMPT],
    "flow": [PROMPT, "--span", "a=dog"],
    "evaluate": ["passages.json", "--out", "out", "--metrics", "first-token", "--methods", "fisher"],
    "report": ["evaluated"],
    "show": ["saved.safetensors"],
    "serve": ["--port", "0"],
    "models": [],
}
_DANGEROUS = ("--help", "--version")


def commands() -> Iterator[tuple[str, list[str]]]:
    """(case, words) of every command with every option at every hostile value, and hostile arguments."""
    group: Any = typer.main.get_command(app)
    for name, usual in _COMMANDS.items():
        for parameter in group.commands[name].params:
            if parameter.param_type_name == "argument":
                for value in TEXT_VALUES:
                    yield (
                        f"{name} {value[:20]!r}",
                        [name, *([value] if not value.startswith("-") else ["--", value]), *usual[1:]],
                    )
                continue
            flag = parameter.opts[0]
            if flag in _DANGEROUS:
                continue
            if getattr(parameter, "is_flag", False):
                yield f"{name} {flag}", [name, *usual, flag]
                continue
            for value in TEXT_VALUES:
                yield f"{name} {flag}={value[:20]!r}", [name, *_without(usual, flag), f"{flag}={value}"]


def _without(words: list[str], flag: str) -> list[str]:
    at = words.index(flag) if flag in words else len(words)
    return [*words[:at], *words[at + 2 :]]


def functions(target: Target) -> Iterator[tuple[str, Callable[..., Any], dict[str, Any]]]:
    """(case, function, arguments) of every public function and class with every argument at every hostile value."""
    usual: dict[str, dict[str, Any]] = {
        "attribute": {"model": target.model, "prompt": PROMPT},
        "attribute_batch": {"model": target.model, "prompts": [PROMPT]},
        "attribute_all": {"model": target.model, "prompt": "The dog"},
        "inspect_heads": {"model": target.model, "prompt": "The dog", "verify": 1},
        "inspect_modes": {"model": target.model, "prompt": "The dog", "rank": 2},
        "information_flow": {"model": target.model, "prompt": PROMPT, "spans": {"a": "dog"}, "rank": 2, "samples": 2},
        "evaluate": {"model": target.model, "passages": [TEXTS[0]], "methods": ["fisher"], "metrics": ["first-token"]},
        "read_prompt": {"model": target.model, "prompt": PROMPT},
        "model_record": {"model": target.model},
        "patch_cells": {"model": target.model, "attribution": target.result},
        "load": {"path": target.folder / "saved.safetensors"},
        "load_results": {"path": target.evaluation},
        "report": {"source": target.evaluation},
        "load_model": {"name": "nosuch/model"},
        "available_models": {},
        "register_objective": {"name": "hostile", "function": lambda y, logits: y},
        "read_series": {"model": target.model, "text": "1,2,"},
        "value_distribution": {"model": target.model, "series": "1,2,"},
        "Semantic": {},
        "LogProb": {},
        "LogitDiff": {"token": 2, "other": 3},
        "LogProbDiff": {"answer": " dog", "other": " sofa"},
        "Temperature": {},
        "Entropy": {},
        "Fisher": {},
        "Custom": {"function": lambda y, logits: y},
        "FisherAtValues": {},
        "LeaveOneOut": {},
        "ContextCite": {},
        "RandomScores": {},
        "ExternalScores": {"source": [0.0] * 6},
        "StraightPath": {},
        "Noise": {},
        "Dot": {},
        "Layers": {"first": 1},
        "Heads": {},
        "Frozen": {},
        "Rules": {},
    }
    for name, arguments in usual.items():
        function = getattr(ls, name)
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL) or parameter.name == "progress":
                continue
            for value in VALUES:
                case = f"{name}({parameter.name}={repr(value)[:30]})"
                yield (
                    case,
                    _used(function, target) if name[0].isupper() else function,
                    {**arguments, parameter.name: value},
                )


def _used(kind: Callable[..., Any], target: Target) -> Callable[..., Any]:
    """Makes a value of a public class and asks for it."""

    def use(**settings: Any) -> Any:
        made = kind(**settings)
        if isinstance(made, ls.Path):
            return ls.attribute(target.model, PROMPT, through=made)
        if hasattr(made, "amplitude"):
            return ls.attribute(target.model, PROMPT, readout=made)
        if hasattr(made, "embeddings") and hasattr(made, "count"):
            return ls.attribute(target.model, PROMPT, points=made)
        return ls.attribute(target.model, PROMPT, made)

    return use


def attacks(target: Target, share: float = 1.0, seed: int = 0) -> Iterator[Outcome]:
    """The outcome of every attack, or of a share of them."""
    draw = random.Random(seed)
    for case, words in commands():
        if draw.random() < share:
            yield target.watched(case, lambda words=words: target.command(*words))
    for case, function, arguments in functions(target):
        if draw.random() < share:
            yield target.watched(case, lambda f=function, a=arguments: target.call(f, a))


def environment() -> None:
    """Set before anything is imported: no network, no output of libraries."""
    os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false", TRANSFORMERS_VERBOSITY="error")
