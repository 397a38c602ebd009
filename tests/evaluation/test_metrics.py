"""Metrics: hand-made records with the numbers worked out, a linear model in closed form, literal loops, laws."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import reference
import torch
from scipy import stats
from tiny_models import TINY_MODELS, attention_only, gemma_like, gpt2_like, linear_toy
from torch import Tensor
from torch.testing import assert_close

import lens_scopes as ls
from lens_scopes.engine.model import ScopedModel
from lens_scopes.engine.token_ablation import AblatedPrompt, Outcomes
from lens_scopes.errors import EvaluationError
from lens_scopes.evaluation.methods.method import Method, MethodScores
from lens_scopes.evaluation.methods.names import as_method
from lens_scopes.evaluation.methods.randomized_blocks import RandomizedBlocks
from lens_scopes.evaluation.metrics.ablation_cache import AblationCache, count_of, ranking
from lens_scopes.evaluation.metrics.agreement import correlation, top_hit
from lens_scopes.evaluation.metrics.perturbation import integral
from lens_scopes.evaluation.metrics.scored_prompt import ScoredPrompt
from lens_scopes.evaluation.metrics.table import CURVE_FRACTIONS, ERASER_FRACTIONS, METRICS, find_metric
from lens_scopes.prompts.prompt import Prompt

TARGET = 5
CLEAN = -0.5
SetFunction = Callable[[frozenset[int]], float]


def prompt_of(ids: list[int], specials: int = 1) -> Prompt:
    special = tuple(index < specials for index in range(len(ids)))
    return Prompt(None, tuple(ids), tuple(f"#{token}" for token in ids), None, special, "ids")


class Record(AblatedPrompt):
    """What ablating sets of tokens did, written down by hand: token 0 is BOS, the others are 1 … n."""

    def __init__(self, n: int, fall: SetFunction, divergence: SetFunction | None = None) -> None:
        self.token_ids = list(range(n + 1))
        self.eligible = list(range(1, n + 1))
        self.targets = [0]
        self.clean_log_probability = CLEAN
        self.asked: list[frozenset[int]] = []
        self._fall = fall
        self._divergence = divergence or (lambda chosen: abs(fall(chosen)))

    def outcomes(self, masks: Tensor) -> Outcomes:
        sets = [frozenset(mask.nonzero()[:, 0].tolist()) for mask in masks]
        self.asked += sets
        falls, divergences = (
            torch.tensor([of(chosen) for chosen in sets], dtype=torch.float64) for of in (self._fall, self._divergence)
        )
        return Outcomes(CLEAN - falls, (CLEAN - falls).exp(), CLEAN - falls, divergences)


def measured(name: str, scores: list[float] | Tensor, record: Record, seed: int = 0) -> dict[Any, Any]:
    """A metric's values of scores of the tokens 1 … n, by name, or by (name, fraction) for curves."""
    values = torch.cat([torch.tensor([1e6], dtype=torch.float64), torch.as_tensor(scores, dtype=torch.float64)])
    case = ScoredPrompt(
        None,
        prompt_of(record.token_ids),
        record.targets[0],
        Method("by hand", ls.Spec(ls.ExternalScores(values))),
        MethodScores(values, 0, 0),
        AblationCache(record, seed),
        RandomizedBlocks(None),
        seed,
    )
    found = METRICS[name].measure(case)
    return {item.name if item.fraction is None else (item.name, item.fraction): item for item in found}


def value(name: str, scores: list[float] | Tensor, record: Record, of: str | None = None, seed: int = 0) -> float:
    return measured(name, scores, record, seed)[of or name].value


def additive(effects: list[float] | Tensor) -> Record:
    """Every token's ablation makes log p fall by its own effect, whatever else is ablated."""
    given = torch.as_tensor(effects, dtype=torch.float64).tolist()
    return Record(len(given), lambda chosen: sum(given[token - 1] for token in chosen))


