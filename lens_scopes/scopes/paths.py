"""Through what influence may flow: which components carry gradient while the forward pass stays exactly the model's.

The residual skip always carries. A component that is not named is held fixed: its output is a constant, so nothing
flows back through it. Three nonlinearities can be frozen besides: attention patterns, normalisation scales and MLP
gates; with all three frozen the model is locally linear in the embeddings and Σ_t J_t x_t, with the constants that its
biases and learned positions add, is the final state (the detached Jacobian, arXiv:2505.24293).

    Layers(5, 9)                   attention and MLP of layers 5 to 9
    Heads("L3H2", "L5H0")          these heads only
    Attention() & Layers(5, 9)     what both carry
    Heads("L3H2") | MLP()          what either carries
    Frozen("patterns", "norms")    everything carries, through constant patterns and scales
    Rules("gim")                   everything carries, by rules in place of derivatives
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import and_, or_
from typing import Annotated, TypeAlias

import torch
from torch import Tensor

from lens_scopes.engine.model import Hook, ScopedModel
from lens_scopes.engine.model.checks import require_live_hooks
from lens_scopes.errors import VALIDATED, PathError, whole_number
from lens_scopes.prompts.tokens import quote
from lens_scopes.scopes.registry import FREEZABLE
from lens_scopes.scopes.rules import check_rules, describe_rule, has_mlps, rule_hooks, split_rules
from lens_scopes.scopes.text.forms import frozen_part, path_form, read_head, read_layers, single_rules

Component = tuple[int, int | None]
"""(layer, head), or (layer, None) for the layer's MLP."""


@dataclass(frozen=True, eq=False, repr=False)
class Path:
    """A set of components that carry gradient, and rules for nonlinearities on the way.

    Build paths from `Layers`, `Heads`, `Attention`, `MLP`, `Frozen` and `Rules`, and combine them: `a & b` carries
    through what both carry, `a | b` through what either does; what one side freezes stays frozen, and rules of either
    side hold everywhere.

    Attributes:
        terms: alternatives, each a conjunction of simple terms; None carries everything.
        rules: single rules by name: what is constant ("patterns", "norms", "gates") and what else goes back by a rule.

    Raises:
        PathError: for rules that contradict each other.

    Example:
        >>> path = ls.Attention() & ls.Layers(1) | ls.MLP()
        >>> str(path)
        'attention and layers 1 or MLPs'
        >>> ls.attribute(model, "The capital of France is", through=path).scores.shape
        torch.Size([6])
    """

    terms: tuple[frozenset[_Term], ...] | None = None
    rules: frozenset[str] = field(default_factory=frozenset)

    def __post_init__(self) -> None:
        check_rules(self.rules)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Path) and (self.terms, self.rules) == (other.terms, other.rules)

    def __hash__(self) -> int:
        return hash((self.terms, self.rules))

    def __repr__(self) -> str:
        """The expression that builds it, such as `Attention() & Layers(5, 9)`."""
        sets, singles = split_rules(self.rules)
        kind = "Frozen" if self.rules <= FREEZABLE.keys() else "Rules"
        names = ", ".join(repr(name) for name in (*(entry.name for entry in sets), *singles))
        rules = [f"{kind}({names})"] if names else []
        if self.terms is None:
            return "".join(rules) or "Path()"
        alternatives = [" & ".join(sorted(map(repr, term))) for term in self.terms] or ["Skip()"]
        expression = " | ".join(alternatives)
        return " & ".join([f"({expression})" if rules and len(alternatives) > 1 else expression, *rules])

    def __and__(self, other: Path) -> Path:
        rules = self.rules | other.rules
        if self.terms is None or other.terms is None:
            return Path(other.terms if self.terms is None else self.terms, rules)
        # Both hold: every alternative of one with every alternative of the other.
        return Path(tuple(a | b for a in self.terms for b in other.terms), rules)

    def __or__(self, other: Path) -> Path:
        rules = self.rules | other.rules
        if self.terms is None or other.terms is None:
            return Path(None, rules)
        return Path(_merge([*self.terms, *other.terms]), rules)

    @property
    def text(self) -> str:
        """The path as a line of text, which `parse_path` reads."""
        sets, singles = split_rules(self.rules)
        rules = [entry.name for entry in sets] + [f"frozen-{name}" if name in FREEZABLE else name for name in singles]
        if self.terms is None:
            return " & ".join(rules)
        alternatives = [
            " & ".join([*parts, *rules])
            for term in self.terms
            for parts in itertools.product(*(simple.texts() for simple in sorted(term, key=str)))
        ]
        return ", ".join(alternatives) or " & ".join(["skip", *rules])

    def __str__(self) -> str:
        sets, singles = split_rules(self.rules)
        frozen, rules = _split_frozen(singles)
        named = [entry.name for entry in sets] + rules
        parts = [] if self.terms is None else [self._components]
        parts += [f"{', '.join(frozen)} frozen"] if frozen else []
        parts += [f"rules {', '.join(named)}"] if named else []
        return "; ".join(parts) or "all components"

    @property
    def held(self) -> str:
        """What a contract says of it: what alone carries gradient, what is constant, and by what rules gradient flows.

        Example:
            >>> (ls.Layers(1) & ls.Frozen("norms")).held
            'gradient flows only through layers 1, all else keeps its value; normalisation scales constant'
        """
        sets, singles = split_rules(self.rules)
        frozen, rules = _split_frozen(singles)
        parts = []
        if self.terms is not None:
            parts.append(f"gradient flows only through {self._components}, all else keeps its value")
        if frozen:
            parts.append(", ".join(map(describe_rule, frozen)))
        if sets or rules:
            of_sets = (
                f"those of {entry.title} ({entry.source}: {', '.join(map(describe_rule, entry.rules))})"
                for entry in sets
            )
            named = "; ".join((*of_sets, *map(describe_rule, rules)))
            parts.append(f"gradient follows rules, not the model's derivative: {named}")
        return "; ".join(parts)

    @property
    def _components(self) -> str:
        """What carries gradient, in words."""
        terms = [" and ".join(sorted(map(str, term))) for term in self.terms or ()]
        return " or ".join(terms) or "the residual skip alone"

    def carried(self, model: ScopedModel) -> set[Component]:
        """The components of this model that carry gradient.

        Raises:
            PathError: when a layer or head does not exist, with the valid range.
        """
        components = _components(model)
        if self.terms is None:
            return components
        for term in self.terms:
            for simple in term:
                simple.check(model)
        return {item for item in components if any(all(simple.has(item) for simple in term) for term in self.terms)}

    def hooks(self, model: ScopedModel) -> list[tuple[str, Hook]]:
        """The forward hooks that hold everything else fixed; they change no activation's value.

        Raises:
            PathError: when the model lacks what the path names, or a hook it needs.
        """
        hooks = [*self._component_hooks(model), *rule_hooks(model, self.rules)]
        points = model.hook_dict
        for name, _ in hooks:
            if name not in points:
                raise PathError(f"the path {str(self)!r} needs the hook {name!r}, which this model does not have.")
        require_live_hooks(model, [name for name, _ in hooks], PathError)
        return hooks

    def _component_hooks(self, model: ScopedModel) -> Iterable[tuple[str, Hook]]:
        if self.terms is None:
            return
        # Outputs are detached, never the stream that they are added to: the skip always carries gradient.
        carried = self.carried(model)
        for layer in range(model.cfg.n_layers):
            heads = [(layer, head) in carried for head in range(model.cfg.n_heads)]
            if not any(heads):
                yield f"blocks.{layer}.hook_attn_out", Tensor.detach
            elif not all(heads):
                yield f"blocks.{layer}.attn.hook_z", _only_heads(heads)
            if has_mlps(model) and (layer, None) not in carried:
                yield f"blocks.{layer}.hook_mlp_out", Tensor.detach


