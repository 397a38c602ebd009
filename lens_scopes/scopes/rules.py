"""Rules on the backward pass: what goes back through a nonlinearity, in place of its derivative, while the forward pass
stays exactly the model's.

    norms, patterns, gates   constant, as `Frozen` holds them
    half-av, half-qk         half of the gradient for each factor of the products A·V and Q·K
    half-gate                half of it for each factor of act(gate)·up
    identity                 act(x)/x in place of act′(x)
    softmax@T                the Jacobian diag(s) − s sᵀ of the attention's softmax at s = softmax(scores / T)

With norms constant, the half and identity rules give relevances x·g that add up to the output explained, but for what
biases, and the softmax where it keeps its Jacobian, take (arXiv:2402.05602).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lens_scopes.engine.model import Hook, ScopedModel
from lens_scopes.errors import PathError
from lens_scopes.scopes.registry import FREEZABLE, RULE_SETS, RULES, RuleSet


def check_rules(rules: frozenset[str]) -> None:
    """Raises PathError for rules that contradict each other."""
    temperatures = sorted(rule for rule in rules if rule.startswith("softmax"))
    if len(temperatures) > 1:
        raise PathError(f"one backward pass has one temperature of the softmax; got {' and '.join(temperatures)}.")


def split_rules(rules: frozenset[str]) -> tuple[list[RuleSet], list[str]]:
    """The sets of rules that are among some rules, and the single ones that no set has."""
    sets: list[RuleSet] = []
    covered: set[str] = set()
    for entry in RULE_SETS.values():
        # Sets overlap: a later one is named only if it adds a rule.
        if rules.issuperset(entry.rules) and not covered.issuperset(entry.rules):
            sets.append(entry)
            covered |= set(entry.rules)
    order = [*FREEZABLE, *RULES]
    singles = sorted(rules - covered, key=lambda rule: order.index(rule.partition("@")[0]))
    return sets, singles


def describe_rule(rule: str) -> str:
    """What a single rule puts in place of the derivative, in words."""
    name, _, temperature = rule.partition("@")
    return f"{FREEZABLE[name]} constant" if name in FREEZABLE else RULES[name].format(temperature=temperature)


def rule_hooks(model: ScopedModel, rules: frozenset[str]) -> Iterator[tuple[str, Hook]]:
    """The forward hooks that put rules in place; they change no activation's value.

    Raises:
        PathError: for a rule that is asked for by itself and has no place in the model: nothing would change. A set of
            rules applies where it can, as in its paper. And for the identity rule on an activation of several entries.
    """
    _require_places(model, rules)
    if "norms" in rules:
        yield from ((name, Tensor.detach) for name in model.hook_dict if name.endswith(".hook_scale"))
    shares = _shares(rules)
    temperature = next((float(rule.partition("@")[2]) for rule in rules if rule.startswith("softmax")), None)
    for layer in range(model.n_layers):
        pattern = f"blocks.{layer}.attn.hook_pattern"
        if "patterns" in rules:
            yield pattern, Tensor.detach
        elif temperature is not None:
            yield pattern, partial(_soften, temperature, model.has_attention_sinks)
        yield from ((f"blocks.{layer}.{name}", partial(_scale_gradient, share)) for name, share in shares.items())
        if has_mlps(model):
            yield from _mlp_hooks(model, layer, rules)


def has_mlps(model: ScopedModel) -> bool:
    """Whether the blocks of a model have MLPs."""
    return not bool(getattr(model.cfg, "attn_only", False))


def _require_places(model: ScopedModel, rules: frozenset[str]) -> None:
    activation = str(getattr(model.cfg, "act_fn", None))
    if "identity" in rules and activation.startswith("solu"):
        raise PathError(
            f"the activation {activation} of this model mixes the entries of x, and act(x)/x takes them one by one; "
            "leave out 'identity'."
        )
    _, singles = split_rules(rules)
    if not has_mlps(model):
        impossible, why = ("half-gate", "identity"), "this model has no MLPs (attention only)"
    elif not model.cfg.gated_mlp:
        impossible, why = ("half-gate",), "the MLPs of this model have no gate"
    else:
        return
    for rule in impossible:
        if rule in singles:
            raise PathError(f"{why}, so the rule {rule!r} would change nothing; leave it out.")


def _shares(rules: frozenset[str]) -> dict[str, float]:
    """What share of the gradient goes on at the factors of products, by the hook.

    Whatever goes back through a pattern goes on through q and k alone. So its half in A·V is taken there, and nobody
    has to read the pattern.
    """
    half_av, half_qk = (0.5 if rule in rules else 1.0 for rule in ("half-av", "half-qk"))
    shares = {"attn.hook_q": half_av * half_qk, "attn.hook_k": half_av * half_qk, "attn.hook_v": half_av}
    return {name: share for name, share in shares.items() if share != 1}


def _mlp_hooks(model: ScopedModel, layer: int, rules: frozenset[str]) -> Iterator[tuple[str, Hook]]:
    """With act(gate)·up a constant gate lets gradient through `up` alone. Without a gate post = pre · (post/pre) with
    the ratio constant, which is the identity rule."""
    mlp, has_gate = f"blocks.{layer}.mlp", bool(model.cfg.gated_mlp)
    if "half-gate" in rules and has_gate:
        yield from ((f"{mlp}.{name}", partial(_scale_gradient, 0.5)) for name in ("hook_pre", "hook_pre_linear"))
    if "gates" in rules and has_gate:
        yield f"{mlp}.hook_pre", Tensor.detach
    elif rules & {"gates", "identity"}:
        yield from _identity_hooks(mlp, model.gated_bias(layer))


def _identity_hooks(mlp: str, bias: Tensor | None) -> list[tuple[str, Hook]]:
    """What goes back to pre: (post/pre), in place of what goes through the activation.

    Args:
        bias: what the model adds to act(gate)·up.
    """
    inputs: list[Tensor] = []

    def hold(pre: Tensor) -> Tensor:
        inputs[:] = [pre]
        return pre.detach()

    def pass_on(post: Tensor) -> Tensor:
        pre, value = inputs.pop(), post.detach()
        # The activation itself without the bias added after it, over its input: act(x)/x.
        ratio = (value if bias is None else value - bias) / pre.detach()
        return post + torch.where(pre == 0, 0, ratio) * (pre - pre.detach())

    return [(f"{mlp}.hook_pre", hold), (f"{mlp}.hook_post", pass_on)]


def _scale_gradient(share: float, activation: Tensor) -> Tensor:
    return activation.detach() + share * (activation - activation.detach())


def _soften(temperature: float, sinks: bool, pattern: Tensor) -> Tensor:
    return _SofterSoftmax.apply(pattern, temperature, sinks)


class _SofterSoftmax(torch.autograd.Function):
    """A pattern whose gradient is such that, after the model's own softmax, its scores receive that of a softmax at
    another temperature.

    With p the pattern, s ∝ p^(1/T) and g the gradient at p, scores are to receive t = s (g − Σ s g). The model's own
    softmax makes p (g′ − Σ p g′) of g′ = t/p, and that is t, since Σ t = 0. An attention sink takes a part of each row
    that no gradient comes from: all of g′ then rises by Σ t / p_sink.
    """

    @staticmethod
    def forward(ctx: Any, pattern: Tensor, temperature: float, sinks: bool) -> Tensor:
        ctx.save_for_backward(pattern)
        ctx.temperature, ctx.sinks = temperature, sinks
        return pattern.view_as(pattern)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (pattern,) = ctx.saved_tensors
        wide = torch.promote_types(pattern.dtype, torch.float32)
        p, by_pattern = pattern.to(wide), gradients[0].to(wide)
        # softmax(scores / T), from the pattern: the scores themselves are not at hand.
        soft = p.pow(1 / ctx.temperature)
        total = soft.sum(-1, keepdim=True)
        rest = (1 - p.sum(-1, keepdim=True)).clamp(min=0) if ctx.sinks else torch.zeros_like(total)
        soft = soft / (total + rest.pow(1 / ctx.temperature))
        by_scores = (by_pattern - (by_pattern * soft).sum(-1, keepdim=True)) * soft
        back = torch.where(p == 0, 0, by_scores / p)
        if ctx.sinks:
            back = back + torch.where(rest == 0, 0, by_scores.sum(-1, keepdim=True) / rest)
        return back.to(gradients[0].dtype), None, None
