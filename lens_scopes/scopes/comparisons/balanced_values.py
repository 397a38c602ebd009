"""Fisher Scope at the attention values, balanced over layers and over ways back through attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.backward import trace
from lens_scopes.engine.final_state import FinalState
from lens_scopes.engine.model import ScopedModel
from lens_scopes.engine.scoring import Directions, score, site_amplitudes
from lens_scopes.engine.sites import resolve_sites
from lens_scopes.errors import VALIDATED, ObjectiveError, whole_number
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.scopes.comparisons.baseline import Baseline
from lens_scopes.scopes.objectives import Fisher
from lens_scopes.scopes.readouts import as_readout
from lens_scopes.scopes.registry import SCORE_SITES
from lens_scopes.scopes.rules import rule_hooks

if TYPE_CHECKING:
    from typing_extensions import Self

Rank: TypeAlias = Annotated[int, VALIDATED]

_HALF = frozenset({"half-av"})


@dataclass(frozen=True)
class BalancedValues(Baseline):
    """The whole distribution, read at the attention values twice: as `FisherAtValues` does, and less steeply.

        score_t = (A_t² B_t)^⅓  with  A_t = Σ_l a_lt,  B_t = (Σ_l √b_lt)²
        a_lt = √(Σ_h Σ_i λ_i ‖u_iᵀ ∂y/∂v_lht‖₂² ‖v_lht‖₂²),  b_lt the same under the rule half-av

    in √nats, ≥ 0. A is the score of `FisherAtValues`. B lets half of the gradient through each product of patterns and
    values, so that ways through many attention layers count less, and takes roots, so that no one layer decides. It
    agrees better with leaving tokens out than A alone does. Two forward passes and 2·rank backward passes.

    Args:
        rank: leading eigenvectors u_i of the Fisher matrix that are kept, 1 or more.

    Raises:
        ObjectiveError: for a rank that is no whole number above 0, or above d_model.

    Example:
        >>> att = ls.attribute(model, "The capital of France is", ls.BalancedValues())
        >>> bool((att.scores >= 0).all()), att.scores.shape
        (True, torch.Size([6]))
    """

    rank: Rank = 1
    scope: ClassVar[str] = "balanced-values"
    output: ClassVar[str] = "the whole predicted distribution"
    equation: ClassVar[str] = "score_t = (A_t² B_t)^⅓ with A_t = Σ_l a_lt and B_t = (Σ_l √b_lt)²"
    process: ClassVar[str] = (
        "to first order in the attention values of every layer; in b, half of the gradient goes through each product "
        "of attention patterns and values"
    )
    held: ClassVar[str] = "the weights; in both, whatever does not go through the values of the token's position"
    why_alone: ClassVar[str] = "has a site and a readout of its own"

    def __post_init__(self) -> None:
        object.__setattr__(self, "rank", whole_number(self.rank, "the rank", ObjectiveError, least=1))

    def prepare(self, model: ScopedModel) -> Self:
        Fisher(self.rank).prepare(model)
        return self

    def forwards(self, prompt: Prompt) -> int:
        return 2

    @property
    def backwards(self) -> int:
        return 2 * self.rank

    def scores(self, model: ScopedModel, prompt: Prompt, states: Sequence[FinalState]) -> Float[Tensor, " pos"]:
        directions = Fisher(self.rank).directions(states[0])
        steep = _amplitudes(model, prompt, directions, frozenset()).sum(0)
        even = _amplitudes(model, prompt, directions, _HALF).sqrt().sum(0).square()
        return (steep.square() * even).pow(1 / 3).to(states[0].y.dtype)


def _amplitudes(
    model: ScopedModel, prompt: Prompt, directions: Directions, rules: frozenset[str]
) -> Float[Tensor, "layer pos"]:
    """a_lt: how far changes of a layer's values at a token, in proportion to their size, can move the prediction."""
    values = SCORE_SITES["values"]
    sites, readout = resolve_sites(model, values.site), as_readout(values.readout)
    path = list(rule_hooks(model, rules)) if rules else []
    graph = trace(model, [list(prompt.token_ids)], sites, path)
    no_baseline = torch.zeros(())
    scores = score(graph, [directions], lambda name, gradient, x: readout.amplitude(gradient, x, no_baseline))
    return site_amplitudes([scores[name].scores[0] for name in sites], squared=directions.squared).cpu()
