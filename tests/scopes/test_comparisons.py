"""Explanations without gradients: literal loops, closed forms, and what a result of theirs can do."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
import torch
from docstring_examples import example_model
from tiny_models import TINY_MODELS, gemma_like, gpt2_like, linear_toy, llama_like
from torch import Tensor
from torch.testing import assert_close

import lens_scopes as ls
from lens_scopes.errors import EvaluationError, ObjectiveError
from lens_scopes.scopes.comparisons.baseline import Baseline
from lens_scopes.scopes.contract import ELEMENTS
from lens_scopes.scopes.registry import scope_names
from lens_scopes.views.render import figure_bytes

IDS = [3, 17, 0, 8, 22, 3]
TOKEN = 5
CLOSE: Any = {"rtol": 1e-9, "atol": 1e-12}


def with_bos(ids: list[int] = IDS) -> ls.Prompt:
    """The ids with the first one taken for a BOS."""
    special = (True, *[False] * (len(ids) - 1))
    return ls.Prompt(None, tuple(ids), tuple(f"#{token}" for token in ids), None, special, "ids")


BASELINES: list[Callable[[], Baseline]] = [
    ls.LeaveOneOut,
    lambda: ls.LeaveOneOut("logit", ablation="mean"),
    lambda: ls.LeaveOneOut("logprob", ablation="resample", draws=2, seed=4),
    ls.AttentionRollout,
    ls.ValueWeightedAttention,
    lambda: ls.KernelShap(ablations=6, seed=2),
    ls.GradEllm,
    lambda: ls.BalancedValues(rank=2),
    ls.Closeness,
    ls.EmbeddingNorm,
    ls.Surprisal,
    ls.RandomScores,
    lambda: ls.ExternalScores([0.0, -1.0, 2.0, 0.5, 0.25, 3.0], name="mine"),
]


# Leave-one-out


def effect(measure: str, clean: Tensor, after: Tensor) -> Tensor:
    p, q = clean.log_softmax(-1), after.log_softmax(-1)
    return {
        "kl": sum(p[j].exp() * (p[j] - q[j]) for j in range(len(p))),
        "logit": clean[TOKEN] - after[TOKEN],
        "logprob": p[TOKEN] - q[TOKEN],
    }[measure]


@pytest.mark.parametrize("ablation", ["zero", "mean", "remove"])
def test_leave_one_out_against_a_literal_loop(tiny: Any, ablation: str) -> None:
    x = reference.site_activation(tiny, IDS, "hook_embed")
    clean = reference.logits_from_final_state(tiny, reference.state_of(tiny, IDS))
    after = [clean]
    for t in range(1, len(IDS)):
        if ablation == "remove":
            y = reference.state_of(tiny, [*IDS[:t], *IDS[t + 1 :]])
        else:
            changed = x.clone()
            changed[t] = 0 if ablation == "zero" else x[1:].mean(0)
            y = reference.final_state(tiny, changed, IDS)
        after.append(reference.logits_from_final_state(tiny, y))
    for measure in ("kl", "logit", "logprob"):
        target = None if measure == "kl" else TOKEN
        att = ls.attribute(tiny, with_bos(), ls.LeaveOneOut(measure, ablation=ablation), target=target)
        assert_close(att.scores, torch.stack([effect(measure, clean, logits) for logits in after]), **CLOSE)
        assert att.scores[0] == 0 and att.scores[1:].all()
        assert measure != "kl" or bool((att.scores >= 0).all())


def test_leave_one_out_of_resampled_tokens_is_the_mean_over_draws() -> None:
    """The prompt holds two kinds of tokens, so each draw leaves a token or exchanges it for the other kind."""
    model = llama_like()
    ids = [0, 6, 9, 6, 9]
    clean = reference.logits_from_final_state(model, reference.state_of(model, ids))
    scores = ls.attribute(
        model, with_bos(ids), ls.LeaveOneOut("logit", ablation="resample", draws=3), target=TOKEN
    ).scores
    for t in range(1, 5):
        swapped = [*ids[:t], 15 - ids[t], *ids[t + 1 :]]
        full = effect("logit", clean, reference.logits_from_final_state(model, reference.state_of(model, swapped)))
        assert min(abs(float(scores[t] - n / 3 * full)) for n in range(4)) < 1e-10
    assert scores[1:].any()


def test_leave_one_out_of_a_linear_model_by_hand() -> None:
    """The logit falls by w_targetᵀ J_t (x_t − b), which is Input × Gradient."""
    model, jacobian = linear_toy()
    x = reference.site_activation(model, IDS, "hook_embed")
    for ablation, start in (("zero", torch.zeros_like(x)), ("mean", x.mean(0).expand_as(x))):
        expected = torch.einsum("o,toi,ti->t", model.W_U[:, TOKEN], jacobian(len(IDS)), x - start)
        left_out = ls.attribute(model, IDS, ls.LeaveOneOut("logit", ablation=ablation), target=TOKEN)
        assert_close(left_out.scores, expected, **CLOSE)
        dot = ls.attribute(model, IDS, ls.Semantic(TOKEN), readout=ls.Dot(ablation))
        assert_close(left_out.scores, dot.scores, **CLOSE)


def test_the_target_is_the_next_token_or_the_one_given() -> None:
    model = gpt2_like()
    logits = reference.logits_from_final_state(model, reference.state_of(model, IDS))
    loo = ls.LeaveOneOut("logprob")
    assert ls.attribute(model, IDS, loo).target.token_id == int(logits.argmax())  # type: ignore[union-attr]
    inner = ls.attribute(model, IDS, loo, position=2)
    assert inner.target is not None and inner.target.token_id == IDS[3] and len(inner.scores) == 3
    given = ls.attribute(model, IDS, loo, target=TOKEN)
    assert given.target is not None and given.target.token_id == TOKEN
    assert not torch.allclose(given.scores, ls.attribute(model, IDS, loo).scores)
    assert ls.attribute(model, IDS, ls.LeaveOneOut("kl")).target is None
    for without in (ls.LeaveOneOut("kl"), ls.AttentionRollout(), ls.RandomScores()):
        with pytest.raises(ObjectiveError, match="explains no single next token, so target=5 would be dropped"):
            ls.attribute(model, IDS, without, target=TOKEN)


# Attention


def attention_of(model: Any) -> tuple[list[Tensor], list[Tensor]]:
    layers = range(model.cfg.n_layers)
    patterns = [reference.site_activation(model, IDS, f"blocks.{layer}.attn.hook_pattern") for layer in layers]
    values = [reference.site_activation(model, IDS, f"blocks.{layer}.attn.hook_v") for layer in layers]
    return patterns, values


def rolled_out(mixing: list[list[list[float]]]) -> Tensor:
    """(Ā_L ⋯ Ā_1)[last] with Ā = ½ A + ½ I, as sums over every route from token to token."""
    n = len(IDS)
    total = [[float(s == t) for t in range(n)] for s in range(n)]
    for A in mixing:
        half = [[0.5 * A[s][t] + 0.5 * (s == t) for t in range(n)] for s in range(n)]
        total = [[sum(half[s][u] * total[u][t] for u in range(n)) for t in range(n)] for s in range(n)]
    return torch.tensor(total[-1], dtype=torch.float64)


def test_attention_rollout_against_nested_loops(tiny: Any) -> None:
    n, heads = len(IDS), tiny.cfg.n_heads
    patterns, _ = attention_of(tiny)
    mixing = [
        [[sum(float(A[h, s, t]) for h in range(heads)) / heads for t in range(n)] for s in range(n)] for A in patterns
    ]
    scores = ls.attribute(tiny, IDS, ls.AttentionRollout()).scores
    assert_close(scores, rolled_out(mixing), **CLOSE)
    assert float(scores.sum()) == pytest.approx(1, abs=1e-12) and bool((scores >= 0).all())


def test_value_weighted_attention_against_nested_loops(tiny: Any) -> None:
    """Several query heads that share a key-value head share its values."""
    n, heads = len(IDS), tiny.cfg.n_heads
    patterns, values = attention_of(tiny)
    mixing = []
    for layer, (A, v) in enumerate(zip(patterns, values, strict=True)):
        W_O = tiny.blocks[layer].attn.W_O
        shared = heads // v.shape[1]
        sizes = []
        for s in range(n):
            row = []
            for t in range(n):
                moved = torch.zeros(tiny.cfg.d_model, dtype=torch.float64)
                for h in range(heads):
                    moved += A[h, s, t] * (v[t, h // shared] @ W_O[h])
                row.append(float(moved.norm()))
            sizes.append([size / sum(row) for size in row])
        mixing.append(sizes)
    scores = ls.attribute(tiny, IDS, ls.ValueWeightedAttention()).scores
    assert_close(scores, rolled_out(mixing), **CLOSE)
    assert float(scores.sum()) == pytest.approx(1, abs=1e-12) and bool((scores >= 0).all())


def test_grad_ellm_against_one_derivative_at_a_time(tiny: Any) -> None:
    """∂z/∂o by an autograd of the model in which the heads' outputs at the last position are the inputs."""
    n, heads = len(IDS), tiny.cfg.n_heads
    patterns, values = attention_of(tiny)
    target = 5
    expected = torch.zeros(n, dtype=torch.float64)
    for layer, (A, v) in enumerate(zip(patterns, values, strict=True)):
        site = f"blocks.{layer}.attn.hook_z"
        output = reference.site_activation(tiny, IDS, site).requires_grad_(True)
        y = reference.state_from_site(tiny, IDS, -1, site, output)
        logit = reference.logits_from_final_state(tiny, y)[target]
        gradient = torch.autograd.grad(logit, output)[0][-1].reshape(heads, -1)
        shared = heads // v.shape[1]
        for t in range(n):
            signed = sum(float(A[h, -1, t]) * float(gradient[h] @ v[t, h // shared]) for h in range(heads))
            expected[t] += max(0.0, signed)
    scores = ls.attribute(tiny, IDS, ls.GradEllm(), target=target).scores
    assert_close(scores, expected, **CLOSE)
    assert not any(module._forward_hooks for module in tiny.modules())


# Chance


def test_random_scores_depend_on_seed_and_prompt_alone() -> None:
    state = torch.get_rng_state()
    first, again = (ls.attribute(gpt2_like(), IDS, ls.RandomScores(3)).scores for _ in range(2))
    assert torch.equal(first, again) and torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, ls.attribute(gemma_like(), IDS, ls.RandomScores(3)).scores), "it knows no model"
    assert not torch.allclose(first, ls.attribute(gpt2_like(), IDS, ls.RandomScores(4)).scores)
    assert not torch.allclose(first[:5], ls.attribute(gpt2_like(), IDS[:5], ls.RandomScores(3)).scores)
    assert not torch.allclose(first, ls.attribute(gpt2_like(), IDS[::-1], ls.RandomScores(3)).scores)


def test_random_scores_are_even_between_zero_and_one() -> None:
    model = gpt2_like()
    drawn = torch.cat([ls.attribute(model, [*IDS, *IDS, *IDS], ls.RandomScores(seed)).scores for seed in range(40)])
    assert float(drawn.min()) >= 0 and float(drawn.max()) < 1
    assert float(drawn.mean()) == pytest.approx(0.5, abs=0.04)
    assert float(drawn.var()) == pytest.approx(1 / 12, abs=0.01)


# Scores from outside


@pytest.mark.parametrize(
    "source",
    [
        [0.5, 1, -2.0, 0, 3.0, 4],
        torch.tensor([0.5, 1, -2, 0, 3, 4], dtype=torch.float32, requires_grad=True),
        np.array([0.5, 1, -2, 0, 3, 4]),
        lambda model, token_ids: [0.5, 1, -2.0, 0, 3.0, len(token_ids) - 2],
        lambda model, token_ids: np.array([0.5, 1, -2, 0, 3, 4], dtype=np.float32),
    ],
    ids=["list", "tensor", "array", "function", "function of arrays"],
)
def test_outside_scores_are_taken_as_they_are(source: Any) -> None:
    att = ls.attribute(gpt2_like(), IDS, ls.ExternalScores(source, name="captum"))
    assert_close(att.scores, torch.tensor([0.5, 1, -2, 0, 3, 4], dtype=torch.float64))
    assert not att.scores.requires_grad
    assert (att.scope, att.objective) == ("outside", "captum")


def test_an_outside_function_is_given_the_model_and_the_tokens_up_to_the_position() -> None:
    model = gpt2_like()
    seen = []

    def source(given: Any, token_ids: Any) -> Any:
        seen.append((given, list(token_ids)))
        return [1.0] * len(token_ids)

    ls.attribute(model, IDS, ls.ExternalScores(source), position=3)
    assert seen == [(model, IDS[:4])]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ([1.0] * 5, r"shape \(5,\); expected one score for each of the 6 tokens"),
        (np.ones((6, 1)), r"shape \(6, 1\)"),
        ([1.0, 2.0, float("nan"), 0.0, 0.0, 0.0], "not all finite"),
        (lambda model, ids: torch.full((6,), float("inf")), "not all finite"),
        (["a"] * 6, "not an array of numbers"),
        (lambda model, ids: None, "not an array of numbers"),
        (7, "not an array of numbers|shape"),
    ],
)
def test_outside_scores_that_fit_no_prompt_are_refused(source: Any, words: str) -> None:
    with pytest.raises(ObjectiveError, match=words) as caught:
        ls.attribute(gpt2_like(), IDS, ls.ExternalScores(source, name="mine"))
    assert "'mine'" in str(caught.value) and "\n" not in str(caught.value)