@dataclass(frozen=True, repr=False)
class _Term:
    """A simple set of components: by kind, by layer, or by head."""

    kind: str | None = None
    layers: frozenset[int] | None = None
    heads: frozenset[tuple[int, int]] | None = None

    def has(self, component: Component) -> bool:
        layer, head = component
        if self.heads is not None:
            return component in self.heads
        if self.layers is not None:
            return layer in self.layers
        return (head is None) == (self.kind == "MLP")

    def check(self, model: ScopedModel) -> None:
        n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
        for layer in self.layers or ():
            if not 0 <= layer < n_layers:
                raise PathError(f"layer {layer} does not exist; this model has layers 0 to {n_layers - 1}.")
        for layer, head in self.heads or ():
            if not (0 <= layer < n_layers and 0 <= head < n_heads):
                raise PathError(
                    f"head L{layer}H{head} does not exist; this model has layers 0 to {n_layers - 1} "
                    f"with heads 0 to {n_heads - 1}."
                )
        if self.kind == "MLP" and not has_mlps(model):
            raise PathError("this model has no MLPs (attention only), so nothing can flow through MLP().")

    def __str__(self) -> str:
        if self.heads is not None:
            return "head " + ", ".join(f"L{layer}H{head}" for layer, head in sorted(self.heads))
        if self.layers is not None:
            return f"layers {_ranges(sorted(self.layers))}"
        return "MLPs" if self.kind == "MLP" else "attention"

    def __repr__(self) -> str:
        if self.heads is not None:
            return f"Heads({', '.join(repr(f'L{layer}H{head}') for layer, head in sorted(self.heads))})"
        if self.layers is not None:
            layers = sorted(self.layers)
            ends = dict.fromkeys([layers[0], layers[-1]])
            one_range = layers == list(range(layers[0], layers[-1] + 1))
            return f"Layers({', '.join(map(str, ends)) if one_range else layers})"
        return "MLP()" if self.kind == "MLP" else "Attention()"

    def texts(self) -> list[str]:
        """The term as text: alternatives, of which any carries."""
        if self.heads is not None:
            return [f"L{layer}H{head}" for layer, head in sorted(self.heads)]
        if self.layers is not None:
            return _ranges(sorted(self.layers)).replace("–", "-").split(", ")
        return ["mlp" if self.kind == "MLP" else "attention"]


