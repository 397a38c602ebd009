"""The words and numbers of a view: what a score means, how not to read it, and what is odd about these scores."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from lens_scopes.errors import PromptError
from lens_scopes.prompts.groups import GROUPINGS, Grouping
from lens_scopes.scopes.registry import entry_of_result
from lens_scopes.views.words.numbers import number as number
from lens_scopes.views.words.numbers import percent as percent
from lens_scopes.views.words.token_text import inline_token, printable_token

if TYPE_CHECKING:
    from lens_scopes.engine.final_state import PredictedToken, Prediction
    from lens_scopes.results.attribution import Attribution
    from lens_scopes.results.base import AnswerRecord

_SINK = (
    "The first special token (BOS) is an attention sink, so its score is often the largest and rarely means anything:"
    " its score is listed but left out of the colour scale."
)
NOT_TO_READ = (
    "It is first order and local: it describes small changes of an embedding around this very prompt, not what happens"
    f" when a token is removed or replaced, and the scores do not add up to the prediction. {_SINK}"
)


@runtime_checkable
class HasPrompt(Protocol):
    """A result that has a prompt."""

    @property
    def tokens(self) -> list[str]: ...
    @property
    def special(self) -> list[bool]: ...


@runtime_checkable
class HasPrediction(HasPrompt, Protocol):
    """A result about one prediction."""

    @property
    def prediction(self) -> Prediction: ...


@runtime_checkable
class HasScope(Protocol):
    """A result whose scores a scope made."""

    @property
    def scope(self) -> str: ...
    @property
    def settings(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Row:
    """One token's line in a table: `relative` is |score| over the largest |score| of the tokens that count, or None."""

    index: int
    token: str
    token_id: int
    special: bool
    score: float
    relative: float | None
    standard_error: float | None


@dataclass(frozen=True)
class Segment:
    """A run of tokens `start` to `stop`, `stop` left out, with its summed score; `relative` as for `Row`."""

    label: str
    start: int
    stop: int
    special: bool
    score: float
    relative: float | None


def rows(attribution: Attribution) -> list[Row]:
    """One row per token, in the order of the text; special tokens and non-finite scores have no relative one."""
    from lens_scopes.results.attribution import relative_scores

    scores = attribution.scores.tolist()
    errors = [None] * len(scores) if attribution.standard_error is None else attribution.standard_error.tolist()
    relative = relative_scores(scores, attribution.special)
    return [
        Row(
            index=i,
            token=attribution.tokens[i],
            token_id=attribution.token_ids[i],
            special=attribution.special[i],
            score=scores[i],
            relative=relative[i],
            standard_error=errors[i],
        )
        for i in range(len(scores))
    ]


def groupings(attribution: Attribution) -> dict[str, list[Segment]]:
    """The segments of each grouping that puts several tokens into one segment and makes several segments, by name."""
    by_name = {}
    for name in GROUPINGS:
        try:
            groups = segments_of(attribution, name)
        except PromptError:  # ids have no sentences, and what is no chat has no turns
            continue
        several = sum(not segment.special for segment in groups) > 1
        if several and len(groups) < len(attribution.tokens) and groups not in by_name.values():
            by_name[name] = groups
    return by_name


def segments_of(attribution: Attribution, by: Grouping) -> list[Segment]:
    """The segments of a grouping with their summed scores, in the order of the text.

    Raises:
        PromptError: as `Attribution.group`.
    """
    groups, values = attribution.groups(by), attribution.scores.tolist()
    scores = [sum(values[group.start : group.stop]) for group in groups]
    special = [all(attribution.special[group.start : group.stop]) for group in groups]
    from lens_scopes.results.attribution import relative_scores

    relative = relative_scores(scores, special)
    return [
        Segment(group.label, group.start, group.stop, outside, score, part)
        for group, outside, score, part in zip(groups, special, scores, relative, strict=True)
    ]


