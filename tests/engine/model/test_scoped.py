"""The adapter: one cache per model for as long as it lives, and the same answers for either backend."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
from bridges import bridge_of
from tiny_models import gpt2_like, llama_like

import lens_scopes as ls
from lens_scopes.engine.model import ScopedModel
from lens_scopes.errors import ModelError

IDS = [3, 7, 1, 4]


def test_adapters_of_a_model_share_one_cache_and_copies_have_their_own() -> None:
    model = gpt2_like()
    adapter = ScopedModel.of(model)
    assert ScopedModel.of(adapter) is adapter and ScopedModel.of(model).cache is adapter.cache
    assert adapter.with_matmul_dtype("bfloat16").cache is adapter.cache
    assert ScopedModel.of(copy.deepcopy(model)).cache is not adapter.cache
    assert ScopedModel.of(gpt2_like()).cache is not adapter.cache


def test_a_model_is_freed_with_its_cache() -> None:
    model = gpt2_like(dtype=torch.bfloat16)
    ls.attribute(model, IDS, ls.Fisher())
    upcast = weakref.ref(ScopedModel.of(model).unembedding().W_U)
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None and upcast() is None


def test_an_adapter_is_explained_like_its_model() -> None:
    model = llama_like()
    direct, adapted = (ls.attribute(item, IDS, ls.Fisher(2)) for item in (model, ScopedModel.of(model)))
    assert torch.equal(direct.scores, adapted.scores) and direct.model == adapted.model


def test_a_name_is_no_model() -> None:
    with pytest.raises(ModelError, match=r"load it first: ls\.load_model\('gpt2'\)"):
        ls.attribute("gpt2", IDS)  # type: ignore[arg-type]


@pytest.mark.parametrize("model", [None, 3, [], {}], ids=repr)
def test_what_cannot_be_a_model_is_refused(model: Any) -> None:
    with pytest.raises(ModelError, match="no unembedding matrix W_U"):
        ls.attribute(model, IDS)


def test_prompts_that_are_rotated_in_two_ways_do_not_run_together() -> None:
    """LongRoPE rotates every row of a batch as the longest; here from five tokens on."""
    bridge = bridge_of("Phi-3, LongRoPE")
    model = ScopedModel.of(bridge)
    assert model.long_from == 5 and ScopedModel.of(bridge_of("LLaMA")).long_from is None
    with pytest.raises(ModelError, match="prompts of 4 and 5 tokens cannot run together"), model.exclusive():
        model.run_to_final_states([[1, 2, 3, 4], [1, 2, 3, 4, 5]])
    prompts = [[1, 2, 3, 4], [1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0, 7], [9, 8]]
    together = ls.attribute_batch(bridge, prompts, ls.Fisher())
    for found, ids in zip(together, prompts, strict=True):
        alone = ls.attribute(bridge, ids, ls.Fisher()).scores
        torch.testing.assert_close(found.scores, alone, rtol=1e-5, atol=1e-6 * float(alone.max()))
