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
        from lens_scopes.views.words.memory import memory_words

        for result in results:
            plan = result.memory
            if plan is not None and (self.memory is not None or plan.sliced or plan.shortages):
                print(f"lens-scopes: note: in memory was {memory_words(plan)}.", file=sys.stderr)
