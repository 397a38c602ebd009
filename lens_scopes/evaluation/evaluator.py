"""Measures every method × metric × ablation on one passage.

What is explained, and every other convention, is the protocol's (`evaluation/protocol.py`): unless another is asked
for, the model's own top token. Whether that token is the passage's true next one is kept beside each number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

import torch

from lens_scopes.engine.ablations import ABLATIONS
from lens_scopes.engine.model import ModelLike, ScopedModel
from lens_scopes.engine.token_ablation import AblatedPrompt, Corpus, check_available, check_draws
from lens_scopes.errors import EvaluationError, LensScopesError, PromptError, whole_number
from lens_scopes.evaluation.methods.method import Method, MethodScores, TargetIds
from lens_scopes.evaluation.methods.names import MethodLike, as_method
from lens_scopes.evaluation.methods.randomized_blocks import RandomizedBlocks
from lens_scopes.evaluation.metrics.ablation_cache import AblationCache
from lens_scopes.evaluation.metrics.scored_prompt import ScoredPrompt
from lens_scopes.evaluation.metrics.table import (
    AOPC_FRACTIONS,
    CURVE_FRACTIONS,
    ERASER_FRACTIONS,
    Metric,
    find_metric,
)
from lens_scopes.evaluation.protocol import OWN, Protocol
from lens_scopes.evaluation.storage.records import Measurement
from lens_scopes.models.load import model_record
from lens_scopes.prompts.answer import Answer, read_answer
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.prompts.read import PromptLike, read_prompt
from lens_scopes.prompts.tokens import token_string
from lens_scopes.scopes.comparisons.ablation_method import check_unit
from lens_scopes.scopes.comparisons.leave_one_out import LeaveOneOut
from lens_scopes.scopes.objectives import Semantic

_LARGEST_SEED = 2**43  # times the prime, it is a seed of PyTorch
_LARGE_PRIME = 1_000_003  # keeps the seeds of passages apart

_Plan: TypeAlias = tuple[Metric, str | None, ScoredPrompt]

_TARGET_WORDS = {
    "top": "the model's own top token",
    "true": "the true next token by methods of one token; what is followed is the model's own top token",
}
_ANSWER = "the answer after each passage, whatever is measured summed over its predictions"


class Evaluator:
    """Measures methods on passages; every number depends on the settings, the seed and the passage's index alone.

    Args:
        model: a HookedTransformer or TransformerBridge.
        methods: names such as "fisher@8+dot-mean", objectives, comparison methods, or pairs; see `as_method`.
        metrics: names of METRICS.
        ablations: names of ABLATIONS; needed where a metric ablates.
        seed: of all random draws; the global generator is not touched.
        draws: random replacements averaged, where an ablation is random.
        corpus: token ids of all passages, for the ablations that draw on them.
        protocol: the conventions.
        with_answers: whether passages have answers, which are then explained in place of the next token.
        by: what metrics of segments leave out as a whole: "token", or as for `Attribution.group` "word", "line",
            "sentence", "paragraph" or "turn".

    Attributes:
        needs_other: whether every passage must bring another prompt.

    Raises:
        EvaluationError: for unknown names, with near ones, for what the model or the corpus cannot give, and for a
            metric that ablates without an ablation.
    """

    def __init__(
        self,
        model: ModelLike,
        methods: Sequence[MethodLike],
        metrics: Sequence[str],
        ablations: Sequence[str] = (),
        *,
        seed: int = 0,
        draws: int = 4,
        corpus: Sequence[Sequence[int]] = (),
        protocol: Protocol = OWN,
        with_answers: bool = False,
        by: str = "sentence",
    ) -> None:
        check_unit(by)
        self.by = by
        self.with_answers = with_answers
        self.model = model = ScopedModel.of(model)
        self.protocol = protocol
        self.methods: list[Method] = [as_method(method, protocol.meanings) for method in methods]
        self.metrics: list[Metric] = [find_metric(name) for name in metrics]
        self.ablations = list(ablations)
        # Without special tokens: a BOS in the middle of a prompt would be another attention sink.
        special = set(getattr(model.tokenizer, "all_special_ids", ()))
        self.corpus = Corpus(tuple(token for passage in corpus for token in passage if token not in special))
        self.seed = whole_number(seed, "the seed", EvaluationError, most=_LARGEST_SEED)
        self.draws = draws
        with model.exclusive():
            self._check()
            self._unembedding = model.unembedding()
        self.needs_other = any(ABLATIONS[name].other_prompt for name in self.ablations)
        self.needs_other |= any(method.per_prompt for method in self.methods)
        self._randomized = RandomizedBlocks(model, seed, protocol.redraw)

    def _check(self) -> None:
        check_draws(self.draws)
        self.protocol.check_metrics([metric.name for metric in self.metrics])
        if self.with_answers:
            self.protocol.check_answers()
        for method in self.methods:
            method.check(self.model, with_answers=self.with_answers)
        for name in self.ablations:
            check_available(self.model, name, self.corpus)
        names = [method.name for method in self.methods]
        duplicates = sorted({name for name in names if names.count(name) > 1})
        if duplicates:
            raise EvaluationError(
                f"methods must have names of their own; {', '.join(duplicates)} came more than once. "
                "Name an objective by a pair such as ('my name', ls.Fisher(8))."
            )
        duplicates = sorted({name for name in self.ablations if self.ablations.count(name) > 1})
        duplicates += sorted({metric.name for metric in self.metrics if self.metrics.count(metric) > 1})
        if duplicates:
            raise EvaluationError(f"{', '.join(duplicates)} came more than once.")
        if not self.methods or not self.metrics:
            raise EvaluationError("an evaluation needs at least one method and one metric.")
        metrics = [metric.name for metric in self.metrics if metric.needs_ablation]
        if metrics and not self.ablations:
            raise EvaluationError(
                f"{', '.join(metrics)} ablate tokens, so say by what: one or more ablations such as 'zero' or 'mean'."
            )

    def passage(self, passage: PromptLike) -> Prompt:
        """Reads a passage.

        Raises:
            PromptError: when it is empty, holds a single token, or exceeds the context window.
        """
        prompt = read_prompt(self.model, passage)
        token_ids = self.protocol.prompt_tokens(self.model, prompt.token_ids)
        if token_ids != prompt.token_ids:
            prompt = read_prompt(self.model, token_ids)
        _require_rankable(prompt, (0, len(prompt)))
        return prompt

    def measure(
        self,
        prompt: Prompt,
        target: int | None,
        *,
        index: int,
        answer: tuple[int, ...] | int | None = None,
        other: Sequence[int] | None = None,
        within: tuple[int, int] | None = None,
    ) -> tuple[dict[str, Any], list[Measurement]]:
        """Every method × metric × ablation on one passage.

        Args:
            prompt: the passage, up to the position explained.
            target: its true next token, where known.
            index: the passage's place in the data set, which decides its random draws.
            answer: the answer's tokens, or how many the model is to generate: what methods explain is then summed over
                its predictions, and metrics measure log P(answer | prompt) and the summed KL.
            other: the tokens of the passage's other prompt, token by token beside it, where it has one.
            within: the passage's tokens [start, stop) that alone are ranked and ablated, all others but special ones
                staying as they are; None for all. An answer's own tokens are never ablated: it would be another answer.

        Returns:
            Facts about the passage and its prediction, and the measurements.

        Raises:
            PromptError: for a part of fewer than two tokens to rank.
        """
        if within is not None:
            self.protocol.check_parts()
            _require_rankable(prompt, within)
        with self.model.exclusive():
            resolved_answer = None if answer is None else read_answer(self.model, prompt, answer)
            other_ids = None if other is None else self.protocol.prompt_tokens(self.model, other)
            return self._measure(prompt, target, index, resolved_answer, other_ids, within)

    def _measure(
        self,
        prompt: Prompt,
        target: int | None,
        index: int,
        resolved_answer: Answer | None,
        other: Sequence[int] | None,
        within: tuple[int, int] | None,
    ) -> tuple[dict[str, Any], list[Measurement]]:
        # By the passage's index, so that its draws are the same whichever process measures it, and when.
        seed = self.seed * _LARGE_PRIME + index
        facts = self._facts(prompt, target, resolved_answer)
        if within is not None:
            facts |= {"eligible_start": within[0], "eligible_stop": within[1]}
        followed: TargetIds = facts["top_token_id"] if resolved_answer is None else resolved_answer.token_ids
        explained = self.protocol.token_to_explain(followed, target) if isinstance(followed, int) else followed
        caches = self._caches(prompt, followed, seed, other, within)
        plans = self._plan(prompt, explained, facts["correct"], caches, seed, other, within)
        # What all methods and metrics ablate runs together: larger batches, and no set of tokens twice.
        for cache in caches.values():
            masks = [
                metric.masks(scored)
                for metric, _, scored in plans
                if metric.fractions and scored.ablation_cache is cache
            ]
            if masks:
                cache.outcomes(torch.cat(masks))
        return facts, [measurement for plan in plans for measurement in self._measurements(*plan)]

    def _facts(self, prompt: Prompt, target: int | None, resolved_answer: Answer | None) -> dict[str, Any]:
        """The passage's length, the model's own prediction, and that of the true next token or of the answer."""
        # One pass with the answer teacher-forced; logits[n] predicts the answer's n-th token.
        answer = () if resolved_answer is None else resolved_answer.token_ids
        read, first = [*prompt.token_ids, *answer[:-1]], len(prompt) - 1
        with torch.no_grad():
            ys = self.model.run_to_final_states([read], reads=[(0, place) for place in range(first, len(read))])
            logits = self._unembedding.logits(ys)
        tops = logits.argmax(-1).tolist()
        log_probabilities, top = logits[0].log_softmax(-1), tops[0]
        facts = {
            "n_tokens": len(prompt),
            "top_token_id": top,
            "top_token": token_string(self.model, top),
            "top_probability": float(log_probabilities[top].exp()),
            "target_token_id": target,
            "target_token": None if target is None else token_string(self.model, target),
            "target_probability": None if target is None else float(log_probabilities[target].exp()),
            "correct": None if target is None else top == target,
        }
        if resolved_answer is not None:
            of_tokens = logits.log_softmax(-1)[range(len(answer)), answer]
            facts |= {
                "answer": resolved_answer.text,
                "answer_tokens": len(answer),
                "answer_generated": resolved_answer.generated,
                "answer_log_probability": float(of_tokens.double().sum()),
                "correct": None if resolved_answer.generated else tops == list(answer),
            }
        return facts

    def _caches(
        self,
        prompt: Prompt,
        followed: TargetIds,
        seed: int,
        other: Sequence[int] | None,
        within: tuple[int, int] | None,
    ) -> dict[str, AblationCache]:
        """The outcomes of each ablation, which follow the top token or the answer; none where no metric ablates."""
        if not any(metric.needs_ablation for metric in self.metrics):
            return {}
        options: dict[str, Any] = {"draws": self.draws, "corpus": self.corpus, "other": other, "seed": seed}
        return {
            name: AblationCache(
                AblatedPrompt(self.model, prompt.token_ids, prompt.special, followed, name, **options), seed, within
            )
            for name in self.ablations
        }

    def _plan(
        self,
        prompt: Prompt,
        target: TargetIds,
        correct: bool | None,
        caches: Mapping[str, AblationCache],
        seed: int,
        other: Sequence[int] | None,
        within: tuple[int, int] | None,
    ) -> list[_Plan]:
        """Every method's scores with every metric and ablation."""
        plans: list[_Plan] = []
        for base_method in self.methods:
            method = base_method.against(other).within(within)
            # Leave-one-out by an ablation that metrics need anyway costs nothing more.
            scores = _cached_scores(base_method, prompt, caches) or method.score(
                self.model, prompt, target, self._randomized
            )
            for metric in self.metrics:
                for ablation in self.ablations if metric.needs_ablation else (None,):
                    scored = ScoredPrompt(
                        self.model,
                        prompt,
                        target,
                        method,
                        scores,
                        None if ablation is None else caches[ablation],
                        self._randomized,
                        seed,
                        self.protocol,
                        correct,
                        self.by,
                        within,
                    )
                    plans.append((metric, ablation, scored))
        return plans

    def _measurements(self, metric: Metric, ablation: str | None, scored: ScoredPrompt) -> list[Measurement]:
        return [
            Measurement(
                method=scored.method.name,
                metric=item.name,
                ablation=ablation,
                value=item.value,
                fraction=item.fraction,
                forwards=scored.method_scores.forwards,
                backwards=scored.method_scores.backwards,
                note=item.note,
            )
            for item in metric.measure(scored)
        ]

    def signature(self) -> dict[str, Any]:
        """Everything that decides the numbers, as plain values."""
        return {
            "model": asdict(model_record(self.model)),
            "methods": {method.name: _describe(method) for method in self.methods},
            "metrics": [metric.name for metric in self.metrics],
            "ablations": self.ablations,
            "seed": self.seed,
            "draws": self.draws,
            "corpus": self.corpus.digest()
            if any(ABLATIONS[name].corpus != "unused" for name in self.ablations)
            else None,
            "explained": _ANSWER if self.with_answers else _TARGET_WORDS[self.protocol.explained],
            "protocol": self.protocol.record(),
            "by": self.by if any(metric.of_segments for metric in self.metrics) else None,
            "fractions": {
                "aopc": list(AOPC_FRACTIONS),
                "comprehensiveness and sufficiency": list(ERASER_FRACTIONS),
                "curves": list(CURVE_FRACTIONS),
            },
        }


