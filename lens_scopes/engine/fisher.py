"""Geometry of the predictive distribution at the final state, without ever forming a d_vocab × d_model² product.

    F = Σ_j p_j (w_j − w̄)(w_j − w̄)ᵀ = AᵀA,   A_j = √p_j (w_j − w̄),   KL(p(y) ‖ p(y + δ)) ≈ ½ δᵀFδ

with w_j = ∂logit_j/∂y, which is column j of W_U, times 1 − tanh² where the model soft-caps its logits.
p is concentrated: A of the few most probable tokens gives the leading directions almost, and one or two products with
F over more of them, as many as are needed for an error that is known, give them well enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_scopes.engine.final_state import FinalState

DENSE_LIMIT = 256  # up to this size an eigendecomposition of the smaller Gram matrix is cheapest
KEEP_ALL = 4096  # vocabularies up to this size are kept whole
KEEP_MOST = 8192  # tokens in the first approximation of a larger vocabulary
OVERSAMPLE = 8  # directions of the first approximation beside those asked for
CARRY = 2  # of these, how many go on to the whole vocabulary: each speeds convergence up and costs time
TOLERANCE = 5e-4  # ‖F u − λ u‖ / λ_1 at which directions are good enough
FOLLOWING_TOLERANCE = 0.05  # the same of the pair after those asked for, whose value is then good to about its square
OMITTED_TOLERANCE = 5e-4  # ‖F − F_S‖ / λ_1 at which a share S of the vocabulary stands for all of it
MAX_PASSES = 20  # over the vocabulary, for predictions so flat that directions converge slowly
_FOR_REFERENCE = 256  # tokens


@dataclass(frozen=True)
class LeadingTerms:
    """The k largest terms of F = Σ_i λ_i u_i u_iᵀ.

    Attributes:
        eigenvalues: λ_i in nats per squared unit of y, largest first; zero beyond the rank of F.
        vectors: u_i as rows, orthonormal where λ_i > 0.
        residual: a bound on the ‖F u_i − λ_i u_i‖ / λ_1 that are left; 0 where all of F was decomposed. It bounds the
            distance of each λ_i to some eigenvalue of F. It bounds neither a score, whose error grows as
            residual · λ_1 / (λ_k − λ_{k+1}), nor that the pairs are the leading ones.
        following: λ_{k+1}, as a Ritz value: at most the true one, equal to it where F was decomposed.
        total: tr F; of a large vocabulary an estimate from the tokens of the first approximation.
        converged: whether the solver reached its tolerance.
    """

    eigenvalues: Float[Tensor, " k"]
    vectors: Float[Tensor, "k d_model"]
    residual: float = 0.0
    following: float = 0.0
    total: float = 0.0
    converged: bool = True

    @property
    def gap(self) -> float:
        """λ_{k+1} / λ_k in [0, 1]: near 1 the k-th direction is a choice between near-equals; NaN where λ_k is 0."""
        last = float(self.eigenvalues[-1])
        return min(self.following / last, 1.0) if last > 0 else float("nan")

    @property
    def share(self) -> float:
        """The part of tr F that the k terms hold, in [0, 1]; NaN where F is 0."""
        return min(float(self.eigenvalues.sum()) / self.total, 1.0) if self.total > 0 else float("nan")

    @property
    def resolved(self) -> list[bool]:
        """Whether each λ_i is above its error, residual · λ_1, and above rounding; below, u_i may be any vector."""
        floor = max(self.residual, torch.finfo(self.eigenvalues.dtype).eps) * float(self.eigenvalues[0])
        return [value > floor for value in self.eigenvalues.tolist()]


class PredictiveGeometry:
    """The Fisher information F of the next-token prediction at one final state.

    Leading terms are found on A of the few tokens that hold most of the uncertainty, then refined by products with F
    over all tokens but those that together cannot matter, until ‖F u − λ u‖ ≤ 1e-3 λ_1 over the whole vocabulary, or
    until MAX_PASSES products; `LeadingTerms.converged` says which.

    Args:
        state: the final state.
        omitted: tokens are left out of the first approximation while their mass stays at or below this share of the
            mass outside the most probable token.
    """

    def __init__(self, state: FinalState, omitted: float = 1e-3) -> None:
        self.state = state
        self.token_ids: Int[Tensor, " m"] = self._choose_tokens(omitted)

    def _choose_tokens(self, omitted: float) -> Int[Tensor, " m"]:
        p = self.state.probabilities
        if len(p) <= KEEP_ALL:
            return torch.arange(len(p), device=p.device)
        largest, order = p.topk(min(KEEP_MOST, len(p)))
        rest = (p.sum(dtype=torch.float64) - largest.sum(dtype=torch.float64)).clamp_min(0)
        tail = rest + largest.double().flip(0).cumsum(0).flip(0)  # mass of each token and of all less probable ones
        return order[: max(2, int((tail > omitted * tail[1]).sum()))]

    @cached_property
    def _reference(self) -> Float[Tensor, " d_model"]:
        """A vector near w̄, the mean over a few probable tokens: with w_j − r in place of w_j nothing large cancels."""
        p, ids = self.state.probabilities.topk(min(_FOR_REFERENCE, len(self.state.probabilities)))
        rows = self.state.logit_gradients(ids)
        return rows[0] + (p / p.sum()) @ (rows - rows[0])

    def _factor(self) -> Float[Tensor, "m d_model"]:
        """A for the probable tokens, about their mean."""
        rows = self.state.logit_gradients(self.token_ids)  # a copy of up to 8,192 rows: what follows is in place
        rows -= self._reference
        p = self.state.probabilities[self.token_ids]
        rows -= (p / p.sum()) @ rows
        return rows.mul_(p.sqrt()[:, None])

    def product(self, vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
        """F v for each row v, over the whole vocabulary."""
        return self._product(vectors, self.state.unembedding.blocks())

    def _product(
        self, vectors: Float[Tensor, "n d_model"], blocks: Iterable[tuple[slice | Tensor, Tensor]]
    ) -> Float[Tensor, "n d_model"]:
        """F v = Σ_j c_j (w_j − r) − s sᵀv / Σ_j p_j with c_j = p_j (w_j − r)ᵀv and s = Σ_j p_j (w_j − r), for any r.

        The sums run over the blocks of tokens given. W_U is read once: a block of it stays in the processor's cache
        for the products on either side.
        """
        state, r = self.state, self._reference
        offsets = torch.cat([vectors @ r, r.new_full((1,), -1)])
        padded = torch.cat([vectors, vectors.new_zeros(1, len(r))])  # whose c_j is p_j, for s
        total = torch.zeros_like(padded)
        sums = total.new_zeros(len(total))
        for part, rows in blocks:
            along = rows @ padded.T
            slope = None if state.soft_cap_slope is None else state.soft_cap_slope[part, None]
            if slope is not None:
                along *= slope
            along -= offsets
            along *= state.probabilities[part, None]
            sums += along.sum(0)
            total.addmm_((along if slope is None else along * slope).T, rows)
        # Σ c_j (w_j − r) from Σ c_j w_j; then the part of the mean, which is r + s / Σ p_j.
        total -= sums[:, None] * r
        s = total[-1]
        return total[:-1] - (vectors @ s / sums[-1])[:, None] * s

    def trace(self) -> float:
        """tr F = Σ_j p_j ‖w_j − w̄‖², in nats per squared unit of y."""
        return self._trace(self.state.unembedding.blocks())

    def _trace(self, blocks: Iterable[tuple[slice | Tensor, Tensor]]) -> float:
        """Σ_j p_j ‖w_j − r‖² − ‖s‖² / Σ_j p_j with s = Σ_j p_j (w_j − r), over the blocks of tokens given."""
        state, r = self.state, self._reference
        total, mass, s = 0.0, 0.0, torch.zeros_like(r, dtype=torch.float64)
        for part, rows in blocks:
            p = state.probabilities[part]
            apart = rows - r if state.soft_cap_slope is None else rows * state.soft_cap_slope[part, None] - r
            s += (p @ apart).double()
            mass += float(p.sum(dtype=torch.float64))
            total += float(p @ torch.linalg.vecdot(apart, apart))
        return total - float(s @ s) / mass

    def leading(self, rank: int) -> LeadingTerms:
        """The `rank` largest eigenvalues of F and their eigenvectors, to ‖F u − λ u‖ ≤ 1e-3 λ_1 where the result says
        `converged`; with λ_{k+1} and tr F beside them."""
        d_model, d_vocab = self.state.unembedding.d_model, self.state.unembedding.d_vocab
        # A small vocabulary is kept whole, so the terms of its A are exact.
        if len(self.token_ids) == d_vocab:
            return self._of_probable(rank)
        # For many directions F itself, d_model × d_model, costs less than a space that grows to most of it.
        if 4 * rank >= d_model:
            return _largest_terms(rank, self.product(torch.eye(d_model).to(self._reference)))
        # The probable tokens give first directions; products over more of the vocabulary refine them.
        start = self._of_probable(rank + OVERSAMPLE)
        ids, omitted = self._support(OMITTED_TOLERANCE * float(start.eigenvalues[0]))
        head = self.state.unembedding

        def multiply(vectors: Tensor) -> Tensor:
            return self._product(vectors, head.blocks() if ids is None else head.blocks_of(ids))

        terms = _krylov(multiply, start.vectors[: rank + CARRY], rank, TOLERANCE)
        share = omitted / max(float(terms.eigenvalues[0]), torch.finfo(torch.float64).tiny)
        # A pass over W_U for tr F would cost a tenth of a scope: other tokens are taken to be as far out as these.
        p, top = self.state.probabilities.double(), self.token_ids[:1]
        total = start.total * float((p.sum() - p[top]) / (p[self.token_ids].sum() - p[top]))
        return replace(terms, residual=terms.residual + share, total=total)

    def _support(self, allowed: float) -> tuple[Int[Tensor, " n"] | None, float]:
        """Tokens whose F differs from that of the whole vocabulary by at most `allowed` in the operator norm, with the
        bound reached; None for all tokens, where few could be left out.

        0 ⪯ F − F_S ⪯ Σ_{j ∉ S} p_j (w_j − m)(w_j − m)ᵀ, m the mean over S: at most their mass times ‖w_j − m‖², and
        ‖w_j − m‖ ≤ 2 max_j ‖w_j‖.
        """
        p = self.state.probabilities
        farthest = (2 * self.state.unembedding.largest_norm) ** 2
        # Masses of tokens by probability, in steps of a tenth of a decade.
        steps = (p.clamp_min(1e-30).log10() * -10).long()
        masses = torch.bincount(steps, weights=p.double())
        # What all tokens from a step on could add to F at most; the first steps hold the most probable tokens.
        beyond = masses.flip(0).cumsum(0).flip(0) * farthest
        enough = int((beyond > allowed).sum())
        if enough == len(beyond):
            return None, 0.0
        ids = (steps < enough).nonzero()[:, 0]
        return (None, 0.0) if 2 * len(ids) > len(p) else (ids, float(beyond[enough]))

    def _of_probable(self, rank: int) -> LeadingTerms:
        """The largest terms of AᵀA: dense where the smaller Gram matrix is small, else from a Krylov space."""
        factor = self._factor()
        if min(factor.shape) <= DENSE_LIMIT or 4 * rank >= min(factor.shape):
            return self._dense(rank, factor)
        lengths = torch.linalg.vector_norm(factor, dim=-1)
        start = factor[lengths.topk(rank + CARRY).indices]
        terms = _krylov(lambda vectors: (vectors @ factor.T) @ factor, start, rank, TOLERANCE)
        return replace(terms, total=float(lengths.double().square().sum()))

    @staticmethod
    def _dense(rank: int, factor: Float[Tensor, "m d_model"]) -> LeadingTerms:
        wide = factor.double()
        # The Gram matrix stays in float64: in float32 its terms below 1e-7 λ_1 would be rounding errors.
        if wide.shape[0] >= wide.shape[1]:
            terms = _largest_terms(rank, wide.T @ wide)
            return replace(terms, eigenvalues=terms.eigenvalues.to(factor), vectors=terms.vectors.to(factor))
        small = _largest_terms(rank, wide @ wide.T)
        raw = small.vectors @ wide
        vectors = raw / raw.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(raw.dtype).tiny)
        return replace(small, eigenvalues=small.eigenvalues.to(factor), vectors=vectors.to(factor))

    def split_trace(
        self, exact: int, samples: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "exact d_model"], Float[Tensor, "samples d_model"]]:
        """Directions a_i, b_s with Σ_i a_i a_iᵀ + E[b_s b_sᵀ] = F exactly, for any final state.

        With B orthonormal columns in vocabulary space (the leading left singular vectors of A), the exact part
        is BᵀA and a sample is Aᵀ(I − BBᵀ)z with z Rademacher over the whole vocabulary. The split is unbiased
        whatever B is; a good B only lowers the variance (Hutch++, arXiv:2010.09649, on the factor A).
        """
        state = self.state
        root = state.probabilities.sqrt()
        basis = root.new_zeros(0, len(root))
        if exact:
            terms = self.leading(min(exact, state.unembedding.d_model))
            factor_images = root * state.centred_logit_changes(terms.vectors)
            # Terms beyond the rank of F have no direction in vocabulary space.
            nonzero = terms.eigenvalues > terms.eigenvalues[0] * 1e-10
            basis = torch.linalg.qr(factor_images[nonzero].T).Q.T
        signs = random_signs((samples, len(root)), generator).to(root)
        remainder = signs - (signs @ basis.T) @ basis
        rows = state.combine_centred_gradients(torch.cat([basis, remainder]) * root)
        return rows[: len(basis)], rows[len(basis) :]


def random_signs(shape: tuple[int, ...], generator: torch.Generator) -> Int[Tensor, ...]:
    """Rademacher draws: −1 or 1, evenly."""
    return torch.randint(0, 2, shape, generator=generator) * 2 - 1


def _krylov(
    multiply: Callable[[Tensor], Tensor], start: Float[Tensor, "n d_model"], rank: int, tolerance: float
) -> LeadingTerms:
    """Rayleigh–Ritz on a growing space: each product is with the residuals of the wanted pairs that are not good enough
    yet, as in a block Krylov space. The pair after them is wanted to a rough tolerance, for its value alone."""
    basis = torch.linalg.qr(start.T).Q.T
    image = multiply(basis)
    tolerances = start.new_full((rank + 1,), tolerance)
    tolerances[rank] = FOLLOWING_TOLERANCE
    for _ in range(MAX_PASSES):
        # F seen from inside the space, which rounding leaves a little asymmetric.
        ritz = _largest_terms(rank + 1, (basis @ image.T + image @ basis.T) / 2)
        vectors = ritz.vectors @ basis
        # What F gives beside each pair: the directions in which the space falls short.
        residuals = ritz.vectors @ image - ritz.eigenvalues[:, None] * vectors
        errors = residuals.norm(dim=-1) / ritz.eigenvalues[0].clamp_min(torch.finfo(start.dtype).tiny)
        directions = _orthonormal_beside(basis, residuals[errors > tolerances])
        if not len(directions):
            break
        basis, image = torch.cat([basis, directions]), torch.cat([image, multiply(directions)])
    residual = float(errors[:rank].max())
    return LeadingTerms(
        ritz.eigenvalues[:rank],
        vectors[:rank],
        residual=residual,
        following=float(ritz.eigenvalues[rank]),
        converged=residual <= tolerance,
    )


def _orthonormal_beside(basis: Float[Tensor, "n d_model"], rows: Float[Tensor, "m d_model"]) -> Tensor:
    """Orthonormal rows that span what the rows add to the basis, whose own rows are orthonormal."""
    fresh = rows[: basis.shape[1] - len(basis)]
    for _ in range(2):  # once leaves rounding errors along the basis
        fresh = fresh / fresh.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
        fresh = fresh - (fresh @ basis.T) @ basis
        Q, R = torch.linalg.qr(fresh.T)
        fresh = Q.T[R.diagonal().abs() > 1e-3]
    return fresh


def _largest_terms(rank: int, matrix: Float[Tensor, "n n"]) -> LeadingTerms:
    """Dense eigendecomposition, in float64; padded with zero terms beyond the matrix's size. The trace is `total`."""
    values, columns = torch.linalg.eigh(matrix.double())
    values, total = values.flip(0).clamp_min(0), float(matrix.diagonal().sum(dtype=torch.float64))
    following = float(values[rank]) if rank < len(values) else 0.0
    values, vectors = values[:rank], columns.T.flip(0)[:rank]
    missing = rank - len(values)
    values = torch.nn.functional.pad(values, (0, missing))
    vectors = torch.nn.functional.pad(vectors, (0, 0, 0, missing))
    return LeadingTerms(values.to(matrix), vectors.to(matrix), following=following, total=total)
