"""The model of a command, and how it is loaded."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from lens_scopes.cli.progress import spinner
from lens_scopes.models.source import ModelSource

_PANEL = "Model"


@dataclass(frozen=True)
class ModelOptions(ModelSource):
    """A model by name or folder; the options are those of `lens_scopes.load_model`."""

    model: Annotated[
        str,
        typer.Option(
            metavar="NAME_OR_PATH",
            help="A name that `lens-scopes models` lists, owner/name on the hub, or a local Hugging Face folder.",
            rich_help_panel=_PANEL,
        ),
    ] = "gemma-3-270m"
    backend: Annotated[
        str,
        typer.Option(metavar="hooked|bridge", help="HookedTransformer or TransformerBridge.", rich_help_panel=_PANEL),
    ] = "hooked"
    device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="cpu, cuda, cuda:1, mps, … By default cuda where there is one.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None
    n_devices: Annotated[
        int, typer.Option(help="Spread a HookedTransformer over this many GPUs.", rich_help_panel=_PANEL)
    ] = 1
    device_map: Annotated[
        str | None,
        typer.Option(
            metavar="auto|balanced|…",
            help="Spread a bridge over the GPUs as Transformers does.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None
    dtype: Annotated[
        str, typer.Option(metavar="NAME", help="float32, bfloat16, float16 or float64.", rich_help_panel=_PANEL)
    ] = "float32"
    processing: Annotated[
        str,
        typer.Option(
            metavar="none|all|FLAG,…",
            help="Folding and centering of weights: none, all that HookedTransformer does by default, or a list of "
            "fold_ln, center_writing_weights, center_unembed, fold_value_biases.",
            rich_help_panel=_PANEL,
        ),
    ] = "none"
    architecture: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The Transformers class (GPT2LMHeadModel) or model type (gpt2) of a folder whose config.json "
            "does not say.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code",
            help="Let code from the model's repository run, and read weights stored as pickles.",
            rich_help_panel=_PANEL,
        ),
    ] = False

    def load(self) -> Any:
        """The model, with a spinner while it loads.

        Raises:
            ModelError: when it cannot be found or loaded.
        """
        # A conversion or a download draws a bar of its own.
        with spinner(f"Loading {self.model}") if self.is_at_hand() else nullcontext():
            return super().load()
