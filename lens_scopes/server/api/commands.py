"""A request written as Python and as a command line."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, cast

from lens_scopes.models.source import ModelSource
from lens_scopes.prompts.spans import Chars
from lens_scopes.scopes.registry import DEFAULT_SCOPE
from lens_scopes.scopes.text.lines import cli_words
from lens_scopes.scopes.text.options import CELL_OPTIONS, SITE_OPTIONS
from lens_scopes.scopes.text.values import read_text_or_ids, read_whole_prompt
from lens_scopes.server.api.schemas import (
    AttributeRequest,
    CellsRequest,
    Command,
    FlowRequest,
    HeadsRequest,
    InfluenceRequest,
    MatrixRequest,
    ModesRequest,
    PromptRequest,
    SeriesRequest,
)

_FUNCTIONS = {
    AttributeRequest: "attribute",
    CellsRequest: "attribute",  # whose cells are then patched
    HeadsRequest: "inspect_heads",
    MatrixRequest: "attribute_all",
    InfluenceRequest: "attribute_all",
    ModesRequest: "inspect_modes",
    FlowRequest: "information_flow",
    SeriesRequest: "inspect_series",
}
_COMMANDS = {
    AttributeRequest: "attribute",
    CellsRequest: "cells",
    HeadsRequest: "heads",
    MatrixRequest: "matrix",
    InfluenceRequest: "matrix",
    ModesRequest: "modes",
    FlowRequest: "flow",
    SeriesRequest: "series",
}
_LINE = 100


def command_of(request: PromptRequest, options: ModelSource) -> Command:
    """What gives the result of a request without a server.

    Args:
        request: as it was answered.
        options: those the model was loaded with.
    """
    return Command(python=_python(request, options), shell=_shell(request, options))


def _python(request: PromptRequest, options: ModelSource) -> str:
    choices = _changed_fields(request)
    arguments = ["model", repr(request.prompt())]
    arguments += [str(request.rank)] if isinstance(request, ModesRequest) else []
    arguments += cast(Any, request).spec().to_python()
    extra = choices.keys() - type(request).option_names()  # pyright: ignore[reportAttributeAccessIssue]
    choices |= {"answer": read_text_or_ids(choices["answer"])} if "answer" in extra else {}
    if isinstance(request, FlowRequest):
        if spans := request.named_spans():
            arguments.insert(2, _spans(spans))
        extra = extra - {"spans"}
    order = ("position", "answer", "generate", "spans", "baseline", "mlp_rules", "sigma")
    arguments += [f"{name}={choices[name]!r}" for name in order if name in extra]
    if isinstance(request, FlowRequest):
        arguments += [f"{name}={choices[name]!r}" for name in ("rank", "samples", "seed") if name in choices]
    if isinstance(request, SeriesRequest):
        arguments += [
            f"{name}={choices[name]!r}" for name in ("separator", "width", "least", "longest") if name in extra
        ]
    if isinstance(request, HeadsRequest) and (request.head or "top" in choices):
        arguments.append(f"patterns={request.head or request.top!r}")
    if "against" in extra:
        arguments.append(f"baseline={read_whole_prompt(choices['against'])!r}")
    if isinstance(request, HeadsRequest) and "verify" in choices:
        arguments.append(f"verify={choices['verify']!r}")
    call = _call(f"ls.{_FUNCTIONS[type(request)]}", arguments)
    if isinstance(request, InfluenceRequest):
        call += f".total_influence({'' if request.of == 'answer' else repr(request.of)})"
    if isinstance(request, CellsRequest):
        call = f"{call}\nresult = ls.patch_cells(model, attribution, {request.verify})"
    name = "attribution" if isinstance(request, CellsRequest) else "result"
    model = _call("ls.load_model", _load_options(options))
    return f"import lens_scopes as ls\n\nmodel = {model}\n{name} = {call}\n"


def _spans(spans: Mapping[str, str | Chars]) -> str:
    written = {
        name: f"ls.Chars({span.start}, {span.stop})" if isinstance(span, Chars) else repr(span)
        for name, span in spans.items()
    }
    return f"{{{', '.join(f'{name!r}: {span}' for name, span in written.items())}}}"


def _call(name: str, arguments: list[str]) -> str:
    line = f"{name}({', '.join(arguments)})"
    return line if len(line) <= _LINE else f"{name}(\n" + "".join(f"    {item},\n" for item in arguments) + ")"


def _load_options(options: ModelSource) -> list[str]:
    choices = _options_given(options)
    if "processing" in choices:
        choices["processing"] = options.processing_flags()
    return [repr(options.model), *(f"{name}={value!r}" for name, value in choices.items())]


def _options_given(options: ModelSource) -> dict[str, Any]:
    return {
        item.name: getattr(options, item.name)
        for item in fields(options)
        if item.name != "model" and getattr(options, item.name) != item.default
    }


def _changed_fields(request: PromptRequest) -> dict[str, Any]:
    """The fields of a request that are not as they are by default, but for the prompt, the model and the spec."""
    plain = request.model_dump(exclude_defaults=True)
    left = {"text", "chat", "model"} | cast(Any, request).option_names()
    return {name: value for name, value in plain.items() if name not in left}


def _shell(request: PromptRequest, options: ModelSource) -> str | None:
    choices = _changed_fields(request)
    if isinstance(request, InfluenceRequest):
        choices["total_influence"] = choices.pop("of", request.of)
    spans, characters = choices.pop("spans", {}), choices.pop("characters", {})
    asked = cast(Any, request).spec().to_options()
    if isinstance(request, CellsRequest):  # whose command has its own words for the readout and the layers
        extra = {name: getattr(request, name) for name in CELL_OPTIONS if getattr(request, name) is not None}
        asked = {name: value for name, value in asked.items() if name not in SITE_OPTIONS} | extra
    if isinstance(request, ModesRequest | FlowRequest) or asked["scope"] == DEFAULT_SCOPE:
        del asked["scope"]
    words = ["lens-scopes", _COMMANDS[type(request)], *_prompt_words(request)]
    named = {
        "span": [f"{name}={text}" for name, text in spans.items()],
        "characters": [f"{name}={start}:{stop}" for name, (start, stop) in characters.items()],
    }
    choices = {option: values for option, values in named.items() if values} | choices
    choices |= {"model": options.model} if options.model != ModelSource.model else {}
    written = cli_words(asked | choices | _options_given(options))
    line = " ".join([*words, *map(shlex.quote, written)])
    return None if "\x00" in line else line


def _prompt_words(request: PromptRequest) -> list[str]:
    if request.chat is not None:
        chat = json.dumps(request.prompt(), ensure_ascii=False)
        return ["--chat", f"<(printf %s {shlex.quote(chat)})"]
    text = request.text or ""
    # What begins with a dash would be taken for an option, or for standard input; a file loses one line break.
    return ["--file", f"<(printf '%s\\n' {shlex.quote(text)})"] if text.startswith("-") else [shlex.quote(text)]
