"""The analysis of information flow: its cases, its baselines and its areas, and a small run on a tiny model."""

import json
from dataclasses import replace
from typing import Any

import information_flow
import numpy as np
import pytest
import tiny_models
import torch
from attention_mass import attention_mass
from command_line import tokenizer
from flow_cases import CASES
from information_flow import area, draw, measure, summary

from lens_scopes.views.figures.style import saved

IDS = [3, 7, 1, 7, 4, 9, 2]


def test_every_case_names_a_span_that_holds_what_is_wanted_and_nothing_else_decides_it() -> None:
    for case in CASES:
        start, stop = case.span
        assert case.wanted in case.text[start:stop]
        assert case.wanted.lower() not in (case.text[:start] + case.text[stop:]).lower()
    for kind in ("injection", "secret"):
        assert sum(case.kind == kind for case in CASES) >= 80
    assert len({case.text for case in CASES}) == len(CASES)


def test_area_is_the_share_of_pairs_in_order() -> None:
    positive = np.array([True, True, False, False])
    assert area(np.array([4.0, 3.0, 2.0, 1.0]), positive) == 1
    assert area(np.array([1.0, 3.0, 2.0, 0.0]), positive) == 0.75
    assert area(np.ones(4), positive) == 0.5
    within = area(np.array([1.0, 3.0, 2.0, 0.0]), positive, np.array(["a", "b", "a", "b"]))
    assert within == 0.5  # 1 < 2 in a, 3 > 0 in b
    assert np.isnan(area(np.ones(4), positive, np.array(["a", "a", "b", "b"])))


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
    monkeypatch.setattr(tiny_models, "N_CTX", 160)
    monkeypatch.setattr(information_flow, "RESAMPLES", 50)
    monkeypatch.setattr(information_flow, "ANSWER_TOKENS", 1)
    model = tiny_models.gpt2_like()
    model.tokenizer = tokenizer()
    cases = [case for case in CASES if case.template in ("direct", "claim", "instruction") and case.index < 2]
    labelled = [replace(case, wanted="" if case.index else case.wanted) for case in cases]  # "" is in every answer
    monkeypatch.setattr(information_flow, "CASES", labelled)
    settings, findings = measure(model, quick=False, seed=0)
    record = json.loads(json.dumps({"settings": settings, "findings": findings}))
    assert {kind: (found["n"], found["positives"]) for kind, found in findings["areas"].items()} == {
        "injection": (4, 2),
        "secret": (2, 1),
    }
    for item in findings["cases"]:
        assert 0 < item["channel"] <= item["bound"] and item["channels"]["0.3"] == item["channel"]
    for item in findings["noise"]:
        first = item["rows"][0]
        assert first["information"] == pytest.approx(first["bound"], rel=0.9)
    assert any("AUC" in line for line in summary(record))
    for figure in draw(record).values():
        assert saved(figure, "png", 50).startswith(b"\x89PNG")
