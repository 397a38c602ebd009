"""The adapter: one cache per model for as long as it lives, and the same answers for either backend."""

from __future__ import annotations

import copy
import gc
import weakref
from typing import Any

import pytest
import torch
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
