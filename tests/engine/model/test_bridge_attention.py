"""A bridge's attention without scores gives what it gives with them, and computes them where somebody reads them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import architectures
import pytest
import tiny_bridges
import torch
from bridges import bridge_of, gradients
from budgets import smallest
from torch import Tensor

import lens_scopes as ls
from lens_scopes.engine import attention as blocks
from lens_scopes.engine.attention import PATTERNS_READ
from lens_scopes.engine.backward import trace, trace_in_slices
from lens_scopes.engine.model import ScopedModel
from lens_scopes.engine.model.bridge_attention import DIFFERS, ONE_FORM, TRAINING, LayerAttention

PROMPT = [1, 5, 3, 7, 2, 9, 4, 8, 6, 3, 3, 11, 2, 10, 1, 7, 5, 9]
UNFUSED = {"GPT-Neo", "GPT-J", "BLOOM"}
REFUSED = {"Cohere", "StableLM"}
"""Bridges that are refused altogether."""


def compute_all_scores(model: Any) -> None:
    """From now on, as if the bridge's attention had no other form."""
    scoped = ScopedModel.of(model)
    scoped.cache.attention = (LayerAttention(ONE_FORM),) * scoped.n_layers


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize("name", [name for name in architectures.CONFIGS if name not in REFUSED])
def test_gradients_are_those_of_attention_with_all_scores(
    name: str, dtype: torch.dtype, close: float, softmax_in_float64: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole and in slices, for a batch of several lengths, in several tiles."""
    monkeypatch.setattr(blocks, "_TILE", (5, 11))
    bridge = bridge_of(name, dtype)
    model = ScopedModel.of(bridge)
    sites = [f"blocks.{layer}.{site}" for layer in range(2) for site in ("hook_resid_pre", "attn.hook_z")]
    prompts = [PROMPT[:7], PROMPT]
    with model.exclusive():
        assert model.unfused_layers() == ({ONE_FORM: [0, 1]} if name in UNFUSED else {})
        fused = [trace(model, prompts, sites), trace_in_slices(model, prompts, sites, layers_at_once=1)]
        actual = [(traced.final_states.detach(), gradients(traced)) for traced in fused]
        compute_all_scores(bridge)
        whole = trace(model, prompts, sites)
        states, expected = whole.final_states.detach(), gradients(whole)
    for found, by_site in actual:
        torch.testing.assert_close(found, states, rtol=close, atol=close)
        assert by_site.keys() == expected.keys() and len(expected) == 15
        for key, gradient in expected.items():
            floor = close * float(gradient.abs().max())
            assert gradient.any()
            torch.testing.assert_close(by_site[key], gradient, rtol=close, atol=floor, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize("build", [tiny_bridges.llama_like, partial(bridge_of, "Gemma 2"), tiny_bridges.gpt2_like])
def test_no_score_is_computed_where_nobody_reads_one(build: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even in one piece: no tensor of a forward pass has as many entries as there are pairs of tokens."""
    monkeypatch.setattr(blocks, "_TILE", (2, 5))
    model = build()
    ls.attribute(model, PROMPT, ls.Temperature())
    sizes: list[int] = []

    class Sizes(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            if isinstance(result, Tensor) and result.shape[-2:] == (len(PROMPT), len(PROMPT)):
                sizes.append(result.dtype.itemsize)
            return result

    with Sizes():
        attribution = ls.attribute(model, PROMPT, ls.Temperature(), layers=True)
    assert attribution.memory.unfused == {}
    assert set(sizes) <= {1}  # masks of a window
    compute_all_scores(model)
    with Sizes():
        assert ls.attribute(model, PROMPT, ls.Temperature()).memory.unfused == {ONE_FORM: [*range(model.cfg.n_layers)]}
    assert 8 in sizes


@pytest.mark.parametrize("build", [tiny_bridges.llama_like, partial(bridge_of, "Gemma 3"), tiny_bridges.gpt2_like])
def test_a_layer_that_somebody_reads_computes_its_scores(build: Callable[[], Any], softmax_in_float64: None) -> None:
    """And no other: the hook sees the pattern, and what it changes changes the scores as it would."""
    model, patterns = build(), []
    free = ls.attribute(model, PROMPT, ls.Fisher(2), layers=True)

    def change(pattern: Tensor, hook: Any) -> Tensor:
        patterns.append(pattern.detach())
        return pattern * torch.linspace(0, 1, pattern.shape[1], dtype=pattern.dtype)[:, None, None]

    def changed() -> Any:
        model.add_hook("blocks.1.attn.hook_pattern", change)
        try:
            return ls.attribute(model, PROMPT, ls.Fisher(2), layers=True)
        finally:
            model.reset_hooks()

    attribution = changed()
    assert attribution.memory.unfused == {PATTERNS_READ: [1]}
    torch.testing.assert_close(patterns[-1].sum(-1), torch.ones_like(patterns[-1][..., 0]))
    assert not torch.allclose(attribution.scores, free.scores)
    compute_all_scores(model)
    torch.testing.assert_close(attribution.scores, changed().scores, rtol=1e-12, atol=1e-12)


def test_a_hook_that_is_there_from_the_first_call_on_is_obeyed() -> None:
    """What it changes is not taken for what attention without scores would change."""
    model, other = tiny_bridges.llama_like(), tiny_bridges.llama_like()
    compute_all_scores(other)
    for one in (model, other):
        one.add_hook("blocks.1.attn.hook_pattern", lambda pattern, hook: pattern / 2)
    first, expected = (ls.attribute(one, PROMPT, ls.Temperature()) for one in (model, other))
    torch.testing.assert_close(first.scores, expected.scores, rtol=1e-12, atol=1e-12)
    assert first.memory.unfused == {PATTERNS_READ: [0, 1, 2]}
    model.reset_hooks()
    assert ls.attribute(model, PROMPT, ls.Temperature()).memory.unfused == {}


@pytest.mark.parametrize("name", ["LLaMA", "Gemma 2", "OPT", "GPT-2", "Mistral"])
def test_frozen_patterns_in_slices_get_masks_of_all_pairs(name: str, softmax_in_float64: None) -> None:
    """The way forward goes without them, and the blocks that run again need them: OPT's would see later tokens."""
    model = bridge_of(name)
    choice: dict[str, Any] = {"objective": ls.Fisher(3), "layers": True, "through": ls.Frozen("norms")}
    if name != "OPT":  # whose patterns cannot be held fixed
        choice["through"] = ls.Frozen("patterns")
    else:
        model.add_hook("blocks.1.attn.hook_pattern", lambda pattern, hook: None)
    hook_names = [name for name, _ in choice["through"].hooks(ScopedModel.of(model))]
    whole = ls.attribute(model, PROMPT, **choice)
    sliced = ls.attribute(model, PROMPT, **choice, memory=smallest(model, len(PROMPT), 2, hook_names))
    assert sliced.memory.sliced and sliced.memory.unfused == whole.memory.unfused != {}
    torch.testing.assert_close(sliced.scores, whole.scores, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(sliced.layers, whole.layers, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("build", [tiny_bridges.llama_like, tiny_bridges.gpt2_like])
def test_what_was_replaced_is_back_after_an_exception(build: Callable[[], Any]) -> None:
    model = build()
    scoped, config = ScopedModel.of(model), model.original_model.config
    ls.attribute(model, PROMPT, ls.Temperature())
    before = [set(vars(block.attn)) for block in model.blocks]
    assert config._attn_implementation == "eager"
    seen: list[str] = []

    def interrupt(*_: Any) -> None:
        seen.append(config._attn_implementation)
        raise KeyboardInterrupt

    handle = model.blocks[1].mlp.hook_out.register_forward_hook(interrupt)
    with scoped.exclusive(), pytest.raises(KeyboardInterrupt):
        trace(scoped, [PROMPT], [])
    handle.remove()
    assert seen == ["lens_scopes"] and config._attn_implementation == "eager"
    assert [set(vars(block.attn)) for block in model.blocks] == before


def test_a_bridge_that_computes_something_else_than_transformers_keeps_its_own_attention() -> None:
    """This one caps scores where Gemma 3 of Transformers does not."""
    with ScopedModel.of(model := tiny_bridges.gemma_like()).exclusive():
        assert ScopedModel.of(model).unfused_layers() == {DIFFERS: [0, 1, 2]}


def test_in_training_mode_dropout_is_left_to_the_bridge() -> None:
    model = tiny_bridges.llama_like()
    model.train()
    with ScopedModel.of(model).exclusive():
        assert ScopedModel.of(model).unfused_layers() == {TRAINING: [0, 1, 2]}
        model.eval()
        assert ScopedModel.of(model).unfused_layers() == {}


def test_a_mask_that_is_no_window_is_used_as_it_is() -> None:
    """Transformers' sdpa takes any mask; the last tokens of this one see the first, and later ones."""
    model = tiny_bridges.llama_like()
    decoder = model.original_model.model
    mask = torch.ones(1, 1, 18, 18, dtype=torch.bool).tril()
    mask[..., 2:5, 2:5] = True

    def masked(module: Any, arguments: Any, named: Any) -> Any:
        return arguments, {**named, "attention_mask": {4: None}.get(named["input_ids"].shape[1], mask)}

    with ScopedModel.of(model).exclusive():
        assert ScopedModel.of(model).unfused_layers() == {}
    with decoder.register_forward_pre_hook(masked, with_kwargs=True):
        fused = ls.attribute(model, PROMPT, ls.Fisher(2))
        compute_all_scores(model)
        expected = ls.attribute(model, PROMPT, ls.Fisher(2))
    torch.testing.assert_close(fused.scores, expected.scores, rtol=1e-6, atol=1e-6)
    assert fused.memory.unfused == {}
