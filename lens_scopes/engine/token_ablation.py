"""Tokens taken away: what the prediction, or a whole answer's, becomes when the embeddings of chosen tokens are
replaced, or left out.

What a token is replaced by decides what the figures mean, so the ablation is part of every figure's name. Special
tokens (BOS) stay in place: without its attention sink a model is another model.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from einops import einsum
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lens_scopes.engine.ablations import find_ablation
from lens_scopes.engine.final_state import Unembedding, compute_dtype, kl_divergence, log_softmax
from lens_scopes.engine.model import Hook, ScopedModel
from lens_scopes.engine.prefix_cache import PromptPrefix
from lens_scopes.engine.sites import EMBEDDING
from lens_scopes.errors import EvaluationError, whole_number

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
        log_probability: log p(target) after the ablation, in nats; of an answer log P(answer | prompt).
        probability: p(target) after the ablation, or the answer's.
        logit: the target's logit after the ablation, or the sum of the answer's.
        divergence: KL(p ‖ p after the ablation), in nats; of an answer the sum over its predictions.
    """

    log_probability: Float[Tensor, " row"]
    probability: Float[Tensor, " row"]
    logit: Float[Tensor, " row"]
    divergence: Float[Tensor, " row"]


def check_available(model: ScopedModel, name: str, corpus: Corpus) -> None:
    """Raises EvaluationError for an ablation that is unknown, or that the tokenizer or an empty corpus cannot give."""
    ablation = find_ablation(name)
    if ablation.corpus == "required" and not corpus.token_ids:
        raise EvaluationError(
            f"ablation {name!r} is {ablation.help}, and there are none here; "
            "evaluate over a data set, or use 'mean' for the prompt's own mean."
        )
    if ablation.special_token and _token_id(model, name) is None:
        raise EvaluationError(
            f"ablation {name!r} needs a tokenizer with such a token, and this model's has none; "
            "choose another, such as zero or mean."
        )


def _beside(token_ids: Sequence[int], other: Sequence[int] | None) -> list[int]:
    """The other prompt's tokens.

    Raises:
        EvaluationError: where there is none, or one of another length.
    """
    if other is None:
        raise EvaluationError(
            "ablation 'prompt' replaces tokens by those of another prompt, and there is none here; in an evaluation "
            "give each passage one, else the prompt itself in place of the name."
        )
    if len(other) != len(token_ids):
        raise EvaluationError(f"the other prompt has {len(other)} tokens, and this one {len(token_ids)}.")
    return list(other)


def _token_id(model: ScopedModel, name: str) -> int | None:
    return getattr(model.tokenizer, f"{name}_token_id", None)


def check_draws(draws: int) -> int:
    """A number of draws; EvaluationError for one that is not a positive integer."""
    return whole_number(draws, "the number of draws of resampled tokens", EvaluationError, least=1, most=100_000)