def drawn(n: int, seed: int) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def case_of(model: Any, ids: list[int], method: Any, ablation: str | None = "zero", seed: int = 0) -> ScoredPrompt:
    read, prompt = as_method(method), prompt_of(ids)
    cache = None
    if ablation is not None:
        cache = AblationCache(AblatedPrompt(ScopedModel.of(model), ids, prompt.special, TARGET, ablation), seed)
    scored = read.score(model, prompt, TARGET)
    return ScoredPrompt(model, prompt, TARGET, read, scored, cache, RandomizedBlocks(model, seed), seed)


def values_of(name: str, case: ScoredPrompt) -> dict[str, float]:
    return {item.name: item.value for item in METRICS[name].measure(case)}


# Counting and ranking


@pytest.mark.parametrize(
    ("fraction", "n", "count"),
    [(0.0, 7, 0), (0.05, 3, 1), (0.05, 20, 1), (0.05, 41, 2), (0.1, 20, 2), (0.2, 20, 4), (0.5, 3, 2), (0.01, 250, 2)]
    + [(1.0, 7, 7), (1.0, 1, 1), (0.5, 1, 1), (0.99, 7, 7), (2.0, 7, 7)],
)
def test_a_fraction_stands_for_a_number_of_tokens(fraction: float, n: int, count: int) -> None:
    assert count_of(fraction, n) == count


def test_equal_scores_are_ranked_by_position() -> None:
    assert ranking(torch.tensor([1.0, 3.0, 1.0, 3.0, 2.0, 1.0])) == [1, 3, 4, 0, 2, 5]
    assert ranking(torch.zeros(40)) == list(range(40))


# The paper's AOPC


def test_the_papers_aopc_by_hand() -> None:
    """20 tokens: fractions 0.05, 0.10, 0.20 are 1, 2, 4 tokens. Their log p falls by 2; 3; 5 nats, so the integral is
    −(2 + 3)/2 · 0.05 − (3 + 5)/2 · 0.10 = −0.525, not divided by the range."""
    falls = {1: 2.0, 2: 3.0, 4: 5.0}
    record = Record(20, lambda chosen: falls[len(chosen)])
    scores = [0.0] * 20
    scores[6], scores[3], scores[19], scores[0] = 4.0, 3.0, 2.0, 1.0
    assert value("aopc", scores, record) == pytest.approx(-0.525, abs=1e-12)
    assert record.asked == [{7}, {7, 4}, {7, 4, 20, 1}]
    assert value("aopc-kl", scores, record) == pytest.approx(0.525, abs=1e-12)


def test_short_prompts_ablate_one_token_at_least() -> None:
    record = additive([1.0, 0.0, 0.0, 0.0, 0.0])
    assert value("aopc", [5, 4, 3, 2, 1], record) == pytest.approx(-0.15, abs=1e-12)
    assert set(record.asked) == {frozenset({1})}


def test_signed_scores_rank_by_value_for_the_target_and_by_magnitude_for_the_distribution() -> None:
    record = additive([3.0, -4.0, *[0.0] * 18])
    scores = [3.0, -4.0, *[0.0] * 18]
    measured("aopc", scores, record)
    assert record.asked[0] == {1}
    record = additive(scores)
    measured("aopc-kl", scores, record)
    assert record.asked[0] == {2}
    for name in ("deletion", "comprehensiveness", "comprehensiveness-kl"):
        record = additive(scores)
        measured(name, scores, record)
        singles = {chosen for chosen in record.asked if len(chosen) == 1}
        assert singles == {"deletion": {frozenset({1}), frozenset({2})}, "comprehensiveness": {frozenset({1})}}.get(
            name, {frozenset({2})}
        )


def test_the_integral_is_the_trapezoids() -> None:
    assert integral([0.0, 1.0, 3.0], [2.0, 4.0, 0.0]) == pytest.approx(3 + 4)


# The limits of AOPC


@pytest.mark.parametrize("seed", range(5))
def test_normalised_aopc_of_additive_effects(seed: int) -> None:
    """Where effects add up the greedy search is the best there is: 1 for the order of the effects, 0 for its reverse,
    and everything else between."""
    effects = drawn(25, seed)
    record = additive(effects)
    assert value("aopc-normalised", effects, record) == pytest.approx(1, abs=1e-12)
    assert value("aopc-normalised", -effects, record) == pytest.approx(0, abs=1e-12)
    assert 0 < value("aopc-normalised", drawn(25, seed + 50), record) < 1


