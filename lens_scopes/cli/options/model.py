"""The model of a command, and how it is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from lens_scopes.cli.progress import spinner
from lens_scopes.errors import ModelError

_PANEL = "Model"


@dataclass(frozen=True)
class ModelOptions:
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
        """The model.

        Raises:
            ModelError: when it cannot be found or loaded.
        """
        from lens_scopes.models.load import load_model

        backend = self.backend
        if backend != "hooked" and backend != "bridge":
            raise ModelError(f"unknown backend {backend!r}; give --backend hooked or bridge.")
        # A conversion or a download draws a bar of its own.
        with spinner(f"Loading {self.model}") if self._is_at_hand() else nullcontext():
            return load_model(
                self.model,
                backend=backend,
                device=self.device,
                n_devices=self.n_devices,
                device_map=self.device_map,
                dtype=self.dtype,
                processing=self.processing_flags(),
                architecture=self.architecture,
                trust_remote_code=self.trust_remote_code,
            )

    def _is_at_hand(self) -> bool:
        from lens_scopes.models.gemma import EMBEDDED_NAME, embedded_path

        return (embedded_path() if self.model.lower() == EMBEDDED_NAME else Path(self.model)).is_dir()

    def processing_flags(self) -> bool | Mapping[str, bool]:
        """`processing` as `load_model` takes it."""
        if self.processing in ("none", "all"):
            return self.processing == "all"
        return {flag.strip(): True for flag in self.processing.split(",")}
