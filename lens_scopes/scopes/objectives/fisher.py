"""Fisher Scope: the whole predicted distribution, by the leading terms or the trace of its Fisher information."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from lens_scopes.engine.final_state import FinalState
from lens_scopes.engine.fisher import LeadingTerms, PredictiveGeometry, random_signs
from lens_scopes.engine.model import ScopedModel
from lens_scopes.engine.scoring import Directions
from lens_scopes.errors import ObjectiveError, check_seed
from lens_scopes.prompts.tokens import quote
from lens_scopes.scopes.objectives.base import Objective, is_integer, make_plain, over_answer

if TYPE_CHECKING:
    from typing_extensions import Self

NEAR_EQUAL = 0.98  # λ_{k+1}/λ_k above which a rank cuts between near-equals: analyses/README.md, “Eigenvalue gaps”
_MAX_DRAWN = 100_000
_EXACT = 16  # leading directions that a sampled trace takes exactly
EXACT_TRACE_LIMIT = 128  # models up to this d_model get the whole Fisher trace exactly unless samples are asked for


@dataclass(frozen=True)
class Fisher(Objective):
    """Fisher Scope: which tokens could change the whole next-token distribution the most?

    F = W_U (diag p − p pᵀ) W_Uᵀ = Σ_i λ_i u_i u_iᵀ is the Fisher information of the prediction at y, and
    ½ δᵀFδ the Kullback–Leibler divergence of a small change δ of y, in nats.

    - rank k: score_t = Σ_{i ≤ k} λ_i ‖u_iᵀ J_t‖₂², in nats per squared unit of activation norm, ≥ 0; the paper's
      default is k = 1. Squared at every rank, so that scores grow with the rank up to the trace. Along the k directions
      and to second order, half the score is the largest divergence of a unit change at k = 1; above, it is the mean
      divergence over all directions of a unit change, times their number;
    - rank "trace": score_t = tr(J_tᵀ F J_t), all of it. Exactly, from d_model directions; or, for larger models, from
      `exact` leading directions and `samples` random ones for what they leave, without bias and with its standard
      error in the result.

    Of an answer, score_t = Σ_n tr(J_n,tᵀ F_n J_n,t) or its leading terms, summed over the answer's predictions n: the
    divergence of the whole continuation, by the chain rule, along this one answer. Exactly, that takes rank × length
    backward passes. With `samples` it takes that many at any length and rank, without bias and with a standard error:
    random signs mix the leading terms √λ_i u_i of all predictions.

    Args:
        rank: number of leading terms, between 1 and d_model, or "trace".
        samples: random directions for rank "trace" or for an answer; 0 asks for none, an exact score. By default none
            for a rank; for the trace none up to d_model = 128, else 16; for the trace of an answer 16.
        exact: leading directions taken exactly beside the random ones, for rank "trace". By default 16, and 0 at each
            token of an answer.
        seed: seed of the random directions; the global generator is not touched.

    The result's `settings["details"]` hold for rank k: `eigenvalues`; `residual`, a bound on ‖F u_i − λ_i u_i‖ / λ_1,
    which bounds neither the score nor that the pairs are the leading ones; `gap`, λ_{k+1}/λ_k; `share`, the part of
    tr F that the k directions hold; `converged`. It warns where `gap` is near one or the solver stopped early.

    Source: Jacobian Scopes, arXiv:2601.16407, Fisher Scope.

    Example:
        >>> one = ls.attribute(model, "The capital of France is", ls.Fisher())
        >>> whole = ls.attribute(model, "The capital of France is", ls.Fisher("trace"))
        >>> bool((one.scores <= whole.scores).all()), one.details.share < 1
        (True, True)
    """

    rank: int | Literal["trace"] = 1
    samples: int | None = None
    exact: int | None = None
    seed: int = 0
    scope: ClassVar[str] = "fisher"
    equation: ClassVar[str] = (
        "Σ_i w_i v_i v_iᵀ = F = W_U (diag p − p pᵀ) W_Uᵀ, its leading terms or an unbiased estimate"
    )
    output: ClassVar[str] = "the whole next-token distribution"

    def __post_init__(self) -> None:
        make_plain(self, "rank", "samples", "exact")
        if not (self.rank == "trace" if isinstance(self.rank, str) else is_integer(self.rank) and self.rank >= 1):
            raise ObjectiveError(f'Fisher rank must be a positive integer or "trace"; got {quote(self.rank)}.')
        object.__setattr__(self, "seed", check_seed(self.seed))
        counts = range(_MAX_DRAWN + 1)
        if self.samples is not None and (
            not is_integer(self.samples) or self.samples == 1 or self.samples not in counts
        ):
            raise ObjectiveError(
                "Fisher samples must be 0 (exact) or at least 2 (for a standard error), up to "
                f"{_MAX_DRAWN}; got {self.samples!r}."
            )
        if self.exact is not None and (not is_integer(self.exact) or self.exact not in counts):
            raise ObjectiveError(f"Fisher exact must be a non-negative integer; got {self.exact!r}.")

    def prepare(self, model: ScopedModel) -> Self:
        d_model = model.cfg.d_model
        if self.rank != "trace" and self.rank > d_model:
            raise ObjectiveError(
                f"Fisher rank {self.rank} is above d_model = {d_model}, the most F can have; "
                'ask for a smaller rank, or rank="trace" for all of it.'
            )
        return self

    def check_answer(self, has_answer: bool) -> None:
        if self.rank != "trace" and self.samples and not has_answer:
            raise ObjectiveError(
                f"Fisher(rank={self.rank}) of one prediction needs no random directions, so samples={self.samples} "
                'would be dropped; leave samples out, or take rank="trace".'
            )

    def describe_answer(self, text: str, n_tokens: int) -> str:
        return (
            f"the whole distributions of the {n_tokens} next tokens along the answer {text!r}, their divergences summed"
        )

    def directions(self, state: FinalState) -> Directions:
        geometry = PredictiveGeometry(state)
        if self.rank == "trace":
            samples = self.samples
            if samples is None:
                samples = 0 if state.unembedding.d_model <= EXACT_TRACE_LIMIT else 16
            return self._trace(geometry, samples, _EXACT if self.exact is None else self.exact)
        terms = geometry.leading(self.rank)
        details = {
            "eigenvalues": terms.eigenvalues.tolist(),
            "residual": terms.residual,
            "gap": terms.gap,
            "share": terms.share,
            "converged": terms.converged,
        }
        return Directions(
            terms.vectors, terms.eigenvalues, squared=True, details=details, warnings=solver_warnings(terms)
        )

    def answer_directions(self, states: Sequence[FinalState]) -> Directions:
        if self.rank == "trace":
            samples = 16 if self.samples is None else self.samples
            parts = [self._trace(PredictiveGeometry(state), samples, self.exact or 0) for state in states]
            return over_answer(parts, self.seed + 1)
        parts = [self.directions(state) for state in states]
        if self.samples:
            # √λ_i u_i of one prediction mixed by random signs; `over_answer` gives the predictions theirs.
            parts = [self._mix(part, self.samples, self.seed) for part in parts]
        return over_answer(parts, self.seed + 1)

    @staticmethod
    def _mix(leading: Directions, samples: int, seed: int) -> Directions:
        """Random directions Σ_i ε_i √λ_i u_i, with E‖vᵀJ‖² = Σ_i λ_i ‖u_iᵀJ‖²."""
        signs = random_signs((samples, len(leading.vectors)), torch.Generator().manual_seed(seed)).to(leading.vectors)
        vectors = signs @ (leading.weights.sqrt()[:, None] * leading.vectors)
        return replace(
            leading,
            vectors=vectors,
            weights=vectors.new_full((samples,), 1 / samples),
            sampled=samples,
            details={**leading.details, "exact": 0, "samples": samples},
        )

    def _trace(self, geometry: PredictiveGeometry, samples: int, n_exact: int) -> Directions:
        d_model = geometry.state.unembedding.d_model
        if samples == 0:
            terms = geometry.leading(d_model)
            return Directions(terms.vectors, terms.eigenvalues, squared=True, details={"directions": d_model})
        generator = torch.Generator().manual_seed(self.seed)
        exact, sampled = geometry.split_trace(n_exact, samples, generator)
        weights = torch.cat([exact.new_ones(len(exact)), sampled.new_full((samples,), 1 / samples)])
        details = {"exact": len(exact), "samples": samples}
        return Directions(torch.cat([exact, sampled]), weights, squared=True, sampled=samples, details=details)

    def change(self, before: FinalState, after: FinalState) -> float:
        """KL(p before ‖ p after), in nats."""
        return before.divergence(after)

    def signature(self, label: Callable[[int], str], state: FinalState) -> str:
        return f"{type(self).__name__}(rank={self.rank!r})"


def solver_warnings(terms: LeadingTerms) -> list[str]:
    """Warnings on leading terms of F: a cut between near-equal eigenvalues, a solver that stopped early."""
    warnings, rank = [], len(terms.eigenvalues)
    if terms.gap > NEAR_EQUAL:
        warnings.append(
            f"rank {rank} cuts between near-equal eigenvalues (λ_{rank + 1}/λ_{rank} = {terms.gap:.3f}): the last "
            f"direction, and the scores with it, may turn with any small change of the prompt. Rank {rank + 1} or "
            '"trace" does not cut there.'
        )
    if not terms.converged:
        warnings.append(
            f"Fisher's solver stopped before its tolerance: ‖F u − λ u‖ may be {terms.residual:.1e} of λ_1, and the "
            'directions may not be the leading ones. Rank "trace" needs no solver for its mean.'
        )
    return warnings
