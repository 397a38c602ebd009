"""Which heads and MLPs made the model say that: predicted from one backward pass, then checked by ablating them.

With z_h the output of head h at hook_z (and likewise an MLP's output) and b its baseline, moving from z_h to b
changes the final state by J(b − z_h) to first order, so along direction v_i by

    a_i,h = Σ_dest g_i,dest · (b − z_h,dest),   g_i = v_iᵀ ∂y/∂z_h,

and the output explained by a_1,h, or by ½ Σ_i w_i a_i,h² where the objective is a divergence. Since z_dest is
Σ_src A[dest, src] v_src, the part of a head's effect that comes from one source token is A ∘ ∂/∂A summed over dest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from lens_scopes.attribution.component_ablation import (
    Baseline,
    ablated_final_states,
    baseline_activations,
    check_baseline,
    component_site,
)
from lens_scopes.attribution.resolved import PromptPosition, ResolvedSpec
from lens_scopes.attribution.scoring import check_gradients
from lens_scopes.engine.backward import Progress, Trace, trace
from lens_scopes.engine.final_state import FinalState, compute_dtype
from lens_scopes.engine.head_types import head_type_scores
from lens_scopes.engine.memory import shortage_named
from lens_scopes.engine.model_checks import require_used
from lens_scopes.errors import PathError, SiteError
from lens_scopes.prompts.read import PromptLike
from lens_scopes.results.heads import AblationEffect, HeadInspection, component_name, strongest_heads
from lens_scopes.scopes.contract import contract
from lens_scopes.scopes.objectives import DirectionFunction, Directions, Objective
from lens_scopes.scopes.paths import Component, Frozen, Path, PathLike, parse_head

_ABLATED_TOKENS = 20_000  # ablate every component while this many tokens of forward pass suffice, else the strongest
_ABLATED_FEW = 32


@shortage_named("the heads of this prompt")
def inspect_heads(
    model: Any,
    prompt: PromptLike,
    objective: Objective | str | DirectionFunction | None = None,
    *,
    position: int = -1,
    target: str | int | None = None,
    baseline: Baseline = "mean",
    through: PathLike = None,
    patterns: int | Sequence[str | tuple[int, int]] = 6,
    verify: int | None = None,
    seed: int = 0,
    memory: str | int | None = None,
    progress: Progress | None = None,
) -> HeadInspection:
    """Influence of every head and MLP on one prediction, predicted by gradients and verified by ablation.

    One forward pass and one backward pass per direction give every head's predicted effect; a second forward pass with
    frozen scales gives the direct effects; then the strongest components (all of them where that is cheap) are
    ablated for real.

    Args:
        model, prompt, objective, position, target, through: as for `attribute`.
        baseline: what a component's output is set to: "zero", "mean" (over the prompt's non-special tokens), or
            "shuffle" (its output in a prompt of the same tokens in a random order, special tokens in place).
        patterns: how many of the strongest heads to return attention patterns of, or which heads.
        verify: how many of the strongest components to ablate; 0 for none; by default as many as is cheap.
        memory: the most to use beyond the model's weights, as "4GB" or in bytes. The graph is held whole, since every
            head's pattern is read: a prompt whose graph does not fit is refused with the estimate.
        seed: seed of the random order for "shuffle" and of the sequence on which head types are measured.
        progress: called with (components ablated, components to ablate).

    Raises:
        LensScopesError: as `attribute`; PathError for heads that do not exist and unknown baselines.
    """
    check_baseline(baseline)
    resolved = ResolvedSpec.read(model, objective, False, (), through, "norm", memory).require_embedding()
    resolved.objective.check_target(target)
    place = PromptPosition.read(model, prompt, position, target)
    shown = None if isinstance(patterns, int) else [_existing_head(model, head) for head in patterns]
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    with_mlps = not bool(getattr(model.cfg, "attn_only", False))

    heads: list[Component] = [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
    mlps: list[Component] = [(layer, None) for layer in range(n_layers)] if with_mlps else []
    outputs = list(dict.fromkeys(component_site(item) for item in (*heads, *mlps)))
    values = [f"blocks.{layer}.attn.hook_v" for layer in range(n_layers)]
    weights = [f"blocks.{layer}.attn.hook_pattern" for layer in range(n_layers)]
    require_used(model, outputs, SiteError)
    budget = resolved.budget()
    plan = budget.plan_patterns(len(place.token_ids))
    traced = trace(model, [place.token_ids], [*outputs, *values, *weights], resolved.path_hooks())
    state = resolved.final_states(traced, [place.target])[0]
    directions = resolved.objective.directions(state)

    generator = torch.Generator().manual_seed(seed)
    activations = {name: traced.activations[name] for name in outputs}
    special = place.prompt.special[: len(place.token_ids)]
    baselines = baseline_activations(model, place.token_ids, special, activations, baseline, generator)
    found = _backward(traced, directions, outputs, values, weights, baselines, n_heads)
    amounts_direct = _direct_amounts(model, place, directions, resolved.path, baselines, n_layers)

    def combined(amounts: Float[Tensor, "k ..."]) -> Float[Tensor, ...]:
        return resolved.objective.predicted_change(directions, amounts).cpu()

    effect = combined(found.heads)
    mlp_effect = combined(found.mlps) if with_mlps else effect.new_zeros(0)
    shown = strongest_heads(effect, patterns) if isinstance(patterns, int) else shown
    assert shown is not None

    strongest = _strongest(effect, mlp_effect)
    if verify is None:
        verify = len(strongest) if len(strongest) * len(place.token_ids) <= _ABLATED_TOKENS else _ABLATED_FEW
    ablated = strongest[:verify]
    after = []
    if ablated:
        states = ablated_final_states(model, place.token_ids, ablated, baselines, progress, budget)
        after = [FinalState(y, resolved.unembedding, state.target) for y in states.to(state.y)]
    ablations = [
        AblationEffect(
            layer,
            head,
            float(mlp_effect[layer] if head is None else effect[layer, head]),
            resolved.objective.change(state, reached),
        )
        for (layer, head), reached in zip(ablated, after, strict=True)
    ]
    return HeadInspection(
        effect=effect,
        mlp_effect=mlp_effect,
        by_source=combined(found.by_source),
        norms=_combined_norms(directions, found.norms).cpu(),
        direct_effect=combined(amounts_direct),
        patterns={component_name(item): _pattern(traced, item) for item in shown},
        pattern_gradients={component_name(item): combined(found.edges(item)) for item in shown},
        head_types=head_type_scores(model, seed),
        ablations=ablations,
        spearman=_spearman(ablations),
        baseline=baseline,
        target=resolved.predicted_target(state),
        **resolved.record(place.prompt, place.position, state),
        contract=_contract(resolved, place, state, baseline),
        settings=resolved.settings(
            place.position, baseline=baseline, verified=len(ablations), seed=seed, divergence=directions.squared
        ),
        memory=plan,
        warnings=[*directions.warnings, *_agreement_warnings(ablations)],
    )


@dataclass(frozen=True)
class _Found:
    """Amounts along each direction: moving heads and MLPs to their baselines, and their parts by source."""

    heads: Float[Tensor, "k layer head"]
    mlps: Float[Tensor, "k mlp_layer"]
    by_source: Float[Tensor, "k layer head pos"]
    norms: Float[Tensor, "k layer head pos"]
    edge_gradients: list[list[Float[Tensor, "head pos pos"]]]
    edge_weights: list[Float[Tensor, "head pos pos"]]

    def edges(self, head: tuple[int, int]) -> Float[Tensor, "k pos pos"]:
        layer, index = head
        gradients = torch.stack([by_layer[layer][index] for by_layer in self.edge_gradients])
        return (-self.edge_weights[layer][index] * gradients).to(self.heads.device)


def _backward(
    traced: Trace,
    directions: Directions,
    outputs: Sequence[str],
    values: Sequence[str],
    weights: Sequence[str],
    baselines: dict[str, Tensor],
    n_heads: int,
) -> _Found:
    """One backward pass per direction. ∂/∂A[dest, src] = g_dest · v_src, and A ∘ ∂/∂A is a head's effect by edge."""
    dtype, place = compute_dtype(traced.final_states.dtype), directions.vectors.device  # layers may be on several
    patterns = [traced.activations[name][0].detach().to(dtype) for name in weights]
    sources = [_per_head(traced.activations[name][0].detach().to(dtype), n_heads) for name in values]
    heads, mlps, by_source, norms, edges = [], [], [], [], []
    for index, vector in enumerate(directions.vectors):
        gradients = traced.gradients(vector[None], keep_graph=index + 1 < len(directions.vectors))
        z_gradients, rows, mlp_rows = [], [], []
        for name in outputs:
            gradient = gradients[name][0].to(dtype)
            check_gradients(gradient, name, gradients[name].dtype)
            moved = baselines[name].to(dtype) - traced.activations[name][0].detach().to(dtype)
            if name.endswith("hook_z"):
                z_gradients.append(gradient)
                rows.append(torch.einsum("phd,phd->h", gradient, moved).to(place))
            else:
                mlp_rows.append((gradient * moved).sum().to(place))
        by_edge = [
            torch.einsum("qhd,khd->hqk", gradient, source)
            for gradient, source in zip(z_gradients, sources, strict=True)
        ]
        heads.append(torch.stack(rows))
        mlps.append(torch.stack(mlp_rows) if mlp_rows else torch.zeros(0).to(rows[0]))
        by_source.append(torch.stack([-(a * g).sum(1).to(place) for a, g in zip(patterns, by_edge, strict=True)]))
        norms.append(
            torch.stack(
                [rearrange(gradient.norm(dim=-1), "pos head -> head pos").to(place) for gradient in z_gradients]
            )
        )
        edges.append(by_edge)
    return _Found(torch.stack(heads), torch.stack(mlps), torch.stack(by_source), torch.stack(norms), edges, patterns)


