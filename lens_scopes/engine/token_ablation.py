"""Tokens taken away: what the prediction becomes when the embeddings of chosen tokens are replaced, or left out.

What a token is replaced by decides what the figures mean, so the ablation is part of every figure's name. Special
tokens (BOS) stay in place: without its attention sink a model is another model.
"""

from __future__ import annotations

import difflib
import hashlib
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_scopes.engine.final_state import Unembedding, kl_divergence, log_softmax, unembedding
from lens_scopes.engine.forward import Hook, run_to_final_state, token_embeddings
from lens_scopes.engine.prefix_cache import Prefixed
from lens_scopes.engine.sites import EMBEDDING
from lens_scopes.engine.text_mean import text_mean
from lens_scopes.errors import EvaluationError

ABLATIONS = {
    "zero": "the zero vector",
    "pad": "the embedding of the padding token",
    "eos": "the embedding of the end-of-text token",
    "bos": "the embedding of the begin-of-text token",
    "mean": "the mean embedding of the prompt's non-special tokens",
    "corpus-mean": "the mean embedding of the tokens of all passages",
    "resample": "the embeddings of tokens drawn from all passages (from the prompt itself where there are no others)",
    "remove": "nothing: the token is taken out and later ones move up",
}

_TOKENS = ("pad", "eos", "bos")  # ablations by a token that the tokenizer may lack
_TOKENS_AT_ONCE = 1024  # more fill the cores no better, and smaller batches share longer prefixes
_ROWS_AT_ONCE = 64  # rows of logits held at a time
_DIVERGENCE_ROWS = 4  # rows of them compared at a time


@dataclass(frozen=True)
class Corpus:
    """What other passages say about the tokens a prompt might have held.

    Attributes:
        token_ids: the tokens of all passages, special ones left out.
    """

    token_ids: tuple[int, ...] = ()

    def digest(self) -> str:
        """SHA-256 of the tokens."""
        return hashlib.sha256(array("q", self.token_ids).tobytes()).hexdigest()


@dataclass(frozen=True)
class Outcomes:
    """What the prediction becomes, one entry a set of ablated tokens, averaged over the ablation's draws.

    Attributes:
        log_probability: log p(target) after the ablation, in nats.
        probability: p(target) after the ablation.
        logit: the target's logit after the ablation.
        divergence: KL(p ‖ p after the ablation), in nats.
    """

    log_probability: Float[Tensor, " row"]
    probability: Float[Tensor, " row"]
    logit: Float[Tensor, " row"]
    divergence: Float[Tensor, " row"]


