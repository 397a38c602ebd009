"""Series of numbers written as text: where each number stands, and what the model predicts as a distribution over
values.

A value is a string of digits, and the model predicts tokens. The probability of a value is the sum over all the ways
to spell it in tokens of

    Π_i p(token_i | text, token_1 … token_{i−1}) · p(the number ends there)

which is found by walking the tree of tokens that continue a number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Annotated, TypeAlias

from jaxtyping import Float
from torch import Tensor

from lens_scopes.attribution.attribute import attribute
from lens_scopes.engine.backward import Progress
from lens_scopes.engine.model import MatmulDtype, ModelLike, ScopedModel, one_at_a_time
from lens_scopes.errors import VALIDATED, PromptError
from lens_scopes.prompts.answer import AnswerLike
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.prompts.read import read_prompt
from lens_scopes.prompts.tokens import token_string
from lens_scopes.results.base import Result
from lens_scopes.results.series import Series, SeriesInspection, ValueDistribution
from lens_scopes.scopes.contract import ELEMENTS
from lens_scopes.scopes.paths import PathLike
from lens_scopes.scopes.points import PointsLike
from lens_scopes.scopes.readouts import Readout
from lens_scopes.scopes.spec import ObjectiveLike, Spec

SeriesText: TypeAlias = Annotated["str | Prompt | Series", VALIDATED]

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_BEGUN = re.compile(r" ?-?(?:\d+(?:\.\d*)?)?")  # what may still become a number
_BATCH_TOKENS = 4096
_LARGEST = 1e100
_MAX_NO_NUMBER, _MAX_UNRESOLVED = 0.5, 0.1  # probabilities above which a result says so


def read_series(model: ModelLike, text: SeriesText, *, separator: str = ",") -> Series:
    """Reads a series of numbers, such as "12,17,25,", ready for the next number to follow.

    Args:
        model: whose tokenizer reads it.
        text: the numbers with a separator after each, the last one included; spaces may follow separators. Numbers are
            written with digits, and perhaps a minus sign and a decimal point.
        separator: what stands between numbers, besides spaces.

    Returns:
        A Series: the numbers, and the tokens of each.

    Raises:
        PromptError: for an item that is no number, saying which; a text that does not end with a separator; a number
            that shares a token with its neighbour, or whose digits are split into tokens unlike those of the other
            numbers of its length; and as `read_prompt`, for a series beyond the context window.

    Example:
        >>> series = ls.read_series(model, "12,17,25,")
        >>> series.values, series.spans
        ([12.0, 17.0, 25.0], [(1, 4), (4, 7), (7, 10)])
    """
    if isinstance(text, Series):
        return text
    prompt = read_prompt(model, text)
    if prompt.text is None or prompt.offsets is None:
        raise PromptError("a series is read from text with character offsets; give text, and a fast tokenizer.")
    if not isinstance(separator, str) or not separator.strip() or _NUMBER.search(separator):
        raise PromptError(f'a separator is a string such as "," with no digit in it, got {separator!r}.')
    items = _items(prompt.text, separator.strip())
    digits = [_tokens(prompt, index, start, stop) for index, (start, stop) in enumerate(items)]
    numbers = [prompt.text[start:stop] for start, stop in items]
    _check_size(numbers)
    _check_alike(prompt, numbers, digits)
    # A separator belongs to the number before it.
    stops = [start for start, _ in digits[1:]] + [len(prompt)]
    return Series(
        prompt=prompt,
        values=[float(item) for item in numbers],
        written=numbers,
        spans=[(start, stop) for (start, _), stop in zip(digits, stops, strict=True)],
        digits=digits,
    )


@one_at_a_time
def value_distribution(
    model: ModelLike,
    series: SeriesText,
    *,
    separator: str = ",",
    width: int | None = None,
    least: float | int = 1e-4,
    longest: int = 8,
) -> ValueDistribution:
    """The model's distribution over the *value* of the next number, by walking the tokens that spell it.

    Every way to split a value into tokens is counted. A number ends where the next token does not continue it; where
    the series has fixed precision, so that all its numbers share a width, a number is also complete at that width. With
    least=0 the walk is exact up to `longest`; else beginnings less probable than `least` are left, and their
    probability is in `unresolved`: each probability is then a lower bound, and together they are off by that much.

    Args:
        model: a HookedTransformer or TransformerBridge.
        series: as for `read_series`.
        separator: as for `read_series`.
        width: the number of characters at which a number is complete; by default that of all the numbers of the series,
            if they share one. 0 lets every number end where the model ends it.
        least: the smallest probability of a beginning that is walked on.
        longest: characters after which a number is not walked on where there is no width.

    Returns:
        A ValueDistribution: the values and their probabilities, in increasing order of value.

    Raises:
        PromptError: as `read_series`; for width, least or longest out of range; and where the longest number would
            not fit the context window.

    Example:
        >>> next_value = ls.value_distribution(model, "12,17,25,", least=0)
        >>> round(sum(next_value.probabilities) + next_value.no_number + next_value.unresolved, 6)
        1.0
    """
    model = ScopedModel.of(model)
    read = read_series(model, series, separator=separator)
    if not 0 <= least < 1:
        raise PromptError(f"least is a probability from 0 to below 1, got {least!r}.")
    if longest < 1 or (width is not None and width < 0):
        raise PromptError(f"width must be 0 or more and longest 1 or more, got {width!r} and {longest!r}.")
    if width is None:
        # Numbers of one width are a series of fixed precision, whose next number has that width too.
        lengths = {len(item) for item in read.written}
        width = lengths.pop() if len(lengths) == 1 else 0
    most = width or longest
    n_ctx = model.cfg.n_ctx
    if len(read.prompt) + most > n_ctx:
        raise PromptError(
            f"the series has {len(read.prompt)} tokens, and a next number of up to {most} more would go beyond the "
            f"context window of {n_ctx}; give a shorter series."
        )
    return _walk(model, read.prompt.token_ids, width, float(least), most)


@one_at_a_time
def inspect_series(
    model: ModelLike,
    series: SeriesText,
    objective: ObjectiveLike = None,
    *,
    target: str | int | None = None,
    answer: AnswerLike | None = None,
    separator: str = ",",
    width: int | None = None,
    least: float | int = 1e-4,
    longest: int = 8,
    score_site: str | None = None,
    through: PathLike = None,
    readout: Readout | str | None = None,
    points: PointsLike = None,
    memory: str | int | None = None,
    matmul_dtype: MatmulDtype = None,
    progress: Progress | None = None,
) -> SeriesInspection:
    """Which past numbers of a series the forecast rests on, with the forecast as a distribution over values.

    The scores are those of `attribute` after the last separator, so they explain the next *token*, the first of the
    next number; `answer` explains a whole number ("62"). A number's influence is the sum over its tokens and the
    separator after it. The forecast is that of `value_distribution`.

    Args:
        model, objective, target, answer, score_site, through, readout, points, memory, matmul_dtype, progress: as for
            `attribute`.
        series, separator, width, least, longest: as for `value_distribution`.

    Returns:
        A SeriesInspection.

    Raises:
        LensScopesError: as `attribute` and `value_distribution`.

    Source: the case study of series in Jacobian Scopes, arXiv:2601.16407.

    Example:
        >>> series = ls.inspect_series(model, "12,17,25,", ls.Fisher())
        >>> series.numbers, series.influence().shape
        ([12.0, 17.0, 25.0], torch.Size([3]))
    """
    read = read_series(model, series, separator=separator)
    spec = Spec.read(
        objective,
        target=target,
        answer=answer,
        score_site=score_site,
        through=through,
        readout=readout,
        points=points,
        memory=memory,
        matmul_dtype=matmul_dtype,
    ).require_usual(("layers", "lens", "sites", "eligible"), "the numbers of a series have one score each")
    # The next number as the model sees it, and what the series' numbers did to it: two questions of one prompt.
    forecast = value_distribution(model, read, separator=separator, width=width, least=least, longest=longest)
    attribution = attribute(model, read.prompt, spec, progress=progress)
    # The record is the attribution's; the contract's score and the settings are of numbers.
    record = {item.name: getattr(attribution, item.name) for item in fields(Result)}
    score = f"{attribution.contract[ELEMENTS[-1]]}; summed over each number and the separator after it"
    walk = {"separator": separator, "width": width, "least": float(least), "longest": longest}
    return SeriesInspection(
        **record
        | {
            "contract": {**attribution.contract, ELEMENTS[-1]: score},
            "settings": {**attribution.settings, **walk},
            "warnings": [*attribution.warnings, *_forecast_warnings(forecast)],
        },
        scores=attribution.scores,
        numbers=read.values,
        written=read.written,
        spans=read.spans,
        separator=separator,
        forecast=forecast,
        target=attribution.target,
        answer=attribution.answer,
        other_answer=attribution.other_answer,
    )


def _forecast_warnings(forecast: ValueDistribution) -> list[str]:
    warnings = []
    if forecast.no_number > _MAX_NO_NUMBER:
        warnings.append(
            f"what follows is no number with probability {forecast.no_number:.0%}: the model does not read this text "
            "as a series that goes on."
        )
    if forecast.unresolved > _MAX_UNRESOLVED:
        warnings.append(
            f"{forecast.unresolved:.0%} of the forecast is of numbers that were not walked to their end; ask for a "
            "smaller least, or a greater longest."
        )
    return warnings


@dataclass(frozen=True)
class _NumberPrefix:
    """Tokens that begin a number, the number so far, and their probability."""

    token_ids: tuple[int, ...]
    text: str
    probability: float


def _walk(model: ScopedModel, token_ids: Sequence[int], width: int, least: float, most: int) -> ValueDistribution:
    """Walks the tree of tokens that continue a number, breadth first: one level is one batch of continuations."""
    tree = _Tree(_number_pieces(model), width, least, most)
    evaluations = 0
    level = [_NumberPrefix((), "", 1.0)]
    while level:
        continuations: list[_NumberPrefix] = []
        for prefix, probabilities in zip(level, _next_tokens(model, token_ids, level), strict=True):
            evaluations += 1
            continuations += tree.expand(prefix, probabilities)
        level = continuations
    return tree.distribution(evaluations)


class _Tree:
    """The probability of every number whose end the walk has reached, and of what it has left.

    Args:
        pieces: the tokens that can begin or continue a number.
        width, least, most: as `value_distribution` has them; `most` is the longest number.
    """

    def __init__(self, pieces: Sequence[tuple[int, str]], width: int, least: float, most: int) -> None:
        self.pieces, self.width, self.least, self.most = pieces, width, least, most
        self.ends: dict[str, float] = {}
        self.unresolved = 0.0

    def expand(self, prefix: _NumberPrefix, probabilities: Float[Tensor, " d_vocab"]) -> list[_NumberPrefix]:
        """The continuations of a beginning that are worth another run of the model."""
        continuations: list[_NumberPrefix] = []
        remaining = 1.0
        for token, piece in self.pieces:
            text, ended = _continue(prefix.text, piece)
            if text == prefix.text:  # this token ends the number: it counts with all others that do, below
                continue
            share = float(probabilities[token])
            remaining -= share
            probability = prefix.probability * share
            number = text.strip()
            # Complete: the token goes on beyond the number, or the number has its width.
            if ended or (self.width and len(number) >= self.width):
                self._end(number, probability)
            # Left: too improbable to be worth a run, or too long.
            elif probability <= self.least or len(number) >= self.most:
                self.unresolved += probability
            else:
                continuations.append(_NumberPrefix((*prefix.token_ids, token), text, probability))
        # Whatever does not continue the number ends it. Rounding may leave the rest just below zero.
        self._end(prefix.text.strip(), prefix.probability * max(0.0, remaining))
        return continuations

    def _end(self, number: str, probability: float) -> None:
        self.ends[number] = self.ends.get(number, 0.0) + probability

    def distribution(self, evaluations: int) -> ValueDistribution:
        """The ends that are numbers, by value; the others ("", "-", "3.") together are `no_number`."""
        numbers = sorted((float(text), text) for text in self.ends if _NUMBER.fullmatch(text))
        return ValueDistribution(
            values=[value for value, _ in numbers],
            written=[text for _, text in numbers],
            probabilities=[self.ends[text] for _, text in numbers],
            unresolved=self.unresolved,
            no_number=sum(probability for text, probability in self.ends.items() if not _NUMBER.fullmatch(text)),
            evaluations=evaluations,
        )


def _continue(text: str, piece: str) -> tuple[str, bool]:
    """The number so far with as much of a token as continues it, and whether the token goes on beyond the number."""
    match = _BEGUN.match(text + piece)
    assert match is not None  # it matches the empty string
    if match.end() <= len(text):
        return text, True
    return match.group(), match.end() < len(text + piece)


def _next_tokens(
    model: ScopedModel, token_ids: Sequence[int], level: Sequence[_NumberPrefix]
) -> list[Float[Tensor, " d_vocab"]]:
    """The distribution of the next token after each beginning, a batch of continuations at a time."""
    head = model.unembedding()
    at_once = max(1, _BATCH_TOKENS // (len(token_ids) + 1))
    distributions: list[Tensor] = []
    for start in range(0, len(level), at_once):
        rows = [[*token_ids, *prefix.token_ids] for prefix in level[start : start + at_once]]
        distributions += head.logits(model.run_to_final_states(rows)).softmax(-1).unbind()
    return distributions


def _number_pieces(model: ScopedModel) -> list[tuple[int, str]]:
    """The tokens of the vocabulary that can begin or continue a number, with their strings."""
    tokenizer = model.tokenizer
    size = min(model.cfg.d_vocab, len(tokenizer))
    pieces = []
    for token_id, raw in enumerate(tokenizer.convert_ids_to_tokens(list(range(size)))):
        # By the raw string first, since decoding each token of a vocabulary takes seconds.
        bare = (raw or "").lstrip("▁Ġ ")
        if not bare or bare[0] in "-.0123456789":
            piece = token_string(model, token_id)
            if piece == " " or piece.lstrip()[:1] in tuple("-.0123456789"):
                pieces.append((token_id, piece))
    return pieces


def _items(text: str, separator: str) -> list[tuple[int, int]]:
    """Where each number stands in the text, in characters."""
    stripped = text.rstrip(" ")
    if not stripped.endswith(separator):
        raise PromptError(
            f"the series ends with {text[-12:]!r}, within or after a number; end it with {separator!r}, so that the "
            "next number follows."
        )
    items, start = [], 0
    for index, chunk in enumerate(stripped[: -len(separator)].split(separator)):
        bare = chunk.strip()
        if not _NUMBER.fullmatch(bare):
            what = "empty" if not bare else f"{bare[:40]!r}, which is no number"
            raise PromptError(
                f"item {index} of the series is {what}; write numbers such as 12 or -0.5, with {separator!r} between."
            )
        first = start + chunk.index(bare)
        items.append((first, first + len(bare)))
        start += len(chunk) + len(separator)
    return items


def _check_size(numbers: Sequence[str]) -> None:
    for index, number in enumerate(numbers):
        if abs(float(number)) > _LARGEST:
            raise PromptError(
                f"item {index} of the series, {number[:12]!r}…, is beyond {_LARGEST:g}; write the series in a larger "
                "unit."
            )


def _tokens(prompt: Prompt, index: int, start: int, stop: int) -> tuple[int, int]:
    """The tokens that hold one number, and nothing else but white space."""
    assert prompt.offsets is not None and prompt.text is not None  # as read_series has checked
    tokens = [i for i, (first, last) in enumerate(prompt.offsets) if max(first, start) < min(last, stop)]
    for i in (tokens[0], tokens[-1]):
        first, last = prompt.offsets[i]
        if (prompt.text[first:start] + prompt.text[stop:last]).strip():
            raise PromptError(
                f"item {index} of the series, {prompt.text[start:stop]!r}, shares the token {prompt.tokens[i]!r} with "
                "what stands beside it, so the next number would be read otherwise than this one; put a space after "
                "each separator, or another separator."
            )
    return tokens[0], tokens[-1] + 1


def _check_alike(prompt: Prompt, numbers: Sequence[str], digits: Sequence[tuple[int, int]]) -> None:
    """Numbers of one length are to be split into tokens alike: else their scores, and the walk, do not compare."""
    first_of_length: dict[int, tuple[list[int], str, int]] = {}
    for index, (number, (start, stop)) in enumerate(zip(numbers, digits, strict=True)):
        pieces = [token.strip() for token in prompt.tokens[start:stop]]
        lengths = [len(piece) for piece in pieces if piece]
        expected, other, at = first_of_length.setdefault(len(number), (lengths, number, index))
        if lengths != expected:
            raise PromptError(
                f"item {index} of the series, {number!r}, is the tokens {pieces}, split unlike item {at}, {other!r}, "
                "of the same length, so that their scores would not compare; write numbers with fewer digits."
            )
