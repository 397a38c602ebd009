"""The words and numbers of a mode inspection, for all its views."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lens_scopes.views.words.numbers import short_number

if TYPE_CHECKING:
    from lens_scopes.results.modes import ModeInspection, ProbabilityChange, TokenReplacement

_MIN = 0.01  # changes below this part of the mode's largest are not worth a bar
_MAX = 8  # tokens of a mode
_AGREEING = 0.5  # the mean cosine below which a reader is warned


@dataclass(frozen=True)
class Contrast:
    """A mode's tokens, from the one that rises most to the one that falls most."""

    index: int
    eigenvalue: float
    shifts: list[ProbabilityChange]
    largest: float
    resolved: bool = True


def contrasts(modes: ModeInspection) -> list[Contrast]:
    """Every mode with the tokens that change most."""
    result = []
    for index, mode in enumerate(modes.modes, start=1):
        shifts = [shift for shift in (*mode.rising, *mode.falling) if math.isfinite(shift.change)]
        largest = max((abs(shift.change) for shift in shifts), default=0.0)
        largest_shifts = [shift for shift in shifts if abs(shift.change) >= _MIN * largest and shift.change]
        largest_shifts = sorted(largest_shifts, key=lambda shift: -abs(shift.change))[:_MAX]
        result.append(
            Contrast(
                index, mode.eigenvalue, sorted(largest_shifts, key=lambda shift: -shift.change), largest, mode.resolved
            )
        )
    return result


def strongest_replacements(modes: ModeInspection) -> list[TokenReplacement]:
    """Replacements of ordinary tokens by their actual effect in nats, largest first; without those that have none."""
    ordinary = [
        replacement
        for replacement in modes.replacements
        if not modes.special[replacement.index] and math.isfinite(replacement.actual_nats) and replacement.actual
    ]
    return sorted(ordinary, key=lambda replacement: -replacement.actual_nats)


def weighted_amounts(modes: ModeInspection) -> list[list[float]]:
    """a_i √λ_i for each replacement: ½ (a_i √λ_i)² is mode i's share of the predicted nats."""
    roots = [math.sqrt(max(0.0, mode.eigenvalue)) for mode in modes.modes]
    return [
        [a * root for a, root in zip(replacement.amounts, roots, strict=True)] for replacement in modes.replacements
    ]


def agreement_warning(modes: ModeInspection) -> list[str]:
    """A sentence where predicted and actual changes of probability disagree, on average over the words."""
    agreements = [item.agreement for item in strongest_replacements(modes) if math.isfinite(item.agreement)]
    if not agreements or (mean := sum(agreements) / len(agreements)) >= _AGREEING:
        return []
    opposite = sum(agreement < 0 for agreement in agreements)
    against = f", and below zero for {opposite} of {len(agreements)}" if opposite else ""
    return [
        "Predicted and actual changes disagree when a whole word is replaced: their mean agreement is "
        f"{short_number(mean)} over {len(agreements)} words (cosine; 1 if they agree){against}. Believe the actual "
        "changes; what the modes predict holds for small steps."
    ]


def replacement_words(replacement: TokenReplacement) -> str:
    """What replacing the word did, in a sentence that does not break inside a token or a number."""
    words = replacement.sentence()
    for token in {replacement.token, *(shift.token for shift in replacement.actual)}:
        words = words.replace(repr(token), repr(token).replace(" ", "\u00a0"))
    return words.replace(" pp", "\u00a0pp")


def modes_interpretation() -> str:
    return (
        "A mode is a direction in which a small change of the final state moves the predicted distribution; the first"
        " moves it most. Along it some tokens rise at the expense of others. λ is its Fisher information, in nats per"
        " squared unit of the final state; the bars are the changes of probability for a step that costs ½ nat to"
        " second order."
    )


def modes_caveat(modes: ModeInspection) -> str:
    return (
        "Above zero (blue) a token rises, below (orange) it falls; those with less than"
        f" {_MIN:.0%} of a mode’s largest change and those beyond the first {_MAX} are left out. The sign of a"
        " mode is a convention: its largest change is a rise."
        f" Below, words are replaced by the {modes.baseline} embedding, which is a"
        " large step: what really happened may differ from the prediction."
    )


def modes_data_warnings(modes: ModeInspection) -> list[str]:
    """Sentences on what the bars cannot show: predictions that fail, no information, numbers that are not finite."""
    notes = agreement_warning(modes)
    values = [mode.eigenvalue for mode in modes.modes]
    if values and not any(values):
        notes.append("Every λ is zero: no small change of the final state moves the prediction.")
    broken = sum(not math.isfinite(value) for value in values)
    if broken:
        notes.append(f"{broken} of {len(values)} modes have a λ that is not finite (NaN or infinite).")
    undone = sum(
        not math.isfinite(replacement.actual_nats) or not all(map(math.isfinite, replacement.amounts))
        for replacement in modes.replacements
    )
    if undone:
        notes.append(f"{undone} of {len(modes.replacements)} words have numbers that are not finite.")
    finite = [replacement for replacement in modes.replacements if not modes.special[replacement.index]]
    if finite and not any(replacement.actual_nats for replacement in finite):
        notes.append("Replacing any one word leaves the prediction exactly as it is.")
    return notes
