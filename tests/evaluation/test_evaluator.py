"""The bench: every number depends on settings, seed and index alone; randomized blocks come and go."""

import json
import math
from typing import Any

import pytest
import torch
from tiny_models import D_VOCAB, TINY_MODELS, gemma_like, gpt2_like, llama_like
from torch.testing import assert_close

import lens_scopes as ls
from lens_scopes.engine.model import ScopedModel
from lens_scopes.engine.token_ablation import AblatedPrompt
from lens_scopes.errors import EvaluationError, PromptError
from lens_scopes.evaluation.evaluator import Evaluator
from lens_scopes.evaluation.methods.method import Method
from lens_scopes.evaluation.methods.randomized_blocks import RandomizedBlocks
from lens_scopes.evaluation.metrics.table import METRICS
from lens_scopes.evaluation.storage.records import Measurement
from lens_scopes.prompts.prompt import Prompt

PASSAGES = [[1, 17, 0, 8, 22, 3, 11], [4, 4, 9, 2, 13], [21, 5, 6, 7, 8, 9, 10, 12]]
METHODS = ["ixg-dot", "loo-kl@mean", "random"]
RANDOM_METRICS = ["loo-kl-null", "infidelity", "stability", "randomization", "aopc"]


def rows(measurements: list[Measurement]) -> dict[tuple[Any, ...], float]:
    """Values by what they are of."""
    found = {(item.method, item.metric, item.ablation, item.fraction): item.value for item in measurements}
    assert len(found) == len(measurements), "a number came twice"
    return found


def close(values: Any) -> Any:
    """Rows of a batch round with what they run beside."""
    return pytest.approx(values, rel=1e-9, abs=1e-9, nan_ok=True)


def measure(evaluator: Evaluator, index: int) -> dict[tuple[Any, ...], float]:
    return rows(evaluator.measure(evaluator.passage(PASSAGES[index]), None, index=index)[1])


# What a number depends on


def test_numbers_depend_on_settings_seed_and_index_alone() -> None:
    settings: Any = {"metrics": RANDOM_METRICS, "ablations": ["zero", "resample"], "seed": 3, "corpus": PASSAGES}
    state = torch.get_rng_state()
    evaluator = Evaluator(gpt2_like(), METHODS, **settings)
    forwards = [measure(evaluator, index) for index in (0, 1)]
    backwards = [measure(Evaluator(gpt2_like(), METHODS[::-1], **settings), index) for index in (1, 0)][::-1]
    for one, other in zip(forwards, backwards, strict=True):
        assert one == close(other)
    again = Evaluator(gpt2_like(), METHODS, **settings)
    assert measure(again, 1) == forwards[1], "the same run gives the same numbers to the bit"
    assert torch.equal(torch.get_rng_state(), state)
    fewer = Evaluator(gpt2_like(), ["random"], **{**settings, "ablations": ["resample"], "metrics": ["infidelity"]})
    alone = measure(fewer, 1)
    assert alone and alone == close({key: value for key, value in forwards[1].items() if key in alone})
    other_seed = measure(Evaluator(gpt2_like(), METHODS, **{**settings, "seed": 4}), 0)
    assert other_seed.keys() == forwards[0].keys()
    for metric in ("loo-kl-null", "infidelity", "randomization-all-blocks"):
        key = next(key for key in other_seed if key[:2] == ("ixg-dot", metric))
        assert other_seed[key] != close(forwards[0][key]), f"{metric} does not depend on the seed"


def test_other_indices_draw_otherwise() -> None:
    evaluator = Evaluator(gpt2_like(), ["random"], ["infidelity", "loo-kl-null"], ["resample"])
    prompt = evaluator.passage(PASSAGES[0])
    one, again, other = (rows(evaluator.measure(prompt, None, index=index)[1]) for index in (0, 0, 1))
    assert one == again and all(one[key] != close(other[key]) for key in one)


