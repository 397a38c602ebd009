"""Several threads on one model: every number is that of a call alone, and nobody's hooks act on anyone else."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from entry_points import ENTRY_POINTS, PROMPT
from tiny_models import llama_like

import lens_scopes as ls
from lens_scopes.engine.model import ScopedModel
from lens_scopes.errors import ModelError

PAIRS = [
    ("fisher", "through"),
    ("fisher", "leave one out"),
    ("fisher", "heads"),
    ("through", "through"),
    ("rollout", "rollout"),
    ("noise", "batch"),
    ("matrix", "flow"),
    ("evaluation", "fisher"),
]


def beside(calls: list[Callable[[], Any]], times: int) -> list[BaseException]:
    """What went wrong while each call ran again and again in a thread of its own."""
    errors: list[BaseException] = []

    def again(call: Callable[[], Any]) -> None:
        try:
            for _ in range(times):
                call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=again, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def check(model: Any, name: str, wanted: list[torch.Tensor]) -> Callable[[], None]:
    def call() -> None:
        for value, expected in zip(ENTRY_POINTS[name](model), wanted, strict=True):
            assert torch.equal(value, expected), name

    return call


@pytest.mark.parametrize("pair", PAIRS, ids=" beside ".join)
def test_calls_beside_each_other_give_what_each_gives_alone(pair: tuple[str, str]) -> None:
    model = llama_like()
    alone = {name: ENTRY_POINTS[name](model) for name in pair}
    assert not beside([check(model, name, alone[name]) for name in pair], times=3 if "evaluation" in pair else 10)


def test_a_plain_forward_pass_beside_a_call_is_left_alone() -> None:
    model = llama_like()
    ids = torch.tensor([PROMPT])
    expected = model(ids)

    def plain() -> None:
        with torch.no_grad():
            assert torch.equal(model(ids), expected)

    assert not beside([plain, lambda: ls.attribute(model, PROMPT, ls.Fisher(), through=ls.Frozen("norms"))], times=40)


def test_a_call_inside_a_call_goes_on() -> None:
    model = llama_like()
    inner = ls.ExternalScores(lambda module, ids: ls.attribute(module, list(ids), ls.Fisher()).scores)
    assert torch.equal(ls.attribute(model, PROMPT, inner).scores, ls.attribute(model, PROMPT, ls.Fisher()).scores)


def test_hooks_that_somebody_resets_meanwhile_are_an_error() -> None:
    model = llama_like()
    with (
        pytest.raises(ModelError, match="hooks were reset"),
        ScopedModel.of(model).hooked([("hook_embed", lambda values: values)]),
    ):
        model.reset_hooks()
    ls.attribute(model, PROMPT, ls.Fisher())