def test_normalised_aopc_of_the_greedy_order_where_effects_do_not_add_up() -> None:
    """Tokens 4 and 9 matter together alone; token 2 a little."""
    record = Record(20, lambda s: 5.0 * ({4, 9} <= s) + 1.0 * (2 in s) + 0.5 * (4 in s))
    greedy = [0.0] * 20
    greedy[1], greedy[3], greedy[8] = 3.0, 2.0, 1.0
    assert value("aopc-normalised", greedy, record) == pytest.approx(1, abs=1e-12)
    unchanged = measured("aopc-normalised", greedy, Record(20, lambda s: 0.0))["aopc-normalised"]
    assert math.isnan(unchanged.value) and "no order" in (unchanged.note or "")


@pytest.mark.parametrize("name", ["gemma_like", "gpt2_like"])
def test_normalised_aopc_of_models_lies_between_its_limits(name: str) -> None:
    model = TINY_MODELS[name]()
    ids = [1, *torch.randint(23, (15,), generator=torch.Generator().manual_seed(2)).tolist()]
    for method in ("fisher@2", "random", "loo-logprob"):
        case = case_of(model, ids, method)
        assert -0.1 < values_of("aopc-normalised", case)["aopc-normalised"] < 1.1


# Comprehensiveness, sufficiency, curves


def test_comprehensiveness_and_sufficiency_by_hand() -> None:
    """10 tokens: fractions 0.01, 0.05, 0.10, 0.20, 0.50 are 1, 1, 1, 2, 5 tokens."""
    effects = [0.1 * t for t in range(1, 11)]
    p = math.exp(CLEAN)
    without = [1.0, 1.0, 1.0, 1.9, 4.0]  # the largest effects summed: 1; 1 + 0.9; 1 + 0.9 + 0.8 + 0.7 + 0.6
    total = 5.5
    compre = sum(p - math.exp(CLEAN - fall) for fall in without) / 5
    suffic = sum(p - math.exp(CLEAN - (total - fall)) for fall in without) / 5
    record = additive(effects)
    assert value("comprehensiveness", effects, record) == pytest.approx(compre, rel=1e-12)
    assert value("sufficiency", effects, record) == pytest.approx(suffic, rel=1e-12)
    assert value("comprehensiveness-kl", effects, record) == pytest.approx(sum(without) / 5, rel=1e-12)
    assert value("sufficiency-kl", effects, record) == pytest.approx(total - sum(without) / 5, rel=1e-12)
    assert len(ERASER_FRACTIONS) == 5


@pytest.mark.parametrize("seed", range(4))
def test_better_scores_are_judged_better(seed: int) -> None:
    effects = drawn(30, seed).abs()
    record = additive(effects)
    noise = drawn(30, seed + 100).abs()
    for name, best_is_high in (("comprehensiveness", True), ("sufficiency", False), ("aopc", False), ("aopc-kl", True)):
        found = [value(name, scores, record) for scores in (effects, noise, effects.max() - effects)]
        assert found == sorted(found, reverse=best_is_high), name
        assert found[0] != found[1] != found[2]


def test_curves_begin_and_end_where_they_must() -> None:
    effects = drawn(20, 3).abs()
    record = additive(effects)
    order = sorted(effects.tolist(), reverse=True)
    deletion, insertion = measured("deletion", effects, record), measured("insertion", effects, record)
    for fraction in CURVE_FRACTIONS:
        k = 0 if fraction == 0 else max(1, round(20 * fraction))
        gone, kept = sum(order[:k]), sum(order[k:])
        assert deletion["deletion-logprob", fraction].value == pytest.approx(-gone, abs=1e-12)
        assert deletion["deletion-kl", fraction].value == pytest.approx(gone, abs=1e-12)
        assert insertion["insertion-logprob", fraction].value == pytest.approx(-kept, abs=1e-12)
        assert insertion["insertion-kl", fraction].value == pytest.approx(kept, abs=1e-12)
    assert deletion["deletion-logprob", 0.0].value == insertion["insertion-logprob", 1.0].value == 0
    assert deletion["deletion-kl", 1.0].value == insertion["insertion-kl", 0.0].value
    assert len(deletion) == len(insertion) == 2 * len(CURVE_FRACTIONS)


