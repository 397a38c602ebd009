"""The AttnLRP rules against the numbers of AttnLRP's published package, on models with the same weights."""

import json
from pathlib import Path
from typing import Any

import lxt_parity as study
import pytest
import torch
from torch import Tensor

import lens_scopes as ls
from lens_scopes.engine.model import has_hooked
from lens_scopes.scopes.registry import RULE_SETS

GOLDEN = json.loads((Path(__file__).parents[1] / "support" / "golden" / "attnlrp_lxt.json").read_text(encoding="utf-8"))
BACKENDS = ("hooked", "bridge") if has_hooked() else ("bridge",)
RULES = RULE_SETS["attnlrp"].rules


@pytest.fixture(scope="module", params=[(name, backend) for name in study.MODELS for backend in BACKENDS], ids="-".join)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any]:
    name, backend = request.param
    folder = tmp_path_factory.mktemp(name)
    study.build(name).save_pretrained(folder)
    return name, ls.load_model(folder, dtype="float64", backend=backend)


def scores(model: Any, readout: str, rules: tuple[str, ...]) -> Tensor:
    return ls.attribute(model, study.IDS, ls.Semantic(study.TARGET), readout=readout, through=ls.Rules(*rules)).scores


def test_relevances_and_gradients_are_those_of_lxt(case: tuple[str, Any]) -> None:
    """To the float32 that lxt computes RMS norms in."""
    name, model = case
    golden = GOLDEN["models"][name]
    assert (GOLDEN["seed"], GOLDEN["ids"], GOLDEN["target"]) == (study.SEED, list(study.IDS), study.TARGET)
    assert float(model(torch.tensor([study.IDS]))[0, -1, study.TARGET]) == pytest.approx(golden["logit"], rel=1e-5)
    for readout, quantity in (("dot", "relevance"), ("norm", "norm")):
        expected = torch.tensor(golden[quantity], dtype=torch.float64)
        error = (scores(model, readout, ("attnlrp",)).double() - expected).abs().max() / expected.abs().max()
        assert error < 2e-6, f"{quantity} of {name}"


def test_the_numbers_tell_every_rule_apart(case: tuple[str, Any]) -> None:
    name, model = case
    expected = torch.tensor(GOLDEN["models"][name]["relevance"], dtype=torch.float64)
    gated = bool(model.cfg.gated_mlp)
    for rule in RULES:
        if rule == "half-gate" and not gated:
            continue
        others = tuple(other for other in RULES if other != rule and (gated or other != "half-gate"))
        error = (scores(model, "dot", others).double() - expected).abs().max() / expected.abs().max()
        assert error > 1e-3, f"without {rule}"
