"""The paper's conventions: each against a literal computation of what its public code does."""

from __future__ import annotations

import math
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from command_line import TEXTS, tokenizer
from scipy import stats
from tiny_models import gemma_like, gpt2_like, llama_like
from torch import Tensor

import lens_scopes as ls
from lens_scopes.errors import EvaluationError
from lens_scopes.evaluation.laboratory import Laboratory
from lens_scopes.evaluation.methods import as_method
from lens_scopes.evaluation.protocol import OWN, PAPER, as_protocol
from lens_scopes.evaluation.randomized import RandomizedBlocks

NAME = "arXiv:2601.16407"
BOS = 0
IDS = (BOS, 5, 9, 2, 7, 3, 11, 6, 4, 8, 10)
TRUE = 12


def named(model: Any, architecture: str) -> Any:
    model.cfg.original_architecture = architecture
    model.tokenizer = tokenizer()
    return model


@pytest.fixture(scope="module")
def llama() -> Any:
    return named(llama_like(), "LlamaForCausalLM")


@pytest.fixture(scope="module")
def gemma() -> Any:
    return named(gemma_like(), "Gemma3ForCausalLM")


def measure(model: Any, methods: list[str], metrics: list[str], true: int = TRUE) -> dict[tuple[str, str], float]:
    laboratory = Laboratory(model, methods, metrics, ["zero"], protocol=PAPER)
    _, found = laboratory.measure(laboratory.passage(IDS), true, index=0)
    return {(item.method, item.metric): item.value for item in found}


def log_probabilities(model: Any, ids: tuple[int, ...], gone: list[int] = []) -> Tensor:  # noqa: B006
    def zero(value: Tensor, hook: Any) -> Tensor:
        value = value.clone()
        value[:, gone] = 0
        return value

    with torch.no_grad(), model.hooks(fwd_hooks=[("hook_embed", zero)]):
        return model(torch.tensor([ids]))[0, -1].log_softmax(-1)


def literal_scores(model: Any, ids: tuple[int, ...], method: str, token: int) -> np.ndarray:
    """Scores of the tokens and of the target token after them, which nothing depends on."""
    kept: list[Tensor] = []
    with torch.no_grad(), model.hooks(fwd_hooks=[("hook_embed", lambda value, hook: kept.append(value[0]))]):
        model(torch.tensor([ids]))
    x = kept[0].clone().requires_grad_(True)
    with model.hooks(fwd_hooks=[("hook_embed", lambda value, hook: x[None])]):
        logits = model(torch.tensor([ids]))[0, -1]
    output = {"semantic": logits[token], "ixg": -logits.log_softmax(-1)[token]}[method]
    gradient = torch.autograd.grad(output, x)[0]
    scores = (gradient * x if method == "ixg" else gradient).norm(dim=-1)
    return np.append(scores.detach().numpy(), 0.0)


# What is read, explained and counted


def test_bos_is_there_by_family(llama: Any, gemma: Any) -> None:
    for ids in (IDS, IDS[1:], (BOS, *IDS)):
        assert PAPER.prompt_tokens(llama, ids) == IDS[1:]
        assert PAPER.prompt_tokens(gemma, ids) == IDS
        assert OWN.prompt_tokens(gemma, ids) == tuple(ids)
        assert PAPER.redrawn_prompt_tokens(gemma, ids) == IDS[1:], "its randomization reads prompts without BOS"
    laboratory = Laboratory(llama, ["semantic"], ["aopc"], ["zero"], protocol=PAPER)
    assert laboratory.passage(IDS).token_ids == IDS[1:]


@pytest.mark.parametrize("n", range(2, 130))
def test_fractions_and_overlaps_are_counted_as_in_the_paper(n: int) -> None:
    for fraction in (0.05, 0.10, 0.20):
        assert PAPER.count(fraction, n) == max(1, int(n * fraction))
    assert PAPER.overlap_count(n) == max(1, int(math.ceil(n * 0.1)))
    assert OWN.count(0.10, n) == max(1, round(0.10 * n)) == OWN.overlap_count(n)