@pytest.mark.parametrize("ablation", ["zero", "resample", "remove"])
def test_curves_of_models_begin_and_end_where_they_must(tiny: Any, ablation: str) -> None:
    case = case_of(tiny, [1, 17, 0, 8, 22, 3], "temperature", ablation)
    deletion, insertion = (
        {(v.name, v.fraction): v.value for v in METRICS[m].measure(case)} for m in ("deletion", "insertion")
    )
    for kind in ("logprob", "kl"):
        assert deletion[f"deletion-{kind}", 0.0] == pytest.approx(0, abs=1e-10)
        assert insertion[f"insertion-{kind}", 1.0] == pytest.approx(0, abs=1e-10)
        assert deletion[f"deletion-{kind}", 1.0] == pytest.approx(insertion[f"insertion-{kind}", 0.0], abs=1e-10)


def test_a_linear_model_by_hand() -> None:
    """y without the tokens S is y − Σ_S J_t x_t, so every curve and every leave-one-out KL is known."""
    model, jacobian = linear_toy(seed=1)
    ids = [1, *torch.randint(23, (20,), generator=torch.Generator().manual_seed(4)).tolist()]
    y = reference.state_of(model, ids)
    x = reference.site_activation(model, ids, "hook_embed")
    moves = torch.einsum("toi,ti->to", jacobian(len(ids)), x)
    clean = reference.probabilities(model, y)

    def without(chosen: list[int]) -> Tensor:
        return reference.probabilities(model, y - moves[chosen].sum(0))

    def kl(q: Tensor) -> float:
        return float((clean * (clean.log() - q.log())).sum())

    case = case_of(model, ids, "semantic")
    order = sorted(range(1, 21), key=lambda t: -float(case.method_scores.scores[t]))
    for item in METRICS["deletion"].measure(case):
        assert item.fraction is not None
        q = without(order[: count_of(item.fraction, 20)])
        by_hand = kl(q) if item.name == "deletion-kl" else float(q[TARGET].log() - clean[TARGET].log())
        assert item.value == pytest.approx(by_hand, abs=1e-9)
    changes = [float(without(order[:k])[TARGET].log() - clean[TARGET].log()) for k in (1, 2, 4)]
    by_hand = (changes[0] + changes[1]) / 2 * 0.05 + (changes[1] + changes[2]) / 2 * 0.10
    assert values_of("aopc", case)["aopc"] == pytest.approx(by_hand, abs=1e-10)
    truth = torch.tensor([kl(without([t])) for t in range(1, 21)], dtype=torch.float64)
    assert_close(case.cache.leave_one_out.divergence, truth, rtol=1e-8, atol=1e-11)
    rho = stats.spearmanr(case.method_scores.scores[1:], truth).statistic
    assert values_of("loo-kl", case)["loo-kl-spearman"] == pytest.approx(rho, abs=1e-12)


# Agreement with leave-one-out


@pytest.mark.parametrize("ablation", ["zero", "mean", "remove"])
def test_leave_one_out_agrees_with_itself(tiny: Any, ablation: str) -> None:
    case = case_of(tiny, [1, 17, 0, 8, 22, 3, 11], f"loo-kl@{ablation}", ablation)
    found = values_of("loo-kl", case)
    partial = found.pop("loo-kl-partial")
    assert found == pytest.approx(dict.fromkeys(found, 1), abs=1e-12) and len(found) == 4
    by_place = bool((case.effects.diff() > 0).all())
    assert math.isnan(partial) if by_place else partial == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("place", range(7))