def _require_rankable(prompt: Prompt, within: tuple[int, int]) -> None:
    """Raises PromptError where there are not several tokens to rank."""
    n_ranked = prompt.special[slice(*within)].count(False)
    if n_ranked < 2:
        part = "passage" if within == (0, len(prompt)) else "part that is eligible"
        raise PromptError(f"a {part} needs at least two tokens to rank, besides special ones; got {n_ranked}.")


def _cached_scores(method: Method, prompt: Prompt, caches: Mapping[str, AblationCache]) -> MethodScores | None:
    """The scores of a leave-one-out method whose ablation is measured anyway, and draws nothing; None for others."""
    kind = method.explanation
    if not isinstance(kind, LeaveOneOut) or (kind.measure, kind.by) != ("kl", "token"):
        return None
    if kind.token_ablation.random:
        return None
    cache = caches.get(kind.token_ablation.name) if kind.other_prompt is None else None
    if cache is None:
        return None
    scores = torch.zeros(len(prompt), dtype=torch.float64)
    scores[cache.eligible] = cache.leave_one_out.divergence
    return MethodScores(scores, 1 + len(cache.eligible), 0)


def _describe(method: Method) -> dict[str, Any]:
    """A method's choices as plain values: the options that ask for it, or what a value of Python says of itself."""
    try:
        options = method.spec.to_options()
    except LensScopesError:
        rest = method.spec.replace(objective=Semantic(), target=None).to_options()
        options = {**rest, "scope": method.explanation.scope, **method.explanation.settings()}
    return {"spec": options, "redrawn": method.redrawn}
