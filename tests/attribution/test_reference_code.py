"""Scores equal those of the paper's own public code, run in float64 on a tiny random LLaMA (`support/golden`).

The code is AntonioLiu97/JacobianScopes, branch neurips, which runs Transformers. Which call of ours is which of its
functions, for the prediction after position 8, where T is the true next token:

| its function | ours |
| --- | --- |
| temperature_scope_scores | Temperature() |
| semantic_scope_scores | Semantic(T) |
| semantic_scope_scores(path_integral=True), α = 0.2 … 1 | Semantic(T), "product", mean gradient at αx; times 0.8 |
| the same | PathGradients("logit", alphas, weights of one, distance=0.8), target=T |
| fisher_scope_scores(method="low_rank", k=1 or 4) | Fisher(1), Fisher(4) |
| fisher_scope_scores(method="full") | Fisher("trace"), exact |
| gradient_x_input_scores | LogProb(T), readout="product" |

Its conventions, each of which another choice would miss by far more than the tolerance:
- Fisher scores are squares at every rank, the others plain norms;
- every function but Temperature and Fisher explains the true next token, not the model's own top one;
- Input × Gradient is of the log-probability (cross-entropy), the path-integrated scope of the logit;
- the path ends at its last point and begins at its first, not at zero: its length is 0.8 x for five points;
- the target token is scored too, always zero; here tokens after the position explained are dropped.

What is left, 7e-6 at most, is rounding of its side: Transformers computes norms and rotations in float32 in a float64
model, and the code decomposes F in float32.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import lens_scopes as ls
from lens_scopes.evaluation.path_gradients import PathGradients
from lens_scopes.scopes.points import Points

GOLDEN = Path(__file__).parents[1] / "support" / "golden"
STORED = json.loads((GOLDEN / "scores.json").read_text())["llama"]
IDS, POSITION, TARGET = STORED["token_ids"], STORED["explained_position"], STORED["target_id"]
ALPHAS = (0.2, 0.4, 0.6, 0.8, 1.0)


@dataclass(frozen=True)
class PathOfThePaper(Points):
    """Its points on the way from zero: α = 0.2 … 1, where ours are midpoints."""

    name: ClassVar[str] = "path of the paper"
    count: int = len(ALPHAS)

    def embeddings(self, own: Tensor, start: Tensor | None = None) -> Tensor:
        return own.new_tensor(ALPHAS)[:, None, None] * own

    def describe(self) -> str:
        return "points α x with α = 0.2 … 1"


CALLS: dict[str, dict[str, Any]] = {
    "temperature": {"objective": ls.Temperature()},
    "semantic": {"objective": ls.Semantic(TARGET)},
    "fisher_rank_1": {"objective": ls.Fisher(1)},
    "fisher_rank_4": {"objective": ls.Fisher(4)},
    "fisher_full": {"objective": ls.Fisher("trace")},
    "path_integrated_semantic_5": {
        "objective": ls.Semantic(TARGET),
        "points": PathOfThePaper(),
        "readout": "product",
    },
    "input_x_gradient_cross_entropy": {"objective": ls.LogProb(TARGET), "readout": "product"},
}
LENGTHS = {"path_integrated_semantic_5": ALPHAS[-1] - ALPHAS[0]}


@pytest.fixture(scope="module", params=[("hooked", "float64"), ("hooked", "float32"), ("bridge", "float64")], ids=str)
def model(request: pytest.FixtureRequest) -> Any:
    backend, dtype = request.param
    return ls.load_model(GOLDEN / "llama", backend=backend, dtype=dtype)


def test_every_stored_score_is_compared() -> None:
    assert set(CALLS) == {name for name in STORED["scores"] if not name.startswith("logits")}


@pytest.mark.parametrize("name", CALLS)
def test_scores_equal_those_of_the_papers_code(model: Any, name: str) -> None:
    *expected, of_target = STORED["scores"][name]
    found = ls.attribute(model, IDS, position=POSITION, **CALLS[name]).scores.double() * LENGTHS.get(name, 1.0)
    scored = STORED["scored_tokens"][:-1]
    assert_close(found[scored], torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=0)
    assert of_target == 0 and len(found) == POSITION + 1 == STORED["scored_tokens"][-1]


def test_the_comparison_method_is_the_path_integrated_scope_of_the_papers_code(model: Any) -> None:
    method = PathGradients("logit", ALPHAS, (1.0,) * len(ALPHAS), distance=ALPHAS[-1] - ALPHAS[0])
    found = ls.attribute(model, IDS, method, position=POSITION, target=TARGET).scores.double()
    expected = torch.tensor(STORED["scores"]["path_integrated_semantic_5"][:-1], dtype=torch.float64)
    assert_close(found[STORED["scored_tokens"][:-1]], expected, rtol=1e-5, atol=0)


def test_the_prediction_is_that_of_the_papers_code(model: Any) -> None:
    logits = torch.tensor(STORED["scores"]["logits_after_position_8"], dtype=torch.float64)
    prediction = ls.attribute(model, IDS, position=POSITION).prediction
    p = logits.softmax(-1)
    assert [item.token_id for item in prediction.top] == p.topk(len(prediction.top)).indices.tolist()
    assert [item.probability for item in prediction.top] == pytest.approx(
        p[p.argsort(descending=True)[:10]].tolist(), rel=1e-5
    )
    assert prediction.entropy == pytest.approx(float(-(p * p.log()).sum()), rel=1e-5)


def test_without_a_target_the_token_that_follows_is_explained(model: Any) -> None:
    """As in the paper's code, though the model's own top token is another one."""
    told = ls.attribute(model, IDS, ls.Semantic(), position=POSITION)
    assert told.prediction.top[0].token_id != TARGET
    assert torch.equal(told.scores, ls.attribute(model, IDS, ls.Semantic(TARGET), position=POSITION).scores)


# What its other conventions would give, which are easily mistaken for these.
OTHERS: dict[str, dict[str, Any]] = {
    "semantic": {"objective": ls.Semantic(29)},  # the model's own top token
    "input_x_gradient_cross_entropy": {"objective": ls.Semantic(TARGET), "readout": "product"},
    "path_integrated_semantic_5": {**CALLS["path_integrated_semantic_5"], "points": ls.StraightPath("zero", 5)},
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_conventions_give_other_scores(model: Any, name: str) -> None:
    scores = [
        ls.attribute(model, IDS, position=POSITION, **calls[name]).scores[STORED["scored_tokens"][:-1]]
        for calls in (OTHERS, CALLS)
    ]
    assert float((scores[0] / scores[1] - 1).abs().max()) > 0.1
