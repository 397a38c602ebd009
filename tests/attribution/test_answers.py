"""Whole answers: the objective summed over their predictions, against autograd, single calls and differences."""

from collections.abc import Callable
from typing import Any

import pytest
import reference
import torch
from tiny_models import gemma_like, gpt2_like, llama_like
from torch import Tensor
from torch.testing import assert_close

import lens_scopes as ls
from lens_scopes.scopes.objectives.base import over_answer

PROMPT = [1, 17, 0, 8]
ANSWER = [22, 3, 5]
OTHER = [4, 9, 12, 2, 7]
NUMBERS: dict[str, tuple[Any, Callable[[Tensor, Tensor, int], Tensor]]] = {
    "semantic": (ls.Semantic, lambda logits, y, token: logits[token]),
    "logprob": (ls.LogProb, lambda logits, y, token: logits.log_softmax(-1)[token]),
    "entropy": (ls.Entropy, lambda logits, y, token: reference.entropy_of(logits.softmax(-1))),
    "temperature": (ls.Temperature, lambda logits, y, token: y.norm()),
}


def literal_gradient(model: Any, number: Callable[..., Tensor], answer: list[int], site: str = "hook_embed") -> Tensor:
    """The gradient of the sum over the answer's predictions, at every token of the prompt and the answer."""
    ids = [*PROMPT, *answer[:-1]]
    activation = reference.site_activation(model, ids, site).requires_grad_(True)
    total = activation.new_zeros(())
    for index, token in enumerate(answer):
        y = reference.state_from_site(model, ids, len(PROMPT) - 1 + index, site, activation)
        total = total + number(reference.logits_from_final_state(model, y), y, token)
    return torch.autograd.grad(total, activation)[0]


# Numbers


@pytest.mark.parametrize("scope", NUMBERS)
def test_a_number_is_the_gradient_of_its_sum(tiny: Any, scope: str) -> None:
    objective, number = NUMBERS[scope]
    expected = literal_gradient(tiny, number, ANSWER).norm(dim=-1)
    att = ls.attribute(tiny, PROMPT, objective(), answer=ANSWER)
    assert_close(att.scores, expected[: len(PROMPT)], rtol=1e-8, atol=1e-12)
    own_too = ls.attribute(tiny, PROMPT, objective(), answer=ANSWER, eligible="all")
    assert_close(own_too.scores, expected, rtol=1e-8, atol=1e-12)
    assert own_too.token_ids == [*PROMPT, *ANSWER[:-1]]


def test_every_layer_reads_the_same_sum(tiny: Any) -> None:
    att = ls.attribute(tiny, PROMPT, ls.LogProb(), answer=ANSWER, layers=True, sites="hook_z")
    assert att.layers is not None
    for name, row in zip(att.layer_names, att.layers, strict=True):
        expected = literal_gradient(tiny, NUMBERS["logprob"][1], ANSWER, name).norm(dim=-1)
        assert_close(row, expected[: len(PROMPT)], rtol=1e-8, atol=1e-12)
    for name, values in att.sites.items():
        expected = literal_gradient(tiny, NUMBERS["logprob"][1], ANSWER, name).norm(dim=-1)
        assert_close(values, expected[: len(PROMPT)], rtol=1e-8, atol=1e-12)


def test_an_answer_is_the_sum_of_its_tokens_one_by_one() -> None:
    model, ids = gpt2_like(), [*PROMPT, *ANSWER]
    whole = ls.attribute(model, PROMPT, ls.LogProb(), answer=ANSWER, readout="dot")
    single = [
        ls.attribute(model, ids, ls.LogProb(token), readout="dot", position=len(PROMPT) - 1 + index)
        for index, token in enumerate(ANSWER)
    ]
    assert_close(whole.scores, torch.stack([att.scores[: len(PROMPT)] for att in single]).sum(0))
    assert whole.answer is not None
    assert whole.answer.log_probabilities == pytest.approx(
        [
            float(reference.probabilities(model, reference.state_of(model, ids, len(PROMPT) - 1 + index))[token].log())
            for index, token in enumerate(ANSWER)
        ]
    )


