"""How much memory a command may use, and what became of it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated, Any

import typer


@dataclass(frozen=True)
class MemoryOptions:
    """A limit on memory."""

    memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="The most memory to use beyond the model's weights, such as 4GB; the work is cut into parts to stay "
            "below. By default a share of what is free.",
            rich_help_panel="Model",
            show_default=False,
        ),
    ] = None

    def check(self) -> None:
        """Raises PromptError for what is no amount of memory."""
        from lens_scopes.engine.memory import parse_memory

        parse_memory(self.memory)

    def remark(self, *results: Any) -> None:
        """Says on standard error how the work was laid out, where a limit was given or parts were run again."""
        for result in results:
            used = result.settings["memory"]
            if used is None:  # a comparison method takes no gradient, so it has no graph to lay out
                continue
            if self.memory is not None or not used.startswith("the whole graph at once"):
                print(f"lens-scopes: note: in memory was {used}.", file=sys.stderr)
