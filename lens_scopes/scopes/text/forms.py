"""The forms of readouts, points, paths and rules as text. What is wrong with a text is said here, before anything heavy
is imported; what it stands for is made beside its class."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from lens_scopes.errors import ObjectiveError, PathError, ReadoutError, suggest
from lens_scopes.scopes.registry import FREEZABLE, POINTS, READOUTS, RULE_SETS, RULES, is_rule
from lens_scopes.scopes.text.values import EACH, OTHER_PROMPT

BASELINES = ("zero", "mean", EACH)
"""Names of what a readout measures from."""
SPECIAL_STARTS = ("bos", "eos", "pad")
NAMED_STARTS = ("zero", "mean", EACH, *SPECIAL_STARTS)
"""Names of what a path starts from."""
ELIGIBLE = ("prompt", "all")
"""Which tokens get scores where an answer is explained."""

_PATH = re.compile(
    rf"path(?:-(?P<start>{'|'.join(NAMED_STARTS)}|{OTHER_PROMPT}))?(?P<held>-held)?(?:@(?P<count>[0-9]{{1,9}}))?"
)
_NOISE = re.compile(
    r"noise(?:@(?P<count>[0-9]{1,9}))?(?:,scale=(?P<scale>[0-9.e+-]{1,30}))?(?:,seed=(?P<seed>[0-9]{1,19}))?"
)
_LAYERS = re.compile(r"(?:layers?\s*)?(?P<first>[0-9]{1,6})(?:\s*[-–:]\s*(?P<last>[0-9]{1,6}))?")
_COMPONENTS = {"attention": "attention", "attn": "attention", "mlp": "mlp", "skip": "skip"}
_TEMPERATURE = 2.0  # unless another is given, as in GIM


def check_eligible(eligible: object) -> None:
    """Raises ObjectiveError for what names no tokens that get scores."""
    if not isinstance(eligible, str) or eligible not in ELIGIBLE:
        raise ObjectiveError(f"eligible is {' or '.join(map(repr, ELIGIBLE))}; got {eligible!r}.")


def readout_form(text: str) -> tuple[str, str]:
    """The name of a readout and its baseline, which is empty where none is given: "dot-mean" is ("dot", "mean").

    Raises:
        ReadoutError: for an unknown readout or baseline.
    """
    name, _, baseline = text.partition("-")
    known = not baseline or baseline in BASELINES or re.fullmatch(OTHER_PROMPT, baseline)
    if name in READOUTS and known:
        return name, baseline
    raise unknown_readout(text)


def unknown_readout(text: object) -> ReadoutError:
    """The error for what is no readout."""
    return ReadoutError(
        f"unknown readout {text!r}{suggest(text, READOUTS, end='')} "
        f"(expected {' or '.join(map(repr, READOUTS))}; dot and product may name their baseline, as in "
        "'dot-mean' or 'dot-\"another prompt\"')."
    )


def points_form(text: str) -> tuple[str, dict[str, str | None]]:
    """The kind of points, "path" or "noise", and its parts as text.

    Raises:
        ReadoutError: for any other text.
    """
    for kind, form in (("path", _PATH), ("noise", _NOISE)):
        if match := form.fullmatch(text):
            return kind, match.groupdict()
    name = re.split("[-@]", text)[0]
    raise ReadoutError(
        f"unknown points {text!r}{'' if name in POINTS else suggest(name, POINTS, end='')} (expected path, path-START "
        'with the START mean, bos, eos, pad, #ID or a quoted token such as path-" the", either followed by -held where '
        "special tokens stay fixed, or noise; each with @N for the number of points)."
    )


def path_form(text: str) -> list[list[tuple[str, str]]]:
    """The alternatives of a path, each the parts that hold together: (kind, text), of the kinds "layers", "heads",
    "attention", "mlp", "skip", "frozen" and "rule".

    Raises:
        PathError: for a part that is none of these.
    """
    return [[_path_part(part.strip()) for part in alternative.split("&")] for alternative in text.split(",")]


def _path_part(text: str) -> tuple[str, str]:
    lower = text.lower()
    if _LAYERS.fullmatch(text):
        return "layers", text
    if lower.startswith("frozen-"):
        return "frozen", frozen_part(lower.removeprefix("frozen-"))
    if lower in _COMPONENTS:
        return _COMPONENTS[lower], text
    if re.match(r"[Ll]\d", text):
        read_head(text)
        return "heads", text
    if is_rule(lower):
        single_rules([lower])
        return "rule", lower
    raise PathError(
        f'{text!r} is not a path; write layers "5-9", heads "L3H2", "attention", "mlp" or "skip", or a rule like "gim".'
    )


def read_layers(text: str) -> tuple[int, int | None]:
    """The first and last layer of "5-9", and None for the last of "5"."""
    match = _LAYERS.fullmatch(text)
    assert match is not None
    return int(match["first"]), None if match["last"] is None else int(match["last"])


def read_head(text: str) -> tuple[int, int]:
    """(layer, head) of "L3H2".

    Raises:
        PathError: for anything else.
    """
    if match := re.fullmatch(r"[Ll]([0-9]{1,9})[Hh]([0-9]{1,9})", text.strip()):
        return int(match[1]), int(match[2])
    raise PathError(f'{text!r} is not a head; write "L3H2" for head 2 of layer 3.')


def frozen_part(name: object) -> str:
    """What can be held constant, by its name.

    Raises:
        PathError: for an unknown one.
    """
    if isinstance(name, str) and name in FREEZABLE:
        return name
    raise PathError(f"Frozen takes any of {', '.join(map(repr, FREEZABLE))}; got {str([name])[:60]}.")


def single_rules(names: Iterable[object]) -> frozenset[str]:
    """The single rules of some names, of sets of rules or of single ones.

    Raises:
        PathError: for none at all and an unknown one.
    """
    rules: set[str] = set()
    for name in names:
        rules |= set(RULE_SETS[name].rules) if isinstance(name, str) and name in RULE_SETS else {_single_rule(name)}
    if not rules:
        raise PathError(f"Rules takes any of {', '.join(map(repr, rule_names()))}; none is given.")
    return frozenset(rules)


def rule_names() -> list[str]:
    """What rules can be named by."""
    return [*RULE_SETS, *FREEZABLE, *(f"{name}@T" if name == "softmax" else name for name in RULES)]


def _single_rule(name: object) -> str:
    """A single rule as it is written, the temperature of the softmax with it."""
    text = name if isinstance(name, str) else ""
    base, at, value = text.partition("@")
    if base == "softmax":
        try:
            temperature = float(value) if at else _TEMPERATURE
        except ValueError:
            temperature = math.nan
        if not 1e-3 <= temperature <= 1e3:
            raise PathError(f"the temperature of softmax@T is a number from 0.001 to 1000; got {name!r}.")
        return f"softmax@{temperature:.12g}"
    if text not in FREEZABLE and text not in RULES:
        known = rule_names()
        raise PathError(f"unknown rule {name!r}{suggest(name, known, end=';')} known are {', '.join(known)}.")
    return text