def check_ablation(name: str) -> None:
    """Raises EvaluationError for an unknown ablation, with near names."""
    if name not in ABLATIONS:
        near = difflib.get_close_matches(str(name), ABLATIONS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise EvaluationError(f"unknown ablation {name!r}{hint} (expected one of {', '.join(ABLATIONS)}).")


def check_available(model: Any, name: str, corpus: Corpus) -> None:
    """Raises EvaluationError for an ablation that is unknown, or that the tokenizer or an empty corpus cannot give."""
    check_ablation(name)
    if name == "corpus-mean" and not corpus.token_ids:
        raise EvaluationError(
            "ablation 'corpus-mean' is the mean over other passages, and there are none here; "
            "evaluate over a data set, or use 'mean' for the prompt's own mean."
        )
    if name in _TOKENS and _token_id(model, name) is None:
        raise EvaluationError(
            f"ablation {name!r} needs a tokenizer with such a token, and this model's has none; "
            "choose another, such as zero or mean."
        )


def _token_id(model: Any, name: str) -> int | None:
    return getattr(model.tokenizer, f"{name}_token_id", None)


def check_draws(draws: int) -> None:
    """Raises EvaluationError for a number of draws that is not a positive integer."""
    if not isinstance(draws, int) or isinstance(draws, bool) or draws < 1:
        raise EvaluationError(f"resampled tokens need at least one draw, a whole number of them; got {draws!r}.")


class AblatedPrompt:
    """One prompt whose tokens can be ablated in any sets.

    Args:
        model: a HookedTransformer or TransformerBridge.
        token_ids: the prompt up to the position explained.
        special: which of its tokens are special; they are never ablated.
        target: the token whose log-probability is followed.
        ablation: one of ABLATIONS.
        draws: how many random replacements "resample" averages over.
        corpus: for "corpus-mean" and "resample".
        seed: of the draws; the global generator is not touched.

    Attributes:
        forwards: rows of forward passes run so far, the one of the whole prompt included.
        clean: log p of the whole prompt's prediction, in nats.
        clean_logit: the target's logit there.

    Raises:
        EvaluationError: for an unknown ablation, one that the model's tokenizer or an empty corpus cannot give, and
            draws that are not a positive integer.
    """

    clean: Float[Tensor, " d_vocab"]
    clean_logit: float

    def __init__(
        self,
        model: Any,
        token_ids: Sequence[int],
        special: Sequence[bool],
        target: int,
        ablation: str,
        *,
        draws: int = 4,
        corpus: Corpus | None = None,
        seed: int = 0,
    ) -> None:
        corpus = corpus or Corpus()
        check_available(model, ablation, corpus)
        check_draws(draws)
        self.model = model
        self.token_ids = list(token_ids)
        self.eligible = [index for index, is_special in enumerate(special) if not is_special]
        self.target = target
        self.ablation = ablation
        self._unembedding: Unembedding = unembedding(model)
        generator = torch.Generator().manual_seed(seed)
        self._replacements = self._replacement_embeddings(draws, corpus, generator)
        shares_prefix = self._replacements is not None and Prefixed.possible(model)
        self._prefixed = Prefixed(model, self.token_ids) if shares_prefix else None
        self.forwards = 1
        unchanged = (
            run_to_final_state(model, [self.token_ids]) if self._prefixed is None else self._prefixed.final_state
        )
        clean = self._unembedding.logits(unchanged)[0]
        self._clean_logits = clean
        self.clean = log_softmax(clean)
        self.clean_logit = float(clean[target])

    def outcomes(self, masks: Bool[Tensor, "row pos"]) -> Outcomes:
        """The prediction after ablating each set of tokens.

        Args:
            masks: True where a token is ablated; special tokens must be False.
        """
        draws = 1 if self._replacements is None else len(self._replacements)
        totals = torch.zeros(4, len(masks), dtype=torch.float64)
        rows: list[int] = []
        states: list[Tensor] = []
        for some_rows, some_states in self._final_states(masks):
            rows += some_rows
            states.append(some_states)
        # Logits of many rows at a time: W_U is read once for all of them.
        for start, part in enumerate(torch.cat(states).split(_ROWS_AT_ONCE) if states else ()):
            own = rows[start * _ROWS_AT_ONCE : start * _ROWS_AT_ONCE + len(part)]
            totals.index_add_(1, torch.tensor(own), self._measures(part) / draws)
        log_probability, probability, logit, divergence = totals
        return Outcomes(log_probability, probability, logit, divergence)

    def leave_one_out(self) -> Outcomes:
        """Each eligible token ablated alone, in their order."""
        masks = torch.zeros(len(self.eligible), len(self.token_ids), dtype=torch.bool)
        masks[range(len(self.eligible)), self.eligible] = True
        return self.outcomes(masks)

    def _measures(self, states: Float[Tensor, "row d_model"]) -> Float[Tensor, "4 row"]:
        logits = self._unembedding.logits(states)
        target = log_softmax(logits)[:, self.target].double()
        # In float64, so a few rows at a time.
        divergence = torch.cat([kl_divergence(self._clean_logits, part) for part in logits.split(_DIVERGENCE_ROWS)])
        measures = torch.stack([target, target.exp(), logits[:, self.target].double()])
        return torch.cat([measures, divergence[None]]).cpu()

    def _final_states(self, masks: Bool[Tensor, "row pos"]) -> Iterator[tuple[list[int], Float[Tensor, "n d_model"]]]:
        """Final states with the rows of `masks` they belong to, several of one row for several draws."""
        if self._replacements is None:
            kept = [[token for token, gone in zip(self.token_ids, mask, strict=True) if not gone] for mask in masks]
            order = sorted(range(len(kept)), key=lambda row: -len(kept[row]))
            step = max(1, _TOKENS_AT_ONCE // len(self.token_ids))
            for start in range(0, len(order), step):
                rows = order[start : start + step]
                self.forwards += len(rows)
                yield rows, run_to_final_state(self.model, [kept[row] for row in rows])
            return
        copies = [(row, draw) for row in range(len(masks)) for draw in range(len(self._replacements))]
        firsts = [int(mask.nonzero()[0]) if bool(mask.any()) else len(self.token_ids) - 1 for mask in masks]
        copies.sort(key=lambda copy: firsts[copy[0]])
        while copies:
            first = firsts[copies[0][0]] if self._prefixed is not None else 0
            step = max(1, _TOKENS_AT_ONCE // (len(self.token_ids) - first))
            part, copies = copies[:step], copies[step:]
            rows = [row for row, _ in part]
            self.forwards += len(part)
            yield rows, self._run(first, masks[rows], self._replacements[[draw for _, draw in part]])

    def _run(
        self, first: int, masks: Bool[Tensor, "n pos"], replacements: Float[Tensor, "n pos d_model"]
    ) -> Float[Tensor, "n d_model"]:
        def replace(embedding: Tensor) -> Tensor:
            chosen = masks[:, first:, None].to(embedding.device)
            return torch.where(chosen, replacements[:, first:].to(embedding), embedding)

        hooks: list[tuple[str, Hook]] = [(EMBEDDING, replace)]
        if self._prefixed is not None and first > 0:
            return self._prefixed.final_states(first, len(masks), hooks)
        return run_to_final_state(self.model, [self.token_ids] * len(masks), hooks)

    def _replacement_embeddings(
        self, draws: int, corpus: Corpus, generator: torch.Generator
    ) -> Float[Tensor, "draw pos d_model"] | None:
        """What each position's embedding is replaced by; None where tokens are removed."""
        if self.ablation == "remove":
            return None
        own = token_embeddings(self.model, self.token_ids)
        if self.ablation == "zero":
            return torch.zeros_like(own)[None]
        if not self.eligible:  # nothing is ever replaced
            return own[None]
        if self.ablation == "mean":
            averaged = torch.zeros(1, len(own), dtype=torch.bool, device=own.device)
            averaged[0, self.eligible] = True
            return text_mean(own[None], averaged).to(own).expand_as(own[None])
        if self.ablation == "corpus-mean":
            return self._corpus_mean(corpus).to(own).expand_as(own)[None]
        if self.ablation == "resample":
            pool = torch.tensor(corpus.token_ids or [self.token_ids[index] for index in self.eligible])
            drawn = pool[torch.randint(len(pool), (draws, len(self.token_ids)), generator=generator)]
            unique, places = drawn.unique(return_inverse=True)
            return token_embeddings(self.model, unique.tolist())[places]
        token_id = _token_id(self.model, self.ablation)
        assert token_id is not None
        return token_embeddings(self.model, [token_id])[0].expand_as(own)[None]

    def _corpus_mean(self, corpus: Corpus) -> Float[Tensor, " d_model"]:
        unique, counts = torch.tensor(corpus.token_ids).unique(return_counts=True)
        vectors = token_embeddings(self.model, unique.tolist()).double()
        return (vectors * counts[:, None].to(vectors)).sum(0) / counts.sum()
