"""Matrix products in bfloat16: where they are used, where not, and what remains of the scores."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from tiny_models import TINY_MODELS, gemma_like, llama_like

import lens_scopes as ls
from lens_scopes.cli import main
from lens_scopes.engine import backward as backprop
from lens_scopes.engine.backward import trace
from lens_scopes.engine.final_state import FinalState, Unembedding
from lens_scopes.engine.model import HookedModel, ScopedModel
from lens_scopes.errors import ModelError
from lens_scopes.views.words.pages.parts.memory import memory_words

IDS = [3, 7, 1, 7, 4, 9, 2]


@pytest.mark.parametrize("builder", TINY_MODELS.values(), ids=TINY_MODELS)
def test_scores_keep_their_values_nearly(builder: Any) -> None:
    model = builder(dtype=torch.float32)
    for objective in (ls.Temperature(), ls.Fisher(rank=2)):
        own = ls.attribute(model, IDS, objective, layers=True)
        rounded = ls.attribute(model, IDS, objective, layers=True, matmul_dtype="bfloat16")
        assert own.layers is not None and rounded.layers is not None
        assert own.scores.dtype == rounded.scores.dtype == torch.float32
        assert not torch.equal(own.scores, rounded.scores), "the products were rounded"
        assert float((own.scores - rounded.scores).norm() / own.scores.norm()) < 0.1
        assert float((own.layers - rounded.layers).norm() / own.layers.norm()) < 0.1


def test_only_the_body_is_rounded() -> None:
    """Final states, logits and F are float32 products of what the body gives."""
    model = llama_like(dtype=torch.float32)
    rounded = ScopedModel.of(model).with_matmul_dtype("bfloat16")
    traced = trace(rounded, [IDS], ["blocks.1.hook_resid_pre"])
    assert traced.final_states.dtype == torch.float32
    assert traced.activations["blocks.1.hook_resid_pre"].dtype == torch.float32, "the residual stream is not rounded"
    att = ls.attribute(model, IDS, ls.Fisher(), matmul_dtype="bfloat16")
    state = FinalState(traced.final_states[0].detach(), ScopedModel.of(model).unembedding())
    assert att.prediction.entropy == pytest.approx(state.entropy, rel=1e-6)
    assert att.details is not None and att.details.eigenvalues == pytest.approx(
        ls.Fisher().directions(state).weights.tolist(), rel=1e-5
    )


def test_the_choice_ends_with_the_call_and_is_recorded() -> None:
    model = llama_like(dtype=torch.float32)
    before = ls.attribute(model, IDS, "temperature")
    rounded = ls.attribute(model, IDS, "temperature", matmul_dtype="bfloat16")
    after = ls.attribute(model, IDS, "temperature")
    assert torch.equal(before.scores, after.scores)
    assert [item.settings["matmul_dtype"] for item in (before, rounded)] == [None, "bfloat16"]


def test_slices_batches_and_matrices_round_alike() -> None:
    model = gemma_like(dtype=torch.float32)
    rounded = ls.attribute(model, IDS, "temperature", matmul_dtype="bfloat16").scores
    batch = ls.attribute_batch(model, [IDS, IDS[:4]], "temperature", matmul_dtype="bfloat16")
    matrix = ls.attribute_all(model, IDS, "temperature", matmul_dtype="bfloat16")
    assert matrix.settings["matmul_dtype"] == "bfloat16"
    torch.testing.assert_close(batch[0].scores, rounded, rtol=0.05, atol=0.02 * float(rounded.max()))
    torch.testing.assert_close(matrix.matrix[-1], rounded, rtol=0.05, atol=0.02 * float(rounded.max()))
    sliced = ls.attribute(model, IDS, "temperature", matmul_dtype="bfloat16", memory="17KB")
    assert "at a time" in memory_words(sliced.memory)
    torch.testing.assert_close(sliced.scores, rounded, rtol=1e-5, atol=0)


@pytest.mark.parametrize("builder", TINY_MODELS.values(), ids=TINY_MODELS)
def test_heads_and_modes_round_too(builder: Any) -> None:
    model = builder(dtype=torch.float32)
    exact, rounded = (
        ls.inspect_heads(model, IDS, "temperature", verify=2, matmul_dtype=dtype) for dtype in (None, "bfloat16")
    )
    assert [item.settings["matmul_dtype"] for item in (exact, rounded)] == [None, "bfloat16"]
    for name in ("effect", "direct_effect", "by_source", "norms"):
        values, near = getattr(exact, name), getattr(rounded, name)
        assert values.dtype == near.dtype == torch.float32
        assert not torch.equal(values, near), f"{name}: the products were rounded"
        assert float((values - near).norm() / values.norm()) < 0.1
    assert exact.ablations[0].actual != rounded.ablations[0].actual
    modes = [ls.inspect_modes(model, IDS, rank=2, matmul_dtype=dtype) for dtype in (None, "bfloat16")]
    assert [item.settings["matmul_dtype"] for item in modes] == [None, "bfloat16"]
    amounts = [torch.tensor([item.amounts for item in result.replacements]) for result in modes]
    assert not torch.equal(*amounts)
    assert float((amounts[0].abs() - amounts[1].abs()).norm() / amounts[0].norm()) < 0.1


def test_other_products_are_refused() -> None:
    with pytest.raises(ModelError, match="bfloat16"):
        ls.attribute(llama_like(), IDS, "temperature", matmul_dtype="float16")  # pyright: ignore[reportArgumentType]


def test_the_command_line_refuses_them_before_loading_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(["attribute", "text", "--matmul-dtype", "float16", "--model", "gpt2"])
    assert exit.value.code == 2 and "matmul_dtype is None" in capsys.readouterr().err


@pytest.mark.gemma
def test_ranks_agree_on_the_embedded_model(gemma: Any) -> None:
    text = "German: Der Hund schläft auf dem Sofa. English: The dog sleeps on the"
    for objective in ("temperature", "fisher"):
        own = ls.attribute(gemma, text, objective).scores[1:]
        rounded = ls.attribute(gemma, text, objective, matmul_dtype="bfloat16").scores[1:]
        assert spearmanr(own, rounded).statistic > 0.98


# The last MLP at the positions read alone


@pytest.fixture
def noted(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each forward pass dropped positions before the last MLP."""
    found: list[bool] = []
    decide = HookedModel._reads_early
    monkeypatch.setattr(HookedModel, "_reads_early", lambda *args: (found.append(decide(*args)), found[-1])[1])
    return found


