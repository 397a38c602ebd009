"""Attacks on Python's callers: every argument of every public function, class and method of a result."""

from __future__ import annotations

import contextlib
import inspect
import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pandas
import torch
from command_line import PROMPT, TEXTS
from number_models import SERIES, with_numbers
from outcome import RIGHT, Outcome, Target, silence
from tiny_models import llama_like
from values import OTHER_OBJECTS, USUAL_OBJECTS, some

import lens_scopes as ls
from lens_scopes.evaluation.report import EvaluationReport
from lens_scopes.results.base import Result
from lens_scopes.results.load import KINDS

OTHER = "The sofa sleeps on the"
LABELLED = [
    {"prompt": PROMPT, "span": span, "leaks": leaks}
    for span, leaks in (("The", True), ("dog", True), ("sleeps", False), ("on", False))
]

# What makes a usual call of each, beside the model where the first argument is one.
_FUNCTIONS: dict[str, dict[str, Any]] = {
    "attribute": {"prompt": PROMPT},
    "attribute_batch": {"prompts": [PROMPT]},
    "attribute_all": {"prompt": "The dog"},
    "inspect_heads": {"prompt": "The dog", "verify": 1},
    "inspect_modes": {"prompt": "The dog", "rank": 2},
    "information_flow": {"prompt": PROMPT, "spans": {"a": "dog"}, "rank": 2, "samples": 2},
    "calibrate_flow": {"cases": LABELLED, "rank": 2, "samples": 2},
    "evaluate": {"passages": [TEXTS[0]], "methods": ["fisher"], "metrics": ["first-token"]},
    "read_prompt": {"prompt": PROMPT},
    "model_record": {},
    "patch_cells": {"attribution": "saved.safetensors", "strongest": 1},
    "segment_agreement": {
        "prompt": "The dog. The sofa.",
        "answer": " sleeps",
        "scores": {"a": [0.0, *range(6)]},
        "ablations": 4,
    },
    "read_series": {"text": "1,2,"},
    "value_distribution": {"series": "1,2,"},
    "inspect_series": {"series": "1,2,"},
    "load": {"path": "saved.safetensors"},
    "load_results": {"path": "evaluated"},
    "report": {"source": "evaluated"},
    "load_model": {"name": "nosuch/model"},
    "available_models": {},
    "register_objective": {"name": "hostile", "function": lambda y, logits: y},
}
_CLASSES: dict[str, dict[str, Any]] = {
    "Semantic": {},
    "LogProb": {},
    "LogitDiff": {"token": 2, "other": 3},
    "LogProbDiff": {"answer": " dog", "other": " sofa"},
    "Temperature": {},
    "Entropy": {},
    "Fisher": {},
    "Custom": {"function": lambda y, logits: y},
    "Directions": {"vectors": torch.ones(1, 16, dtype=torch.float64), "weights": torch.ones(1, dtype=torch.float64)},
    "FisherAtValues": {},
    "Spec": {"objective": ls.Fisher()},
    "LeaveOneOut": {},
    "ContextCite": {},
    "FadedAttention": {},
    "AttentionRollout": {},
    "ValueWeightedAttention": {},
    "RandomScores": {},
    "KernelShap": {},
    "GradEllm": {},
    "BalancedValues": {},
    "Closeness": {},
    "EmbeddingNorm": {},
    "Surprisal": {},
    "ExternalScores": {"source": [0.0] * 6},
    "StraightPath": {},
    "Noise": {},
    "Norm": {},
    "Dot": {},
    "Product": {},
    "Relative": {},
    "Layers": {"first": 1},
    "Heads": {},
    "MLP": {},
    "Attention": {},
    "Skip": {},
    "Frozen": {},
    "Rules": {},
    "LogitLens": {},
    "FittedLens": {"lens": "lens.pt"},
    "Chars": {"start": 4, "stop": 7},
}
_NOT_MADE = {
    # What functions return, and bases: nobody makes them. Methods of results are attacked below.
    *(kind.__name__ for kind in KINDS.values()),
    *(
        "Comparison",
        "Difference",
        "EvaluationReport",
        "FlowCalibration",
        "LensScopesError",
        "Objective",
        "Path",
        "Prompt",
        "Ranked",
        "Result",
        "Series",
    ),
    "ValueDistribution",
}
_UNUSED = ("self", "progress")
_OWN_CODE = ("function", "source", "objective")  # of the caller, whose errors are the caller's


def attacks(target: Target, share: float) -> Iterator[Outcome]:
    """The outcome of every call."""
    public = {name for name in ls.__all__ if callable(getattr(ls, name, None))}
    assert public == {*_FUNCTIONS, *_CLASSES, *_NOT_MADE}, "a public name is not attacked"
    draw, share = random.Random(0), 4 * share  # a call takes milliseconds
    results = results_of_every_kind(target.model)
    for case, call in [*_calls(share, draw), *_method_calls(results, share, draw)]:
        yield target.watched(case, lambda call=call: _ended(target, call))


Call = Callable[[Any], Any]
"""A call on the model given."""


def _calls(share: float, draw: random.Random) -> Iterator[tuple[str, Call]]:
    for name, usual in {**_FUNCTIONS, **_CLASSES}.items():
        for parameter in _parameters(getattr(ls, name)):
            for value in some(USUAL_OBJECTS, OTHER_OBJECTS, share, draw):
                if parameter in _OWN_CODE and (value is int or value is len):
                    continue
                yield f"{name}({parameter}={_quoted(value)})", _Called(name, usual, parameter, value)


