"""Series as text: which tokens are which number, and the distribution over values against every way to spell one."""

from typing import Any

import pytest
import torch
from number_models import PIECES, SERIES, with_numbers
from tiny_models import gpt2_like, llama_like

import lens_scopes as ls
from lens_scopes.errors import LensScopesError, PromptError


@pytest.fixture(scope="module")
def model() -> Any:
    return with_numbers(llama_like())


def test_each_number_has_its_tokens_and_its_separator(model: Any) -> None:
    series = ls.read_series(model, "12,7, 305,")
    assert series.prompt.tokens == ("<bos>", "1", "2", ",", "7", ",", " ", "3", "0", "5", ",")
    assert series.values == [12.0, 7.0, 305.0] and series.written == ["12", "7", "305"]
    assert series.digits == [(1, 3), (4, 5), (7, 10)]
    assert series.spans == [(1, 4), (4, 7), (7, 11)]
    assert series.per_number(list(range(11))) == [6.0, 15.0, 34.0]
    assert ls.read_series(model, series) is series


def test_probabilities_of_values_equal_the_sum_over_all_spellings(model: Any) -> None:
    text = "12,34,12,34,"
    ids = list(ls.read_series(model, text).prompt.token_ids)
    found = ls.value_distribution(model, text, least=0)
    total = sum(found.probabilities)
    assert total + found.no_number + found.unresolved == pytest.approx(1.0, abs=1e-9)
    assert found.unresolved == 0.0
    by_text = dict(zip(found.written, found.probabilities, strict=True))
    for number in ("12", "34", "00", "99", "-3"):
        assert by_text[number] == pytest.approx(_two_characters(model, ids, number), rel=1e-9)
    assert by_text["7"] == pytest.approx(_one_digit(model, ids, "7"), rel=1e-9)


def _probabilities(model: Any, ids: list[int], *pieces: str) -> torch.Tensor:
    return model(torch.tensor([[*ids, *map(PIECES.index, pieces)]]))[0, -1].softmax(-1)


def _two_characters(model: Any, ids: list[int], number: str) -> float:
    """Written out: both characters in one token or two, with and without a space before them."""
    total = 0.0
    for start, weight in (((), 1.0), ((" ",), float(_probabilities(model, ids)[PIECES.index(" ")]))):
        first = _probabilities(model, ids, *start)
        second = _probabilities(model, ids, *start, number[0])
        total += weight * float(first[PIECES.index(number[0])]) * float(second[PIECES.index(number[1])])
        if number[1] == "5":
            total += weight * float(first[PIECES.index(number[0])]) * float(second[PIECES.index("5,")])
        if number in PIECES:
            total += weight * float(first[PIECES.index(number)])
        # a first digit and then a longer piece gives a longer number: it is counted as that
    return total


def _one_digit(model: Any, ids: list[int], digit: str) -> float:
    total = 0.0
    continuing = [i for i, piece in enumerate(PIECES) if piece[0] in "0123456789."]
    for start, weight in (((), 1.0), ((" ",), float(_probabilities(model, ids)[PIECES.index(" ")]))):
        after = _probabilities(model, ids, *start, digit)
        ends = 1.0 - float(after[continuing].sum())
        total += weight * float(_probabilities(model, ids, *start)[PIECES.index(digit)]) * ends
    return total


def test_a_token_that_holds_a_separator_ends_the_number(model: Any) -> None:
    ids = list(ls.read_series(model, "1,2,1,").prompt.token_ids)
    first = _probabilities(model, ids)
    spaced = float(first[PIECES.index(" ")]) * _probabilities(model, ids, " ")
    ending = sum(float(p[PIECES.index("5,")]) for p in (first, spaced))
    found = ls.value_distribution(model, "1,2,1,", least=0)
    alone = sum(float(p[PIECES.index("5")]) for p in (first, spaced))
    assert found.written.count("5") == 1 and found.probability(5.0) == pytest.approx(alone + ending, rel=1e-9)
    found = ls.value_distribution(model, "1,2,1,", least=0, width=0, longest=2)
    share = found.probabilities[found.written.index("5")]  # "05" is five as well
    assert share == pytest.approx(_one_digit(model, ids, "5") + ending, rel=1e-9)


