"""Slices of a bridge's layers give what its whole forward pass gives, and are refused where they would not."""

from typing import Any

import architectures
import pytest
import tiny_bridges
import torch
import transformers
from bridges import bridge_of, gradients
from budgets import smallest
from torch import Tensor

import lens_scopes as ls
from lens_scopes.engine.backward import trace, trace_in_slices
from lens_scopes.engine.model import BridgeModel, ScopedModel
from lens_scopes.errors import ModelError

IDS = [1, 5, 3, 7, 2, 9, 4]


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize("name", [name for name in architectures.CONFIGS if name != "Cohere"])
def test_slices_give_the_gradients_of_the_whole_pass(name: str, dtype: torch.dtype, close: float) -> None:
    """Cohere's bridge is refused altogether: it scales its logits."""
    model = ScopedModel.of(bridge_of(name, dtype))
    with model.exclusive():
        assert model.slice_obstacle == ""
        sites = [f"blocks.{layer}.{site}" for layer in range(2) for site in ("hook_resid_pre", "attn.hook_z")]
        for prompts in ([IDS], [IDS[:5], IDS]):  # the second of several lengths
            whole, sliced = trace(model, prompts, sites), trace_in_slices(model, prompts, sites, layers_at_once=1)
            torch.testing.assert_close(sliced.final_states, whole.final_states.detach(), rtol=close, atol=close)
            expected, actual = gradients(whole), gradients(sliced)
            assert actual.keys() == expected.keys() and len(actual) == 15
            for key, gradient in expected.items():
                floor = close * float(gradient.abs().max())
                assert gradient.any()
                torch.testing.assert_close(
                    actual[key], gradient, rtol=close, atol=floor, msg=lambda m, k=key: f"{k}: {m}"
                )


@pytest.mark.parametrize("build", [tiny_bridges.llama_like, tiny_bridges.gemma_like, tiny_bridges.gpt2_like])
@pytest.mark.parametrize(
    "through", [ls.Layers(1), ls.Attention(), ls.Frozen("patterns", "norms"), ls.Rules("half-av")], ids=str
)
def test_a_limit_on_memory_leaves_scores_as_they_are(build: Any, through: Any) -> None:
    model = build(dtype=torch.float32)
    choice: dict[str, Any] = {"objective": ls.Fisher(3), "layers": True, "through": through}
    hook_names = [name for name, _ in through.hooks(ScopedModel.of(model))]
    whole = ls.attribute(model, IDS, **choice)
    sliced = ls.attribute(model, IDS, **choice, memory=smallest(model, len(IDS), model.cfg.n_layers, hook_names))
    assert sliced.memory.sliced and not whole.memory.sliced
    torch.testing.assert_close(sliced.scores, whole.scores, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(sliced.layers, whole.layers, rtol=1e-5, atol=1e-6)


def test_blocks_run_once_more_only_on_the_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way forward calls each block once: the blocks after the first slice pass on what they are given."""
    model = ScopedModel.of(tiny_bridges.llama_like())
    with model.exclusive():
        assert model.can_slice
        calls: list[int] = []
        for index, block in enumerate(model.module.blocks):
            block.mlp.hook_out.register_forward_hook(lambda *_, index=index: calls.append(index))
        traced = trace_in_slices(model, [IDS], [], layers_at_once=1)
        assert calls == [0, 1, 2]
        gradients(traced)
        assert calls == [0, 1, 2, 1, 0]


@pytest.mark.parametrize("named", [True, False], ids=["as an argument", "by itself"])
def test_a_block_that_reads_the_embeddings_is_not_sliced(named: bool) -> None:
    """A replay would give its values, and leave out a route to the embedding."""
    bridge = tiny_bridges.llama_like()
    decoder = bridge.original_model.model
    seen: list[Tensor] = []
    bridge.blocks[0].register_forward_pre_hook(
        lambda _, arguments, given: seen.insert(0, arguments[0] if arguments else given["hidden_states"]),
        with_kwargs=True,
    )
    block = bridge.blocks[1].original_component
    plain = block.forward

    def reading(hidden: Tensor, embeddings: Tensor | None = None, **given: Any) -> Tensor:
        return plain(hidden, **given) + 0.1 * (seen[0] if embeddings is None else embeddings)

    block.forward = reading
    if named:
        bridge.blocks[1].register_forward_pre_hook(
            lambda _, arguments, given: (arguments, {**given, "embeddings": seen[0]}), with_kwargs=True
        )
    assert decoder.layers[1] is bridge.blocks[1]
    model = ScopedModel.of(bridge)
    assert "something else than the whole pass" in model.slice_obstacle
    with pytest.raises(ModelError, match="cannot run a slice of its layers.*something else"):
        trace_in_slices(model, [IDS], [], layers_at_once=1)


def test_a_block_that_counts_its_calls_is_not_sliced() -> None:
    bridge = tiny_bridges.llama_like()
    block = bridge.blocks[1].original_component
    count, plain = iter(range(1, 100)), block.forward
    block.forward = lambda hidden, **given: plain(hidden, **given) * next(count)
    assert "something else than the whole pass" in ScopedModel.of(bridge).slice_obstacle


def test_what_a_slice_replaces_is_back_after_an_exception() -> None:
    model = tiny_bridges.llama_like()
    scoped = ScopedModel.of(model)
    assert isinstance(scoped, BridgeModel) and scoped.can_slice
    before = [dict(vars(block)) for block in model.blocks]

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = model.blocks[0].mlp.hook_out.register_forward_hook(interrupt)
    with scoped.exclusive(), pytest.raises(KeyboardInterrupt):
        trace_in_slices(scoped, [IDS], [], layers_at_once=1)
    handle.remove()
    assert all("forward" not in vars(block) for block in model.blocks)
    assert [set(vars(block)) for block in model.blocks] == [set(names) for names in before]


def test_a_single_layer_needs_no_slices() -> None:
    config = transformers.GPT2Config(vocab_size=23, n_positions=32, n_embd=16, n_layer=1, n_head=4)
    model = tiny_bridges.random_bridge(config, 0, torch.float64)
    assert ScopedModel.of(model).can_slice
    assert ls.attribute(model, IDS, ls.Temperature()).scores.any()
