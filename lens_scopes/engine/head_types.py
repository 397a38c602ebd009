"""Known kinds of attention heads, by TransformerLens' own head detector on a repeated random sequence."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.model import Hook, ScopedModel

TYPES = ("previous_token_head", "duplicate_token_head", "induction_head")

_HALF = 24  # tokens that are repeated once


def head_type_scores(model: ScopedModel, seed: int = 0) -> dict[str, Float[Tensor, "layer head"]]:
    """The share of each head's attention that falls on each type's pattern, between 0 and 1.

    The sequence is `_HALF` random tokens, twice, so that previous-token, duplicate-token and induction heads attend
    to three different places. Attention to the first position, a resting place, is left out.

    Source: transformer_lens.head_detector (error measure "mul").
    """
    from transformer_lens import head_detector

    half = min(_HALF, (model.cfg.n_ctx - 1) // 2)
    generator = torch.Generator().manual_seed(seed)
    block = torch.randint(0, model.cfg.d_vocab, (half + 1,), generator=generator)
    # The first position is left out of the scores, so its token is not repeated.
    tokens = torch.cat([block, block[1:]])
    patterns = _patterns(model, tokens.tolist())
    scores = {}
    for name in TYPES:
        expected = getattr(head_detector, f"get_{name}_detection_pattern")(tokens[None]).float()
        rows = [
            [
                head_detector.compute_head_attention_similarity_score(
                    pattern, expected, exclude_bos=True, exclude_current_token=False, error_measure="mul"
                )
                for pattern in layer
            ]
            for layer in patterns
        ]
        scores[name] = torch.tensor(rows, dtype=torch.float32).nan_to_num()
    return scores


def _patterns(model: ScopedModel, token_ids: list[int]) -> list[Float[Tensor, "head pos pos"]]:
    patterns: dict[int, Tensor] = {}

    def keep(layer: int) -> Hook:
        def hook(pattern: Tensor) -> None:
            patterns[layer] = pattern[0].float().cpu()

        return hook

    layers = range(model.cfg.n_layers)
    model.run_to_final_states([token_ids], [(f"blocks.{layer}.attn.hook_pattern", keep(layer)) for layer in layers])
    return [patterns[layer] for layer in layers]