def test_what_is_left_out_bounds_what_is_missing(model: Any) -> None:
    exact = ls.value_distribution(model, "12,34,12,", least=0)
    rough = ls.value_distribution(model, "12,34,12,", least=0.02)
    assert 0 < rough.unresolved < 1 and rough.evaluations < exact.evaluations
    missing = [exact.probability(v) - rough.probability(v) for v in set(exact.values)]
    assert min(missing) >= -1e-12 and sum(missing) <= rough.unresolved + 1e-12
    assert sum(rough.probabilities) + rough.no_number + rough.unresolved == pytest.approx(1.0, abs=1e-9)


def test_numbers_of_several_widths_end_where_the_model_ends_them(model: Any) -> None:
    found = ls.value_distribution(model, "1,22,3,", least=0.001, longest=3)
    assert any(len(number) == 1 for number in found.written) and any(len(number) == 2 for number in found.written)
    assert sum(found.probabilities) + found.no_number + found.unresolved == pytest.approx(1.0, abs=1e-9)
    assert found.values == sorted(found.values)


def test_moments_and_quantiles_are_those_of_the_resolved_values() -> None:
    found = ls.ValueDistribution([1.0, 2.0, 4.0], ["1", "2", "4"], [0.1, 0.2, 0.1], 0.5, 0.1, 3)
    assert found.mean == pytest.approx(2.25) and found.deviation == pytest.approx(1.1875**0.5)
    assert [found.quantile(q) for q in (0.0, 0.25, 0.5, 0.75, 0.76, 1.0)] == [1.0, 1.0, 2.0, 2.0, 4.0, 4.0]
    assert found.probability(4) == 0.1 and found.probability(3) == 0.0
    assert list(found.to_pandas()["written"]) == ["1", "2", "4"]


