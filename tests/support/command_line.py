"""The command line on a tiny model whose tokenizer reads words, for every test that runs a command."""

from __future__ import annotations

import io
import json
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from tiny_models import gpt2_like
from tokenizers import Regex, Tokenizer
from tokenizers import models as tokenizer_models
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast

from lens_scopes.cli import main

WORDS = ["<bos>", "<unk>", "The", " dog", " sleeps", " on", " the", " sofa", " Sofa", ".", "\n", " schläft", " 🛋"]
PROMPT = "The dog sleeps on the"
TEXTS = tuple(f"The dog sleeps on the{' sofa' * (1 + n % 5)}" for n in range(12))
"""Passages of several lengths."""

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


class Run(NamedTuple):
    """What a command line left behind."""

    status: int
    out: str
    err: str


class Loader:
    """Stands in for `load_model`: counts its calls, and gives the model it holds or raises the error it holds."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.calls: list[tuple[Any, dict[str, Any]]] = []

    def __call__(self, name: Any, **options: Any) -> Any:
        self.calls.append((name, options))
        if isinstance(self.model, BaseException):
            raise self.model
        return self.model


def tokenizer(words: Sequence[str] = WORDS, pieces: str = r" ?[^\s.]+|\s|\.") -> PreTrainedTokenizerFast:
    """Words with the space before them, as Gemma and GPT-2 have them."""
    vocabulary = {word: index for index, word in enumerate(words)}
    core = Tokenizer(tokenizer_models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = Split(Regex(pieces), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<bos>", unk_token="<unk>")


@pytest.fixture
def usual_signals() -> Iterator[None]:
    """The handlers that Python begins with, whatever the shell of the tests ignores."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> Loader:
    model = gpt2_like()
    model.tokenizer = tokenizer()
    stand_in = Loader(model)
    monkeypatch.setattr("lens_scopes.models.load.load_model", stand_in)
    return stand_in


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder: whatever a command leaves is in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(
    loader: Loader, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Run]:
    def run(*arguments: str, stdin: bytes = b"") -> Run:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        with pytest.raises(SystemExit) as exit_:
            main(arguments)
        printed = capsys.readouterr()
        return Run(int(exit_.value.code or 0), printed.out, printed.err)

    return run


def as_json(result: Run) -> Any:
    assert result.status == 0, result.err
    return json.loads(result.out)
