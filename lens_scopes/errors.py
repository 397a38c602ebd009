"""The one exception family: every message says what came, what was expected and what to do."""

from __future__ import annotations

import difflib
import operator
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

VALIDATED = "validated by the public functions"
"""Marks the type of a value that public functions check themselves: a wrong one gets an error that says what to do. A
run-time type checker, which would only name the types, leaves it alone."""

_Entry = TypeVar("_Entry")


def near_names(name: object, known: Iterable[str], *, n: int = 1, cutoff: float = 0.6) -> list[str]:
    """Up to `n` known names that look like `name`, whatever the case, the nearest first.

    Example:
        >>> near_names("GPT2-Smal", ["gpt2-small", "gpt2-xl"], n=2)
        ['gpt2-small', 'gpt2-xl']
    """
    spellings = {spelling.lower(): spelling for spelling in reversed(list(known))}
    return [spellings[near] for near in difflib.get_close_matches(str(name).lower(), spellings, n=n, cutoff=cutoff)]


def suggest(name: object, known: Iterable[str], *, end: str = ".") -> str:
    """The end of a message about an unknown name: the nearest known one, where one is near.

    Example:
        >>> "unknown scope 'fischer'" + suggest("fischer", ["fisher", "entropy"])
        "unknown scope 'fischer'; did you mean 'fisher'?"
    """
    near = near_names(name, known)
    return f"; did you mean {near[0]!r}?" if near else end


def find_entry(name: object, known: Mapping[str, _Entry], kind: str, error: type[LensScopesError]) -> _Entry:
    """The entry of a table by its name.

    Args:
        kind: what the table holds, for the message: "metric".
        error: what to raise for a name that is not there; the message has a near one, and all.

    Example:
        >>> find_entry("ten", {"one": 1, "two": 2}, "number", ModelError)
        Traceback (most recent call last):
        lens_scopes.errors.ModelError: unknown number 'ten'. Known: one, two.
    """
    if not isinstance(name, str) or name not in known:
        raise error(f"unknown {kind} {name!r}{suggest(name, known)} Known: {', '.join(known)}.")
    return known[name]


class LensScopesError(Exception):
    """Base of every error that lens_scopes raises for its callers; the command line prints it and exits 2.

    Example:
        >>> try:
        ...     ls.attribute(model, "The capital of France is", "fischer")
        ... except ls.LensScopesError as error:
        ...     print(str(error)[:48])
        unknown scope 'fischer'; did you mean 'fisher'?
    """


class ModelError(LensScopesError):
    """A model cannot be found, loaded, or explained."""


class PromptError(LensScopesError):
    """A prompt, position, target or span does not fit the model or the text."""


class OutOfMemoryError(PromptError):
    """A prompt does not fit in memory, even in the smallest parts."""


class ObjectiveError(LensScopesError):
    """An objective is unknown, mis-specified, or returns directions that do not fit the model."""


class SiteError(LensScopesError):
    """A site is unknown or absent from the model."""


class PathError(LensScopesError):
    """A path names components that do not exist or carries nothing."""


class ReadoutError(LensScopesError):
    """A readout is unknown or cannot be applied at a site."""


class NumericsError(LensScopesError):
    """A computation gave non-finite numbers; the message names the first site where they appear."""


class FileError(LensScopesError):
    """A file is missing, unreadable, of another format or version, or cannot be written."""


class EvaluationError(LensScopesError):
    """A method, ablation, metric, data set or results folder is unknown, unreadable, or does not fit the evaluation."""


class ResultError(LensScopesError):
    """Two results do not compare, or a record does not describe a result; the message names the field."""


LARGEST_SEED = 2**63 - 1
_LARGEST_NUMBER = 2**31 - 1


def whole_number(
    value: Any, what: str, error: type[LensScopesError], *, least: int = 0, most: int = _LARGEST_NUMBER
) -> int:
    """An integer within bounds, from any library's integers: the one place where counts and seeds are checked.

    Args:
        what: the number in words, for the message.
        error: what is raised.

    Raises:
        LensScopesError: of the kind given, for what is no integer or out of bounds.

    Example:
        >>> whole_number(True, "the rank", ObjectiveError, least=1)
        Traceback (most recent call last):
        lens_scopes.errors.ObjectiveError: the rank must be an integer from 1 to 2147483647; got True.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except (TypeError, ValueError, RuntimeError):  # the last two of tensors
        number = None
    if number is None or not least <= number <= most:
        quoted = f"{value!r}" if number is None or abs(number) < 10**30 else "a number of many digits"
        raise error(f"{what} must be an integer from {least} to {most}; got {quoted[:60]}.")
    return number


def check_seed(seed: Any) -> int:
    """A seed of random draws.

    Raises:
        ObjectiveError: for what is no integer from 0 to 2⁶³ − 1.
    """
    return whole_number(seed, "a seed", ObjectiveError, most=LARGEST_SEED)
