"""A bridge's copies of a prompt start in its middle where that gives what whole passes give, and nowhere else."""

from collections.abc import Callable
from functools import partial
from typing import Any

import architectures
import pytest
import tiny_bridges
import torch
from bridges import bridge_of

from lens_scopes.engine.model import ScopedModel
from lens_scopes.engine.prefix_cache import PromptPrefix
from lens_scopes.engine.sites import EMBEDDING

PROMPT = [1, 5, 3, 7, 2, 9, 4, 8, 6, 3, 3, 11, 2, 10, 1, 7, 5, 9]
REFUSED = {"Cohere"}
"""Bridges that are refused altogether."""
IN_FLOAT32 = {"GPT-Neo", "GPT-J"}
"""Bridges whose attention is computed in float32 whatever the weights are."""


@pytest.mark.parametrize("name", [name for name in architectures.CONFIGS if name not in REFUSED])
def test_copies_that_start_later_give_what_whole_passes_give(name: str, softmax_in_float64: None) -> None:
    """Of three rows with other embeddings from a position on, past the windows of layers that have one."""
    model = ScopedModel.of(bridge_of(name))
    generator = torch.Generator().manual_seed(0)
    changes = torch.randn(3, len(PROMPT), model.cfg.d_model, dtype=torch.float64, generator=generator)
    close = 1e-5 if name in IN_FLOAT32 else 1e-12
    reads = [(row, place) for row in range(3) for place in range(16, 18)]
    with model.exclusive():
        prefixed = PromptPrefix.start(model, PROMPT, 2)
        assert prefixed is not None
        own = model.run_to_final_states([PROMPT], reads=reads[:2])
        torch.testing.assert_close(prefixed.own_states, own, rtol=close, atol=close)
        for first in (1, 5, 16):
            changed = changes.clone()
            changed[:, :first] = 0
            later = [(EMBEDDING, lambda values, changed=changed, first=first: values + changed[:, first:])]
            whole = [(EMBEDDING, lambda values, changed=changed: values + changed)]
            states = prefixed.final_states(first, 3, later)
            expected = model.run_to_final_states([PROMPT] * 3, whole, reads).unflatten(0, (3, 2))
            assert not torch.allclose(expected[0], own)
            torch.testing.assert_close(states, expected, rtol=close, atol=close)


@pytest.mark.parametrize("build", [tiny_bridges.gpt2_like, tiny_bridges.llama_like, partial(bridge_of, "Gemma 2")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rounding_alone_keeps_no_model_from_it(build: Callable[..., Any], dtype: torch.dtype) -> None:
    model = ScopedModel.of(build(dtype=dtype))
    with model.exclusive():
        prefixed = PromptPrefix.start(model, PROMPT)
        assert prefixed is not None
        states = prefixed.final_states(9, 2, [])
    close = 64 * torch.finfo(dtype).eps
    torch.testing.assert_close(states, prefixed.own_states[None].expand_as(states), rtol=close, atol=close)


def test_a_users_hook_sees_whole_prompts() -> None:
    bridge = tiny_bridges.llama_like()
    model = ScopedModel.of(bridge)
    for add in (
        lambda: bridge.add_hook("blocks.1.hook_resid_pre", lambda residual, hook: None),
        lambda: bridge.original_model.register_forward_hook(lambda *_: None),
    ):
        assert PromptPrefix.start(model, PROMPT) is not None
        handle = add()
        assert PromptPrefix.start(model, PROMPT) is None
        handle.remove() if handle is not None else bridge.reset_hooks()


def test_a_layer_that_takes_up_no_keys_is_run_whole() -> None:
    """As layers that hold another state than keys and values do."""
    bridge = tiny_bridges.llama_like()
    layer = bridge.blocks[1].attn.original_component
    plain = layer.forward
    layer.forward = lambda *arguments, past_key_values=None, **given: plain(*arguments, **given)
    model = ScopedModel.of(bridge)
    assert "something else than the whole pass" in model.prefix_obstacle or "does not go on" in model.prefix_obstacle
    assert PromptPrefix.start(model, PROMPT) is None


def test_a_prefix_holds_the_keys_and_values_of_one_layer_at_a_time() -> None:
    """Those of a hundred rows would fill the memory that is planned for a batch of short copies."""
    model = ScopedModel.of(tiny_bridges.llama_like())
    with model.exclusive():
        prefixed = PromptPrefix.start(model, PROMPT)
        assert prefixed is not None
        cut = model.cut_prefix(prefixed._keys_and_values, 9, 4)
        before = [(layer.keys, layer.values) for layer in cut.layers]
        prefixed._run(9, 4, cut)
    for layer, (keys, values) in zip(cut.layers, before, strict=True):
        assert layer.keys is keys and layer.values is values and keys.shape[2] == 9
        assert keys.untyped_storage().nbytes() == prefixed._keys_and_values.layers[0].keys.untyped_storage().nbytes()
