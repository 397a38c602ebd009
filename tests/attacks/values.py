"""Hostile values: texts for options of commands and fields of requests, and objects for arguments of functions."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch

import lens_scopes as ls

DIGITS = "9" * 4301
USUAL_TEXTS = ("", "\0", "\ud800", "~nosuch/x", "9" * 30, DIGITS, "-1", "1e300", "nan", "[" * 3000, f"a={DIGITS}:1")
"""What brought the command line down once; tried more often than the others."""

OTHER_TEXTS = (
    " ",
    "-",
    "--",
    "a\0b",
    "~",
    "/dev/null",
    "/",
    "x" * 5000,
    "é" * 300,
    "-" + DIGITS,
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
USUAL_OBJECTS: tuple[Any, ...] = (None, True, -1, 2**64, float("nan"), "", [None], b"x", object(), 1.5)
"""What brought functions down once; tried more often than the others."""

OTHER_OBJECTS: tuple[Any, ...] = (
    False,
    0,
    1,
    2,
    10**6,
    2**63,
    10**30,
    -(2**70),
    -0.0,
    float("inf"),
    1e300,
    1e-320,
    *OTHER_TEXTS[::4],
    "\ud800",
    [],
    [1],
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


def some(usual: Sequence[Any], others: Sequence[Any], share: float, draw: random.Random) -> Iterator[Any]:
    """A share of the values, and four times that of the usual ones."""
    for value in usual:
        if draw.random() < 4 * share:
            yield value
    for value in others:
        if draw.random() < share:
            yield value