def _merge(terms: Sequence[frozenset[_Term]]) -> tuple[frozenset[_Term], ...]:
    """Alternatives without repetitions; single sets of layers become one, and so do single sets of heads."""
    layers: set[int] = set()
    heads: set[tuple[int, int]] = set()
    alternatives: dict[frozenset[_Term], None] = {}
    for term in terms:
        (simple,) = term if len(term) == 1 else (_Term(),)  # sets that are intersected stay as they are
        layers |= simple.layers or set()
        heads |= simple.heads or set()
        if simple.layers is None and simple.heads is None:
            alternatives[term] = None
    if layers:
        alternatives[frozenset({_Term(layers=frozenset(layers))})] = None
    if heads:
        alternatives[frozenset({_Term(heads=frozenset(heads))})] = None
    return tuple(alternatives)


PathLike: TypeAlias = Annotated["Path | str | None", VALIDATED]
RulesLike: TypeAlias = Annotated["str | Sequence[str] | None", VALIDATED]
LayerSet: TypeAlias = Annotated["int | Iterable[int]", VALIDATED]


class Layers(Path):
    """Attention and MLP of some layers.

    Args:
        first: one layer, `Layers(5)`; the first of a range, `Layers(5, 9)`; or a set, `Layers([0, 3, 7])`.
        last: the last layer of a range, which is part of it.

    Raises:
        PathError: for a reversed range or an empty set.

    Example:
        >>> str(ls.Layers(5, 9)), str(ls.Layers([0, 3, 7]))
        ('layers 5–9', 'layers 0, 3, 7')
    """

    def __init__(self, first: LayerSet, last: int | None = None) -> None:
        super().__init__((frozenset({_Term(layers=_layer_set(first, last))}),))


class Heads(Path):
    """Some attention heads.

    Args:
        heads: each head as "L3H2" or as (layer, head).

    Raises:
        PathError: for none at all or a name that is not a head's.

    Example:
        >>> str(ls.Heads("L0H1", (1, 2)))
        'head L0H1, L1H2'
    """

    def __init__(self, *heads: str | tuple[int, int]) -> None:
        if not heads:
            raise PathError('Heads needs at least one head, such as Heads("L3H2"); use Skip() for the skip path alone.')
        super().__init__((frozenset({_Term(heads=frozenset(map(parse_head, heads)))}),))


class Attention(Path):
    """All attention heads and no MLP.

    Example:
        >>> str(ls.Attention() & ls.Layers(5, 9))
        'attention and layers 5–9'
    """

    def __init__(self) -> None:
        super().__init__((frozenset({_Term(kind="attention")}),))


class MLP(Path):
    """All MLPs and no attention: a token reaches only its own position, so only the last one has influence.

    Example:
        >>> ls.attribute(model, "The capital of France is", through=ls.MLP()).scores.count_nonzero()
        tensor(1)
    """

    def __init__(self) -> None:
        super().__init__((frozenset({_Term(kind="MLP")}),))


class Skip(Path):
    """The residual skip alone: nothing flows through any component.

    Example:
        >>> str(ls.Skip())
        'the residual skip alone'
    """

    def __init__(self) -> None:
        super().__init__(())


class Frozen(Path):
    """All components, some parts of which are constant on the backward pass.

    Args:
        parts: "patterns" (attention), "norms" (normalisation scales) or "gates" (MLP activations).

    Raises:
        PathError: for none at all or an unknown one.

    Example:
        >>> str(ls.Frozen("patterns", "norms"))
        'patterns, norms frozen'
    """

    def __init__(self, *parts: str) -> None:
        if not parts:
            frozen_part(None)
        super().__init__(None, frozenset(map(frozen_part, parts)))


