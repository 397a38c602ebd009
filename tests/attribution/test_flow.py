"""Span information flow: its closed form, its laws, and the mutual information it approximates."""

import math
from typing import Any

import pytest
import torch
from budgets import smallest
from command_line import tokenizer
from reference import (
    kl,
    logits_from_final_state,
    mutual_information,
    noised_distributions,
    site_activation,
    span_information,
    state_of,
)
from tiny_models import D_VOCAB, N_CTX, gemma_like, gpt2_like, llama_like

import lens_scopes as ls
from lens_scopes.errors import FileError, NumericsError, ObjectiveError, PromptError
from lens_scopes.views.words.pages.parts.memory import memory_words

IDS = [3, 7, 1, 7, 4, 9, 2]
SPAN = range(1, 4)
SPANS = {"early": SPAN, "late": range(5, 7)}
TEXT = "The dog sleeps on the sofa. The dog"


@pytest.fixture(scope="module")
def reading() -> Any:
    """A tiny model that reads text."""
    model = gpt2_like()
    model.tokenizer = tokenizer()
    return model


def deviation(flow: ls.InformationFlow) -> float:
    """σ per coordinate, in the embedding's own units."""
    return flow.sigma * flow.embedding_norm / math.sqrt(flow.d_model)


# The closed form


def test_both_values_are_those_of_the_dense_matrices(tiny: Any) -> None:
    flow = ls.information_flow(tiny, IDS, SPANS, sigma=0.7)
    for row, span in enumerate(SPANS.values()):
        noisy = deviation(flow) ** 2 * span_information(tiny, IDS, span)
        assert float(flow.bound()[row, 0]) == pytest.approx(0.5 * float(noisy.trace()), rel=1e-8)
        dense = 0.5 * torch.logdet(torch.eye(len(noisy)).to(noisy) + noisy)
        assert float(flow.channel()[row, 0]) == pytest.approx(float(dense), rel=1e-8)
        assert float(flow.joint()[row]) == pytest.approx(float(dense), rel=1e-8)
    assert not flow.omitted.any() and flow.samples == 0 and not flow.warnings


def test_sigma_is_in_units_of_the_median_embedding(tiny: Any) -> None:
    flow = ls.information_flow(tiny, IDS, SPANS)
    everything = torch.stack([site_activation(tiny, [token], "hook_embed")[0] for token in range(D_VOCAB)])
    assert flow.embedding_norm == pytest.approx(float(everything.norm(dim=-1).median()), rel=1e-6)
    torch.testing.assert_close(flow.bound(3.0), flow.bound() * 900, rtol=1e-12, atol=0)


def test_one_token_is_half_sigma_squared_of_the_whole_trace_fisher_scope(tiny: Any) -> None:
    scores = ls.attribute(tiny, IDS, ls.Fisher("trace")).scores
    flow = ls.information_flow(tiny, IDS, {str(index): range(index, index + 1) for index in range(len(IDS))})
    torch.testing.assert_close(flow.bound()[:, 0], 0.5 * deviation(flow) ** 2 * scores, rtol=1e-8, atol=1e-15)


# The laws


def test_a_span_after_the_prediction_tells_nothing(tiny: Any) -> None:
    flow = ls.information_flow(
        tiny, IDS, {"before": range(0, 3), "across": range(3, 6), "after": range(6, 7)}, position=4
    )
    bound, channel = flow.bound(10.0)[:, 0].tolist(), flow.channel(10.0)[:, 0].tolist()
    assert bound[0] > 0 and bound[1] > 0 and bound[2] == channel[2] == 0
    assert "'after'" in flow.warnings[0] and len(flow.warnings) == 1
    up_to = ls.information_flow(tiny, IDS[:5], {"across": range(3, 5)})
    assert bound[1] == pytest.approx(float(up_to.bound(10.0)[0, 0]), rel=1e-9)


def test_the_values_grow_with_sigma_and_with_the_span(tiny: Any) -> None:
    grown = [ls.information_flow(tiny, IDS, {"span": range(2, stop)}) for stop in range(3, 8)]
    for measure in ("bound", "channel"):
        by_span = [float(getattr(flow, measure)(1.0)[0, 0]) for flow in grown]
        assert by_span == sorted(by_span) and by_span[0] > 0
    curve = grown[-1].curve()
    for measure in ("bound", "channel", "joint"):
        assert curve[measure].is_monotonic_increasing
    assert (curve["channel"] <= curve["bound"]).all() and (curve["channel"] < 0.9 * curve["bound"]).iloc[-1]


