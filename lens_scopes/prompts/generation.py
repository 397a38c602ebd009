"""Greedy generation with the same forward pass as the scopes, on every backend."""

from __future__ import annotations

from collections.abc import Sequence

from lens_scopes.engine.model import ScopedModel
from lens_scopes.errors import PromptError
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.prompts.read import extended


def continuation(model: ScopedModel, token_ids: Sequence[int], count: int) -> list[int]:
    """The model's own most probable next token, `count` times over."""
    head = model.unembedding()
    ids = list(token_ids)
    for _ in range(count):
        state = model.run_to_final_states([ids])[0]
        ids.append(int(head.logits(state).argmax()))
    return ids[len(token_ids) :]


def with_continuation(model: ScopedModel, prompt: Prompt, count: int) -> Prompt:
    """The prompt with `count` tokens of the model's own continuation at its end.

    Raises:
        PromptError: when the result would not fit the context window.
    """
    length = len(prompt.token_ids)
    if length + count > model.cfg.n_ctx:
        raise PromptError(
            f"{count} generated tokens after a prompt of {length} exceed the context window of {model.cfg.n_ctx}; "
            "shorten the prompt or generate fewer."
        )
    return extended(model, prompt, continuation(model, prompt.token_ids, count))
