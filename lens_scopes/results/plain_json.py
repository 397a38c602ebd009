"""Plain values as JSON. It imports nothing heavy, so that `--help` is quick."""

from __future__ import annotations

import json
import math
from typing import Any


def as_json(plain: dict[str, Any]) -> str:
    """A result's plain values as JSON; what is not finite is null."""
    return json.dumps(_finite(plain), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