def test_every_method_metric_and_ablation_is_measured() -> None:
    model = gemma_like()
    cheap = [name for name in METRICS if name not in ("aopc-normalised", "randomization-by-layer")]
    evaluator = Evaluator(model, ["temperature", "random"], cheap, ["zero", "mean"])
    facts, measurements = evaluator.measure(evaluator.passage(PASSAGES[0]), 5, index=0)
    found = rows(measurements)
    for method in ("temperature", "random"):
        for name in cheap:
            names = tuple(quantity.name for quantity in METRICS[name].quantities)
            ablations = {key[2] for key in found if key[0] == method and key[1].startswith(names)}
            assert ablations >= ({"zero", "mean"} if METRICS[name].needs_ablation else {None}), name
    assert {item.metric for item in measurements} >= {"loo-kl-kendall", "deletion-kl", "randomization-final-half"}
    assert {(item.method, item.forwards, item.backwards) for item in measurements} == {
        ("temperature", 1, 1),
        ("random", 0, 0),
    }
    logits = ls.attribute(model, PASSAGES[0]).prediction.top
    assert facts["top_token_id"] == logits[0].token_id and facts["top_token"] == logits[0].token
    assert facts["top_probability"] == pytest.approx(logits[0].probability)
    assert facts["n_tokens"] == 7 and facts["target_token_id"] == 5 and facts["correct"] == (logits[0].token_id == 5)
    assert json.loads(json.dumps(facts)) == facts
    unknown, _ = evaluator.measure(evaluator.passage(PASSAGES[0]), None, index=0)
    assert unknown["correct"] is None and unknown["target_probability"] is None
    right, _ = evaluator.measure(evaluator.passage(PASSAGES[0]), facts["top_token_id"], index=0)
    assert right["correct"] is True and right["target_probability"] == right["top_probability"]


def test_the_models_own_top_token_is_followed() -> None:
    model = llama_like()
    top = ls.attribute(model, PASSAGES[0]).prediction.top[0].token_id
    evaluator = Evaluator(model, ["semantic"], ["deletion"], ["zero"])
    _, measurements = evaluator.measure(evaluator.passage(PASSAGES[0]), (top + 1) % D_VOCAB, index=0)
    prompt = AblatedPrompt(ScopedModel.of(model), PASSAGES[0], [False] * 7, top, "zero")
    everything = prompt.outcomes(torch.ones(1, 7, dtype=torch.bool)).log_probability
    last = [item.value for item in measurements if item.metric == "deletion-logprob" and item.fraction == 1]
    assert last == pytest.approx([float(everything - prompt.clean_log_probability)], abs=1e-12)


def test_ablations_change_the_numbers_and_draws_are_averaged() -> None:
    model = gpt2_like()
    by_draws = {}
    for draws in (1, 8):
        evaluator = Evaluator(model, ["fisher"], ["aopc-kl"], ["zero", "mean", "resample"], draws=draws)
        by_draws[draws] = {key[2]: value for key, value in measure(evaluator, 0).items()}
    assert len(set(by_draws[8].values())) == 3
    assert by_draws[1]["zero"] == pytest.approx(by_draws[8]["zero"])
    assert by_draws[1]["resample"] != pytest.approx(by_draws[8]["resample"])


def test_tokens_are_drawn_from_the_corpus() -> None:
    """Replaced by tokens of a corpus of one token, every draw is the corpus mean."""
    evaluator = Evaluator(
        gpt2_like(), ["fisher"], ["aopc-kl", "loo-kl"], ["resample", "corpus-mean"], corpus=[[7], [7, 7]]
    )
    found = measure(evaluator, 0)
    for key, value in found.items():
        if key[2] == "resample":
            assert value == close(found[(*key[:2], "corpus-mean", key[3])])


def test_special_tokens_are_neither_ranked_nor_ablated() -> None:
    model = llama_like()
    ids = PASSAGES[0]
    special = (True, *[False] * 6)
    prompt = Prompt(None, tuple(ids), tuple(map(str, ids)), None, special, "ids")
    given = [[high, 6.0, 5, 4, 3, 2, 1] for high in (0.0, 99.0)]
    evaluator = Evaluator(
        model, [(f"bos {scores[0]}", scores) for scores in given], ["aopc", "loo-kl", "first-token"], ["zero"]
    )
    found = rows(evaluator.measure(evaluator.passage(prompt), None, index=0)[1])
    for key, value in found.items():
        assert value == close(found[("bos 0.0", *key[1:])]), "the score of BOS changes nothing"
    assert found["bos 0.0", "first-token", None, None] == 1.0


# What is refused


@pytest.mark.parametrize("ids", [[3], [[1], True]])
def test_a_passage_of_one_token_is_refused(ids: Any) -> None:
    evaluator = Evaluator(gpt2_like(), ["random"], ["first-token"])
    if len(ids) == 2:  # BOS and one token
        ids = Prompt(None, (1, 3), ("<bos>", "a"), None, (True, False), "ids")
    with pytest.raises(PromptError, match="at least two tokens to rank, besides special ones; got 1"):
        evaluator.passage(ids)