# One interface


KINDS = {
    "balanced-values": ls.BalancedValues,
    "leave-one-out": ls.LeaveOneOut,
    "context-cite": ls.ContextCite,
    "faded-attention": ls.FadedAttention,
    "attention-rollout": ls.AttentionRollout,
    "value-attention": ls.ValueWeightedAttention,
    "kernel-shap": ls.KernelShap,
    "grad-ellm": ls.GradEllm,
    "closeness": ls.Closeness,
    "embedding-norm": ls.EmbeddingNorm,
    "surprisal": ls.Surprisal,
    "random": ls.RandomScores,
}


@pytest.mark.parametrize("name", KINDS)
def test_baselines_are_asked_for_by_name_class_or_object(name: str) -> None:
    assert scope_names(takes_gradient=False) == list(KINDS)
    model, prompt = example_model(), "The capital of France. Rome is"
    by_name, by_class, by_object = (ls.attribute(model, prompt, what) for what in (name, KINDS[name], KINDS[name]()))
    assert torch.equal(by_name.scores, by_object.scores) and torch.equal(by_class.scores, by_object.scores)
    assert by_name.scope == name


@pytest.mark.parametrize("make", BASELINES)
def test_a_baselines_result_is_an_attribution_like_any_other(make: Any, tmp_path: Path) -> None:
    model = gemma_like()
    baseline = make()
    steps: list[tuple[int, int]] = []
    att = ls.attribute(model, IDS, baseline, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(1, 1)]
    assert tuple(att.contract) == ELEMENTS and all(att.contract.values())
    assert "after position 5" in att.contract["output explained"]
    assert "6 tokens" in att.contract["eligible features"]
    assert att.settings["readout"] is None and att.settings["objective"]["scope"] == att.scope
    assert att.scores.dtype == torch.float64 and att.scores.shape == (len(IDS),)
    scope = ls.attribute(model, IDS, ls.Semantic())
    assert (att.prediction, att.tokens, att.model) == (scope.prediction, scope.tokens, scope.model)
    assert not any(module._forward_hooks for module in model.modules())

    att.save(tmp_path / "a.safetensors")
    loaded = ls.Attribution.load(tmp_path / "a.safetensors")
    assert torch.equal(loaded.scores, att.scores)
    assert loaded.to_dict() == att.to_dict() and json.loads(json.dumps(att.to_dict()))
    page = loaded.to_html()
    assert att.scope in page
    for words in ("unit of norm", "first order and local"):
        assert words not in page, "a baseline's page describes a scope's scores"
    assert loaded.figure() is not None and figure_bytes(loaded, "svg", dpi=50)
    loaded.show()


