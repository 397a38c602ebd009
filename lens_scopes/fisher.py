"""Geometry of the predictive distribution at the final state, without ever forming a d_vocab × d_model² product.

    F = Σ_j p_j (w_j − w̄)(w_j − w̄)ᵀ = AᵀA,   A_j = √p_j (w_j − w̄),   KL(p(y) ‖ p(y + δ)) ≈ ½ δᵀFδ

with w_j = ∂logit_j/∂y, which is column j of W_U, times 1 − tanh² where the model soft-caps its logits.
p is concentrated, so A is kept for the few tokens that hold all but a small part of the uncertainty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_scopes.final_state import FinalState

DENSE_LIMIT = 256  # below this an exact eigendecomposition of the smaller Gram matrix is cheapest
KEEP_ALL = 4096  # vocabularies up to this size are never truncated
KEEP_MOST = 32_768  # above this many tokens A no longer fits comfortably; products pass over W_U instead


@dataclass(frozen=True)
class LeadingTerms:
    """The k largest terms of F = Σ_i λ_i u_i u_iᵀ.

    Attributes:
        eigenvalues: λ_i in nats per squared unit of y, largest first; zero beyond the rank of F.
        vectors: u_i as rows, orthonormal where λ_i > 0.
    """

    eigenvalues: Float[Tensor, " k"]
    vectors: Float[Tensor, "k d_model"]


class PredictiveGeometry:
    """The Fisher information F of the next-token prediction at one final state.

    Args:
        state: the final state.
        omitted: tokens are left out of A while their mass stays at or below this share of the mass outside
            the most probable token, so that a confident prediction keeps its alternatives.
    """

    def __init__(self, state: FinalState, omitted: float = 1e-4) -> None:
        self.state = state
        self.kept: Int[Tensor, " m"] = self._choose_tokens(omitted)
        self.flat = len(self.kept) > max(KEEP_MOST, KEEP_ALL)

    def _choose_tokens(self, omitted: float) -> Int[Tensor, " m"]:
        p = self.state.probabilities
        if len(p) <= KEEP_ALL:
            return torch.arange(len(p), device=p.device)
        ordered, order = p.double().sort(descending=True)
        tail = ordered.flip(0).cumsum(0).flip(0)  # mass of each token and of all after it
        budget = omitted * float(tail[1])
        return order[: max(2, int((tail > budget).sum()))]

    @property
    def omitted_mass(self) -> float:
        """The probability of the tokens left out of A; 0 where products pass over the whole vocabulary."""
        if self.flat or len(self.kept) == len(self.state.probabilities):
            return 0.0
        p = self.state.probabilities.double()
        return max(0.0, float(p.sum() - p[self.kept].sum()))

    def _factor(self) -> Float[Tensor, "m d_model"]:
        """A for the kept tokens, about the exact mean w̄ of the whole vocabulary."""
        rows = self.state.logit_gradients(self.kept) - self.state.mean_logit_gradient
        return self.state.probabilities[self.kept].sqrt()[:, None] * rows

    def product(self, vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
        """F v for each row v, over the whole vocabulary: F v = W_U(p ∘ W_Uᵀv) − w̄ (w̄ᵀv)."""
        state, mean = self.state, self.state.mean_logit_gradient
        along = state.logit_changes(vectors)
        return state.combine_logit_gradients(state.probabilities * along) - (vectors @ mean)[:, None] * mean

    def trace(self) -> float:
        """tr F = Σ_j p_j ‖w_j − w̄‖², in nats per squared unit of y."""
        state = self.state
        total = 0.0
        for ids in torch.arange(state.unembedding.d_vocab, device=state.y.device).split(KEEP_MOST):
            rows = state.logit_gradients(ids) - state.mean_logit_gradient
            total += float(state.probabilities[ids].double() @ rows.square().sum(-1).double())
        return total

    def leading(self, rank: int) -> LeadingTerms:
        """The `rank` largest eigenvalues of F and their eigenvectors.

        Dense where the smaller Gram matrix is small; otherwise Lanczos (ARPACK) on products with A, or with
        F itself where the prediction is too flat for A to be kept.
        """
        d_model = self.state.unembedding.d_model
        if self.flat and 4 * rank >= d_model:
            identity = torch.eye(d_model).to(self.state.mean_logit_gradient)
            return _largest_terms(rank, torch.cat([self.product(rows) for rows in identity.split(64)]))
        if self.flat:
            return self._lanczos(rank, lambda v: self.product(v[None])[0], d_model)
        factor = self._factor()
        if min(factor.shape) <= DENSE_LIMIT or 4 * rank >= min(factor.shape):
            return self._dense(rank, factor)
        return self._lanczos(rank, lambda v: (factor @ v) @ factor, d_model)

    @staticmethod
    def _dense(rank: int, factor: Float[Tensor, "m d_model"]) -> LeadingTerms:
        wide = factor.double()
        if wide.shape[0] >= wide.shape[1]:
            return _largest_terms(rank, (wide.T @ wide).to(factor))
        small = _largest_terms(rank, (wide @ wide.T).to(factor))
        raw = small.vectors.double() @ wide
        vectors = raw / raw.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(raw.dtype).tiny)
        return LeadingTerms(small.eigenvalues, vectors.to(factor))

    def _lanczos(self, rank: int, product, size: int) -> LeadingTerms:
        from scipy.sparse.linalg import LinearOperator, eigsh

        y = self.state.mean_logit_gradient

        def multiply(vector: np.ndarray) -> np.ndarray:
            return product(torch.as_tensor(vector.ravel()).to(y)).double().cpu().numpy()

        operator = LinearOperator((size, size), matvec=multiply, dtype=np.float64)  # pyright: ignore[reportCallIssue]
        start = np.random.default_rng(0).standard_normal(size)  # fixed, so that results repeat
        if not multiply(start).any():  # a certain prediction: ARPACK cannot start from nothing
            return LeadingTerms(y.new_zeros(rank), y.new_zeros(rank, size))
        values, columns = eigsh(operator, k=rank, which="LA", v0=start, tol=1e-6)  # pyright: ignore[reportArgumentType]
        order = np.argsort(values)[::-1]
        return LeadingTerms(
            torch.as_tensor(values[order].clip(min=0)).to(y), torch.as_tensor(columns[:, order].T.copy()).to(y)
        )

    def split_trace(
        self, exact: int, samples: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "exact d_model"], Float[Tensor, "samples d_model"]]:
        """Directions a_i, b_s with Σ_i a_i a_iᵀ + E[b_s b_sᵀ] = F exactly, for any final state.

        With B orthonormal columns in vocabulary space (the leading left singular vectors of A), the exact part
        is BᵀA and a sample is Aᵀ(I − BBᵀ)z with z Rademacher over the whole vocabulary. The split is unbiased
        whatever B is; a good B only lowers the variance (Hutch++, arXiv:2010.09649, on the factor A).
        """
        state = self.state
        mean, root = state.mean_logit_gradient, state.probabilities.sqrt()
        basis = root.new_zeros(0, len(root))
        if exact:
            terms = self.leading(min(exact, state.unembedding.d_model))
            left = root * (state.logit_changes(terms.vectors) - (terms.vectors @ mean)[:, None])
            kept = terms.eigenvalues > terms.eigenvalues[0] * 1e-10
            basis = torch.linalg.qr(left[kept].T).Q.T
        signs = torch.randint(0, 2, (samples, len(root)), generator=generator).to(root) * 2 - 1
        remainder = signs - (signs @ basis.T) @ basis
        weights = torch.cat([basis, remainder]) * root
        rows = state.combine_logit_gradients(weights) - weights.sum(-1, keepdim=True) * mean
        return rows[: len(basis)], rows[len(basis) :]


def _largest_terms(rank: int, matrix: Float[Tensor, "n n"]) -> LeadingTerms:
    """Dense eigendecomposition, in float64; padded with zero terms beyond the matrix's size."""
    values, columns = torch.linalg.eigh(matrix.double())
    values, vectors = values.flip(0)[:rank].clamp_min(0), columns.T.flip(0)[:rank]
    missing = rank - len(values)
    values = torch.nn.functional.pad(values, (0, missing))
    vectors = torch.nn.functional.pad(vectors, (0, 0, 0, missing))
    return LeadingTerms(values.to(matrix), vectors.to(matrix))