@pytest.mark.parametrize("ids", [[], list(range(23)) * 2, [99, 3]])
def test_passages_that_do_not_fit_are_refused(ids: Any) -> None:
    with pytest.raises(PromptError):
        Evaluator(gpt2_like(), ["random"], ["first-token"]).passage(ids)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"methods": ["fisher", "random", "fisher"]}, "fisher came more than once"),
        ({"methods": [ls.Fisher(2), ls.Fisher(4)]}, r"fisher came more than once.*a pair"),
        ({"methods": []}, "at least one method and one metric"),
        ({"metrics": []}, "at least one method and one metric"),
        ({"ablations": []}, "aopc ablate tokens, so say by what"),
        ({"metrics": ["aopc", "first-token", "loo-kl"], "ablations": ()}, "aopc, loo-kl ablate"),
        ({"ablations": ["zreo"]}, "'zreo'; did you mean 'zero'"),
        ({"ablations": ["zero", "mean", "zero"]}, "zero came more than once"),
        ({"metrics": ["aopc", "aopc"]}, "aopc came more than once"),
        ({"metrics": ["aopcs"]}, "did you mean 'aopc'"),
        ({"methods": ["fischer"]}, "did you mean 'fisher'"),
        ({"methods": ["fisher@17"]}, r"method 'fisher@17': .*d_model = 16"),
        ({"ablations": ["pad"]}, "'pad' needs a tokenizer"),
        ({"ablations": ["corpus-mean"]}, "there are none here"),
        ({"draws": 0}, "integer from 1 to 100000; got 0"),
    ],
)
def test_bad_settings_are_refused_before_any_passage(settings: dict[str, Any], words: str) -> None:
    usual: dict[str, Any] = {"methods": ["random"], "metrics": ["aopc"], "ablations": ["zero"]}
    with pytest.raises(EvaluationError, match=words) as caught:
        Evaluator(gpt2_like(), **{**usual, **settings})
    assert "\n" not in str(caught.value)


def test_metrics_that_ablate_nothing_need_no_ablation() -> None:
    assert measure(Evaluator(gpt2_like(), ["random"], ["first-token"]), 0)
    kept = Evaluator(gpt2_like(), ["random"], ["first-token"], ["zero"])
    assert [item[2] for item in measure(kept, 0)] == [None]


def test_one_outside_array_cannot_fit_passages_of_other_lengths() -> None:
    evaluator = Evaluator(gpt2_like(), [("mine", [1.0] * 7)], ["first-token"])
    measure(evaluator, 0)
    with pytest.raises(ls.LensScopesError, match="expected one score for each of the 5 tokens"):
        measure(evaluator, 1)


# The record of the settings


def test_the_signature_is_plain_and_says_what_decides_the_numbers() -> None:
    model = gpt2_like()
    methods: list[Any] = [
        "fisher@4+dot-mean+frozen-patterns+path-mean@4",
        "fisher@trace",
        "ig@3",
        "smoothgrad+values",
        "loo-kl@mean",
        "random@3",
        ("mine", torch.ones(3)),
        Method("own", ls.Spec.read(ls.Custom(lambda y, logits: y, name="y"), through=ls.Heads("L0H1"))),
    ]
    evaluator = Evaluator(model, methods, ["aopc", "loo-kl"], ["zero", "resample"], seed=2, corpus=PASSAGES)
    signature = evaluator.signature()
    assert json.loads(json.dumps(signature)) == signature
    described = signature["methods"]["fisher@4+dot-mean+frozen-patterns+path-mean@4"]
    assert described["spec"] == {
        "scope": "fisher", "rank": 4, "readout": "dot", "points": "path-mean@4", "through": "frozen-patterns",
    }  # fmt: skip
    assert signature["methods"]["loo-kl@mean"]["spec"] == {"scope": "leave-one-out", "ablation": "mean"}
    assert signature["methods"]["own"]["spec"] == {"scope": "custom", "name": "y", "through": "L0H1"}

    def other(**settings: Any) -> dict[str, Any]:
        usual: dict[str, Any] = {"ablations": ["zero", "resample"], "seed": 2, "corpus": PASSAGES}
        return Evaluator(model, methods, ["aopc", "loo-kl"], **{**usual, **settings}).signature()

    assert other() == signature
    for settings in ({"seed": 3}, {"draws": 5}, {"corpus": PASSAGES[:2]}, {"ablations": ["zero"]}):
        assert other(**settings) != signature, settings
    fixed = {"ablations": ["zero", "mean"]}
    assert other(**fixed) == other(**fixed, corpus=()), "the corpus matters only where it is drawn from"


