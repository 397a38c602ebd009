"""Paths: gradient flows only where it is let, and the forward pass never changes."""

import pytest
import torch
from reference import site_activation

import lens_scopes as ls
from lens_scopes.engine.backward import trace
from lens_scopes.engine.model import ScopedModel
from lens_scopes.errors import PathError
from lens_scopes.scopes.paths import parse_path

IDS = [3, 7, 1, 7, 4, 9, 2]
TARGET = 5


def literal_scores(model, constants: dict[str, tuple]) -> torch.Tensor:
    """‖w_targetᵀ J_t‖ by the full Jacobian of a run in which the named activations are replaced by constants.

    A constant is (values, heads): heads None replaces the whole activation, a list only those heads.
    """

    def logit(embeddings: torch.Tensor) -> torch.Tensor:
        caught = {}

        def fix(values, heads):
            def hook(activation, hook):
                if heads is None:
                    return values[None].expand_as(activation)
                fixed = activation.clone()
                fixed[:, :, heads] = values[:, heads]
                return fixed

            return hook

        def catch(logits, hook):
            caught["y"] = logits[0, -1]

        hooks = [("hook_embed", lambda activation, hook: embeddings[None])]
        hooks += [(name, fix(*constant)) for name, constant in constants.items()]
        model.run_with_hooks(torch.tensor([IDS]), fwd_hooks=[*hooks, ("unembed.hook_in", catch)])
        z = model.W_U.T @ caught["y"] + model.b_U
        cap = model.cfg.output_logits_soft_cap
        return (cap * torch.tanh(z / cap) if cap > 0 else z)[TARGET]

    embeddings = site_activation(model, IDS, "hook_embed")
    jacobian = torch.autograd.functional.jacobian(logit, embeddings)
    return jacobian.norm(dim=-1)


def held_outputs(model, carried: set) -> dict[str, tuple]:
    """The constants that hold every component outside `carried` ((layer, head), or (layer, None) for the MLP)."""
    constants = {}
    for layer in range(model.cfg.n_layers):
        heads = [head for head in range(model.cfg.n_heads) if (layer, head) not in carried]
        name = f"blocks.{layer}.attn.hook_z"
        constants[name] = (site_activation(model, IDS, name), heads)
        if not model.cfg.attn_only and (layer, None) not in carried:
            name = f"blocks.{layer}.hook_mlp_out"
            constants[name] = (site_activation(model, IDS, name), None)
    return constants


def everything(model) -> set:
    layers, heads = range(model.cfg.n_layers), range(model.cfg.n_heads)
    mlps = set() if model.cfg.attn_only else {(layer, None) for layer in layers}
    return {(layer, head) for layer in layers for head in heads} | mlps


def scores(model, through=None) -> torch.Tensor:
    return ls.attribute(model, IDS, ls.Semantic(TARGET), through=through).scores


