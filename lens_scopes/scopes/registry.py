"""The scopes and comparison methods that can be asked for by name: one entry each, read by every face.

The command line, the HTTP schema, the page and the evaluation take names, settings and help from here. This module
imports nothing heavy, so that `--help` is quick; the class of an entry is imported when it is first used. A package of
its own adds entries under the entry point group `lens_scopes.scopes`:

    [project.entry-points."lens_scopes.scopes"]
    my-scope = "my_package:ENTRY"      # a ScopeEntry
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from lens_scopes.errors import ObjectiveError, suggest

if TYPE_CHECKING:
    from lens_scopes.scopes.comparisons import Baseline
    from lens_scopes.scopes.objectives import DirectionFunction, Explanation, Objective

ENTRY_POINTS = "lens_scopes.scopes"
_TOKEN_ID = re.compile(r"#(\d+)")


@dataclass(frozen=True)
class ScopeEntry:
    """One name that `attribute` can be asked for.

    Attributes:
        name: as written on the command line.
        home: the class, as "module:Class", or a function that makes the object.
        explains: what is explained, in a few words, for help texts.
        settings: the settings a user may give by option, each with the argument of the class that it sets.
        required: the settings that have no default.
        takes_gradient: False for comparison methods, which have no site, path, readout or points.
    """

    name: str
    home: str | Callable[..., Any]
    explains: str
    settings: Mapping[str, str] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    takes_gradient: bool = True

    def build(self, **settings: Any) -> Explanation:
        """The objective or comparison method with these settings.

        Raises:
            ObjectiveError: for settings it does not have, and for required ones that are missing.
        """
        for name in settings:
            if name not in self.settings:
                owners = [entry.name for entry in scope_entries().values() if name in entry.settings]
                belongs = f"; it belongs to {', '.join(owners)}" if owners else ""
                raise ObjectiveError(f"scope {self.name!r} has no {name}{belongs}.")
        missing = [name for name in self.required if name not in settings]
        if missing:
            raise ObjectiveError(f"scope {self.name!r} needs {' and '.join(self.required)}; {missing[0]} is missing.")
        make = self.home if callable(self.home) else _imported(self.home)
        return make(**{self.settings[name]: value for name, value in settings.items()})


_OBJECTIVES, _COMPARISONS = "lens_scopes.scopes.objectives", "lens_scopes.scopes.comparisons"
_FISHER = {"rank": "rank", "samples": "samples", "seed": "seed"}
_BUILT_IN = (
    ScopeEntry("semantic", f"{_OBJECTIVES}:Semantic", "the logit of one token", {"target": "token"}),
    ScopeEntry("logprob", f"{_OBJECTIVES}:LogProb", "the log-probability of one token", {"target": "token"}),
    ScopeEntry(
        "logit-diff",
        f"{_OBJECTIVES}:LogitDiff",
        "the difference between two logits",
        {"target": "token", "other": "other"},
        required=("target", "other"),
    ),
    ScopeEntry("temperature", f"{_OBJECTIVES}:Temperature", "the confidence of the prediction"),
    ScopeEntry("entropy", f"{_OBJECTIVES}:Entropy", "the entropy of the prediction"),
    ScopeEntry("fisher", f"{_OBJECTIVES}:Fisher", "the whole distribution", _FISHER),
    ScopeEntry(
        "fisher-at-values", f"{_OBJECTIVES}:FisherAtValues", "the whole distribution, read at the values", _FISHER
    ),
    ScopeEntry(
        "leave-one-out",
        f"{_COMPARISONS}:LeaveOneOut",
        "the prediction without each token",
        {"measure": "measure", "ablation": "ablation", "seed": "seed"},
        takes_gradient=False,
    ),
    ScopeEntry(
        "attention-rollout", f"{_COMPARISONS}:AttentionRollout", "attention, layer by layer", takes_gradient=False
    ),
    ScopeEntry(
        "value-attention", f"{_COMPARISONS}:ValueWeightedAttention", "attention times values", takes_gradient=False
    ),
    ScopeEntry(
        "random", f"{_COMPARISONS}:RandomScores", "nothing: random scores", {"seed": "seed"}, takes_gradient=False
    ),
)
_added: dict[str, ScopeEntry] = {}


def scope_entries() -> dict[str, ScopeEntry]:
    """All entries by name: built in, from installed packages, and registered in this process."""
    return {entry.name: entry for entry in (*_BUILT_IN, *_installed())} | _added


def scope_names(*, takes_gradient: bool | None = None) -> list[str]:
    """The names of all entries, or of those that take a gradient or do not."""
    return [
        entry.name
        for entry in scope_entries().values()
        if takes_gradient is None or entry.takes_gradient == takes_gradient
    ]


def scope_entry(name: str) -> ScopeEntry:
    """The entry of that name.

    Raises:
        ObjectiveError: for an unknown name, with a near one.
    """
    entries = scope_entries()
    if name not in entries:
        raise ObjectiveError(f"unknown scope {name!r}{suggest(name, entries)} Known scopes: {', '.join(entries)}.")
    return entries[name]


def build_scope(name: str, **settings: Any) -> Explanation:
    """The objective or comparison method of that name, with settings by the names of their options.

    Example:
        >>> build_scope("fisher", rank=4)
        Fisher(rank=4, samples=None, exact=16, seed=0)

    Raises:
        ObjectiveError: for an unknown name, a setting that the scope does not have, and a wrong value.
    """
    return scope_entry(name).build(**settings)


def read_scope(name: str, **options: Any) -> Explanation:
    """The scope of a command line or an HTTP request, whose settings are text: a token is its exact string or its id
    as "#9079", a rank is digits or "trace". Settings that are None count as not given.

    Raises:
        ObjectiveError: as `build_scope`; and for random settings where nothing is random.
    """
    given = {option: value for option, value in options.items() if value is not None}
    for option in given.keys() & {"target", "other"}:
        given[option] = read_token(given[option])
    if "rank" in given:
        given["rank"] = _read_rank(given["rank"])
    entry = scope_entry(name)
    if "rank" in entry.settings and given.get("rank") != "trace" and given.keys() & {"samples", "seed"}:
        raise ObjectiveError('samples and seed belong to rank "trace", the only one with random directions.')
    return entry.build(**given)


def read_token(text: str) -> str | int:
    """A token as text: "#123" is the id 123, anything else the token's exact string."""
    match = _TOKEN_ID.fullmatch(text)
    return int(match[1]) if match else text