def test_an_answer_is_the_predictions_of_its_tokens_summed(tiny: Any) -> None:
    answered = ls.information_flow(tiny, IDS[:4], {"span": SPAN}, answer=IDS[4:], sigma=1)
    assert answered.destinations == [3, 4, 5] and answered.answer == 3 and not answered.generated
    assert [item.token_id for item in answered.targets] == IDS[4:]
    singles = [ls.information_flow(tiny, IDS, {"span": SPAN}, position=dest, sigma=1) for dest in (3, 4, 5)]
    for column, single in enumerate(singles):
        torch.testing.assert_close(answered.bound()[:, column], single.bound()[:, 0], rtol=1e-9, atol=1e-15)
        torch.testing.assert_close(answered.channel()[:, column], single.channel()[:, 0], rtol=1e-9, atol=1e-15)
        logits = logits_from_final_state(tiny, state_of(tiny, IDS, 3 + column))
        assert answered.targets[column].probability == pytest.approx(float(logits.softmax(-1)[IDS[4 + column]]))
    [total] = answered.totals()
    assert total.bound == pytest.approx(sum(float(single.bound()) for single in singles), rel=1e-9)
    assert total.channel == pytest.approx(sum(float(single.channel()) for single in singles), rel=1e-9)
    together = sum(span_information(tiny, IDS, SPAN, dest) for dest in (3, 4, 5)) * deviation(answered) ** 2
    dense = 0.5 * torch.logdet(torch.eye(len(together)).to(together) + together)
    assert total.joint == pytest.approx(float(dense), rel=1e-8) and total.joint < total.channel


def test_a_generated_answer_is_the_models_own(tiny: Any) -> None:
    made = ls.information_flow(tiny, IDS, SPANS, generate=2)
    given = ls.information_flow(tiny, IDS, SPANS, answer=made.token_ids[-2:])
    assert made.generated and not given.generated and made.token_ids == given.token_ids
    assert [item.token_id for item in made.targets] == [item.token_id for item in made.predicted]
    torch.testing.assert_close(made.eigenvalues, given.eigenvalues, rtol=0, atol=0)


def test_random_directions_stand_for_what_the_rank_leaves_out() -> None:
    model = llama_like()
    whole = ls.information_flow(model, IDS, SPANS, sigma=1)
    leading = ls.attribute(model, IDS, ls.Fisher(2)).scores
    drawn = [ls.information_flow(model, IDS, SPANS, sigma=1, rank=2, samples=4, seed=seed) for seed in range(200)]
    bounds = torch.stack([flow.bound()[:, 0] for flow in drawn])
    errors = torch.tensor([[item.bound_error for item in flow.totals()] for flow in drawn], dtype=torch.float64)
    spread = bounds.std(0)
    assert (bounds.mean(0) - whole.bound()[:, 0]).abs().lt(4 * spread / 200**0.5).all()
    torch.testing.assert_close(errors.square().mean(0).sqrt(), spread, rtol=0.25, atol=0)
    for row, span in enumerate(SPANS.values()):
        exact = 0.5 * deviation(whole) ** 2 * float(leading[span.start : span.stop].sum())
        for flow in drawn[:3]:
            assert float(flow.bound()[row, 0]) - flow.totals()[row].omitted == pytest.approx(exact, rel=1e-3)
    channels = torch.stack([flow.channel()[:, 0] for flow in drawn]).mean(0)
    assert channels.lt(whole.channel()[:, 0]).all() and channels.gt(0.8 * whole.channel()[:, 0]).all()


