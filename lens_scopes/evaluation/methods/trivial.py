"""Trivial scores, which know little or nothing of the model: what a scope must beat before its agreement means much."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.final_state import FinalState, log_softmax
from lens_scopes.engine.model import Batch, ScopedModel
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.scopes.comparisons.baseline import Baseline

_ROWS_AT_ONCE = 64  # rows of logits held at a time


@dataclass(frozen=True)
class Closeness(Baseline):
    """Closeness to the end: score_t = t + 1, counted from the first token."""

    scope: ClassVar[str] = "closeness"
    output: ClassVar[str] = "nothing: the place of the token"
    equation: ClassVar[str] = "score_t = t + 1"
    process: ClassVar[str] = "none"
    held: ClassVar[str] = "nothing"

    def scores(self, model: ScopedModel, prompt: Prompt, states: Sequence[FinalState]) -> Float[Tensor, " pos"]:
        return torch.arange(1, len(prompt) + 1).to(states[0].y.dtype)


@dataclass(frozen=True)
class EmbeddingNorm(Baseline):
    """The size of the token's embedding: score_t = ‖x_t‖₂."""

    scope: ClassVar[str] = "embedding-norm"
    output: ClassVar[str] = "nothing: the size of the embedding"
    equation: ClassVar[str] = "score_t = ‖x_t‖₂"
    process: ClassVar[str] = "none"
    held: ClassVar[str] = "nothing"

    def scores(self, model: ScopedModel, prompt: Prompt, states: Sequence[FinalState]) -> Float[Tensor, " pos"]:
        return model.token_embeddings(prompt.token_ids).to(states[0].y.dtype).norm(dim=-1).cpu()


@dataclass(frozen=True)
class Surprisal(Baseline):
    """How little the model expected the token: score_t = −log p(x_t | x_<t), nats.

    The first token, which nothing predicts, gets log d_vocab.
    """

    scope: ClassVar[str] = "surprisal"
    output: ClassVar[str] = "the token itself, given those before it"
    equation: ClassVar[str] = "score_t = −log p(x_t | x_<t)"
    process: ClassVar[str] = "none"
    held: ClassVar[str] = "nothing"

    def scores(self, model: ScopedModel, prompt: Prompt, states: Sequence[FinalState]) -> Float[Tensor, " pos"]:
        token_ids, state, last = prompt.token_ids, states[0], len(prompt) - 1
        surprisals = [torch.tensor([math.log(model.cfg.d_vocab)], dtype=state.y.dtype)]
        if last:
            with torch.no_grad():
                ys = model.final_states(Batch.of(model, [token_ids], [(0, place) for place in range(last)]))
                for start in range(0, last, _ROWS_AT_ONCE):
                    logits = state.unembedding.logits(ys[start : start + _ROWS_AT_ONCE])
                    nexts = torch.tensor(token_ids[start + 1 : start + 1 + len(logits)], device=logits.device)
                    log_probabilities = log_softmax(logits).gather(1, nexts[:, None])[:, 0]
                    surprisals.append(-log_probabilities.to(state.y.dtype).cpu())
        return torch.cat(surprisals)


TRIVIAL = (Closeness, EmbeddingNorm, Surprisal)
