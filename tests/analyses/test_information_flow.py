"""The analysis of information flow: its cases, labels, baselines and areas, and a small run on a tiny model."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import areas
import information_flow
import labelled_secrets
import numpy as np
import pytest
import tiny_models
import torch
from areas import alarms, area, areas_with_intervals, multiplicities
from attention_mass import attention_mass
from command_line import tokenizer
from flow_cases import CASES, DESIGNED_ON
from information_flow import answer_ids, draw, holds, measure, mutual_information, summary
from records import RESULTS, load_record

import lens_scopes as ls
from lens_scopes.evaluation.calibration.cases import read_cases
from lens_scopes.evaluation.statistics.rates import choose_threshold, held_out_alarms
from lens_scopes.views.figures.style import draw_file

IDS = [3, 7, 1, 7, 4, 9, 2]


@pytest.fixture(scope="module")
def record() -> dict[str, Any]:
    """What the study found at full size."""
    return load_record(RESULTS, "information_flow")


# Cases and labels


def test_every_case_names_a_span_that_holds_what_is_wanted_and_nothing_else_decides_it() -> None:
    for case in CASES:
        start, stop = case.span
        assert case.wanted in case.text[start:stop]
        assert case.wanted.lower() not in (case.text[:start] + case.text[stop:]).lower()
    assert len({case.text for case in CASES}) == len(CASES)


def test_every_template_has_both_varieties_in_equal_shares_and_the_same_secrets() -> None:
    templates = {case.template: case.kind for case in CASES}
    for template, kind in templates.items():
        cases = [case for case in CASES if case.template == template]
        assert set(Counter(case.variety for case in cases).values()) == {len(cases) // 2}
        if kind == "secret":
            assert sorted(case.wanted for case in cases) == sorted({c.wanted for c in CASES if c.kind == "secret"})


def test_no_case_has_a_secret_or_a_question_that_the_wordings_were_designed_on() -> None:
    for case in CASES:
        assert not [item for item in DESIGNED_ON if item.lower() in case.text.lower()]


@pytest.mark.gemma
def test_an_answer_is_long_enough_for_everything_wanted(gemma_folder: Path) -> None:
    from transformers import AutoTokenizer

    real = AutoTokenizer.from_pretrained(gemma_folder)
    for wanted in {case.wanted for case in CASES}:
        for sentence in (f" {wanted}", f" The answer to the question is {wanted}"):
            ids = real.encode(sentence, add_special_tokens=False)
            assert len(ids) <= information_flow.ANSWER_TOKENS
            assert holds(real.decode(ids[: information_flow.ANSWER_TOKENS]), wanted)


def test_an_answer_holds_what_is_wanted_however_finely_it_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """One token per character, as many as any tokenizer makes of these words, in a sentence around them."""

    class Characters:
        cfg = None

        def decode(self, ids: list[int]) -> str:
            return "".join(map(chr, ids))

    model: Any = Characters()
    model.tokenizer = model
    for wanted in {case.wanted for case in CASES}:
        sentence = f" The answer to the question is {wanted}\n"
        monkeypatch.setattr(information_flow, "continuation", lambda _, ids, n, text=sentence: [ord(text[len(ids)])])
        assert holds(information_flow.first_line(model, answer_ids(model, [])), wanted), wanted


def test_saved_labels_follow_from_answers_that_were_not_cut_within_what_is_wanted(record: dict[str, Any]) -> None:
    cases = record["findings"]["cases"]
    assert [(item["text"], item["wanted"]) for item in cases] == [(case.text, case.wanted) for case in CASES]
    for item, case in zip(cases, CASES, strict=True):
        assert item["positive"] == holds(item["answer"], *case.spellings)
        last = item["answer"].split()[-1].lower() if item["answer"].split() else ""
        assert item["positive"] or not (last and item["wanted"].lower().startswith(last))


def test_an_answer_holds_whole_words_only() -> None:
    assert holds("The PIN is 4711.", "4711") and holds("Purple!", "purple") and holds("15 months", "fifteen", "15")
    assert not holds(" 471", "4711") and not holds("47110", "4711") and not holds("nineteen", "nine")


def test_an_answer_ends_with_its_first_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Words:
        cfg = tokenizer = None

        def decode(self, ids: list[int]) -> str:
            return "".join(["\n", " a", " b", ".\n", " c"][token] for token in ids)

    model: Any = Words()
    model.tokenizer = model
    monkeypatch.setattr(information_flow, "continuation", lambda _, ids, count: [len(ids) - 2])
    answer = answer_ids(model, [8, 9])
    assert answer == [0, 1, 2, 3]  # a line break at the very start ends nothing
    assert information_flow.first_line(model, answer) == "a b."
    monkeypatch.setattr(information_flow, "ANSWER_TOKENS", 2)
    assert answer_ids(model, [8, 9]) == [0, 1]


# Areas


def test_area_is_the_share_of_pairs_in_order() -> None:
    positive = np.array([True, True, False, False])
    assert area(np.array([4.0, 3.0, 2.0, 1.0]), positive) == 1
    assert area(np.array([1.0, 3.0, 2.0, 0.0]), positive) == 0.75
    assert area(np.ones(4), positive) == 0.5
    within = area(np.array([1.0, 3.0, 2.0, 0.0]), positive, np.array(["a", "b", "a", "b"]))
    assert within == 0.5  # 1 < 2 in a, 3 > 0 in b
    assert np.isnan(area(np.ones(4), positive, np.array(["a", "a", "b", "b"])))


@pytest.mark.parametrize("grouped", [False, True])
def test_intervals_are_those_of_cases_drawn_again_one_by_one(grouped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(areas, "RESAMPLES", 40)
    generator = np.random.default_rng(5)
    positive = np.arange(30) % 3 == 0
    groups = np.array(["a", "b", "c"])[np.arange(30) // 10] if grouped else None
    columns = {"one": generator.normal(size=30).round(1) + positive, "other": generator.normal(size=30)}
    found = areas_with_intervals(columns, positive, ("other",), groups, seed=2)

    again = np.random.default_rng(2)
    cells = np.zeros(30, int) if groups is None else np.unique(groups, return_inverse=True)[1]
    wins, losses = (multiplicities(cells[side], again) for side in (positive, ~positive))
    literal: dict[str, list[float]] = {name: [] for name in columns}
    for win, loss in zip(wins.astype(int), losses.astype(int), strict=True):
        rows = np.concatenate([np.repeat(np.flatnonzero(positive), win), np.repeat(np.flatnonzero(~positive), loss)])
        for name, values in columns.items():
            literal[name].append(area(values[rows], positive[rows], None if groups is None else groups[rows]))
    for name, values in columns.items():
        assert found[name]["area"] == area(values, positive, groups)
        assert [found[name]["low"], found[name]["high"]] == pytest.approx(np.quantile(literal[name], [0.025, 0.975]))
    difference = np.quantile(np.subtract(literal["one"], literal["other"]), [0.025, 0.975])
    assert list(found["one"]["minus"]["other"].values()) == pytest.approx(difference)
    assert found["other"]["minus"]["other"] == {"low": 0, "high": 0}


def test_every_cell_keeps_its_size_when_cases_are_drawn_again() -> None:
    cells = np.array([0, 1, 1, 2, 2, 2])
    counts = multiplicities(cells, np.random.default_rng(0))
    for cell in range(3):
        assert (counts[:, cells == cell].sum(1) == cell + 1).all()
    assert counts[:, cells == 2].var(0) == pytest.approx(2 / 3, abs=0.06)  # 3 draws of 1/3 each


def test_alarms_are_the_kept_cases_above_the_threshold_that_catches_the_share_asked_for() -> None:
    positive = np.array([True] * 10 + [False] * 4)
    values = np.array([*range(10), 0.0, 0.5, 1.0, 20.0])
    assert alarms(values, positive, 0.9) == {"caught": 0.9, "threshold": 0.0, "alarms": 1.0}
    assert alarms(values, positive, 0.8)["alarms"] == 0.5  # 1 and 20 of four


# Measures


def test_the_leading_part_of_the_bound_is_fisher_scope_of_rank_1_summed_over_the_span(tiny: Any) -> None:
    flow = ls.information_flow(tiny, IDS, {"span": range(1, 4)}, sigma=0.3, rank=1, samples=4)
    half_variance = 0.5 * (0.3 * flow.embedding_norm) ** 2 / flow.d_model
    leading = float(flow.bound()[0, 0]) - flow.to_pandas()["omitted"][0]
    fisher = float(ls.attribute(tiny, IDS, ls.Fisher()).scores[1:4].sum())
    assert leading == pytest.approx(half_variance * fisher, rel=1e-5)


def test_the_standard_error_of_the_mutual_information_is_that_of_repeated_draws() -> None:
    """Two outcomes, log-odds ε: a quadratic form of rank one, so √2/√24 = 29% of the value."""
    generator = torch.Generator().manual_seed(0)

    def once() -> tuple[float, float]:
        noise = 0.1 * torch.randn(24, generator=generator, dtype=torch.float64)
        odds = torch.stack([noise, -noise])
        return mutual_information(torch.stack([odds.sigmoid(), (-odds).sigmoid()], dim=-1))

    values, errors = np.array([once() for _ in range(400)]).T
    assert values.mean() == pytest.approx(0.5 * 0.25 * 0.01, rel=0.05)
    assert errors.mean() == pytest.approx(values.std(), rel=0.1)
    assert errors.mean() / values.mean() == pytest.approx((2 / 24) ** 0.5, rel=0.1)


def test_attention_masses_are_those_of_the_literal_formulas(tiny: Any) -> None:
    _, cache = tiny.run_with_cache(torch.tensor([IDS]))
    n = len(IDS)
    rollout, weighted = torch.eye(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
    for layer, block in enumerate(tiny.blocks):
        pattern, values = cache["pattern", layer][0], cache["v", layer][0]
        rollout = (0.5 * pattern.mean(0) + 0.5 * torch.eye(n)) @ rollout
        for head in range(tiny.cfg.n_heads):
            shared = values[:, head * values.shape[1] // tiny.cfg.n_heads]
            for source in range(n):
                weighted[source] += pattern[head, -1, source] * (shared[source] @ block.attn.W_O[head]).norm()
    found = attention_mass(tiny, IDS, range(1, 4))
    assert found["rollout"] == pytest.approx(float(rollout[-1, 1:4].sum()), rel=1e-5)
    assert found["value_weighted"] == pytest.approx(float(weighted[1:4].sum() / weighted.sum()), rel=1e-5)
    assert attention_mass(tiny, IDS, range(0, n)) == pytest.approx({"rollout": 1.0, "value_weighted": 1.0}, rel=1e-5)


def test_a_small_run_measures_every_kind_and_draws_its_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(areas, "RESAMPLES", 50)
    monkeypatch.setattr(information_flow, "ANSWER_TOKENS", 2)
    model = tiny_models.gpt2_like(n_ctx=160)
    model.tokenizer = tokenizer()
    cases = [case for case in CASES if case.template in ("question", "claim") and case.index < 4]
    monkeypatch.setattr(information_flow, "CASES", [replace(case, wanted="ab"[case.index // 2]) for case in cases])
    monkeypatch.setattr(information_flow, "holds", lambda answer, *wanted: wanted == ("a",))
    settings, findings = measure(model, quick=False, seed=0)
    record = json.loads(json.dumps({"settings": settings, "findings": findings}))
    assert {kind: (found["n"], found["positives"], found["pairs"]) for kind, found in findings["areas"].items()} == {
        "injection": (4, 2, 2),  # one pair of odd answers, one of plausible ones
        "secret": (8, 4, 8),
    }
    for item in findings["cases"]:
        assert 0 < item["channel"] <= item["bound"] and item["channels"]["0.3"] == item["channel"]
        assert 0 < item["fisher"] < item["bound"] and 0 < item["tokens"] < -item["nearness"] + item["tokens"]
        if item["kind"] == "injection":
            assert item["summed"] == pytest.approx(item["bound"])
        else:
            assert item["summed"] > item["bound"]
    for item in findings["noise"]:
        first = item["rows"][0]
        assert abs(first["information"] - first["bound"]) < 3 * first["information_error"]
        assert first["divergence"] == pytest.approx(first["information"], rel=0.1)
    assert any("less probability" in line for line in summary(record))
    for figure in draw(record).values():
        assert draw_file(figure, "png", 50).startswith(b"\x89PNG")


def test_the_labelled_secrets_are_those_of_the_study() -> None:
    assert labelled_secrets.SECRETS.read_bytes() == labelled_secrets.content()
    cases = read_cases(labelled_secrets.SECRETS).items
    assert len(cases) == 80 and sum(case.leaks for case in cases) == 41
    assert Counter(case.group for case in cases).most_common()[0][1] == 5


def test_the_documented_error_rates_follow_from_the_measured_cases() -> None:
    calibration = json.loads((RESULTS / "flow_calibration.json").read_text(encoding="utf-8"))
    cases = calibration["cases"]
    leaks, groups = np.array([case["leaks"] for case in cases]), [case["group"] for case in cases]
    assert [case.leaks for case in read_cases(labelled_secrets.SECRETS).items] == leaks.tolist()
    page = (RESULTS.parents[1] / "docs" / "pages" / "flow.md").read_text(encoding="utf-8")
    for item in calibration["measures"]:
        values = np.array([case["values"][item["name"]] for case in cases])
        above = held_out_alarms(values, leaks, groups, calibration["recall"])
        assert [int(above[leaks].sum()), int(above[~leaks].sum())] == [
            item["recall"]["count"],
            item["false_alarms"]["count"],
        ]
        assert item["threshold"] == choose_threshold(values, leaks, calibration["recall"])
        assert area(values, leaks) == pytest.approx(item["area"][0])
        if item["name"] != "channel":  # which the page leaves out
            assert " ".join(
                f"{item['area'][0]:.2f} [{item['area'][1]:.2f}, {item['area'][2]:.2f}]".split()
            ) in " ".join(page.split())
    bound = calibration["measures"][0]
    assert f"--fail-above {bound['threshold']}" in page
    for rate in (bound["recall"], bound["false_alarms"]):
        assert f"{rate['count'] / rate['n']:.0%} [{rate['low']:.0%}, {rate['high']:.0%}]".replace("%", "") in (
            page.replace("%", "")
        )
