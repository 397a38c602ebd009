"""How well scores of segments foretell what leaving segments out does to a prediction or an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lens_scopes.engine.model import ModelLike, ScopedModel, one_at_a_time
from lens_scopes.engine.token_ablation import AblatedPrompt
from lens_scopes.errors import EvaluationError, PromptError, check_seed, whole_number
from lens_scopes.evaluation.metrics.ablation_cache import AblationCache, ranking
from lens_scopes.evaluation.metrics.agreement import correlation
from lens_scopes.evaluation.metrics.scored_prompt import MetricValue, ScoredPrompt
from lens_scopes.evaluation.metrics.table import TOP_SEGMENTS, Metric
from lens_scopes.prompts.answer import tokenize_answer
from lens_scopes.prompts.groups import segments
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.prompts.read import PromptLike, read_prompt
from lens_scopes.prompts.spans import SpanLike
from lens_scopes.results.storage.writing import data_frame
from lens_scopes.scopes.comparisons.ablation_method import check_unit
from lens_scopes.scopes.comparisons.context_cite import logit, random_subsets

if TYPE_CHECKING:
    import pandas

_ABLATIONS = 64
_MAX_ABLATIONS = 1_000_000
_SEED_OFFSET = 0x9E3779B9  # from the seeds of methods that draw such ablations; generators read 32 bits


def datamodelling_score(scored: ScoredPrompt, metric: Metric) -> list[MetricValue]:
    """Spearman's ρ, over 64 random ablations that keep each segment with probability ½, between the summed scores of
    the segments kept and log p − log(1 − p) of the probability p of the prediction or answer.

    The same ablations judge all methods of a passage; methods that draw ablations themselves draw others.
    """
    try:
        parts = _Parts.of(scored.prompt, scored.by, scored.within)
    except PromptError as error:
        return [MetricValue(metric.name, float("nan"), note=str(error))]
    subsets = random_subsets(_ABLATIONS, parts.count, scored.seed + _SEED_OFFSET, with_empty=any(scored.prompt.special))
    value, note = _forecast_quality(
        subsets, parts.totals(scored.method_scores.scores), parts.log_probabilities(scored.cache, subsets)
    )
    return [MetricValue(metric.name, value, note=note)]


def top_drops(scored: ScoredPrompt, metric: Metric) -> list[MetricValue]:
    """log p − log p without the k segments of largest score, k = 1, 3 and 5; NaN where no segment would be left."""
    try:
        parts = _Parts.of(scored.prompt, scored.by, scored.within)
    except PromptError as error:
        return [MetricValue(quantity.name, float("nan"), note=str(error)) for quantity in metric.quantities]
    possible = [k for k in TOP_SEGMENTS if k < parts.count]
    subsets = parts.without_top(ranking(parts.totals(scored.method_scores.scores)), possible)
    falls = scored.cache.clean_log_probability - parts.log_probabilities(scored.cache, subsets)
    fall_at = dict(zip(possible, falls.tolist(), strict=True))
    return [
        MetricValue(quantity.name, fall_at[k])
        if k in fall_at
        else MetricValue(quantity.name, float("nan"), note=f"the passage has {parts.count} segments")
        for quantity, k in zip(metric.quantities, TOP_SEGMENTS, strict=True)
    ]


@dataclass(frozen=True)
class _Parts:
    """The segments of a prompt that can be left out.

    Attributes:
        own: which tokens are each one's.
    """

    members: Bool[Tensor, "segment pos"]

    @classmethod
    def of(cls, prompt: Prompt, by: str, within: SpanLike | None = None) -> _Parts:
        """Raises PromptError for a prompt without several of them."""
        parts = segments(prompt, by, within)
        members = torch.zeros(len(parts), len(prompt), dtype=torch.bool)
        for row, tokens in zip(members, parts, strict=True):
            row[list(tokens)] = True
        return cls(members)

    @property
    def count(self) -> int:
        return len(self.members)

    def totals(self, scores: Float[Tensor, " pos"]) -> Float[Tensor, " segment"]:
        """The sums of the segments' scores."""
        return self.members.double() @ scores.double().cpu()

    def without_top(self, order: Sequence[int], counts: Sequence[int]) -> Bool[Tensor, "row segment"]:
        """Which segments are kept where the first ones of an order are left out, a row for each number of them."""
        subsets = torch.ones(len(counts), self.count, dtype=torch.bool)
        for row, count in zip(subsets, counts, strict=True):
            row[list(order[:count])] = False
        return subsets

    def log_probabilities(
        self, outcomes: AblationCache | AblatedPrompt, subsets: Bool[Tensor, "row segment"]
    ) -> Float[Tensor, " row"]:
        """log p with the segments kept."""
        # The tokens of segments that are left out; those of no segment stay.
        masks = (~subsets).float() @ self.members.float() > 0
        if isinstance(outcomes, AblationCache):
            return outcomes.outcomes(masks).log_probability
        return outcomes.outcomes(masks, with_divergence=False).log_probability


