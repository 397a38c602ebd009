"""Attention in tiles gives what scores and patterns give: against a literal softmax, on every architecture, with
slices, batches and shared prefixes; whoever listens to patterns sees them, and modules are as they were afterwards."""

import math
from contextlib import nullcontext
from typing import Any

import architectures
import pytest
import torch
from budgets import smallest
from tiny_models import TINY_MODELS, gemma_like, random_transformer
from torch import Tensor

import lens_scopes as ls
from lens_scopes.engine import attention
from lens_scopes.engine.attention import Scoring, attend
from lens_scopes.engine.model import ScopedModel
from lens_scopes.engine.prefix_cache import PromptPrefix
from lens_scopes.errors import LensScopesError

EXACT: Any = {"rtol": 1e-12, "atol": 1e-13}
IDS = [3, 7, 1, 7, 4, 9, 2, 8, 8, 5, 0]
PATTERNS = "blocks.{}.attn.hook_pattern"


@pytest.fixture(autouse=True)
def tiles_of_three_queries(monkeypatch):
    monkeypatch.setattr(attention, "_TILE", (3, 7))


@pytest.fixture
def fused_calls(monkeypatch) -> list[Scoring]:
    """What was computed in tiles."""
    calls: list[Scoring] = []

    def counting(q: Tensor, k: Tensor, v: Tensor, scoring: Scoring) -> Tensor:
        calls.append(scoring)
        return attend(q, k, v, scoring)

    monkeypatch.setattr(attention, "attend", counting)
    return calls


def literal(q: Tensor, k: Tensor, v: Tensor, scoring: Scoring) -> Tensor:
    """z by the whole matrix of scores."""
    n, heads, m = q.shape[1], q.shape[2], k.shape[1]
    k, v = (values.repeat_interleave(heads // values.shape[2], 2) for values in (k, v))
    scores = torch.einsum("bnhd,bmhd->bhnm", q, k) / scoring.scale
    if scoring.soft_cap is not None:
        scores = scoring.soft_cap * torch.tanh(scores / scoring.soft_cap)
    ahead = torch.arange(m) - torch.arange(m - n, m)[:, None]
    if scoring.slopes is not None:
        scores = scores + scoring.slopes[:, None, None] * ahead.clamp(max=0)
    hidden = ahead > 0 if scoring.window is None else (ahead > 0) | (ahead <= -scoring.window)
    scores = scores.masked_fill(hidden, -math.inf)
    if scoring.sinks is not None:
        scores = torch.cat([scores, scoring.sinks[None, :, None, None].expand(*scores.shape[:3], 1)], -1)
    return torch.einsum("bhnm,bmhd->bnhd", scores.softmax(-1)[..., :m], v)


def draws(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype) for shape in shapes]


SCORINGS = {
    "plain": Scoring(2.0),
    "window": Scoring(window=4),
    "window of one": Scoring(window=1),
    "soft cap": Scoring(soft_cap=1.5),
    "ALiBi": Scoring(slopes=torch.tensor([0.5, 0.25, 0.1, 0.7, 2.0, 0.0])),
    "sinks": Scoring(sinks=torch.tensor([0.1, -3.0, 40.0, 1.0, 0.0, 800.0], dtype=torch.float64)),
    "all": Scoring(0.5, 5, 2.0, torch.full((6,), 0.125), torch.ones(6, dtype=torch.float64)),
}


@pytest.mark.parametrize("scoring", SCORINGS.values(), ids=SCORINGS)
@pytest.mark.parametrize("lengths", [(1, 1), (3, 3), (11, 11), (4, 9), (1, 12)], ids=str)
@pytest.mark.parametrize("kv", [1, 2, 6])
def test_tiles_give_the_literal_softmax_and_its_gradients(scoring, lengths, kv):
    """`lengths` counts queries and keys: the queries are the last positions. Directions come alone and together."""
    n, m = lengths
    leaves = [values.requires_grad_() for values in draws((2, n, 6, 5), (2, m, kv, 5), (2, m, kv, 5))]
    z, expected = attend(*leaves, scoring), literal(*leaves, scoring)
    torch.testing.assert_close(z, expected, **EXACT)
    directions = draws((3, *z.shape))[0]
    for vectors, batched in ((directions[0], False), (directions, True)):
        gradients = torch.autograd.grad(z, leaves, vectors, retain_graph=True, is_grads_batched=batched)
        wanted = torch.autograd.grad(expected, leaves, vectors, retain_graph=True, is_grads_batched=batched)
        for gradient, reference in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(gradient, reference, **EXACT)


@pytest.mark.parametrize("width", [7, 1000])
@pytest.mark.parametrize("window", [None, 9])
def test_products_of_a_long_text_have_few_shapes(monkeypatch, window, width):
    """oneDNN keeps a kernel for each; tiles that hold all the keys at once would have one for every block."""
    shapes, times = set(), attention._times
    monkeypatch.setattr(attention, "_TILE", (3, width))
    monkeypatch.setattr(attention, "_times", lambda *pair: shapes.add(tuple(one.shape for one in pair)) or times(*pair))
    leaves = [values.requires_grad_() for values in draws((1, 400, 2, 4), (1, 400, 1, 4), (1, 400, 1, 4))]
    torch.autograd.grad(attend(*leaves, Scoring(window=window)).sum(), leaves)
    assert (len(shapes) < 20) == (width == 7 or window is not None)


@pytest.mark.parametrize("length", [5, 30])
def test_what_comes_out_may_be_changed_in_place(length):
    """As a hook on z does; seven keys at a time."""
    leaves = [values.requires_grad_() for values in draws((1, length, 4, 5), (1, length, 2, 5), (1, length, 2, 5))]
    gradients, expected = (
        torch.autograd.grad(attention(*leaves, Scoring()).mul_(2).square().sum(), leaves)
        for attention in (attend, literal)
    )
    for gradient, reference in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, reference, **EXACT)


