"""The words and numbers of an inspected series, for all its views."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lens_scopes.views.words.attribution import answer_of, interpretation, is_divergence
from lens_scopes.views.words.numbers import number, percent, short_number

if TYPE_CHECKING:
    from lens_scopes.results.series import SeriesInspection, ValueDistribution

LIKELY = 8
"""The values of a forecast that are listed."""


@dataclass(frozen=True)
class NumberRow:
    """One number of a series: where it stands, how many steps before the forecast, and its influence; `relative` is
    its size beside the largest of all numbers, or None where it is not finite."""

    index: int
    back: int
    written: str
    number: float
    influence: float
    relative: float | None


def number_rows(series: SeriesInspection) -> list[NumberRow]:
    """The numbers in the order of the text."""
    influence = series.influence().tolist()
    largest = max((abs(value) for value in influence if math.isfinite(value)), default=0.0) or 1.0
    return [
        NumberRow(
            index=index,
            back=len(series) - index,
            written=series.written[index],
            number=series.numbers[index],
            influence=value,
            relative=abs(value) / largest if math.isfinite(value) else None,
        )
        for index, value in enumerate(influence)
    ]


def strongest_numbers(series: SeriesInspection) -> list[NumberRow]:
    """The numbers with an influence, the largest first."""
    rows = [row for row in number_rows(series) if row.relative]
    return sorted(rows, key=lambda row: (-(row.relative or 0.0), row.index))


def back_words(back: int) -> str:
    """How far a number stands before the forecast."""
    return "the last" if back == 1 else f"{back} back"


def likely_values(forecast: ValueDistribution, most: int = LIKELY) -> list[tuple[str, float]]:
    """The most probable values, as they are written, with their probabilities."""
    order = sorted(range(len(forecast.values)), key=lambda i: (-forecast.probabilities[i], forecast.values[i]))
    return [(forecast.written[i], forecast.probabilities[i]) for i in order[:most]]


def forecast_words(forecast: ValueDistribution) -> str:
    """The forecast in a sentence."""
    if not forecast.values:
        return f"No value was reached; with probability {percent(forecast.no_number)} what follows is no number."
    low, median, high = (short_number(forecast.quantile(share)) for share in (0.1, 0.5, 0.9))
    if low == high:
        return f"The next number: {median}, with 80% of the probability or more."
    return f"The next number: median {median}, 80% between {low} and {high}."


def forecast_facts(forecast: ValueDistribution) -> dict[str, str]:
    """What a chart of the forecast does not say."""
    moments = (
        {"mean": number(forecast.mean), "standard deviation": number(forecast.deviation)} if forecast.values else {}
    )
    return moments | {
        "no number": percent(forecast.no_number),
        "not walked to the end": percent(forecast.unresolved),
        "values reached": str(len(forecast.values)),
    }


def series_summary(series: SeriesInspection, most: int = 3) -> str:
    """The finding in a sentence: the numbers that the forecast rests on."""
    rows = strongest_numbers(series)[:most]
    if not rows:
        return "No number has an influence."
    named = ", ".join(f"{row.written} ({back_words(row.back)})" for row in rows)
    return f"The forecast rests on {named}."


def series_interpretation(series: SeriesInspection) -> str:
    """What the influence of a number means."""
    explained = "the next token, the first of the next number"
    if answer_of(series) is not None:
        explained = "the answer named above"
    return (
        f"A number's influence sums the scores of its tokens and of the separator after it; what is explained is"
        f" {explained}. {interpretation(series)}"
    )


def series_caveat(series: SeriesInspection) -> str:
    """How not to read it."""
    readout = series.settings.get("readout")
    name = readout.get("name") if isinstance(readout, dict) else readout
    bound = "" if name == "dot" or is_divergence(series) or name is None else "; sums of norms are upper bounds"
    return (
        "Scores are first order and local: they describe small changes of these numbers' embeddings, not the forecast"
        f" after another history{bound}. The last numbers are often strong whatever the series, so compare with one"
        " whose period you know. The probabilities of the forecast are the model's own."
    )