@dataclass(frozen=True)
class _Called:
    """A function, or a class whose object is then used, with one argument of its usual ones replaced."""

    name: str
    usual: dict[str, Any]
    parameter: str
    value: Any

    def __call__(self, model: Any) -> Any:
        function = getattr(ls, self.name)
        arguments = dict(self.usual)
        if "model" in inspect.signature(function).parameters:
            arguments["model"] = model
        if arguments.get("attribution") == "saved.safetensors":
            arguments["attribution"] = ls.load("saved.safetensors")
        arguments[self.parameter] = self.value
        kinds = [item.kind for item in inspect.signature(function).parameters.values()]
        several = inspect.Parameter.VAR_POSITIONAL in kinds  # Heads("L0H1", …)
        made = function(self.value) if several else function(**arguments)
        return _use(made, model) if self.name in _CLASSES else made


def _use(made: Any, model: Any) -> Any:
    """What comes of an object in the call that it is for."""
    if isinstance(made, ls.Path):
        return ls.attribute(model, PROMPT, through=made)
    if isinstance(made, ls.Directions):
        return ls.attribute(model, PROMPT, lambda y, logits: made)
    if isinstance(made, ls.Chars):
        return ls.read_prompt(model, PROMPT, spans={"a": made})
    if hasattr(made, "cells"):
        return ls.attribute(model, PROMPT, layers=True, lens=made)
    if hasattr(made, "amplitude"):
        return ls.attribute(model, PROMPT, readout=made)
    if hasattr(made, "embeddings") and hasattr(made, "count"):
        return ls.attribute(model, PROMPT, points=made)
    return ls.attribute(model, PROMPT, made)


def results_of_every_kind(model: Any) -> dict[str, Result]:
    """One result of every kind."""
    attribution = ls.attribute(model, PROMPT, ls.Semantic(), layers=True, readout=ls.Dot(OTHER), lens="logit")
    answered = ls.attribute_all(model, PROMPT, ls.Semantic(), generate=3, spans={"a": "dog"})
    results: list[Result] = [
        attribution,
        ls.inspect_heads(model, "The dog", verify=1),
        ls.patch_cells(model, attribution, 2),
        answered,
        answered.total_influence("generated"),
        ls.inspect_modes(model, "The dog", 2),
        ls.information_flow(model, PROMPT, {"a": "dog"}, rank=2, samples=2),
        ls.inspect_series(with_numbers(llama_like()), SERIES, ls.Fisher()),
    ]
    assert {result.kind for result in results} == set(KINDS), "a kind of result is not attacked"
    return {result.kind: result for result in results}


def _method_calls(results: dict[str, Result], share: float, draw: random.Random) -> Iterator[tuple[str, Call]]:
    for kind, result in results.items():
        for name, method in inspect.getmembers(type(result), inspect.isfunction):
            if name.startswith("_"):
                continue
            for parameter in _parameters(method):
                for value in some(USUAL_OBJECTS, OTHER_OBJECTS, share, draw):
                    arguments = {"layer": 0, "head": 0} if name == "type_of" else {}
                    arguments |= {"nats": 0.1} if name == "above" else {}
                    arguments[parameter] = value
                    call = getattr(result, name)
                    case = f"{kind}.{name}({parameter}={_quoted(value)})"
                    yield case, lambda model, call=call, arguments=arguments: call(**arguments)


def _parameters(function: Any) -> list[str]:
    return [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.name not in _UNUSED and parameter.kind is not parameter.VAR_KEYWORD
    ]


def _quoted(value: Any) -> str:
    return repr(value).partition(" at 0x")[0][:30]


def _ended(target: Target, call: Call) -> str:
    """Answered, with finite numbers that hold for every view, and by a model that nobody has used as well."""
    with contextlib.chdir(target.folder), silence(), mock.patch.dict("lens_scopes.scopes.registry._own_entries"):
        answer = call(target.model)
        numbers = _numbers(answer)
        with target.untouched() as model, mock.patch.dict("lens_scopes.scopes.registry._own_entries", clear=True):
            assert numbers == _numbers(call(model)), "another answer the second time"
    return RIGHT


def _numbers(answer: Any) -> Any:
    """What an answer says, comparable; a result is also drawn, written and read again."""
    if isinstance(answer, Result):
        content = answer.to_safetensors()
        assert answer.values().isfinite().all(), "a number is not finite"
        assert repr(answer) and answer.to_html() and answer.entries() is not None
        plain = json.dumps(answer.to_dict())
        assert json.dumps(KINDS[answer.kind].from_dict(json.loads(plain)).to_dict()) == plain, "read as something else"
        return plain, len(content)
    if isinstance(answer, EvaluationReport):
        return answer.means.to_csv()
    if isinstance(answer, pandas.DataFrame | pandas.Series):
        return answer.to_csv()
    if isinstance(answer, torch.Tensor):
        return answer.tolist()
    if isinstance(answer, dict):
        return {str(key): _numbers(value) for key, value in answer.items()}
    if isinstance(answer, list | tuple):
        return [_numbers(item) for item in answer]
    if isinstance(answer, float):
        return "nan" if math.isnan(answer) else answer
    return answer if isinstance(answer, str | int | bytes | None) else type(answer).__name__