def test_scores_predict_a_small_change_of_the_answers_log_probability() -> None:
    """Central differences of log P(answer | prompt) as one embedding grows: its gradient times its value."""
    model, step = llama_like(), 1e-5
    ids = [*PROMPT, *ANSWER[:-1]]
    own = reference.site_activation(model, ids, "hook_embed")
    change = torch.zeros_like(own)
    change[2] = own[2]

    def log_probability(embeddings: Tensor) -> float:
        total = 0.0
        for index, token in enumerate(ANSWER):
            y = reference.final_state(model, embeddings, ids, len(PROMPT) - 1 + index)
            total += float(reference.logits_from_final_state(model, y).log_softmax(-1)[token])
        return total

    slope = (log_probability(own + step * change) - log_probability(own - step * change)) / (2 * step)
    score = ls.attribute(model, PROMPT, ls.LogProb(), answer=ANSWER, readout="dot").scores[2]
    assert float(score) == pytest.approx(slope, rel=1e-7)


# Two answers


@pytest.mark.parametrize("build", [gpt2_like, llama_like, gemma_like])
def test_contrasted_answers_are_the_gradient_of_the_difference(build: Any) -> None:
    model, number = build(), NUMBERS["logprob"][1]
    first, second = (literal_gradient(model, number, answer)[: len(PROMPT)] for answer in (ANSWER, OTHER))
    att = ls.attribute(model, PROMPT, ls.LogProbDiff(ANSWER, OTHER), layers=True)
    assert_close(att.scores, (first - second).norm(dim=-1), rtol=1e-8, atol=1e-12)
    assert att.layers is not None and att.answer is not None and att.other_answer is not None
    assert (att.answer.token_ids, att.other_answer.token_ids) == (ANSWER, OTHER)


def test_a_contrast_read_by_dot_is_the_difference_of_both() -> None:
    model = gpt2_like()
    one, other = (ls.attribute(model, PROMPT, ls.LogProb(), answer=a, readout="dot").scores for a in (ANSWER, OTHER))
    both = ls.attribute(model, PROMPT, ls.LogProbDiff(ANSWER, OTHER), readout="dot").scores
    assert_close(both, one - other)


def test_a_contrast_of_single_tokens_is_the_difference_of_their_logits() -> None:
    model = llama_like()
    tokens = ls.attribute(model, PROMPT, ls.LogitDiff(5, 9)).scores
    assert_close(ls.attribute(model, PROMPT, ls.LogProbDiff(5, 9)).scores, tokens, rtol=1e-8, atol=1e-12)


# Fisher


@pytest.mark.parametrize("rank", [1, 2])
def test_fisher_of_an_answer_sums_the_divergences_of_its_predictions(tiny: Any, rank: int) -> None:
    ids = [*PROMPT, *ANSWER[:-1]]
    expected = sum(
        reference.fisher_scores(tiny, ids, rank, position=len(PROMPT) - 1 + index)[: len(PROMPT)]
        for index in range(len(ANSWER))
    )
    att = ls.attribute(tiny, PROMPT, ls.Fisher(rank), answer=ANSWER)
    assert_close(att.scores, expected, rtol=1e-7, atol=1e-12)


