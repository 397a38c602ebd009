"""Where influence is read: names of activations, written short or in full, resolved against the model's hook points.

A short name stands for every layer ("hook_resid_mid" is blocks.0.hook_resid_mid, blocks.1.hook_resid_mid, …); a full
name for one activation. Sites have the position on their second axis: [batch, pos, …, d].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from lens_scopes.errors import SiteError, near_names

EMBEDDING = "hook_embed"
RESIDUALS = ("resid_pre", "resid_mid", "resid_post")

# Short names and where they live inside a block.
_IN_BLOCK = {
    "hook_resid_pre": "hook_resid_pre",
    "hook_resid_mid": "hook_resid_mid",
    "hook_resid_post": "hook_resid_post",
    "hook_attn_out": "hook_attn_out",
    "hook_mlp_out": "hook_mlp_out",
    "hook_q": "attn.hook_q",
    "hook_k": "attn.hook_k",
    "hook_v": "attn.hook_v",
    "hook_z": "attn.hook_z",
}
_NOT_BY_POSITION = ("hook_pattern", "hook_attn_scores")


@runtime_checkable
class HookPoints(Protocol):
    """What is read of a model here: how many layers it has, and its hook points by name."""

    @property
    def cfg(self) -> Any:
        """The configuration, for its n_layers."""
        ...

    @property
    def hook_dict(self) -> Any:
        """Hook points by name."""
        ...


def layer_sites(model: HookPoints, layers: bool | str) -> list[str]:
    """The residual-stream hooks of every layer.

    Args:
        layers: True for hook_resid_pre, or one of "resid_pre", "resid_mid", "resid_post" (with or without "hook_").

    Raises:
        SiteError: for another name, or where the model has no such hook (parallel and attention-only blocks have
            no hook_resid_mid).
    """
    if layers is False:
        return []
    name = "resid_pre" if layers is True else str(layers).removeprefix("hook_")
    if name not in RESIDUALS:
        residual_name(layers)  # refuses it, as it was written
    return _require_hooks(model, [f"blocks.{layer}.hook_{name}" for layer in range(model.cfg.n_layers)])


def residual_name(name: object) -> str:
    """The name of a residual stream, if it is one.

    Raises:
        SiteError: for anything else.
    """
    if not isinstance(name, str) or name not in RESIDUALS:
        raise SiteError(f"layers={name!r} is not a residual site; expected True, {', '.join(map(repr, RESIDUALS))}.")
    return name


def resolve_sites(model: HookPoints, sites: str | Sequence[str]) -> list[str]:
    """Full hook names for sites given short ("hook_z": every layer) or in full ("blocks.3.attn.hook_z").

    Raises:
        SiteError: when the model has no such hook, with near names; or when it has no position axis to score.
    """
    names: list[str] = []
    for site in [sites] if isinstance(sites, str) else sites:
        short = site if site.startswith("hook_") else f"hook_{site}"
        if short in _IN_BLOCK:
            names += [f"blocks.{layer}.{_IN_BLOCK[short]}" for layer in range(model.cfg.n_layers)]
        else:
            names.append(site)
    for name in names:
        if name.endswith(_NOT_BY_POSITION):
            raise SiteError(
                f"{name} has no axis of token positions to score; read attention patterns with inspect_heads instead."
            )
    return _require_hooks(model, list(dict.fromkeys(names)))


def _require_hooks(model: HookPoints, names: list[str]) -> list[str]:
    points = model.hook_dict
    for name in names:
        if name not in points:
            near = near_names(name, points, n=3)
            hint = f" Near names: {', '.join(near)}." if near else ""
            raise SiteError(f"the model has no hook named {name!r}, so influence cannot be read there.{hint}")
    return names
