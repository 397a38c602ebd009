"""Groups of options that several commands share, each written once as a dataclass.

A command names the groups it takes:

    @with_option_groups
    def attribute(prompt: PromptOptions, output: OutputOptions) -> None: ...

and typer sees the fields of the groups as the command's own options.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from copy import copy
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_type_hints

from typer.models import ArgumentInfo, OptionInfo

EVERYDAY = {
    "model": "-m",
    "file": "-f",
    "scope": "-s",
    "target": "-t",
    "answer": "-a",
    "layers": "-l",
    "span": None,
    "generate": "-g",
    "out": "-o",
    "json": "-j",
}
"""Options that most calls take, which help lists first, with their short forms."""

_METAVARS = {bool: "", int: "N", float: "X", str: "TEXT", Path: "FILE"}


def with_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """The command with every parameter that is a dataclass replaced by the fields of that dataclass."""
    groups: dict[str, type] = {}
    flat: list[inspect.Parameter] = []
    hints = get_type_hints(command, include_extras=True)
    for parameter in inspect.signature(command).parameters.values():
        kind = hints[parameter.name]
        if isinstance(kind, type) and is_dataclass(kind):
            groups[parameter.name] = kind
            flat += _parameters(kind)
        else:
            flat.append(parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY))
    flat = [parameter.replace(annotation=_describe(parameter)) for parameter in _everyday_first(flat)]

    @wraps(command)
    def regroup(**values: Any) -> None:
        arguments = {
            name: kind(**{item.name: values.pop(item.name) for item in fields(kind)}) for name, kind in groups.items()
        }
        command(**arguments, **values)

    regroup.__signature__ = inspect.Signature(flat)  # pyright: ignore[reportAttributeAccessIssue]
    regroup.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
    return regroup


def _parameters(group: type) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            item.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if item.default is MISSING else item.default,
            annotation=hints[item.name],
        )
        for item in fields(group)  # pyright: ignore[reportArgumentType]
    ]


def _everyday_first(parameters: list[inspect.Parameter]) -> list[inspect.Parameter]:
    order = {name: place for place, name in enumerate(EVERYDAY)}
    return sorted(parameters, key=lambda parameter: order.get(parameter.name, len(order)))


def _describe(parameter: inspect.Parameter) -> Any:
    """The annotation that typer reads: values have forms, not types of Python, and everyday options come first."""
    kind, *rest = get_args(parameter.annotation)
    info = copy(rest[0])
    if not isinstance(info, OptionInfo | ArgumentInfo):
        return parameter.annotation
    if info.metavar is None:
        info.metavar = _METAVARS[_plain_type(kind)]
    if isinstance(info, OptionInfo) and parameter.name in EVERYDAY:
        info.rich_help_panel = None
        # In an annotation, typer takes the first name of an option for its default.
        first = f"--{parameter.name}" if info.default is ... else info.default
        info.default = first
        info.param_decls = tuple(filter(None, (*(info.param_decls or ()), EVERYDAY[parameter.name])))
    return Annotated[kind, info]


def _plain_type(kind: Any) -> type:
    """The type of one value of `list[kind] | None`."""
    while get_args(kind):
        kind = next(part for part in get_args(kind) if part is not NoneType)
    return kind