def _check_scores(scores: Any, n_tokens: int) -> dict[str, Float[Tensor, " pos"]]:
    """The scores of each method as tensors.

    Raises:
        EvaluationError: for what is no scores by name, one finite number for each token.
    """
    if not isinstance(scores, Mapping) or not scores:
        raise EvaluationError(f"scores are those of each method by its name; got {type(scores).__name__}.")
    tensors = {}
    for name, values in scores.items():
        try:
            tensor = torch.as_tensor(values, dtype=torch.float64, device="cpu")
        except (TypeError, ValueError, RuntimeError) as error:
            raise EvaluationError(f"the scores of {str(name)[:60]!r} are no numbers ({error}).") from error
        if tensor.shape != (n_tokens,):
            counts = "×".join(map(str, tensor.shape)) or "no list of"
            raise EvaluationError(f"{str(name)[:60]!r} scores {counts} tokens; the prompt has {n_tokens}.")
        if not bool(tensor.isfinite().all()):
            raise EvaluationError(f"the scores of {str(name)[:60]!r} are not all finite.")
        tensors[str(name)] = tensor
    return tensors


def _forecast_quality(
    subsets: Bool[Tensor, "row segment"], totals: Float[Tensor, " segment"], log_probability: Float[Tensor, " row"]
) -> tuple[float, str | None]:
    return correlation(subsets.double() @ totals, logit(log_probability))


@one_at_a_time
def segment_agreement(
    model: ModelLike,
    prompt: PromptLike,
    answer: str | Sequence[int],
    scores: Mapping[str, Float[Tensor, " pos"]],
    *,
    by: str = "sentence",
    within: SpanLike | None = None,
    ablation: str = "remove",
    ablations: int = 64,
    top: Sequence[int] = (1, 3, 5),
    seed: int = 1,
) -> pandas.DataFrame:
    """The linear datamodelling score and the top-k log-probability drop of each method's scores.

    - "lds": Spearman's ρ, over random ablations that keep each segment with probability ½, between the summed scores
      of the segments kept and log p − log(1 − p) of the answer's probability p;
    - "top-k-drop": log P(answer | prompt) − log P(answer | prompt without the k segments of largest score), in nats;
      with fewer than k + 1 segments there is none.

    The ablations run once for all methods. Their seed must differ from that of a method which draws such ablations.

    Args:
        model: the model.
        prompt: the prompt whose segments are scored, as for `attribute`.
        answer: the answer, as a text or as token ids.
        scores: those of each method, one a token of the prompt; a segment's is the sum of its tokens'.
        by, within, ablation: as for `ContextCite`.
        ablations: how many random ablations are run.
        top: the k of the drops.
        seed: of the random ablations.

    Returns:
        One row for each method and metric: method, metric, value.

    Raises:
        PromptError: for a prompt without several segments, and for what is no prompt or answer.
        EvaluationError: for scores of another number of tokens or that are not finite, counts out of bounds, and an
            ablation as for `ContextCite`.

    Example:
        >>> prompt = ls.read_prompt(model, "The capital of France is Paris. The capital of Italy is")
        >>> att = ls.attribute(model, prompt, ls.LogProb(), answer=" Rome.")
        >>> judged = ls.segment_agreement(model, prompt, att.answer.token_ids, {"logprob": att.scores}, ablations=8)
        >>> judged["metric"].tolist()
        ['lds', 'top-1-drop']

    Source: ContextCite, arXiv:2409.00729.
    """
    scoped = ScopedModel.of(model)
    prompt = read_prompt(scoped, prompt)
    ids = tokenize_answer(scoped, prompt, answer).token_ids
    scores = _check_scores(scores, len(prompt))
    check_unit(by)
    seed = check_seed(seed)
    ablations = whole_number(ablations, "the number of ablations", EvaluationError, least=2, most=_MAX_ABLATIONS)
    if isinstance(top, str) or not isinstance(top, Sequence):
        raise EvaluationError(f"top is a list of numbers of segments; got {type(top).__name__}.")
    top = [whole_number(k, "a number of segments", EvaluationError, least=1) for k in top]
    parts = _Parts.of(prompt, by, within)
    ablated_prompt = AblatedPrompt(scoped, prompt.token_ids, prompt.special, ids, ablation, draws=1, seed=seed)
    totals = {name: parts.totals(values) for name, values in scores.items()}
    # All random and all top-k ablations run together; equal sets run once.
    subsets = random_subsets(ablations, parts.count, seed, with_empty=any(prompt.special))
    possible = [k for k in top if k < parts.count]
    top_subsets = [parts.without_top(ranking(values), possible) for values in totals.values()]
    sets, places = torch.cat([subsets, *top_subsets]).unique(dim=0, return_inverse=True)
    after = parts.log_probabilities(ablated_prompt, sets)[places]
    # What the scores foretell of the random ones, and what each top-k one took away.
    rows = [(name, "lds", _forecast_quality(subsets, values, after[:ablations])[0]) for name, values in totals.items()]
    falls = ablated_prompt.clean_log_probability - after[ablations:]
    drops = [(name, f"top-{k}-drop") for name in scores for k in possible]
    rows += [(*drop, float(fall)) for drop, fall in zip(drops, falls, strict=True)]
    return data_frame(rows, columns=["method", "metric", "value"])
