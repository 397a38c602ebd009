"""Forward to the final state and back to the sites; and the model is afterwards as it was before."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import reference
import torch
from tiny_models import TINY_MODELS, gemma_like, gpt2_like, llama_like
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from torch.testing import assert_close
from transformers import PreTrainedTokenizerFast

import lens_scopes as ls
from lens_scopes.engine.backward import trace, trace_in_slices
from lens_scopes.engine.model import ScopedModel
from lens_scopes.engine.scoring import Directions, score
from lens_scopes.errors import ModelError, NumericsError
from lens_scopes.scopes.readouts import Readout

IDS = [3, 17, 0, 8, 22, 3]
BATCH = [IDS, [7, 1], [5], [22, 21, 20, 19]]


@pytest.fixture(params=TINY_MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    return TINY_MODELS[request.param]()


# The trace


def test_a_trace_holds_the_final_state_of_every_row(model: Any) -> None:
    sites = [f"blocks.{layer}.hook_resid_post" for layer in range(model.cfg.n_layers)]
    traced = trace(ScopedModel.of(model), BATCH, sites)
    assert list(traced.activations) == ["hook_embed", *sites]
    assert traced.token_mask.sum(1).tolist() == [len(ids) for ids in BATCH]
    for row, ids in enumerate(BATCH):
        assert bool(traced.token_mask[row, : len(ids)].all()) and not bool(traced.token_mask[row, len(ids) :].any())
        assert_close(traced.final_states[row], reference.state_of(model, ids), rtol=1e-11, atol=1e-12)
        for site, activation in traced.activations.items():
            expected = reference.site_activation(model, ids, site)
            assert_close(activation[row, : len(ids)], expected, rtol=1e-11, atol=1e-12)


def test_final_states_can_be_read_at_other_positions(model: Any) -> None:
    reads = [(0, 1), (3, 2), (0, 5), (1, 0)]
    traced = trace(ScopedModel.of(model), BATCH, [], reads=reads)
    expected = torch.stack([reference.state_of(model, BATCH[row], position) for row, position in reads])
    assert_close(traced.final_states, expected, rtol=1e-11, atol=1e-12)


def test_gradients_are_rows_of_the_jacobian_and_zero_on_padding(model: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(len(BATCH), model.cfg.d_model, generator=generator, dtype=torch.float64)
    traced = trace(ScopedModel.of(model), BATCH, ["blocks.1.hook_resid_pre"])
    for _ in range(2):  # the graph is kept while it is needed
        gradients = traced.gradients(vectors, keep_graph=True)
    for site, gradient in gradients.items():
        for row, ids in enumerate(BATCH):
            expected = torch.einsum("o,tod->td", vectors[row], reference.jacobian(model, ids, site_name=site))
            assert_close(gradient[row, : len(ids)], expected, rtol=1e-9, atol=1e-12)
            assert bool((gradient[row, len(ids) :] == 0).all())


def test_what_tokens_pad_a_row_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are padded with token 0: with another embedding for it, rows that do not hold it stay as they were."""
    model = gpt2_like()
    prompts = [[3, 17, 8, 22, 3], [7, 1]]
    before = trace(ScopedModel.of(model), prompts, [])
    model.embed.W_E.data[0] = 100.0
    after = trace(ScopedModel.of(model), prompts, [])
    assert torch.equal(before.final_states, after.final_states)
    vectors = torch.ones_like(before.final_states)
    one, two = (traced.gradients(vectors, keep_graph=False)["hook_embed"] for traced in (before, after))
    assert torch.equal(one, two)


def test_a_path_hook_cuts_gradients_and_leaves_the_forward_pass() -> None:
    model = llama_like()
    cut = [(f"blocks.{layer}.hook_attn_out", lambda activation: activation.detach()) for layer in range(3)]
    free, held = trace(ScopedModel.of(model), [IDS], []), trace(ScopedModel.of(model), [IDS], [], cut)
    assert torch.equal(free.final_states, held.final_states)
    vectors = torch.ones_like(free.final_states)
    everywhere = free.gradients(vectors, keep_graph=False)["hook_embed"][0]
    own_token = held.gradients(vectors, keep_graph=False)["hook_embed"][0]
    assert bool((everywhere != 0).all())
    assert bool((own_token[:-1] == 0).all()) and bool((own_token[-1] != 0).all())


