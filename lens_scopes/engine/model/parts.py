"""The modules and weights of a model by name, in one quick walk.

Every call looks at hundreds of modules. `named_modules` and `named_parameters` take several times as long.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def modules_of(model: object) -> dict[str, Any]:
    """All modules, each once; the model itself is "". A bridge keeps the model that it wraps to itself."""
    modules: dict[str, Any] = {}
    seen: set[int] = set()
    stack = [(_WRAPPED, getattr(model, "original_model", None)), ("", model)]
    while stack:
        name, part = stack.pop()
        if id(part) in seen or not isinstance(part, torch.nn.Module):
            continue
        seen.add(id(part))
        modules[name] = part
        if part._modules:
            inside = f"{name}." if name else ""
            stack += [(inside + child_name, child) for child_name, child in reversed(part._modules.items())]
    return modules


def weights_of(modules: Mapping[str, Any]) -> dict[str, Tensor]:
    """The parameters of these modules."""
    return {
        f"{name}.{own_name}" if name else own_name: weight
        for name, part in modules.items()
        for own_name, weight in part._parameters.items()
        if weight is not None
    }


_WRAPPED = "original_model"
