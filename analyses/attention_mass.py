"""How much attention the last position pays to a span: the baselines that information flow is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

import lens_scopes as ls
from lens_scopes.engine.model import ScopedModel
from lens_scopes.scopes.comparisons.attention import attention, head_contributions


def attention_mass(model: Any, token_ids: Sequence[int], span: range) -> dict[str, float]:
    """Shares of the last position's attention that a span of a prompt gets.

    Returns:
        rollout: of the product over layers of ½ (mean pattern + I) (arXiv:2005.00928).
        value_weighted: Σ over layers, heads and the span of pattern × ‖v W_O‖, over the same of all tokens
            (arXiv:2004.10102).
    """
    rollout = ls.attribute(model, token_ids, ls.AttentionRollout()).scores
    scoped = ScopedModel.of(model)
    patterns, values = attention(scoped, token_ids)
    weighted = torch.zeros(len(token_ids), dtype=torch.float64)
    for layer, (pattern, value) in enumerate(zip(patterns, values, strict=True)):
        weighted += torch.einsum("hs,sh->s", pattern[:, -1], head_contributions(scoped, layer, value).norm(dim=-1))
    inside = slice(span.start, span.stop)
    return {
        "rollout": float(rollout[inside].sum()),
        "value_weighted": float(weighted[inside].sum() / weighted.sum()),
    }