def test_a_site_that_does_not_reach_the_final_state_has_zero_gradient() -> None:
    model = gpt2_like()
    cut = [("ln_final.hook_normalized", lambda activation: activation.detach().requires_grad_(True))]
    gradients = trace(ScopedModel.of(model), [IDS], ["blocks.0.hook_resid_post"], cut).gradients(
        torch.ones(1, 16, dtype=torch.float64), keep_graph=False
    )
    assert [bool((gradient == 0).all()) for gradient in gradients.values()] == [True, True]


def test_a_hook_that_the_forward_pass_does_not_call_is_refused() -> None:
    with pytest.raises(ls.LensScopesError, match=r"blocks\.0\.attn\.hook_result"):
        trace(ScopedModel.of(gpt2_like()), [IDS], ["blocks.0.attn.hook_result"])


# Scores of directions


def directions(count: int, sampled: int = 0, squared: bool = True, seed: int = 0) -> Directions:
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(count, 16, generator=generator, dtype=torch.float64)
    weights = torch.rand(count, generator=generator, dtype=torch.float64)
    if sampled:
        weights[count - sampled :] = 1 / sampled
    return Directions(vectors, weights, squared=squared, sampled=sampled)


def norm(name: str, gradient: Tensor, activation: Tensor) -> Tensor:
    return gradient.norm(dim=-1)


def test_scores_add_up_weighted_squares_and_their_standard_error() -> None:
    """Σ w a², and for the sampled rows std(a²)/√n; a single direction gives √w a."""
    model = gpt2_like()
    one = directions(1, squared=False, seed=2)
    sets = [directions(5, sampled=3), directions(2, seed=1), one, directions(4, sampled=4, seed=3)]
    steps: list[tuple[int, int]] = []
    found = score(
        trace(ScopedModel.of(model), BATCH, []),
        sets,
        norm,
        lambda done, total: steps.append((done, total)),
    )["hook_embed"]
    assert found.standard_error is not None
    assert steps == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    for row, (ids, item) in enumerate(zip(BATCH, sets, strict=True)):
        J = reference.jacobian(model, ids)
        squares = torch.einsum("ko,tod->ktd", item.vectors, J).square().sum(-1)
        expected = item.weights @ squares if item.squared else (item.weights[0] * squares[0]).sqrt()
        assert_close(found.scores[row, : len(ids)], expected, rtol=1e-9, atol=1e-12)
        if item.sampled:
            spread = squares[-item.sampled :].std(0) / item.sampled**0.5
            assert_close(found.standard_error[row, : len(ids)], spread, rtol=1e-8, atol=1e-12)


def test_without_samples_there_is_no_standard_error() -> None:
    found = score(trace(ScopedModel.of(gpt2_like()), [IDS], []), [directions(3)], norm)["hook_embed"]
    assert found.standard_error is None


# Slices


@pytest.mark.parametrize("layers_at_once", [1, 2, 3, 99])
def test_slices_of_layers_give_the_gradients_of_the_whole(model: Any, layers_at_once: int) -> None:
    inner = ["attn.hook_z", "hook_resid_pre", "hook_resid_post"]
    sites = [f"blocks.{layer}.{name}" for layer in range(model.cfg.n_layers) for name in inner]
    sites += ["unembed.hook_in", "hook_embed"]
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(3, len(BATCH), model.cfg.d_model, generator=generator, dtype=torch.float64)
    scoped = ScopedModel.of(model)
    whole, sliced = trace(scoped, BATCH, sites), trace_in_slices(scoped, BATCH, sites, layers_at_once)
    assert torch.equal(whole.token_mask, sliced.token_mask)
    assert_close(sliced.final_states, whole.final_states, rtol=1e-12, atol=1e-13)
    found: list[dict[tuple[int, str], tuple[Tensor, Tensor]]] = [{}, {}]
    steps: list[tuple[int, int]] = []
    for traced, seen in zip((whole, sliced), found, strict=True):
        traced.backward(
            vectors,
            lambda index, name, gradient, activation, seen=seen: seen.update({(index, name): (gradient, activation)}),
            lambda done, total: steps.append((done, total)),
        )
    assert steps[-1][0] == steps[-1][1]
    assert set(found[0]) == set(found[1]) == {(index, name) for index in range(3) for name in sites}
    for key, (gradient, activation) in found[0].items():
        assert_close(found[1][key][0], gradient, rtol=1e-10, atol=1e-13)
        assert_close(found[1][key][1], activation, rtol=1e-12, atol=1e-13)


def test_slices_leave_the_model_as_it_was_also_after_ctrl_c() -> None:
    model = llama_like()
    before = state(model)
    sliced = trace_in_slices(ScopedModel.of(model), BATCH, ["blocks.1.attn.hook_z"], 1)
    assert_unchanged(model, before)
    with pytest.raises(KeyboardInterrupt):
        sliced.backward(torch.ones(1, len(BATCH), 16, dtype=torch.float64), fail(KeyboardInterrupt()))
    assert_unchanged(model, before)


