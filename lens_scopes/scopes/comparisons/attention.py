"""Attention as a score: carried back through the layers, plain or weighted by what it moves, and times its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.backward import trace
from lens_scopes.engine.final_state import FinalState
from lens_scopes.engine.model import Hook, ScopedModel
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.scopes.comparisons.baseline import Baseline, OfOneToken


@dataclass(frozen=True)
class AttentionRollout(Baseline):
    """Attention carried back through all layers: score_t = (Ā_L ⋯ Ā_1)[last, t] with Ā_l = ½ mean_h A_lh + ½ I.

    The row sums to 1. It knows neither values nor MLPs, and not what is predicted.

    Source: Abnar and Zuidema, arXiv:2005.00928.

    Example:
        >>> round(float(ls.attribute(model, "The capital of France is", ls.AttentionRollout()).scores.sum()), 6)
        1.0
    """

    scope: ClassVar[str] = "attention-rollout"
    output: ClassVar[str] = "the residual stream at the last position, whatever is predicted from it"
    equation: ClassVar[str] = "score_t = (Ā_L ⋯ Ā_1)[last, t] with Ā_l = ½ mean_h A_lh + ½ I"
    process: ClassVar[str] = "tokens are mixed by attention alone, evenly with the residual stream"
    held: ClassVar[str] = "the attention patterns; values and MLPs are left out"

    def scores(self, model: ScopedModel, prompt: Prompt, states: Sequence[FinalState]) -> Float[Tensor, " pos"]:
        patterns, _ = attention(model, prompt.token_ids)
        return _roll_out([pattern.mean(0) for pattern in patterns]).to(states[0].y.dtype)


@dataclass(frozen=True)
class ValueWeightedAttention(Baseline):
    """Attention weighted by the size of what it moves, carried back through all layers.

    N_l[s, t] = ‖Σ_h A_lh[s, t] v_lh,t W_O,lh‖₂, rows made to sum to 1, take the place of mean_h A_lh in the rollout.

    Source: norms of Kobayashi et al., arXiv:2004.10102, in the rollout of arXiv:2005.00928.

    Example:
        >>> round(float(ls.attribute(model, "The capital of France is", ls.ValueWeightedAttention()).scores.sum()), 6)
        1.0
    """

    scope: ClassVar[str] = "value-attention"
    output: ClassVar[str] = "the residual stream at the last position, whatever is predicted from it"
    equation: ClassVar[str] = "score_t = (N̄_L ⋯ N̄_1)[last, t] with N_l[s, t] = ‖Σ_h A_lh[s, t] v_lh,t W_O,lh‖₂"
    process: ClassVar[str] = "tokens are mixed by the sizes of what attention moves, evenly with the residual stream"
    held: ClassVar[str] = "the attention patterns and values; MLPs are left out"

    def scores(self, model: ScopedModel, prompt: Prompt, states: Sequence[FinalState]) -> Float[Tensor, " pos"]:
        patterns, values = attention(model, prompt.token_ids)
        mixing = []
        for layer, (pattern, value) in enumerate(zip(patterns, values, strict=True)):
            contributions = head_contributions(model, layer, value)
            sizes = torch.stack(
                [torch.einsum("ht,thm->tm", row, contributions).norm(dim=-1) for row in pattern.unbind(1)]
            )
            mixing.append(sizes / sizes.sum(1, keepdim=True).clamp_min(1e-30))
        return _roll_out(mixing).to(states[0].y.dtype)


@dataclass(frozen=True)
class GradEllm(OfOneToken):
    """How far what the last position takes from each token raises the target's logit: attention × value × gradient.

    score_t = Σ_l ReLU(Σ_h A_lh[last, t] ∂z_target/∂o_lh · v_lh,t) with o_lh = Σ_t A_lh[last, t] v_lh,t, the output of
    head h at the last position. One forward and one backward pass, ≥ 0, in logits. What reaches the last position
    through other positions counts for those, as in every score read inside the model.

    Source: after Grad-ELLM, arXiv:2601.03089, with plain attention weights, and the ReLU in each layer.

    Example:
        >>> att = ls.attribute(model, "The capital of France is", ls.GradEllm(), target=" Paris")
        >>> bool((att.scores >= 0).all())
        True
    """

    scope: ClassVar[str] = "grad-ellm"
    output: ClassVar[str] = "logit of the next token"
    equation: ClassVar[str] = "score_t = Σ_l ReLU(Σ_h A_lh[last, t] ∂z_target/∂o_lh · v_lh,t)"
    process: ClassVar[str] = "to first order in what each head moves from token t to the last position"
    held: ClassVar[str] = "the weights, the attention patterns and the values"
    why_alone: ClassVar[str] = "has a site and a readout of its own"

    @property
    def backwards(self) -> int:
        return 1

    def scores(self, model: ScopedModel, prompt: Prompt, states: Sequence[FinalState]) -> Float[Tensor, " pos"]:
        # The heads' outputs with a graph; patterns and values as they pass.
        patterns, values, hooks = _recorders(model)
        outputs = [f"blocks.{layer}.attn.hook_z" for layer in range(model.n_layers)]
        graph = trace(model, [list(prompt.token_ids)], outputs, changes=hooks)
        # ∂z_target/∂o at the last position, times what each token's values bring there.
        gradients = graph.gradients(states[0].logit_gradients(self.targets(states[0])), keep_graph=False)
        total = torch.zeros(len(prompt), dtype=torch.float64)
        for layer, name in enumerate(outputs):
            weights = patterns[layer][:, -1]
            gradient = _exact(gradients[name][0, -1]).reshape(len(weights), -1)
            value = _by_head(values[layer], len(weights))
            total += torch.einsum("ht,hd,thd->t", weights, gradient, value).relu()
        return total.to(states[0].y.dtype)


def head_contributions(
    model: ScopedModel, layer: int, values: Float[Tensor, "pos value_head d_head"]
) -> Float[Tensor, "pos head d_model"]:
    """v_h,t W_O,h: what each head of a layer moves of each token, were all its attention there; several heads may share
    a value."""
    W_O = model.module.blocks[layer].attn.W_O.detach().to(values)
    return torch.einsum("thd,hdm->thm", _by_head(values, len(W_O)), W_O)


def attention(model: ScopedModel, token_ids: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
    """Attention patterns [head, dest, src] and values [pos, value_head, d_head] of every layer, in float64."""
    patterns, values, hooks = _recorders(model)
    with model.hooked(hooks):
        model.run_to_final_states([token_ids])
    return patterns, values


def _recorders(model: ScopedModel) -> tuple[list[Tensor], list[Tensor], list[tuple[str, Hook]]]:
    """Two lists, and the hooks that fill them with the patterns and values of every layer as they pass."""
    patterns: list[Tensor] = []
    values: list[Tensor] = []
    hooks: list[tuple[str, Hook]] = []
    for layer in range(model.n_layers):
        hooks.append((f"blocks.{layer}.attn.hook_pattern", lambda pattern: patterns.append(_exact(pattern[0]))))
        hooks.append((f"blocks.{layer}.attn.hook_v", lambda value: values.append(_exact(value[0]))))
    return patterns, values, hooks


def _by_head(values: Float[Tensor, "pos value_head d_head"], n_heads: int) -> Float[Tensor, "pos head d_head"]:
    """The value of each head; several heads may share one."""
    return values.repeat_interleave(n_heads // values.shape[1], dim=1)


def _exact(values: Tensor) -> Tensor:
    return values.detach().double().cpu()


def _roll_out(mixing: Sequence[Float[Tensor, "dest src"]]) -> Float[Tensor, " src"]:
    """The last row of Ā_L ⋯ Ā_1 with Ā = ½ A + ½ I."""
    # From the last layer down a row is enough: no product of two matrices.
    row = torch.zeros(len(mixing[0]), dtype=mixing[0].dtype)
    row[-1] = 1.0
    for matrix in reversed(mixing):
        row = 0.5 * row @ matrix + 0.5 * row
    return row