BAD = {
    "a word": ("12,x,14,", "item 1 of the series is 'x'"),
    "an empty item": ("12,,14,", "item 1 of the series is empty"),
    "two points": ("1.2.3,", "item 0 of the series is '1.2.3'"),
    "no end": ("12,34", "end it with ','"),
    "too long": ("1," * 16, "32"),
    "no room for the next number": ("11,11,11,11,11,11,11,11,11,11,", "of up to 2 more would go beyond the context"),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_what_is_no_series_is_named(model: Any, text: str, message: str) -> None:
    with pytest.raises(PromptError, match=message.replace(".", r"\.")):
        ls.value_distribution(model, text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"least": 1.5}, "least is a probability"),
        ({"longest": 0}, "longest 1 or more"),
        ({"separator": "1"}, "no digit in it"),
    ],
)
def test_options_out_of_range_are_named(model: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        ls.value_distribution(model, "1,2,", **options)


def test_numbers_split_unlike_the_rest_are_named() -> None:
    model = with_numbers(gpt2_like(), r"12|[0-9]|[^0-9]")
    with pytest.raises(
        PromptError, match=r"item 1 of the series, '35', is the tokens \['3', '5'\], split unlike item 0"
    ):
        ls.read_series(model, "12,35,")
    model = with_numbers(gpt2_like(), r"5,|[0-9]|[^0-9]")
    with pytest.raises(PromptError, match="item 1 of the series, '5', shares the token '5,'"):
        ls.read_series(model, "1,5,3,")


def test_scores_of_other_tokens_are_refused(model: Any) -> None:
    with pytest.raises(PromptError, match="got 3 scores for the 5 tokens"):
        ls.read_series(model, "1,2,").per_number([1.0, 2.0, 3.0])


def test_a_series_without_a_tokenizer_or_text_is_refused(model: Any) -> None:
    with pytest.raises(PromptError, match="a series is read from text"):
        ls.read_series(model, [0, 3, 12])


@pytest.mark.gemma
def test_gemma_continues_a_periodic_series(gemma: Any) -> None:
    text = ",".join(["10", "30", "50", "30"] * 8) + ","
    found = ls.value_distribution(gemma, text, least=1e-3)
    assert found.values[max(range(len(found.values)), key=found.probabilities.__getitem__)] == 10.0
    assert found.probability(10) > 0.5 and found.unresolved < 0.05 and found.no_number < 0.05


def test_a_series_and_its_distribution_draw_themselves() -> None:
    distribution = ls.ValueDistribution([10.0, 20.0, 90.0], ["10", "20", "90"], [0.2, 0.5, 0.2], 0.06, 0.04, 3)
    figure = distribution.figure()
    (axes,) = figure.axes
    heights = [segment[1][1] for segment in axes.collections[-1].get_segments()]
    assert heights == [0.2, 0.5, 0.2]
    assert "median 20, 80% between 10 and 90; 10.0% is unresolved" in figure.get_suptitle()
    assert distribution._repr_png_().startswith(b"\x89PNG")
    nothing = ls.ValueDistribution([], [], [], 0.0, 1.0, 1)
    assert "No value was reached" in nothing.figure().get_suptitle()


def test_the_influence_of_numbers_is_that_of_their_tokens(model: Any) -> None:
    series = ls.read_series(model, SERIES)
    for objective, options in (
        (ls.Fisher(), {}),
        (ls.Semantic(), {"target": "3", "readout": "dot"}),
        (ls.LogProb(), {"answer": "34"}),
        (ls.Temperature(), {"through": "0", "score_site": "values"}),
    ):
        found = ls.inspect_series(model, SERIES, objective, **options)
        attribution = ls.attribute(model, series.prompt, objective, **options)
        assert found.scores.tolist() == attribution.scores.tolist()
        assert found.influence().tolist() == pytest.approx(series.per_number(attribution.scores), rel=1e-12)
        assert (found.numbers, found.written, found.spans) == (series.values, series.written, series.spans)
        assert (found.target, found.answer) == (attribution.target, attribution.answer)
        assert found.contract["score attributed"].endswith("summed over each number and the separator after it")
    assert found.forecast == ls.value_distribution(model, SERIES)
    best = max(range(7), key=lambda i: abs(found.influence()[i]))
    assert found.top(1)[0].index == best and f"({7 - best} back)" in repr(found)
    assert found.to_pandas()["back"].tolist() == [7, 6, 5, 4, 3, 2, 1]


def test_what_a_forecast_leaves_out_is_warned_of(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = ls.inspect_series(model, SERIES, width=0, longest=1)
    assert any("not walked to their end" in warning for warning in found.warnings)
    assert found.forecast.unresolved > 0.1 and found.settings["longest"] == 1
    with pytest.raises(LensScopesError, match="layers"):
        ls.inspect_series(model, SERIES, ls.Spec(ls.Fisher(), layers="resid_pre"))
    monkeypatch.setattr("lens_scopes.attribution.series._LARGEST", 1e3)
    with pytest.raises(PromptError, match=r"item 1 of the series, '1111'…, is beyond 1000"):
        ls.inspect_series(model, "1,1111,")


def test_an_inspection_is_read_back_only_whole(model: Any) -> None:
    plain = ls.inspect_series(model, SERIES).to_dict()
    for change, field in (
        ({"written": ["1"]}, "written has 1 entries"),
        ({"spans": [[0, 99]] * 7}, r"spans\[0\] is 0 to 99"),
        ({"forecast": {**plain["forecast"], "written": []}}, "forecast.written has 0 entries"),
    ):
        with pytest.raises(LensScopesError, match=field):
            ls.SeriesInspection.from_dict({**plain, **change})
