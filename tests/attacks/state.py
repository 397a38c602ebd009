"""Attacks by what is around a call: PyTorch's global state, other threads, compiled models and exceptions."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from contexts import CONTEXTS
from entry_points import ENTRY_POINTS
from outcome import RIGHT, Outcome, Target, ended
from tiny_models import TINY_MODELS, llama_like

import lens_scopes as ls

_TIMES = 5
_OBJECTIVES = [ls.Semantic(3), ls.LogProb(4), ls.Temperature(), ls.Entropy(), ls.Fisher(2), ls.LogitDiff(2, 5)]


def attacks(target: Target, share: float) -> Iterator[Outcome]:
    """The outcome of every context, pair of threads, compiled model and exception."""
    draw = random.Random(0)
    model = llama_like(dtype=torch.float32)
    alone = {name: call(model) for name, call in ENTRY_POINTS.items()}
    for name, context in itertools.product(ENTRY_POINTS, CONTEXTS):
        if draw.random() < 4 * share:
            yield ended(f"{name} in {context}", lambda name=name, context=context: _within(model, name, context, alone))
    for pair in itertools.combinations_with_replacement(ENTRY_POINTS, 2):
        if draw.random() < share / 2 and "evaluation" not in pair:
            yield ended(" beside ".join(pair), lambda pair=pair: _beside(model, pair, alone))
    for name in ENTRY_POINTS:
        if draw.random() < 4 * share:
            yield ended(f"{name} compiled", lambda name=name: _compiled(model, name, alone))
            yield ended(f"{name} compiled in part", lambda name=name: _compiled_in_part(name, alone))
    for name, kind in itertools.product(ENTRY_POINTS, (KeyboardInterrupt, MemoryError, RuntimeError)):
        if draw.random() < share:
            case = f"{name} and {kind.__name__}"
            yield ended(case, lambda name=name, kind=kind: _interrupted(model, name, kind, alone))
    for name, build in TINY_MODELS.items():
        yield from _laws(name, build(), share, draw)


def _equal(values: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    assert len(values) == len(wanted)
    for value, expected in zip(values, wanted, strict=True):
        assert value.dtype == expected.dtype and torch.equal(value.cpu(), expected), "other numbers"


def _within(model: Any, name: str, context: str, alone: dict[str, Any]) -> str:
    with CONTEXTS[context]():
        values = ENTRY_POINTS[name](model)
    _equal(values, alone[name])
    return RIGHT


def _beside(model: Any, pair: tuple[str, str], alone: dict[str, Any]) -> str:
    """Both calls, again and again, each in a thread of its own."""
    errors: list[BaseException] = []

    def again(name: str) -> None:
        try:
            for _ in range(_TIMES):
                _equal(ENTRY_POINTS[name](model), alone[name])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=again, args=(name,)) for name in pair]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return RIGHT


def _compiled(model: Any, name: str, alone: dict[str, Any]) -> str:
    _equal(ENTRY_POINTS[name](torch.compile(model)), alone[name])
    return RIGHT


def _compiled_in_part(name: str, alone: dict[str, Any]) -> str:
    model = llama_like(dtype=torch.float32)
    model.blocks[1].compile()
    _equal(ENTRY_POINTS[name](model), alone[name])
    return RIGHT


def _interrupted(model: Any, name: str, kind: type[BaseException], alone: dict[str, Any]) -> str:
    """An exception in the middle of the model; the next call is as ever, and nothing is left."""
    passes = itertools.count()

    def stop(values: torch.Tensor, hook: Any) -> None:
        if next(passes) == 1:
            raise kind("in the middle")

    with contextlib.suppress(kind, ls.LensScopesError), model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", stop)]):
        ENTRY_POINTS[name](model)
    assert not any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values()), "hooks are left"
    assert not any(item.requires_grad or item.grad is not None for item in model.parameters()), "gradients are left"
    _equal(ENTRY_POINTS[name](model), alone[name])
    return RIGHT


# Laws


def _laws(name: str, model: Any, share: float, draw: random.Random) -> Iterator[Outcome]:
    """Random calls: no negative norm, no influence of later tokens, one batch as single calls, slices as the whole."""
    checks: dict[str, Callable[[Any, list[int], Any, random.Random], None]] = {
        "later tokens": _no_later_influence,
        "a batch": _batch_is_single,
        "slices": _slices_are_whole,
        "a file": _file_is_result,
    }
    for (law, check), number in itertools.product(checks.items(), range(round(200 * share))):
        ids = [0, *(draw.randrange(1, 23) for _ in range(draw.randrange(1, 12)))]
        objective, case = draw.choice(_OBJECTIVES), f"{name}: {law} {number}"
        yield ended(case, lambda check=check, ids=ids, o=objective: _holds(check, model, ids, o, draw))


def _holds(check: Any, model: Any, ids: list[int], objective: Any, draw: random.Random) -> str:
    check(model, ids, objective, draw)
    return RIGHT


def _close(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


def _no_later_influence(model: Any, ids: list[int], objective: Any, draw: random.Random) -> None:
    position = draw.randrange(len(ids))
    result = ls.attribute(model, ids, objective, position=position, layers=True)
    assert len(result.scores) == position + 1 and bool((result.scores >= 0).all())
    _close(result.scores, ls.attribute(model, ids[: position + 1], objective).scores)


def _batch_is_single(model: Any, ids: list[int], objective: Any, draw: random.Random) -> None:
    prompts = [ids, ids[:1], [*ids, 5]]
    for prompt, result in zip(prompts, ls.attribute_batch(model, prompts, objective), strict=True):
        _close(result.scores, ls.attribute(model, prompt, objective).scores)


def _slices_are_whole(model: Any, ids: list[int], objective: Any, draw: random.Random) -> None:
    with_little = ls.attribute(model, ids, objective, layers=True, memory=draw.choice([20_000, 60_000, 10**9]))
    whole = ls.attribute(model, ids, objective, layers=True)
    assert with_little.layers is not None and whole.layers is not None
    _close(with_little.layers, whole.layers)


def _file_is_result(model: Any, ids: list[int], objective: Any, draw: random.Random) -> None:
    result = ls.attribute(model, ids, objective, layers=draw.random() < 0.5, readout=draw.choice(["norm", "dot"]))
    again = ls.Attribution.from_dict(result.to_dict())
    assert torch.equal(again.scores, result.scores.double()) and again.to_dict() == result.to_dict()
