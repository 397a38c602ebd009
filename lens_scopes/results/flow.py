"""InformationFlow: bounds on the information that a span of the prompt passes to later predictions.

What is kept are eigenvalues of M Mᵀ, so that both values are known at every σ without another pass.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.final_state import PredictedToken
from lens_scopes.errors import VALIDATED, ObjectiveError, ResultError
from lens_scopes.results.base import Difference, Entry, Result
from lens_scopes.results.storage.writing import data_frame

if TYPE_CHECKING:
    import pandas

Sigma: TypeAlias = Annotated["float", VALIDATED]

CURVE = tuple(10 ** (step / 4 - 3) for step in range(17))
"""The noise scales of a curve unless others are given: 0.001 to 10, four a decade."""

Measure = Literal["bound", "channel", "fisher"]
MEASURES: tuple[Measure, ...] = get_args(Measure)
"""The values of a span that a threshold can be on."""


@dataclass(frozen=True)
class SpanFlow:
    """The information flow of one span, summed over the predictions of the answer, in nats.

    Attributes:
        name, start, stop, text: the span, in tokens, and what it says.
        bound: ½ σ² tr(M Mᵀ).
        bound_error: its standard error, from the random directions; 0 where none were needed.
        channel: ½ log det(I + σ² M Mᵀ), summed over the predictions.
        joint: the same of one channel to all predictions together; at most `channel`.
        omitted: the part of `bound` that the `rank` leading directions leave out and random ones estimate. Without
            them `channel` would be smaller, by at most this much.
        fisher: the part of `bound` along the leading direction alone: ½ σ² times Fisher Scope of rank 1 on the span.
            Not a number for a result saved before it was recorded.
    """

    name: str
    start: int
    stop: int
    text: str
    bound: float
    bound_error: float
    channel: float
    joint: float
    omitted: float
    fisher: float


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class InformationFlow(Result):
    """How much a span of a prompt could tell through the predictions made after it.

    Noise ε ~ N(0, σ²I) on the embeddings of one span S at a time, the answer's earlier tokens given. With
    F = Σ_i λ_i u_i u_iᵀ at one prediction and M = diag(√λ) Uᵀ J_S:

    - `bound`: ½ σ² tr(M Mᵀ), to second order in σ the value of E_ε KL(p_ε ‖ p_0), which is at least I(ε; Y);
    - `channel`: ½ log det(I + σ² M Mᵀ), the mutual information of the Gaussian channel that matches to first order. It
      grows like log σ and not like σ², is at most `bound`, and is no bound itself at large σ.

    σ is given in units of the typical root mean square coordinate of an embedding, `embedding_norm`/√d_model: at 1 the
    noise on a token is as long as the median embedding of the vocabulary.

    Attributes:
        spans: token ranges [start, stop) by name.
        sigma: the σ of the values shown unless another is asked for.
        embedding_norm: median of ‖x‖₂ over the vocabulary, as the model embeds it.
        rank: leading directions of each prediction, k, taken exactly.
        samples: random directions that stand for what they leave out; 0 where they leave out nothing.
        eigenvalues: of M Mᵀ of each span and prediction, per squared unit of embedding norm, largest first.
        joint_eigenvalues: of one M that stacks all predictions.
        omitted: the part of tr(M Mᵀ) that the leading directions leave out, by an estimate without bias.
        omitted_error: its standard error.
        leading: λ₁ ‖u₁ᵀ J_S‖², the part of tr(M Mᵀ) along the leading direction of each prediction, which is Fisher
            Scope of rank 1 on the span as a whole; None in files from before it was kept.
        destinations: the positions after which predictions are explained.
        targets: the answer's token that follows each, where there is an answer.
        predicted: the model's own top token after each.
        answer: how many of the last tokens are the answer, given or generated; 0 for the one next-token prediction.
        generated: whether the model generated the answer itself.
        d_model: width of the embeddings.

    The other attributes are those of Result; `position` is the last destination.

    Example:
        >>> flow = ls.information_flow(model, "The capital of France is", {"country": " France"})
        >>> [item.name for item in flow.totals()], flow.curve([0.1, 1.0]).columns.tolist()
        (['country'], ['sigma', 'span', 'bound', 'channel', 'joint'])
    """

    kind = "flow"
    aligned = {"span": ("spans",), "dest": ("destinations", "targets", "predicted")}
    derived = {"totals": lambda flow: flow.totals(), "curve": lambda flow: flow.curve().to_dict("list")}

    spans: dict[str, tuple[int, int]]
    sigma: float
    embedding_norm: float
    d_model: int
    rank: int
    samples: int
    eigenvalues: Float[Tensor, "span dest direction"]
    joint_eigenvalues: Float[Tensor, "span joint"]
    omitted: Float[Tensor, "span dest"]
    omitted_error: Float[Tensor, "span dest"]
    leading: Float[Tensor, "span dest"] | None = None
    destinations: list[int]
    targets: list[PredictedToken | None]
    predicted: list[PredictedToken]
    answer: int
    generated: bool

    def __repr__(self) -> str:
        values = ", ".join(f"{item.name!r} {item.bound:.3g}/{item.channel:.3g}" for item in self.totals())
        count = len(self.destinations)
        return (
            f"InformationFlow({self.model['name']}, {count} prediction{'' if count == 1 else 's'}, "
            f"σ={self.sigma:g}, rank {self.rank}; bound/channel in nats: {values})"
        )

    def bound(self, sigma: Sigma | None = None) -> Float[Tensor, "span dest"]:
        """½ σ² tr(M Mᵀ) of each span and prediction, in nats, ≥ 0.

        Args:
            sigma: in units of `embedding_norm`/√d_model; by default `self.sigma`.

        Raises:
            ObjectiveError: for a σ that is not a positive number.
        """
        return 0.5 * self._variance(sigma) * self.eigenvalues.sum(-1)

    def channel(self, sigma: Sigma | None = None) -> Float[Tensor, "span dest"]:
        """½ log det(I + σ² M Mᵀ) of each span and prediction, in nats, ≥ 0 and ≤ `bound`.

        Args and errors are those of `bound`.
        """
        return 0.5 * torch.log1p(self._variance(sigma) * self.eigenvalues).sum(-1)

    def joint(self, sigma: Sigma | None = None) -> Float[Tensor, " span"]:
        """½ log det(I + σ² M Mᵀ) with all predictions stacked in M: what they tell together, without telling it twice.

        At most the sum of `channel` over the predictions. Args and errors are those of `bound`.
        """
        return 0.5 * torch.log1p(self._variance(sigma) * self.joint_eigenvalues).sum(-1)

    def totals(self, sigma: Sigma | None = None) -> list[SpanFlow]:
        """One entry per span: its values summed over the predictions. Args and errors are those of `bound`."""
        half = 0.5 * self._variance(sigma)
        leading = torch.full_like(self.omitted, torch.nan) if self.leading is None else self.leading
        columns = (
            self.bound(sigma).sum(-1),
            half * self.omitted_error.square().sum(-1).sqrt(),  # the predictions' samples are independent
            self.channel(sigma).sum(-1),
            self.joint(sigma),
            half * self.omitted.sum(-1),
            half * leading.sum(-1),
        )
        return [
            SpanFlow(name, start, stop, "".join(self.tokens[start:stop]), *values)
            for (name, (start, stop)), *values in zip(
                self.spans.items(), *(column.tolist() for column in columns), strict=True
            )
        ]

    def curve(self, sigmas: Sequence[Sigma] = CURVE) -> pandas.DataFrame:
        """Both values of each span over σ, summed over the predictions: sigma, span, bound, channel, joint.

        Raises:
            ObjectiveError: for what is no list of σ, each positive and finite.
        """
        if isinstance(sigmas, str) or not isinstance(sigmas, Sequence):
            raise ObjectiveError(f"sigmas are a list of numbers; got {type(sigmas).__name__}.")

        return data_frame(
            [
                {"sigma": sigma, "span": item.name, "bound": item.bound, "channel": item.channel, "joint": item.joint}
                for sigma in sigmas
                for item in self.totals(sigma)
            ]
        )

    def to_pandas(self) -> pandas.DataFrame:
        """One row per span and prediction at `sigma`: span, start, stop, position, target, bound, bound_error, channel,
        omitted."""
        half = 0.5 * self._variance(None)
        bound, channel = self.bound().tolist(), self.channel().tolist()
        omitted, errors = (half * self.omitted).tolist(), (half * self.omitted_error).tolist()
        rows = []
        for row, (name, (start, stop)) in enumerate(self.spans.items()):
            for column, (position, target) in enumerate(zip(self.destinations, self.targets, strict=True)):
                rows.append(
                    {
                        "span": name,
                        "start": start,
                        "stop": stop,
                        "position": position,
                        "target": None if target is None else target.token,
                        "bound": bound[row][column],
                        "bound_error": errors[row][column],
                        "channel": channel[row][column],
                        "omitted": omitted[row][column],
                    }
                )
        return data_frame(rows)

    def above(self, nats: float, measure: Measure = "bound") -> list[SpanFlow]:
        """The spans whose value, summed over the predictions, is not at most `nats`.

        Args:
            nats: the threshold; `calibrate_flow` chooses one from labelled prompts, and says how often it errs.
            measure: "bound", "channel", or "fisher" for the part of the bound along the leading direction.

        Raises:
            ResultError: for a threshold that is no number, and a measure of another name.
        """
        if isinstance(nats, bool) or not isinstance(nats, int | float) or math.isnan(nats):
            raise ResultError(f"the threshold is a number of nats; got {str(nats)[:60]}.")
        if not isinstance(measure, str) or measure not in MEASURES:
            raise ResultError(
                f"measure is {', '.join(map(repr, MEASURES[:-1]))} or {MEASURES[-1]!r}; got {str(measure)[:60]!r}."
            )
        return [item for item in self.totals() if not getattr(item, measure) <= nats]

    def entries(self) -> list[Entry]:
        return [Entry(row, name, False) for row, name in enumerate(self.spans)]

    def values(self) -> Float[Tensor, " span"]:
        """The bound of each span at `sigma`, summed over the predictions, in nats."""
        return self.bound().sum(-1)

    def difference_parts(self) -> dict[str, Tensor]:
        return {"bound": self.bound(), "channel": self.channel(), "joint": self.joint()}

    def difference(self, other: Result) -> Difference:
        same_sigma = replace(other, sigma=self.sigma) if isinstance(other, InformationFlow) else other
        return super().difference(same_sigma)

    def _variance(self, sigma: Sigma | None) -> float:
        """σ² in squared units of the embedding."""
        relative = self.sigma if sigma is None else check_sigma(sigma)
        return (relative * self.embedding_norm) ** 2 / self.d_model


_SMALLEST, _LARGEST = 1e-12, 1e12


def check_sigma(sigma: object) -> float:
    """σ as a number.

    Raises:
        ObjectiveError: for one that is not positive and finite.
    """
    if isinstance(sigma, (int, float)) and not isinstance(sigma, bool) and _SMALLEST <= sigma <= _LARGEST:
        return float(sigma)
    raise ObjectiveError(
        f"σ is the size of the noise and must be positive, from {_SMALLEST:g} to {_LARGEST:g}, in units of the "
        f"embedding's typical root mean square coordinate; got {sigma!r}. Give 0.1, for noise a tenth as long as the "
        "median embedding."
    )
