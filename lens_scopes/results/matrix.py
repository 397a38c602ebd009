"""Influence of every token on every later prediction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.final_state import PredictedToken
from lens_scopes.errors import PromptError
from lens_scopes.results.base import Result

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, eq=False, repr=False)
class AttributionMatrix(Result):
    """Influence of every token (columns) on the prediction made after every position (rows).

    Attributes:
        matrix: [dest, src]; zero above the diagonal, where a token comes after the prediction.
        destinations: the positions explained, one a row.
        targets: the token each row's objective is about, where it has one, else None.
        predicted: the model's own top token after each position.
        generated: how many of the last tokens the model generated itself.
        spans: named token ranges [start, stop), from chat messages or given.

    The other attributes are those of Attribution.
    """

    matrix: Float[Tensor, "dest src"]
    destinations: list[int]
    targets: list[PredictedToken | None]
    predicted: list[PredictedToken]
    tokens: list[str]
    token_ids: list[int]
    special: list[bool]
    text: str | None
    generated: int
    spans: dict[str, tuple[int, int]]
    scope: str
    objective: str
    contract: dict[str, str]
    model: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str]
    warnings: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        made = f", {self.generated} generated" if self.generated else ""
        return (
            f"AttributionMatrix({self.objective} on {self.model['name']}, "
            f"{len(self.destinations)} destinations × {len(self.tokens)} sources{made})"
        )

    def span_totals(self, spans: Mapping[str, tuple[int, int]] | None = None) -> pandas.DataFrame:
        """How much each span of the text mattered to each other: scores summed over the sources of one span and
        averaged over the predictions of another.

        A prediction belongs to the span that holds the token it predicts. Tokens in no span are left out, special
        ones (BOS) too.

        Args:
            spans: names → token ranges [start, stop); by default `self.spans`; "generated" is added where it applies.

        Returns:
            One row per target span, one column per source span; NaN where a span predicts nothing.

        Raises:
            PromptError: for no spans at all, or ranges outside the text.
        """
        import pandas

        chosen = dict(self.spans if spans is None else spans)
        if self.generated:
            chosen.setdefault("generated", (len(self.tokens) - self.generated, len(self.tokens)))
        if not chosen:
            raise PromptError("span totals need named spans: give {'name': (start, stop)} in tokens, or a chat prompt.")
        for name, (start, stop) in chosen.items():
            if not 0 <= start < stop <= len(self.tokens):
                raise PromptError(
                    f"span {name!r} is tokens {start} to {stop}, outside the text's 0 to {len(self.tokens)}."
                )
        ordinary = torch.tensor([not special for special in self.special])
        table = {}
        for source, (start, stop) in chosen.items():
            totals = (self.matrix[:, start:stop] * ordinary[start:stop].to(self.matrix)).sum(1)
            column = []
            for first, last in chosen.values():
                rows = [row for row, dest in enumerate(self.destinations) if first <= dest + 1 < last]
                column.append(float(totals[rows].mean()) if rows else float("nan"))
            table[source] = column
        return pandas.DataFrame(table, index=pandas.Index(list(chosen), name="target \\ source"))

    def to_pandas(self) -> pandas.DataFrame:
        """The matrix with tokens as labels, one row per destination."""
        import pandas

        rows = [f"{dest}: {self.tokens[dest]}" for dest in self.destinations]
        columns = [f"{index}: {token}" for index, token in enumerate(self.tokens)]
        return pandas.DataFrame(self.matrix.numpy(), index=rows, columns=columns)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, ready for JSON."""
        return {**asdict(self), "matrix": self.matrix.tolist()}
