"""Other results on the same prompt, shown on the same page and in the same terminal view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lens_scopes.cli.progress import progress_bar
from lens_scopes.errors import LensScopesError

if TYPE_CHECKING:
    from lens_scopes.engine.model import ModelLike
    from lens_scopes.prompts.read import PromptLike
    from lens_scopes.results.attribution import Attribution
    from lens_scopes.results.cells import CellPatches
    from lens_scopes.scopes.spec import Spec

KINDS = ("heads", "matrix", "modes", "cells")


@dataclass(frozen=True)
class CompanionOptions:
    """Which other results to add."""

    add: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="|".join(KINDS),
            help="Also show heads, the source × target matrix, the Fisher modes, or with --layers and --against the "
            "strongest cells patched, for the same prompt, on the page and in the terminal; may be repeated.",
            rich_help_panel="Output",
        ),
    ] = None

    def check(self) -> None:
        """Refuses unknown kinds.

        Raises:
            LensScopesError: for the first one.
        """
        for kind in self.add or []:
            if kind not in KINDS:
                raise LensScopesError(f"--with takes {', '.join(KINDS[:-1])} or {KINDS[-1]}; got {kind!r}.")

    def check_spec(self, spec: Spec) -> None:
        """Refuses kinds that what is asked has none of.

        Raises:
            LensScopesError: for a comparison method, and for modes of a whole answer.
        """
        if self.add:
            spec.require_gradient()
        if spec.answers and "modes" in (self.add or []):
            raise LensScopesError(
                "modes are those of one prediction, and a whole answer is explained; leave out --with modes, or call "
                "modes with --position."
            )

    def compute(
        self, model: ModelLike, prompt: PromptLike, spec: Spec, position: int, attribution: Attribution
    ) -> dict[str, Any]:
        """The results asked for, by kind, in the order of KINDS; cells are those of the attribution.

        Raises:
            LensScopesError: as the functions that compute them.
        """
        from lens_scopes.engine.model import ScopedModel

        question = spec.without_sites() if self.add else spec
        baseline = (spec.other_prompt(ScopedModel.of(model)) if self.add else None) or "mean"
        return {
            kind: _patch(model, attribution)
            if kind == "cells"
            else _compute(kind, model, prompt, question, position, baseline)
            for kind in KINDS
            if kind in (self.add or [])
        }


def _patch(model: ModelLike, attribution: Attribution) -> CellPatches:
    from lens_scopes.attribution.cells import patch_cells

    with progress_bar("Patching") as progress:
        return patch_cells(model, attribution, progress=progress)


def _compute(kind: str, model: ModelLike, prompt: PromptLike, spec: Spec, position: int, baseline: Any) -> Any:
    """One other result; `baseline` is that of heads, which are measured against the same prompt as the scores."""
    if kind == "heads":
        from lens_scopes.attribution.heads import inspect_heads

        with progress_bar("Ablating") as progress:
            return inspect_heads(model, prompt, spec, position=position, baseline=baseline, progress=progress)
    if kind == "matrix":
        from lens_scopes.attribution.matrix import attribute_all

        with progress_bar("Every target") as progress:
            return attribute_all(model, prompt, spec, progress=progress)
    from lens_scopes.attribution.modes import inspect_modes

    with progress_bar("Replacing tokens") as progress:
        return inspect_modes(
            model,
            prompt,
            position=position,
            through=spec.through,
            memory=spec.memory,
            matmul_dtype=spec.matmul_dtype,
            progress=progress,
        )
