"""The same scope through all, early, middle and late layers of one translation prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lens_scopes as ls
from lens_scopes.views.figures.tokens.strips import strips_figure

PROMPT = "German: Der Hund schläft auf dem Sofa. English: The dog sleeps on the"


def measure(model: Any, quick: bool, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings and findings: Fisher Scope of rank 1 through each third of the layers."""
    n_layers = model.cfg.n_layers
    third = n_layers // 3
    paths: dict[str, Any] = {"all layers": None}
    for name, first in (("early", 0), ("middle", third), ("late", 2 * third)):
        last = n_layers - 1 if name == "late" else first + third - 1
        paths[f"{name}, {first}–{last}"] = ls.Layers(first, last)
    if quick:
        paths = dict(list(paths.items())[:2])
    strips = {label: ls.attribute(model, PROMPT, ls.Fisher(), through=path) for label, path in paths.items()}
    findings = {
        "strips": {label: att.to_dict() for label, att in strips.items()},
        "top": {label: att.top(5) for label, att in strips.items()},
    }
    return {"prompt": PROMPT, "scope": "Fisher(rank=1)", "random": None}, findings


def draw(record: dict[str, Any]) -> dict[str, Callable[[], Any]]:
    """The strips under each other."""
    strips = {label: ls.Attribution.from_dict(plain) for label, plain in record["findings"]["strips"].items()}
    return {"through_layers": lambda: strips_figure(strips)}


def summary(record: dict[str, Any]) -> list[str]:
    """The leading tokens of each strip."""
    return [
        f"{label:15} " + ", ".join(f"{token!r} {score:.3g}" for _, token, score in top[:4])
        for label, top in record["findings"]["top"].items()
    ]