def _per_head(values: Float[Tensor, "pos kv_head d_head"], n_heads: int) -> Float[Tensor, "pos head d_head"]:
    """Grouped-query models share each value head among several query heads."""
    return repeat(values, "pos kv_head d_head -> pos (kv_head group) d_head", group=n_heads // values.shape[1])


def _direct_amounts(
    model: Any,
    place: PromptPosition,
    directions: Directions,
    path: Path | None,
    baselines: dict[str, Tensor],
    n_layers: int,
) -> Float[Tensor, "k layer head"]:
    """Amounts along the route head → residual stream → final norm, with the norms' scales held at their values.

    ∂y/∂resid_post of the last layer is carried unchanged by the skip to every layer's attention output; from there
    one short product leads to that layer's z.
    """
    frozen = Frozen("norms") if path is None else path & Frozen("norms")
    last = f"blocks.{n_layers - 1}.hook_resid_post"
    z_names = [f"blocks.{layer}.attn.hook_z" for layer in range(n_layers)]
    out_names = [f"blocks.{layer}.hook_attn_out" for layer in range(n_layers)]
    traced = trace(model, [place.token_ids], [*z_names, *out_names, last], frozen.hooks(model))
    amounts = []
    for vector in directions.vectors:
        (at_end,) = torch.autograd.grad(
            traced.final_states, traced.activations[last], vector[None].to(traced.final_states), retain_graph=True
        )
        rows = []
        for z_name, out_name in zip(z_names, out_names, strict=True):
            z, out = traced.activations[z_name], traced.activations[out_name]
            (gradient,) = torch.autograd.grad(out, z, at_end.to(out), retain_graph=True)
            moved = baselines[z_name].to(z) - z[0].detach()
            rows.append(
                torch.einsum("phd,phd->h", gradient[0], moved).to(directions.vectors.device, compute_dtype(z.dtype))
            )
        amounts.append(torch.stack(rows))
    return torch.stack(amounts)


def _combined_norms(directions: Directions, norms: Float[Tensor, "k ..."]) -> Float[Tensor, ...]:
    return torch.einsum("k,k...->...", directions.weights.to(norms), norms**2).sqrt()


def _pattern(traced: Trace, head: tuple[int, int]) -> Float[Tensor, "pos pos"]:
    layer, index = head
    return traced.activations[f"blocks.{layer}.attn.hook_pattern"][0, index].detach().float().cpu()


def _existing_head(model: Any, head: str | tuple[int, int]) -> tuple[int, int]:
    layer, index = parse_head(head)
    if layer >= model.cfg.n_layers or index >= model.cfg.n_heads:
        raise PathError(
            f"head L{layer}H{index} does not exist; this model has layers 0 to {model.cfg.n_layers - 1} "
            f"with heads 0 to {model.cfg.n_heads - 1}."
        )
    return layer, index


def _strongest(effect: Float[Tensor, "layer head"], mlp_effect: Float[Tensor, " mlp_layer"]) -> list[Component]:
    sizes: dict[Component, float] = {
        (layer, head): abs(float(effect[layer, head]))
        for layer in range(effect.shape[0])
        for head in range(effect.shape[1])
    }
    sizes |= {(layer, None): abs(float(value)) for layer, value in enumerate(mlp_effect)}
    return sorted(sizes, key=lambda item: -sizes[item])


def _spearman(ablations: Iterable[AblationEffect]) -> float | None:
    from scipy.stats import spearmanr

    pairs = [(item.predicted, item.actual) for item in ablations]
    if len(pairs) < 3:
        return None
    predicted, actual = zip(*pairs, strict=True)
    result: Any = spearmanr(predicted, actual)
    value = float(result.statistic)
    return value if value == value else None


def _agreement_warnings(ablations: Sequence[AblationEffect]) -> list[str]:
    value = _spearman(ablations)
    if value is None or value >= 0.5:
        return []
    return [
        f"predicted and actual changes agree with Spearman {value:.2f} only over {len(ablations)} components: "
        "trust the ablations, not the gradients, here."
    ]


def _contract(resolved: ResolvedSpec, place: PromptPosition, state: FinalState, baseline: Baseline) -> dict[str, str]:
    held = "the weights, all other components' outputs except as they respond, and the explained directions v"
    if resolved.path is not None:
        held += f"; gradient flows only {resolved.path}"
    return contract(
        output=f"{resolved.objective.describe(resolved.label, state)}, after position {place.position}",
        features="the output of every attention head (hook_z) and of every MLP (hook_mlp_out), at all positions "
        "together",
        process=f"one component at a time is set to its {baseline} baseline; predicted to first order, checked by "
        "doing it",
        held=held,
        score=f"change of the output explained: Σ_dest g · (b − z) along {resolved.objective.equation}",
    )
