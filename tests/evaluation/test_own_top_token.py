"""What is measured explains the model's own top token, whatever the passage's true next token is."""

from typing import Any

from tiny_models import D_VOCAB, llama_like

import lens_scopes as ls
from lens_scopes.evaluation.laboratory import Laboratory
from lens_scopes.evaluation.methods import Method

IDS = [1, 17, 0, 8, 22, 3, 11]


def test_the_true_next_token_changes_no_number() -> None:
    model = llama_like()
    top = ls.attribute(model, IDS).prediction.top[0].token_id
    true = (top + 1) % D_VOCAB

    def values(method: Any, target: int | None) -> list[float]:
        laboratory = Laboratory(model, [method], ["deletion", "aopc", "loo-kl"], ["zero"])
        facts, measurements = laboratory.measure(laboratory.passage(IDS), target, index=0)
        assert facts["target_token_id"] == target
        return [item.value for item in measurements]

    for name in ("semantic", "logprob", "ixg", "ig@4"):
        assert values(name, true) == values(name, None) == values(name, top)
    # A method that does explain the true token gives other numbers.
    assert values(Method("semantic", ls.Semantic(true)), None) != values("semantic", None)