class Rules(Path):
    """All components, with rules on the backward pass in place of the derivative; activations keep their values.

    Args:
        names: sets of rules, "attnlrp" (AttnLRP), "gim" (GIM) or "relp" (RelP), and single ones: what `Frozen` holds
            constant ("patterns", "norms", "gates"); "half-av", "half-qk" and "half-gate", half of the gradient for each
            factor of the products A·V, Q·K and act(gate)·up; "identity", act(x)/x in place of act′(x); "softmax@T", the
            Jacobian of the attention's softmax at temperature T, 2 unless given.

    A set applies where it can: an MLP without a gate has no product to halve. A single rule without a place is refused.
    Scores under rules are no derivatives: their unit is that of the scope, and what they say of a small change is not
    what the model does. `readout="dot"` gives the relevances that the papers speak of.

    Raises:
        PathError: for none at all, an unknown one, and two temperatures.

    Source: AttnLRP (arXiv:2402.05602), GIM (arXiv:2505.17630), RelP (arXiv:2508.21258).

    Example:
        >>> str(ls.Layers(0, 1) & ls.Rules("gim")), ls.Rules("half-av", "norms").text
        ('layers 0–1; rules gim', 'frozen-norms & half-av')
    """

    def __init__(self, *names: str) -> None:
        super().__init__(None, single_rules(names))


def _layer_set(first: LayerSet, last: int | None) -> frozenset[int]:
    if isinstance(first, Iterable) and not isinstance(first, str) and getattr(first, "ndim", 1):
        layers = frozenset(_layer(layer) for layer in first)
        if last is not None:
            raise PathError("Layers takes a set of layers, or a first and a last one, not both.")
    else:
        first = _layer(first)
        last = first if last is None else _layer(last)
        if last < first:
            raise PathError(f"the range of layers {first}–{last} is reversed; write Layers({last}, {first}).")
        layers = frozenset(range(first, last + 1))
    if not layers:
        raise PathError("the set of layers is empty; name at least one, or use through=Skip() for the skip path alone.")
    return layers


def _layer(layer: object) -> int:
    return whole_number(layer, "a layer", PathError, least=-_MAX_LAYERS, most=_MAX_LAYERS)


_MAX_LAYERS = 999_999


def parse_head(head: str | tuple[int, int]) -> tuple[int, int]:
    """(layer, head) from "L3H2" or a pair.

    Raises:
        PathError: for anything else.
    """
    if isinstance(head, str):
        return read_head(head)
    if isinstance(head, tuple) and len(head) == 2 and all(type(part) is int and part >= 0 for part in head):
        return head
    raise PathError(f'{head!r} is not a head; write "L3H2" for head 2 of layer 3.')


def parse_path(text: str) -> Path:
    """A path from a line of text: alternatives by comma, what must hold together by "&".

    Examples: "5-9", "0,3,7", "L3H2,L5H0", "attention & 5-9", "mlp", "skip", "5-9 & frozen-patterns", "gim",
    "5-9 & half-av & softmax@2".

    Raises:
        PathError: for a part that is none of these.
    """
    kinds: dict[str, Callable[[str], Path]] = {
        "layers": lambda part: Layers(*read_layers(part)),
        "heads": Heads,
        "attention": lambda part: Attention(),
        "mlp": lambda part: MLP(),
        "skip": lambda part: Skip(),
        "frozen": Frozen,
        "rule": Rules,
    }
    alternatives = [[kinds[kind](part) for kind, part in parts] for parts in path_form(text)]
    return reduce(or_, (reduce(and_, parts) for parts in alternatives))


def _components(model: ScopedModel) -> set[Component]:
    layers, heads = range(model.cfg.n_layers), range(model.cfg.n_heads)
    components: set[Component] = {(layer, head) for layer in layers for head in heads}
    return components | {(layer, None) for layer in layers} if has_mlps(model) else components


def _split_frozen(rules: Iterable[str]) -> tuple[list[str], list[str]]:
    """Rules that hold something constant, and all others."""
    rules = list(rules)
    return [rule for rule in rules if rule in FREEZABLE], [rule for rule in rules if rule not in FREEZABLE]


def _only_heads(is_carrier: list[bool]) -> Hook:
    def hook(z: Tensor) -> Tensor:
        mask = torch.tensor(is_carrier, device=z.device)[:, None]
        return torch.where(mask, z, z.detach())

    return hook


def _ranges(layers: list[int]) -> str:
    """ "0–3, 7" for [0, 1, 2, 3, 7]."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)


def as_rules(rules: RulesLike) -> Rules | None:
    """Reads rules given by a name or several; None, or no name, for none.

    Raises:
        PathError: for anything else.
    """
    if rules is None or isinstance(rules, Sequence) and not rules and not isinstance(rules, str):
        return None
    names = [rules] if isinstance(rules, str) else rules
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise PathError(f'rules are given by name, as "relp" or a list of names; got {quote(rules)}.')
    return Rules(*names)


def as_path(through: PathLike) -> Path | None:
    """Reads a path given by object or as a line of text; None restricts nothing.

    Raises:
        PathError: for anything else.
    """
    if through is None or isinstance(through, Path):
        return through
    if isinstance(through, str):
        return parse_path(through)
    raise PathError(
        f'through takes a path such as ls.Layers(5, 9) or a line such as "5-9"; got {type(through).__name__}.'
    )
