"""Options as one line of text, as in fisher@8+dot-mean, and as words of a command line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from lens_scopes.errors import ObjectiveError, suggest
from lens_scopes.scopes.registry import (
    DEFAULT_SCOPE,
    FREEZABLE,
    POINTS,
    READOUTS,
    RULE_SETS,
    RULES,
    SCORE_SITES,
    is_rule,
    scope_entry,
)
from lens_scopes.scopes.text.options import options

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_TERM = re.compile(rf'(?:[^+"]|{_QUOTED})+')
_LOOKS_QUOTED = re.compile(_QUOTED)


def read_line(line: str) -> dict[str, Any]:
    """The options of a line of text, still as text.

    Raises:
        ObjectiveError: for a line that is none.
    """
    # Parted at + outside of double quotes; what the terms do not give back is no line.
    terms = _TERM.findall(line)
    if "+".join(terms) != line or not terms:
        raise ObjectiveError(f"{line!r} is not a scope; write a name, or choices after it as in 'fisher@8+dot-mean'.")
    head, *choices = terms
    name, at, value = head.partition("@")
    entry = scope_entry(name)
    texts: dict[str, Any] = {"scope": name}
    if at:
        main = entry.main_setting
        if main is None:
            raise ObjectiveError(f"scope {name!r} has no setting after @; got {head!r}.")
        if not value:
            raise ObjectiveError(f"{head!r} has nothing after @; write a value there, or {name!r} for the usual one.")
        texts[main] = _unquote(value)
    for choice in choices:
        for option, text in _choice(choice).items():
            if options()[option].many:
                texts.setdefault(option, []).append(text)
            elif option in entry.settings and option in texts:
                raise ObjectiveError(f"{option} is given twice in {line!r}.")
            else:
                texts[option] = text
    return texts


def read_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of options as text, those of the scope's line among them; None counts as not given.

    Raises:
        LensScopesError: for an unknown option or scope, one that is given twice, and a text of a wrong form.
    """
    known = options()
    # By identity: samples=0 asks for the exact trace, and 0 equals False.
    texts = {name: text for name, text in given.items() if text is not None and text is not False}
    texts = {name: text for name, text in texts.items() if text not in ((), [])}
    if unknown := texts.keys() - known.keys():
        raise ObjectiveError(f"there is no option {min(unknown)!r}; known are {', '.join(known)}.")
    line = texts.pop("scope", DEFAULT_SCOPE)
    if twice := (from_line := read_line(line)).keys() & texts.keys():
        raise ObjectiveError(f"{min(twice)} is given twice: in the scope {line!r} and by itself.")
    return {name: known[name].value(text) for name, text in (texts | from_line).items()}


def write_line(given: Mapping[str, Any]) -> str:
    """The line that `read_line` reads the options of."""
    rest = dict(given)
    entry = scope_entry(name := rest.pop("scope"))
    main = entry.main_setting
    head = f"{name}@{_quote(rest.pop(main))}" if main in rest else name
    for option in ("readout", "points"):
        head += f"+{rest.pop(option)}" if option in rest else ""
    if rest.get("score_site") in SCORE_SITES:
        head += f"+{rest.pop('score_site')}"
    parts = (
        f"{option}={_quote(item)}"
        for option, value in rest.items()
        for item in (value if isinstance(value, list) else [value])
    )
    return "+".join((head, *parts))


def _choice(choice: str) -> dict[str, Any]:
    """The options of one choice after a plus sign; the last one of a kind stands."""
    if choice in SCORE_SITES:
        return {"score_site": choice, "readout": SCORE_SITES[choice].readout}
    if choice.startswith("frozen-") and choice.removeprefix("frozen-") in FREEZABLE:
        return {"freeze": choice.removeprefix("frozen-")}
    if is_rule(choice):
        return {"rules": choice}
    if choice.partition("-")[0] in READOUTS:
        return {"readout": choice}
    if re.split("[-@,]", choice)[0] in POINTS:
        return {"points": choice}
    option, equals, value = choice.partition("=")
    if equals and option in options():
        return {option: _unquote(value)}
    known = [*READOUTS, *POINTS, *(f"frozen-{part}" for part in FREEZABLE), *RULE_SETS, *RULES, *SCORE_SITES]
    near = suggest(choice, known, end=";")
    raise ObjectiveError(
        f"unknown choice {choice!r}{near} known are {', '.join(known)}, and NAME=VALUE for any option."
    )


def _quote(value: Any) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if re.search(r'[+"]', text) or text != text.strip() else text


def _unquote(text: str) -> str:
    return json.loads(text) if _LOOKS_QUOTED.fullmatch(text) else text


def cli_words(given: Mapping[str, Any]) -> list[str]:
    """Options as the words of a command line; what is true is a switch."""
    words: list[str] = []
    for name, value in given.items():
        option = "--" + name.replace("_", "-")
        for item in value if isinstance(value, list) else [value]:
            if item is True:
                words.append(option)
            elif str(item).startswith("-"):
                words.append(f"{option}={item}")  # else it would be taken for an option
            else:
                words += [option, str(item)]
    return words
