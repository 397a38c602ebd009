"""The study of components: what it calls real and predicted is what `inspect_heads` has."""

from typing import Any

import components as study
import pytest
import torch
from intervals import mean_interval
from records import RESULTS, load_record
from tiny_models import TINY_MODELS

import lens_scopes as ls

IDS, OTHER = [3, 7, 1, 7, 4, 9, 2], [3, 5, 5, 0, 8, 1, 6]


@pytest.fixture(params=["llama_like", "gemma_like"])
def model(request: pytest.FixtureRequest) -> Any:
    return TINY_MODELS[request.param]()


def test_effects_are_those_of_inspect_heads(model: Any) -> None:
    found = study.measure(model, IDS, OTHER)
    for baseline in study.BASELINES:
        for name in ("gradient", "relp"):
            through = None if name == "gradient" else ls.Rules(name)
            against: Any = OTHER if baseline == "contrast" else baseline
            heads = ls.inspect_heads(model, IDS, baseline=against, through=through, verify=1000, mlp_rules=None)
            predicted = found["predicted"][baseline][name]
            assert predicted["heads"] == pytest.approx(heads.effect.flatten().tolist(), rel=1e-9)
            assert predicted["MLPs"] == pytest.approx(heads.mlp_effect.tolist(), rel=1e-9)
        actual = {(item.layer, item.head): item.actual for item in heads.ablations}
        layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
        expected = [actual[layer, head] for layer in range(layers) for head in range(n_heads)]
        assert found["actual"][baseline]["heads"] == pytest.approx(expected, rel=1e-7, abs=1e-9)
        assert found["actual"][baseline]["MLPs"] == pytest.approx(
            [actual[layer, None] for layer in range(layers)], rel=1e-7, abs=1e-9
        )


def test_at_the_prompt_itself_points_have_its_gradient(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "SHARES", {"components": (1.0, 0.25), "embeddings": (1.0, 0.25)})
    predicted = study.measure(model, IDS, OTHER)["predicted"]["mean"]
    for point in ("components", "embeddings"):
        assert predicted[f"{point} 1"]["heads"] == pytest.approx(predicted["gradient"]["heads"], rel=1e-9)
        assert predicted[f"{point} 0.25"]["heads"] != pytest.approx(predicted["gradient"]["heads"], rel=1e-2)


def test_with_one_layer_of_heads_alone_the_path_of_components_is_exact() -> None:
    """One component that nothing else stands beside: Simpson's rule of a smooth function nearly gives its change."""
    model = TINY_MODELS["gpt2_like"]()
    question = study.Question.of(model, IDS)
    last = study.component_sites(question.model)[-1]
    moved_to = {name: values.clone() for name, values in question.outputs.items()}
    moved_to[last] = question.outputs[last] * 0.5
    actual = study.actual_effects(question, moved_to)["MLPs"][-1]
    shares = torch.linspace(0, 1, 21)
    at_each = [
        study.predicted_effects(
            question,
            moved_to,
            study.gradient(question, None, study.move_components(question, moved_to, float(share))),
        )["MLPs"][-1]
        for share in shares
    ]
    assert float(torch.trapezoid(torch.tensor(at_each), shares)) == pytest.approx(actual, rel=1e-3)
    assert at_each[-1] != pytest.approx(actual, rel=1e-2)


def test_findings_are_of_variants_and_pairs(model: Any) -> None:
    record = study.measure(model, IDS, OTHER)
    found = study.findings([record] * 8)
    rows = found["heads"]["mean"]["spearman"]
    assert rows.keys() == set(study.VARIANTS) and found["passages"] == 8
    expected = [study.agreement(record, "relp", "heads", "mean", "spearman")] * 8
    assert rows["relp"]["mean"] == pytest.approx(mean_interval(expected)["mean"])
    assert "holm" in rows["relp"] and "holm" not in rows["gradient"]
    assert len(study.summary({"findings": found})) >= 40


def test_the_record_is_of_passages_that_nothing_was_chosen_on() -> None:
    record = load_record(RESULTS, "components")
    assert record["findings"]["passages"] > 0 and "left out" in record["settings"]["chosen on"]
    assert record["settings"]["baselines"] == list(study.BASELINES)