def test_slices_keep_to_the_path() -> None:
    model = llama_like()
    cut = [(f"blocks.{layer}.hook_attn_out", lambda activation: activation.detach()) for layer in range(3)]
    seen = {}
    trace_in_slices(ScopedModel.of(model), [IDS], [], 1, cut).backward(
        torch.ones(1, 1, 16, dtype=torch.float64),
        lambda index, name, gradient, activation: seen.update({name: gradient[0]}),
    )
    assert bool((seen["hook_embed"][:-1] == 0).all()) and bool((seen["hook_embed"][-1] != 0).all())


def test_slices_refuse_what_the_whole_refuses() -> None:
    model = llama_like()
    with pytest.raises(ls.LensScopesError, match=r"blocks\.0\.attn\.hook_result"):
        trace_in_slices(ScopedModel.of(model), [IDS], ["blocks.0.attn.hook_result"], 1).backward(
            torch.ones(1, 1, 16, dtype=torch.float64), lambda *arguments: None
        )
    model.blocks[1].mlp.W_in.data[0, 0] = math.nan
    with pytest.raises(NumericsError, match=r"blocks\.1\.hook_resid_post"):
        trace_in_slices(ScopedModel.of(model), [IDS], [], 1)


# The model's state


def with_tokenizer(model: Any) -> Any:
    words = {f"w{i}": i for i in range(22)} | {"<pad>": 22}
    tokenizer = Tokenizer(WordLevel(words, unk_token="w0"))
    model.tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", padding_side="left")
    return model


def state(model: Any) -> dict[str, Any]:
    """Everything about a model and the process that a call must leave alone."""
    return {
        "parameters": {name: parameter.detach().clone() for name, parameter in model.named_parameters()},
        "buffers": {name: buffer.detach().clone() for name, buffer in model.named_buffers()},
        "requires_grad": {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        "no gradients": all(parameter.grad is None for parameter in model.parameters()),
        "training": {name: module.training for name, module in model.named_modules()},
        "hook points": {name: (list(p.fwd_hooks), list(p.bwd_hooks), p.ctx) for name, p in model.hook_dict.items()},
        "torch hooks": {
            name: [list(hooks) for hooks in (m._forward_hooks, m._forward_pre_hooks, m._backward_hooks)]
            for name, m in model.named_modules()
        },
        "padding": None if model.tokenizer is None else model.tokenizer.padding_side,
        "prepend_bos": model.cfg.default_prepend_bos,
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()),
        "generator": torch.get_rng_state(),
    }


def assert_unchanged(model: Any, before: dict[str, Any]) -> None:
    after = state(model)
    for what, value in before.items():
        if what in ("parameters", "buffers"):
            assert all(torch.equal(after[what][name], tensor) for name, tensor in value.items()), what
        elif what == "generator":
            assert torch.equal(after[what], value), what
        else:
            assert after[what] == value, what


