"""Which heads and MLPs made the model say that: predicted from one backward pass, then checked by ablating them.

With z_h the output of head h at hook_z (and likewise an MLP's output) and b its baseline, moving from z_h to b
changes the final state by J(b − z_h) to first order, so along direction v_i by

    a_i,h = Σ_dest g_i,dest · (b − z_h,dest),   g_i = v_iᵀ ∂y/∂z_h,

and the output explained by a_1,h, or by ½ Σ_i w_i a_i,h² where the objective is a divergence. Since z_dest is
Σ_src A[dest, src] v_src, the part of a head's effect that comes from one source token is A ∘ ∂/∂A summed over dest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from lens_scopes.attribution.component_ablation import (
    Baseline,
    ablated_final_states,
    baseline_activations,
    component_site,
    disagreement_warnings,
    rank_agreement,
    read_baseline,
)
from lens_scopes.attribution.prompt_position import PromptPosition
from lens_scopes.attribution.provenance import record_alterations
from lens_scopes.attribution.resolved import ResolvedSpec
from lens_scopes.engine.backward import Progress, Trace, trace
from lens_scopes.engine.final_state import FinalState, compute_dtype
from lens_scopes.engine.head_types import head_type_scores
from lens_scopes.engine.memory import Budget, PeakGauge, name_shortage
from lens_scopes.engine.model import MatmulDtype, ModelLike, ScopedModel, one_at_a_time
from lens_scopes.engine.model.checks import require_live_hooks
from lens_scopes.engine.scoring import Directions, check_gradients
from lens_scopes.errors import ObjectiveError, PathError, SiteError, check_seed, whole_number
from lens_scopes.prompts.answer import AnswerLike
from lens_scopes.prompts.read import PromptLike
from lens_scopes.results.heads import AblationEffect, HeadInspection, component_name, strongest_heads
from lens_scopes.scopes.contract import OF_ANSWER, contract
from lens_scopes.scopes.other_prompt import describe_other_prompt
from lens_scopes.scopes.paths import Component, Frozen, Path, PathLike, Rules, RulesLike, as_rules, parse_head
from lens_scopes.scopes.rules import has_mlps
from lens_scopes.scopes.spec import ObjectiveLike, Spec

_ABLATION_TOKENS = 20_000  # ablate every component while this many tokens of forward pass suffice, else the strongest
_FEW_ABLATIONS = 32
AUTO = "auto"
_RESTRICTION_WARNING = (
    "predicted changes are of what goes through {path} alone, and ablations are of the whole model: the two need not "
    "agree, and no agreement is computed."
)


@name_shortage("the heads of this prompt")
@one_at_a_time
@record_alterations
def inspect_heads(
    model: ModelLike,
    prompt: PromptLike,
    objective: ObjectiveLike = None,
    *,
    position: int = -1,
    target: str | int | None = None,
    answer: AnswerLike | None = None,
    baseline: Baseline = "mean",
    through: PathLike = None,
    mlp_rules: RulesLike = AUTO,
    patterns: int | Sequence[str | tuple[int, int]] = 6,
    verify: int | None = None,
    seed: int = 0,
    memory: str | int | None = None,
    matmul_dtype: MatmulDtype = None,
    progress: Progress | None = None,
) -> HeadInspection:
    """Influence of every head and MLP on one prediction or a whole answer, predicted by gradients and verified by
    ablation.

    One forward pass and one backward pass per direction give every head's predicted effect; a second forward pass with
    frozen scales gives the direct effects; then the strongest components (all of them where that is cheap) are
    ablated for real.

    `readout` and `points` have no place here: an effect is a move to `baseline`, and its check is one real move from
    the prompt itself. Nor has `eligible`: a component is moved at all positions together, those of an answer included.

    Args:
        model, prompt, objective, position, target, through, matmul_dtype: as for `attribute`.
        answer: as for `attribute`: effects are those on the objective summed over the answer's predictions, and the
            check ablates each component over the prompt and the whole answer. Numbers take one backward pass at any
            length. `LogProbDiff` names two answers of its own.
        baseline: what a component's output is set to: "zero", "mean" (over the prompt's non-special tokens), "shuffle"
            (its output in a prompt of the same tokens in a random order, special tokens in place), or its output under
            another prompt of as many tokens, given as text, chat messages, ids or a Prompt: effects are then those
            of attribution patching, and the check patches for real. An answer follows either prompt.
        mlp_rules: rules on the backward pass, named as for `Rules`, by which the effects of MLPs are predicted as well:
            each is then the mean of that and of the gradient's prediction, for one more forward pass and backward pass
            per direction. "auto" takes those that agreed best with ablation on Gemma 3 270M: "relp", and against
            another prompt "norms" and "patterns" (where a model has no place for the first, the other; none where
            `through` has rules). None leaves the gradient alone, which fails in early layers: Pearson 0.32 over the
            MLPs of a prompt, "relp" 0.86 (means of 23 prompts, mean-ablation). For heads no rule does better than the
            gradient (`analyses/components.py`).
        patterns: how many of the strongest heads to return attention patterns of, or which heads.
        verify: how many of the strongest components to ablate; 0 for none; by default as many as is cheap.
        memory: the most to use beyond the model's weights, as "4GB" or in bytes. The graph is held whole, since every
            head's pattern is read: a prompt whose graph does not fit is refused with the estimate.
        seed: seed of the random order for "shuffle" and of the sequence on which head types are measured.
        progress: called with (components ablated, components to ablate).

    Returns:
        A HeadInspection. Effects are changes of the output explained, in its units (logits, nats or β), when a
        component is set to its baseline. Positions are those of all tokens read: the prompt's, then an answer's but its
        last, of two answers the second's after the first's.

    Raises:
        LensScopesError: as `attribute`; PathError for heads that do not exist and unknown baselines; PromptError
            for another prompt of another length.

    Example:
        >>> heads = ls.inspect_heads(model, "The capital of France is", ls.Semantic(" Paris"), verify=3)
        >>> heads.effect.shape, len(heads.ablations), heads.top(1)[0].label
        (torch.Size([2, 4]), 3, 'L0H0')
        >>> patched = ls.inspect_heads(model, "The capital of France is", baseline="The capital of Italy is", verify=0)
        >>> patched.baseline, patched.baseline_tokens[4]
        ('prompt', ' Italy')
    """
    baseline, other = read_baseline(baseline)
    seed = check_seed(seed)
    if verify is not None:
        verify = whole_number(verify, "the number of components to verify", ObjectiveError)
    if not isinstance(patterns, Sequence) or isinstance(patterns, str):
        patterns = whole_number(patterns, "patterns, unless heads are named,", PathError)
    named_rules = _read_mlp_rules(mlp_rules)
    spec = (
        Spec.read(objective, through=through, target=target, answer=answer, memory=memory, matmul_dtype=matmul_dtype)
        .require_gradient()
        .require_usual(
            ("layers", "sites", "score_site", "readout", "points", "eligible"),
            "heads and MLPs are read at sites of their own",
        )
    )
    resolved = ResolvedSpec.of(model, spec, takes_answers=True)
    scoped = resolved.model
    place = PromptPosition.of_spec(scoped, prompt, position, spec).beside(scoped, other)
    tokens = place.all_tokens
    layout = _Layout(len(place.token_ids), [len(sequence) for sequence in place.sequences])
    named_heads = None if isinstance(patterns, int) else [_existing_head(scoped, head) for head in patterns]
    sites = _Sites.of(scoped)
    require_live_hooks(scoped, sites.outputs, SiteError)
    rules = _best_rules(resolved, other is not None) if named_rules == AUTO else named_rules

    # One forward pass, whose whole graph is held: gradients are read at every head's pattern.
    budget = resolved.budget()
    plan = budget.plan_patterns(max(layout.lengths), len(layout.lengths))
    gauge = PeakGauge(scoped, plan.limited)
    graph = trace(scoped, place.sequences, sites.names, resolved.path_hooks(), place.reads)
    states = resolved.final_states(graph, place.targets)
    directions = resolved.directions(place, states)
    activations = {name: graph.activations[name] for name in sites.outputs}
    generator = torch.Generator().manual_seed(seed)
    baselines = baseline_activations(scoped, place, activations, baseline, generator)

    # a_i,h along each direction, and from them the predicted effects.
    amounts = _amounts_of_each(graph, directions, sites, baselines, layout)
    direct_amounts = _direct_amounts(scoped, place, directions, resolved.path, baselines)
    mlp_amounts = amounts.mlps
    if rules is not None and sites.mlps:
        path = rules if resolved.path is None else resolved.path & rules
        mlp_amounts = (mlp_amounts + _mlp_amounts(scoped, place, directions, path, sites, baselines, layout)) / 2

    def predict(amounts: Float[Tensor, "k ..."]) -> Float[Tensor, ...]:
        return resolved.objective.predicted_change(directions, amounts).cpu()

    effect = predict(amounts.heads)
    mlp_effect = predict(mlp_amounts) if sites.mlps else effect.new_zeros(0)
    pattern_heads = strongest_heads(effect, patterns) if isinstance(patterns, int) else named_heads or []

    # The check: the strongest components are really ablated, each alone.
    effects = _by_component(effect, mlp_effect)
    components = _components_to_ablate(effects, verify, len(tokens))
    actual = _real_changes(resolved, place, states, components, baselines, progress, budget)
    ablations = [AblationEffect(*part, predicted=effects[part], actual=actual[part]) for part in components]
    is_restricted = resolved.path is not None and resolved.path.terms is not None
    agreement = rank_agreement([item.predicted for item in ablations], [item.actual for item in ablations])
    spearman = None if is_restricted else agreement  # ablations are of the whole model
    answers = place.answer_records(states)
    record = resolved.record(tokens, len(tokens) - 1, states[0])
    record |= {"position": place.position, **resolved.answer_fields(place, states[0])}
    return HeadInspection(
        effect=effect,
        mlp_effect=mlp_effect,
        by_source=predict(amounts.by_source),
        norms=_combined_norms(directions, amounts.norms).cpu(),
        direct_effect=predict(direct_amounts),
        patterns={component_name(item): amounts.pattern(item) for item in pattern_heads},
        pattern_gradients={component_name(item): predict(amounts.edges(item)) for item in pattern_heads},
        head_types=head_type_scores(scoped, seed),
        ablations=ablations,
        spearman=spearman,
        baseline=baseline,
        baseline_tokens=place.baseline_tokens(tokens.tokens),
        target=None if answers else resolved.predicted_target(states[0]),
        answer=answers[0] if answers else None,
        other_answer=answers[1] if len(answers) > 1 else None,
        **record,
        contract=_contract(resolved, place, states[0], baseline, rules),
        settings=resolved.settings(
            place.position,
            baseline=baseline,
            verified=len(ablations),
            seed=seed,
            divergence=directions.squared,
            **({} if rules is None else {"mlp_rules": str(rules)}),
            matmul_dtype=scoped.matmul_dtype,
        ),
        memory=replace(plan, peak=gauge.peak()),
        warnings=[
            *directions.warnings,
            *resolved.target_warnings(place, states[0]),
            *([_RESTRICTION_WARNING.format(path=resolved.path)] if is_restricted and ablations else []),
            *disagreement_warnings(spearman, f"{len(ablations)} components", "ablations"),
        ],
    )


@dataclass(frozen=True)
class _Sites:
    """Hook names, by layer: what heads and MLPs put out, the values that heads move, and their patterns."""

    heads: list[str]
    mlps: list[str]
    values: list[str]
    patterns: list[str]

    @classmethod
    def of(cls, model: ScopedModel) -> _Sites:
        layers = range(model.n_layers)
        with_mlps = not bool(getattr(model.cfg, "attn_only", False))
        return cls(
            heads=[component_site((layer, 0)) for layer in layers],
            mlps=[component_site((layer, None)) for layer in layers if with_mlps],
            values=[f"blocks.{layer}.attn.hook_v" for layer in layers],
            patterns=[f"blocks.{layer}.attn.hook_pattern" for layer in layers],
        )

    @property
    def outputs(self) -> list[str]:
        return [*self.heads, *self.mlps]

    @property
    def names(self) -> list[str]:
        return [*self.outputs, *self.values, *self.patterns]


@dataclass(frozen=True)
class _Layout:
    """The positions of what the model reads, once each: those of the prompt, then those of each answer.

    Attributes:
        shared: how many positions are the prompt's, with which every row begins.
        lengths: of the rows, one for each answer.
    """

    shared: int
    lengths: list[int]

    def values(self, rows: Float[Tensor, "row pos ..."]) -> Float[Tensor, "place ..."]:
        """An activation at each position."""
        return torch.cat([rows[0, : self.shared], *self._answer_rows(rows)])

    def gradients(self, rows: Float[Tensor, "row pos ..."]) -> Float[Tensor, "place ..."]:
        """The gradient of an activation, to which at the prompt's positions every row adds."""
        return torch.cat([rows[:, : self.shared].sum(0), *self._answer_rows(rows)])

    def patterns(self, rows: Float[Tensor, "row head dest src"]) -> Float[Tensor, "head place place"]:
        """The attention among all positions; answers do not see each other."""
        count = self.shared + sum(length - self.shared for length in self.lengths)
        patterns = rows.new_zeros(rows.shape[1], count, count)
        start = self.shared
        # Each row is the prompt, whose places all rows share, and an answer, which has places of its own.
        for row, length in zip(rows, self.lengths, strict=True):
            places = [*range(self.shared), *range(start, start + length - self.shared)]
            patterns[:, torch.tensor(places)[:, None], places] = row[:, :length, :length]
            start += length - self.shared
        return patterns

    def _answer_rows(self, rows: Tensor) -> list[Tensor]:
        return [row[self.shared : length] for row, length in zip(rows, self.lengths, strict=True)]