def meaning_of_sum(attribution: Attribution) -> str:
    """What the sum of a segment's scores means, in a sentence."""
    readout = _readout_name(attribution)
    if readout is None:
        return "A segment's score is the sum of its tokens' scores."
    if readout == "dot":
        return "A sum is the first-order effect of all the segment's tokens moving together."
    if is_divergence(attribution) and not attribution.settings.get("score_sites"):
        return "A sum is the score of the segment's tokens moved independently of each other."
    return (
        "A sum is an upper bound of what the segment's tokens do together, to first order; it grows with their number."
    )


def ranking(scores: Sequence[float], special: Sequence[bool]) -> list[int]:
    """Indices of the non-special tokens with finite, non-zero scores, largest magnitude first."""
    counted = [i for i, s in enumerate(scores) if not special[i] and math.isfinite(s) and s != 0]
    return sorted(counted, key=lambda i: (-abs(scores[i]), i))


def likely(attribution: Attribution, most: int = 10) -> list[PredictedToken]:
    """The `most` most probable next tokens, and the target where it is not among them."""
    tokens = list(attribution.prediction.top[:most])
    target = attribution.target
    if target is not None and all(token.token_id != target.token_id for token in tokens):
        tokens.append(target)
    return tokens


def interpretation(result: HasScope) -> str:
    """What a score means, in a sentence or two, with its unit."""
    entry = entry_of_result(result.scope)
    readout = _readout_name(result)
    if readout is None:
        return (
            "Each score is that of a method to compare with, which has no readout; its formula stands in the"
            " contract under “score attributed”."
        )
    # Divergences are squared sums over directions and have sentences of their own.
    elsewhere = bool(result.settings.get("score_sites"))
    whose = "a token's activations, at the sites that the contract names," if elsewhere else "a token's embedding"
    if entry.is_divergence:
        return _divergence_interpretation(result, str(readout), whose, elsewhere=elsewhere)
    if is_divergence(result):
        return (
            f"Each score sums the squared effects of {whose.rstrip(',')} along several directions of the final state,"
            " by their weights, and is never negative. The unit is that of the directions, squared; the exact formula"
            " stands in the contract under “score attributed”."
        )
    # A number changes in its own unit, by an amount that the readout names.
    quantity = quantity_of(result)
    own = f"that token's {'activations at the sites that the contract names' if elsewhere else 'embedding'}"
    if readout == "product":
        return (
            f"Each score is the norm of the first-order effects on {quantity} of the entries of {whose} having their"
            " values and not the baseline's, in the unit of that quantity."
        )
    if readout == "relative":
        return (
            f"Each score is how much {quantity} can change, to first order, with a change of {own} as large as it is,"
            " in the unit of that quantity."
        )
    if readout == "dot":
        return (
            f"Each score is the first-order effect of {own}, compared with the baseline's, on {quantity.rstrip(',')},"
            " in the unit of that quantity: blue raises it, orange lowers it."
        )
    return f"Each score is how much {quantity} can change, to first order, per unit of change in {own}."


def _divergence_interpretation(result: HasScope, readout: str, whose: str, *, elsewhere: bool) -> str:
    """The same for Fisher Scope, whose scores are divergences.

    Args:
        whose: what is changed, as a subject.
        elsewhere: whether scores are read at other sites than the embedding.
    """
    change, unit = {
        "relative": (f"a change of {whose} in proportion to its size can move", "in nats"),
        "product": (f"the entries of {whose} having their values and not the baseline's move", "in nats"),
        "dot": (f"{whose} having its value and not the baseline's moves", "in nats"),
    }.get(readout, (f"a small change of {whose} can move", "per unit of its norm"))
    half = "" if elsewhere else "; the divergence is half the score"
    root = "; it is the root of it, added up over the sites" if elsewhere else ""
    return (
        f"Each score says how strongly {change} {quantity_of(result).rstrip(',')}, measured by its Fisher"
        f" information (½ δᵀFδ is the Kullback–Leibler divergence in nats), {unit}{root}{half}. The exact formula"
        " stands in the contract under “score attributed”."
    )


def unit_of_score(result: HasScope) -> str:
    """The unit of a score, for beside its number: `logits per unit of norm`; empty where it has no short name."""
    unit = entry_of_result(result.scope).unit
    readout = _readout_name(result)
    squared = is_divergence(result)
    if unit is None or readout is None or (squared and result.settings.get("score_sites")):
        return ""
    return f"{unit} per {'squared ' if squared else ''}unit of norm" if readout == "norm" else unit


