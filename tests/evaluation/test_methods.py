"""Names of methods: every base with every modification is the attribute call it stands for, at the cost it says."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_models import TINY_MODELS, gemma_like, gpt2_like, llama_like
from torch import Tensor
from torch.testing import assert_close

import lens_scopes as ls
from lens_scopes.engine import backward as backprop
from lens_scopes.engine.model import has_hooked
from lens_scopes.errors import EvaluationError
from lens_scopes.evaluation.methods.method import Method
from lens_scopes.evaluation.methods.names import as_method
from lens_scopes.evaluation.methods.path_gradients import (
    path_integrated_semantic,
    weighted_integrated_gradients,
)
from lens_scopes.evaluation.methods.randomized_blocks import RandomizedBlocks
from lens_scopes.evaluation.methods.table import RECIPES, method_names
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.prompts.read import read_prompt
from lens_scopes.scopes.registry import SCORE_SITES

IDS = [1, 17, 0, 8, 22, 3]
TARGET = 5

BASES: dict[str, dict[str, Any]] = {
    "semantic": {"objective": ls.Semantic()},
    "logprob": {"objective": ls.LogProb()},
    "temperature": {"objective": ls.Temperature()},
    "entropy": {"objective": ls.Entropy()},
    "fisher": {"objective": ls.Fisher()},
    "fisher@3": {"objective": ls.Fisher(3)},
    "fisher@trace": {"objective": ls.Fisher("trace")},
    "ixg": {"objective": ls.Semantic(), "readout": ls.Product()},
    "ixg-dot": {"objective": ls.Semantic(), "readout": ls.Dot()},
    "ig": {"objective": ls.Semantic(), "readout": ls.Product(), "points": ls.StraightPath("zero", 16)},
    "ig@3": {"objective": ls.Semantic(), "readout": ls.Product(), "points": ls.StraightPath("zero", 3)},
    "ig-dot": {"objective": ls.Semantic(), "readout": ls.Dot(), "points": ls.StraightPath("zero", 16)},
    "ig-dot@2": {"objective": ls.Semantic(), "readout": ls.Dot(), "points": ls.StraightPath("zero", 2)},
    "smoothgrad": {"objective": ls.Semantic(), "points": ls.Noise(16)},
    "smoothgrad@4": {"objective": ls.Semantic(), "points": ls.Noise(4)},
}
BASELINES = {
    "loo-kl": ls.LeaveOneOut("kl"),
    "loo-kl@mean": ls.LeaveOneOut("kl", ablation="mean"),
    "loo-logit": ls.LeaveOneOut("logit"),
    "loo-logit@resample": ls.LeaveOneOut("logit", ablation="resample"),
    "loo-logprob": ls.LeaveOneOut("logprob"),
    "loo-logprob@remove": ls.LeaveOneOut("logprob", ablation="remove"),
    "attention-rollout": ls.AttentionRollout(),
    "value-attention": ls.ValueWeightedAttention(),
    "closeness": ls.Closeness(),
    "embedding-norm": ls.EmbeddingNorm(),
    "surprisal": ls.Surprisal(),
    "random": ls.RandomScores(),
    "random@7": ls.RandomScores(7),
    "kernel-shap@9": ls.KernelShap(9),
}
STARTS = {
    f"ig-{start}{held}": ls.StraightPath(start, 16, hold_special=bool(held))
    for start in ("zero", "mean", "bos", "eos", "pad")
    for held in ("", "-held")
    if (start, held) != ("zero", "")
}
PAPER = {"ig-weighted": weighted_integrated_gradients(), "ig-semantic": path_integrated_semantic()}
MODIFICATIONS: dict[str, dict[str, Any]] = {
    "norm": {"readout": ls.Norm()},
    "dot": {"readout": ls.Dot()},
    "dot-mean": {"readout": ls.Dot("mean")},
    "product": {"readout": ls.Product()},
    "product-mean": {"readout": ls.Product("mean")},
    "relative": {"readout": ls.Relative()},
    "path": {"points": ls.StraightPath("zero", 16)},
    "path-mean": {"points": ls.StraightPath("mean", 16)},
    "path-mean@4": {"points": ls.StraightPath("mean", 4)},
    "path-held@2": {"points": ls.StraightPath("zero", 2, hold_special=True)},
    "path-mean-held@2": {"points": ls.StraightPath("mean", 2, hold_special=True)},
    "noise": {"points": ls.Noise(16)},
    "frozen-patterns": {"through": ls.Frozen("patterns")},
    "frozen-norms": {"through": ls.Frozen("norms")},
    "frozen-gates": {"through": ls.Frozen("gates")},
    "values": {"sites": "hook_v", "readout": ls.Relative()},
    "keys": {"sites": "hook_k", "readout": ls.Relative()},
    "residuals": {"sites": "hook_resid_pre", "readout": ls.Relative()},
}


def prompt_of(ids: list[int] = IDS) -> Prompt:
    special = (True, *[False] * (len(ids) - 1))
    return Prompt(None, tuple(ids), tuple(f"#{token}" for token in ids), None, special, "ids")


@pytest.fixture(scope="module")
def model() -> Any:
    return llama_like()


def direct(model: Any, choices: dict[str, Any]) -> Tensor:
    """The scores at the embedding, or the amplitudes over all layers: Σ_l √(Σ_h a_l,h,t²)."""
    target = TARGET if choices["objective"].takes_target else None
    att = ls.attribute(model, prompt_of(), target=target, **choices)
    if not choices.get("sites"):
        return att.scores
    total = torch.zeros(len(IDS), dtype=torch.float64)
    for values in att.sites.values():
        squares = values if isinstance(choices["objective"], ls.Fisher) else values**2
        total += (squares if squares.ndim == 1 else squares.sum(1)).sqrt()
    return total


def test_the_names_are_those_tested_here() -> None:
    tested = {name.partition("@")[0] for name in (*BASES, *BASELINES, *STARTS, *PAPER)}
    elsewhere = {"fisher-at-values", "leave-one-out", "context-cite", "faded-attention", "grad-ellm"} | {
        "balanced-values"
    }
    assert tested | elsewhere == set(method_names())


@pytest.mark.parametrize("name", STARTS)
def test_paths_from_other_starts_by_name(name: str) -> None:
    assert as_method(name).spec == ls.Spec.read(ls.Semantic(), readout="product", points=STARTS[name])
    points = replace(STARTS[name], steps=3)
    assert as_method(f"{name}@3").spec == ls.Spec.read(ls.Semantic(), readout="product", points=points)


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_integrated_gradients_by_name(name: str) -> None:
    assert as_method(name).explanation == PAPER[name]


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_the_line_it_is_short_for(name: str) -> None:
    line, usual = RECIPES[name]
    assert as_method(name).spec == ls.Spec.parse(line.format(usual))


def test_a_scope_that_needs_tokens_is_no_method() -> None:
    with pytest.raises(EvaluationError, match="needs target and other"):
        as_method("logit-diff")


def test_the_name_of_fisher_at_values_is_that_scope(model: Any) -> None:
    scope = ls.attribute(model, prompt_of(), ls.FisherAtValues(3)).scores
    assert torch.equal(as_method("fisher@3+values").score(model, prompt_of(), TARGET).scores, scope)


@pytest.mark.parametrize("site", SCORE_SITES)
@pytest.mark.parametrize("base", ["semantic", "logprob", "temperature", "fisher", "ixg"])
def test_a_place_for_scores_may_follow_any_method(base: str, site: str) -> None:
    method = as_method(f"{base}@{site}+frozen-norms")
    assert method.name == f"{base}@{site}+frozen-norms"
    assert method.spec == as_method(f"{base}+{site}+frozen-norms").spec
    assert method.spec.score_site == SCORE_SITES[site].site


def test_a_place_for_scores_is_none_where_no_gradient_is_taken() -> None:
    for name in ("random@values", "closeness@values", "attention-rollout@keys"):
        with pytest.raises(EvaluationError, match="takes no gradient"):
            as_method(name)


def test_redrawn_scores_are_those_of_a_model_that_has_learnt_nothing(model: Any) -> None:
    blocks = RandomizedBlocks(model, seed=3)
    found = as_method("fisher+redrawn").score(model, prompt_of(), TARGET, blocks).scores
    plain = as_method("fisher").score(model, prompt_of(), TARGET).scores
    with blocks.final(model.cfg.n_layers):
        assert torch.equal(found, as_method("fisher").score(model, prompt_of(), TARGET).scores)
    assert not torch.allclose(found, plain)
    assert torch.equal(plain, as_method("fisher").score(model, prompt_of(), TARGET).scores), "the blocks are back"


@pytest.mark.parametrize("name", BASES)
def test_every_base_with_every_modification_is_the_attribute_call(model: Any, name: str) -> None:
    base = BASES[name]
    assert_close(as_method(name).score(model, prompt_of(), TARGET).scores, direct(model, base), rtol=0, atol=0)
    for modification, choices in MODIFICATIONS.items():
        if modification.startswith(("path", "noise")) and name not in ("semantic", "fisher@3"):
            continue  # sixteen points each: two bases show it
        if modification in ("dot-mean", "product-mean") and name.startswith("ig"):
            with pytest.raises(EvaluationError, match="a path from 'zero' is read from its start"):
                as_method(f"{name}+{modification}").check(model)
            continue
        method = as_method(f"{name}+{modification}")
        assert method.name == f"{name}+{modification}"
        found = method.score(model, prompt_of(), TARGET).scores
        assert_close(
            found, direct(model, base | choices), rtol=1e-12, atol=1e-14, msg=lambda text, m=method: f"{m.name}: {text}"
        )


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_by_name(model: Any, name: str) -> None:
    found = as_method(name).score(model, prompt_of(), TARGET)
    target = TARGET if BASELINES[name].takes_target else None
    expected = ls.attribute(model, prompt_of(), BASELINES[name], target=target).scores
    assert torch.equal(found.scores, expected) and found.backwards == 0


def test_modifications_add_up() -> None:
    method = as_method("fisher@8+dot-mean+frozen-patterns+frozen-norms+path-mean@4+values")
    assert method.explanation == ls.Fisher(8)
    spec = method.spec
    assert spec.through is not None and spec.through.rules == {"patterns", "norms"}
    assert spec.points == ls.StraightPath("mean", 4)
    assert (spec.score_site, spec.readout) == ("hook_v", ls.Relative()), "the last readout stands"
    assert as_method("fisher@8+values+norm").spec.readout == ls.Norm()


def test_targets_are_those_asked_for(model: Any) -> None:
    found = as_method("semantic").score(model, prompt_of(), TARGET).scores
    assert torch.equal(found, ls.attribute(model, prompt_of(), ls.Semantic(TARGET)).scores)
    named = as_method(ls.Semantic(9)).score(model, prompt_of(), TARGET).scores
    assert torch.equal(named, ls.attribute(model, prompt_of(), ls.Semantic(9)).scores)


# What it costs


@contextmanager
def counted(model: Any) -> Iterator[dict[str, int]]:
    """Rows that pass the first block forwards, seen without a hook so that prefixes are shared as usual, and rows
    that pass the embedding backwards."""
    rows = {"forwards": 0, "backwards": 0}
    block, embedding = model.blocks[0], model.hook_embed
    forward = block.forward

    def count(residual: Tensor, *arguments: Any, **settings: Any) -> Tensor:
        rows["forwards"] += len(residual)
        if residual.requires_grad:
            residual.register_hook(lambda gradient: rows.__setitem__("backwards", rows["backwards"] + len(gradient)))
        return forward(residual, *arguments, **settings)

    vars(block)["forward"] = count  # a bridge's block would hand an attribute on to Transformers' block
    try:
        yield rows
    finally:
        del vars(block)["forward"]
        assert not embedding._forward_hooks


def try_hooks(model: Any, name: str) -> None:
    """A bridge's hooks are tried once for each model, and its slices: no cost of a method."""
    if not has_hooked():
        as_method(name).score(model, prompt_of(), TARGET)


