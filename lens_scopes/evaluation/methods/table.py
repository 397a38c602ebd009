"""The names of methods: every scope of the registry that needs no token of its own, the evaluation's own, and recipes.

This module imports nothing heavy, so that `--help` is quick.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lens_scopes.errors import EvaluationError, suggest
from lens_scopes.scopes.registry import ScopeEntry, scope_entries

_TRIVIAL, _PATH_GRADIENTS = (f"lens_scopes.evaluation.methods.{name}" for name in ("trivial", "path_gradients"))

OWN_METHODS = (
    ScopeEntry("closeness", f"{_TRIVIAL}:Closeness", "nothing: closeness to the end", takes_gradient=False),
    ScopeEntry("embedding-norm", f"{_TRIVIAL}:EmbeddingNorm", "nothing: the embedding's size", takes_gradient=False),
    ScopeEntry("surprisal", f"{_TRIVIAL}:Surprisal", "the token, given those before it", takes_gradient=False),
    ScopeEntry(
        "ig-weighted",
        f"{_PATH_GRADIENTS}:weighted_integrated_gradients",
        "Integrated Gradients of the AOPC table of arXiv:2601.16407",
        takes_gradient=False,
    ),
    ScopeEntry(
        "ig-semantic",
        f"{_PATH_GRADIENTS}:path_integrated_semantic",
        "Integrated Gradients of the leave-one-out table of arXiv:2601.16407",
        takes_gradient=False,
    ),
)
"""Comparison methods that only an evaluation has."""

RECIPES = {
    "ixg": "semantic+product",
    "ixg-dot": "semantic+dot",
    "ig": "semantic+product+path",
    "ig-dot": "semantic+dot+path",
    "smoothgrad": "semantic+noise",
}
"""Short names of well-known methods, each with what it is short for; a number after "@" is that of the points."""


@dataclass(frozen=True)
class MethodBase:
    """What a method's name begins with: an entry, and the settings that the name fixes."""

    entry: ScopeEntry
    fixed: Mapping[str, Any]

    @property
    def setting(self) -> str | None:
        """The setting that may follow the name after "@"."""
        return self.entry.main_setting(self.fixed)


def method_bases() -> dict[str, MethodBase]:
    """Every entry by the name, or names, that methods have for it; those that need a setting have none."""
    return {
        name: MethodBase(entry, fixed)
        for entry in (*scope_entries().values(), *OWN_METHODS)
        for name, fixed in _names(entry).items()
        if "+" not in name
    }


def method_base(name: str, setting: str, known: Mapping[str, Any]) -> MethodBase:
    """The base of that name.

    Args:
        name: what stands before "@".
        setting: what stands after it, for messages.
        known: further names, for messages.

    Raises:
        EvaluationError: for an unknown name, with a near one; for one that an evaluation spells otherwise; and for a
            scope whose settings differ from passage to passage.
    """
    bases = method_bases()
    if name in bases:
        return bases[name]
    entry = scope_entries().get(name)
    if entry is None:
        names = [*bases, *known]
        raise EvaluationError(f"unknown method {name!r}{suggest(name, names)} Known: {', '.join(names)}.")
    if entry.required:
        raise EvaluationError(
            f"scope {name!r} needs {' and '.join(entry.required)}, which no name holds; give an object with them."
        )
    names = list(_names(entry))
    first, plus, rest = names[0].partition("+")
    spelled = f"{first}@{setting}{plus}{rest}" if setting else names[0]
    raise EvaluationError(f"method {name!r} is called {' or '.join(map(repr, names))} here; write {spelled!r}.")


def _names(entry: ScopeEntry) -> Mapping[str, Mapping[str, Any]]:
    if entry.required:
        return {}
    return {entry.name: {}} if entry.method_names is None else entry.method_names