def test_another_seed_draws_other_directions_and_the_global_generator_is_left_alone() -> None:
    model = gpt2_like()
    before = torch.random.get_rng_state()
    first, again, other = (ls.information_flow(model, IDS, SPANS, rank=2, samples=3, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(first.eigenvalues, again.eigenvalues) and not torch.equal(first.omitted, other.omitted)


def test_a_path_carries_only_its_part() -> None:
    model = llama_like()
    through = ls.Layers(0, 1) & ls.Frozen("patterns")
    flow = ls.information_flow(model, IDS, {"token": range(2, 3)}, through=through)
    score = ls.attribute(model, IDS, ls.Fisher("trace"), through=through).scores[2]
    assert float(flow.bound()) == pytest.approx(0.5 * deviation(flow) ** 2 * float(score), rel=1e-8)
    assert through.held in flow.contract["held fixed"]


def test_slices_of_layers_give_the_same(tiny: Any) -> None:
    whole = ls.information_flow(tiny, IDS[:4], {"span": SPAN}, answer=IDS[4:])
    done = []
    sliced = ls.information_flow(
        tiny,
        IDS[:4],
        {"span": SPAN},
        answer=IDS[4:],
        memory=smallest(tiny, len(IDS) - 1),
        progress=lambda now, of: done.append((now, of)),
    )
    assert "1 of" in memory_words(sliced.memory) and memory_words(whole.memory) == "the whole graph at once"
    torch.testing.assert_close(sliced.eigenvalues, whole.eigenvalues, rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(sliced.joint_eigenvalues, whole.joint_eigenvalues, rtol=1e-9, atol=1e-15)
    assert done[-1][0] == done[-1][1] > 0


def test_rounded_products_are_those_of_the_scope() -> None:
    model = gemma_like(dtype=torch.float32)
    exact = ls.information_flow(model, IDS, SPANS)
    rounded = ls.information_flow(model, IDS, SPANS, matmul_dtype="bfloat16")
    assert rounded.settings["matmul_dtype"] == "bfloat16" and not torch.equal(rounded.bound(), exact.bound())
    torch.testing.assert_close(rounded.bound(), exact.bound(), rtol=0.1, atol=0)


# What it approximates


@pytest.mark.parametrize("build", [gpt2_like, gemma_like], ids=lambda build: build.__name__)
def test_small_noise_tells_what_both_values_say(build: Any) -> None:
    """I(ε; Y), exact over the vocabulary and by 6,000 draws of ε, over each value tends to 1 as σ → 0."""
    model = build()
    flow = ls.information_flow(model, IDS, {"span": SPAN}, sigma=0.01)
    draws = noised_distributions(model, IDS, SPAN, deviation(flow), pairs=3000)
    information = float(mutual_information(draws))
    undisturbed = torch.softmax(logits_from_final_state(model, state_of(model, IDS)), -1)
    divergence = float(kl(undisturbed.expand_as(draws), draws).mean())
    [total] = flow.totals()
    assert information == pytest.approx(total.bound, rel=0.05)
    assert information == pytest.approx(total.channel, rel=0.05)
    assert divergence == pytest.approx(total.bound, rel=0.05)


def test_large_noise_tells_less_than_either_value() -> None:
    """No prediction tells more than log d_vocab nats: there both values are far above the mutual information."""
    model = gpt2_like()
    flow = ls.information_flow(model, IDS, {"span": SPAN}, sigma=30)
    information = float(mutual_information(noised_distributions(model, IDS, SPAN, deviation(flow), pairs=500)))
    [total] = flow.totals()
    assert information < math.log(D_VOCAB) < total.channel < total.bound


# Text and bad input


def test_spans_of_a_text_are_its_parts_characters_or_tokens(reading: Any) -> None:
    spans = {"named": " sleeps on", "characters": ls.Chars(0, 3), "tokens": (6, 8)}
    flow = ls.information_flow(reading, TEXT, spans, answer=" sleeps")
    assert flow.spans == {"named": (3, 5), "characters": (1, 2), "tokens": (6, 8)}
    assert [item.text for item in flow.totals()] == [" sleeps on", "The", " sofa."]
    assert flow.targets[0].token == " sleeps" and flow.tokens[-1] == " sleeps"


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"spans": {"a": "The dog sleeps", "b": "sleeps on"}}, PromptError, ["overlap", "0 to 14", "7 to 17"]),
        ({"spans": {"a": "The cat"}}, PromptError, ["'a'", "The cat", "not in the prompt"]),
        ({"spans": {"a": "The dog"}}, PromptError, ["occurs 2 times", "0, 28"]),
        ({"spans": {"a": "leeps"}}, PromptError, ["cuts token 3", "7 to 14"]),
        ({"spans": {"a": ls.Chars(20, 99)}}, PromptError, ["characters 20 to 99"]),
        ({"spans": {"a": range(2, 99)}}, PromptError, ["tokens 2 to 99", "≤ 10", "Chars(start, stop)"]),
        ({"spans": {}}, PromptError, ["no span was named"]),
        ({"spans": None}, PromptError, ["no span was named"]),
        ({"sigma": 0}, ObjectiveError, ["positive", "got 0"]),
        ({"sigma": -0.1}, ObjectiveError, ["positive", "-0.1"]),
        ({"sigma": math.nan}, ObjectiveError, ["positive", "nan"]),
        ({"sigma": "much"}, ObjectiveError, ["positive", "'much'"]),
        ({"rank": 0}, ObjectiveError, ["from 1 to 16"]),
        ({"rank": 17}, ObjectiveError, ["from 1 to 16"]),
        ({"rank": 2, "samples": 1}, ObjectiveError, ["from 2 to"]),
        ({"answer": ""}, PromptError, ["the answer '' is empty"]),
        ({"answer": "s"}, PromptError, ["joins", "' dog'"]),
        ({"answer": " on", "generate": 2}, PromptError, ["ask for one"]),
        ({"answer": " on", "position": 3}, PromptError, ["position 3"]),
        ({"generate": 99}, PromptError, ["context window of 32"]),
        ({"answer": " on" * 40}, PromptError, ["context window"]),
        ({"position": 99}, PromptError, ["position 99"]),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_words(
    reading: Any, settings: dict[str, Any], error: type[Exception], words: list[str]
) -> None:
    with pytest.raises(error) as raised:
        ls.information_flow(reading, TEXT, **{"spans": {"a": "sleeps on"}, **settings})
    for word in words:
        assert word in str(raised.value)


def test_ids_take_ranges_of_tokens_and_ids_as_answer() -> None:
    model = gpt2_like()
    with pytest.raises(PromptError, match=r"give \(start, stop\) in tokens"):
        ls.information_flow(model, IDS, {"a": "text"})
    with pytest.raises(PromptError, match="given as ids"):
        ls.information_flow(model, IDS, {"a": SPAN}, answer=" text")
    with pytest.raises(PromptError, match="context window"):
        ls.information_flow(model, [1] * (N_CTX + 1), {"a": SPAN})


def test_the_messages_of_a_chat_are_its_spans() -> None:
    model = gpt2_like()
    model.tokenizer = tokenizer()
    model.tokenizer.chat_template = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    chat = [{"role": "system", "content": "The sofa"}, {"role": "user", "content": "The dog sleeps"}]
    assert list(ls.information_flow(model, chat).spans) == ["system", "user 1"]
    assert ls.information_flow(model, chat, {"who": "dog"}).spans == {"who": (5, 6)}


def test_gradients_that_are_not_finite_are_refused() -> None:
    model = gpt2_like()

    def spoil(activation: torch.Tensor, hook: Any) -> None:
        if activation.requires_grad:
            activation.register_hook(lambda gradient: gradient * math.inf)

    with model.hooks(fwd_hooks=[("blocks.0.hook_mlp_out", spoil)]), pytest.raises(NumericsError, match="hook_embed"):
        ls.information_flow(model, IDS, SPANS)
    assert not model.hook_embed.fwd_hooks


# What is kept


def test_a_saved_result_is_the_same_again(tmp_path: Any) -> None:
    flow = ls.information_flow(gpt2_like(), IDS[:5], SPANS | {"late": range(4, 5)}, answer=IDS[5:], rank=3, samples=2)
    flow.save(tmp_path / "flow.safetensors")
    again = ls.InformationFlow.load(tmp_path / "flow.safetensors")
    assert again.to_dict() == flow.to_dict() and again.totals() == flow.totals()
    assert "2 predictions" in repr(again) and "'early'" in repr(again)
    table = again.to_pandas()
    assert list(table["span"]) == ["early", "early", "late", "late"] and list(table["position"][:2]) == [4, 5]
    assert table["bound"].sum() == pytest.approx(sum(item.bound for item in flow.totals()))
    assert [item.name for item in flow.above(0.0)] == ["early", "late"] and flow.above(1e9) == []
    with pytest.raises(FileError, match=r"kind 'flow'; expected attribution"):
        ls.Attribution.load(tmp_path / "flow.safetensors")


def test_the_contract_names_the_answer_and_where_it_is_from() -> None:
    model = gpt2_like()
    given = ls.information_flow(model, IDS, SPANS, answer=[4, 9]).contract
    assert "are given and teacher-forced" in given["generative process"]
    assert "those of the answer '#4#9'" in given["output explained"]
    assert given["held fixed"].startswith("the answer's own tokens")
    made = ls.information_flow(model, IDS, SPANS, answer=2)
    assert made.generated and "generated by the model" in made.contract["generative process"]
    alone = ls.information_flow(model, IDS, SPANS).contract
    assert "answer" not in "".join(alone.values())


def test_the_contract_names_noise_spans_and_predictions() -> None:
    contract = ls.information_flow(gpt2_like(), IDS, SPANS, rank=2, sigma=0.25).contract
    assert "σ = 0.25" in contract["generative process"] and "'early' (1 to 3)" in contract["eligible features"]
    assert "2 directions" in contract["score attributed"] and "16 random" in contract["score attributed"]