@pytest.mark.parametrize(
    ("name", "forwards", "backwards"),
    [
        ("semantic", 1, 1),
        ("temperature+dot-mean+frozen-patterns", 1, 1),
        ("fisher@8+values", 1, 8),
        ("fisher@trace", 1, 16),
        ("ixg", 1, 1),
        ("ig@5", 6, 5),
        ("smoothgrad@3", 4, 3),
        ("fisher@2+path-mean@4", 5, 8),
    ],
)
def test_costs_of_scopes_are_counted(
    model: Any, name: str, forwards: int, backwards: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backprop, "BATCH_LIMIT", 0)  # directions one by one, to be counted
    try_hooks(model, name)
    with counted(model) as rows:
        scored = as_method(name).score(model, prompt_of(), TARGET)
    assert (scored.forwards, scored.backwards) == (forwards, backwards)
    assert rows == {"forwards": forwards, "backwards": backwards}


def test_costs_of_custom_and_sampled_directions_are_counted(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backprop, "BATCH_LIMIT", 0)
    for objective, backwards in (
        (ls.Fisher("trace", samples=4, exact=3), 7),
        (ls.Custom(lambda y, logits: torch.stack([y, y * 2, y + 1])), 3),
        (ls.LogitDiff(3, 4), 1),
    ):
        with counted(model) as rows:
            scored = as_method(objective).score(model, prompt_of(), TARGET)
        assert scored.backwards == rows["backwards"] == backwards
        assert scored.forwards == rows["forwards"] == 1


