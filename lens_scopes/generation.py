"""Greedy continuation with the scopes' own forward pass, so that every backend gives the tokens it would predict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lens_scopes.final_state import unembedding
from lens_scopes.forward import run_to_final_state


def continuation(model: Any, token_ids: Sequence[int], count: int) -> list[int]:
    """The model's own most probable next token, `count` times over."""
    head = unembedding(model)
    ids = list(token_ids)
    for _ in range(count):
        state = run_to_final_state(model, [ids])[0]
        ids.append(int(head.logits(state).argmax()))
    return ids[len(token_ids) :]