def test_pytorchs_kernel_gives_the_same():
    """It runs on accelerators; here it is called by name."""
    leaves = [values.requires_grad_() for values in draws((2, 9, 6, 4), (2, 9, 2, 4), (2, 9, 2, 4))]
    z, expected = attention._by_kernel(*leaves, 2.0), attend(*leaves, Scoring(2.0))
    torch.testing.assert_close(z, expected, **EXACT)
    for one, other in zip(
        *(torch.autograd.grad(values.square().sum(), leaves) for values in (z, expected)), strict=True
    ):
        torch.testing.assert_close(one, other, **EXACT)


def test_low_precision_keeps_scores_in_float32():
    shapes = (1, 40, 4, 8), (1, 40, 2, 8), (1, 40, 2, 8)
    low = [values.requires_grad_() for values in draws(*shapes, dtype=torch.bfloat16)]
    high = [values.detach().double().requires_grad_() for values in low]
    z, expected = attend(*low, Scoring(2.0, 7)), literal(*high, Scoring(2.0, 7))
    assert z.dtype == torch.bfloat16
    torch.testing.assert_close(z.double(), expected, rtol=0.02, atol=0.02)
    pairs = zip(torch.autograd.grad(z.sum(), low), torch.autograd.grad(expected.sum(), high), strict=True)
    for gradient, reference in pairs:
        assert gradient.dtype == torch.bfloat16
        torch.testing.assert_close(gradient.double(), reference, rtol=0.05, atol=0.05)


def alibi(seed: int = 0) -> Any:
    """Four heads: their slopes are powers of two. TransformerLens rounds biases to float32, shifted by some positions
    after a longer prompt, so that others would differ in their last digits."""
    sizes = dict(n_layers=2, d_model=16, d_head=4, n_heads=4, d_mlp=24, act_fn="gelu", normalization_type="LN")
    return random_transformer(seed, torch.float64, positional_embedding_type="alibi", **sizes)


def with_sinks(seed: int = 0) -> Any:
    sizes = dict(n_layers=2, d_model=16, d_head=4, n_heads=4, n_key_value_heads=2, d_mlp=24, act_fn="silu")
    model = random_transformer(
        seed, torch.float64, **sizes, normalization_type="RMS", gated_mlp=True, positional_embedding_type="rotary",
        use_attention_sinks=True, use_local_attn=True, window_size=4, attn_types=["local", "global"],
    )  # fmt: skip
    for block in model.blocks:
        block.attn.sinks.data.normal_(generator=torch.Generator().manual_seed(seed))
    return model