@pytest.mark.parametrize("build", [llama_like, gpt2_like])
@pytest.mark.parametrize(
    ("name", "forwards"),
    [
        ("loo-kl", 1 + 5),
        ("loo-logit@mean", 1 + 5),
        ("loo-kl@resample", 1 + 4 * 5),
        ("loo-logprob@remove", 1 + 5),
        ("attention-rollout", 1),
        ("value-attention", 1),
        ("context-cite+by=token", 64),
        ("kernel-shap@20", 1 + 20),
        ("kernel-shap", 1 + 2**5 - 2),
        ("surprisal", 1),
        ("closeness", 0),
        ("embedding-norm", 0),
        ("random", 0),
    ],
)
def test_costs_of_baselines_are_counted(build: Any, name: str, forwards: int) -> None:
    """The pass that gives the prediction, which comes with every result, is not what scores are made from."""
    model = build()
    try_hooks(model, name)
    with counted(model) as rows:
        scored = as_method(name).score(model, prompt_of(), TARGET)
    assert (scored.forwards, scored.backwards) == (forwards, 0)
    assert rows == {"forwards": forwards + 1, "backwards": 0}


def test_the_cost_of_baselines_with_gradients_is_counted(model: Any) -> None:
    for name in ("grad-ellm", "balanced-values"):
        try_hooks(model, name)
    with counted(model) as rows:
        scored = as_method("grad-ellm").score(model, prompt_of(), TARGET)
    assert (scored.forwards, scored.backwards) == (1, 1)
    assert rows == {"forwards": 1 + 1, "backwards": 1}
    scored = as_method("faded-attention+by=token").score(model, prompt_of(), TARGET)
    assert (scored.forwards, scored.backwards) == (3, 2)
    with counted(model) as rows:
        scored = as_method("balanced-values").score(model, prompt_of(), TARGET)
    assert (scored.forwards, scored.backwards) == (2, 2)
    assert rows == {"forwards": 2 + 1, "backwards": 2}
    scored = as_method("balanced-values@3").score(model, prompt_of(), TARGET)
    assert (scored.forwards, scored.backwards) == (2, 6)


