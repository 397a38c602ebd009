"""HeadInspection: the influence of every attention head and MLP on one prediction or a whole answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.final_state import PredictedToken
from lens_scopes.errors import ResultError, whole_number
from lens_scopes.results.base import AnswerRecord, Entry, Result
from lens_scopes.results.storage.writing import data_frame
from lens_scopes.scopes.paths import Component

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class AblationEffect:
    """One component's effect, predicted to first order and as the intervention found it.

    Attributes:
        layer, head: the component; head None is the layer's MLP.
        predicted: predicted change of the output explained when the component is set to its baseline.
        actual: the change that ablating it brings about.
    """

    layer: int
    head: int | None
    predicted: float
    actual: float

    @property
    def name(self) -> str:
        """L3H2 or L3 MLP."""
        return component_name((self.layer, self.head))


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class HeadInspection(Result):
    """Influence of every attention head and MLP on one prediction or a whole answer.

    Attributes:
        effect: [layer, head], predicted change of the output explained when the head is set to its baseline at every
            position: logits, nats or units of β, as the objective's; negative for a head that supports the output.
            For Fisher Scope a divergence in nats, ≥ 0.
        mlp_effect: [layer], the same for MLPs; empty for attention-only models.
        by_source: [layer, head, pos], the part of the change (against zero) that comes through each source token;
            rows sum to `effect` where the baseline is zero and the objective is a number.
        norms: [layer, head, pos], √(Σ_i w_i ‖v_iᵀ∂y/∂z‖₂²) at each query position, in units of the output per unit of
            z, √nats for a divergence; with one direction the largest effect of a unit change of z.
        direct_effect: [layer, head], the effect along the direct route alone: head → residual stream → final norm,
            scales frozen (direct logit attribution).
        patterns: attention patterns [dest, src] of the strongest heads, by name.
        pattern_gradients: A ∘ ∂/∂A for the same heads: which attention edges carry the effect.
        head_types: for each of TransformerLens' head types, the share of attention on its pattern [layer, head],
            measured on a repeated random sequence.
        ablations: predicted and actual change of the components that were ablated, strongest first.
        spearman: rank correlation of the two; None for fewer than three components, and where predictions go through
            a path that leaves components out, which no ablation does.
        baseline: what a component's output was set to: "zero", "mean", "shuffle", or "prompt" for another prompt's.
        baseline_tokens: the tokens of that other prompt, aligned with `tokens`; empty for the other baselines.
        target: the token explained, for objectives that have one.
        answer: the answer explained, in place of the next token; `tokens` are then the prompt's and the answer's but
            its last.
        other_answer: the answer that it is contrasted with; its tokens but the last follow those of `answer`.

    The other attributes are those of Result.

    Example:
        >>> prompt = "The capital of France is"
        >>> heads = ls.inspect_heads(model, prompt, ls.Semantic(" Paris"), baseline="zero", verify=0)
        >>> torch.allclose(heads.by_source.sum(-1), heads.effect)  # the source tokens' parts add up
        True
    """

    kind = "heads"

    effect: Float[Tensor, "layer head"]
    mlp_effect: Float[Tensor, " mlp_layer"]
    by_source: Float[Tensor, "layer head pos"]
    norms: Float[Tensor, "layer head pos"]
    direct_effect: Float[Tensor, "layer head"]
    patterns: dict[str, Float[Tensor, "pos pos"]]
    pattern_gradients: dict[str, Float[Tensor, "pos pos"]]
    head_types: dict[str, Float[Tensor, "layer head"]]
    ablations: list[AblationEffect]
    spearman: float | None
    baseline: str
    baseline_tokens: list[str] = field(default_factory=list)
    target: PredictedToken | None = None
    answer: AnswerRecord | None = None
    other_answer: AnswerRecord | None = None

    def __repr__(self) -> str:
        named = ", ".join(f"{item.label} {item.score:.3g}" for item in self.top(3))
        agreement = "" if self.spearman is None else f"; ablation agrees with Spearman {self.spearman:.2f}"
        return f"HeadInspection({self.objective} on {self.model['name']}; strongest: {named}{agreement})"

    def entries(self) -> list[Entry]:
        n_layers, n_heads = self.effect.shape
        places = [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
        return [Entry(place, component_name(place), False) for place in places]

    def values(self) -> Float[Tensor, " layer_head"]:
        return rearrange(self.effect, "layer head -> (layer head)")

    def difference_parts(self) -> dict[str, Tensor]:
        names = ("effect", "mlp_effect", "direct_effect", "by_source", "norms")
        return {name: getattr(self, name) for name in names}

    def type_of(self, layer: int, head: int, threshold: float = 0.4) -> str | None:
        """The head type with the largest share of the head's attention, where that is above the threshold.

        Raises:
            ResultError: for a layer or head that the model does not have.
        """
        layers, heads = self.effect.shape
        layer = whole_number(layer, "a layer", ResultError, most=layers - 1)
        head = whole_number(head, "a head", ResultError, most=heads - 1)
        if isinstance(threshold, bool) or not isinstance(threshold, int | float):
            raise ResultError(f"the threshold is a number; got {type(threshold).__name__}.")
        name, share = max(
            ((name, float(scores[layer, head])) for name, scores in self.head_types.items()), key=lambda x: x[1]
        )
        return name if share >= threshold else None

    @classmethod
    def from_record(cls, record: Mapping[str, Any], tensor: Any) -> HeadInspection:
        result = super().from_record(record, tensor)
        if result.pattern_gradients and result.pattern_gradients.keys() != result.patterns.keys():
            raise ValueError("pattern_gradients are of other heads than patterns")
        return result

    def to_pandas(self) -> pandas.DataFrame:
        """One row per head: layer, head, name, effect, direct_effect, norm, each head type's share, top source token,
        and the actual effect where the head was ablated. `norm` is √Σ over positions of `norms`², in the unit of
        `norms`."""
        actual = {(item.layer, item.head): item.actual for item in self.ablations}
        rows = []
        for layer in range(self.effect.shape[0]):
            for head in range(self.effect.shape[1]):
                source = int(self.by_source[layer, head].abs().argmax())
                rows.append(
                    {
                        "layer": layer,
                        "head": head,
                        "name": component_name((layer, head)),
                        "effect": float(self.effect[layer, head]),
                        "actual": actual.get((layer, head), float("nan")),
                        "direct_effect": float(self.direct_effect[layer, head]),
                        "norm": float(self.norms[layer, head].square().sum().sqrt()),
                        "source": self.tokens[source],
                        **{name: float(scores[layer, head]) for name, scores in self.head_types.items()},
                    }
                )
        return data_frame(rows)


def component_name(component: Component) -> str:
    """L3H2 for a head, "L3 MLP" for an MLP."""
    layer, head = component
    return f"L{layer} MLP" if head is None else f"L{layer}H{head}"


def strongest_heads(effect: Float[Tensor, "layer head"], k: int) -> list[tuple[int, int]]:
    """The k heads of largest absolute value, strongest first."""
    order = effect.abs().flatten().argsort(descending=True, stable=True)[:k].tolist()
    return [divmod(index, effect.shape[1]) for index in order]
