"""Agreement of predicted and actual changes, and the error of an answer's information flow."""

import math
from typing import Any

import pytest
import reference
import torch
from tiny_models import D_VOCAB, TINY_MODELS, llama_like
from torch import Tensor

import lens_scopes as ls

IDS = [3, 7, 1, 7, 4, 9, 2]

# Modes


def distribution(model: Any, embeddings: Tensor) -> Tensor:
    return reference.probabilities(model, reference.final_state(model, embeddings, IDS))


@pytest.mark.parametrize("name", TINY_MODELS)
def test_agreement_is_the_cosine_of_slope_and_intervention(name: str) -> None:
    """With all modes the predicted change is the slope of the distribution towards the baseline."""
    model = TINY_MODELS[name]()
    found = ls.inspect_modes(model, IDS, rank=model.cfg.d_model, baseline="zero", top_tokens=D_VOCAB)
    x, step = reference.site_activation(model, IDS, "hook_embed"), 1e-6
    before = distribution(model, x)
    for index, item in enumerate(found.replacements):
        towards = torch.zeros_like(x)
        towards[index] = -x[index]
        slope = (distribution(model, x + step * towards) - distribution(model, x - step * towards)) / (2 * step)
        actual = distribution(model, x + towards) - before
        cosine = float(torch.nn.functional.cosine_similarity(slope, actual, dim=0))
        assert item.agreement == pytest.approx(cosine, abs=1e-5)


def test_predictions_that_point_the_wrong_way_are_told_by_their_sign() -> None:
    """Some removals of these models do the opposite of what their gradients say."""
    values = [
        item.agreement
        for build in TINY_MODELS.values()
        for item in ls.inspect_modes(build(), IDS, rank=2, baseline="zero").replacements
    ]
    assert min(values) < -0.1 and max(values) > 0.9


# Information flow


def test_errors_of_an_answer_are_the_root_of_their_squares() -> None:
    flow = ls.information_flow(llama_like(), IDS[:4], {"span": range(1, 3)}, answer=IDS[4:], rank=2, samples=4)
    [total], table = flow.totals(), flow.to_pandas()
    assert len(table) == 3 and (table["bound_error"] > 0).all()
    assert total.bound_error == pytest.approx(math.sqrt((table["bound_error"] ** 2).sum()), rel=1e-12)


def test_predictions_draw_their_own_directions() -> None:
    """A token repeated makes all predictions the same, and draws that were the same too would err together: the sum of
    three would spread √3 times as much as its error says."""
    model, spans = llama_like(), {"span": range(1, 3)}
    flows = [
        ls.information_flow(model, [7] * 4, spans, answer=[7] * 3, rank=1, samples=4, seed=seed) for seed in range(120)
    ]
    bounds = torch.stack([flow.bound()[0] for flow in flows])
    together = torch.corrcoef(bounds.T)
    assert float((together - torch.eye(3).to(together)).abs().max()) < 0.4
    claimed = math.sqrt(sum(flow.totals()[0].bound_error ** 2 for flow in flows) / len(flows))
    assert claimed == pytest.approx(float(bounds.sum(1).std()), rel=0.3)
