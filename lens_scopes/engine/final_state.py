"""The final state y that the unembedding reads, and the prediction made from it.

    z = W_Uᵀ y + b_U,   logits = c·tanh(z / c) where the model caps them, else z,   p = softmax(logits)

Everything here is computed in float32 (float64 for float64 models), whatever the model's dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

_ROOM = 8  # times the size of what is kept must be free
_CACHED_NUMBERS = 2**20  # 4 MB of float32
_CHUNK_COLUMNS = 32_768  # columns of W_U upcast at a time: 80 MB for d_model = 640


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which norms, softmax and Fisher products are accumulated: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def log_softmax(logits: Float[Tensor, "*batch d_vocab"]) -> Float[Tensor, "*batch d_vocab"]:
    """log p, with the largest entry as −log1p(Σ of the others) so that a probability near one keeps its digits."""
    top = logits.argmax(-1, keepdim=True)
    shifted = logits - logits.gather(-1, top)
    return shifted - torch.log1p(shifted.exp().scatter(-1, top, 0).sum(-1, keepdim=True))


def kl_divergence(before: Float[Tensor, "... d_vocab"], after: Float[Tensor, "... d_vocab"]) -> Float[Tensor, ...]:
    """KL(p ‖ q) = Σ_j p_j (e^{d_j} − 1 − d_j) with d = log q − log p, in nats, ≥ 0, from the logits of p and q.

    The terms are of second order in d. Those of Σ_j p_j (log p_j − log q_j) are of first order: they cancel, and a
    small divergence is lost in rounding. Computed in float64.
    """
    log_p, log_q = before.double().log_softmax(-1), after.double().log_softmax(-1)
    p, d = log_p.exp(), log_q - log_p
    # A token that p excludes adds q_j alone; far from d = 0 nothing cancels, and e^d could overflow.
    near = torch.where(d.abs() < 1, p * (torch.expm1(d) - d), log_q.exp() - p - p * d)
    return torch.where(p > 0, near, log_q.exp()).sum(-1).clamp_min(0)


_Fingerprint = tuple[int, int, torch.Size, torch.dtype, torch.device, float]


class WeightCache:
    """Values computed from a weight, each computed anew once the weight has changed."""

    def __init__(self) -> None:
        self._values: dict[str, tuple[_Fingerprint, Any]] = {}

    def holds(self, name: str, weight: Float[Tensor, "d_model d_vocab"]) -> bool:
        """Whether a value is there and is this weight's as it is now."""
        return name in self._values and self._values[name][0] == _fingerprint(weight)

    def get(self, name: str, weight: Float[Tensor, "d_model d_vocab"], compute: Callable[[], Any]) -> Any:
        """The value of that name for this weight as it is now."""
        if not self.holds(name, weight):
            self._values[name] = _fingerprint(weight), compute()
        return self._values[name][1]