# Randomized blocks


def parameters(model: Any) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def test_stages_are_nested_and_gone_afterwards(tiny: Any) -> None:
    before, storage = parameters(tiny), [parameter.data_ptr() for parameter in tiny.parameters()]
    randomized = RandomizedBlocks(tiny, seed=1)
    n_layers = tiny.cfg.n_layers
    redrawn: dict[int, list[torch.Tensor]] = {}
    for count in range(n_layers + 1):
        with randomized.final(count):
            for layer, block in enumerate(tiny.blocks):
                changed = [
                    not torch.equal(now, was)
                    for now, was in zip(block.parameters(), block_of(before, tiny, layer), strict=True)
                ]
                assert any(changed) == (layer >= n_layers - count)
                if layer in redrawn:
                    for now, was in zip(block.parameters(), redrawn[layer], strict=True):
                        assert torch.equal(now, was), "a block is redrawn once, whatever the stage"
                elif any(changed):
                    redrawn[layer] = parameters(block)
            outside = {id(parameter) for block in tiny.blocks for parameter in block.parameters()}
            for now, was in zip(tiny.parameters(), before, strict=True):
                assert id(now) in outside or torch.equal(now, was)
        assert all(torch.equal(now, was) for now, was in zip(tiny.parameters(), before, strict=True))
    assert [parameter.data_ptr() for parameter in tiny.parameters()] == storage


def block_of(values: list[torch.Tensor], model: Any, layer: int) -> list[torch.Tensor]:
    by_id = {id(parameter): value for parameter, value in zip(model.parameters(), values, strict=True)}
    return [by_id[id(parameter)] for parameter in model.blocks[layer].parameters()]


def test_parameters_are_back_after_an_exception() -> None:
    model = llama_like()
    before = parameters(model)
    randomized = RandomizedBlocks(model)
    with pytest.raises(RuntimeError, match="broken"), randomized.final(2):
        raise RuntimeError("broken")
    assert all(torch.equal(now, was) for now, was in zip(model.parameters(), before, strict=True))
    evaluator = Evaluator(model, [("broken", broken_at(2))], ["randomization"])
    with pytest.raises(RuntimeError, match="broken"):
        measure(evaluator, 0)
    assert all(torch.equal(now, was) for now, was in zip(model.parameters(), before, strict=True))


def broken_at(call: int) -> Any:
    calls = []

    def scores(model: Any, token_ids: Any) -> Any:
        calls.append(1)
        if len(calls) == call:
            raise RuntimeError("broken")
        return torch.arange(len(token_ids), dtype=torch.float64)

    return scores


def test_draws_have_the_mean_and_spread_of_what_they_replace() -> None:
    model = TINY_MODELS["gpt2_like"]()
    W_in, b_in = model.blocks[1].mlp.W_in, model.blocks[1].mlp.b_in
    W_in.data.mul_(3).add_(2)
    b_in.data.fill_(0.7)
    mean, spread = float(W_in.mean()), float(W_in.std(unbiased=False))
    drawn = []
    state = torch.get_rng_state()
    for seed in range(20):
        with RandomizedBlocks(model, seed).final(1):
            drawn.append(W_in.detach().clone())
            assert_close(b_in, torch.full_like(b_in, 0.7))
            assert W_in.dtype == torch.float64
    values = torch.stack(drawn)
    assert float(values.mean()) == pytest.approx(mean, abs=5 * spread / math.sqrt(values.numel()))
    assert float(values.std()) == pytest.approx(spread, rel=0.05)
    assert not torch.allclose(values[0], values[1]) and torch.equal(torch.get_rng_state(), state)


def test_layers_draw_apart() -> None:
    model = gpt2_like()
    model.blocks[1].load_state_dict(model.blocks[0].state_dict())
    with RandomizedBlocks(model).final(2):
        assert not torch.allclose(model.blocks[0].mlp.W_in, model.blocks[1].mlp.W_in)


@pytest.mark.parametrize("n_layers", [1, 2, 3, 4, 18, 25, 29, 100])
def test_stages_count_whole_blocks(n_layers: int) -> None:
    class Config:
        def __init__(self) -> None:
            self.cfg = self
            self.n_layers = n_layers

    randomized = RandomizedBlocks(Config())
    counts = [randomized.blocks_of(stage) for stage in ("final-quarter", "final-half", "all-blocks")]
    assert counts == [-(-n_layers // 4), -(-n_layers // 2), n_layers]
