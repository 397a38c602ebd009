"""Heads: predicted effects against closed forms and real interventions."""

from typing import Any

import pytest
import torch
from induction_circuit import ANSWER, PROMPT, SOURCE, induction_circuit
from reference import site_activation, state_of
from tiny_models import attention_only, llama_like

import lens_scopes as ls
from lens_scopes.errors import PathError
from lens_scopes.results.heads import component_name

IDS = [3, 7, 1, 7, 4, 9, 2]
TARGET = 5


def soft_capped(model, z: torch.Tensor) -> torch.Tensor:
    cap = model.cfg.output_logits_soft_cap
    return cap * torch.tanh(z / cap) if cap > 0 else z


def logits(model, y: torch.Tensor) -> torch.Tensor:
    return soft_capped(model, model.W_U.T @ y + model.b_U)


def ablated_state(model, layer: int, head: int | None, mix: float, value: torch.Tensor) -> torch.Tensor:
    """y when a component's output is moved a share `mix` of the way to a value, by TransformerLens' own hooks."""
    caught = {}

    def move(activation, hook):
        changed = activation.clone()
        where = (slice(None),) if head is None else (slice(None), slice(None), head)
        target = value if head is None else value[:, head]
        changed[where] = (1 - mix) * changed[where] + mix * target
        return changed

    def catch(y, hook):
        caught["y"] = y[0, -1]

    name = f"blocks.{layer}.hook_mlp_out" if head is None else f"blocks.{layer}.attn.hook_z"
    model.run_with_hooks(torch.tensor([IDS]), fwd_hooks=[(name, move), ("unembed.hook_in", catch)])
    return caught["y"]


