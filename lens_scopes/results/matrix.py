"""AttributionMatrix: the influence of every token on every later prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.final_state import PredictedToken
from lens_scopes.errors import PromptError
from lens_scopes.prompts.spans import SpanLike
from lens_scopes.prompts.tokens import quote
from lens_scopes.results.base import Entry, Result
from lens_scopes.results.storage.writing import data_frame, utf8

if TYPE_CHECKING:
    import pandas

    from lens_scopes.results.influence import TotalInfluence


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class AttributionMatrix(Result):
    """Influence of every token (columns) on the prediction made after every position (rows).

    Attributes:
        matrix: [dest, src]; zero above the diagonal, where a token comes after the prediction.
        destinations: the positions explained, one a row.
        targets: the token each row's objective is about, where it has one, else None.
        predicted: the model's own top token after each position.
        answer: how many of the last tokens are the answer whose predictions the rows are; 0 where every prediction of
            the text has a row.
        generated: how many of them the model generated itself.
        spans: named token ranges [start, stop), from chat messages or given.

    The other attributes are those of Result; `position` is the last destination.

    Example:
        >>> matrix = ls.attribute_all(model, "The capital of France is", ls.Semantic())
        >>> [item.token for item in matrix.targets[:-1] if item]
        ['The', ' capital', ' of', ' France', ' is']
    """

    kind = "matrix"
    aligned = {"src": ("tokens",), "dest": ("destinations", "targets", "predicted")}

    matrix: Float[Tensor, "dest src"]
    destinations: list[int]
    targets: list[PredictedToken | None]
    predicted: list[PredictedToken]
    answer: int = 0
    generated: int
    spans: dict[str, tuple[int, int]]

    def __repr__(self) -> str:
        made = f", an answer of {self.answer} {self.origin}" if self.answer else ""
        return (
            f"AttributionMatrix({self.objective} on {self.model['name']}, "
            f"{len(self.destinations)} destinations × {len(self.tokens)} sources{made})"
        )

    @property
    def origin(self) -> str:
        """How the answer's tokens came about: "generated" or "given"."""
        return "generated" if self.generated else "given"

    def span_totals(self, spans: Mapping[str, tuple[int, int]] | None = None) -> pandas.DataFrame:
        """How much each span of the text mattered to each other: scores summed over the sources of one span and
        averaged over the predictions of another.

        A prediction belongs to the span that holds the token it predicts. Tokens in no span are left out, special
        ones (BOS) too.

        Args:
            spans: names → token ranges [start, stop); by default `self.spans`; "answer" is added where there is one,
                or "generated" for one that the model made.

        Returns:
            One row per target span, one column per source span; NaN where a span predicts nothing.

        Raises:
            PromptError: for no spans at all, or ranges outside the text.

        Example:
            >>> matrix = ls.attribute_all(model, "The capital of France is", ls.Fisher())
            >>> matrix.span_totals({"subject": (1, 4), "verb": (5, 6)}).shape
            (2, 2)
        """
        import pandas

        if spans is not None and not isinstance(spans, Mapping):
            raise PromptError(f"spans are names with their tokens, {{'name': (start, stop)}}; got {quote(spans)}.")
        ranges = dict(self.spans if spans is None else spans)
        if self.answer:
            name = "generated" if self.generated else "answer"
            ranges.setdefault(name, (len(self.tokens) - self.answer, len(self.tokens)))
        if not ranges:
            raise PromptError("span totals need named spans: give {'name': (start, stop)} in tokens, or a chat prompt.")
        for name, tokens in ranges.items():
            if not isinstance(tokens, Sequence) or len(tokens) != 2 or not all(type(end) is int for end in tokens):
                raise PromptError(f"span {quote(name)} is tokens (start, stop); got {quote(tokens)}.")
            start, stop = tokens
            if not 0 <= start < stop <= len(self.tokens):
                raise PromptError(
                    f"span {name!r} is tokens {start} to {stop}, outside the text's 0 to {len(self.tokens)}."
                )
        ordinary = torch.tensor([not special for special in self.special], device="cpu")
        table = {}
        for source, (start, stop) in ranges.items():
            totals = (self.matrix[:, start:stop] * ordinary[start:stop].to(self.matrix)).sum(1)
            column = []
            for first, last in ranges.values():
                # A prediction belongs to the span of the token that it predicts, which is the next one.
                rows = [row for row, dest in enumerate(self.destinations) if first <= dest + 1 < last]
                column.append(float(totals[rows].mean()) if rows else float("nan"))
            table[utf8(source).decode("utf-8")] = column
        return data_frame(table).set_axis(pandas.Index(table, name="target \\ source"))

    def total_influence(self, of: SpanLike = "answer", *, special: bool = False) -> TotalInfluence:
        """What a part of the generated text rests on in the prompt, through the generated tokens between.

        Every row becomes shares of the tokens before it, and influence is followed from the part back to the prompt
        along all paths: total = e (I − A)⁻¹ P, as `TotalInfluence` has it. No run of the model is needed.

        Args:
            of: the part: "answer" for the last sentence of the text after the prompt (all of it where the prompt was
                given as ids), "generated" for all of it, the name of one of `spans`, or a span as everywhere: a part of
                the text that occurs once, `Chars(start, stop)`, or (start, stop) in tokens.
            special: whether special tokens are sources too. BOS is an attention sink: most influence would end there.

        Returns:
            A TotalInfluence: total and direct share of each prompt token, what passes through each generated one, and
            the hops between sentences.

        Raises:
            PromptError: for a matrix without generated tokens or a given answer, and for a part that is missing,
                ambiguous or in the prompt.
            ResultError: for scores that are not finite.

        Source: CAGE, arXiv:2512.15663.

        Example:
            >>> matrix = ls.attribute_all(model, "The capital of France is", ls.Semantic(), generate=3)
            >>> influence = matrix.total_influence((8, 9))  # the last token, through the two before it
            >>> round(float(influence.scores.sum()), 6), bool(influence.direct.sum() < 1)
            (1.0, True)
        """
        from lens_scopes.results.influence import total_influence

        return total_influence(self, of, special)

    def _places(self) -> list[tuple[int, int, int]]:
        """Row, destination and source of every entry on and below the diagonal."""
        return [(row, dest, src) for row, dest in enumerate(self.destinations) for src in range(dest + 1)]

    def entries(self) -> list[Entry]:
        return [
            Entry((dest, src), f"{self.tokens[src]} → after {self.tokens[dest]}", self.special[src])
            for _, dest, src in self._places()
        ]

    def values(self) -> Float[Tensor, " dest_src"]:
        return torch.cat([row[: dest + 1] for row, dest in zip(self.matrix, self.destinations, strict=True)])

    def difference_parts(self) -> dict[str, Tensor]:
        return {"matrix": self.matrix}

    def to_pandas(self) -> pandas.DataFrame:
        """One row per destination and source up to it: destination, after, source, token, special, score."""
        places = self._places()
        return data_frame(
            {
                "destination": [dest for _, dest, _ in places],
                "after": [self.tokens[dest] for _, dest, _ in places],
                "source": [src for _, _, src in places],
                "token": [self.tokens[src] for _, _, src in places],
                "special": [self.special[src] for _, _, src in places],
                "score": self.values().tolist(),
            }
        )
