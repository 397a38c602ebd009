"""Geometry of the predictive distribution at the final state, without ever forming a d_vocab × d_model² product.

    F = Σ_j p_j (w_j − w̄)(w_j − w̄)ᵀ = AᵀA,   A_j = √p_j (w_j − w̄),   KL(p(y) ‖ p(y + δ)) ≈ ½ δᵀFδ

with w_j = ∂logit_j/∂y, which is column j of W_U, times 1 − tanh² where the model soft-caps its logits.
p is concentrated: A of the few most probable tokens gives the leading directions almost, and two or three products with
F over the whole vocabulary give them exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from lens_scopes.final_state import FinalState

DENSE_LIMIT = 256  # up to this size an eigendecomposition of the smaller Gram matrix is cheapest
KEEP_ALL = 4096  # vocabularies up to this size are kept whole
KEEP_MOST = 8192  # tokens kept for a first approximation of a larger vocabulary
OVERSAMPLE = 8  # directions refined beside those asked for: they cost little and speed convergence up
TOLERANCE = 1e-4  # ‖F u − λ u‖ / λ_1 at which directions are good enough
MOST_PASSES = 20  # over the vocabulary, for predictions so flat that directions converge slowly


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

    Leading terms are found on A of the few tokens that hold most of the uncertainty, then refined by products with F
    over the whole vocabulary until they satisfy F u = λ u: nothing is left out.

    Args:
        state: the final state.
        omitted: tokens are left out of the first approximation while their mass stays at or below this share of the
            mass outside the most probable token.
    """

    def __init__(self, state: FinalState, omitted: float = 1e-2) -> None:
        self.state = state
        self.kept: Int[Tensor, " m"] = self._choose_tokens(omitted)

    def _choose_tokens(self, omitted: float) -> Int[Tensor, " m"]:
        p = self.state.probabilities
        if len(p) <= KEEP_ALL:
            return torch.arange(len(p), device=p.device)
        ordered, order = p.topk(min(KEEP_MOST, len(p)))
        rest = (p.sum(dtype=torch.float64) - ordered.sum(dtype=torch.float64)).clamp_min(0)
        tail = rest + ordered.double().flip(0).cumsum(0).flip(0)  # mass of each token and of all less probable ones
        return order[: max(2, int((tail > omitted * tail[1]).sum()))]

    def _factor(self) -> Float[Tensor, "m d_model"]:
        """A for the kept tokens, about the exact mean w̄ of the whole vocabulary."""
        rows = self.state.logit_gradients(self.kept) - self.state.mean_logit_gradient
        return self.state.probabilities[self.kept].sqrt()[:, None] * rows

    def product(self, vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
        """F v for each row v, over the whole vocabulary: F v = Σ_j c_j (w_j − w̄) with c_j = p_j (w_j − w̄)ᵀv."""
        state, mean = self.state, self.state.mean_logit_gradient
        coefficients = state.probabilities * (state.logit_changes(vectors) - (vectors @ mean)[:, None])
        return state.combine_logit_gradients(coefficients) - coefficients.sum(-1, keepdim=True) * mean

    def trace(self) -> float:
        """tr F = Σ_j p_j ‖w_j − w̄‖², in nats per squared unit of y."""
        state = self.state
        total = 0.0
        for ids in torch.arange(state.unembedding.d_vocab, device=state.y.device).split(KEEP_MOST):
            rows = state.logit_gradients(ids) - state.mean_logit_gradient
            total += float(state.probabilities[ids].double() @ rows.square().sum(-1).double())
        return total

    def leading(self, rank: int) -> LeadingTerms:
        """The `rank` largest eigenvalues of F and their eigenvectors, to ‖F u − λ u‖ ≤ 1e-4 λ_1."""
        d_model, d_vocab = self.state.unembedding.d_model, self.state.unembedding.d_vocab
        if len(self.kept) == d_vocab:
            return self._of_kept(rank)
        if 4 * rank >= d_model:
            identity = torch.eye(d_model).to(self.state.mean_logit_gradient)
            return _largest_terms(rank, torch.cat([self.product(rows) for rows in identity.split(64)]))
        return self._refined(rank, self._of_kept(rank + OVERSAMPLE).vectors)

    def _refined(self, rank: int, start: Float[Tensor, "n d_model"]) -> LeadingTerms:
        """Subspace iteration with F itself; each pass over the vocabulary gives Ritz pairs and their residuals."""
        basis = torch.linalg.qr(start.T).Q.T
        for _ in range(MOST_PASSES):
            image = self.product(basis)
            ritz = _largest_terms(rank, (basis @ image.T + image @ basis.T) / 2)
            vectors = ritz.vectors @ basis
            residual = (ritz.vectors @ image - ritz.eigenvalues[:, None] * vectors).norm(dim=-1).max()
            if bool(residual <= TOLERANCE * ritz.eigenvalues[0]):
                break
            basis = torch.linalg.qr(image.T).Q.T
        return LeadingTerms(ritz.eigenvalues, vectors)

    def _of_kept(self, rank: int) -> LeadingTerms:
        """The largest terms of AᵀA: dense where the smaller Gram matrix is small, else by Lanczos (ARPACK)."""
        factor = self._factor()
        if min(factor.shape) <= DENSE_LIMIT or 4 * rank >= min(factor.shape):
            return self._dense(rank, factor)
        return self._lanczos(rank, factor)

    @staticmethod
    def _dense(rank: int, factor: Float[Tensor, "m d_model"]) -> LeadingTerms:
        wide = factor.double()
        if wide.shape[0] >= wide.shape[1]:
            return _largest_terms(rank, (wide.T @ wide).to(factor))
        small = _largest_terms(rank, (wide @ wide.T).to(factor))
        raw = small.vectors.double() @ wide
        vectors = raw / raw.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(raw.dtype).tiny)
        return LeadingTerms(small.eigenvalues, vectors.to(factor))

    @staticmethod
    def _lanczos(rank: int, factor: Float[Tensor, "m d_model"]) -> LeadingTerms:
        from scipy.sparse.linalg import LinearOperator, eigsh

        size = factor.shape[1]

        def multiply(vector: np.ndarray) -> np.ndarray:
            moved = torch.as_tensor(vector.ravel()).to(factor)
            return ((factor @ moved) @ factor).double().cpu().numpy()

        operator = LinearOperator((size, size), matvec=multiply, dtype=np.float64)  # pyright: ignore[reportCallIssue]
        start = np.random.default_rng(0).standard_normal(size)  # fixed, so that results repeat
        if not multiply(start).any():  # a certain prediction: ARPACK cannot start from nothing
            return LeadingTerms(factor.new_zeros(rank), factor.new_zeros(rank, size))
        values, columns = eigsh(operator, k=rank, which="LA", v0=start, tol=1e-4)  # pyright: ignore[reportArgumentType]
        order = np.argsort(values)[::-1].copy()
        eigenvalues = torch.as_tensor(values[order].clip(min=0)).to(factor)
        return LeadingTerms(eigenvalues, torch.as_tensor(columns[:, order].T.copy()).to(factor))

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
