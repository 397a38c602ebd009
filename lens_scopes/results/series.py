"""SeriesInspection: the numbers of a text that its next number rests on, with the distribution over that number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.final_state import PredictedToken
from lens_scopes.errors import VALIDATED, PromptError
from lens_scopes.prompts.groups import group_tokens
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.results.base import AnswerRecord, Drawable, Entry, Result
from lens_scopes.results.storage.writing import data_frame

if TYPE_CHECKING:
    import pandas

Scores: TypeAlias = Annotated["Sequence[float] | Float[Tensor, ' pos']", VALIDATED]


@dataclass(frozen=True, repr=False)
class Series(Drawable):
    """A series of numbers as the model reads it.

    Attributes:
        prompt: the text, token by token.
        values: the numbers.
        written: how each is written, such as "07".
        spans: for each number its tokens [start, stop), the separator after it included.
        digits: for each number its tokens without the separator.

    Example:
        >>> series = ls.read_series(model, "12,17,25,")
        >>> att = ls.attribute(model, series.prompt, ls.Fisher())
        >>> len(series.per_number(att.scores))
        3
    """

    prompt: Prompt
    values: list[float]
    written: list[str]
    spans: list[tuple[int, int]]
    digits: list[tuple[int, int]]

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return f"Series({len(self)} numbers in {len(self.prompt)} tokens: {_ends(self.written)})"

    def _repr_png_(self) -> bytes:
        return self.figure()._repr_png_()  # pyright: ignore[reportAttributeAccessIssue]

    def per_number(self, scores: Scores) -> list[float]:
        """Scores of tokens summed over each number and the separator after it.

        For plain norms the sum is an upper bound of the effect of moving the tokens together.

        Raises:
            PromptError: for scores of another number of tokens.
        """
        if len(scores) != len(self.prompt):
            raise PromptError(f"got {len(scores)} scores for the {len(self.prompt)} tokens of the series.")
        named = {str(index): span for index, span in enumerate(self.spans)}
        groups = group_tokens(self.prompt, named)
        sums = {group.label: float(sum(scores[group.start : group.stop])) for group in groups}
        return [sums[name] for name in named]


@dataclass(frozen=True, repr=False)
class ValueDistribution(Drawable):
    """What the model predicts as the next number.

    Attributes:
        values: in increasing order.
        written: how each is written.
        probabilities: of each value; together at most 1.
        unresolved: probability of numbers that were begun but not walked to their end.
        no_number: probability that what follows is no number.
        evaluations: how many continuations the model was run on.

    Example:
        >>> next_value = ls.value_distribution(model, "12,17,25,")
        >>> bool(next_value.quantile(0.1) <= next_value.quantile(0.9))
        True
    """

    aligned: ClassVar[dict[str, tuple[str, ...]]] = {"value": ("values", "written", "probabilities")}
    """As `Result.aligned`."""

    values: list[float]
    written: list[str]
    probabilities: list[float]
    unresolved: float
    no_number: float
    evaluations: int

    def __repr__(self) -> str:
        if not self.values:
            return f"ValueDistribution(no value reached, {self.no_number:.0%} no number)"
        low, median, high = (f"{self.quantile(share):g}" for share in (0.1, 0.5, 0.9))
        return f"ValueDistribution({len(self.values)} values, median {median}, central 80 % {low} to {high})"

    def _repr_png_(self) -> bytes:
        return self.figure()._repr_png_()  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def mean(self) -> float:
        """The mean of the values resolved, of the distribution that they make among themselves."""
        return float(np.average(self.values, weights=self.probabilities))

    @property
    def deviation(self) -> float:
        """The standard deviation, likewise."""
        return float(np.average((np.array(self.values) - self.mean) ** 2, weights=self.probabilities) ** 0.5)

    def quantile(self, share: float) -> float:
        """The least value with at least this share of the resolved probability at or below it."""
        cumulated = np.cumsum(self.probabilities) / np.sum(self.probabilities)
        return self.values[min(int(np.searchsorted(cumulated, share - 1e-12)), len(self.values) - 1)]

    def probability(self, value: float | int) -> float:
        """The probability of one value, 0 where the walk did not reach it."""
        return float(sum(p for other, p in zip(self.values, self.probabilities, strict=True) if other == value))

    def to_pandas(self) -> pandas.DataFrame:
        """One row a way of writing: value, written, probability."""
        import pandas

        return pandas.DataFrame({"value": self.values, "written": self.written, "probability": self.probabilities})


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class SeriesInspection(Result):
    """Which past numbers of a series the forecast rests on, and the forecast as a distribution over values.

    Attributes:
        scores: the influence of each token on what is explained, as `attribute` gives it.
        numbers: the numbers of the series.
        written: how each is written, such as "07".
        spans: for each number its tokens [start, stop), the separator after it included.
        separator: what stands between numbers.
        forecast: the distribution over the value of the next number.
        target: the token explained, for objectives that have one.
        answer, other_answer: the answers explained, where an objective was asked of a whole next number.

    The other attributes are those of Result.

    Example:
        >>> series = ls.inspect_series(model, "12,17,25,", ls.Fisher())
        >>> [item.label for item in series.top(3, special=True)].sort(), series.influence().shape
        (None, torch.Size([3]))
    """

    kind = "series"
    aligned = {**Result.aligned, "number": ("numbers", "written", "spans")}
    derived = {"influence": lambda series: series.influence()}

    scores: Float[Tensor, " pos"]
    numbers: list[float]
    written: list[str]
    spans: list[tuple[int, int]]
    separator: str
    forecast: ValueDistribution
    target: PredictedToken | None = None
    answer: AnswerRecord | None = None
    other_answer: AnswerRecord | None = None

    @classmethod
    def from_record(cls, record: Any, tensor: Any) -> SeriesInspection:
        result = super().from_record(record, tensor)
        for index, (start, stop) in enumerate(result.spans):
            if not 0 <= start < stop <= len(result.tokens):
                raise ValueError(f"spans[{index}] is {start} to {stop}, and there are {len(result.tokens)} tokens")
        return result

    def __repr__(self) -> str:
        leading = ", ".join(f"{item.label} ({len(self) - int(item.index)} back)" for item in self.top(3))  # type: ignore[arg-type]
        return f"SeriesInspection({len(self)} numbers on {self.model['name']}; strongest: {leading}; {self.forecast!r})"

    def __len__(self) -> int:
        return len(self.numbers)

    def influence(self) -> Float[Tensor, " number"]:
        """Scores of tokens summed over each number and the separator after it, as `Series.per_number`."""
        sums = [self.scores[start:stop].sum() for start, stop in self.spans]
        return torch.stack(sums)

    def entries(self) -> list[Entry]:
        return [Entry(index, text, False) for index, text in enumerate(self.written)]

    def values(self) -> Float[Tensor, " number"]:
        """The influence of each number."""
        return self.influence()

    def difference_parts(self) -> dict[str, Tensor]:
        return {"scores": self.scores, "influence": self.influence()}

    def to_pandas(self) -> pandas.DataFrame:
        """One row per number: index, back (1 for the last number), number, written, influence."""
        return data_frame(
            [
                {
                    "index": index,
                    "back": len(self) - index,
                    "number": number,
                    "written": written,
                    "influence": influence,
                }
                for index, (number, written, influence) in enumerate(
                    zip(self.numbers, self.written, self.influence().tolist(), strict=True)
                )
            ]
        )


def _ends(written: Sequence[str]) -> str:
    """The first and last numbers of a series."""
    return ", ".join(written if len(written) <= 8 else [*written[:4], "…", *written[-3:]])
