"""Reads methods given by name: the line of a Spec, a recipe's short name with further choices, or one of the
evaluation's own.

"fisher@8+dot-mean+frozen-patterns" is the Fisher Scope of rank 8, read as the signed effect of moving from the mean
embedding, with attention patterns held fixed. "+redrawn" takes the scores of the model with all blocks redrawn.
"semantic@values", or "semantic+values", is the Semantic Scope read at the attention values of every layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, TypeAlias

from lens_scopes.errors import VALIDATED, EvaluationError, LensScopesError, suggest
from lens_scopes.evaluation.methods.method import Method
from lens_scopes.evaluation.methods.table import OWN_METHODS, RECIPES, method_names
from lens_scopes.scopes.comparisons.external import ExternalScores
from lens_scopes.scopes.objectives import Explanation
from lens_scopes.scopes.registry import SCORE_SITES, scope_entries
from lens_scopes.scopes.spec import Spec
from lens_scopes.scopes.text.options import TOKEN_OPTIONS

MethodLike: TypeAlias = Annotated["str | Method | Spec | Explanation | tuple[str, Any]", VALIDATED]


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
        >>> as_method("fisher@8+values").spec.score_site
        'hook_v'
    """
    if isinstance(method, Method):
        return method
    if isinstance(method, Spec):
        return Method(method.line, method)
    if isinstance(method, Explanation):
        return Method(method.scope, Spec(method))
    if isinstance(method, tuple) and len(method) == 2 and isinstance(method[0], str):
        name, kind = method
        return Method(name, Spec.read(kind if isinstance(kind, (Spec, Explanation)) else ExternalScores(kind, name)))
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


def _read(text: str, meanings: Mapping[str, str]) -> Method:
    # "name@setting+change+change", where the protocol may mean something of its own by the name.
    head, *changes = text.split("+")
    base, at, setting = head.partition("@")
    if base in meanings:
        if at:
            raise EvaluationError(f"the protocol defines {base!r} without a setting after @; got {head!r}.")
        return _read("+".join((meanings[base], *changes)), {})
    redrawn = "redrawn" in changes
    changes = [change for change in changes if change != "redrawn"]
    if setting in SCORE_SITES:  # "semantic@values": passages differ in their tokens, so nothing else stands there
        at, setting, changes = "", "", [setting, *changes]
        head = base
    # Methods that only an evaluation has, recipes of several settings, then everything that the registry can read.
    own_methods = {entry.name: entry for entry in OWN_METHODS}
    if base in own_methods:
        if at or changes:
            raise EvaluationError(f"{base!r} takes no gradient and has no setting, so {text!r} is no method.")
        return Method("", Spec.read(own_methods[base].build()), redrawn)
    if base in RECIPES:
        head = _line_of(base, at, setting)
    elif base not in scope_entries():
        names = method_names()
        raise EvaluationError(f"unknown method {base!r}{suggest(base, names)} Known: {', '.join(names)}.")
    elif at and scope_entries()[base].main_setting in TOKEN_OPTIONS:
        raise EvaluationError(
            f"method {base!r} has no setting after @, since passages differ in their tokens; got {head!r}."
        )
    return Method("", Spec.parse("+".join((head, *changes))), redrawn)


def _line_of(base: str, at: str, setting: str) -> str:
    line, usual = RECIPES[base]
    if at and not usual:
        raise EvaluationError(f"method {base!r} has no setting after @; got {base + at + setting!r}.")
    if at and not setting:
        raise EvaluationError(
            f"{base + at!r} has nothing after @; write a setting there, or {base!r} for the usual one."
        )
    return line.format(setting or usual)
