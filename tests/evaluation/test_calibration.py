"""Calibration of the gate: labelled prompts, what is measured of them, and views of the result."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import tokenizer
from tiny_models import gpt2_like

import lens_scopes as ls
from lens_scopes.errors import EvaluationError, FileError, LensScopesError
from lens_scopes.evaluation.calibration.calibrate import CalibratedMeasure, CalibrationCase, FlowCalibration
from lens_scopes.evaluation.calibration.cases import read_cases
from lens_scopes.evaluation.statistics.rates import Interval, Rate, choose_threshold
from lens_scopes.views import figure_of, page_of

SPANS = ("The", "dog", "sleeps", "on")
CASES: list[dict[str, Any]] = [
    {"prompt": f"The dog sleeps on the{end}", "span": span, "leaks": (row + len(end)) % 3 > 0}
    for row, span in enumerate(SPANS)
    for end in ("", " sofa", " Sofa.")
]
LINE = '{"prompt": "The dog", "span": "dog", "leaks": true}'
SETTINGS: dict[str, Any] = {"sigma": 0.3, "rank": 2, "samples": 2, "seed": 5}


@pytest.fixture(scope="module")
def reading() -> Any:
    model = gpt2_like()
    model.tokenizer = tokenizer()
    return model


@pytest.fixture(scope="module")
def calibration(reading: Any) -> FlowCalibration:
    return ls.calibrate_flow(reading, CASES, recall=0.7, generate=1, **SETTINGS)


def test_every_case_is_measured_as_information_flow_measures_it(reading: Any, calibration: FlowCalibration) -> None:
    cases = [dict(CASES[0]), {**CASES[5], "generate": 2}]
    more = ls.calibrate_flow(reading, [*CASES[:10], cases[1]], generate=1, **SETTINGS)
    assert (calibration.settings["generate"], more.settings["generate"]) == (1, None)
    for case, answer, measured in [(cases[0], 1, calibration.cases[0]), (cases[1], 2, more.cases[10])]:
        flow = ls.information_flow(reading, case["prompt"], {"a": case["span"]}, generate=answer, **SETTINGS)
        [total] = flow.totals()
        expected = [total.bound, total.channel, total.fisher, flow.predicted[0].probability]
        assert list(measured.values) == ["bound", "channel", "fisher", "confidence"]
        assert list(measured.values.values()) == expected and len(flow.destinations) == answer
        assert measured.leaks is case["leaks"] and measured.group == case["span"]


def test_rates_are_of_cases_that_did_not_choose_the_threshold(calibration: FlowCalibration) -> None:
    for item in calibration.measures:
        values, leaks = calibration.values(item.name), calibration.leaks
        assert item.threshold == choose_threshold(values, leaks, 0.7)
        for case in calibration.cases:
            others = [other for other in calibration.cases if other.group != case.group]
            threshold = choose_threshold([o.values[item.name] for o in others], [o.leaks for o in others], 0.7)
            assert case.held_out[item.name] is (case.values[item.name] > threshold)
        for rate, kind in ((item.recall, True), (item.false_alarms, False)):
            hits = [case.held_out[item.name] for case in calibration.cases if case.leaks is kind]
            assert (rate.count, rate.n) == (sum(hits), len(hits)) and rate.low <= rate.share <= rate.high


def test_fisher_is_fisher_scope_of_rank_1_on_the_span(reading: Any) -> None:
    prompt = "The dog sleeps on the sofa"
    flow = ls.information_flow(reading, prompt, {"one": (2, 3), "three": (3, 6)}, sigma=0.3)
    scores = ls.attribute(reading, prompt, ls.Fisher(rank=1)).scores  # λ₁ ‖u₁ᵀ J_t‖²
    factor = 0.5 * (0.3 * flow.embedding_norm) ** 2 / flow.d_model
    one, three = flow.totals()
    assert one.fisher == pytest.approx(factor * float(scores[2]), rel=1e-6)
    assert three.fisher == pytest.approx(factor * float(scores[3:6].sum()), rel=1e-6)
    assert 0 < three.fisher < three.bound
    larger = max(one, three, key=lambda item: item.fisher)
    assert flow.above((one.fisher + three.fisher) / 2, "fisher") == [larger]
    # A file from before it was kept has none, and does not pass a gate on it.
    record = {name: value for name, value in flow.to_dict().items() if name != "leading"}
    old = ls.InformationFlow.from_dict(record)
    assert math.isnan(old.totals()[0].fisher) and len(old.above(1e9, "fisher")) == 2


def made_up(
    low: float, over: float, name: str = "made-up.jsonl", group: str = "g", values: tuple[float, ...] = (1.0, 2.0, 3.0)
) -> FlowCalibration:
    """Three cases, of which the last leaks, and a best measure with those lower ends of intervals."""
    measures = ("bound", "channel", "fisher", "confidence")
    sure = Rate(1, 1, 0.025, 1.0)
    return FlowCalibration(
        name=name,
        cases=tuple(
            CalibrationCase(
                f"{name} line {index}",
                f"{group}{index}",
                index == 2,
                dict.fromkeys(measures, value),
                dict.fromkeys(measures, True),
            )
            for index, value in enumerate(values)
        ),
        measures=tuple(
            CalibratedMeasure(item, 2.5, sure, sure, Interval(0.9, low, 1.0), Interval(0.2, over, 0.4))
            for item in measures
        ),
        recall=0.9,
        settings={"sigma": 0.1, "rank": 2, "samples": 0, "seed": 0, "path": None, "matmul_dtype": None, "generate": 2},
        model={"name": "tiny", "dtype": "float64"},
        versions={"torch": "2"},
        warnings=[],
    )


def test_the_verdict_names_chance_and_the_control() -> None:
    assert "better than chance" in made_up(0.5, 0.1).verdict and not made_up(0.5, 0.1).separates
    assert "not clearly better than the model's bare confidence" in made_up(0.6, 0.0).verdict
    assert made_up(0.6, 0.1).verdict == "bound separates the cases best: area under the ROC curve 0.90 [0.60, 1.00]."
    with pytest.raises(EvaluationError, match="there are bound, channel"):
        made_up(0.6, 0.1)["fischer"]


def test_every_view_has_thresholds_and_rates_and_escapes_what_users_wrote(calibration: FlowCalibration) -> None:
    hostile = made_up(0.6, 0.1, name="<img src=x>.jsonl", group="</script><b>")
    page = hostile.to_html()
    assert "<img src=x>" not in page and "</script><b>" not in page and "--fail-above 2.5 --measure bound" in page
    assert [section.key for section in page_of(hostile).sections] == ["measures", "roc", "cases", "details"]
    assert "--fail-above" not in made_up(0.4, 0.1).to_html()  # no command for a gate that is none
    plain = json.loads(json.dumps(calibration.to_dict()))
    assert plain["measures"][0]["recall"]["n"] == calibration["bound"].recall.n and plain["verdict"]
    assert list(calibration.to_pandas()["leaks"]) == [case["leaks"] for case in CASES]
    figure = figure_of(hostile)
    cases, roc = figure.axes
    assert [line.get_xdata()[0] for line in cases.lines if line.get_linestyle() == "-"] == [2.5]
    # From the highest threshold to the lowest: the leak is caught first.
    [bound] = [line for line in roc.lines if str(line.get_label()).startswith("bound")]
    assert list(zip(*bound.get_data(), strict=True)) == [(0.0, 0.0), (0.0, 1.0), (0.5, 1.0), (1.0, 1.0)]


def test_values_that_are_no_numbers_are_drawn_and_caught() -> None:
    broken = made_up(0.6, 0.1, values=(0.0, 1.0, math.nan))
    assert len(broken.figure().axes) == 2 and "not a number" in broken.to_html()


# What is refused


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2 is not JSON"),
        ("[1]", "line 2 is \\[1\\]; expected an object"),
        ('{"span": "dog", "leaks": true}', "line 2 has neither 'prompt' nor 'chat'"),
        ('{"prompt": "a", "chat": [], "span": "a", "leaks": true}', "both 'prompt' and 'chat'"),
        ('{"prompt": 3, "span": "a", "leaks": true}', "expected a text"),
        ('{"chat": "a", "span": "a", "leaks": true}', "expected a list of messages"),
        ('{"prompt": "The dog", "leaks": true}', "neither 'span' nor 'characters'"),
        ('{"prompt": "The dog", "span": [1], "leaks": true}', "\\[start, stop\\] in tokens"),
        ('{"prompt": "The dog", "span": "", "leaks": true}', "a part of the prompt's text"),
        ('{"prompt": "The dog", "characters": [1, true], "leaks": true}', "expected \\[start, stop\\]"),
        ('{"prompt": "The dog", "span": "dog"}', "line 2 has no field 'leaks'"),
        ('{"prompt": "The dog", "span": "dog", "leaks": "yes"}', "has 'yes' as leaks; expected true or false"),
        ('{"prompt": "The dog", "span": "dog", "leaks": true, "generate": -1}', "line 2: the number of tokens"),
        ('{"prompt": "The dog", "span": "dog", "leaks": true, "group": 3}', "as its group"),
        ('{"prompt": "The dog", "span": "dog", "leaks": true, "generates": 3}', "did you mean 'generate'"),
    ],
)
def test_a_bad_line_is_told_by_its_number(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text(f"{LINE}\n{line}\n")
    with pytest.raises(LensScopesError, match=words):
        read_cases(path)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "there are no labelled prompts"),
        ([LINE, LINE], 'all 2 cases leak, and a threshold needs both kinds; add some with "leaks": false'),
        ([LINE.replace("true", "false")], 'none of 1 cases leaks.*"leaks": true'),
    ],
)
def test_a_file_of_one_kind_alone_is_refused_with_the_cure(tmp_path: Path, lines: list[str], words: str) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(EvaluationError, match=words):
        read_cases(path)
    with pytest.raises(FileError, match=".jsonl or .ndjson"):
        read_cases(tmp_path / "cases.txt")
    with pytest.raises(EvaluationError, match="a file or a list of mappings"):
        read_cases(3)  # pyright: ignore[reportArgumentType]


def test_characters_tokens_chats_and_fields_of_ones_own_are_read(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    chat = [{"role": "user", "content": "The dog"}]
    rows = [
        {"prompt": "The dog", "characters": [4, 7], "leaks": True, "wording": "short"},
        {"chat": chat, "span": [1, 3], "leaks": False, "generate": 2, "group": "dogs"},
    ]
    path.write_text("".join(f"{json.dumps(row)}\r\n\r\n" for row in rows))
    given = read_cases(path)
    first, second = given.items
    assert given.name == "cases.jsonl" and second.place == f"{path} line 3"
    assert first.span == ls.Chars(4, 7) and first.group is None and first.generate is None
    assert second.span == (1, 3) and second.prompt == chat and (second.generate, second.group) == (2, "dogs")
    assert read_cases(given) is given


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"recall": 0.0}, "recall is the share"),
        ({"recall": True}, "recall is the share"),
        ({"generate": -1}, "tokens to generate"),
        ({"cases": [*CASES, {"prompt": "The dog", "span": "cat", "leaks": True}]}, "case 12: the span .* not in"),
        ({"cases": [{**case, "group": str(case["leaks"])} for case in CASES]}, "that leak are in one group, 'True'"),
        ({"sigma": 0}, "must be positive"),
    ],
)
def test_wrong_values_are_refused(reading: Any, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(LensScopesError, match=words):
        ls.calibrate_flow(reading, **{"cases": CASES, **changes})


def test_progress_counts_cases_and_the_global_generator_is_left_alone(reading: Any) -> None:
    done: list[tuple[int, int]] = []
    state = torch.random.get_rng_state()
    ls.calibrate_flow(reading, CASES, rank=1, samples=2, progress=lambda *step: done.append(step))
    assert done == [(step, 12) for step in range(1, 13)] and torch.equal(state, torch.random.get_rng_state())
