"""What is asked: the options of a Spec, as the registry describes them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict, field, make_dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lens_scopes.scopes.registry import DEFAULT_SCOPE
from lens_scopes.scopes.text.lines import read_options
from lens_scopes.scopes.text.options import (
    ANSWER_OPTIONS,
    CELL_OPTIONS,
    LIMIT_OPTIONS,
    MATRIX_OPTIONS,
    PATH_OPTIONS,
    SCOPE_OPTIONS,
    SERIES_OPTIONS,
    SITE_OPTIONS,
    WHICH_ANSWER,
    Option,
    options,
)

if TYPE_CHECKING:
    from lens_scopes.scopes.spec import Spec


class _Choices:
    """Base of the groups of options that make a Spec."""

    def spec(self) -> Spec:
        """What is asked, checked as far as it can be without the model.

        Raises:
            LensScopesError: for an unknown scope, a setting that is wrong or missing, and choices that do not fit.
        """
        given: dict[str, Any] = asdict(self)  # pyright: ignore[reportArgumentType]
        if given.get("layers") is False:
            given["layer_site"] = None
        read_options(given)  # refuses what is wrong before torch is imported, which takes seconds
        from lens_scopes.scopes.spec import Spec

        return Spec.from_options(**given)

    def remark(self, *results: Any) -> None:
        """Says on standard error how the work was laid out, where a limit was given or parts were run again."""
        from lens_scopes.views.words.pages.parts.memory import memory_amounts, memory_words

        limited = getattr(self, "memory", None) is not None
        for result in results:
            plan = result.memory
            if plan is not None and (limited or plan.sliced or plan.shortages):
                words = f"{memory_words(plan)} ({memory_amounts(plan)})"
                print(f"lens-scopes: note: in memory was {words}.", file=sys.stderr)


def _group(name: str, option_names: Iterable[str], summary: str) -> Any:
    """A dataclass of options, each a field that typer reads."""
    known = options()
    kind = make_dataclass(name, [_field(known[option]) for option in option_names], bases=(_Choices,), frozen=True)
    kind.__doc__ = summary
    return kind


def _field(option: Option) -> tuple[str, Any, Any]:
    default = DEFAULT_SCOPE if option.name == "scope" else None
    kind: Any = list[option.kind] if option.many else option.kind
    flag = "--" + option.name.replace("_", "-")
    declared = typer.Option(
        f"{flag}/--no-{flag[2:]}" if option.kind is bool else flag,
        metavar=option.metavar,
        help=option.help + (" May be repeated." if option.many else ""),
        rich_help_panel=option.panel,
        show_default=default is not None,
    )
    return option.name, Annotated[kind if default is not None else kind | None, declared], field(default=default)


if TYPE_CHECKING:
    SpecOptions = CompareOptions = HeadsOptions = CellOptions = MatrixOptions = SeriesOptions = PathOptions = _Choices
else:
    SpecOptions = _group(
        "SpecOptions",
        (*SCOPE_OPTIONS, *ANSWER_OPTIONS, *SITE_OPTIONS, *PATH_OPTIONS, *LIMIT_OPTIONS),
        "Everything that may be asked.",
    )
    CompareOptions = _group(
        "CompareOptions",
        (
            *(name for name in SCOPE_OPTIONS if name not in ("scope", "target")),
            *("score_site", "readout", "points", "against"),
            *PATH_OPTIONS,
            *LIMIT_OPTIONS,
        ),
        "What two sides have in common.",
    )
    HeadsOptions = _group(
        "HeadsOptions", (*SCOPE_OPTIONS, *WHICH_ANSWER, *PATH_OPTIONS, *LIMIT_OPTIONS), "For heads and MLPs."
    )
    CellOptions = _group(
        "CellOptions",
        (*SCOPE_OPTIONS, *ANSWER_OPTIONS, *CELL_OPTIONS, *PATH_OPTIONS, *LIMIT_OPTIONS),
        "For patched cells.",
    )
    MatrixOptions = _group(
        "MatrixOptions", (*SCOPE_OPTIONS, *MATRIX_OPTIONS, *PATH_OPTIONS, *LIMIT_OPTIONS), "For matrices."
    )
    SeriesOptions = _group(
        "SeriesOptions",
        (*SCOPE_OPTIONS, *WHICH_ANSWER, *SERIES_OPTIONS, *PATH_OPTIONS, *LIMIT_OPTIONS),
        "For series of numbers.",
    )
    PathOptions = _group("PathOptions", (*PATH_OPTIONS, *LIMIT_OPTIONS), "For what has an objective of its own.")