def listening(model: Any, *layers: int, name: str = PATTERNS) -> Any:
    """Reads patterns of some layers, or all: those layers compute them."""
    layers = layers or tuple(range(model.cfg.n_layers))
    return model.hooks(fwd_hooks=[(name.format(layer), lambda pattern, hook: None) for layer in layers])


def assert_same(one: Any, other: Any) -> None:
    for values, wanted in ((one.scores, other.scores), (one.layers, other.layers)):
        torch.testing.assert_close(values, wanted, rtol=1e-12, atol=1e-12 * float(wanted.abs().max()))


def ask(model: Any, ids: list[int] = IDS, **settings: Any) -> Any:
    return ls.attribute(model, ids, ls.Fisher(2), layers=True, **settings)


def check_everything(model: Any) -> None:
    """The scores of blocks and of patterns: whole, in slices, from some layers' patterns, for one token, in a batch
    with padding, along paths, and of prompts that share a prefix."""
    n_layers = model.cfg.n_layers
    with listening(model):
        expected, single = ask(model), ask(model, IDS[:1])
        short = ask(model, IDS[:4])
        frozen, some = ask(model, through=ls.Frozen("norms")), ask(model, through=ls.Layers(0))
        left_out = ls.attribute(model, IDS, ls.LeaveOneOut("kl", ablation="zero")).scores
    assert sum(expected.memory.unfused.values(), []) == list(range(n_layers))
    whole = ask(model)
    assert whole.memory.unfused == {}
    assert_same(whole, expected)
    assert_same(ask(model, memory=smallest(model, len(IDS), n_layers)), expected)
    assert_same(ask(model, IDS[:1]), single)
    assert_same(ask(model, through=ls.Frozen("norms")), frozen)
    assert_same(ask(model, through=ls.Layers(0)), some)
    with listening(model, n_layers - 1):
        mixed = ask(model)
    assert_same(mixed, expected)
    assert mixed.memory.unfused == {attention.PATTERNS_READ: [n_layers - 1]}
    batch = ls.attribute_batch(model, [IDS[:4], IDS], ls.Fisher(2), layers=True)
    assert_same(batch[0], short)
    assert_same(batch[1], expected)
    torch.testing.assert_close(
        ls.attribute(model, IDS, ls.LeaveOneOut("kl", ablation="zero")).scores, left_out, rtol=1e-9, atol=1e-13
    )


def test_scores_are_those_of_patterns(tiny, fused_calls):
    check_everything(tiny)
    assert fused_calls


@pytest.mark.parametrize("builder", [alibi, with_sinks])
def test_biases_and_sinks(builder, fused_calls):
    check_everything(builder())
    assert any(scoring.slopes is not None or scoring.sinks is not None for scoring in fused_calls)


@pytest.mark.parametrize("name", architectures.CONFIGS)
def test_every_architecture(name, fused_calls):
    with architectures.loaded(name) as (_, models):
        model = models.get("hooked", "")
        if isinstance(model, str):
            pytest.skip("HookedTransformer is refused")
        with listening(model):
            expected = ask(model, architectures.IDS)
        fused_calls.clear()
        fused = ask(model, architectures.IDS)
        assert_same(fused, expected)
        assert_same(
            ask(model, architectures.IDS, memory=smallest(model, len(architectures.IDS), model.cfg.n_layers)), expected
        )
        assert len(fused_calls) == 4 * model.cfg.n_layers - 1 or fused_calls, name
        assert fused.memory.unfused == {}


@pytest.mark.parametrize("builder", TINY_MODELS.values(), ids=TINY_MODELS)
def test_float32(builder):
    model = builder(dtype=torch.float32)
    with listening(model):
        expected = ask(model)
    torch.testing.assert_close(ask(model).scores, expected.scores, rtol=1e-5, atol=1e-6 * float(expected.scores.max()))


def test_frozen_patterns_need_them(tiny, fused_calls):
    frozen = ask(tiny, through=ls.Frozen("patterns"))
    assert frozen.memory.unfused == {attention.PATTERNS_READ: list(range(tiny.cfg.n_layers))} and not fused_calls
    assert not torch.allclose(frozen.scores, ask(tiny).scores)