CASES = {
    "skip": (ls.Skip(), lambda layer, head: False),
    "layer 1": (ls.Layers(1), lambda layer, head: layer == 1),
    "layers 0–1": (ls.Layers(0, 1), lambda layer, head: layer <= 1),
    "attention": (ls.Attention(), lambda layer, head: head is not None),
    "head L0H1": (ls.Heads("L0H1"), lambda layer, head: (layer, head) == (0, 1)),
    "attention of layer 0": (ls.Attention() & ls.Layers(0), lambda layer, head: layer == 0 and head is not None),
    "layer 0 or head L1H0": (
        ls.Layers([0]) | ls.Heads((1, 0)),
        lambda layer, head: layer == 0 or (layer, head) == (1, 0),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_restricted_scores_are_those_of_a_run_with_everything_else_constant(tiny, case):
    path, carries = CASES[case]
    carried = {item for item in everything(tiny) if carries(*item)}
    assert path.carried(ScopedModel.of(tiny)) == carried
    torch.testing.assert_close(
        scores(tiny, path), literal_scores(tiny, held_outputs(tiny, carried)), rtol=1e-9, atol=1e-12
    )


def test_mlps_alone_reach_only_their_own_position(tiny):
    if tiny.cfg.attn_only:
        with pytest.raises(PathError, match="no MLPs"):
            scores(tiny, ls.MLP())
        return
    found = scores(tiny, ls.MLP())
    assert not found[:-1].any() and found[-1] > 0
    carried = {item for item in everything(tiny) if item[1] is None}
    torch.testing.assert_close(found, literal_scores(tiny, held_outputs(tiny, carried)), rtol=1e-9, atol=1e-12)


def test_all_layers_are_no_restriction(tiny):
    assert torch.equal(scores(tiny), scores(tiny, ls.Layers(0, tiny.cfg.n_layers - 1)))


@pytest.mark.parametrize(
    "path", [*(path for path, _ in CASES.values()), ls.Frozen("patterns", "norms", "gates")], ids=str
)
def test_restricting_never_changes_the_prediction(tiny, path):
    free = ls.attribute(tiny, IDS, ls.Semantic(TARGET)).prediction
    held = ls.attribute(tiny, IDS, ls.Semantic(TARGET), through=path).prediction
    assert [item.token_id for item in held.top] == [item.token_id for item in free.top]
    assert held.entropy == pytest.approx(free.entropy, rel=1e-13) and held.beta == pytest.approx(free.beta, rel=1e-13)


def test_frozen_patterns_and_norms_are_constants(tiny):
    for part, ending in (("patterns", "hook_pattern"), ("norms", "hook_scale")):
        names = [name for name in tiny.hook_dict if name.endswith(ending)]
        constants = {}
        for name in names:
            values = site_activation(tiny, IDS, name)
            constants[name] = (values, None)
        if not names:
            continue
        free = scores(tiny)
        frozen = scores(tiny, ls.Frozen(part))
        assert not torch.allclose(free, frozen)
        if not any("_norm" in name for name in names):  # query and key norms merge positions and heads in one axis
            torch.testing.assert_close(frozen, literal_scores(tiny, constants), rtol=1e-9, atol=1e-12)


def test_with_everything_frozen_the_model_is_linear_in_its_embeddings(tiny):
    """Σ_t J_t x_t is the final state, once nothing but the embeddings feeds it (arXiv:2505.24293)."""
    saved = {name: parameter.data.clone() for name, parameter in tiny.named_parameters()}
    for name, parameter in tiny.named_parameters():
        if name.split(".")[-1].startswith(("b", "_b")):
            parameter.data = torch.zeros_like(parameter)
    sources = ["hook_pos_embed"] if "hook_pos_embed" in tiny.hook_dict else []
    path = ls.Frozen("patterns", "norms", "gates")
    traced = trace(ScopedModel.of(tiny), [IDS], sources, path.hooks(ScopedModel.of(tiny)))
    rebuilt = torch.zeros_like(traced.final_states[0])
    for axis in range(len(rebuilt)):
        unit = torch.zeros_like(traced.final_states)
        unit[0, axis] = 1
        gradients = traced.gradients(unit, keep_graph=True)
        rebuilt[axis] = sum((gradients[name] * traced.activations[name]).sum() for name in gradients).detach()
    torch.testing.assert_close(rebuilt, traced.final_states[0].detach(), rtol=1e-9, atol=1e-9)
    for name, parameter in tiny.named_parameters():
        parameter.data = saved[name]


def test_direct_paths_through_the_heads_of_one_layer_add_up(tiny):
    def gradient(path) -> torch.Tensor:
        model, held = ScopedModel.of(tiny), path & ls.Frozen("patterns", "norms", "gates")
        traced = trace(model, [IDS], [], held.hooks(model))
        vector = torch.linspace(-1, 1, tiny.cfg.d_model, dtype=torch.float64)[None]
        return traced.gradients(vector, keep_graph=False)["hook_embed"]

    skip = gradient(ls.Skip())
    heads = [gradient(ls.Heads((1, head))) - skip for head in range(tiny.cfg.n_heads)]
    together = gradient(ls.Attention() & ls.Layers(1)) - skip
    assert together.norm() > 0
    torch.testing.assert_close(sum(heads), together, rtol=1e-9, atol=1e-12)


def test_a_site_that_the_path_holds_fixed_scores_zero_and_says_so(tiny):
    found = ls.attribute(tiny, IDS, ls.Semantic(TARGET), through=ls.Layers(0), sites="blocks.1.attn.hook_z")
    assert not found.sites["blocks.1.attn.hook_z"].any()
    assert any("blocks.1.attn.hook_z" in warning for warning in found.warnings)
    assert "layers 0" in found.contract["held fixed"] and found.settings["path"] == "layers 0"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("5-9", ls.Layers(5, 9)),
        ("3", ls.Layers(3)),
        ("L3H2,L5H0", ls.Heads("L3H2") | ls.Heads("L5H0")),
        ("attention & 1-2", ls.Attention() & ls.Layers(1, 2)),
        ("mlp, 0", ls.MLP() | ls.Layers(0)),
        ("skip", ls.Skip()),
    ],
)
def test_paths_can_be_written_as_text(text, path):
    assert parse_path(text) == path


@pytest.mark.parametrize(
    "written",
    [
        "Layers(5, 9)",
        "Layers(3)",
        "Layers([0, 3, 7])",
        "Heads('L3H2', 'L5H0')",
        "Attention() & Layers(6, 11)",
        "Attention() & Layers(1) | MLP()",
        "Attention() & Frozen('patterns')",
        "(Layers(1) | Heads('L3H2')) & Frozen('patterns', 'norms')",
        "Frozen('gates')",
        "Skip()",
    ],
)
def test_a_path_shows_how_it_is_built(written: str) -> None:
    path = eval(written, dict(vars(ls.scopes.paths)))
    assert eval(repr(path), dict(vars(ls.scopes.paths))) == path
    assert repr(path) == written or "|" in written  # alternatives have no order


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ls.Layers(9, 5), "reversed"),
        (lambda: ls.Layers([]), "empty"),
        (lambda: ls.Layers([1.5]), "a layer must be an integer"),
        (lambda: ls.Heads(), "at least one head"),
        (lambda: ls.Heads("third"), "not a head"),
        (lambda: ls.Frozen("pattern"), "'patterns'"),
        (lambda: ls.Frozen(), "'norms'"),
        (lambda: parse_path("everything"), "not a path"),
        (lambda: parse_path(""), "not a path"),
    ],
)
def test_malformed_paths_are_refused(make, message):
    with pytest.raises(PathError, match=message):
        make()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (ls.Layers(7), r"layers 0 to \d"),
        (ls.Layers([-1]), r"layers 0 to \d"),
        (ls.Heads("L0H9"), r"heads 0 to \d"),
        ("5-9", r"layers 0 to \d"),
        (3, "path such as"),
    ],
)
def test_components_that_do_not_exist_are_refused_with_the_valid_range(tiny, path, message):
    with pytest.raises(PathError, match=message):
        scores(tiny, path)


def test_a_model_without_the_hook_is_told_which():
    class Bare:
        class cfg:  # noqa: N801
            n_layers, n_heads, attn_only, gated_mlp = 1, 1, False, False

        hook_dict: dict = {}

    with pytest.raises(PathError, match="hook_attn_out"):
        ls.Skip().hooks(ScopedModel.of(Bare()))  # pyright: ignore[reportArgumentType]
