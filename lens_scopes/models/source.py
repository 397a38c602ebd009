"""ModelSource: the arguments of `load_model` as plain values, for the command line and the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lens_scopes.errors import ModelError


@dataclass(frozen=True)
class ModelSource:
    """A model by name or folder; the fields are the arguments of `lens_scopes.load_model`, as text.

    Attributes:
        model: a name that `available_models` lists, owner/name on the hub, or a local folder.
        processing: "none", "all", or flags separated by commas.
    """

    model: str = "gemma-3-270m"
    backend: str | None = None
    device: str | None = None
    n_devices: int = 1
    device_map: str | None = None
    dtype: str = "float32"
    processing: str = "none"
    architecture: str | None = None
    trust_remote_code: bool = False

    def load(self) -> Any:
        """The model.

        Raises:
            ModelError: when it cannot be found or loaded.
        """
        from lens_scopes.models.load import load_model

        backend = self.backend
        if backend is not None and backend != "hooked" and backend != "bridge":
            raise ModelError(f"unknown backend {backend!r}; give hooked or bridge.")
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

    def is_at_hand(self) -> bool:
        """Whether the weights lie on this machine, ready to load: a conversion or a download takes longer."""
        from lens_scopes.models.gemma import EMBEDDED_NAME, embedded_path
        from lens_scopes.models.names import is_folder

        return embedded_path().is_dir() if self.model.lower() == EMBEDDED_NAME else is_folder(self.model)

    def processing_flags(self) -> bool | Mapping[str, bool]:
        """`processing` as `load_model` takes it."""
        if self.processing in ("none", "all"):
            return self.processing == "all"
        return {flag.strip(): True for flag in self.processing.split(",")}