def _fingerprint(weight: Float[Tensor, "d_model d_vocab"]) -> _Fingerprint:
    """What differs once the weights do: the place and PyTorch's count of writes to it; and, for writes that are not
    counted (`weight.data[...] = `), a sum over some numbers of every column, all of them where W_U is small."""
    some = weight.T[:, : max(1, _CACHED_NUMBERS // weight.shape[1])]
    writes = 0 if weight.is_inference() else weight._version
    return weight.data_ptr(), writes, weight.shape, weight.dtype, weight.device, float(some.sum(dtype=torch.float64))


@dataclass(frozen=True)
class Unembedding:
    """The map from the final state to logits, applied at single positions without a [pos, d_vocab] product.

    W_U is used as the model stores it; low-precision weights are upcast a slice of the vocabulary at a time.

    Attributes:
        cache: where what is computed from W_U is kept; that of the model outlives a prediction.
    """

    W_U: Float[Tensor, "d_model d_vocab"]
    b_U: Float[Tensor, " d_vocab"] | None
    soft_cap: float | None
    cache: WeightCache = field(default_factory=WeightCache, repr=False, compare=False)

    @property
    def d_model(self) -> int:
        return self.W_U.shape[0]

    @property
    def d_vocab(self) -> int:
        return self.W_U.shape[1]

    def slices(self) -> Iterator[tuple[slice, Float[Tensor, "d_model chunk"]]]:
        """W_U in the compute dtype, a slice of the vocabulary at a time."""
        dtype = compute_dtype(self.W_U.dtype)
        step = self.d_vocab if self.W_U.dtype == dtype else _CHUNK_COLUMNS
        for start in range(0, self.d_vocab, step):
            part = slice(start, min(start + step, self.d_vocab))
            yield part, self.W_U[:, part].to(dtype)

    def blocks(self) -> Iterator[tuple[slice, Float[Tensor, "block d_model"]]]:
        """The columns of W_U as rows, in the compute dtype, a few at a time: on a processor as many as its cache holds
        while they are used more than once."""
        dtype = compute_dtype(self.W_U.dtype)
        for start in range(0, self.d_vocab, self._block):
            part = slice(start, min(start + self._block, self.d_vocab))
            yield part, self.W_U.T[part].to(dtype)

    def blocks_of(self, token_ids: Int[Tensor, " n"]) -> Iterator[tuple[Int[Tensor, " block"], Tensor]]:
        """`blocks` of some columns only."""
        for ids in token_ids.split(self._block):
            yield ids, self.columns(ids)

    @property
    def _block(self) -> int:
        return max(1, _CACHED_NUMBERS // self.d_model) if self.W_U.device.type == "cpu" else _CHUNK_COLUMNS

    @property
    def largest_norm(self) -> float:
        """max_j ‖w_j‖, remembered: it is the same for every prediction of a model."""
        return self.cache.get(
            "largest norm", self.W_U, lambda: max(float(rows.norm(dim=-1).max()) for _, rows in self.blocks())
        )

    def pre_logits(self, y: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        """z = W_Uᵀ y + b_U, before any soft-cap."""
        y = y.to(self.W_U.device, compute_dtype(self.W_U.dtype))
        z = torch.cat([y @ columns for _, columns in self.slices()], dim=-1)
        return z if self.b_U is None else z + self.b_U.to(z)

    def logits(self, y: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        """The model's logits for final states y, soft-cap included."""
        z = self.pre_logits(y)
        return z if self.soft_cap is None else self.soft_cap * torch.tanh(z / self.soft_cap)

    def columns(self, token_ids: Int[Tensor, " n"]) -> Float[Tensor, "n d_model"]:
        """The columns w_j of W_U for the given tokens, as rows."""
        return self.W_U.T[token_ids.to(self.W_U.device)].to(compute_dtype(self.W_U.dtype))

    def combine(self, coefficients: Float[Tensor, "n d_vocab"]) -> Float[Tensor, "n d_model"]:
        """Σ_j c_j w_j for each row c of coefficients: one pass over W_U for all of them."""
        total = coefficients.new_zeros(coefficients.shape[0], self.d_model)
        for part, columns in self.slices():
            total += coefficients[:, part] @ columns.T
        return total


def in_compute_dtype(weight: Float[Tensor, "d_model d_vocab"], cache: WeightCache) -> Float[Tensor, "d_model d_vocab"]:
    """Low-precision weights upcast once, where a processor's memory has room for it: upcasting a large vocabulary for
    every prediction takes longer than a forward pass of a short prompt."""
    dtype = compute_dtype(weight.dtype)
    if weight.dtype == dtype or weight.device.type != "cpu":
        return weight
    if not cache.holds("upcast", weight):
        import psutil

        if psutil.virtual_memory().available < _ROOM * weight.numel() * torch.finfo(dtype).bits // 8:
            return weight
    return cache.get("upcast", weight, lambda: weight.to(dtype))


@dataclass(frozen=True)
class PredictedToken:
    """One token of the vocabulary with the probability the model gives it as the next token."""

    token_id: int
    token: str
    probability: float


@dataclass(frozen=True)
class Prediction:
    """What the model predicts at the position explained.

    Attributes:
        top: the most probable next tokens, most probable first.
        entropy: H(p) in nats, between 0 and log d_vocab.
        beta: β = ‖y‖₂, the inverse effective temperature (Jacobian Scopes, arXiv:2601.16407).
    """

    top: list[PredictedToken]
    entropy: float
    beta: float


@dataclass(frozen=True)
class FinalState:
    """The final state of one prompt at one position, with the prediction it gives.

    Attributes:
        y: the input of the unembedding, after the final norm.
        unembedding: the map from y to logits.
        target: the token that target-dependent objectives explain when they name none.
    """

    y: Float[Tensor, " d_model"]
    unembedding: Unembedding
    target: int | None = None

    @classmethod
    def several(
        cls, ys: Float[Tensor, "n d_model"], unembedding: Unembedding, targets: Sequence[int | None]
    ) -> list[FinalState]:
        """Final states whose logits come from one product with W_U, which takes as long to read for one as for many."""
        states: list[FinalState] = [cls(y, unembedding, target) for y, target in zip(ys, targets, strict=True)]
        for state, pre_logits in zip(states, unembedding.pre_logits(ys), strict=True):
            vars(state)["pre_logits"] = pre_logits  # what the cached property would keep
        return states

    @cached_property
    def pre_logits(self) -> Float[Tensor, " d_vocab"]:
        """z = W_Uᵀ y + b_U."""
        return self.unembedding.pre_logits(self.y)

    @cached_property
    def logits(self) -> Float[Tensor, " d_vocab"]:
        """The model's logits, soft-cap included."""
        cap = self.unembedding.soft_cap
        return self.pre_logits if cap is None else cap * torch.tanh(self.pre_logits / cap)

    @cached_property
    def log_probabilities(self) -> Float[Tensor, " d_vocab"]:
        """log p, in nats."""
        return log_softmax(self.logits)

    @cached_property
    def probabilities(self) -> Float[Tensor, " d_vocab"]:
        """p = softmax(logits)."""
        return self.log_probabilities.exp()

    @cached_property
    def entropy(self) -> float:
        """H(p) = −Σ_j p_j log p_j, in nats."""
        return float(self.surprisals.sum())

    @cached_property
    def surprisals(self) -> Float[Tensor, " d_vocab"]:
        """−p_j log p_j, in nats: what each token adds to the entropy."""
        p = self.probabilities
        return torch.where(p > 0, -p * self.log_probabilities, 0)

    @property
    def top_token(self) -> int:
        """The most probable next token."""
        return int(self.logits.argmax())

    @property
    def followed_token(self) -> int:
        """The token that is explained where none is named: the target, else the model's own top token."""
        return self.top_token if self.target is None else self.target

    @cached_property
    def soft_cap_slope(self) -> Float[Tensor, " d_vocab"] | None:
        """D_j = ∂logit_j/∂z_j = 1 − tanh²(z_j / c) = cosh⁻²(z_j / c); None without a soft-cap (D = 1)."""
        cap = self.unembedding.soft_cap
        return None if cap is None else torch.cosh(self.pre_logits / cap) ** -2

    def logit_gradients(self, token_ids: Sequence[int] | Int[Tensor, " n"]) -> Float[Tensor, "n d_model"]:
        """∂logit_j/∂y = D_j w_j for the given tokens, as rows."""
        ids = torch.as_tensor(token_ids, device=self.y.device)
        rows = self.unembedding.columns(ids)
        return rows if self.soft_cap_slope is None else rows * self.soft_cap_slope[ids, None]

    def logit_changes(self, vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_vocab"]:
        """(∂logit_j/∂y)ᵀ v for each row v: how logits change along it."""
        along = torch.cat([vectors @ columns for _, columns in self.unembedding.slices()], dim=-1)
        return along if self.soft_cap_slope is None else along * self.soft_cap_slope

    def combine_logit_gradients(self, coefficients: Float[Tensor, "n d_vocab"]) -> Float[Tensor, "n d_model"]:
        """Σ_j c_j ∂logit_j/∂y for each row c: gradients of functions of the whole distribution."""
        slope = self.soft_cap_slope
        return self.unembedding.combine(coefficients if slope is None else coefficients * slope)

    def log_probability_gradient(self, token_id: int) -> Float[Tensor, " d_model"]:
        """∂log p_t/∂y = Σ_{j ≠ t} p_j (∂logit_t/∂y − ∂logit_j/∂y).

        1 − p_t is the sum over the other tokens: where p_t is near one, ∂logit_t/∂y minus the mean would cancel.
        """
        others = self.probabilities.clone()
        others[token_id] = 0
        coefficients = -others
        coefficients[token_id] = others.sum()
        return self.combine_logit_gradients(coefficients[None])[0]

    def centred_logit_changes(self, vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_vocab"]:
        """(∂logit_j/∂y − w̄)ᵀv for each row v. Counted from the top token's, whose own difference from the mean would
        cancel where its probability is near one."""
        along = self.logit_changes(vectors)
        along = along - along[:, self.top_token, None]
        return along - (along @ self.probabilities)[:, None]

    def probability_changes(self, vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_vocab"]:
        """∂p_j/∂y · v = p_j (∂logit_j/∂y − w̄)ᵀv for each row v."""
        return self.probabilities * self.centred_logit_changes(vectors)

    def combine_centred_gradients(self, coefficients: Float[Tensor, "n d_vocab"]) -> Float[Tensor, "n d_model"]:
        """Σ_j c_j (∂logit_j/∂y − w̄) for each row c.

        Summed as Σ_{j ≠ top} c_j (∂logit_j/∂y − ∂logit_top/∂y) + (Σ_j c_j)(∂logit_top/∂y − w̄), whose terms are as
        small as the sum where the top token's probability is near one.
        """
        top = self.top_token
        others = coefficients.clone()
        others[:, top] = 0
        others[:, top] = -others.sum(-1)
        whole = coefficients.sum(-1, keepdim=True)
        return self.combine_logit_gradients(others) + whole * self.log_probability_gradient(top)

    def log_probability_change(self, after: FinalState) -> Float[Tensor, " d_vocab"]:
        """log q − log p, in float64, with q the prediction from `after`."""
        return after.logits.double().log_softmax(-1) - self.logits.double().log_softmax(-1)

    def divergence(self, after: FinalState) -> float:
        """KL(p ‖ q) in nats, with q the prediction from `after`."""
        return float(kl_divergence(self.logits, after.logits))
