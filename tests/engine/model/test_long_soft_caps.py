"""Gemma 2's soft-capped scores on text many times as long as its window: in blocks of queries, the same on both
backends, and without any matrix of all pairs of tokens."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import architectures
import pytest
import torch
import transformers
from bridges import gradients
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import lens_scopes as ls
from lens_scopes.engine import attention as blocks
from lens_scopes.engine.backward import trace, trace_in_slices
from lens_scopes.engine.model import ScopedModel
from lens_scopes.engine.model.bridge_attention import ONE_FORM, LayerAttention
from lens_scopes.engine.prefix_cache import PromptPrefix

LENGTH, WINDOW, CAP = 600, 32, 2.0
PROMPT = torch.randint(1, 48, (LENGTH,), generator=torch.Generator().manual_seed(0)).tolist()
SITES = [f"blocks.{layer}.{site}" for layer in range(3) for site in ("hook_resid_pre", "attn.hook_z")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three layers, of which the first and the last see 32 tokens, with scores several times the soft-cap."""
    path: Path = tmp_path_factory.mktemp("gemma-2") / "tiny"
    sizes = architectures._grouped(head_dim=8, num_hidden_layers=3, max_position_embeddings=1024)
    config = transformers.Gemma2Config(
        **sizes,
        sliding_window=WINDOW,
        query_pre_attn_scalar=8,
        attn_logit_softcapping=CAP,
        final_logit_softcapping=4.0,
    )
    model, generator = transformers.Gemma2ForCausalLM(config), torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(path)
    return path


@pytest.fixture(params=architectures.BACKENDS)
def model(request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Softmax in float64, which bridges and Transformers compute in float32 whatever the weights are."""
    softmax = torch.nn.functional.softmax
    wide = lambda values, dim, dtype=None, **_: softmax(values, dim=dim)  # noqa: E731
    monkeypatch.setattr(torch.nn.functional, "softmax", wide)
    return ls.load_model(folder, backend=request.param, dtype="float64")


@contextmanager
def all_scores(model: Any) -> Iterator[None]:
    """As if attention had no other form."""
    scoped = ScopedModel.of(model)
    with pytest.MonkeyPatch.context() as patch:
        if scoped.backend == "hooked":
            patch.setattr(blocks, "obstacle", lambda _: ONE_FORM)
        else:
            patch.setattr(scoped.cache, "attention", (LayerAttention(ONE_FORM),) * scoped.n_layers)
        yield


class LargestOfAllPairs(TorchDispatchMode):
    """The largest entry, in bytes, of tensors that hold something for each pair of tokens; forward and back."""

    bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple | list) else [result]:
            if isinstance(part, Tensor) and part.numel() >= LENGTH**2:
                self.bytes = max(self.bytes, part.dtype.itemsize)
        return result


def test_blocks_slices_batches_and_prefixes_give_what_all_scores_give(model: Any) -> None:
    scoped = ScopedModel.of(model)
    prompts = [PROMPT[:70], PROMPT, PROMPT[300:]]
    with scoped.exclusive():
        assert scoped.unfused_layers() == {}
        traced = [trace(scoped, prompts, SITES), trace_in_slices(scoped, prompts, SITES, layers_at_once=1)]
        found = [(one.final_states.detach(), gradients(one)) for one in traced]
        prefixed = PromptPrefix.start(scoped, PROMPT)
        assert prefixed is not None
        resumed = prefixed.final_states(450, 2, [])
        with all_scores(model):
            whole = trace(scoped, prompts, SITES)
            states, expected = whole.final_states.detach(), gradients(whole)
    torch.testing.assert_close(resumed, states[1].expand_as(resumed), rtol=1e-12, atol=1e-12)
    for own_states, by_site in found:
        torch.testing.assert_close(own_states, states, rtol=1e-12, atol=1e-12)
        assert by_site.keys() == expected.keys() and len(expected) == 3 * (1 + len(SITES))
        for key, gradient in expected.items():
            floor = 1e-12 * float(gradient.abs().max())
            torch.testing.assert_close(by_site[key], gradient, rtol=1e-12, atol=floor, msg=lambda m, k=key: f"{k}: {m}")


def test_no_matrix_of_all_pairs_is_made_and_the_cap_matters(model: Any) -> None:
    """But for a bridge's masks of a window, of one byte for each pair."""
    ask = lambda: ls.attribute(model, PROMPT, ls.Fisher(2), layers=True)  # noqa: E731
    capped = ask()
    with LargestOfAllPairs() as pairs:
        again = ask()
    assert again.memory is not None and again.memory.unfused == {} and torch.equal(again.scores, capped.scores)
    assert pairs.bytes <= (1 if ScopedModel.of(model).backend == "bridge" else 0)
    with all_scores(model), LargestOfAllPairs() as pairs:
        expected = ask()
    assert pairs.bytes == 8
    torch.testing.assert_close(capped.scores, expected.scores, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(capped.layers, expected.layers, rtol=1e-9, atol=1e-12)
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        if ScopedModel.of(model).backend == "hooked":
            for block in model.blocks:
                patch.setattr(block.attn.cfg, "attn_scores_soft_cap", -1.0)
        else:
            for block in model.blocks:
                patch.setattr(block.attn.original_component, "attn_logit_softcapping", None)
        assert not torch.allclose(ask().scores, capped.scores, rtol=1e-2)


def test_both_backends_agree(folder: Path) -> None:
    if len(architectures.BACKENDS) < 2:
        pytest.skip("transformer-lens 4 has no HookedTransformer")
    models = [ls.load_model(folder, backend=backend, dtype="float64") for backend in architectures.BACKENDS]
    hooked, bridge = (ls.attribute(model, PROMPT, ls.Temperature(), layers=True).layers for model in models)
    assert hooked is not None
    torch.testing.assert_close(bridge, hooked, rtol=2e-4, atol=1e-5 * float(hooked.max()))
