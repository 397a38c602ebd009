"""Shapley values of tokens: all orders of a small prompt, the estimate's mean, and what a result of theirs says."""

import itertools
import math
from typing import Any

import pytest
import reference
import torch
from docstring_examples import example_model
from tiny_models import gpt2_like
from torch import Tensor
from torch.testing import assert_close

import lens_scopes as ls
from lens_scopes.errors import EvaluationError, ObjectiveError
from lens_scopes.scopes.comparisons.kernel_shap import shapley_subsets, shapley_values

IDS = [1, 17, 0, 8, 22]
TARGET = 5
PROMPT = ls.Prompt(None, tuple(IDS), tuple(f"#{token}" for token in IDS), None, (True, *[False] * 4), "ids")


def by_all_orders(value: Any, n: int) -> Tensor:
    """Shapley values as they are defined: what a player adds to those before, over all orders."""
    total = torch.zeros(n, dtype=torch.float64)
    for order in itertools.permutations(range(n)):
        for place, player in enumerate(order):
            total[player] += value({*order[: place + 1]}) - value({*order[:place]})
    return total / math.factorial(n)


def log_probability_with(model: Any, kept: set[int]) -> float:
    """log p(target) with only these of the eligible tokens, the others replaced by their mean."""
    embeddings = reference.site_activation(model, IDS, "hook_embed").clone()
    mean = embeddings[1:].mean(0)
    for index in range(4):
        if index not in kept:
            embeddings[1 + index] = mean
    y = reference.final_state(model, embeddings, IDS)
    return float(reference.logits_from_final_state(model, y).log_softmax(-1)[TARGET])


@pytest.mark.parametrize("ablations", [14, 64])
def test_all_subsets_give_the_values_over_all_orders(tiny: Any, ablations: int) -> None:
    found = ls.attribute(tiny, PROMPT, ls.KernelShap(ablations=ablations), target=TARGET).scores
    expected = by_all_orders(lambda kept: log_probability_with(tiny, kept), 4)
    assert_close(found[1:], expected, rtol=1e-9, atol=1e-12)
    assert found[0] == 0, "special tokens stay in place"


@pytest.mark.parametrize("n", [2, 3, 5])
def test_a_game_by_hand(n: int) -> None:
    def value(players: set[int]) -> float:  # one pair that must be together, and single gains
        return 3.0 * ({0, 1} <= players) + sum(0.5 * player for player in players)

    kept, weights = shapley_subsets(n, 2**n, seed=0)
    gains = torch.tensor([value(set(row.nonzero().flatten().tolist())) for row in kept], dtype=torch.float64)
    expected = [1.5 * (player < 2) + 0.5 * player for player in range(n)]
    found = shapley_values(kept, weights, gains, value(set(range(n))))
    assert found.tolist() == pytest.approx(expected, abs=1e-12)
    assert float(weights.sum()) == pytest.approx(1) and len(kept) == 2**n - 2


def test_the_estimate_has_no_bias_and_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    n = 5
    table = torch.randn(2**n, generator=generator, dtype=torch.float64)

    def value(row: Tensor) -> float:
        return float(table[int((row.long() << torch.arange(n)).sum())] - table[0])

    total = value(torch.ones(n))
    every, weights = shapley_subsets(n, 99, 0)
    exact = shapley_values(every, weights, torch.tensor([value(row) for row in every]), total)
    found = []
    for seed in range(3000):
        kept, weights = shapley_subsets(n, 6, seed)
        found.append(shapley_values(kept, weights, torch.tensor([value(row) for row in kept]), total))
        assert float(found[-1].sum()) == pytest.approx(total)
    mean, error = torch.stack(found).mean(0), torch.stack(found).std(0) / math.sqrt(len(found))
    assert ((mean - exact).abs() < 4 * error).all()


def test_subsets_come_in_pairs_and_draws_are_seeded() -> None:
    state = torch.get_rng_state()
    kept, weights = shapley_subsets(40, 64, seed=3)
    assert torch.equal(kept[0::2], ~kept[1::2]) and bool((weights == 1 / 64).all())
    assert torch.equal(kept, shapley_subsets(40, 64, seed=3)[0])
    assert not torch.equal(kept, shapley_subsets(40, 64, seed=4)[0])
    assert kept.sum(1).min() > 0 and kept.sum(1).max() < 40
    assert torch.equal(state, torch.get_rng_state())


def test_a_sentences_value_is_spread_over_its_tokens() -> None:
    prompt = "The capital of France is Paris. Rome is the capital. The capital of Italy is"
    att = ls.attribute(example_model(), prompt, ls.KernelShap(by="sentence"), answer=" Rome.")
    scores = att.scores.tolist()
    assert len({round(score, 9) for score in scores[1:]}) == 3
    assert att.objective == "KernelShap(64, by='sentence', ablation='mean'), answer=' Rome.'"
    assert att.group("sentence")["score"].sum() == pytest.approx(float(att.scores.sum()))


def test_few_ablations_and_unknown_choices_are_refused() -> None:
    with pytest.raises(ObjectiveError, match="number of ablations"):
        ls.KernelShap(ablations=1)
    with pytest.raises(EvaluationError, match="unknown ablation"):
        ls.KernelShap(ablation="nothing")
    with pytest.raises(ObjectiveError, match="by is"):
        ls.KernelShap(by="letter")
    with pytest.raises(ObjectiveError, match="takes no gradient"):
        ls.attribute(gpt2_like(), IDS, ls.KernelShap(), readout="dot")