def test_the_exact_trace_of_an_answer() -> None:
    model, ids = llama_like(), [*PROMPT, *ANSWER[:-1]]
    expected = sum(
        reference.fisher_scores(model, ids, None, position=len(PROMPT) - 1 + index)[: len(PROMPT)]
        for index in range(len(ANSWER))
    )
    att = ls.attribute(model, PROMPT, ls.Fisher("trace", samples=0), answer=ANSWER)
    assert_close(att.scores, expected, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("objective", [ls.Fisher(2, samples=64), ls.Fisher("trace", samples=64)])
def test_the_sampled_fisher_of_an_answer_is_unbiased_and_knows_its_error(objective: ls.Fisher) -> None:
    model = gpt2_like()
    exact = ls.attribute(
        model, PROMPT, ls.Fisher(objective.rank, samples=0 if objective.rank == "trace" else None), answer=ANSWER
    ).scores
    deviations = []
    for seed in range(40):
        drawn = ls.Fisher(objective.rank, samples=objective.samples, seed=seed)
        att = ls.attribute(model, PROMPT, drawn, answer=ANSWER)
        assert att.standard_error is not None
        counted = exact > exact.max() * 1e-6
        deviations.append(((att.scores - exact) / att.standard_error)[counted])
    z = torch.stack(deviations)
    assert z.mean(0).abs().max() < 0.6  # four standard errors of a mean of 40
    assert 0.6 < float(z.square().mean().sqrt()) < 1.6


@pytest.mark.parametrize(
    ("objective", "passes"),
    [
        (ls.LogProb(), [1, 1]),
        (ls.Fisher(2), [4, 10]),
        (ls.Fisher(2, samples=6), [6, 6]),
        (ls.LogProbDiff(5, OTHER), [1]),
    ],
)
def test_the_cost_does_not_grow_with_the_answer_but_for_an_exact_divergence(objective: Any, passes: list[int]) -> None:
    model, counted = llama_like(), []
    for answer in [None] if len(passes) == 1 else [ANSWER[:2], OTHER]:
        seen: list[tuple[int, int]] = []
        ls.attribute(model, PROMPT, objective, answer=answer, progress=lambda *pair, seen=seen: seen.append(pair))
        assert seen[-1][0] == seen[-1][1]
        counted.append(seen[-1][1])
    assert counted == passes


# Points


def test_a_path_of_many_steps_is_complete_for_the_answers_log_probability() -> None:
    """Integrated Gradients from zero: Σ_t score_t = log P(answer | prompt) − log P(answer | zero embeddings)."""
    model, ids = gpt2_like(), [*PROMPT, *ANSWER[:-1]]
    own = reference.site_activation(model, ids, "hook_embed")
    start = own.clone()
    start[: len(PROMPT)] = 0

    def log_probability(embeddings: Tensor) -> float:
        states = [reference.final_state(model, embeddings, ids, len(PROMPT) - 1 + n) for n in range(len(ANSWER))]
        logits = [reference.logits_from_final_state(model, y).log_softmax(-1) for y in states]
        return sum(float(row[token]) for row, token in zip(logits, ANSWER, strict=True))

    att = ls.attribute(model, PROMPT, ls.LogProb(), answer=ANSWER, readout="dot", points="path@400")
    assert float(att.scores.sum()) == pytest.approx(log_probability(own) - log_probability(start), rel=1e-3)


def test_points_of_two_answers_average_the_difference() -> None:
    model = gpt2_like()
    one, other = (
        ls.attribute(model, PROMPT, ls.LogProb(), answer=answer, readout="dot", points="path@5", layers=True)
        for answer in (ANSWER, OTHER)
    )
    both = ls.attribute(model, PROMPT, ls.LogProbDiff(ANSWER, OTHER), readout="dot", points="path@5", layers=True)
    assert_close(both.scores, one.scores - other.scores)


def test_noise_averages_the_gradients_of_a_divergence_of_the_answer() -> None:
    model = gpt2_like()
    still = ls.attribute(model, PROMPT, ls.Fisher(2), answer=ANSWER, points="noise@3,scale=1e-9")
    assert_close(still.scores, ls.attribute(model, PROMPT, ls.Fisher(2), answer=ANSWER).scores, rtol=1e-5, atol=1e-9)


# Batches, memory, generation, files


def test_a_batch_gives_each_prompt_its_answer_and_the_scores_of_single_calls() -> None:
    model, longer = llama_like(), [*PROMPT, 11, 6, 13]
    for objective in (ls.LogProb(), ls.Fisher(2)):
        batch = ls.attribute_batch(model, [PROMPT, longer], objective, answer=[ANSWER, OTHER], readout="product")
        for prompt, answer, att in zip((PROMPT, longer), (ANSWER, OTHER), batch, strict=True):
            single = ls.attribute(model, prompt, objective, answer=answer, readout="product")
            assert_close(att.scores, single.scores, rtol=1e-9, atol=1e-13)
            assert (att.contract, att.spec, att.objective) == (single.contract, single.spec, single.objective)
    both = ls.attribute_batch(model, [PROMPT, longer], ls.LogProbDiff(ANSWER, OTHER), layers=True)
    assert_close(both[1].scores, ls.attribute(model, longer, ls.LogProbDiff(ANSWER, OTHER)).scores)


def test_the_mean_is_that_of_the_prompt() -> None:
    model = gpt2_like()
    gradient = literal_gradient(model, NUMBERS["logprob"][1], ANSWER)[: len(PROMPT)]
    own = reference.site_activation(model, PROMPT, "hook_embed")
    expected = (gradient * (own - own.mean(0))).sum(-1)
    found = ls.attribute(model, PROMPT, ls.LogProb(), answer=ANSWER, readout="dot-mean").scores
    assert_close(found, expected, rtol=1e-8, atol=1e-12)


def test_slices_of_layers_give_the_same_scores() -> None:
    model = gemma_like()
    whole = ls.attribute(model, PROMPT, ls.LogProbDiff(ANSWER, OTHER), layers=True)
    sliced = ls.attribute(model, PROMPT, ls.LogProbDiff(ANSWER, OTHER), layers=True, memory="100kB")
    assert sliced.memory is not None and sliced.memory.sliced
    assert whole.layers is not None
    assert_close(sliced.layers, whole.layers)


def test_a_number_asks_the_model_for_the_answer() -> None:
    model = gpt2_like()
    att = ls.attribute(model, PROMPT, ls.LogProb(), answer=3)
    ids = list(PROMPT)
    for _ in range(3):
        ids.append(int(reference.probabilities(model, reference.state_of(model, ids)).argmax()))
    assert att.answer is not None
    assert (att.answer.token_ids, att.answer.generated) == (ids[len(PROMPT) :], True)
    given = ls.attribute(model, PROMPT, ls.LogProb(), answer=att.answer.token_ids)
    assert_close(given.scores, att.scores)
    assert "generated by the model" in att.contract["generative process"]
    assert "are given" in given.contract["generative process"]


def test_the_contract_says_what_is_scored_and_what_is_held() -> None:
    model = gpt2_like()
    prompt = ls.attribute(model, PROMPT, ls.LogProb(), answer=ANSWER).contract
    assert "the prompt's 4 tokens" in prompt["eligible features"]
    assert prompt["held fixed"].startswith("the answer's tokens")
    assert "log P(answer | prompt)" in prompt["output explained"]
    everything = ls.attribute(model, PROMPT, ls.LogProb(), answer=ANSWER, eligible="all").contract
    assert "the answer's 2 earlier ones" in everything["eligible features"]
    assert not everything["held fixed"].startswith("the answer's tokens")


def test_a_saved_answer_comes_back(tmp_path: Any) -> None:
    att = ls.attribute(gpt2_like(), PROMPT, ls.LogProbDiff(ANSWER, OTHER))
    att.save(tmp_path / "answer.safetensors")
    loaded = ls.Attribution.load(tmp_path / "answer.safetensors")
    assert (loaded.answer, loaded.other_answer) == (att.answer, att.other_answer)
    assert ls.Spec.from_options(**loaded.spec).objective == ls.LogProbDiff(tuple(ANSWER), tuple(OTHER))


# Left out one by one


@pytest.mark.parametrize("ablation", ["zero", "mean", "remove"])
def test_an_answer_without_each_token_against_a_literal_loop(tiny: Any, ablation: str) -> None:
    own = reference.site_activation(tiny, [*PROMPT, *ANSWER[:-1]], "hook_embed")

    def predictions(left_out: int | None) -> list[Tensor]:
        ids, embeddings = [*PROMPT, *ANSWER[:-1]], own.clone()
        if left_out is not None and ablation == "remove":
            ids.pop(left_out)
            embeddings = torch.cat([own[:left_out], own[left_out + 1 :]])
        elif left_out is not None:
            embeddings[left_out] = 0 if ablation == "zero" else own[: len(PROMPT)].mean(0)
        places = range(len(ids) - len(ANSWER), len(ids))
        states = [reference.final_state(tiny, embeddings, ids, place) for place in places]
        return [reference.logits_from_final_state(tiny, y) for y in states]

    def summed(of: Callable[[Tensor, int], Tensor], logits: list[Tensor]) -> Tensor:
        return torch.stack([of(row, token) for row, token in zip(logits, ANSWER, strict=True)]).sum()

    clean, after = predictions(None), [predictions(t) for t in range(len(PROMPT))]
    numbers = {"logit": lambda z, token: z[token], "logprob": lambda z, token: z.log_softmax(-1)[token]}
    for measure, number in numbers.items():
        expected = torch.stack([summed(number, clean) - summed(number, row) for row in after])
        att = ls.attribute(tiny, PROMPT, ls.LeaveOneOut(measure, ablation), answer=ANSWER)  # type: ignore[arg-type]
        assert_close(att.scores, expected, rtol=1e-8, atol=1e-12)
    divergences = [
        sum((p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum() for p, q in zip(clean, row, strict=True))
        for row in after
    ]
    att = ls.attribute(tiny, PROMPT, ls.LeaveOneOut("kl", ablation), answer=ANSWER)
    assert_close(att.scores, torch.stack(divergences), rtol=1e-8, atol=1e-12)  # type: ignore[arg-type]
    assert att.answer is not None and att.answer.token_ids == ANSWER and att.target is None


@pytest.mark.parametrize("ablation", ["zero", "remove", "resample"])
def test_an_answer_of_one_token_is_the_target(ablation: str) -> None:
    model = llama_like()
    for measure in ("logit", "logprob", "kl"):
        method = ls.LeaveOneOut(measure, ablation)
        target = None if measure == "kl" else ANSWER[0]
        expected = ls.attribute(model, PROMPT, method, target=target).scores
        assert_close(ls.attribute(model, PROMPT, method, answer=ANSWER[:1]).scores, expected)


def test_a_comparison_method_says_which_answer_it_explains(tmp_path: Any) -> None:
    model = gpt2_like()
    att = ls.attribute(model, PROMPT, ls.LeaveOneOut("logprob"), answer=2)
    assert att.answer is not None and att.answer.generated
    assert att.objective == f"LeaveOneOut('logprob', ablation='zero'), answer={att.answer.text!r}"
    assert att.contract["output explained"].startswith("log P(answer | prompt) of the answer")
    assert att.contract["held fixed"].startswith("the answer's tokens")
    assert "generated by the model" in att.contract["generative process"]
    assert att.contract["eligible features"] == "the prompt's 4 tokens"
    att.save(tmp_path / "left-out.safetensors")
    loaded = ls.Attribution.load(tmp_path / "left-out.safetensors")
    again = ls.attribute(model, PROMPT, ls.Spec.from_options(**loaded.spec))
    assert torch.equal(again.scores, att.scores) and again.answer == att.answer


# One row a token of the answer


@pytest.mark.parametrize(
    ("objective", "readout"), [(ls.LogProb(), "dot"), (ls.Fisher(2), "norm"), (ls.Fisher(2), "dot-mean")]
)
def test_the_rows_of_an_answer_add_up_to_it(objective: ls.Objective, readout: str) -> None:
    model = llama_like()
    matrix = ls.attribute_all(model, PROMPT, objective, answer=ANSWER, readout=readout)
    assert (matrix.destinations, matrix.answer, matrix.generated) == ([3, 4, 5], 3, 0)
    assert [item.token_id for item in matrix.targets if item] == (ANSWER if isinstance(objective, ls.LogProb) else [])
    whole = ls.attribute(model, PROMPT, objective, answer=ANSWER, readout=readout)
    assert_close(matrix.matrix.sum(0)[: len(PROMPT)], whole.scores)
    if readout == "dot-mean":  # of the prompt alone
        return
    ids = [*PROMPT, *ANSWER[:-1]]
    for row, dest, token in zip(matrix.matrix, matrix.destinations, ANSWER, strict=True):
        target = token if isinstance(objective, ls.LogProb) else None
        single = ls.attribute(model, ids, objective, position=dest, target=target, readout=readout)
        assert_close(row[: dest + 1], single.scores, rtol=1e-8, atol=1e-12)


def test_a_matrix_of_a_given_answer_says_so(tmp_path: Any) -> None:
    model = gpt2_like()
    made = ls.attribute_all(model, PROMPT, ls.Entropy(), generate=2)
    assert torch.equal(made.matrix, ls.attribute_all(model, PROMPT, ls.Entropy(), answer=2).matrix)
    assert torch.equal(made.matrix, ls.attribute_all(model, PROMPT, ls.Spec(ls.Entropy(), answer=2)).matrix)
    assert (made.answer, made.generated) == (2, 2) and "generated by the model" in made.contract["generative process"]
    given = ls.attribute_all(model, PROMPT, ls.Entropy(), answer=made.token_ids[4:])
    assert torch.equal(given.matrix, made.matrix) and "are given" in given.contract["generative process"]
    assert "those before the answer's tokens" in given.contract["output explained"]
    assert list(given.span_totals({"prompt": (1, 4)}).columns) == ["prompt", "answer"]
    given.save(tmp_path / "matrix.safetensors")
    assert ls.AttributionMatrix.load(tmp_path / "matrix.safetensors").to_dict() == given.to_dict()
    assert "answer" not in ls.attribute_all(model, PROMPT, ls.Entropy()).contract["generative process"]


# What has no place


@pytest.mark.parametrize(
    ("objective", "more", "message"),
    [
        (ls.LogProb(), {"answer": []}, "is empty"),
        (ls.LogProb(), {"answer": 0}, "at least one token"),
        (ls.LogProb(), {"answer": 500}, "context window"),
        (ls.LogProb(), {"answer": [999_999]}, "vocabulary"),
        (ls.LogProb(), {"answer": 1.5}, "a text, token ids or a number"),
        (ls.LogProb(), {"answer": ANSWER, "target": 5}, "target=5 would be dropped"),
        (ls.LogProb(), {"answer": ANSWER, "position": 1}, "position=1 does not apply"),
        (ls.LogProb(), {"answer": ANSWER, "eligible": "answer"}, "'prompt' or 'all'"),
        (ls.LogProb(), {"eligible": "all"}, "give answer="),
        (ls.LogProbDiff(ANSWER, OTHER), {"eligible": "all"}, "not one answer"),
        (ls.Semantic(5), {"answer": ANSWER}, "names its own token"),
        (ls.LogitDiff(5, 6), {"answer": ANSWER}, "LogProbDiff"),
        (ls.LogProbDiff(ANSWER, OTHER), {"answer": ANSWER}, "its own two answers"),
        (ls.Fisher(2, samples=4), {}, "samples=4 would be dropped"),
        (ls.AttentionRollout(), {"answer": ANSWER}, "takes no gradient"),
        (ls.RandomScores(), {"answer": ANSWER}, "takes no gradient"),
        (ls.LeaveOneOut(), {"answer": ANSWER, "eligible": "all"}, "eligible='all' does not apply"),
        (ls.LeaveOneOut("logit"), {"answer": ANSWER, "target": 5}, "target=5 would be dropped"),
    ],
)
def test_what_has_no_place_is_refused(objective: Any, more: dict[str, Any], message: str) -> None:
    with pytest.raises(ls.LensScopesError, match=message.replace("(", r"\(")):
        ls.attribute(gpt2_like(), PROMPT, objective, **more)


@pytest.mark.parametrize(
    ("objective", "more", "message"),
    [
        (ls.LogProbDiff(ANSWER, OTHER), {}, "contrasts two whole answers"),
        (ls.LogProb(), {"answer": ANSWER, "generate": 2}, "ask for one of them"),
        (ls.LogProb(), {"answer": []}, "is empty"),
        (ls.Spec(ls.LogProb(), answer=3, eligible="all"), {}, "eligible='all' does not apply"),
        (ls.Spec(ls.Fisher(2, samples=4), answer=3), {}, "samples=4 would be dropped"),
    ],
)
def test_what_has_no_place_in_a_matrix_is_refused(objective: Any, more: dict[str, Any], message: str) -> None:
    with pytest.raises(ls.LensScopesError, match=message):
        ls.attribute_all(gpt2_like(), PROMPT, objective, **more)


def test_a_batch_needs_as_many_answers_as_prompts() -> None:
    with pytest.raises(ls.LensScopesError, match="2 answers for 1 prompts"):
        ls.attribute_batch(gpt2_like(), [PROMPT], ls.LogProb(), answer=[ANSWER, OTHER])


def test_a_number_and_a_divergence_do_not_add_up() -> None:
    number = ls.Directions(torch.ones(1, 4), torch.ones(1))
    divergence = ls.Directions(torch.ones(2, 4), torch.ones(2), squared=True)
    with pytest.raises(ls.LensScopesError, match="a number at some"):
        over_answer([number, divergence])
