"""What really happens when a token's embedding is replaced: leave-one-out, whole or a part of the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lens_scopes.attribution.component_ablation import changed_final_states
from lens_scopes.attribution.prompt_position import PromptPosition
from lens_scopes.engine.final_state import FinalState
from lens_scopes.engine.model import ScopedModel
from lens_scopes.engine.sites import EMBEDDING
from lens_scopes.engine.token_ablation import text_mask, text_mean
from lens_scopes.prompts.read import read_prompt

CONTRACT = {
    "output explained": "the whole next-token distribution, after the last position",
    "eligible features": "the embeddings (hook_embed) of the prompt's tokens",
    "generative process": "the embedding of one token at a time is replaced by the mean embedding of the prompt's "
    "non-special tokens",
    "held fixed": "the weights, the other tokens' embeddings, the positions",
    "score attributed": "score_t = KL(p ‖ p with token t replaced), in nats; one forward pass a token",
}


def leave_one_out(model: Any, token_ids: Sequence[int], share: float = 1.0) -> list[float]:
    """KL(p ‖ p_t) in nats for each token t: p_t is the prediction with t's embedding moved by `share` of the way to the
    mean embedding of the prompt's non-special tokens."""
    before = final_state(model, token_ids)
    states = replaced_final_states(model, token_ids, range(len(token_ids)), share)
    return [before.divergence(FinalState(y, before.unembedding)) for y in states.to(before.y)]


def final_state(model: Any, token_ids: Sequence[int]) -> FinalState:
    """The final state after the last token."""
    scoped = ScopedModel.of(model)
    return FinalState(scoped.run_to_final_states([token_ids])[0], scoped.unembedding())


def replaced_final_states(model: Any, token_ids: Sequence[int], indices: Sequence[int], share: float = 1.0) -> Tensor:
    """y [index, d_model] after each token alone is moved towards the mean embedding of the non-special tokens."""
    averaged = text_mask([read_prompt(model, token_ids).special])

    def hooks(rows: Sequence[int]) -> list[tuple[str, Callable[[Tensor], Tensor]]]:
        def hook(embeddings: Tensor) -> Tensor:
            changed = embeddings.clone()
            mean = text_mean(embeddings[:1], averaged.to(embeddings.device))[0, 0].to(embeddings)
            for row, index in enumerate(rows):
                changed[row, index] = torch.lerp(embeddings[row, index], mean, share)
            return changed

        return [(EMBEDDING, hook)]

    scoped = ScopedModel.of(model)
    place = PromptPosition.read(scoped, token_ids, -1, None)
    return changed_final_states(scoped, place, indices, hooks)[:, 0]