# Other ways to give a method


def test_objectives_baselines_and_pairs_are_methods(model: Any) -> None:
    scores = [0.0, 1, 2, 3, 4, 5]
    seen = []

    def function(given: Any, token_ids: Any) -> Any:
        seen.append((given, list(token_ids)))
        return torch.tensor(scores)

    for method in (("mine", scores), ("mine", torch.tensor(scores)), ("mine", function)):
        read = as_method(method)
        found = read.score(model, prompt_of(), TARGET)
        assert (read.name, found.scores.tolist()) == ("mine", scores)
        assert (found.forwards, found.backwards) == (0, 0)
    assert seen == [(model, IDS)]
    assert as_method(ls.Fisher(4)).name == "fisher" and as_method(ls.Fisher(4)).explanation == ls.Fisher(4)
    assert as_method(ls.LeaveOneOut()).name == "leave-one-out"
    assert as_method(("ours", ls.Fisher(4))) == Method("ours", ls.Spec(ls.Fisher(4)))
    assert as_method(("chance", ls.RandomScores())) == Method("chance", ls.Spec(ls.RandomScores()))
    own = Method("mine", ls.Spec.read(ls.Temperature(), readout="product", score_site="hook_z"))
    assert as_method(own) is own


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fischer", r"unknown method 'fischer'; did you mean 'fisher'\? Known: semantic"),
        ("nonsense", r"unknown method 'nonsense'\. Known"),
        ("", "unknown method ''"),
        ("fisher+frozen-pattern", r"unknown choice 'frozen-pattern'; did you mean 'frozen-patterns'\?"),
        ("fisher+", "not a scope"),
        ("fisher@8@9", "8@9"),
        ("fisher@eight", "method 'fisher@eight': Fisher rank must be a positive integer"),
        ("fisher@-1", "positive integer"),
        ("fisher@1.5", "positive integer"),
        ("fisher@0", "positive integer"),
        ("fisher@", "nothing after @"),
        ("semantic@", "no setting after @"),
        ("semantic@3", "'semantic' has no setting after @, since passages differ in their tokens; got 'semantic@3'"),
        ("attention-rollout@2", "no setting after @"),
        ("ig@0", "at least one step"),
        ("smoothgrad@0", "at least one sample"),
        ("random@x", "method 'random@x': seed is an integer; got 'x'"),
        ("loo-kl@zer", "'zer'; did you mean 'zero'"),
        ("loo-kl@corpus-mean", "one prompt alone"),
        ("random+dot", "random takes no gradient, so readout='dot' does not apply"),
        ("loo-kl+frozen-patterns", "takes no gradient"),
        (7, "got int"),
        (("mine",), "got tuple"),
        (None, "got NoneType"),
    ],
)
def test_bad_names_are_refused_in_one_line(name: Any, words: str) -> None:
    with pytest.raises(EvaluationError, match=words) as caught:
        as_method(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("build", "method", "words"),
    [
        (gpt2_like, "fisher@17", r"method 'fisher@17': .*d_model = 16"),
        (gpt2_like, ls.Semantic(23), "vocabulary"),
        (gpt2_like, Method("mine", ls.Spec.read(ls.Semantic(), score_site="hook_none")), "hook_none"),
        (gpt2_like, Method("mine", ls.Spec(ls.LogitDiff(3, 99))), "method 'mine': .*vocabulary"),
        (gpt2_like, Method("mine", ls.Spec(ls.Semantic(), through=ls.Layers(7))), "method 'mine': .*7"),
    ],
)
def test_a_method_that_does_not_fit_the_model_is_refused_before_any_passage(
    build: Any, method: Any, words: str
) -> None:
    with pytest.raises(EvaluationError, match=words):
        as_method(method).check(build())


def test_methods_that_fit_are_not_refused() -> None:
    for build in TINY_MODELS.values():
        model = build()
        for name in ("fisher@8+values", "semantic+frozen-patterns+residuals", "loo-kl", "random"):
            as_method(name).check(model)


def test_prompts_need_no_special_token() -> None:
    model = gemma_like()
    read = read_prompt(model, IDS)
    found: Callable[[str], Tensor] = lambda name: as_method(name).score(model, read, TARGET).scores  # noqa: E731
    assert torch.equal(found("fisher"), ls.attribute(model, IDS, ls.Fisher()).scores)
