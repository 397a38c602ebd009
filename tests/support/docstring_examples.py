"""The examples in the package's docstrings run as tests, on a tiny random model whose tokenizer reads words.

    pytest lens_scopes tests/conftest.py    # these alone

Names that examples may use: `ls`, `torch`, and `model`, which reads "The capital of France is" and digits.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from _pytest.doctest import DoctestItem, DoctestModule
from command_line import tokenizer
from tiny_models import gpt2_like

import lens_scopes

PACKAGE = Path(lens_scopes.__file__).parent
WORDS = ["<bos>", "<unk>", "The", " capital", " of", " France", " Italy", " is", " Paris", " Rome", ".", ",", "\n"]
TEMPLATE = "{% for message in messages %}{{ message.role }}\n{{ message.content }}\n{% endfor %}"


@cache
def example_model() -> Any:
    """GPT-2's architecture at d_model = 16, random, in float64."""
    model = gpt2_like()
    model.tokenizer = tokenizer((*WORDS, *"0123456789"), r" ?[^\s.,\d]+|\d|\s|[.,]")
    model.tokenizer.chat_template = TEMPLATE
    return model


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path: Path) -> Iterator[None]:
    """Only the package's docstrings hold examples."""
    collectors = yield
    return [item for item in collectors if PACKAGE in file_path.parents or not isinstance(item, DoctestModule)]


@pytest.fixture(autouse=True)
def example_names(request: pytest.FixtureRequest) -> None:
    """Gives examples their names and an empty working folder."""
    if isinstance(request.node, DoctestItem):
        request.getfixturevalue("doctest_namespace").update(ls=lens_scopes, torch=torch, model=example_model())
        request.getfixturevalue("monkeypatch").chdir(request.getfixturevalue("tmp_path"))