class Failing(Readout):
    """A readout that fails at the third direction."""

    name, signed, amplitude_symbol = "failing", False, "?"

    def __init__(self) -> None:
        self.calls = 0

    def amplitude(self, gradient: Tensor, activation: Tensor, baseline: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > 3:
            raise RuntimeError("out of memory")
        return gradient.norm(dim=-1)

    def describe(self) -> str:
        return "none"


def fail(error: BaseException) -> Callable[..., Any]:
    def function(*arguments: Any, **keywords: Any) -> Any:
        raise error

    return function


FAILURES: dict[str, dict[str, Any]] = {
    "objective": {"objective": fail(ZeroDivisionError())},
    "interrupted objective": {"objective": fail(KeyboardInterrupt())},
    "objective of a wrong shape": {"objective": lambda y, logits: y[:-1]},
    "interrupted between directions": {"objective": ls.Fisher(rank=3), "progress": fail(KeyboardInterrupt())},
    "readout": {"objective": ls.Fisher(rank=3), "readout": Failing()},
    "prompt": {"prompt": [99]},
    "site": {"sites": "hook_nothing"},
    "site not called": {"sites": "blocks.0.attn.hook_result"},
}


def call(model: Any, **settings: Any) -> Any:
    prompt = settings.pop("prompt", IDS)
    return ls.attribute(model, prompt, **{"layers": True, "sites": "hook_z", **settings})


@pytest.mark.parametrize("builder", [llama_like, gemma_like])
def test_a_model_is_unchanged_after_success(builder: Any) -> None:
    model = with_tokenizer(builder())
    before = state(model)
    call(model, objective=ls.Fisher(rank="trace", samples=3, exact=1))
    call(model, objective=ls.Entropy(), readout="dot", position=2)
    ls.attribute_batch(model, BATCH, ls.Fisher(rank=2), layers="resid_post")
    assert_unchanged(model, before)


@pytest.mark.parametrize("failure", FAILURES)
def test_a_model_is_unchanged_after_an_exception(failure: str) -> None:
    model = with_tokenizer(llama_like())
    expected = call(model, objective=ls.Temperature()).scores
    before = state(model)
    with pytest.raises((ls.LensScopesError, ZeroDivisionError, KeyboardInterrupt, RuntimeError)):
        call(model, **FAILURES[failure])
    assert_unchanged(model, before)
    assert torch.equal(call(model, objective=ls.Temperature()).scores, expected)


@pytest.mark.parametrize("site", ["hook_embed", "blocks.1.attn.hook_z", "ln_final.hook_normalized", "unembed.hook_in"])
@pytest.mark.parametrize("direction", ["fwd", "bwd"])
@pytest.mark.filterwarnings("ignore:Full backward hook:UserWarning")
def test_a_model_is_unchanged_after_ctrl_c_in_a_hook(site: str, direction: str) -> None:
    model = with_tokenizer(llama_like())
    expected = call(model, objective=ls.Temperature()).scores
    model.hook_dict[site].add_hook(fail(KeyboardInterrupt()), dir=direction)
    before = state(model)
    with pytest.raises(KeyboardInterrupt):
        call(model, objective=ls.Temperature())
    assert_unchanged(model, before)
    model.reset_hooks()
    assert torch.equal(call(model, objective=ls.Temperature()).scores, expected)


def test_hooks_of_a_with_block_are_gone_also_after_a_wrong_name() -> None:
    model = gpt2_like()
    before = state(model)
    with (
        pytest.raises(KeyError),
        ScopedModel.of(model).hooked([("hook_embed", fail(AssertionError())), ("hook_nothing", print)]),
    ):
        raise AssertionError("never entered")
    assert_unchanged(model, before)


def test_the_tokenizers_padding_side_does_not_matter() -> None:
    plain, padding_left = gpt2_like(), with_tokenizer(gpt2_like())
    ids = [22, 3, 22, 8, 22]  # token 22 pads in that tokenizer
    for one, other in zip(
        ls.attribute_batch(plain, [ids, ids[:2]], "entropy"),
        ls.attribute_batch(padding_left, [ids, ids[:2]], "entropy"),
        strict=True,
    ):
        assert torch.equal(one.scores, other.scores)


# Modes


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("trainable", [False, True])
def test_calls_work_in_every_mode(mode: Any, trainable: bool) -> None:
    model = llama_like()
    expected = call(model, objective=ls.Fisher(rank=2))
    dotted = call(model, objective=ls.Semantic(5), readout=ls.Dot("mean"))
    sampled = call(model, objective=ls.Fisher(rank="trace", samples=2, exact=1))
    model.requires_grad_(trainable)
    before = state(model)
    with mode():
        found = call(model, objective=ls.Fisher(rank=2))
        again = call(model, objective=ls.Semantic(5), readout=ls.Dot("mean"))
        drawn = call(model, objective=ls.Fisher(rank="trace", samples=2, exact=1))
        batch = ls.attribute_batch(model, BATCH, ls.Entropy())
    assert_unchanged(model, before)
    assert torch.equal(found.scores, expected.scores) and torch.equal(found.layers, expected.layers)
    assert torch.equal(again.scores, dotted.scores) and torch.equal(drawn.standard_error, sampled.standard_error)
    assert len(batch) == len(BATCH) and not found.scores.requires_grad


def test_a_model_in_training_mode_stays_so() -> None:
    model = gpt2_like()
    expected = call(model).scores
    model.train()
    before = state(model)
    torch.testing.assert_close(call(model).scores, expected, rtol=1e-12, atol=0)  # no dropout in it
    assert_unchanged(model, before)


def test_a_model_frozen_or_not_gets_no_gradients() -> None:
    model = gpt2_like().requires_grad_(True)
    expected = call(gpt2_like(), objective=ls.Fisher(rank=2)).scores
    torch.testing.assert_close(call(model, objective=ls.Fisher(rank=2)).scores, expected, rtol=1e-12, atol=0)
    assert all(parameter.grad is None for parameter in model.parameters())


# A user's own hooks


def ablate_head(activation: Tensor, hook: Any) -> Tensor:
    activation = activation.clone()
    activation[:, :, 1] = 0
    return activation


@pytest.mark.parametrize("permanent", [False, True])
def test_a_users_hooks_act_and_stay(model: Any, permanent: bool) -> None:
    free = ls.attribute(model, IDS, ls.Semantic(5), layers=True, sites="blocks.0.attn.hook_z")
    seen: list[int] = []
    model.hook_dict["blocks.0.attn.hook_z"].add_hook(ablate_head, is_permanent=permanent)
    model.hook_dict["hook_embed"].add_hook(lambda activation, hook: seen.append(len(seen)))
    before = state(model)
    held = ls.attribute(model, IDS, ls.Semantic(5), layers=True, sites="blocks.0.attn.hook_z")
    assert_unchanged(model, before)
    assert len(seen) == 1
    assert not torch.allclose(held.scores, free.scores)
    assert_close(held.scores, reference.semantic_scores(model, IDS, 5), rtol=1e-9, atol=1e-12)
    assert held.layers is not None
    expected = reference.semantic_scores(model, IDS, 5, site_name="blocks.1.hook_resid_pre")
    assert_close(held.layers[1], expected, rtol=1e-9, atol=1e-12)
    # influence is read after the user's hook: of the activation that the model goes on with
    z = held.sites["blocks.0.attn.hook_z"]
    assert z.shape == (len(IDS), model.cfg.n_heads) and bool((z[-1] > 0).all())


def test_a_users_steering_of_the_embedding_is_part_of_the_model() -> None:
    model = llama_like()
    model.hook_dict["hook_embed"].add_hook(lambda activation, hook: 0.5 * activation)
    att = ls.attribute(model, IDS, ls.Temperature())
    embeddings = 0.5 * model.W_E[IDS]
    J = torch.autograd.functional.jacobian(
        lambda x: reference_final_state_without_hooks(x), embeddings
    ).movedim(1, 0)  # fmt: skip
    y = reference_final_state_without_hooks(embeddings)
    assert_close(att.scores, torch.einsum("o,tod->td", y / y.norm(), J).norm(dim=-1), rtol=1e-9, atol=1e-12)


def reference_final_state_without_hooks(embeddings: Tensor) -> Tensor:
    return reference.final_state(llama_like(), embeddings, IDS)


# Numbers that are not finite


@pytest.mark.parametrize(
    ("parameter", "where"),
    [
        ("embed.W_E", "hook_embed"),
        ("blocks.0.attn.W_O", "blocks.0.hook_resid_post"),
        ("blocks.1.mlp.W_in", "blocks.1.hook_resid_post"),
        ("blocks.2.ln1.w", "blocks.2.hook_resid_post"),
        ("ln_final.w", "after the last block"),
        ("unembed.W_U", "unembed"),
        ("unembed.b_U", "unembed"),
    ],
)
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("objective", [ls.Semantic(5), ls.Temperature(), ls.Fisher(), ls.Fisher(rank="trace")])
def test_the_first_place_that_is_not_finite_is_named(parameter: str, where: str, value: float, objective: Any) -> None:
    model = llama_like()
    dict(model.named_parameters())[parameter].data[..., 3] = value
    before = state(model)
    with pytest.raises(NumericsError, match=where) as caught:
        ls.attribute(model, IDS, objective, layers=True)
    assert "\n" not in str(caught.value)
    before["parameters"] = before["buffers"] = {}  # nan is not equal to itself
    assert_unchanged(model, before)


def test_a_gradient_that_is_not_finite_is_named() -> None:
    """√(0·x) is zero going forward, and 0·∞ going back."""
    model = llama_like()
    model.hook_dict["blocks.1.hook_resid_post"].add_hook(lambda activation, hook: activation + (0 * activation).sqrt())
    with pytest.raises(NumericsError, match=r"blocks\.1\.hook_resid_pre") as caught:
        ls.attribute(model, IDS, ls.Temperature(), layers=True)
    assert "backward" in str(caught.value) and "\n" not in str(caught.value)


def test_a_row_of_a_batch_that_is_not_finite_is_refused() -> None:
    model = gpt2_like()
    model.embed.W_E.data[11] = math.nan
    assert len(ls.attribute_batch(model, [IDS, IDS[1:]], "temperature")) == 2
    with pytest.raises(NumericsError, match="hook_embed"):
        ls.attribute_batch(model, [IDS, [1, 11]], "temperature")


def test_a_model_that_is_none_is_refused() -> None:
    with pytest.raises(ModelError, match="unembedding"):
        ls.attribute(torch.nn.Identity(), IDS)
