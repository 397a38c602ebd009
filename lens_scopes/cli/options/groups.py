"""Groups of options that several commands share, each written once as a dataclass.

A command names the groups it takes:

    @with_option_groups
    def attribute(prompt: PromptOptions, output: OutputOptions) -> None: ...

and typer sees the fields of the groups as the command's own options.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields, is_dataclass
from functools import wraps
from typing import Any, get_type_hints


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

    @wraps(command)
    def regrouped(**values: Any) -> None:
        arguments = {
            name: kind(**{item.name: values.pop(item.name) for item in fields(kind)}) for name, kind in groups.items()
        }
        command(**arguments, **values)

    regrouped.__signature__ = inspect.Signature(flat)  # pyright: ignore[reportAttributeAccessIssue]
    regrouped.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
    return regrouped


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
