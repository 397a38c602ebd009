"""Attribution: the influence of every token on one prediction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.final_state import PredictedToken
from lens_scopes.errors import ResultError, whole_number
from lens_scopes.prompts.groups import Group, Grouping, group_tokens, text_of
from lens_scopes.prompts.spans import SpanLike
from lens_scopes.results.base import AnswerRecord, Entry, Result
from lens_scopes.results.storage.record import plain
from lens_scopes.results.storage.writing import data_frame

if TYPE_CHECKING:
    import pandas

    from lens_scopes.results.comparison import Comparison


@dataclass(frozen=True)
class DirectionDetails:
    """What a reader should know of the directions that a score was made of; None where it does not apply.

    Attributes:
        eigenvalues: λ_i of the Fisher directions, nats per squared unit of y.
        residual: the largest ‖Fu_i − λ_i u_i‖₂ of them.
        gap: λ_{k+1}/λ_k, between 0 and 1.
        share: the share of tr F that the directions hold.
        converged: whether the solver reached its tolerance.
        exact, samples: directions taken exactly, and drawn for the rest, of a trace.
        directions: how many there are, of an exact trace.
        other: what else an objective says of its directions.
    """

    eigenvalues: list[float] | None = None
    residual: float | None = None
    gap: float | None = None
    share: float | None = None
    converged: bool | None = None
    exact: int | None = None
    samples: int | None = None
    directions: int | None = None
    other: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, details: Mapping[str, Any]) -> DirectionDetails:
        """The typed fields that `Directions.details` has, and the rest in `other`."""
        named = plain(details)
        known = {name: named.pop(name) for name in cls.__dataclass_fields__ if name in named and name != "other"}
        return cls(**known, other=named)


@dataclass(frozen=True)
class LensReading:
    """What the cells of the layers × tokens map read as: the most probable tokens of each, by a lens.

    Attributes:
        lens: "logit", or "jacobian" for a fitted JacobianLens.
        equation: what the probabilities are of a cell's residual stream h.
        token_ids: of each layer and token, most probable first; empty for a cell that was not read.
        tokens: the same as strings.
        probabilities: of them; NaN for cells that were not read.
    """

    lens: str
    equation: str
    token_ids: list[list[list[int]]]
    tokens: list[list[list[str]]]
    probabilities: Float[Tensor, "layer pos top"]

    def at(self, row: int, index: int) -> list[PredictedToken]:
        """The tokens that a cell reads as, most probable first; empty where it was not read.

        Args:
            row: of the layer, as in `Attribution.layers`; negative from the end.
            index: of the token, negative from the end.
        """
        cell = zip(
            self.token_ids[row][index], self.tokens[row][index], self.probabilities[row, index].tolist(), strict=False
        )
        return [PredictedToken(*item) for item in cell]

    def check(self, n_layers: int, n_tokens: int) -> None:
        """Raises ValueError where a field has other layers or tokens than the result, with its name."""
        for name, rows in (("token_ids", self.token_ids), ("tokens", self.tokens)):
            if len(rows) != n_layers or any(len(row) != n_tokens for row in rows):
                raise ValueError(f"lens.{name} has other layers or tokens than the result's")
        if self.probabilities.shape[:2] != (n_layers, n_tokens):
            raise ValueError("lens.probabilities has other layers or tokens than the result's")


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Attribution(Result):
    """Influence of each token on one prediction of one model.

    Attributes:
        scores: influence of each token, from the first one to the position explained: at the embedding, unless
            `score_site` said elsewhere. Non-negative but for the dot readout; units are those of the contract's score.
        target: the token explained, for objectives that have one.
        answer: the whole answer explained, where there is one; `scores` are those of the prompt, and of the answer's
            own tokens but the last where `eligible="all"` was asked for. `prediction` is then of its first token.
        other_answer: the answer it is contrasted with.
        layers: influence of each token at every layer's residual stream, where asked for.
        layer_names: the hook names of its rows.
        lens: what the residual stream reads as in each cell of `layers`, where a lens was asked for.
        sites: influence at other sites asked for, by hook name.
        standard_error: standard error of scores, where directions were sampled.
        layers_standard_error: the same for layers.
        details: of the directions; None for a comparison method, which has none.

    The other attributes are those of Result.

    Example:
        >>> att = ls.attribute(model, "The capital of France is", ls.ExternalScores([0, 0.1, 0.7, 0.1, 0.4, 0.2]))
        >>> [item.label for item in att.top(2)]
        [' capital', ' France']
        >>> att.to_pandas().columns.tolist()
        ['index', 'token', 'token_id', 'special', 'score']
    """

    kind = "attribution"
    aligned = {"layer": ("layer_names",)}

    scores: Float[Tensor, " pos"]
    target: PredictedToken | None = None
    answer: AnswerRecord | None = None
    other_answer: AnswerRecord | None = None
    layers: Float[Tensor, "layer pos"] | None = None
    layer_names: list[str] = field(default_factory=list)
    lens: LensReading | None = None
    sites: dict[str, Float[Tensor, "pos ..."]] = field(default_factory=dict)
    standard_error: Float[Tensor, " pos"] | None = None
    layers_standard_error: Float[Tensor, "layer pos"] | None = None
    details: DirectionDetails | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def __repr__(self) -> str:
        name = self.model.get("name", "model")
        predicted = ", ".join(f"{item.token!r} {item.probability:.2f}" for item in self.prediction.top[:2])
        leading = ", ".join(f"{token!r} {value:.3g}" for _, token, value in self.top(3))
        shape = f"{len(self.tokens)} tokens" + ("" if self.layers is None else f" × {len(self.layers)} layers")
        return (
            f"Attribution({self.objective} on {name}, {shape}, position {self.position}; "
            f"predicts {predicted}; top: {leading})"
        )

    def entries(self) -> list[Entry]:
        return [Entry(*item) for item in zip(range(len(self.tokens)), self.tokens, self.special, strict=True)]

    def values(self) -> Float[Tensor, " pos"]:
        return self.scores

    def difference_parts(self) -> dict[str, Tensor]:
        layers = {} if self.layers is None else {"layers": self.layers}
        return {"scores": self.scores, **layers, **{f"sites/{name}": values for name, values in self.sites.items()}}

    def to_pandas(self) -> pandas.DataFrame:
        """One row per token: index, token, token_id, special, score, and where present standard_error and a column for
        every layer and site (head sites give one column per head)."""
        columns: dict[str, Any] = {
            "index": range(len(self.tokens)),
            "token": self.tokens,
            "token_id": self.token_ids,
            "special": self.special,
            "score": self.scores.tolist(),
        }
        if self.standard_error is not None:
            columns["standard_error"] = self.standard_error.tolist()
        if self.layers is not None:
            columns |= {name: row.tolist() for name, row in zip(self.layer_names, self.layers, strict=True)}
        for name, values in self.sites.items():
            if values.ndim == 1:
                columns[name] = values.tolist()
            else:
                flat = rearrange(values, "pos ... -> (...) pos")
                columns |= {f"{name}.{index}": row.tolist() for index, row in enumerate(flat)}
        return data_frame(columns)

    def cells(self, k: int | None = None) -> pandas.DataFrame:
        """The cells of the layers × tokens map, the largest magnitudes first, with what a lens read there.

        Args:
            k: how many at most, without the special tokens'; by default all, special ones too.

        Returns:
            One row per cell: layer (its hook name), index, token, special, score; and where a lens was asked for
            reads_as and probability, of the most probable token (None and NaN where the cell was not read).

        Raises:
            ResultError: for an attribution without layers.

        Example:
            >>> att = ls.attribute(model, "The capital of France is", ls.Semantic(), layers=True, lens=True)
            >>> att.cells(3).columns.tolist()
            ['layer', 'index', 'token', 'special', 'score', 'reads_as', 'probability']
        """
        if self.layers is None:
            raise ResultError("the attribution has no layers to show cells of; compute it with layers=True.")
        rows = []
        for row, (name, scores) in enumerate(zip(self.layer_names, self.layers.tolist(), strict=True)):
            for index, score in enumerate(scores):
                line = {"layer": name, "index": index, "token": self.tokens[index], "special": self.special[index]}
                line["score"] = score
                if self.lens is not None:
                    best = next(iter(self.lens.at(row, index)), None)
                    line |= {"reads_as": best and best.token, "probability": best.probability if best else math.nan}
                rows.append(line)
        frame = data_frame(rows).sort_values("score", key=abs, ascending=False, kind="stable")
        if k is not None:
            frame = frame[~frame["special"]].head(whole_number(k, "the number of cells", ResultError))
        return frame.reset_index(drop=True)

    def group(self, by: Grouping = "word", within: SpanLike | None = None) -> pandas.DataFrame:
        """Scores summed over words, lines, sentences, paragraphs, chat turns or named documents.

        A squared-norm score of a group of tokens moved independently is the sum of theirs; for plain norms the sum
        is an upper bound of the joint effect.

        Args:
            by: "word", "line", "sentence", "paragraph" or "turn" (chat messages, by role and number); a list of texts
                of the prompt; or a mapping from names to such texts, to `Chars(start, stop)` or to token ranges
                [start, stop). A sentence ends with `.`, `!`, `?` or `…` before white space, and with its line: "Dr."
                ends one too. Special tokens are apart.
            within: the part whose groups are returned, cut at its edges: the name of a chat turn, a text that occurs
                once, `Chars(start, stop)`, or (start, stop) in tokens; by default all of the prompt.

        Returns:
            One row per group, in the order of the text: label, start and stop in tokens, text, whether it is a special
            token, and score.

        Raises:
            PromptError: for another grouping; for a text that is missing or occurs twice, and ranges outside the
                prompt; for sentences and paragraphs of token ids, and turns of what is no chat.

        Example:
            >>> att = ls.attribute(model, "The capital of France is", ls.ExternalScores([0, 0.25, 0.5, 0.25, 0.5, 0]))
            >>> att.group({"phrase": "capital of France"})[["label", "start", "stop", "score"]]
                 label  start  stop  score
            0    <bos>      0     1   0.00
            1  (other)      1     2   0.25
            2   phrase      2     5   1.25
            3  (other)      5     6   0.00
        """
        prompt, groups = self.as_prompt(), self.groups(by, within)
        return data_frame(
            {
                "label": [group.label for group in groups],
                "start": [group.start for group in groups],
                "stop": [group.stop for group in groups],
                "text": [text_of(prompt, group.start, group.stop) for group in groups],
                "special": [all(self.special[group.start : group.stop]) for group in groups],
                "score": [float(self.scores[group.start : group.stop].sum()) for group in groups],
            }
        )

    def groups(self, by: Grouping = "word", within: SpanLike | None = None) -> list[Group]:
        """The groups that `group` sums over, by label, start and stop; the arguments are the same."""
        return group_tokens(self.as_prompt(), by, within)

    def compare(self, other: Attribution) -> Comparison:
        """This attribution beside another: of another prompt, target or scope. It has a page, a figure and a table.

        Args:
            other: whose tokens and units may be others; `difference` takes two of the same.

        Raises:
            ResultError: for what is no attribution.

        Example:
            >>> france, italy = (ls.attribute(model, f"The capital of {name} is") for name in ("France", "Italy"))
            >>> [pair.token for pair in france.compare(italy).pairs if pair.change is None and not pair.special]
            [' France', ' Italy']
        """
        if not isinstance(other, Attribution):
            raise ResultError(f"an attribution is compared with another; got {type(other).__name__}.")
        from lens_scopes.results.comparison import Comparison  # which builds on this module

        return Comparison(self, other)

    @classmethod
    def from_record(cls, record: Mapping[str, Any], tensor: Any) -> Attribution:
        if record.get("layers") is None and record.get("layer_names"):
            raise ValueError(f"layers are missing for {len(record['layer_names'])} layer_names")
        result = super().from_record(record, tensor)
        if result.lens is not None:
            result.lens.check(len(result.layer_names), len(result.tokens))
        return result


def relative_scores(scores: Sequence[float], special: Sequence[bool]) -> list[float | None]:
    """Each |score| over the largest of those that count: scores of most readouts do not add up to anything."""
    counted = [math.isfinite(score) and not outside for score, outside in zip(scores, special, strict=True)]
    largest = max((abs(score) for score, counts in zip(scores, counted, strict=True) if counts), default=0.0)
    return [abs(score) / largest if counts and largest else None for score, counts in zip(scores, counted, strict=True)]
