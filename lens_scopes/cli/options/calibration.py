"""Labelled prompts in place of a prompt: a command that calibrates its threshold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from lens_scopes.errors import LensScopesError

PANEL = "Calibration"
SUFFIXES = (".html", ".json", ".csv", ".png", ".svg", ".pdf")
RECALL = 0.9


@dataclass(frozen=True)
class CalibrationOptions:
    """Which labelled prompts, and what share of their leaks to catch."""

    calibrate: Annotated[
        Path | None,
        typer.Option(
            help="Choose a threshold for --fail-above from labelled prompts, in place of a prompt, and report how many "
            'leaks it catches and how often it is wrong. One JSON object per line: {"prompt": "…" or "chat": […], '
            '"span": "its text" or [start, stop] in tokens, "leaks": true or false, "generate": N, "group": "…"}, the '
            "last two optional. --out then takes every kind of file but .safetensors.",
            rich_help_panel=PANEL,
            show_default=False,
        ),
    ] = None
    recall: Annotated[
        float | None,
        typer.Option(
            help=f"Share of the leaks that the threshold should catch. By default {RECALL:g}.",
            rich_help_panel=PANEL,
            show_default=False,
        ),
    ] = None

    def check(self, others: dict[str, object]) -> None:
        """Refuses options that belong to the other of a prompt and labelled prompts.

        Args:
            others: the options of a prompt, by name, as far as they were given.

        Raises:
            LensScopesError: for such options.
        """
        if self.calibrate is None:
            if self.recall is not None:
                raise LensScopesError("--recall belongs to --calibrate; give the file of labelled prompts too.")
            return
        names = [name for name, value in others.items() if value]
        if names:
            raise LensScopesError(
                f"--calibrate takes prompts and spans from its file; leave out {' and '.join(names)}."
            )
