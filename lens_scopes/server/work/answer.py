"""Results as the JSON of an answer: numbers with the digits that they have, and no more of them than may be sent."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lens_scopes.results.storage.record import encode
from lens_scopes.server.api.problems import Refusal

_DIGITS = 9  # which bring a float32 back as it was
_SHORTEST = 4  # characters of a number with its comma


def compact(result: Any, most_bytes: int) -> dict[str, Any]:
    """A result as plain values. Numbers of float32 have nine digits, where Python writes seventeen.

    Raises:
        Refusal: as `refuse_large_answer`, before anything is written.
    """
    sizes: list[int] = []
    encode(result, lambda _, tensor: sizes.append(tensor.numel()))
    refuse_large_answer(_SHORTEST * sum(sizes), most_bytes)
    return encode(result, lambda _, tensor: _round_to_digits(tensor).tolist()) | result.derived_values()


def refuse_large_answer(size: int, most_bytes: int) -> None:
    """Raises Refusal (413) for an answer of too many bytes."""
    if size > most_bytes:
        raise Refusal(
            413,
            f"the answer would be at least {size // 1_000_000} MB, and this server sends {most_bytes // 1_000_000}; "
            "shorten the prompt, or ask for fewer heads, layers or sites.",
        )


def _round_to_digits(values: Tensor) -> Tensor:
    if values.dtype != torch.float32:
        return values
    exact = values.double()
    size = torch.where((exact == 0) | ~exact.isfinite(), 1.0, exact.abs()).to(torch.float64)
    scale = 10 ** (_DIGITS - 1 - size.log10().floor())
    result = (exact * scale).round() / scale
    return torch.where(result.isfinite(), result, exact)