def test_float32_models_give_float32_scores() -> None:
    for make in BASELINES:
        exact, rounded = (
            ls.attribute(llama_like(dtype=dtype), IDS, make()) for dtype in (torch.float64, torch.float32)
        )
        assert rounded.scores.dtype == torch.float32
        assert_close(rounded.scores.double(), exact.scores, rtol=1e-3, atol=1e-4)


def test_contracts_name_what_is_left_out_and_by_what() -> None:
    att = ls.attribute(gpt2_like(), IDS, ls.LeaveOneOut("logprob", ablation="mean"), target=TOKEN)
    assert att.contract["output explained"].startswith(f"log-probability of the next token '#{TOKEN}'")
    assert "the mean embedding of the prompt's non-special tokens" in att.contract["generative process"]
    assert att.objective == "LeaveOneOut('logprob', ablation='mean')"
    assert att.settings["objective"] == {
        "scope": "leave-one-out", "measure": "logprob", "ablation": "mean", "draws": 4, "seed": 0, "by": "token",
        "within": None,
    }  # fmt: skip


# Bad input


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"layers": True}, "layers='resid_pre'"),
        ({"layers": "resid_post"}, "resid_post"),
        ({"sites": "hook_z"}, "hook_z"),
        ({"sites": ["hook_z"]}, "hook_z"),
        ({"through": "5-9"}, "through='5-9'"),
        ({"readout": "dot"}, "readout='dot'"),
        ({"readout": ls.Product()}, "readout='product'"),
        ({"points": ls.StraightPath()}, "points='path@16'"),
    ],
)
@pytest.mark.parametrize("make", BASELINES)
def test_choices_that_take_a_gradient_are_refused(make: Any, choice: dict[str, Any], words: str) -> None:
    baseline = make()
    with pytest.raises(ObjectiveError, match=f"{baseline.scope} {baseline.why_alone}, so .*{words}"):
        ls.attribute(gpt2_like(), IDS, baseline, **choice)