def test_the_strongest_token_is_hit_where_it_is_among_the_five_of_largest_score(place: int) -> None:
    scores = torch.tensor([7.0, 6, 5, 4, 3, 2, 1], dtype=torch.float64)
    effects = torch.full((7,), 0.1, dtype=torch.float64)
    effects[place] = 2
    assert top_hit(scores, effects) == (float(place < 5), None)
    assert top_hit(scores, effects, k=3) == (float(place < 3), None)


def test_a_hit_needs_tokens_to_choose_from() -> None:
    five, six = torch.arange(5).double(), torch.arange(6).double()
    assert top_hit(six, six) == (1.0, None) and top_hit(-six, six) == (0.0, None)
    for scores, effects, words in ((five, five, "no more than 5"), (torch.ones(6), six, "same score")):
        value, note = top_hit(scores, effects)
        assert math.isnan(value) and words in (note or "")


def literal_kendall(first: list[float], second: list[float]) -> float:
    """τ-b = (concordant − discordant) / √((pairs not tied in one)(pairs not tied in the other))."""
    score = ties_first = ties_second = 0
    pairs = list(itertools.combinations(range(len(first)), 2))
    for i, j in pairs:
        one, other = first[i] - first[j], second[i] - second[j]
        score += (one * other > 0) - (one * other < 0)
        ties_first += one == 0
        ties_second += other == 0
    return score / math.sqrt((len(pairs) - ties_first) * (len(pairs) - ties_second))


def literal_spearman(first: list[float], second: list[float]) -> float:
    """Pearson's correlation of ranks, equal values sharing the mean of theirs."""

    def ranks(values: list[float]) -> Tensor:
        return torch.tensor(
            [
                sum(other < value for other in values) + (sum(other == value for other in values) - 1) / 2
                for value in values
            ],
            dtype=torch.float64,
        )

    return float(torch.corrcoef(torch.stack([ranks(first), ranks(second)]))[0, 1])


@pytest.mark.parametrize("seed", range(4))
def test_agreement_against_literal_computation(seed: int) -> None:
    truth = drawn(23, seed).abs().mul(4).round().tolist()  # whole numbers: many ties
    scores = (drawn(23, seed + 10) * 2).round()
    record = Record(23, lambda s: 0.0, lambda s: sum(truth[t - 1] for t in s))
    magnitudes = scores.abs().tolist()
    found = measured("loo-kl", scores, record)
    assert found["loo-kl-kendall"].value == pytest.approx(literal_kendall(magnitudes, truth), abs=1e-12)
    assert found["loo-kl-spearman"].value == pytest.approx(literal_spearman(magnitudes, truth), abs=1e-12)

    def top_two(values: list[float]) -> set[int]:
        return set(sorted(range(23), key=lambda t: (-values[t], t))[:2])

    top, true = top_two(magnitudes), top_two(truth)
    assert found["loo-kl-jaccard"].value == pytest.approx(len(top & true) / len(top | true))
    assert all(item.note is None for item in found.values())


def own_effects(case: ScoredPrompt) -> Tensor:
    """The KL of leaving each token out, as scores of the whole prompt."""
    return torch.cat([torch.zeros(1, dtype=torch.float64), case.cache.leave_one_out.divergence])


def test_random_scores_agree_as_chance_does() -> None:
    """Over 30 passages the mean agreement lies within 3 standard errors of nothing, for random and shuffled scores."""
    model = attention_only()
    generator = torch.Generator().manual_seed(8)
    found: dict[str, list[float]] = {"random": [], "null": []}
    for index in range(30):
        case = case_of(model, [1, *torch.randint(23, (12,), generator=generator).tolist()], "random", seed=index)
        found["random"].append(values_of("loo-kl", case)["loo-kl-spearman"])
        itself = replace(case, method_scores=replace(case.method_scores, scores=own_effects(case)))
        assert values_of("loo-kl", itself)["loo-kl-spearman"] == pytest.approx(1)
        found["null"].append(values_of("loo-kl-null", itself)["loo-kl-null"])
    for name, rhos in found.items():
        mean, error = float(torch.tensor(rhos).mean()), float(torch.tensor(rhos).std() / math.sqrt(len(rhos)))
        assert abs(mean) < 3 * error, name
        assert error == pytest.approx(1 / math.sqrt(11 * 30), rel=0.4), "the spread of ρ over 12 shuffled tokens"


