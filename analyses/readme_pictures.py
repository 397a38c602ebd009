"""The two pictures of the README that are results shown as they are: an attribution and a head inspection."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from through_layers import PROMPT

import lens_scopes as ls


def measure(model: Any, quick: bool, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings and findings: Fisher Scope with layers, and the heads behind the logit of " sofa"."""
    demo = ls.attribute(model, PROMPT, ls.Fisher(), layers=True)
    heads = ls.inspect_heads(model, PROMPT, ls.Semantic(" sofa"), seed=seed, verify=3 if quick else None)
    return {"prompt": PROMPT, "seed": seed}, {"demo": demo.to_dict(), "heads": heads.to_dict()}


def draw(record: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """Both as their own figures."""
    demo = ls.Attribution.from_dict(record["findings"]["demo"])
    heads = ls.HeadInspection.from_dict(record["findings"]["heads"])
    return {"demo": demo.figure, "heads": heads.figure}


def summary(record: dict[str, Any]) -> list[str]:
    """The agreement of predicted and actual effects of heads."""
    heads = ls.HeadInspection.from_dict(record["findings"]["heads"])
    named = ", ".join(f"{name} {value:.2f}" for _, name, value in heads.top(3))
    return [f"heads {named}; {len(heads.ablations)} ablated, Spearman {heads.spearman}"]