def test_predicted_changes_are_the_slope_of_a_real_intervention(tiny):
    """Moving a component a little way to its baseline changes the logit in proportion to the prediction."""
    found = ls.inspect_heads(tiny, IDS, ls.Semantic(TARGET), baseline="mean", verify=0, mlp_rules=None)
    step = 1e-6
    for layer in range(tiny.cfg.n_layers):
        for head in [*range(tiny.cfg.n_heads), *([] if tiny.cfg.attn_only else [None])]:
            site = f"blocks.{layer}.hook_mlp_out" if head is None else f"blocks.{layer}.attn.hook_z"
            mean = (
                site_activation(tiny, IDS, site)
                .mean(0, keepdim=True)
                .expand(len(IDS), *[-1] * (1 if head is None else 2))
            )
            ends = [logits(tiny, ablated_state(tiny, layer, head, mix, mean))[TARGET] for mix in (step, -step)]
            slope = float((ends[0] - ends[1]) / (2 * step))
            predicted = found.mlp_effect[layer] if head is None else found.effect[layer, head]
            assert float(predicted) == pytest.approx(slope, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("baseline", ["zero", "mean"])
def test_actual_changes_are_those_of_real_ablations(tiny, baseline):
    found = ls.inspect_heads(tiny, IDS, ls.LogProb(TARGET), baseline=baseline)
    components = tiny.cfg.n_layers * (tiny.cfg.n_heads + (0 if tiny.cfg.attn_only else 1))
    assert len(found.ablations) == components
    before = logits(tiny, state_of(tiny, IDS)).log_softmax(-1)[TARGET]
    for item in found.ablations[:4]:
        site = f"blocks.{item.layer}.hook_mlp_out" if item.head is None else f"blocks.{item.layer}.attn.hook_z"
        value = site_activation(tiny, IDS, site)
        value = torch.zeros_like(value) if baseline == "zero" else value.mean(0, keepdim=True).expand_as(value)
        after = logits(tiny, ablated_state(tiny, item.layer, item.head, 1.0, value)).log_softmax(-1)[TARGET]
        assert item.actual == pytest.approx(float(after - before), rel=1e-9, abs=1e-12)


def test_parts_by_source_and_by_edge_add_up_to_a_head(tiny):
    found = ls.inspect_heads(tiny, IDS, ls.Semantic(TARGET), baseline="zero", verify=0, patterns=100)
    torch.testing.assert_close(found.by_source.sum(-1), found.effect, rtol=1e-9, atol=1e-12)
    for layer in range(tiny.cfg.n_layers):
        for head in range(tiny.cfg.n_heads):
            edges = found.pattern_gradients[component_name((layer, head))]
            torch.testing.assert_close(edges.sum(0), found.by_source[layer, head], rtol=1e-9, atol=1e-12)
            assert not edges.triu(1).any()


def test_divergences_are_second_order_in_every_direction_at_once(tiny):
    """½ Σ λ_i a_i² over all directions is ½ δᵀFδ of the first-order change δ of the final state."""
    found = ls.inspect_heads(tiny, IDS, ls.Fisher(rank=tiny.cfg.d_model), baseline="zero", verify=0)
    p = logits(tiny, state_of(tiny, IDS)).softmax(-1)
    step = 1e-6
    site = "blocks.1.attn.hook_z"
    zero = torch.zeros_like(site_activation(tiny, IDS, site))
    for head in range(tiny.cfg.n_heads):
        ends = [logits(tiny, ablated_state(tiny, 1, head, mix, zero)) for mix in (step, -step)]
        moved = (ends[0] - ends[1]) / (2 * step)
        expected = 0.5 * ((p * moved**2).sum() - (p * moved).sum() ** 2)
        assert float(found.effect[1, head]) == pytest.approx(float(expected), rel=1e-5, abs=1e-10)


def test_direct_effects_are_logit_attribution_with_frozen_scales(tiny):
    found = ls.inspect_heads(tiny, IDS, ls.Semantic(TARGET), baseline="zero", verify=0)
    last = tiny.cfg.n_layers - 1
    name = f"blocks.{last}.attn.hook_z"
    z = site_activation(tiny, IDS, name)[-1]
    out = torch.einsum("hd,hdm->hm", z, tiny.blocks[last].attn.W_O)
    if tiny.cfg.use_normalization_before_and_after:
        out = out / site_activation(tiny, IDS, f"blocks.{last}.ln1_post.hook_scale")[-1] * tiny.blocks[last].ln1_post.w
    if tiny.cfg.normalization_type is not None:
        if tiny.cfg.normalization_type == "LN":
            out = out - out.mean(-1, keepdim=True)
        out = out / site_activation(tiny, IDS, "ln_final.hook_scale")[-1] * tiny.ln_final.w
    raw = tiny.W_U.T @ state_of(tiny, IDS) + tiny.b_U
    cap = tiny.cfg.output_logits_soft_cap
    slope = 1 - torch.tanh(raw[TARGET] / cap) ** 2 if cap > 0 else 1.0
    torch.testing.assert_close(found.direct_effect[last], -(out @ tiny.W_U[:, TARGET]) * slope, rtol=1e-8, atol=1e-10)


def test_an_induction_circuit_is_named():
    model = induction_circuit()
    found = ls.inspect_heads(model, PROMPT, ls.Semantic(ANSWER), baseline="zero")
    assert found.prediction.top[0].token_id == ANSWER
    assert {name for _, name, _ in found.top(2)} == {"L0H0", "L1H1"}
    assert found.type_of(0, 0) == "previous_token_head"
    assert found.type_of(1, 1) == "induction_head"
    assert {item.name for item in found.ablations[:2]} == {"L0H0", "L1H1"}
    assert int(found.by_source[1, 1].abs().argmax()) == SOURCE
    assert int(found.patterns["L1H1"][-1].argmax()) == SOURCE
    assert all(item.actual < -1 for item in found.ablations[:2])
    assert all(abs(item.actual) < 0.2 for item in found.ablations[2:])


def test_head_types_need_the_heads_and_not_the_noise():
    model = induction_circuit()
    shares = ls.inspect_heads(model, PROMPT, ls.Semantic(ANSWER), verify=0).head_types
    assert shares["previous_token_head"][0, 0] > 0.6
    assert shares["induction_head"][1, 1] > 0.6
    noise = [(0, 1), (0, 2), (1, 0), (1, 2)]
    assert all(float(scores[item]) < 0.3 for scores in shares.values() for item in noise)


def test_a_shuffle_repeats_with_its_seed_and_leaves_the_global_generator_alone(tiny):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    runs = [ls.inspect_heads(tiny, IDS, baseline="shuffle", seed=seed).effect for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_chosen_patterns_and_tables(tiny):
    found = ls.inspect_heads(tiny, IDS, ls.Temperature(), patterns=["L1H0"], verify=2)
    assert list(found.patterns) == ["L1H0"] and len(found.ablations) == 2
    torch.testing.assert_close(
        found.patterns["L1H0"].double(),
        site_activation(tiny, IDS, "blocks.1.attn.hook_pattern")[0],
        rtol=1e-5,
        atol=1e-6,
    )
    table = found.to_pandas()
    assert len(table) == tiny.cfg.n_layers * tiny.cfg.n_heads
    assert table["effect"].tolist() == pytest.approx(found.effect.flatten().tolist())
    assert set(found.contract) == set(ls.attribute(tiny, IDS).contract)
    assert "HeadInspection" in repr(found)


@pytest.mark.parametrize("objective", [ls.Semantic(TARGET), ls.Fisher(2)], ids=lambda item: item.scope)
def test_norms_have_one_unit_for_numbers_and_divergences(tiny, objective):
    """‖vᵀ∂y/∂z‖ or √Σ_i w_i ‖v_iᵀ∂y/∂z‖², which are what `attribute` reads there; the table adds squares up."""
    found = ls.inspect_heads(tiny, IDS, objective, verify=0)
    sites = ls.attribute(tiny, IDS, objective, sites="hook_z").sites
    for layer in range(tiny.cfg.n_layers):
        read = sites[f"blocks.{layer}.attn.hook_z"].T
        expected = read.sqrt() if found.settings["divergence"] else read
        torch.testing.assert_close(found.norms[layer], expected, rtol=1e-6, atol=1e-12)
    column = found.norms.square().sum(-1).sqrt().flatten().tolist()
    assert found.to_pandas()["norm"].tolist() == pytest.approx(column)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"baseline": "meen"}, "did you mean 'mean'"),
        ({"patterns": ["L9H0"]}, "does not exist"),
        ({"patterns": ["H0"]}, "not a head"),
        ({"through": "9"}, "does not exist"),
    ],
)
def test_bad_input_is_refused(tiny, settings, message):
    with pytest.raises(PathError, match=message):
        ls.inspect_heads(tiny, IDS, **settings)


