"""The names of methods: every scope of the registry that needs no token of its own, the evaluation's own, and recipes.

This module imports nothing heavy, so that `--help` is quick.
"""

from __future__ import annotations

from lens_scopes.scopes.registry import ScopeEntry, scope_entries

_PATH_GRADIENTS = "lens_scopes.evaluation.methods.path_gradients"

OWN_METHODS = (
    ScopeEntry(
        "ig-weighted",
        f"{_PATH_GRADIENTS}:weighted_integrated_gradients",
        "Integrated Gradients of the AOPC table of arXiv:2601.16407",
        takes_gradient=False,
    ),
    ScopeEntry(
        "ig-semantic",
        f"{_PATH_GRADIENTS}:path_integrated_semantic",
        "Integrated Gradients of the leave-one-out table of arXiv:2601.16407",
        takes_gradient=False,
    ),
)
"""Comparison methods that only an evaluation has."""

_STEPS = "16"
_STARTS = ("zero", "mean", "bos", "eos", "pad")
_IG = {
    f"ig-{start}{'-held' * held}": (f"semantic+product+path-{start}{'-held' * held}@{{}}", _STEPS)
    for start in _STARTS
    for held in (False, True)
    if (start, held) != ("zero", False)  # that one is "ig"
}
RECIPES: dict[str, tuple[str, str]] = {
    "ixg": ("semantic+product", ""),
    "ixg-dot": ("semantic+dot", ""),
    "ig": ("semantic+product+path@{}", _STEPS),
    "ig-dot": ("semantic+dot+path@{}", _STEPS),
    **_IG,
    "smoothgrad": ("semantic+noise@{}", _STEPS),
    "loo-kl": ("leave-one-out@kl+ablation={}", "zero"),
    "loo-logit": ("leave-one-out@logit+ablation={}", "zero"),
    "loo-logprob": ("leave-one-out@logprob+ablation={}", "zero"),
}
"""Short names of well-known methods: the line of a Spec, with {} for what follows "@", and what that is by default."""


def method_names() -> list[str]:
    """What a method's name may begin with: a scope that needs no token, an own method, or a recipe."""
    scopes = [entry.name for entry in scope_entries().values() if not entry.required]
    return [*scopes, *(entry.name for entry in OWN_METHODS), *RECIPES]