@dataclass(frozen=True)
class _Amounts:
    """a_i,h along each direction i, for heads and MLPs moved to their baselines, and their parts by source.

    Attributes:
        heads, mlps: Σ_dest g_i,dest · (b − z_dest).
        by_source: −Σ_dest A[dest, src] ∂/∂A[dest, src]: the part that comes through one source, against zero.
        norms: ‖g_i,dest‖₂.
        pattern_gradients: ∂/∂A[dest, src] of each direction and layer.
        patterns: A of each layer.
    """

    heads: Float[Tensor, "k layer head"]
    mlps: Float[Tensor, "k mlp_layer"]
    by_source: Float[Tensor, "k layer head pos"]
    norms: Float[Tensor, "k layer head pos"]
    pattern_gradients: list[list[Float[Tensor, "head pos pos"]]]
    patterns: list[Float[Tensor, "head pos pos"]]

    def edges(self, head: tuple[int, int]) -> Float[Tensor, "k pos pos"]:
        """−A ∘ ∂/∂A of one head: the effect of leaving out each attention edge."""
        layer, index = head
        gradients = torch.stack([by_layer[layer][index] for by_layer in self.pattern_gradients])
        return (-self.patterns[layer][index] * gradients).to(self.heads.device)

    def pattern(self, head: tuple[int, int]) -> Float[Tensor, "pos pos"]:
        """A of one head."""
        layer, index = head
        return self.patterns[layer][index].float().cpu()


