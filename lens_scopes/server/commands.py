"""The Python and the command line that give the result of a request."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from lens_scopes.models.source import ModelSource
from lens_scopes.scopes.objectives import Custom, Objective
from lens_scopes.scopes.registry import as_objective, read_scope
from lens_scopes.server.schemas import (
    AttributeRequest,
    Command,
    HeadsRequest,
    MatrixRequest,
    ModesRequest,
    PromptRequest,
)

_FUNCTIONS = {
    AttributeRequest: "attribute",
    HeadsRequest: "inspect_heads",
    MatrixRequest: "attribute_all",
    ModesRequest: "inspect_modes",
}
_COMMANDS = {AttributeRequest: "attribute", HeadsRequest: "heads", MatrixRequest: "matrix", ModesRequest: "modes"}
_LINE = 100


def command_of(request: PromptRequest, options: ModelSource) -> Command:
    """What gives the result of a request without a server.

    Args:
        request: as it was answered.
        options: those the model was loaded with.
    """
    return Command(python=_python(request, options), shell=_shell(request, options))


def objective_of(request: Any) -> Objective:
    """The objective of a request, read as the command line reads its options.

    Raises:
        ObjectiveError: as the command line.
    """
    return as_objective(
        read_scope(
            request.scope,
            target=request.target,
            other=request.other,
            rank=request.rank,
            samples=request.samples,
            seed=request.seed,
        )
    )


def _python(request: PromptRequest, options: ModelSource) -> str:
    given = _differing(request)
    imports = ["import lens_scopes as ls"]
    arguments = ["model", repr(request.prompt())]
    if isinstance(request, ModesRequest):
        arguments.append(str(request.rank))
    else:
        arguments.append(_objective_code(objective_of(request)))
    arguments += [f"{name}={given[name]!r}" for name in ("position", "generate", "spans", "baseline") if name in given]
    if isinstance(request, AttributeRequest) and (request.layers or request.layer_site):
        arguments.append(f"layers={request.layer_site or True!r}")
    if "through" in given and "freeze" in given:
        imports.append("from lens_scopes.scopes.paths import parse_path")
        arguments.append(f"through=parse_path({given['through']!r}) & {_frozen(given['freeze'])}")
    elif "through" in given or "freeze" in given:
        arguments.append(f"through={repr(given['through']) if 'through' in given else _frozen(given['freeze'])}")
    if isinstance(request, HeadsRequest) and (request.head or "top" in given):
        arguments.append(f"patterns={request.head or request.top!r}")
    arguments += [f"{name}={given[name]!r}" for name in ("verify", "readout") if name in given]
    call = _call(f"ls.{_FUNCTIONS[type(request)]}", arguments)
    return "\n".join([*imports, "", f"model = {_call('ls.load_model', _loading(options))}", f"result = {call}"]) + "\n"


def _call(name: str, arguments: list[str]) -> str:
    line = f"{name}({', '.join(arguments)})"
    return line if len(line) <= _LINE else f"{name}(\n" + "".join(f"    {item},\n" for item in arguments) + ")"


def _objective_code(objective: Objective) -> str:
    if isinstance(objective, Custom):
        return repr(objective.name)
    values = [
        (item.name, getattr(objective, item.name))
        for item in fields(objective)  # pyright: ignore[reportArgumentType]
        if getattr(objective, item.name) != item.default
    ]
    return f"ls.{type(objective).__name__}({', '.join(f'{name}={value!r}' for name, value in values)})"


def _frozen(parts: Iterable[str]) -> str:
    return f"ls.Frozen({', '.join(map(repr, parts))})"


def _loading(options: ModelSource) -> list[str]:
    given = _options_given(options)
    if "processing" in given:
        given["processing"] = options.processing_flags()
    return [repr(options.model), *(f"{name}={value!r}" for name, value in given.items())]


def _options_given(options: ModelSource) -> dict[str, Any]:
    return {
        item.name: getattr(options, item.name)
        for item in fields(options)
        if item.name != "model" and getattr(options, item.name) != item.default
    }


def _differing(request: PromptRequest) -> dict[str, Any]:
    """The fields of a request that are not as they are by default, but for the prompt and the model."""
    plain = request.model_dump(exclude_defaults=True)
    return {name: value for name, value in plain.items() if name not in ("text", "chat", "model")}


def _shell(request: PromptRequest, options: ModelSource) -> str | None:
    given = _differing(request)
    spans = given.pop("spans", {})
    words = ["lens-scopes", _COMMANDS[type(request)], *_prompt_words(request)]
    if given.pop("layers", False):
        words.append("--layers")
    for name, value in given.items():
        for item in value if isinstance(value, list) else [value]:
            words += _option(name, str(item))
    for name, text in spans.items():
        words += _option("span", f"{name}={text}")
    if options.model != ModelSource.model:
        words += _option("model", options.model)
    for name, value in _options_given(options).items():
        words += ["--trust-remote-code"] if name == "trust_remote_code" else _option(name, str(value))
    line = " ".join(words)
    return None if "\x00" in line else line


def _prompt_words(request: PromptRequest) -> list[str]:
    if request.chat is not None:
        chat = json.dumps(request.prompt(), ensure_ascii=False)
        return ["--chat", f"<(printf %s {shlex.quote(chat)})"]
    text = request.text or ""
    # What begins with a dash would be taken for an option, or for standard input; a file loses one line break.
    return ["--file", f"<(printf '%s\\n' {shlex.quote(text)})"] if text.startswith("-") else [shlex.quote(text)]


def _option(name: str, value: str) -> list[str]:
    option = "--" + name.replace("_", "-")
    return [shlex.quote(f"{option}={value}")] if value.startswith("-") else [option, shlex.quote(value)]
