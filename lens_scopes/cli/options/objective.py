"""What is explained: the scope with its settings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lens_scopes.errors import ObjectiveError

if TYPE_CHECKING:
    from lens_scopes.scopes.comparisons import Baseline
    from lens_scopes.scopes.objectives import Objective

_PANEL = "What is explained"
_TOKEN_ID = re.compile(r"#(\d+)")

# Settings that each scope has; a scope registered elsewhere has none.
_SETTINGS = {
    "semantic": ("target",),
    "logprob": ("target",),
    "logit-diff": ("target", "other"),
    "fisher": ("rank", "samples", "seed"),
    "fisher-at-values": ("rank", "samples", "seed"),
    "leave-one-out": ("measure", "ablation", "seed"),
    "random": ("seed",),
}


@dataclass(frozen=True)
class ObjectiveOptions:
    """The scope, and the options that some scopes have."""

    scope: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="semantic, logprob, logit-diff, temperature, entropy, fisher or fisher-at-values; to compare with, "
            "without gradients: leave-one-out, attention-rollout, value-attention or random.",
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
            ObjectiveError: as `explanation`, and for a baseline, which has no gradients.
        """
        from lens_scopes.scopes.objectives import Objective

        found = self.explanation()
        if not isinstance(found, Objective):
            raise ObjectiveError(
                f"{self.scope} takes no gradient, which is needed here; choose a scope such as fisher."
            )
        return found

    def explanation(self) -> Objective | Baseline:
        """The objective or baseline with its settings.

        Raises:
            ObjectiveError: for an unknown scope, a setting that is wrong or that the scope does not have, and one that
                is missing.
        """
        from lens_scopes.scopes.comparisons import baseline_named, baseline_names
        from lens_scopes.scopes.objectives import objective_named, objective_names

        names = ("target", "other", "rank", "samples", "seed", "measure", "ablation")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        if self.scope not in (*objective_names(), *baseline_names()):
            return objective_named(self.scope)  # raises, with near names
        for name in given:
            if name not in _SETTINGS.get(self.scope, ()):
                having = [scope for scope, names in _SETTINGS.items() if name in names]
                raise ObjectiveError(f"scope {self.scope!r} has no --{name}; it belongs to {', '.join(having)}.")
        if self.scope == "logit-diff" and len(given) < 2:
            raise ObjectiveError("scope 'logit-diff' contrasts two tokens; give both --target and --other.")
        if self.scope in baseline_names():
            return baseline_named(self.scope, **given)
        if self.rank != "trace" and (self.samples is not None or self.seed is not None):
            raise ObjectiveError("--samples and --seed belong to --rank trace, the only one with random directions.")
        return objective_named(self.scope, **dict(_setting(name, value) for name, value in given.items()))


def _setting(name: str, value: Any) -> tuple[str, Any]:
    if name == "target":
        return "token", token_option(value)
    if name == "other":
        return "other", token_option(value)
    if name == "rank" and value != "trace":
        try:
            return "rank", int(value)
        except ValueError:
            raise ObjectiveError(f'Fisher rank must be a positive integer or "trace"; got {value!r}.') from None
    return name, value


def token_option(value: str) -> str | int:
    """A token as given on the command line: '#123' is the id 123, anything else the token's exact string."""
    found = _TOKEN_ID.fullmatch(value)
    return int(found[1]) if found else value