def _amounts_of_each(
    graph: Trace, directions: Directions, sites: _Sites, baselines: dict[str, Tensor], layout: _Layout
) -> _Amounts:
    """One backward pass per direction, to the components' outputs alone.

    ∂/∂A is not asked of autograd: z_dest = Σ_src A[dest, src] v_src, so ∂/∂A[dest, src] = g_dest · v_src.
    """
    dtype, place = compute_dtype(graph.final_states.dtype), directions.vectors.device  # layers may be on several

    def value(name: str) -> Tensor:
        return layout.values(graph.activations[name].detach()).to(dtype)

    patterns = [layout.patterns(graph.activations[name].detach()).to(dtype) for name in sites.patterns]
    sources = [_per_head(value(name), len(pattern)) for name, pattern in zip(sites.values, patterns, strict=True)]
    moves = {name: layout.values(baselines[name]).to(dtype) - value(name) for name in sites.outputs}  # b − z
    heads, mlps, by_source, norms, edges = [], [], [], [], []
    for index, vectors in enumerate(directions.by_prediction):
        gradients = graph.gradients(vectors, keep_graph=index + 1 < len(directions.vectors))
        g = {name: layout.gradients(gradients[name]).to(dtype) for name in sites.outputs}
        for name, gradient in g.items():
            check_gradients(gradient, name, gradients[name].dtype)
        # Σ_dest g · (b − z) of each head; of each MLP below.
        heads.append(
            torch.stack([einsum(g[z], moves[z], "pos head d, pos head d -> head").to(place) for z in sites.heads])
        )
        rows = [(g[out] * moves[out]).sum().to(place) for out in sites.mlps]
        mlps.append(torch.stack(rows) if rows else heads[0].new_zeros(0))
        norms.append(torch.stack([rearrange(g[z].norm(dim=-1), "pos head -> head pos").to(place) for z in sites.heads]))
        # ∂/∂A of every edge, and its part −A ∘ ∂/∂A summed by source.
        by_edge = [
            einsum(g[z], source, "dest head d, src head d -> head dest src")
            for z, source in zip(sites.heads, sources, strict=True)
        ]
        edges.append(by_edge)
        by_source.append(torch.stack([-(A * dA).sum(1).to(place) for A, dA in zip(patterns, by_edge, strict=True)]))
    return _Amounts(torch.stack(heads), torch.stack(mlps), torch.stack(by_source), torch.stack(norms), edges, patterns)