def _read_rank(text: str) -> int | str:
    if text == "trace":
        return text
    try:
        return int(text)
    except ValueError:
        raise ObjectiveError(f'Fisher rank must be a positive integer or "trace"; got {text!r}.') from None


def register_objective(name: str, function: DirectionFunction, explains: str = "a user-defined function") -> None:
    """Makes a user's own objective known by name, in this process.

    Args:
        name: as `attribute(..., name)` and `--scope` will take it.
        function: takes y [d_model] and logits [d_vocab] and returns directions, as for `Custom`.
        explains: what is explained, in a few words.

    Raises:
        ObjectiveError: when the name is already taken.
    """
    if name in scope_entries():
        raise ObjectiveError(f"an objective named {name!r} exists already; choose another name.")
    _added[name] = ScopeEntry(name, lambda: _imported(f"{_OBJECTIVES}:Custom")(function, name), explains)


def as_objective(objective: Explanation | str | DirectionFunction | None) -> Objective:
    """Reads what users may pass for an objective: an Objective, its class, a name, or a function of y and logits.

    Raises:
        ObjectiveError: for anything else.
    """
    from lens_scopes.scopes.objectives import Custom, Explanation, Objective, Semantic

    if objective is None:
        return Semantic()
    if isinstance(objective, type) and issubclass(objective, Objective):
        objective = objective.scope
    if isinstance(objective, str):
        objective = build_scope(objective)
    if isinstance(objective, Objective):
        return objective
    if isinstance(objective, Explanation):
        raise ObjectiveError(
            f"{objective.scope} takes no gradient, which is needed here; choose a scope such as fisher."
        )
    if callable(objective):
        return Custom(objective, name=getattr(objective, "__name__", "custom"))
    raise ObjectiveError(
        f"expected an objective such as ls.Semantic(' Paris'), a name ({', '.join(scope_names(takes_gradient=True))}) "
        f"or a function of (y, logits); got {type(objective).__name__}."
    )


def as_baseline(explanation: Any) -> Baseline | None:
    """The comparison method that an argument of `attribute` stands for, by object, class or name; else None."""
    from lens_scopes.scopes.comparisons import Baseline

    if isinstance(explanation, Baseline):
        return explanation
    if isinstance(explanation, type) and issubclass(explanation, Baseline):
        explanation = explanation.scope
    if isinstance(explanation, str) and explanation in scope_names(takes_gradient=False):
        built = build_scope(explanation)
        assert isinstance(built, Baseline)
        return built
    return None


def _imported(home: str) -> Any:
    module, _, name = home.partition(":")
    return getattr(import_module(module), name)


@cache
def _installed() -> tuple[ScopeEntry, ...]:
    return tuple(point.load() for point in metadata.entry_points(group=ENTRY_POINTS))