def test_positions_that_nobody_reads_skip_the_last_mlp(tiny: Any, noted: list[bool], monkeypatch: Any) -> None:
    last = tiny.cfg.n_layers - 1
    sites = [f"blocks.{last}.hook_resid_pre", f"blocks.{last}.attn.hook_z", "blocks.0.hook_resid_post"]
    short = ls.attribute(tiny, IDS, "temperature", sites=sites)
    assert noted == [f"blocks.{last}.hook_resid_mid" in tiny.hook_dict]
    monkeypatch.setattr(HookedModel, "_reads_early", lambda *args: False)
    whole = ls.attribute(tiny, IDS, "temperature", sites=sites)
    torch.testing.assert_close(short.scores, whole.scores, rtol=1e-12, atol=0)
    for name, values in whole.sites.items():
        assert short.sites[name].shape == values.shape
        torch.testing.assert_close(short.sites[name], values, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["mlp.hook_post", "hook_mlp_out", "hook_resid_post", "ln2.hook_scale"])
def test_whoever_listens_there_sees_every_position(name: str, noted: list[bool]) -> None:
    model = llama_like()
    full = f"blocks.{model.cfg.n_layers - 1}.{name}"
    free = ls.attribute(model, IDS, "temperature").scores
    seen = []
    with model.hooks(fwd_hooks=[(full, lambda activation, hook: seen.append(activation.shape[1]))]):
        heard = ls.attribute(model, IDS, "temperature").scores
    assert seen == [len(IDS)] and noted == [True, False]
    torch.testing.assert_close(heard, free, rtol=1e-12, atol=0)
    site = ls.attribute(model, IDS, "temperature", sites=[full]).sites[full]
    assert site.shape[0] == len(IDS) and bool(site[-1].any()) and noted[-1] is False


def test_the_middle_of_the_last_block_is_read_in_full(noted: list[bool]) -> None:
    model = llama_like()
    name = f"blocks.{model.cfg.n_layers - 1}.hook_resid_mid"
    site = ls.attribute(model, IDS, "temperature", sites=[name]).sites[name]
    assert noted == [True] and site.shape == (len(IDS),)
    assert bool(site[-1] > 0) and not bool(site[:-1].any()), "after the last attention tokens no longer meet"


# Several directions in one backward pass


@pytest.mark.parametrize("through", [None, ls.Frozen("patterns", "norms", "gates"), ls.Heads("L0H1")], ids=str)
def test_directions_taken_together_give_what_single_ones_give(
    tiny: Any, through: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = dict(layers=True, sites=["hook_z"], through=through)
    together = ls.attribute(tiny, IDS, ls.Fisher("trace", samples=3, exact=4), **settings)
    monkeypatch.setattr(backprop, "BATCH_LIMIT", 3 * len(IDS))
    some = ls.attribute(tiny, IDS, ls.Fisher("trace", samples=3, exact=4), **settings)
    monkeypatch.setattr(backprop, "BATCH_LIMIT", 0)
    alone = ls.attribute(tiny, IDS, ls.Fisher("trace", samples=3, exact=4), **settings)
    for found in (together, some):
        torch.testing.assert_close(found.scores, alone.scores, rtol=1e-10, atol=0)
        torch.testing.assert_close(found.layers, alone.layers, rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(found.standard_error, alone.standard_error, rtol=1e-10, atol=0)
        for name, values in alone.sites.items():
            torch.testing.assert_close(found.sites[name], values, rtol=1e-10, atol=1e-14)


# Logits of several final states at once


def test_several_final_states_have_the_logits_of_single_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    head = Unembedding(*(torch.randn(*shape, generator=generator) for shape in ((12, 60), (60,))), soft_cap=3.0)
    ys = torch.randn(4, 12, generator=generator)
    for state, y, target in zip(FinalState.several(ys, head, [1, None, 3, 4]), ys, [1, None, 3, 4], strict=True):
        assert "pre_logits" in vars(state) and state.target == target
        torch.testing.assert_close(state.logits, FinalState(y, head).logits)
