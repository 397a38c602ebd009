"""The model of a command, and how it is loaded."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from lens_scopes.cli.progress import spinner
from lens_scopes.models.gemma import EMBEDDED_NAME
from lens_scopes.models.names import find_source
from lens_scopes.models.source import ModelSource

_PANEL = "Model"


@dataclass(frozen=True)
class ModelOptions(ModelSource):
    """A model by name or folder; the options are those of `lens_scopes.load_model`."""

    model: Annotated[
        str,
        typer.Option(
            metavar="NAME_OR_PATH",
            help="Model name from `lens-scopes models`, owner/name on the hub, or a local Hugging Face folder.",
            rich_help_panel=_PANEL,
        ),
    ] = "gemma-3-270m"
    backend: Annotated[
        str | None,
        typer.Option(
            metavar="hooked|bridge",
            help="Load a HookedTransformer (the default with transformer-lens 3) or a TransformerBridge (with 4).",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None
    device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Device: cpu, cuda, cuda:1, mps, … By default cuda if available.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None
    n_devices: Annotated[
        int, typer.Option(help="Number of GPUs to spread a HookedTransformer over.", rich_help_panel=_PANEL)
    ] = 1
    device_map: Annotated[
        str | None,
        typer.Option(
            metavar="auto|balanced|…",
            help="Transformers device map for a TransformerBridge, such as auto.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None
    dtype: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Dtype of the weights: float32, bfloat16, float16 or float64.", rich_help_panel=_PANEL
        ),
    ] = "float32"
    processing: Annotated[
        str,
        typer.Option(
            metavar="none|all|FLAG,…",
            help="Weight folding and centering: none, all (the defaults of HookedTransformer), or a list of fold_ln, "
            " center_writing_weights, center_unembed, fold_value_biases.",
            rich_help_panel=_PANEL,
        ),
    ] = "none"
    architecture: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Transformers class (GPT2LMHeadModel) or model type (gpt2), for a folder whose config.json does not "
            "state it.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code",
            help="Allow code from the model's repository to run, and pickled weights to be read.",
            rich_help_panel=_PANEL,
        ),
    ] = False

    def check(self) -> None:
        """Refuses an unknown model before torch is imported, which takes seconds.

        Raises:
            ModelError: with near names.
        """
        if self.model.lower() != EMBEDDED_NAME:  # whose place is a conversion of its weights
            find_source(self.model)

    def load(self) -> Any:
        """The model, with a spinner while it loads.

        Raises:
            ModelError: when it cannot be found or loaded.
        """
        # A conversion or a download draws a bar of its own.
        with spinner(f"Loading {self.model}") if self.is_at_hand() else nullcontext():
            return super().load()