def test_constant_scores_have_no_agreement() -> None:
    record = additive(drawn(12, 0).abs())
    for item in measured("loo-kl", [2.0] * 12, record).values():
        assert math.isnan(item.value) and item.note == "all tokens have the same score or the same effect"
    nothing = Record(12, lambda s: 0.0)
    for item in measured("loo-kl", drawn(12, 1), nothing).values():
        assert math.isnan(item.value) and item.note
    null = measured("loo-kl-null", [2.0] * 12, record)["loo-kl-null"]
    assert math.isnan(null.value) and null.note


def test_two_tokens_are_too_few_to_correlate() -> None:
    found = measured("loo-kl", [1.0, 2.0], additive([1.0, 2.0]))
    assert math.isnan(found["loo-kl-spearman"].value) and "fewer than 3" in (found["loo-kl-spearman"].note or "")
    assert found["loo-kl-jaccard"].value == 1


def test_correlations_do_not_warn_or_raise(recwarn: pytest.WarningsRecorder) -> None:
    one, other = torch.tensor([1.0, 1.0, 2.0]), torch.tensor([3.0, 3.0, 3.0])
    assert math.isnan(correlation(one, other)[0]) and math.isnan(correlation(one, other, "kendall")[0])
    assert correlation(one, one) == (pytest.approx(1), None)
    assert not recwarn


# The other metrics


@pytest.mark.parametrize("seed", range(3))
def test_exact_scores_have_no_infidelity_where_effects_add_up(seed: int) -> None:
    effects = drawn(18, seed)
    record = additive(effects)
    assert value("infidelity", effects, record, seed=seed) == pytest.approx(0, abs=1e-20)
    assert value("infidelity", -7 * effects, record, seed=seed) == pytest.approx(0, abs=1e-20), "up to a factor"
    other = value("infidelity", drawn(18, seed + 9), record, seed=seed)
    assert 0.1 < other <= 1
    assert value("infidelity", [0.0] * 18, record, seed=seed) == 1
    assert value("infidelity", 3 * drawn(18, seed + 9), record, seed=seed) == pytest.approx(other)


def test_infidelity_against_a_literal_search_over_the_factor() -> None:
    effects, scores = drawn(9, 1), drawn(9, 2)
    record = Record(9, lambda s: float(effects[[t - 1 for t in s]].sum()) + 0.3 * len(s) ** 2)
    found = value("infidelity", scores, record)
    sets = record.asked
    assert len(sets) > 30 and all(1 <= len(s) <= 4 for s in sets)
    assert len({len(s) for s in sets}) == 4

    def relative(beta: float) -> float:
        residuals = drawn_sums - beta * explained
        return float(residuals.square().sum() / drawn_sums.square().sum())

    masks, after = AblationCache(record, 0).random_sets
    assert len(masks) == 64
    drawn_sums = CLEAN - after.log_probability
    explained = torch.stack([scores[(mask.nonzero()[:, 0] - 1)].sum() for mask in masks])
    best = min(relative(beta) for beta in torch.linspace(-5, 5, 20_001).tolist())
    assert found == pytest.approx(best, abs=1e-6)
    nothing = measured("infidelity", scores, Record(9, lambda s: 0.0))["infidelity"]
    assert math.isnan(nothing.value) and nothing.note


@pytest.mark.parametrize(
    ("scores", "percentile"),
    [([5, 1, 2, 3, 4], 1.0), ([0, 1, 2, 3, 4], 0.0), ([2, 1, 2, 3, 0], 0.625), ([-9, 1, 2], 1.0), ([1, 1, 1], 0.5)],
)
def test_the_first_tokens_percentile(scores: list[float], percentile: float) -> None:
    assert value("first-token", [float(s) for s in scores], additive([1.0] * len(scores))) == percentile