def _read_mlp_rules(rules: RulesLike) -> Rules | Literal["auto"] | None:
    """Rules by name; "auto" for those of `_best_rules`, and "none", which a command line can say, for None."""
    names = [rules] if isinstance(rules, str) else rules
    if isinstance(names, Sequence) and len(names) == 1 and names[0] in (AUTO, "none"):
        return AUTO if names[0] == AUTO else None
    return as_rules(rules)


def _best_rules(resolved: ResolvedSpec, other_prompt: bool) -> Rules | None:
    """The rules whose predictions agreed best with ablating MLPs (`analyses/components.py`), or the next that the model
    has places for; none where the path has rules of its own."""
    path = resolved.path or Path()
    if path.rules or not has_mlps(resolved.model):
        return None
    relp, constant = Rules("relp"), Rules("norms", "patterns")
    for rules in (constant, relp) if other_prompt else (relp, constant):
        try:
            (path & rules).hooks(resolved.model)
        except PathError:
            continue
        return rules
    return None


def _mlp_amounts(
    model: ScopedModel,
    place: PromptPosition,
    directions: Directions,
    path: Path,
    sites: _Sites,
    baselines: dict[str, Tensor],
    layout: _Layout,
) -> Float[Tensor, "k mlp_layer"]:
    """The amounts of MLPs alone, with gradients through another path."""
    graph = trace(model, place.sequences, sites.mlps, path.hooks(model), place.reads)
    dtype, device = compute_dtype(graph.final_states.dtype), directions.vectors.device
    amounts = []
    for index, vectors in enumerate(directions.by_prediction):
        gradients = graph.gradients(vectors, keep_graph=index + 1 < len(directions.vectors))
        row = []
        for name in sites.mlps:
            move = layout.values(baselines[name]).to(dtype) - layout.values(graph.activations[name].detach()).to(dtype)
            gradient = layout.gradients(gradients[name]).to(dtype)
            check_gradients(gradient, name, gradients[name].dtype)
            row.append((gradient * move).sum().to(device))
        amounts.append(torch.stack(row))
    return torch.stack(amounts)