def test_the_usual_choices_may_be_written_out() -> None:
    usual: dict[str, Any] = {"layers": False, "sites": [], "through": None, "readout": ls.Norm(), "points": None}
    ls.attribute(gpt2_like(), IDS, ls.RandomScores(), **usual)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: ls.LeaveOneOut("probability"), ObjectiveError, "'probability'"),
        (lambda: ls.LeaveOneOut(ablation="zeros"), EvaluationError, "did you mean 'zero'"),
        (lambda: ls.LeaveOneOut(ablation="corpus-mean"), EvaluationError, "one prompt alone"),
        (lambda: ls.LeaveOneOut(ablation="resample", draws=0), EvaluationError, "integer from 1 to 100000; got 0"),
        (lambda: ls.attribute(gpt2_like(), IDS, ls.LeaveOneOut(ablation="pad")), EvaluationError, "tokenizer"),
    ],
)
def test_bad_settings_are_refused_in_one_line(make: Callable[[], Any], error: Any, words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", TINY_MODELS)
def test_one_token_prompts_have_a_score(name: str) -> None:
    model = TINY_MODELS[name]()
    for make in BASELINES[:-1]:
        assert ls.attribute(model, [4], make()).scores.isfinite().all()
    left_out = ls.attribute(model, with_bos([4]), ls.LeaveOneOut())
    assert left_out.scores.tolist() == [0.0]
    assert any("zero" in warning for warning in left_out.warnings)
