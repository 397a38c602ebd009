"""Where influence is read, how a gradient becomes a score, and the five elements that say so in words."""

import inspect
from typing import Any

import pytest
import reference
import torch
from tiny_models import attention_only, gpt2_like, llama_like, neox_like
from torch import Tensor
from torch.testing import assert_close

import lens_scopes as ls
from lens_scopes.engine.sites import layer_sites, resolve_sites
from lens_scopes.errors import ReadoutError, SiteError
from lens_scopes.scopes.contract import ELEMENTS, ContractTerms, attribution_contract
from lens_scopes.scopes.readouts import Dot, Norm, Product, as_readout

IDS = [3, 17, 0, 8, 22, 3]
EVERYTHING_REAL = torch.ones(2, 3, dtype=torch.bool)
ZERO = torch.zeros((), dtype=torch.float64)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def refusal(call: Any, error: type[Exception]) -> str:
    with pytest.raises(error) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Readouts


@pytest.mark.parametrize("inner", [(), (4,), (4, 2)])
def test_amplitudes_are_norms_and_products_over_the_last_axis(inner: tuple[int, ...]) -> None:
    gradient, activation = normal(2, 3, *inner, 5), normal(2, 3, *inner, 5, seed=1)
    norm = Norm().amplitude(gradient, activation, ZERO)
    dot = Dot().amplitude(gradient, activation, ZERO)
    assert norm.shape == dot.shape == (2, 3, *inner)
    assert_close(norm, (gradient * gradient).sum(-1).sqrt())
    assert_close(dot, torch.einsum("...d,...d->...", gradient, activation))
    assert bool((norm >= 0).all()) and bool((dot < 0).any())


@pytest.mark.parametrize("inner", [(), (4,)])
def test_the_mean_baseline_is_that_of_the_tokens_without_padding(inner: tuple[int, ...]) -> None:
    gradient, activation = normal(2, 3, *inner, 5), normal(2, 3, *inner, 5, seed=1)
    real = torch.tensor([[True, True, True], [True, True, False]])
    activation[1, 2] = 1e6
    readout = Dot("mean")
    found = readout.amplitude(gradient, activation, readout.baseline_values(activation, real))
    for row, length in ((0, 3), (1, 2)):
        x = activation[row, :length]
        expected = (gradient[row, :length] * (x - x.mean(0))).sum(-1)
        assert_close(found[row, :length], expected, rtol=1e-10, atol=1e-12)


def test_a_mean_baseline_moves_no_score_to_padding_of_a_batch() -> None:
    model = gpt2_like()
    long, short = [1, 2, 3, 4, 5, 6], [7, 8]
    together = ls.attribute_batch(model, [long, short], ls.Semantic(5), readout=Dot("mean"), sites="hook_z")
    alone = ls.attribute(model, short, ls.Semantic(5), readout=Dot("mean"), sites="hook_z")
    assert_close(together[1].scores, alone.scores, rtol=1e-10, atol=1e-13)
    x = reference.site_activation(model, short, "hook_embed")
    g = torch.einsum("o,tod->td", model.W_U[:, 5], reference.jacobian(model, short))
    assert_close(alone.scores, (g * (x - x.mean(0))).sum(-1), rtol=1e-9, atol=1e-12)
    z = reference.site_activation(model, short, "blocks.1.attn.hook_z")
    g = torch.einsum("o,tohd->thd", model.W_U[:, 5], reference.jacobian(model, short, site_name="blocks.1.attn.hook_z"))
    assert_close(alone.sites["blocks.1.attn.hook_z"], (g * (z - z.mean(0))).sum(-1), rtol=1e-9, atol=1e-12)