def _by_component(
    effect: Float[Tensor, "layer head"], mlp_effect: Float[Tensor, " mlp_layer"]
) -> dict[Component, float]:
    """The predicted effect of each head and MLP."""
    effects: dict[Component, float] = {
        (layer, head): value for layer, row in enumerate(effect.tolist()) for head, value in enumerate(row)
    }
    return effects | {(layer, None): value for layer, value in enumerate(mlp_effect.tolist())}


def _components_to_ablate(effects: dict[Component, float], verify: int | None, length: int) -> list[Component]:
    """The strongest components, as many as asked for; by default all of them, where that is cheap."""
    strongest = sorted(effects, key=lambda item: -abs(effects[item]))
    # An ablation is a forward pass over all tokens: all components while those stay few.
    if verify is None:
        verify = len(strongest) if len(strongest) * length <= _ABLATION_TOKENS else _FEW_ABLATIONS
    return strongest[:verify]


def _per_head(values: Float[Tensor, "pos kv_head d_head"], n_heads: int) -> Float[Tensor, "pos head d_head"]:
    """Grouped-query models share each value head among several query heads."""
    return repeat(values, "pos kv_head d_head -> pos (kv_head group) d_head", group=n_heads // values.shape[1])


def _direct_amounts(
    model: ScopedModel,
    place: PromptPosition,
    directions: Directions,
    path: Path | None,
    baselines: dict[str, Tensor],
) -> Float[Tensor, "k layer head"]:
    """Amounts along the route head → residual stream → final norm, with the norms' scales held at their values.

    ∂y/∂resid_post of the last layer is carried unchanged by the skip to every layer's attention output; from there
    one short product leads to that layer's z.
    """
    frozen = Frozen("norms") if path is None else path & Frozen("norms")
    last = f"blocks.{model.n_layers - 1}.hook_resid_post"
    z_names = [f"blocks.{layer}.attn.hook_z" for layer in range(model.n_layers)]
    out_names = [f"blocks.{layer}.hook_attn_out" for layer in range(model.n_layers)]
    graph = trace(model, place.sequences, [*z_names, *out_names, last], frozen.hooks(model), place.reads)
    amounts = []
    for vectors in directions.by_prediction:
        # ∂y/∂resid_post of the last layer, which every layer's output reaches unchanged through the skips.
        (at_end,) = torch.autograd.grad(
            graph.final_states, graph.activations[last], vectors.to(graph.final_states), retain_graph=True
        )
        rows = []
        for z_name, out_name in zip(z_names, out_names, strict=True):
            z, out = graph.activations[z_name], graph.activations[out_name]
            # A capture at hook_attn_out is a node of the graph, so this product goes through W_O (and a norm after
            # attention, where the block has one) and nothing else.
            (gradient,) = torch.autograd.grad(out, z, at_end.to(out), retain_graph=True)
            dtype = compute_dtype(z.dtype)
            move = baselines[z_name].to(dtype) - z.detach().to(dtype)
            row = einsum(gradient.to(dtype), move, "row pos head d, row pos head d -> head")
            rows.append(row.to(directions.vectors.device))
        amounts.append(torch.stack(rows))
    return torch.stack(amounts)


def _real_changes(
    resolved: ResolvedSpec,
    place: PromptPosition,
    states: Sequence[FinalState],
    components: list[Component],
    baselines: Mapping[str, Tensor],
    progress: Progress | None,
    budget: Budget,
) -> dict[Component, float]:
    """What the output explained really changes by when each component alone is set to its baseline."""
    if not components:
        return {}
    ys = ablated_final_states(resolved.model, place, components, baselines, progress, budget).to(states[0].y)
    after = [FinalState.several(y, resolved.unembedding, place.targets) for y in ys]
    return {part: resolved.change(place, states, state) for part, state in zip(components, after, strict=True)}


def _combined_norms(directions: Directions, norms: Float[Tensor, "k ..."]) -> Float[Tensor, ...]:
    return torch.einsum("k,k...->...", directions.weights.to(norms), norms**2).sqrt()


def _existing_head(model: ScopedModel, head: str | tuple[int, int]) -> tuple[int, int]:
    layer, index = parse_head(head)
    if layer >= model.cfg.n_layers or index >= model.cfg.n_heads:
        raise PathError(
            f"head L{layer}H{index} does not exist; this model has layers 0 to {model.cfg.n_layers - 1} "
            f"with heads 0 to {model.cfg.n_heads - 1}."
        )
    return layer, index


def _contract(
    resolved: ResolvedSpec, place: PromptPosition, state: FinalState, baseline: str, rules: Rules | None
) -> dict[str, str]:
    held = "the weights, all other components' outputs except as they respond, and the explained directions v"
    has_answers = bool(place.answers)
    if has_answers:
        held = f"the answer's tokens, {held}"
    if resolved.path is not None:
        held += f"; {resolved.path.held}"
    if rules is not None:
        held += f"; of MLPs the mean of the effects by the derivative and by rules: {rules.held}"
    target = f"{baseline} baseline"
    if place.other is not None:
        target = f"output under {describe_other_prompt(place.other.text or place.other.token_ids)}"
    process = f"one component at a time is set to its {target}; predicted to first order, verified by ablation"
    return contract(
        output=f"{resolved.output(place, state)}, after position {place.position}",
        features="the output of every attention head (hook_z) and of every MLP (hook_mlp_out), at all positions "
        f"{'of the prompt and the answer ' if has_answers else ''}together",
        process=f"{place.answer_process}; {process}" if has_answers else process,
        held=held,
        score=f"change of the output explained: Σ_dest g · (b − z) along {resolved.objective.equation}"
        f"{OF_ANSWER if has_answers else ''}",
    )