@pytest.mark.parametrize("name", ["blocks.{}.attn.hook_pattern", "blocks.{}.attn.hook_attn_scores"])
@pytest.mark.parametrize("direction", ["fwd_hooks", "bwd_hooks"])
def test_the_users_own_hooks_see_whole_patterns(tiny, name, direction):
    seen = []
    with tiny.hooks(**{direction: [(name.format(1), lambda values, hook: seen.append(values.shape))]}):
        ask(tiny)
    assert seen and all(shape[-2:] == (len(IDS), len(IDS)) for shape in seen)
    assert tiny.cfg.n_heads == seen[0][1]


def test_the_users_own_hooks_change_patterns(tiny):
    def first_only(pattern: Tensor, hook: Any) -> Tensor:
        return torch.zeros_like(pattern).index_fill(-1, torch.tensor([0]), 1.0)

    with tiny.hooks(fwd_hooks=[(PATTERNS.format(layer), first_only) for layer in range(tiny.cfg.n_layers)]):
        changed = ask(tiny)
    assert not changed.scores[1:-1].any() and changed.scores[0] > 0


def test_a_hook_that_comes_during_the_call_is_served(tiny):
    """The forward pass of the first layer adds a hook to the second one's pattern."""
    seen = []

    def add(activation: Tensor, hook: Any) -> None:
        tiny.blocks[1].attn.hook_pattern.add_hook(lambda pattern, hook: seen.append(pattern.shape[-1]))

    with tiny.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", add)]):
        ask(tiny)
    tiny.reset_hooks()
    assert seen and set(seen) == {len(IDS)}


def test_modules_are_as_before_also_after_an_exception(tiny):
    before = [dict(vars(block.attn)) for block in tiny.blocks]

    def fail(z: Tensor, hook: Any) -> None:
        assert "calculate_z_scores" in vars(tiny.blocks[1].attn)
        raise LensScopesError("stop")

    for hooks in ([], [("blocks.1.attn.hook_z", fail)]):
        with tiny.hooks(fwd_hooks=hooks), pytest.raises(LensScopesError, match="stop") if hooks else nullcontext():
            ask(tiny)
        assert [set(vars(block.attn)) for block in tiny.blocks] == [set(names) for names in before]
        assert tiny.blocks[1].attn.calculate_z_scores.__func__ is type(tiny.blocks[1].attn).calculate_z_scores
    with listening(tiny):
        assert tiny(torch.tensor([IDS])).isfinite().all()


def test_what_cannot_be_fused_says_so(fused_calls):
    tiny = gemma_like()
    model, expected = ScopedModel.of(tiny), ask(tiny)

    class Other(type(tiny.blocks[0].attn)):
        pass

    tiny.blocks[0].attn.__class__ = Other
    own = tiny.blocks[1].attn.calculate_z_scores
    tiny.blocks[1].attn.calculate_z_scores = own
    fused_calls.clear()
    attribution = ask(tiny)
    assert attribution.memory.unfused == {attention.FOREIGN_CLASS: [0, 1]}
    assert len(fused_calls) == tiny.cfg.n_layers - 2
    assert tiny.blocks[1].attn.calculate_z_scores is own, "the user's own method stays"
    assert_same(attribution, expected)
    tiny.blocks[-1]._compiled_call_impl = lambda *arguments: None
    tiny.blocks[-1].attn._attention_dir_override = "bidirectional"
    assert model.unfused_layers()[attention.COMPILED] == [tiny.cfg.n_layers - 1]
    tiny.blocks[-1]._compiled_call_impl = None
    assert model.unfused_layers()[attention.NOT_CAUSAL] == [tiny.cfg.n_layers - 1]


def test_prefixes_are_shared_in_tiles(tiny, fused_calls):
    """Queries of the last positions against the keys of all."""
    prefixed = PromptPrefix.start(ScopedModel.of(tiny), IDS)
    assert prefixed is not None
    states = prefixed.final_states(5, 2, [])
    assert len(fused_calls) == 2 * tiny.cfg.n_layers
    torch.testing.assert_close(states, prefixed.own_states[None].expand_as(states), rtol=1e-12, atol=1e-12)
