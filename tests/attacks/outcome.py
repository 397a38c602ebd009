"""What became of an attack, and a tiny model in an empty folder that is watched from outside."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from command_line import PROMPT, TEXTS, tokenizer
from tiny_models import gpt2_like

import lens_scopes as ls
from lens_scopes.errors import LensScopesError

RIGHT, REFUSED, WRONG, DEFECT, LEFT = "right answers", "own errors", "wrong numbers", "tracebacks", "left behind"
ENDS = (RIGHT, REFUSED, WRONG, DEFECT, LEFT)
"""An attack ends with a right answer, with an error of the project's own, or it has hit: with a wrong number, with
another error (or none in time), or with something left behind in the folder, the model or PyTorch."""

_SECONDS = 120
_FILES = ("passages.json", "chat.json", "saved.safetensors", "evaluated")


@dataclass(frozen=True)
class Outcome:
    """What became of one attack: one of ENDS, and what to say of it."""

    case: str
    end: str
    said: str = ""


def ended(case: str, attack: Callable[[], str]) -> Outcome:
    """The outcome of an attack that returns one of ENDS, raises the project's own error, or hits."""
    try:
        with _in_time():
            return Outcome(case, attack())
    except LensScopesError as error:
        return Outcome(case, REFUSED) if str(error).strip() else Outcome(case, DEFECT, "an error without a message")
    except AssertionError as error:
        return Outcome(case, WRONG, str(error)[:200])
    except BaseException as error:  # whatever comes out is the finding
        return Outcome(case, DEFECT, f"{type(error).__name__}: {str(error)[:120]!r}")


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    def out_of_time(number: int, frame: object) -> None:
        raise TimeoutError(f"no answer in {_SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


class Target:
    """A tiny model in a folder with files of every kind, and a copy of it that nobody has used."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = chat_model()
        self.result = ls.attribute(self.model, PROMPT, ls.Semantic(), layers=True, readout=ls.Dot(PROMPT))
        (folder / "passages.json").write_text(json.dumps(list(TEXTS[:2])))
        (folder / "chat.json").write_text(json.dumps([{"role": "user", "content": "The dog sleeps"}]))
        self.result.save(folder / "saved.safetensors")
        self.evaluation = folder / "evaluated"
        ls.evaluate(self.model, list(TEXTS[:2]), methods=["fisher"], metrics=["aopc"], out=self.evaluation)
        self._before = self._state()
        self._untouched = copy.deepcopy(self.model)

    @contextlib.contextmanager
    def untouched(self) -> Iterator[Any]:
        """A copy of the model of which nothing is known yet, in a folder as it was."""
        self.tidy()
        yield copy.deepcopy(self._untouched)
        self.tidy()

    def tidy(self) -> None:
        """Removes what an attack wrote where it was told to write."""
        for item in self.folder.iterdir():
            if item.name not in _FILES:
                shutil.rmtree(item) if item.is_dir() and not item.is_symlink() else item.unlink()

    def ended(self, case: str, attack: Callable[[], str]) -> Outcome:
        """The outcome of an attack that does not reach the model."""
        return ended(case, attack)

    def watched(self, case: str, attack: Callable[[], str]) -> Outcome:
        """The outcome of an attack, after which the model, PyTorch and the folder are as before."""
        with mock.patch("lens_scopes.engine.memory.system._start_high_water", lambda: None):
            outcome = ended(case, attack)
        if self._state() != self._before:
            self._before = self._state()
            return Outcome(case, LEFT, f"the model or PyTorch is not as before ({outcome.end} {outcome.said})")
        temporary = [path.name for path in self.folder.rglob(".lens-scopes-*")]
        self.tidy()
        return Outcome(case, LEFT, f"{temporary[0]} ({outcome.end})") if temporary else outcome

    def _state(self) -> Any:
        model = self.model
        weights = [float(values.double().sum()) for values in model.parameters()]
        hooks = sum(len(point.fwd_hooks) + len(point.bwd_hooks) for point in model.hook_dict.values())
        hooks += sum(len(part._forward_hooks) + len(part._backward_hooks) for part in model.modules())
        generator = torch.random.get_rng_state().sum().item()
        torch_state = (torch.get_default_dtype(), torch.is_grad_enabled(), torch.random.initial_seed(), generator)
        return weights, hooks, model.training, any(item.requires_grad for item in model.parameters()), torch_state


def chat_model() -> Any:
    """The tiny model with a tokenizer of words and a chat template."""
    model = gpt2_like()
    model.tokenizer = tokenizer()
    model.tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}.{% endfor %}"
    return model