@pytest.mark.parametrize("method", ["semantic", "ixg"])
@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_aopc_is_that_of_the_papers_loop(family: str, method: str, request: pytest.FixtureRequest) -> None:
    """The true token is explained, the change of the model's own top token measured, int(n·f) of n tokens ablated, the
    target token among them, BOS not."""
    model = request.getfixturevalue(family)
    ids, first = (IDS, 1) if family == "gemma" else (IDS[1:], 0)
    clean = log_probabilities(model, ids)
    top = int(clean.argmax())
    scores = literal_scores(model, ids, method, TRUE)[first:]
    changes = []
    for fraction in (0.05, 0.1, 0.2):
        count = max(1, int(len(scores) * fraction))
        chosen = scores.argsort()[::-1][:count] + first
        changes.append(float(log_probabilities(model, ids, chosen.tolist())[top] - clean[top]))
    expected = (changes[0] + changes[1]) / 2 * 0.05 + (changes[1] + changes[2]) / 2 * 0.10
    assert measure(model, [method], ["aopc"])[method, "aopc"] == pytest.approx(expected, abs=1e-10)


def test_the_target_counts_among_the_tokens(llama: Any) -> None:
    """19 tokens and the target are 20: a tenth of them is two, and of 19 alone it would be one."""
    ids = tuple(random.Random(0).randrange(1, 12) for _ in range(19))
    clean = log_probabilities(llama, ids)
    scores = literal_scores(llama, ids, "semantic", TRUE)
    falls = []
    for count in (1, 2, 4):
        chosen = scores.argsort()[::-1][:count].tolist()
        falls.append(float(log_probabilities(llama, ids, chosen)[int(clean.argmax())] - clean.max()))
    expected = (falls[0] + falls[1]) / 2 * 0.05 + (falls[1] + falls[2]) / 2 * 0.10
    laboratory = Laboratory(llama, ["semantic"], ["aopc"], ["zero"], protocol=PAPER)
    _, found = laboratory.measure(laboratory.passage(ids), TRUE, index=0)
    assert found[0].value == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_agreement_is_over_all_tokens_and_the_target(family: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(family)
    ids, first = (IDS, 1) if family == "gemma" else (IDS[1:], 0)
    clean = log_probabilities(model, ids)
    effects = [
        float((clean.exp() * (clean - log_probabilities(model, ids, [place]))).sum())
        for place in range(first, len(ids))
    ]
    truth, scores = np.array([*effects, 0.0]), literal_scores(model, ids, "semantic", TRUE)[first:]
    found = measure(model, ["semantic"], ["loo-kl"])
    assert found["semantic", "loo-kl-spearman"] == pytest.approx(stats.spearmanr(scores, truth).statistic, abs=1e-9)
    count = max(1, math.ceil(0.1 * len(truth)))
    own, other = (set(np.argsort(item)[-count:].tolist()) for item in (scores, truth))
    assert found["semantic", "loo-kl-jaccard"] == pytest.approx(len(own & other) / len(own | other))


def test_random_scores_rank_the_target_too(llama: Any) -> None:
    laboratory = Laboratory(llama, ["random"], ["loo-kl"], ["zero"], protocol=PAPER)
    drawn = set()
    for index in range(40):
        _, found = laboratory.measure(laboratory.passage(IDS), TRUE, index=index)
        drawn.add(round(found[0].value, 9))
    assert len(drawn) > 3, "the target's score is not drawn"


# Blocks redrawn


def test_the_initialiser_redraw_parameter_by_parameter(llama: Any, gemma: Any) -> None:
    plain = gpt2_like()
    for model in (llama, gemma, named(plain, "GPT2LMHeadModel")):
        model.cfg.initializer_range = 0.05
        before = {name: value.clone() for name, value in model.named_parameters()}
        blocks = RandomizedBlocks(model, 3, "initializer")
        weights = []
        with blocks.final(2):
            for layer in range(model.cfg.n_layers):
                for name, value in model.blocks[layer].named_parameters():
                    full = f"blocks.{layer}.{name}"
                    if layer < model.cfg.n_layers - 2:
                        assert torch.equal(value, before[full])
                    elif name.rpartition(".")[2].lstrip("_").startswith("b"):
                        assert bool((value == 0).all()), name
                    elif name.startswith("ln") or "norm" in name:
                        # A weight of 1 is a factor of 2 in Gemma's norms, which scale by 1 + weight.
                        assert bool((value == (2 if model is gemma else 1)).all()), name
                    else:
                        weights.append(value.flatten())
            for name, value in model.named_parameters():
                if not name.startswith("blocks."):
                    assert torch.equal(value, before[name]), "embeddings and head stay"
        drawn = torch.cat(weights)
        assert float(drawn.mean()) == pytest.approx(0, abs=0.004)
        assert float(drawn.std()) == pytest.approx(0.05, rel=0.05)
        assert stats.kstest(drawn.numpy() / 0.05, "norm").pvalue > 1e-3
        assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_randomization_follows_the_paper(gemma: Any) -> None:
    """True-token target, no BOS, the target ranked with 0, initialiser draws; correct predictions alone."""
    top = int(log_probabilities(gemma, IDS).argmax())
    found = measure(gemma, ["semantic"], ["randomization"], true=top)
    own = literal_scores(gemma, IDS[1:], "semantic", top)
    with RandomizedBlocks(gemma, 0, "initializer").final(3):
        other = literal_scores(gemma, IDS[1:], "semantic", top)
    expected = stats.spearmanr(own, other).statistic
    assert found["semantic", "randomization-all-blocks"] == pytest.approx(expected, abs=1e-9)
    wrong = measure(gemma, ["semantic"], ["randomization"], true=(top + 1) % 12)
    assert all(math.isnan(value) for value in wrong.values())


def test_both_redraws_can_be_measured_side_by_side(gemma: Any) -> None:
    laboratory = Laboratory(gemma, ["fisher"], ["randomization", "randomization-initializer"], [])
    _, found = laboratory.measure(laboratory.passage(IDS), None, index=0)
    values = {item.metric: item.value for item in found}
    for prefix, redraw in (("randomization", "spread"), ("randomization-initializer", "initializer")):
        own = ls.attribute(gemma, IDS, ls.Fisher()).scores[1:]
        with RandomizedBlocks(gemma, 0, redraw).final(3):
            other = ls.attribute(gemma, IDS, ls.Fisher()).scores[1:]
        assert values[f"{prefix}-all-blocks"] == pytest.approx(stats.spearmanr(own, other).statistic, abs=1e-12)


# Names


def test_names_mean_what_they_mean_there() -> None:
    assert as_method("ixg", PAPER.meanings) == as_method("logprob+product").__class__(
        **{**vars(as_method("logprob+product")), "name": "ixg"}
    )
    assert as_method("ig", PAPER.meanings).explanation == as_method("ig-weighted").explanation
    assert as_method("ixg").explanation == ls.Semantic(), "ours is the logit's"
    with pytest.raises(EvaluationError, match="without a setting after @"):
        as_method("ig@8", PAPER.meanings)


def test_evaluate_brings_the_papers_methods() -> None:
    model = named(gpt2_like(), "GPT2LMHeadModel")
    rows = ls.evaluate(model, list(TEXTS[:2]), metrics=["aopc", "loo-kl"], protocol=NAME)
    assert set(rows["method"]) == {
        *("random", "ig", "ig-semantic", "ixg", "semantic", "temperature", "fisher", "fisher@4"),
    }
    with pytest.raises(EvaluationError, match="says nothing of stability"):
        ls.evaluate(model, list(TEXTS[:2]), metrics=["stability"], protocol=NAME)
    with pytest.raises(EvaluationError, match="unknown protocol 'paper'"):
        ls.evaluate(model, list(TEXTS[:2]), metrics=["aopc"], protocol="paper")
    with pytest.raises(EvaluationError, match="use target='last'"):
        ls.evaluate(model, list(TEXTS[:2]), metrics=["aopc"], protocol=NAME, target="own")


def test_a_protocol_is_part_of_the_folder(tmp_path: Any) -> None:
    model = named(gpt2_like(), "GPT2LMHeadModel")
    options: Any = {"methods": ["semantic"], "metrics": ["aopc"], "out": tmp_path / "run"}
    ls.evaluate(model, list(TEXTS[:2]), protocol=NAME, **options)
    with pytest.raises(EvaluationError, match="holds another evaluation"):
        ls.evaluate(model, list(TEXTS[:2]), **options)
    assert as_protocol(None) is OWN and as_protocol(PAPER) is PAPER
    assert SimpleNamespace(**PAPER.record()).meanings == {"ixg": "logprob+product", "ig": "ig-weighted"}
