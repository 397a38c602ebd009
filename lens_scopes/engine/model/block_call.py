"""What Transformers calls a block with, so that the block can run again alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class BlockCall:
    """What Transformers calls a block with: masks, rotations, positions.

    Attributes:
        positional: whether the residual stream comes first, and not by its name.
        more_args: the positional arguments after it.
        kwargs: the keyword arguments.
    """

    positional: bool
    more_args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    @classmethod
    def split(cls, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[Tensor, BlockCall]:
        """The residual stream that a block is called with, and the rest."""
        if arguments:
            return arguments[0], cls(True, arguments[1:], dict(named))
        return named["hidden_states"], cls(
            False, (), {key: value for key, value in named.items() if key != "hidden_states"}
        )

    def run(self, block: Any, residual: Tensor) -> Tensor:
        """The residual stream after the block, from another one before it."""
        named = dict(self.kwargs) if self.positional else {**self.kwargs, "hidden_states": residual}
        output = block(*((residual, *self.more_args) if self.positional else ()), **named)
        return output[0] if isinstance(output, tuple) else output
