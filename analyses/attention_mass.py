"""How much attention the last position pays to a span: the baselines that information flow is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from lens_scopes.forward import hooked, run_to_final_state


def attention_mass(model: Any, token_ids: Sequence[int], span: range) -> dict[str, float]:
    """Shares of the last position's attention that a span of a HookedTransformer's prompt gets.

    Returns:
        rollout: of the product over layers of ½ (mean pattern + I) (arXiv:2005.00928).
        value_weighted: Σ over layers, heads and the span of pattern × ‖v W_O‖, over the same of all tokens
            (arXiv:2004.10102).
    """
    kept: dict[str, torch.Tensor] = {}
    names = [
        f"blocks.{layer}.attn.{name}" for layer in range(model.cfg.n_layers) for name in ("hook_pattern", "hook_v")
    ]
    with hooked(model, [(name, lambda value, name=name: kept.update({name: value[0].detach()})) for name in names]):
        run_to_final_state(model, [token_ids])
    rollout = torch.eye(len(token_ids))
    weighted = torch.zeros(len(token_ids))
    for layer, block in enumerate(model.blocks):
        pattern = kept[f"blocks.{layer}.attn.hook_pattern"].float().cpu()  # [head, dest, src]
        rollout = 0.5 * (pattern.mean(0) + torch.eye(len(token_ids))) @ rollout
        values = kept[f"blocks.{layer}.attn.hook_v"].float()
        values = values.repeat_interleave(model.cfg.n_heads // values.shape[1], dim=1)
        sizes = torch.einsum("shd,hde->she", values, block.attn.W_O.float()).norm(dim=-1).cpu()
        weighted += torch.einsum("hs,sh->s", pattern[:, -1], sizes)
    inside = slice(span.start, span.stop)
    return {
        "rollout": float(rollout[-1, inside].sum()),
        "value_weighted": float(weighted[inside].sum() / weighted.sum()),
    }
