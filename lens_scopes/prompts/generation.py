"""Greedy continuation with the scopes' own forward pass, so that every backend gives the tokens it would predict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lens_scopes.engine.final_state import unembedding
from lens_scopes.engine.forward import run_to_final_state
from lens_scopes.errors import PromptError
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.prompts.read import extended


def continuation(model: Any, token_ids: Sequence[int], count: int) -> list[int]:
    """The model's own most probable next token, `count` times over."""
    head = unembedding(model)
    ids = list(token_ids)
    for _ in range(count):
        state = run_to_final_state(model, [ids])[0]
        ids.append(int(head.logits(state).argmax()))
    return ids[len(token_ids) :]


def with_continuation(model: Any, prompt: Prompt, count: int) -> Prompt:
    """The prompt with `count` tokens of the model's own continuation at its end.

    Raises:
        PromptError: for a negative count, and when the result would not fit the context window.
    """
    length = len(prompt.token_ids)
    if count < 0:
        raise PromptError(f"the number of tokens to generate must be non-negative; got {count}.")
    if length + count > model.cfg.n_ctx:
        raise PromptError(
            f"{count} generated tokens after a prompt of {length} exceed the context window of {model.cfg.n_ctx}; "
            "shorten the prompt or generate fewer."
        )
    return extended(model, prompt, continuation(model, prompt.token_ids, count))