class AblatedPrompt:
    """One prompt whose tokens can be ablated in any sets.

    Args:
        model: the model.
        token_ids: the prompt up to the position explained.
        special: which of its tokens are special; they are never ablated.
        target: the token whose log-probability is followed, or the tokens of an answer, which are read after the prompt
            (teacher forcing) and never ablated.
        ablation: a name of ABLATIONS.
        draws: how many random replacements are averaged, where the ablation is random.
        corpus: the tokens of other passages, for the ablations that use them.
        other: the tokens of another prompt, token by token beside this one, for the ablation that uses it.
        seed: of the draws; the global generator is not touched.
        clean_states: y of the predictions of the whole prompt, where they are known: it is not run again, nor its
            prefixes shared, which saves little where sets are large.

    Attributes:
        forwards: rows of forward passes run so far, that of the whole prompt included where it was run here.
        clean_log_probability: log p(target) of the whole prompt, in nats, or that of the answer.
        clean_logit: the target's logit there, or the sum of the answer's.

    Raises:
        EvaluationError: for an unknown ablation, one that the model's tokenizer or an empty corpus cannot give, and
            draws that are not a positive integer.
    """

    clean_log_probability: float
    clean_logit: float

    def __init__(
        self,
        model: ScopedModel,
        token_ids: Sequence[int],
        special: Sequence[bool],
        target: int | Sequence[int],
        ablation: str,
        *,
        draws: int = 4,
        corpus: Corpus | None = None,
        other: Sequence[int] | None = None,
        seed: int = 0,
        clean_states: Float[Tensor, "prediction d_model"] | None = None,
    ) -> None:
        corpus = corpus or Corpus()
        check_available(model, ablation, corpus)
        check_draws(draws)
        self.model = model
        self.token_ids = list(token_ids)
        self.eligible = [index for index, is_special in enumerate(special) if not is_special]
        self.targets = [target] if isinstance(target, int) else list(target)
        self._answer = self.targets[:-1]  # what the model reads of it
        self.ablation = find_ablation(ablation)
        self.other = _beside(self.token_ids, other) if self.ablation.other_prompt else None
        self._unembedding: Unembedding = model.unembedding()
        self.draws, self.corpus = draws, corpus
        self.generator = torch.Generator().manual_seed(seed)
        # What each position's embedding is replaced by, one row per draw; None where tokens are taken out.
        self._replacements: Tensor | None = self.ablation.replacements(self)
        # The whole prompt, once; where copies can start in its middle, so that its keys and values are at hand.
        self.forwards = int(clean_states is None)
        self._prefix: PromptPrefix | None = None
        if clean_states is None:
            whole = [*self.token_ids, *self._answer]
            if self._replacements is not None:
                self._prefix = PromptPrefix.start(model, whole, len(self.targets))
            clean_states = self._run_whole([whole])[0] if self._prefix is None else self._prefix.own_states
        self._clean_logits = self._unembedding.logits(clean_states)
        at_targets = range(len(self.targets)), self.targets
        self.clean_log_probability = float(log_softmax(self._clean_logits)[at_targets].double().sum())
        self.clean_logit = float(self._clean_logits[at_targets].double().sum())

    def embeddings(self) -> Float[Tensor, "pos d_model"]:
        """The embeddings of the prompt's own tokens."""
        return self.model.token_embeddings(self.token_ids)

    def outcomes(self, masks: Bool[Tensor, "row pos"], *, with_divergence: bool = True) -> Outcomes:
        """The prediction after ablating each set of tokens.

        Args:
            masks: True where a token is ablated; special tokens must be False.
            with_divergence: False where nobody reads it, since it takes longest of the four; it is then not a number.
        """
        draws = 1 if self._replacements is None else len(self._replacements)
        if self.other is not None:
            return self._outcomes_beside(masks, self.other, with_divergence)
        return self._outcomes(masks, draws, with_divergence)

    def _outcomes_beside(self, masks: Bool[Tensor, "row pos"], other: Sequence[int], with_divergence: bool) -> Outcomes:
        """Where the other prompt has the same token nothing is replaced, and a set of such tokens changes nothing."""
        differs = torch.tensor([mine != theirs for mine, theirs in zip(self.token_ids, other, strict=True)])
        masks = masks & differs
        changed = masks.any(1)
        log_probability = self.clean_log_probability
        clean = (log_probability, math.exp(log_probability), self.clean_logit, 0.0 if with_divergence else math.nan)
        values = torch.tensor(clean, dtype=torch.float64)[:, None].repeat(1, len(masks))
        after = self._outcomes(masks[changed], 1, with_divergence)
        values[:, changed] = torch.stack([after.log_probability, after.probability, after.logit, after.divergence])
        return Outcomes(*values)

    def _outcomes(self, masks: Bool[Tensor, "row pos"], draws: int, with_divergence: bool) -> Outcomes:
        totals = torch.zeros(4, len(masks), dtype=torch.float64)
        rows: list[int] = []
        states: list[Tensor] = []
        for some_rows, some_states in self._final_states(masks):
            rows += some_rows
            states.append(some_states)
        if states:
            totals.index_add_(1, torch.tensor(rows), self._measure_rows(torch.cat(states), with_divergence) / draws)
        log_probability, probability, logit, divergence = totals
        return Outcomes(log_probability, probability, logit, divergence)

    def leave_one_out(self) -> Outcomes:
        """Each eligible token ablated alone, in their order."""
        return self.outcomes(self.masks([[index] for index in self.eligible]))

    def masks(self, sets: Sequence[Sequence[int]]) -> Bool[Tensor, "row pos"]:
        """Masks of sets of tokens."""
        masks = torch.zeros(len(sets), len(self.token_ids), dtype=torch.bool)
        for row, tokens in enumerate(sets):
            masks[row, list(tokens)] = True
        return masks

    def _measure_rows(
        self, states: Float[Tensor, "row prediction d_model"], with_divergence: bool = True
    ) -> Float[Tensor, "4 row"]:
        """Log-probability, probability, logit and divergence, those of an answer's predictions put together."""
        shape = states.shape[:2]
        predictions = torch.arange(shape[1]).repeat(shape[0])
        # Logits of many rows at a time: W_U is read once for all of them.
        parts = zip(states.flatten(0, 1).split(_ROWS_AT_ONCE), predictions.split(_ROWS_AT_ONCE), strict=True)
        by_prediction = torch.cat([self._measure_predictions(*part, with_divergence) for part in parts], dim=1)
        log_probability, logit, divergence = by_prediction.unflatten(1, shape).sum(2)
        return torch.stack([log_probability, log_probability.exp(), logit, divergence])

    def _measure_predictions(
        self, states: Float[Tensor, "row d_model"], predictions: Int[Tensor, " row"], with_divergence: bool
    ) -> Float[Tensor, "3 row"]:
        """Log-probability, logit and divergence of single predictions of the answer."""
        logits = self._unembedding.logits(states)
        at_targets = range(len(states)), [self.targets[prediction] for prediction in predictions.tolist()]
        values = [log_softmax(logits)[at_targets].double(), logits[at_targets].double()]
        if with_divergence:
            # In float64, so a few rows at a time.
            pairs = zip(predictions.split(_DIVERGENCE_ROWS), logits.split(_DIVERGENCE_ROWS), strict=True)
            values.append(torch.cat([kl_divergence(self._clean_logits[which], part) for which, part in pairs]))
        else:
            values.append(torch.full_like(values[0], torch.nan))
        return torch.stack(values).cpu()

    def _final_states(
        self, masks: Bool[Tensor, "row pos"]
    ) -> Iterator[tuple[list[int], Float[Tensor, "n prediction d_model"]]]:
        """Final states with the rows of `masks` they belong to, several of one row for several draws."""
        length = len(self.token_ids) + len(self._answer)
        if self._replacements is None:
            # Tokens are taken out: the longest rows first, so that those of a batch are padded little.
            shorter = [
                [token for token, is_ablated in zip(self.token_ids, mask, strict=True) if not is_ablated]
                for mask in masks
            ]
            order = sorted(range(len(shorter)), key=lambda row: -len(shorter[row]))
            step = max(1, _TOKENS_AT_ONCE // length)
            for start in range(0, len(order), step):
                rows = order[start : start + step]
                self.forwards += len(rows)
                yield rows, self._run_whole([[*shorter[row], *self._answer] for row in rows])
            return
        # Tokens are replaced: rows by their first ablated token, so that those of a batch share a long prefix.
        copies = [(row, draw) for row in range(len(masks)) for draw in range(len(self._replacements))]
        firsts = [int(mask.nonzero()[0]) if bool(mask.any()) else len(self.token_ids) - 1 for mask in masks]
        copies.sort(key=lambda copy: firsts[copy[0]])
        while copies:
            first = firsts[copies[0][0]] if self._prefix is not None else 0
            step = max(1, _TOKENS_AT_ONCE // (length - first))
            part, copies = copies[:step], copies[step:]
            rows = [row for row, _ in part]
            self.forwards += len(part)
            yield rows, self._run(first, masks[rows], self._replacements[[draw for _, draw in part]])

    def _run(
        self, first: int, masks: Bool[Tensor, "n pos"], replacements: Float[Tensor, "n pos d_model"]
    ) -> Float[Tensor, "n prediction d_model"]:
        def replace(embedding: Tensor) -> Tensor:
            is_ablated = masks[:, first:, None].to(embedding.device)
            prompt_part, answer_part = embedding.tensor_split([is_ablated.shape[1]], dim=1)
            return torch.cat(
                [torch.where(is_ablated, replacements[:, first:].to(embedding), prompt_part), answer_part], dim=1
            )

        hooks: list[tuple[str, Hook]] = [(EMBEDDING, replace)]
        if self._prefix is not None and first > 0:
            return self._prefix.final_states(first, len(masks), hooks)
        return self._run_whole([[*self.token_ids, *self._answer]] * len(masks), hooks)

    def _run_whole(
        self, sequences: Sequence[Sequence[int]], hooks: Sequence[tuple[str, Hook]] = ()
    ) -> Float[Tensor, "n prediction d_model"]:
        """y of every prediction of the target or the answer, whose tokens but the last end each sequence."""
        count = len(self.targets)
        reads = [(row, len(ids) - count + index) for row, ids in enumerate(sequences) for index in range(count)]
        return self.model.run_to_final_states(sequences, hooks, reads).unflatten(0, (len(sequences), count))


# What "mean" means wherever a baseline, an ablation or a path's start is called so: the mean of an activation over the
# prompt's non-special tokens. Special tokens (BOS) are attention sinks, whose activations are unlike all others.


def text_tokens(special: Sequence[bool]) -> list[bool]:
    """Marks the tokens that "mean" averages: those that are not special; all of them in a prompt of special ones."""
    return [not item for item in special] if not all(special) else [True] * len(special)


def text_mask(specials: Sequence[Sequence[bool]]) -> Bool[Tensor, "batch pos"]:
    """`text_tokens` of every prompt of a batch that is padded on the right; padding is False."""
    rows = [text_tokens(special) for special in specials]
    longest = max(map(len, rows))
    return torch.tensor([row + [False] * (longest - len(row)) for row in rows])


def text_mean(
    values: Float[Tensor, "batch pos *inner"], averaged: Bool[Tensor, "batch pos"]
) -> Float[Tensor, "batch 1 *inner"]:
    """x̄ = Σ_t m_t x_t / Σ_t m_t for the marked tokens, in the compute dtype.

    Args:
        values: an activation, or the embeddings.
        averaged: m_t, as `text_mask` gives it.
    """
    values = values.to(compute_dtype(values.dtype))
    weights = averaged.to(values) / averaged.to(values).sum(1, keepdim=True)
    return einsum(weights, values, "batch pos, batch pos ... -> batch ...")[:, None]


# The functions of ABLATIONS: what each position's embedding is replaced by


def zero_vectors(prompt: AblatedPrompt) -> Float[Tensor, "1 pos d_model"]:
    return torch.zeros_like(prompt.embeddings())[None]


def special_token(prompt: AblatedPrompt) -> Float[Tensor, "1 pos d_model"]:
    token_id = _token_id(prompt.model, prompt.ablation.name)
    assert token_id is not None
    embeddings = prompt.embeddings()
    return prompt.model.token_embeddings([token_id])[0].expand_as(embeddings)[None]


def prompt_mean(prompt: AblatedPrompt) -> Float[Tensor, "1 pos d_model"]:
    embeddings = prompt.embeddings()
    if not prompt.eligible:  # nothing is ever replaced
        return embeddings[None]
    averaged = torch.zeros(1, len(embeddings), dtype=torch.bool, device=embeddings.device)
    averaged[0, prompt.eligible] = True
    return text_mean(embeddings[None], averaged).to(embeddings).expand_as(embeddings[None])


def corpus_mean(prompt: AblatedPrompt) -> Float[Tensor, "1 pos d_model"]:
    # Each different token is embedded once and weighted by how often it occurs.
    unique, counts = torch.tensor(prompt.corpus.token_ids).unique(return_counts=True)
    vectors = prompt.model.token_embeddings(unique.tolist()).double()
    mean = (vectors * counts[:, None].to(vectors)).sum(0) / counts.sum()
    embeddings = prompt.embeddings()
    return mean.to(embeddings).expand_as(embeddings)[None]


def other_tokens(prompt: AblatedPrompt) -> Float[Tensor, "1 pos d_model"]:
    assert prompt.other is not None
    return prompt.model.token_embeddings(prompt.other)[None]


def resampled_tokens(prompt: AblatedPrompt) -> Float[Tensor, "draw pos d_model"]:
    pool = torch.tensor(prompt.corpus.token_ids or [prompt.token_ids[index] for index in prompt.eligible])
    if not len(pool):  # nothing is ever replaced
        return prompt.embeddings()[None]
    tokens = pool[torch.randint(len(pool), (prompt.draws, len(prompt.token_ids)), generator=prompt.generator)]
    # Each different token is embedded once, however often it is drawn.
    unique, places = tokens.unique(return_inverse=True)
    return prompt.model.token_embeddings(unique.tolist())[places]