def test_a_head_can_be_ablated_around_a_scope_and_no_hook_stays(tiny):
    def ablate(z, hook):
        z[:, :, 1] = 0
        return z

    free = ls.attribute(tiny, IDS, ls.Semantic(TARGET)).scores
    with tiny.hooks(fwd_hooks=[("blocks.0.attn.hook_z", ablate)]):
        ablated = ls.attribute(tiny, IDS, ls.Semantic(TARGET)).scores
    assert not torch.allclose(free, ablated)
    assert torch.equal(free, ls.attribute(tiny, IDS, ls.Semantic(TARGET)).scores)
    assert not any(point.fwd_hooks or point.bwd_hooks for point in tiny.hook_dict.values())


@pytest.mark.parametrize("through", [None, ls.Layers(0, 1)], ids=str)
def test_effects_of_mlps_are_the_mean_of_two_predictions(through: ls.Path | None) -> None:
    model, objective = llama_like(), ls.Semantic(5)
    asked: Any = {"objective": objective, "baseline": "zero", "verify": 4}
    plain = ls.inspect_heads(model, IDS, through=through, mlp_rules=None, **asked)
    rules = ls.Rules("relp") if through is None else through & ls.Rules("relp")
    ruled = ls.inspect_heads(model, IDS, through=rules, **asked)
    both = ls.inspect_heads(model, IDS, through=through, mlp_rules="relp", **asked)
    torch.testing.assert_close(both.mlp_effect, (plain.mlp_effect + ruled.mlp_effect) / 2, rtol=1e-10, atol=1e-12)
    assert torch.equal(both.effect, plain.effect) and not torch.allclose(both.mlp_effect, plain.mlp_effect)
    assert "of MLPs the mean of the effects by the derivative and by rules" in both.contract["held fixed"]
    assert both.settings["mlp_rules"] == "rules relp" and "mlp_rules" not in plain.settings


