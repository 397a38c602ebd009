"""Converts results to plain values and back; the decoder checks every field against its declared type."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from jaxtyping import AbstractArray, Float, jaxtyped
from torch import Tensor

Encode = Callable[[str, Tensor], Any]
Decode = Callable[[Any], Tensor]


def encode(value: Any, tensor: Encode, place: str = "") -> Any:
    """Dataclasses, mappings and sequences as dicts and lists.

    Args:
        value: what to encode.
        tensor: what becomes of a tensor, by its place, such as "sites/hook_z".
        place: where the value stands, names joined by "/".
    """
    if isinstance(value, Tensor):
        return tensor(place, value)
    if is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    inside = f"{place}/" if place else ""
    if isinstance(value, Mapping):
        return {str(key): encode(item, tensor, f"{inside}{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item, tensor, f"{inside}{index}") for index, item in enumerate(value)]
    return value


def plain(value: Any) -> Any:
    """The same with tensors as nested lists, ready for JSON."""
    return encode(value, lambda _, tensor: tensor.tolist())


def decode(hint: Any, value: Any, tensor: Decode, place: str) -> Any:
    """The value of a declared type that `encode` made plain.

    Args:
        hint: the type: a dataclass, a container, a tensor of jaxtyping, or a plain type.
        value: the plain value.
        tensor: the tensor that stands for a plain value.
        place: where the value stands, for the message.

    Raises:
        ValueError: for a value of another type, with the name of its field.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        # Records have no other unions than with None.
        (inner,) = (item for item in arguments if item is not type(None))
        return decode(inner, value, tensor, place)
    if origin is Literal:
        return value if value in arguments else _refuse(value, place, f"one of {arguments}")
    if origin is list and isinstance(value, list):
        return [decode(arguments[0], item, tensor, f"{place}[{index}]") for index, item in enumerate(value)]
    if origin is tuple and isinstance(value, list) and len(value) == len(arguments):
        return tuple(decode(kind, item, tensor, place) for kind, item in zip(arguments, value, strict=True))
    if origin is dict and isinstance(value, dict):
        return {key: decode(arguments[1], item, tensor, f"{place}[{key!r}]") for key, item in value.items()}
    if is_dataclass(hint) and isinstance(hint, type) and isinstance(value, dict):
        return hint(**decode_fields(hint, value, tensor, getattr(hint, "aligned", {}), f"{place}."))
    if isinstance(hint, type) and issubclass(hint, Tensor | AbstractArray):
        return _tensor(hint, value, tensor, place)
    return _primitive(hint, value, place)


def decode_fields(
    hint: type, value: dict[str, Any], tensor: Decode, aligned: Mapping[str, Sequence[str]], prefix: str = ""
) -> dict[str, Any]:
    """The fields of a dataclass, checked one by one and against each other, ready for its constructor.

    Args:
        hint: the dataclass.
        value: its fields as plain values.
        tensor: the tensor that stands for a plain value.
        aligned: for each named dimension the lists along it, which have one length; tensors name it in their types.
        prefix: what stands before a field's name in messages.

    Raises:
        ValueError: with the name of the field.
    """
    hints = _hints(hint)
    known = {field.name: field for field in fields(hint)}
    for name in value.keys() - known.keys():
        raise ValueError(f"{prefix}{name} is no field of {hint.__name__}")
    for name, field in known.items():
        if name not in value and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{prefix}{name} is missing")
    decoded = {name: decode(hints[name], item, tensor, prefix + name) for name, item in value.items()}
    _check_lengths(hints, decoded, aligned, prefix)
    return decoded


def _check_lengths(
    hints: Mapping[str, Any], decoded: Mapping[str, Any], aligned: Mapping[str, Sequence[str]], prefix: str
) -> None:
    # In one body: a run-time type checker gives every function dimensions of its own.
    with jaxtyped("context"):
        for dimension, names in aligned.items():
            length = len(decoded[names[0]])
            named: Any = Float[Tensor, dimension]
            isinstance(torch.empty(length), named)  # gives the dimension its length
            for name in names[1:]:
                if decoded.get(name) is not None and len(decoded[name]) != length:
                    raise ValueError(f"{prefix}{name} has {len(decoded[name])} entries for {length} {names[0]}")
        for name, value in decoded.items():
            for kind, item in _tensors(hints[name], value):
                if not isinstance(item, kind):
                    shape = tuple(item.shape)
                    raise ValueError(f"{name} has shape {shape}, expected {kind.__name__} as in the other fields")


def _tensors(hint: Any, value: Any) -> list[tuple[Any, Tensor]]:
    """The tensors of a field, alone or in a dict, with their types."""
    arguments = [item for item in get_args(hint) if item is not type(None)]
    if isinstance(value, Tensor):
        return [(arguments[0] if arguments else hint, value)]
    if isinstance(value, dict) and len(arguments) == 2:
        return [(arguments[1], item) for item in value.values() if isinstance(item, Tensor)]
    return []


@cache
def _hints(hint: type) -> dict[str, Any]:
    return get_type_hints(hint)


def _tensor(hint: Any, value: Any, tensor: Decode, place: str) -> Tensor:
    try:
        item = tensor(value)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{place} is no tensor") from error
    if isinstance(item, hint):
        return item
    return _refuse(f"{item.dtype} of shape {tuple(item.shape)}", place, f"{hint.__name__}, as other fields have it")


def _primitive(hint: Any, value: Any, place: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is hint:
        return value
    return _refuse(value, place, getattr(hint, "__name__", str(hint)))


def _refuse(value: object, place: str, expected: str) -> Any:
    text = repr(value) if not isinstance(value, str) else value
    raise ValueError(f"{place} is {text[:60]}, expected {expected}")
