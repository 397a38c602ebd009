"""Amounts of memory, read and written."""

from __future__ import annotations

import re

from lens_scopes.errors import PromptError

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def parse_memory(amount: str | int | None) -> int | None:
    """Bytes from a number, or from text such as "4GB" or "800 MB"; None stays None.

    Raises:
        PromptError: for anything else, and amounts that are not positive.
    """
    if amount is None:
        return None
    match = None
    if isinstance(amount, int) and not 0 < amount < 2**63:
        raise PromptError('memory is a positive number of bytes below 2^63, or an amount such as "4GB".')
    if isinstance(amount, str | int) and not isinstance(amount, bool):
        match = re.fullmatch(r"\s*([0-9]{1,19}(?:\.[0-9]{1,9})?)\s*((?:[KMGT]B)?)\s*", str(amount), re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise PromptError(f'memory is a positive amount such as "4GB" or a number of bytes; got {str(amount)[:60]!r}.')
    return int(float(match[1]) * _UNITS[match[2].upper()])


def in_units(amount: int) -> str:
    """Bytes as a reader wants them: 1.3 GB, 450 MB."""
    for unit in ("TB", "GB", "MB", "KB"):
        if amount >= _UNITS[unit]:
            return f"{amount / _UNITS[unit]:.3g} {unit}"
    return f"{amount} bytes"