def noisy_scores(model: Any, ids: list[int], seed: int, of: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Scores from embeddings with noise of 0.05 root mean square entries, four draws."""
    generator = torch.Generator().manual_seed(seed)
    x = reference.site_activation(model, ids, "hook_embed")
    sigma = 0.05 * x.square().mean().sqrt()
    return [of(x + sigma * torch.randn(x.shape, generator=generator, dtype=torch.float64)) for _ in range(4)]


def test_stability_against_noise_added_by_hand() -> None:
    model = gpt2_like()
    ids = [1, 17, 0, 8, 22, 3, 11, 4]

    def gradient_by_input(x: Tensor) -> Tensor:
        x = x.clone().requires_grad_(True)
        logits = reference.logits_from_final_state(model, reference.final_state(model, x, ids))
        return (torch.autograd.grad(logits[TARGET], x)[0] * x).sum(-1).detach()

    def leave_one_out(x: Tensor) -> Tensor:
        p = reference.probabilities(model, reference.final_state(model, x, ids)).log()
        scores = torch.zeros(len(ids), dtype=torch.float64)
        for t in range(1, len(ids)):
            changed = x.clone()
            changed[t] = x[1:].mean(0)
            q = reference.probabilities(model, reference.final_state(model, changed, ids)).log()
            scores[t] = (p.exp() * (p - q)).sum()
        return scores

    for method, of in (("ixg-dot", gradient_by_input), ("loo-kl@mean", leave_one_out)):
        case = case_of(model, ids, method, None, seed=3)
        own = case.magnitudes
        rhos = [stats.spearmanr(own, noisy[1:].abs()).statistic for noisy in noisy_scores(model, ids, 3, of)]
        found = values_of("stability", case)["stability"]
        assert found == pytest.approx(sum(rhos) / 4, abs=1e-12)
        assert found < 1 - 1e-6 or rhos == pytest.approx([1] * 4)


def test_what_noise_cannot_change_is_stable() -> None:
    model, _ = linear_toy()
    ids = [1, 17, 0, 8, 22, 3]
    assert values_of("stability", case_of(model, ids, "random", None))["stability"] == pytest.approx(1)
    constant = METRICS["stability"].measure(case_of(model, ids, ("flat", [1.0] * 6), None))[0]
    assert math.isnan(constant.value) and constant.note


def test_randomization_against_scores_of_the_redrawn_model() -> None:
    model = gemma_like()
    ids = [1, 17, 0, 8, 22, 3, 11, 4]
    case = case_of(model, ids, "fisher@2", None, seed=5)
    found = values_of("randomization", case)
    assert list(found) == [f"randomization-{stage}" for stage in ("final-quarter", "final-half", "all-blocks")]
    for (name, rho), count in zip(found.items(), (1, 2, 3), strict=True):  # ⌈¾⌉, ⌈1½⌉ and 3 of 3 blocks
        with RandomizedBlocks(model, 5).final(count):
            other = ls.attribute(model, ids, ls.Fisher(2)).scores[1:]
        assert rho == pytest.approx(stats.spearmanr(case.magnitudes, other).statistic, abs=1e-12), name
    by_layer = METRICS["randomization-by-layer"].measure(case)
    assert [item.fraction for item in by_layer] == pytest.approx([1 / 3, 2 / 3, 1])
    assert [item.value for item in by_layer] == list(found.values())
    assert values_of("randomization", case_of(model, ids, "random", None)) == pytest.approx(dict.fromkeys(found, 1))


# Names


def test_metrics_are_asked_for_by_name() -> None:
    assert find_metric("aopc") is METRICS["aopc"]
    assert all(name == metric.name for name, metric in METRICS.items())
    with pytest.raises(EvaluationError, match=r"unknown metric 'aopcs'; did you mean 'aopc'\? Known: aopc, ") as caught:
        find_metric("aopcs")
    assert "\n" not in str(caught.value)
    with pytest.raises(EvaluationError, match=r"unknown metric 'zzz'\. Known: aopc, "):
        find_metric("zzz")