def test_input_times_gradient_is_the_first_order_effect_of_removing_a_token() -> None:
    """s_t = d/dα f(α x_t) at α = 1, by central differences."""
    model = llama_like()
    scores = ls.attribute(model, IDS, ls.Semantic(5), readout="dot").scores
    x = reference.site_activation(model, IDS, "hook_embed")
    step = 1e-5
    for token, found in enumerate(scores):
        values = []
        for sign in (1, -1):
            moved = x.clone()
            moved[token] *= 1 + sign * step
            values.append(reference.logits_from_final_state(model, reference.final_state(model, moved, IDS))[5])
        assert_close(found, (values[0] - values[1]) / (2 * step), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("readout", [Norm(), Dot(), Dot("mean")])
def test_low_precision_is_added_up_in_float32(dtype: torch.dtype, readout: Any) -> None:
    gradient, activation = normal(2, 3, 2000, dtype=dtype), normal(2, 3, 2000, seed=1, dtype=dtype)
    found, exact = (
        readout.amplitude(g, x, readout.baseline_values(x, EVERYTHING_REAL))
        for g, x in ((gradient, activation), (gradient.double(), activation.double()))
    )
    assert found.dtype == torch.float32
    assert_close(found.double(), exact, rtol=1e-5, atol=1e-3)


def test_readouts_are_given_by_object_or_name() -> None:
    assert as_readout("norm") == Norm() and as_readout("dot") == Dot() and Dot().along(None) == Dot("zero")
    assert as_readout(Dot("mean")) == Dot("mean") != Dot()
    assert Dot.signed and not Norm.signed
    assert as_readout('dot-"The dog"') == Dot("The dog") and as_readout("product-#3#5") == Product(torch.tensor([3, 5]))
    assert "'norm'" in refusal(lambda: as_readout("norms"), ReadoutError)
    message = refusal(lambda: as_readout("integral"), ReadoutError)
    assert "'integral'" in message and "'norm' or 'dot'" in message and "did you mean" not in message
    for wrong in (None, 3, Norm):
        refusal(lambda wrong=wrong: inspect.unwrap(as_readout)(wrong), ReadoutError)
    for wrong in ("max", "", 0, [], [0.5], [{"role": "user"}]):
        message = refusal(lambda wrong=wrong: inspect.unwrap(Dot.__init__)(object.__new__(Dot), wrong), ReadoutError)
        assert repr(wrong) in message


# Sites


def test_layers_are_residual_hooks_in_order() -> None:
    model = llama_like()
    assert layer_sites(model, False) == []
    for layers, name in (
        (True, "resid_pre"),
        ("resid_pre", "resid_pre"),
        ("hook_resid_mid", "resid_mid"),
        ("resid_post", "resid_post"),
    ):
        assert layer_sites(model, layers) == [f"blocks.{layer}.hook_{name}" for layer in range(3)]


@pytest.mark.parametrize("layers", ["resid", "", "hook_z", "True", "resid_pre "])
def test_other_layers_are_refused_with_what_there_is(layers: str) -> None:
    message = refusal(lambda: layer_sites(llama_like(), layers), SiteError)
    assert repr(layers) in message and "'resid_pre', 'resid_mid', 'resid_post'" in message


@pytest.mark.parametrize("builder", [neox_like, attention_only])
def test_a_residual_that_a_shape_lacks_is_refused(builder: Any) -> None:
    message = refusal(lambda: layer_sites(builder(), "resid_mid"), SiteError)
    assert "'blocks.0.hook_resid_mid'" in message and "blocks.0.hook_resid_" in message.partition("Near")[2]
    assert len(layer_sites(builder(), "resid_post")) == 2


def test_short_names_stand_for_every_layer_and_full_ones_for_themselves() -> None:
    model = gpt2_like()
    for site, inside in (
        ("hook_z", "attn.hook_z"),
        ("z", "attn.hook_z"),
        ("hook_q", "attn.hook_q"),
        ("k", "attn.hook_k"),
        ("hook_v", "attn.hook_v"),
        ("mlp_out", "hook_mlp_out"),
        ("hook_attn_out", "hook_attn_out"),
        ("resid_mid", "hook_resid_mid"),
    ):
        assert resolve_sites(model, site) == [f"blocks.{layer}.{inside}" for layer in range(2)]
    assert resolve_sites(model, ["blocks.1.attn.hook_z", "mlp_out", "blocks.0.hook_mlp_out", "hook_embed"]) == [
        "blocks.1.attn.hook_z", "blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out", "hook_embed",
    ]  # fmt: skip
    assert resolve_sites(model, ()) == []


def test_sites_that_cannot_be_scored_are_refused() -> None:
    model = gpt2_like()
    message = refusal(lambda: resolve_sites(model, "blocks.1.attn.hook_zz"), SiteError)
    assert "'blocks.1.attn.hook_zz'" in message and "blocks.1.attn.hook_z" in message
    assert "blocks.2.hook_mlp_out" in refusal(lambda: resolve_sites(model, "blocks.2.hook_mlp_out"), SiteError)
    for pattern in ("hook_pattern", "blocks.0.attn.hook_pattern", "blocks.1.attn.hook_attn_scores"):
        message = refusal(lambda pattern=pattern: resolve_sites(model, pattern), SiteError)
        assert pattern in message and "inspect_heads" in message
    refusal(lambda: resolve_sites(model, ["hook_z", ""]), SiteError)


def test_every_named_site_gives_a_score_a_token() -> None:
    model = llama_like()
    names = ["q", "k", "v", "z", "attn_out", "mlp_out", "resid_pre", "resid_mid", "resid_post", "hook_embed"]
    more = ["blocks.1.mlp.hook_post", "blocks.2.ln2.hook_normalized", "ln_final.hook_normalized", "unembed.hook_in"]
    att = ls.attribute(model, IDS, ls.Semantic(5), sites=[*names, *more], position=3)
    heads = {"hook_q": (4, 4), "hook_k": (4, 2), "hook_v": (4, 2), "hook_z": (4, 4)}
    for name, scores in att.sites.items():
        assert scores.shape == heads.get(name.rpartition(".")[2], (4,)), name
        expected = torch.einsum("o,to...d->t...d", model.W_U[:, 5], reference.jacobian(model, IDS, 3, name)[:4])
        assert_close(scores, expected.norm(dim=-1), rtol=1e-9, atol=1e-12)
    assert torch.equal(att.sites["hook_embed"], att.scores)
    # at the unembedding all influence is at the position itself, and it is ‖w‖
    last = torch.zeros(4, dtype=torch.float64)
    last[-1] = model.W_U[:, 5].norm()
    assert_close(att.sites["unembed.hook_in"], last, rtol=1e-12, atol=0)


def test_position_embeddings_have_the_influence_of_the_tokens_they_are_added_to() -> None:
    att = ls.attribute(gpt2_like(), IDS, ls.Entropy(), sites="hook_pos_embed")
    assert_close(att.sites["hook_pos_embed"], att.scores, rtol=1e-12, atol=0)


def test_a_hook_that_fires_more_than_once_is_refused() -> None:
    """ln1 runs for queries, keys and values in turn: the gradient of one call is not the influence of the site."""
    message = refusal(lambda: ls.attribute(gpt2_like(), IDS, sites="blocks.1.ln1.hook_normalized"), SiteError)
    assert "blocks.1.ln1.hook_normalized" in message


# The contract


def terms(**changes: Any) -> ContractTerms:
    values: dict[str, Any] = {
        "output": "logit of the next token ' Paris'",
        "position": 5,
        "n_tokens": 6,
        "sites": (),
        "path": None,
        "equation": "v = w_target",
        "readout": Norm(),
        "n_directions": 1,
        "squared": False,
        "sampled": 0,
    }
    return ContractTerms(**(values | changes))


def test_the_contract_has_its_five_elements_in_order() -> None:
    contract = attribution_contract(terms())
    assert tuple(contract) == ELEMENTS == (
        "output explained", "eligible features", "generative process", "held fixed", "score attributed",
    )  # fmt: skip
    assert all(isinstance(words, str) and len(words) > 20 and "\n" not in words for words in contract.values())


def test_each_choice_is_in_the_words_of_its_element() -> None:
    plain = attribution_contract(terms())
    assert plain["output explained"] == "logit of the next token ' Paris', after position 5"
    assert "hook_embed" in plain["eligible features"] and "6 tokens" in plain["eligible features"]
    assert "1 direction)" in plain["score attributed"] and "random" not in plain["score attributed"]
    assert "score_t = a_t" in plain["score attributed"] and "v = w_target" in plain["score attributed"]
    for changes, element, words in (
        ({"sites": ["blocks.0.hook_resid_pre"]}, "eligible features", "blocks.0.hook_resid_pre"),
        ({"sites": ["a", "b"]}, "eligible features", "a and b"),
        ({"sites": ["a", "b", "c"]}, "eligible features", "a … c (3 sites)"),
        ({"path": "through layers 5–9"}, "held fixed", "through layers 5–9"),
        ({"routed": True}, "held fixed", "which experts each token goes to, while their shares respond"),
        ({"readout": Dot("mean")}, "score attributed", "mean baseline"),
        ({"readout": Dot()}, "score attributed", "zero baseline"),
        ({"readout": Dot()}, "generative process", "baseline"),
        ({"readout": Dot("The dog")}, "score attributed", "against its value under the prompt 'The dog'"),
        ({"readout": Dot("The dog")}, "generative process", "from its value under the prompt 'The dog' to its value"),
        ({"readout": Dot([3, 5])}, "score attributed", "its value under the prompt of the tokens #3, #5)"),
        ({"squared": True, "n_directions": 3}, "score attributed", "Σ_i w_i a_i,t²"),
        ({"squared": True, "n_directions": 3}, "score attributed", "3 directions)"),
        ({"squared": True, "n_directions": 32, "sampled": 16}, "score attributed", "32 directions, 16 of them random"),
    ):
        changed = attribution_contract(terms(**changes))
        assert words in changed[element] and words not in plain[element]
        untouched = {"held fixed", "output explained"} - {element}
        assert all(changed[name] == plain[name] for name in untouched)


def test_scopes_read_at_the_values_are_about_positions_and_d_head() -> None:
    values = ["blocks.0.attn.hook_v", "blocks.1.attn.hook_v"]
    contract = attribution_contract(terms(at=values, readout=ls.Relative()))
    process, held = contract["generative process"], contract["held fixed"]
    assert "one position at a time" in process and "d_head" in process and "in proportion to its size" in process
    assert "all embeddings" in held and "other tokens" not in held and "other positions and heads" in held
    plain = attribution_contract(terms())
    assert "one token at a time" in plain["generative process"] and "d_model" in plain["generative process"]
    assert "in proportion" not in plain["generative process"] and "other tokens' embeddings" in plain["held fixed"]
    assert "d_mlp" in attribution_contract(terms(at=["blocks.0.mlp.hook_post"]))["generative process"]


@pytest.mark.parametrize(
    ("settings", "element", "words"),
    [
        ({"objective": ls.Semantic(5)}, "output explained", "next token '#5', after position 5"),
        ({"objective": ls.Semantic(), "position": 1}, "output explained", "next token '#0', after position 1"),
        ({"objective": ls.LogProb(), "target": 9}, "output explained", "log-probability of the next token '#9'"),
        ({"objective": ls.LogitDiff(5, 9)}, "output explained", "'#5' and '#9'"),
        ({"objective": ls.Temperature()}, "output explained", "β = ‖y‖"),
        ({"objective": ls.Entropy()}, "output explained", "entropy"),
        ({"objective": ls.Fisher()}, "output explained", "distribution"),
        ({"objective": ls.Fisher(rank=3)}, "score attributed", "3 directions)"),
        ({"objective": ls.Fisher()}, "score attributed", "Σ_i w_i a_i,t²"),
        ({"objective": ls.Fisher("trace", samples=4, exact=2)}, "score attributed", "6 directions, 4 of them random"),
        ({"layers": True, "sites": "hook_z"}, "eligible features", "blocks.0.hook_resid_pre … blocks.1.attn.hook_z"),
        ({"position": 2}, "eligible features", "3 tokens"),
        ({"readout": "dot"}, "score attributed", "vᵀJ_t (x_t − b)"),
    ],
)
def test_the_contract_of_a_result_says_what_was_asked(settings: dict[str, Any], element: str, words: str) -> None:
    att = ls.attribute(gpt2_like(), IDS, **settings)
    assert tuple(att.contract) == ELEMENTS
    assert words in att.contract[element]