def is_divergence(result: HasScope) -> bool:
    """Whether the explained quantity is read by squares along several directions, as a divergence, so has no sign."""
    return bool(result.settings.get("divergence"))


def caveat(result: HasScope) -> str:
    """How not to read the scores."""
    if result.settings.get("readout") is None:
        return f"Scores of this kind compare with no scope's in size, only in their order. {_SINK}"
    if result.settings.get("points") is not None:
        return (
            "Gradients are averaged over other prompts than this one, named in the contract: they describe no small"
            f" change of it, nor what happens when a single token is removed or replaced. {_SINK}"
        )
    return NOT_TO_READ


def _readout_name(result: HasScope) -> object:
    readout = result.settings.get("readout")
    return readout.get("name") if isinstance(readout, Mapping) else readout


def data_warnings(attribution: Attribution) -> list[str]:
    """Sentences on scores that a picture cannot show: none that count, all zero, not finite. Usually empty."""
    scores = attribution.scores.tolist()
    notes = _row_warnings(scores, attribution.special, "")
    if attribution.layers is not None:
        names = short_names(attribution.layer_names)
        layers = attribution.layers.tolist()
        broken = [n for n, row in zip(names, layers, strict=True) if not all(map(math.isfinite, row))]
        if broken:
            notes.append(f"Layers with scores that are not finite (NaN or infinite): {listing(broken)}.")
        zero = [
            n
            for n, row in zip(names, layers, strict=True)
            if n not in broken
            and not any(s for s, special in zip(row, attribution.special, strict=True) if not special)
        ]
        if zero and len(zero) < len(names):
            notes.append(f"Layers where every score is zero: {listing(zero)}.")
        elif zero:
            notes.append("Every score at every layer is zero.")
    return notes


def _row_warnings(scores: Sequence[float], special: Sequence[bool], where: str) -> list[str]:
    if all(special):
        return [f"Every token{where} is a special token, so there is nothing to put on the colour scale."]
    broken = sum(not math.isfinite(s) for s in scores)
    finite = [s for s, is_special in zip(scores, special, strict=True) if math.isfinite(s) and not is_special]
    notes = []
    if broken:
        verb = "score is" if broken == 1 else "scores are"
        notes.append(f"{broken} of {len(scores)} {verb} not finite (NaN or infinite) and left out of the colour scale.")
    if finite and not any(finite):
        rest = "Every other score" if broken else "Every score"
        notes.append(f"{rest} is exactly zero: within this objective and path no token has a first-order influence.")
    return notes


def title(result: HasPrediction) -> str:
    """`prompt → what follows` in one line, shortened from the left; without special tokens. The arrow points the way
    that the prompt is read."""
    prompt = prompt_text(result)
    prompt = prompt if len(prompt) <= 80 else "…" + prompt[-79:]
    after = following(result)
    arrow = "←" if _is_right_to_left(prompt) else "→"  # arrows do not turn with the text around them
    return prompt if after is None else f"{prompt} {arrow} {after.text}"


def _is_right_to_left(text: str) -> bool:
    """Whether the first letter with a direction is of a script from right to left."""
    directions = (unicodedata.bidirectional(letter) for letter in text)
    return next((one for one in directions if one in ("L", "R", "AL")), "L") != "L"


class WhatFollows(NamedTuple):
    """What follows the prompt: its text, how probable it is, and what it is."""

    text: str
    probability: str
    role: str


def following(result: HasPrediction) -> WhatFollows | None:
    """The answer; the target; or the most probable next token where the objective has no target."""
    answer = answer_of(result)
    if answer is not None:
        text = "".join(map(inline_token, answer.tokens))
        return WhatFollows(text, f"log P {number(answer.log_probability)} nats", "answer explained")
    target = getattr(result, "target", None)
    if target is not None:
        return next_token(target, "target")
    return next_token(result.prediction.top[0]) if result.prediction.top else None


def next_token(token: PredictedToken, role: str = "most probable next token") -> WhatFollows:
    """A single token that follows the prompt."""
    return WhatFollows(printable_token(token.token), percent(token.probability), role)


