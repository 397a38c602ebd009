"""How well scores of segments foretell what leaving segments out does to an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.model import ModelLike, ScopedModel
from lens_scopes.engine.token_ablation import AblatedPrompt
from lens_scopes.errors import EvaluationError
from lens_scopes.evaluation.metrics.ablation_cache import ranking
from lens_scopes.evaluation.metrics.agreement import correlation
from lens_scopes.prompts.groups import segments
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.prompts.spans import SpanLike
from lens_scopes.scopes.context_cite import logit, random_subsets

if TYPE_CHECKING:
    import pandas


def segment_agreement(
    model: ModelLike,
    prompt: Prompt,
    answer: Sequence[int],
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
        prompt: the prompt whose segments are scored.
        answer: the answer's token ids.
        scores: those of each method, one a token of the prompt; a segment's is the sum of its tokens'.
        by, within, ablation: as for `ContextCite`.
        ablations: how many random ablations are run.
        top: the k of the drops.
        seed: of the random ablations.

    Returns:
        One row for each method and metric: method, metric, value.

    Raises:
        PromptError: for a prompt without several segments.
        EvaluationError: for scores of another number of tokens, and an ablation as for `ContextCite`.

    Source: ContextCite, arXiv:2409.00729.
    """
    import pandas

    for name, values in scores.items():
        if len(values) != len(prompt):
            raise EvaluationError(f"{name!r} scores {len(values)} tokens; the prompt has {len(prompt)}.")
    found = segments(prompt, by, within)
    prompt_ablated = AblatedPrompt(
        ScopedModel.of(model), prompt.token_ids, prompt.special, answer, ablation, draws=1, seed=seed
    )
    own = prompt_ablated.masks(found)
    totals = {name: own.double() @ values.double().cpu() for name, values in scores.items()}
    orders = {name: ranking(values) for name, values in totals.items()}
    # All random and all top-k ablations run together; equal sets run once.
    kept = random_subsets(ablations, len(found), seed, with_empty=any(prompt.special))
    drops = [(name, k) for name in scores for k in top if k < len(found)]
    without = torch.ones(len(drops), len(found), dtype=torch.bool)
    for row, (name, k) in enumerate(drops):
        without[row, orders[name][:k]] = False
    sets, places = torch.cat([kept, without]).unique(dim=0, return_inverse=True)
    after = prompt_ablated.outcomes((~sets).float() @ own.float() > 0, with_divergence=False).log_probability[places]
    outcomes = logit(after[:ablations])
    rows = [(name, "lds", correlation(kept.double() @ totals[name], outcomes)[0]) for name in scores]
    falls = prompt_ablated.clean_log_probability - after[ablations:]
    rows += [(name, f"top-{k}-drop", float(fall)) for (name, k), fall in zip(drops, falls, strict=True)]
    return pandas.DataFrame(rows, columns=["method", "metric", "value"])
