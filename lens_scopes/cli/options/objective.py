"""What is explained: the scope with its settings."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from lens_scopes.scopes.registry import as_objective, read_scope, scope_names

if TYPE_CHECKING:
    from lens_scopes.scopes.objectives import Explanation, Objective

_PANEL = "What is explained"


@dataclass(frozen=True)
class ObjectiveOptions:
    """The scope, and the options that some scopes have."""

    scope: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help=f"What to explain: {', '.join(scope_names(takes_gradient=True))}. Comparison methods, which take no "
            f"gradient: {', '.join(scope_names(takes_gradient=False))}.",
            rich_help_panel=_PANEL,
        ),
    ] = "semantic"
    target: Annotated[
        str | None,
        typer.Option(
            metavar="TOKEN",
            help="The next token explained by semantic, logprob and logit-diff: its exact string, leading space "
            "included (' Paris'), or its id ('#9079'). By default the token that follows in the text, else the model's "
            "top token.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None
    other: Annotated[
        str | None,
        typer.Option(
            metavar="TOKEN", help="The token that logit-diff contrasts --target with.", rich_help_panel=_PANEL
        ),
    ] = None
    rank: Annotated[
        str | None,
        typer.Option(
            metavar="N|trace",
            help="Leading terms of fisher, or trace for all of it. By default 1.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None
    samples: Annotated[
        int | None,
        typer.Option(
            help="Random directions for --rank trace; 0 is exact. By default exact up to d_model 128, else 16.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of what is random. By default 0.", rich_help_panel=_PANEL, show_default=False),
    ] = None
    measure: Annotated[
        str | None,
        typer.Option(
            metavar="kl|logit|logprob",
            help="What leave-one-out follows. By default kl, the change of the whole distribution.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None
    ablation: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What leave-one-out replaces a token by: zero (the default), mean, pad, eos, bos, resample or remove.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None

    def objective(self) -> Objective:
        """The objective with its settings, for commands that need gradients.

        Raises:
            ObjectiveError: as `explanation`, and for a comparison method, which has no gradients.
        """
        return as_objective(self.explanation())

    def explanation(self) -> Explanation:
        """The objective or comparison method with its settings.

        Raises:
            ObjectiveError: for an unknown scope, a setting that is wrong or that the scope does not have, and one that
                is missing.
        """
        settings = asdict(self)
        return read_scope(settings.pop("scope"), **settings)