def test_of_several_directions_the_mean_is_that_of_the_amounts() -> None:
    """½ Σ w a² of the mean of both a, also where a whole answer is explained."""
    model = llama_like()
    asked: Any = {"objective": ls.Fisher(2), "baseline": "zero", "verify": 0}
    both = ls.inspect_heads(model, IDS, mlp_rules=["relp"], **asked).mlp_effect
    again = ls.inspect_heads(model, IDS, mlp_rules=["norms", "patterns", "identity", "half-gate"], **asked).mlp_effect
    assert torch.equal(both, again) and (both >= 0).all()
    parts = [ls.inspect_heads(model, IDS, through=name, mlp_rules=None, **asked).mlp_effect for name in (None, "relp")]
    # ½ w (a + b)²/4 lies between nothing and what both have when they agree.
    assert ((parts[0].sqrt() + parts[1].sqrt()) ** 2 / 4 + 1e-12 >= both).all()
    answered: Any = {"baseline": "zero", "verify": 0, "answer": [4, 2]}
    one, other, mean = (
        ls.inspect_heads(model, IDS, ls.LogProb(), **answered, **more).mlp_effect
        for more in ({"mlp_rules": None}, {"through": "relp"}, {"mlp_rules": "relp"})
    )
    torch.testing.assert_close(mean, (one + other) / 2, rtol=1e-10, atol=1e-12)


def test_by_default_the_rules_are_those_that_predicted_ablations_best() -> None:
    asked: Any = {"baseline": "zero", "verify": 0, "patterns": 0}

    def rules(model: Any, **choices: Any) -> str | None:
        return ls.inspect_heads(model, IDS, **(asked | choices)).settings.get("mlp_rules")

    model = llama_like()
    assert rules(model) == "rules relp"
    assert rules(model, baseline=list(reversed(IDS))) == "patterns, norms frozen"
    assert rules(model, through="relp") is rules(model, mlp_rules="none") is rules(attention_only()) is None


@pytest.mark.parametrize("rules", [3, ["relp", 3], "repl", {"relp": 1}], ids=str)
def test_what_names_no_rules_for_mlps_is_refused(rules: Any) -> None:
    with pytest.raises(PathError, match="given by name|did you mean 'relp'"):
        ls.inspect_heads(llama_like(), IDS, mlp_rules=rules)


def test_a_model_without_mlps_has_nothing_to_predict_by_rules() -> None:
    model = attention_only()
    assert ls.inspect_heads(model, IDS, mlp_rules="relp", verify=0).mlp_effect.shape == (0,)


def test_what_goes_through_a_part_alone_is_not_compared_with_ablations_of_the_whole():
    model = llama_like()
    whole, ruled, part = (
        ls.inspect_heads(model, IDS, ls.Semantic(TARGET), baseline="zero", patterns=0, through=through)
        for through in (None, ls.Rules("norms"), ls.Heads("L1H0"))
    )
    assert whole.spearman is not None and ruled.spearman is not None, "rules leave every component in"
    assert part.spearman is None and "need not agree" in part.warnings[-1] and "L1H0" in part.warnings[-1]
    actual = {(item.layer, item.head): item.actual for item in whole.ablations}
    assert all(item.actual == pytest.approx(actual[item.layer, item.head]) for item in part.ablations)
    unverified = ls.inspect_heads(model, IDS, ls.Semantic(TARGET), through=ls.Heads("L1H0"), verify=0)
    assert not any("need not agree" in warning for warning in unverified.warnings)
