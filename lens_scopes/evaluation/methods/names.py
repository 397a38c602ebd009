"""Reads methods given by name: a base, its setting, and any modifications.

"fisher@8+dot-mean+frozen-patterns" is the Fisher Scope of rank 8, read as the signed effect of moving from the mean
embedding, with attention patterns held fixed. Bases come from `methods/table.py`, modifications from the tables of
readouts, points, paths and sites.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from lens_scopes.engine.sites import SCORE_SITES
from lens_scopes.errors import EvaluationError, LensScopesError, suggest
from lens_scopes.evaluation.methods.method import Method
from lens_scopes.evaluation.methods.table import RECIPES, method_base
from lens_scopes.scopes.comparisons import Baseline, ExternalScores, OutsideArray, OutsideFunction
from lens_scopes.scopes.objectives import Objective
from lens_scopes.scopes.paths import FREEZABLE, Frozen
from lens_scopes.scopes.points import POINTS, STARTS, as_points, path_name
from lens_scopes.scopes.readouts import READOUTS, Relative, as_readout

_STARTS = {
    f"ig-{start}{'-held' * held}": f"semantic+product+{path_name(start, held)}"
    for start in STARTS
    for held in (False, True)
    if (start, held) != ("zero", False)  # that one is "ig"
}
_RECIPES = RECIPES | _STARTS


def _freeze(method: Method, name: str) -> Method:
    through = Frozen(name.removeprefix("frozen-"))
    return replace(method, through=through if method.through is None else method.through & through)


def _read_at(method: Method, name: str) -> Method:
    return replace(method, at=SCORE_SITES[name], readout=Relative())


_MODIFICATIONS: dict[str, Callable[[Method, str], Method]] = {
    **dict.fromkeys(READOUTS, lambda method, name: replace(method, readout=as_readout(name))),
    **dict.fromkeys(POINTS, lambda method, name: replace(method, points=as_points(name))),
    **dict.fromkeys((f"frozen-{part}" for part in FREEZABLE), _freeze),
    **dict.fromkeys(SCORE_SITES, _read_at),
    "redrawn": lambda method, _: replace(method, redrawn=True),
}
"""What may follow a base, each after a plus sign; points also with a number of them, as "path-mean@4"."""

if TYPE_CHECKING:
    MethodLike: TypeAlias = str | Method | Baseline | Objective | tuple[str, Any]
else:  # what is none of these is answered with an EvaluationError, also under a run-time type checker
    MethodLike = Any


def as_method(method: MethodLike, meanings: Mapping[str, str] | None = None) -> Method:
    """Reads a method.

    Args:
        method: a name; an objective or comparison method; or a pair (name, what it is), the second an objective, a
            comparison method, scores, or a function of (model, token ids) that returns scores.
        meanings: of base names that a protocol defines otherwise; see `Protocol.meanings`.

    Returns:
        The method, under the name that tables will have.

    Raises:
        EvaluationError: for unknown names, with near ones, and settings that do not fit.

    Example:
        >>> as_method("fisher@8+values").at
        'hook_v'
    """
    if isinstance(method, Method):
        return method
    if isinstance(method, (Objective, Baseline)):
        return Method(method.scope, method)
    if isinstance(method, tuple) and len(method) == 2 and isinstance(method[0], str):
        name, kind = method
        return Method(name, kind if isinstance(kind, (Objective, Baseline)) else _external(kind, name))
    if not isinstance(method, str):
        raise EvaluationError(
            "a method is a name such as 'fisher@8', an objective, a comparison method, or a pair (name, one of these, "
            f"scores or a function); got {type(method).__name__}."
        )
    try:
        return replace(_read(method, meanings or {}), name=method)
    except EvaluationError:
        raise
    except LensScopesError as error:
        raise EvaluationError(f"method {method!r}: {error}") from error


def _external(scores: OutsideFunction | OutsideArray, name: str) -> ExternalScores:
    return ExternalScores(scores, name=name)


def _read(text: str, meanings: Mapping[str, str]) -> Method:
    head, *modifications = text.split("+")
    base, at, setting = head.partition("@")
    # A protocol's meaning or a recipe stands for a longer name.
    if base in meanings:
        if at:
            raise EvaluationError(f"the protocol defines {base!r} without a setting after @; got {head!r}.")
        return _read("+".join((meanings[base], *modifications)), {})
    if base in _RECIPES:
        recipe = _RECIPES[base]
        _check_setting(head, recipe.rpartition("+")[2] in POINTS)
        return _read("+".join((recipe + at + setting, *modifications)), {})
    # The scope or comparison method, with its setting.
    found = method_base(base, setting, _RECIPES)
    _check_setting(head, found.setting is not None)
    settings = {found.setting: setting} if found.setting and setting else {}
    explanation = found.entry.read(**found.fixed, **settings)
    assert isinstance(explanation, (Objective, Baseline))
    method = Method("", explanation)
    # Modifications, from the left.
    for name in modifications:
        word = name.partition("@")[0]
        change = _MODIFICATIONS.get(word if word in POINTS else name)
        if change is None:
            known = ", ".join(_MODIFICATIONS)
            raise EvaluationError(f"unknown modification {name!r}{suggest(name, _MODIFICATIONS)} Known: {known}.")
        if isinstance(method.explanation, Baseline):
            raise EvaluationError(f"{base!r} takes no gradient, so +{name} does not apply to it.")
        method = change(method, name)
    return method


def _check_setting(head: str, takes_one: bool) -> None:
    base, at, setting = head.partition("@")
    if at and not takes_one:
        raise EvaluationError(f"method {base!r} has no setting after @; got {head!r}.")
    if at and not setting:
        raise EvaluationError(f"{head!r} has nothing after @; write a setting there, or {base!r} for the usual one.")
