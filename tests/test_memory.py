"""Memory plans: slices of layers give the same scores, and what does not fit is refused with its estimate."""

import pytest
import torch

import lens_scopes as ls
from lens_scopes import memory
from lens_scopes.backprop import trace, trace_in_slices
from lens_scopes.errors import ModelError, PromptError
from lens_scopes.memory import parse_memory, plan_memory

IDS = [3, 7, 1, 7, 4, 9, 2]


def layer_bytes(model) -> int:
    return plan_memory(model, len(IDS), 1, 10**15).estimate // model.cfg.n_layers


@pytest.mark.parametrize("through", [None, ls.Layers(1) & ls.Frozen("patterns", "gates")], ids=["free", "path"])
def test_slices_give_the_scores_of_the_whole_graph_at_every_site(tiny, through, monkeypatch):
    settings = dict(layers=True, sites=["hook_z", "hook_embed"], through=through)
    objective = ls.Fisher("trace", samples=3, exact=2)
    whole = ls.attribute(tiny, IDS, objective, **settings)
    monkeypatch.setattr(memory, "_free_bytes", lambda model: 1)
    sliced = ls.attribute(tiny, IDS, objective, **settings)
    assert "1 of" in sliced.settings["memory"] and whole.settings["memory"] == "the whole graph at once"
    torch.testing.assert_close(sliced.scores, whole.scores, rtol=1e-12, atol=0)
    torch.testing.assert_close(sliced.layers, whole.layers, rtol=1e-12, atol=0)
    torch.testing.assert_close(sliced.standard_error, whole.standard_error, rtol=1e-9, atol=0)
    assert sliced.sites.keys() == whole.sites.keys()
    for name, values in whole.sites.items():
        torch.testing.assert_close(sliced.sites[name], values, rtol=1e-12, atol=0)


def test_the_graph_of_one_slice_is_held_at_a_time(tiny):
    """Sites of a later slice are visited, and let go, before those of an earlier one."""
    sites = [f"blocks.{layer}.hook_resid_pre" for layer in range(tiny.cfg.n_layers)]
    visited = []
    vectors = torch.ones(2, 1, tiny.cfg.d_model, dtype=torch.float64)
    trace_in_slices(tiny, [IDS], sites, 1).backward(vectors, lambda index, name, *_: visited.append((name, index)))
    layers = [int(name.split(".")[1]) for name, _ in visited if name.startswith("blocks")]
    assert layers == sorted(layers, reverse=True)
    steps = []
    trace(tiny, [IDS], sites).backward(vectors, lambda *_: None, lambda done, total: steps.append((done, total)))
    assert steps == [(1, 2), (2, 2)]


def test_as_many_layers_as_fit_are_held(tiny):
    layer = layer_bytes(tiny)
    n_layers = tiny.cfg.n_layers
    assert not plan_memory(tiny, len(IDS), 1, n_layers * layer).sliced
    plan = plan_memory(tiny, len(IDS), 1, n_layers * layer - 1)
    assert plan.sliced and 1 <= plan.layers_at_once < n_layers and plan.estimate <= plan.budget
    assert plan_memory(tiny, 2 * len(IDS), 3, 10**15).estimate > 6 * n_layers * layer


def test_what_never_fits_is_refused_with_its_estimate(tiny):
    with pytest.raises(PromptError, match=r"7 tokens need about .* GB .* one layer at a time"):
        ls.attribute(tiny, IDS, memory=100)


@pytest.mark.parametrize(("text", "expected"), [("4GB", 4 * 10**9), ("1.5 mb", 1_500_000), (2048, 2048), (None, None)])
def test_amounts_of_memory(text, expected):
    assert parse_memory(text) == expected


@pytest.mark.parametrize("text", ["", "much", "0GB", "-4GB", "4 gigabytes", 0])
def test_malformed_amounts_are_refused(text):
    with pytest.raises(PromptError, match="4GB"):
        parse_memory(text)


def test_a_bridge_cannot_be_sliced():
    class TransformerBridge:
        pass

    with pytest.raises(ModelError, match='backend="hooked"'):
        trace_in_slices(TransformerBridge(), [IDS], [], 1)