def answer_of(result: object) -> AnswerRecord | None:
    """The answer that a result explains, where there is one."""
    answer = getattr(result, "answer", None)
    return answer if hasattr(answer, "log_probabilities") else None  # telling by its class would load torch


def answers_of(result: object) -> dict[str, AnswerRecord]:
    """The answer that a result explains and the one that it is contrasted with, by what they are."""
    answers = {"The answer": answer_of(result), "The answer contrasted": getattr(result, "other_answer", None)}
    return {role: answer for role, answer in answers.items() if answer is not None}


def answer_summary(answer: AnswerRecord) -> str:
    """How probable an answer is, as a whole and per token, and where it came from."""
    count = len(answer.tokens)
    per_token = percent(math.exp(answer.log_probability / count))
    origin = "generated by the model" if answer.generated else "given"
    tokens = "1 token" if count == 1 else f"{count} tokens, {per_token} per token (geometric mean)"
    return f"log P(answer | prompt) = {number(answer.log_probability)} nats; {tokens}; {origin}."


def quantity_of(result: HasScope) -> str:
    """What a score is a change of, in words that a sentence can hold."""
    quantity = entry_of_result(result.scope).quantity
    if answer_of(result) is None or getattr(result, "other_answer", None) is not None:
        return quantity
    if result.scope == "logprob":
        return "the answer's log-probability (nats)"
    return f"{quantity}, summed over the predictions of the answer's tokens,"


def prompt_text(result: HasPrompt) -> str:
    """The text up to the position explained, without special tokens, on one line; without the answer."""
    length = len(result.tokens) if answer_of(result) is None else getattr(result, "position", 0) + 1
    pairs = zip(result.tokens[:length], result.special, strict=False)
    return " ".join("".join(inline_token(token) for token, special in pairs if not special).split())


def short_names(hook_names: Sequence[str]) -> list[str]:
    """`blocks.3.hook_resid_pre` → `L3`; with the part of the block, `L3 mid`, where several parts are shown."""
    matches = [re.fullmatch(r"blocks\.(\d+)\.(?:hook_resid_)?(.+)", name) for name in hook_names]
    parts = {m[2] for m in matches if m}
    plain = len(parts) == 1 and all(matches)
    return [
        name if m is None else (f"L{m[1]}" if plain else f"L{m[1]} {m[2]}")
        for name, m in zip(hook_names, matches, strict=True)
    ]


def layer_leaders(attribution: Attribution) -> list[tuple[int, int, float]]:
    """The strongest cell of each layer outside the special tokens: (row, index of the token, score)."""
    if attribution.layers is None:
        return []
    rows = enumerate(attribution.layers.tolist())
    best = ((row, scores, ranking(scores, attribution.special)) for row, scores in rows)
    return [(row, order[0], scores[order[0]]) for row, scores, order in best if order]


def lens_note(attribution: Attribution) -> str:
    """What a lens reads, and how not to read it; empty without one."""
    reading = attribution.lens
    if reading is None:
        return ""
    name = {"logit": "the logit lens", "jacobian": "a fitted JacobianLens"}.get(reading.lens, reading.lens)
    count = sum(bool(cell) for line in reading.tokens for cell in line)
    cells = sum(len(line) for line in reading.tokens)
    part = "" if count == cells else f" Read were {count} of {cells} cells, those with the largest scores."
    return (
        f"What the residual stream reads as is {name}: {reading.equation}, of the activation h in a cell. It says what "
        "the unembedding would read there, not what the model predicts; early layers often read as noise."
        f"{part}"
    )


def reading_text(tokens: Sequence[PredictedToken], most: int = 3) -> str:
    """The tokens that a cell reads as, with their probabilities: `␣sofa 31.2%, ␣couch 4.1%`."""
    return ", ".join(f"{printable_token(item.token)} {percent(item.probability)}" for item in tokens[:most])


def listing(names: Sequence[str], most: int = 8) -> str:
    """`L0, L1, L2`, and how many more there are beyond the first `most`."""
    more = len(names) - most
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:most])} and {more} more"
