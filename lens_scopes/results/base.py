"""Base class of results: prompt, prediction, provenance, contract, warnings; files, tables, ranks, differences."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar, overload

import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.final_state import Prediction
from lens_scopes.engine.memory import MemoryPlan
from lens_scopes.errors import ResultError, whole_number
from lens_scopes.models.load import ModelRecord
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.results.storage import files
from lens_scopes.results.storage.record import decode, decode_fields, plain
from lens_scopes.results.storage.writing import data_frame, utf8, write_whole

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure
    from typing_extensions import Self

_Index = TypeVar("_Index", int, tuple[int, int])


class Ranked(NamedTuple):
    """One entry of a ranking.

    Attributes:
        index: where the entry stands in the result: a token's index, (layer, head), (dest, src), or a span's row.
        label: its token or name.
        score: its value.

    Example:
        >>> att = ls.attribute(model, "The capital of France is", ls.ExternalScores([0, 0.25, 0.5, 0, 0, 0]))
        >>> att.top(1)
        [Ranked(index=2, label=' capital', score=0.5)]
    """

    index: int | tuple[int, int]
    label: str
    score: float


class Entry(NamedTuple):
    """What can be ranked: its index, its label, and whether it is about a special token."""

    index: int | tuple[int, int]
    label: str
    special: bool


def rank(entries: Sequence[Entry], values: Float[Tensor, " entry"], k: int, special: bool) -> list[Ranked]:
    """The k entries with the largest absolute values; what is not a number comes last.

    Raises:
        ResultError: for a k that is no number of entries, and a switch that is neither True nor False.
    """
    k = whole_number(k, "the number of entries", ResultError)
    if not isinstance(special, bool):
        raise ResultError(f"special is True or False; got {type(special).__name__}.")
    sizes = values.abs().nan_to_num(nan=-1.0, posinf=torch.inf).tolist()
    eligible = [row for row, entry in enumerate(entries) if special or not entry.special]
    numbers = values.tolist()
    strongest = sorted(eligible, key=lambda row: -sizes[row])[:k]
    return [Ranked(entries[row].index, entries[row].label, numbers[row]) for row in strongest]


@dataclass(frozen=True)
class AnswerRecord:
    """An answer, teacher-forced.

    Attributes:
        tokens: its tokens as strings.
        token_ids: their ids.
        log_probabilities: log P(token | prompt and the answer's tokens before it), in nats, ≤ 0.
        generated: whether the model chose the tokens, each its most probable one; else they were given.
    """

    aligned: ClassVar[dict[str, tuple[str, ...]]] = {"answer": ("tokens", "token_ids", "log_probabilities")}
    """As `Result.aligned`."""

    tokens: list[str]
    token_ids: list[int]
    log_probabilities: list[float]
    generated: bool = False

    @property
    def text(self) -> str:
        """The answer as text."""
        return "".join(self.tokens)

    @property
    def log_probability(self) -> float:
        """log P(answer | prompt), in nats."""
        return sum(self.log_probabilities)


UNIT_SETTINGS = ("readout", "score_sites", "divergence")
"""The settings that decide the unit of scores, beside the scope: readout, place of the score and squaring."""


class Drawable:
    """A figure of what a class holds, for the class to inherit."""

    def figure(self) -> Figure:
        """A matplotlib figure, for papers."""
        from lens_scopes.views import figure_of

        return figure_of(self)


class Viewable(Drawable):
    """The views of a result, for its class to inherit.

    Results know their views here alone. The imports are inside the methods, so that a result loads no view before it
    is looked at.
    """

    @overload
    def to_html(self, path: None = None) -> str: ...
    @overload
    def to_html(self, path: str | os.PathLike[str]) -> Path: ...
    def to_html(self, path: str | os.PathLike[str] | None = None) -> str | Path:
        """The result as one self-contained page that opens offline.

        Args:
            path: where to write it; None only returns the HTML.

        Returns:
            The path written, or the HTML where none is given.

        Raises:
            FileError: when it cannot be written.
        """
        from lens_scopes.views import to_html

        page = to_html(self)
        if path is None:
            return page
        write_whole(path, utf8(page))
        return Path(path)

    def to_bytes(self, suffix: str) -> bytes:
        """The result as the contents of a file of that kind: a page, a figure or a table.

        Args:
            suffix: `.html`, `.png`, `.pdf`, `.svg` or `.eps`; for an evaluation report also `.md` and `.tex`.

        Raises:
            FileError: for another suffix.
        """
        from lens_scopes.views import to_bytes

        return to_bytes(self, suffix)

    def show(self, *, full: bool = False, height: int | None = None) -> None:
        """Shows the result: in a notebook as an offline view, elsewhere in the terminal.

        Args:
            full: in a notebook, the whole page of `to_html` (1.4 MB) in place of the compact view.
            height: in a notebook, of the frame in pixels; by default the compact view fits its content.
        """
        from lens_scopes.views import show

        show(self, full=full, height=height)

    def _repr_html_(self) -> str:
        from lens_scopes.views import notebook_html

        return notebook_html(self)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Result(Viewable, ABC):
    """What every result holds.

    Attributes:
        tokens: the tokens as strings.
        token_ids: their ids.
        special: which of them are special tokens. BOS is an attention sink: its values are there, but views leave it
            out of their colour scale and `top` out of its list.
        offsets: character offsets of each token in `text`, where known.
        text: the prompt, where it was text or chat.
        turns: the tokens [start, stop) of each message of a chat, by role and number.
        position: index of the token after which the (last) prediction is explained.
        prediction: what the model predicts there.
        scope: short name of the objective.
        objective: the objective as written in Python, tokens resolved.
        contract: the five elements of the attribution contract.
        spec: what was asked, as options that `Spec.from_options` reads; empty in files from before it was kept.
        model: name, revision, backend, dtype, processing flags and sizes of the model.
        settings: objective, path, readout, points, seed and limits, as plain values.
        versions: versions of the packages that computed it.
        memory: how the work was laid out in memory; None where no graph was built.
        warnings: what a reader must know before trusting the numbers.

    Example:
        >>> att = ls.attribute(model, "The capital of France is", ls.Fisher())
        >>> att.save("france.safetensors")
        >>> torch.equal(ls.load("france.safetensors").scores, att.scores)
        True
        >>> ls.Attribution.from_dict(att.to_dict()).tokens == att.tokens
        True
    """

    kind: ClassVar[str]
    """The kind of the result: attribution, heads, cells, matrix, influence, modes, flow or series."""

    aligned: ClassVar[dict[str, tuple[str, ...]]] = {"pos": ("tokens", "token_ids", "special", "offsets")}
    """The lists along each named dimension, which must have one length."""

    derived: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}
    """What `to_dict` has beside the fields, by name, and how it follows from the result."""

    tokens: list[str]
    token_ids: list[int]
    special: list[bool]
    offsets: list[tuple[int, int]] | None = None
    text: str | None = None
    turns: dict[str, tuple[int, int]] = field(default_factory=dict)
    position: int
    prediction: Prediction
    scope: str
    objective: str
    contract: dict[str, str]
    spec: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str]
    memory: MemoryPlan | None = None
    warnings: list[str] = field(default_factory=list)

    # Ranks and differences

    @abstractmethod
    def entries(self) -> list[Entry]:
        """What `top` ranks, aligned with `values`."""

    @abstractmethod
    def values(self) -> Float[Tensor, " entry"]:
        """The values that `top` ranks by."""

    @abstractmethod
    def to_pandas(self) -> pandas.DataFrame:
        """One row per entry."""

    def difference_parts(self) -> dict[str, Tensor]:
        """The tensors of which `difference` takes differences, by name."""
        return {}

    def top(self, k: int = 5, special: bool = False) -> list[Ranked]:
        """The k entries with the largest absolute values, as (index, label, score).

        Args:
            k: how many at most.
            special: whether entries about special tokens such as BOS may be among them.

        Example:
            >>> att = ls.attribute(model, "The capital of France is", ls.ExternalScores([9, 0.1, 0.7, 0.1, 0.4, 0.2]))
            >>> [item.label for item in att.top(2)], [item.label for item in att.top(2, special=True)]
            ([' capital', ' France'], ['<bos>', ' capital'])
        """
        return rank(self.entries(), self.values(), k, special)

    def difference(self, other: Result) -> Difference:
        """This result minus another of its kind on the same tokens, entry by entry; also written `a - b`.

        Subtracted are: scores, layers and sites of attributions; effects of heads, MLPs and cells; the matrix; total
        and direct shares; the actual nats of token replacements; bound and channel of flows, both at this result's σ.

        Raises:
            ResultError: for another kind, other tokens, another scope or readout (and so another unit), or other rows.

        Example:
            >>> prompt = "The capital of France is"
            >>> paris, rome = (ls.attribute(model, prompt, ls.Semantic(token)) for token in (" Paris", " Rome"))
            >>> torch.equal(paris.difference(rome).scores, paris.scores - rome.scores)
            True
        """
        self._require_comparable(other)
        mine, theirs = self.difference_parts(), other.difference_parts()
        names = [name for name in mine if name in theirs]
        for name in names:
            if mine[name].shape != theirs[name].shape:
                raise ResultError(f"{name} have shapes {tuple(mine[name].shape)} and {tuple(theirs[name].shape)}.")
        return Difference(
            kind=self.kind,
            tokens=self.tokens,
            objectives=(self.objective, other.objective),
            entries=self.entries(),
            scores=self.values() - other.values(),
            parts={name: mine[name] - theirs[name] for name in names},
        )

    def _require_comparable(self, other: Result) -> None:
        """Raises ResultError where a difference of the two would mean nothing."""
        if type(other) is not type(self):
            raise ResultError(f"a result of kind {self.kind} minus a {type(other).__name__}; give two of one kind.")
        if other.token_ids != self.token_ids or other.tokens != self.tokens:
            raise ResultError(
                f"a difference is of results on the same tokens; these have {len(self.tokens)} and {len(other.tokens)} "
                f"tokens{_first_difference(self.tokens, other.tokens)}. Explain the same text at the same position."
            )
        if other.scope != self.scope:
            raise ResultError(
                f"scores of {self.scope} and of {other.scope} have different units; give two of one scope."
            )
        for name in UNIT_SETTINGS:
            mine, theirs = self.settings.get(name), other.settings.get(name)
            if mine != theirs:
                raise ResultError(
                    f"the two results differ in {name} ({mine!r} and {theirs!r}), and so in unit; give two that are "
                    "read alike."
                )
        if other.entries() != self.entries():
            raise ResultError(f"the two results of kind {self.kind} have other rows; explain the same ones.")

    def as_prompt(self) -> Prompt:
        """The tokens as a Prompt, to group or to explain again."""
        return Prompt(
            text=self.text,
            token_ids=tuple(self.token_ids),
            tokens=tuple(self.tokens),
            offsets=None if self.offsets is None else tuple(self.offsets),
            special=tuple(self.special),
            source="ids" if self.text is None else "chat" if self.turns else "text",
            turns=self.turns,
        )

    def __sub__(self, other: Result) -> Difference:
        return self.difference(other) if isinstance(other, Result) else NotImplemented

    # Plain values and files

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, with what is `derived`, ready for JSON."""
        return {**plain(self), **self.derived_values()}

    def derived_values(self) -> dict[str, Any]:
        """What is `derived`, as plain values."""
        return {name: plain(value(self)) for name, value in self.derived.items()}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """The result whose `to_dict` is given; tensors are float64, and null in them is not a number.

        Raises:
            ResultError: for a record that does not describe one, with the name of the field.
        """
        names = {item.name for item in fields(cls)}
        # What is derived is left out; any other unknown name is refused.
        known = {name: value for name, value in record.items() if name in names or name not in cls.derived}
        try:
            return cls.from_record(known, _tensor_of)
        except ValueError as error:
            raise ResultError(f"the record does not describe a result of kind {cls.kind} ({error}).") from error

    @classmethod
    def from_record(cls, record: Mapping[str, Any], tensor: Any) -> Self:
        """The result of a record, checked field by field.

        Raises:
            ValueError: for a record that does not describe one, with the name of the field.
        """
        model = decode(ModelRecord, record.get("model"), tensor, "model")
        for name in ("n_layers", "d_model", "d_vocab", "n_ctx"):
            if getattr(model, name) < 1:
                raise ValueError(f"model.{name} is {getattr(model, name)}, and has to be 1 or more")
        result = cls(**decode_fields(cls, dict(record), tensor, Result.aligned | cls.aligned))
        if not all(math.isfinite(token.probability) for token in result.prediction.top):
            raise ValueError("prediction.top has a probability that is not finite")
        readout = result.settings.get("readout")
        if isinstance(readout, dict) and (others := readout.get("baseline_tokens")) is not None:
            decode(list[str], others, tensor, "settings['readout']['baseline_tokens']")
        return result

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the whole result as one safetensors file, whole or not at all.

        Raises:
            FileError: when it cannot be written.
        """
        write_whole(path, self.to_safetensors())

    def to_safetensors(self) -> bytes:
        """The contents of the file that `save` writes."""
        return files.content(self.kind, self)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Reads a result of this kind, written by `save`.

        Raises:
            FileError: when the file is missing, damaged, of another kind or of another version.
        """
        return files.read(path, {cls.kind: cls.from_record})


@dataclass(frozen=True, eq=False, repr=False)
class Difference:
    """One result minus another of its kind on the same tokens.

    Attributes:
        kind: of the two results.
        tokens: of both.
        objectives: of the first and of the second.
        entries: index, label and whether special, of each row.
        scores: the difference of the values that `top` ranks, aligned with entries.
        parts: the differences of all tensors, by their names in the results.

    Example:
        >>> prompt = "The capital of France is"
        >>> paris, rome = (ls.attribute(model, prompt, ls.Semantic(token)) for token in (" Paris", " Rome"))
        >>> (paris - rome).objectives, (paris - rome).scores.shape
        (("Semantic(' Paris')", "Semantic(' Rome')"), torch.Size([6]))
    """

    kind: str
    tokens: list[str]
    objectives: tuple[str, str]
    entries: list[Entry]
    scores: Float[Tensor, " entry"]
    parts: dict[str, Tensor]

    def __repr__(self) -> str:
        leading = ", ".join(f"{item.label!r} {item.score:+.3g}" for item in self.top(3))
        return f"Difference({self.kind}: {self.objectives[0]} − {self.objectives[1]}; largest: {leading})"

    def top(self, k: int = 5, special: bool = False) -> list[Ranked]:
        """The k entries that differ most, as (index, label, difference); `special` as in `Result.top`."""
        return rank(self.entries, self.scores, k, special)

    def to_pandas(self) -> pandas.DataFrame:
        """One row per entry: index, label, special, difference."""
        return data_frame(self.entries, columns=["index", "label", "special"]).assign(difference=self.scores.tolist())

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values, ready for JSON."""
        return plain(self)


def _first_difference(mine: Sequence[str], theirs: Sequence[str]) -> str:
    for index, (one, other) in enumerate(zip(mine, theirs, strict=False)):
        if one != other:
            return f", {one!r} and {other!r} at index {index}"
    return ""


def _tensor_of(value: Any) -> Tensor:
    return torch.tensor(_numbers(value), dtype=torch.float64, device="cpu")


def _numbers(value: Any) -> Any:
    if isinstance(value, list):
        return [_numbers(item) for item in value]
    return float("nan") if value is None else value
