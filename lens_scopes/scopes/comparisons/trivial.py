"""Trivial scores, which know little or nothing of the model: what a scope must beat before its agreement means much."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.final_state import FinalState, log_softmax
from lens_scopes.engine.model import Batch, ScopedModel
from lens_scopes.errors import check_seed
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.scopes.comparisons.baseline import Baseline

_ROWS_AT_ONCE = 64  # rows of logits held at a time


class Trivial(Baseline):
    """Base of scores that no generative process stands behind, and that run no model unless they say so."""

    process: ClassVar[str] = "none"
    held: ClassVar[str] = "nothing"

    def forwards(self, prompt: Prompt) -> int:
        return 0


@dataclass(frozen=True)
class RandomScores(Trivial):
    """Scores drawn evenly from [0, 1): what chance gives. Other prompts get other draws.

    Args:
        seed: of the draws; the global generator is not touched.

    Example:
        >>> prompt = "The capital of France is"
        >>> first, again = (ls.attribute(model, prompt, ls.RandomScores(seed=7)).scores for _ in range(2))
        >>> torch.equal(first, again)
        True
    """

    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", check_seed(self.seed))

    scope: ClassVar[str] = "random"
    output: ClassVar[str] = "nothing: chance"
    equation: ClassVar[str] = "score_t ~ U[0, 1)"

    def scores(self, model: ScopedModel, prompt: Prompt, states: Sequence[FinalState]) -> Float[Tensor, " pos"]:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed}:{list(prompt.token_ids)}".encode()))
        return torch.rand(len(prompt), generator=generator, dtype=torch.float32).to(states[0].y.dtype)


@dataclass(frozen=True)
class Closeness(Trivial):
    """Closeness to the end: score_t = t + 1, counted from the first token.

    Example:
        >>> ls.attribute(model, "The capital of France is", ls.Closeness()).scores.tolist()
        [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    """

    scope: ClassVar[str] = "closeness"
    output: ClassVar[str] = "nothing: the place of the token"
    equation: ClassVar[str] = "score_t = t + 1"

    def scores(self, model: ScopedModel, prompt: Prompt, states: Sequence[FinalState]) -> Float[Tensor, " pos"]:
        return torch.arange(1, len(prompt) + 1).to(states[0].y.dtype)


@dataclass(frozen=True)
class EmbeddingNorm(Trivial):
    """The size of the token's embedding: score_t = ‖x_t‖₂.

    Example:
        >>> ls.attribute(model, "The capital of France is", ls.EmbeddingNorm()).scores.shape
        torch.Size([6])
    """

    scope: ClassVar[str] = "embedding-norm"
    output: ClassVar[str] = "nothing: the size of the embedding"
    equation: ClassVar[str] = "score_t = ‖x_t‖₂"

    def scores(self, model: ScopedModel, prompt: Prompt, states: Sequence[FinalState]) -> Float[Tensor, " pos"]:
        return model.token_embeddings(prompt.token_ids).to(states[0].y.dtype).norm(dim=-1).cpu()


@dataclass(frozen=True)
class Surprisal(Trivial):
    """How little the model expected the token: score_t = −log p(x_t | x_<t), nats.

    The first token, which nothing predicts, gets log d_vocab.

    Example:
        >>> bool((ls.attribute(model, "The capital of France is", ls.Surprisal()).scores >= 0).all())
        True
    """

    scope: ClassVar[str] = "surprisal"
    output: ClassVar[str] = "the token itself, given those before it"
    equation: ClassVar[str] = "score_t = −log p(x_t | x_<t)"

    def forwards(self, prompt: Prompt) -> int:
        return 1

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
