"""Metrics by name: what each one measures, in what unit, and which way is better.

Help, validation, errors and reports take names and words from here. This module imports nothing heavy, so that `--help`
is quick; the function of a metric, whose docstring has its equation, is imported when it is first used.

Special tokens are neither ablated nor ranked. k(f) = max(1, round(f·n)) of n tokens stand for a fraction f, unless the
evaluation follows another protocol (`evaluation/protocol.py`). Scores that have a sign are ranked by value where the
fall of log p(target) is measured, and by magnitude where the whole distribution is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Literal

from lens_scopes.errors import EvaluationError, find_entry

if TYPE_CHECKING:
    from lens_scopes.evaluation.metrics.scored_prompt import MetricValue, ScoredPrompt

AOPC_FRACTIONS = (0.05, 0.10, 0.20)
ERASER_FRACTIONS = (0.01, 0.05, 0.10, 0.20, 0.50)
TOP_TOKENS = 5
CURVE_FRACTIONS = (0.0, 0.05, 0.10, 0.20, 0.35, 0.50, 0.75, 1.0)


@dataclass(frozen=True)
class Quantity:
    """A number about one passage.

    Attributes:
        name: as in results.
        help: what it is, in one line.
        unit: its unit or scale; "" for a share or an index.
        better: which way is better; None where neither is.
        across: what the fraction of a curve is of.
    """

    name: str
    help: str
    unit: str = ""
    better: Literal["lower", "higher"] | None = None
    across: str = "fraction of the tokens"

    @property
    def direction(self) -> str | None:
        """Which way is better, in words; None where neither is."""
        return None if self.better is None else f"{self.better} is better"

    @property
    def sentence(self) -> str:
        """What it is, its unit and its direction, without a full stop."""
        return "; ".join(part for part in (", ".join(filter(None, (self.help, self.unit))), self.direction) if part)


@dataclass(frozen=True)
class Metric(Quantity):
    """A metric, which measures itself or several quantities.

    Attributes:
        function: of `lens_scopes.evaluation.metrics`, as "module:function"; it takes a ScoredPrompt and the metric.
        needs_ablation: whether the numbers depend on what tokens are replaced by.
        of_segments: whether segments of the passage are ablated as a whole: sentences, or what `by` says.
        fractions: of the tokens that rank highest, which are ablated.
        keep: whether these are kept instead, and all others ablated.
        redraw: how blocks are redrawn; None for the protocol's way.
        parts: what it measures, where that is not one quantity of its own name.
    """

    function: str = ""
    needs_ablation: bool = True
    of_segments: bool = False
    fractions: tuple[float, ...] = ()
    keep: bool = False
    redraw: Literal["spread", "initializer"] | None = None
    parts: tuple[Quantity, ...] = ()

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """All that it measures."""
        return self.parts or (self,)

    def measure(self, scored: ScoredPrompt) -> list[MetricValue]:
        """The numbers of one method on one passage; a curve has one for each fraction."""
        return resolve_name(f"lens_scopes.evaluation.metrics.{self.function}")(scored, self)

    def masks(self, scored: ScoredPrompt) -> Any:
        """The sets of tokens [row, pos] that it ablates, by value and by magnitude, where they are known beforehand.

        Those of all methods and metrics then run together.
        """
        from lens_scopes.evaluation.metrics.perturbation import top_masks

        return top_masks(scored, self)


_SPEARMAN = "Spearman’s ρ"
_LOO = "rank agreement with leave-one-out KL"
_AGREEMENTS = (
    Quantity("loo-kl-spearman", _LOO, _SPEARMAN, "higher"),
    Quantity("loo-kl-kendall", _LOO, "Kendall’s τ-b", "higher"),
    Quantity("loo-kl-jaccard", "overlap of the top 10% with leave-one-out KL", "Jaccard index", "higher"),
    Quantity("loo-kl-partial", f"{_LOO} given the token’s position", f"partial {_SPEARMAN}", "higher"),
    Quantity(
        "loo-kl-top5",
        f"whether the token of largest leave-one-out KL is among the {TOP_TOKENS} of largest score",
        better="higher",
    ),
)
_DELETION = (
    Quantity("deletion-logprob", "change of log p as the top tokens are ablated", "nats", "lower"),
    Quantity("deletion-kl", "KL of the prediction as the top tokens are ablated", "nats", "higher"),
)
_INSERTION = (
    Quantity("insertion-logprob", "change of log p with only the top tokens kept", "nats", "higher"),
    Quantity("insertion-kl", "KL of the prediction with only the top tokens kept", "nats", "lower"),
)

TOP_SEGMENTS = (1, 3, 5)
_TOP_DROPS = tuple(
    Quantity(
        f"top-{k}-drop",
        "fall of log p without the top segment" if k == 1 else f"fall of log p without the {k} top segments",
        "nats",
        "higher",
    )
    for k in TOP_SEGMENTS
)

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "aopc",
            "area over the perturbation curve: ∫ change of log p of the explained token",
            "nats",
            "lower",
            function="perturbation:aopc",
            fractions=AOPC_FRACTIONS,
        ),
        Metric(
            "aopc-kl",
            "area under KL(p ‖ p without the top fraction)",
            "nats",
            "higher",
            function="perturbation:aopc_kl",
            fractions=AOPC_FRACTIONS,
        ),
        Metric(
            "aopc-normalised",
            "AOPC between the passage’s own limits",
            "about 0 to 1",
            "higher",
            function="perturbation:aopc_normalised",
        ),
        Metric(
            "comprehensiveness",
            "fall of the probability without the top tokens",
            better="higher",
            function="perturbation:mean_probability_fall",
            fractions=ERASER_FRACTIONS,
        ),
        Metric(
            "comprehensiveness-kl",
            "KL of the prediction without the top tokens",
            "nats",
            "higher",
            function="perturbation:mean_divergence",
            fractions=ERASER_FRACTIONS,
        ),
        Metric(
            "sufficiency",
            "fall of the probability with the top tokens alone",
            better="lower",
            function="perturbation:mean_probability_fall",
            fractions=ERASER_FRACTIONS,
            keep=True,
        ),
        Metric(
            "sufficiency-kl",
            "KL of the prediction from the top tokens alone",
            "nats",
            "lower",
            function="perturbation:mean_divergence",
            fractions=ERASER_FRACTIONS,
            keep=True,
        ),
        Metric(
            "deletion",
            "curves of the prediction as the top tokens are ablated",
            "nats",
            function="perturbation:curves",
            fractions=CURVE_FRACTIONS,
            parts=_DELETION,
        ),
        Metric(
            "insertion",
            "curves of the prediction with only the top tokens kept",
            "nats",
            function="perturbation:curves",
            fractions=CURVE_FRACTIONS,
            keep=True,
            parts=_INSERTION,
        ),
        Metric("loo-kl", _LOO, better="higher", function="agreement:leave_one_out_agreement", parts=_AGREEMENTS),
        Metric(
            "loo-kl-null",
            "agreement of shuffled scores with leave-one-out KL: what chance gives",
            _SPEARMAN,
            function="agreement:shuffled_agreement",
        ),
        Metric(
            "first-token",
            "percentile of the first token’s score",
            "0 to 1",
            function="robustness:first_token",
            needs_ablation=False,
        ),
        Metric(
            "infidelity",
            "unexplained share of the effects of random ablations",
            "0 to 1",
            "lower",
            function="perturbation:infidelity",
        ),
        Metric(
            "lds",
            "linear datamodelling score: rank agreement of the sums of the segments kept with log p − log(1 − p), over "
            "random ablations of segments",
            _SPEARMAN,
            "higher",
            function="segments:datamodelling_score",
            of_segments=True,
        ),
        Metric(
            "top-k-drop",
            "fall of log p without the segments of largest score",
            "nats",
            "higher",
            function="segments:top_drops",
            of_segments=True,
            parts=_TOP_DROPS,
        ),
        Metric(
            "stability",
            "rank agreement under noise on the embeddings",
            _SPEARMAN,
            "higher",
            function="robustness:stability",
            needs_ablation=False,
        ),
        Metric(
            "randomization",
            "rank agreement with the model whose last blocks are redrawn",
            _SPEARMAN,
            "lower",
            function="robustness:randomization",
            needs_ablation=False,
        ),
        Metric(
            "randomization-initializer",
            "rank agreement with the model whose last blocks are redrawn as in arXiv:2601.16407",
            _SPEARMAN,
            "lower",
            function="robustness:randomization",
            needs_ablation=False,
            redraw="initializer",
        ),
        Metric(
            "randomization-by-layer",
            "rank agreement with the model, by the share of its blocks redrawn",
            _SPEARMAN,
            "lower",
            across="share of the blocks redrawn",
            function="robustness:randomization_by_layer",
            needs_ablation=False,
        ),
    )
}


def find_metric(name: str) -> Metric:
    """The metric of that name.

    Raises:
        EvaluationError: for an unknown one, with near names.
    """
    return find_entry(name, METRICS, "metric", EvaluationError)


def find_quantity(name: str) -> Quantity | None:
    """What a name of the results stands for; None where it is not known here.

    Names may go on after that of the quantity, as in "randomization-final-half"; the longest that fits counts.
    """
    known = [
        item for metric in METRICS.values() for item in metric.quantities if f"{name}-".startswith(f"{item.name}-")
    ]
    return max(known, key=lambda item: len(item.name), default=None)
