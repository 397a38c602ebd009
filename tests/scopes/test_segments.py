"""Methods that leave out whole segments: literal loops, closed forms, and what grouping their scores gives back."""

import math
from typing import Any

import pytest
import reference
import torch
from docstring_examples import example_model
from tiny_models import gpt2_like, linear_toy
from torch import Tensor
from torch.testing import assert_close

import lens_scopes as ls
from lens_scopes.errors import EvaluationError, ObjectiveError, PromptError
from lens_scopes.evaluation.evaluator import Evaluator
from lens_scopes.evaluation.methods.names import as_method
from lens_scopes.prompts.groups import GROUPINGS
from lens_scopes.prompts.read import read_prompt
from lens_scopes.prompts.spans import read_span
from lens_scopes.scopes.comparisons import context_cite
from lens_scopes.scopes.comparisons.context_cite import lasso, logit, random_subsets, segment_weights

TEXT = "The capital of France is Paris. Paris is of Italy.\nRome is the capital.\n\nThe capital of Italy is"
CHAT = [{"role": "user", "content": "The capital of Italy is Paris."}, {"role": "assistant", "content": "Italy is"}]
ANSWER = [9, 4, 12]
CLOSE: Any = {"rtol": 1e-8, "atol": 1e-12}


def answer_logits(model: Any, ids: list[int], left_out: list[int], ablation: str) -> list[Tensor]:
    """Logits of each of the answer's predictions after tokens of the prompt are replaced or taken out."""
    embeddings = reference.site_activation(model, [*ids, *ANSWER[:-1]], "hook_embed")
    mean = embeddings[1 : len(ids)].mean(0)
    if ablation == "remove":
        ids = [token for index, token in enumerate(ids) if index not in left_out]
        embeddings = reference.site_activation(model, [*ids, *ANSWER[:-1]], "hook_embed")
    else:
        embeddings[left_out] = mean if ablation == "mean" else torch.zeros_like(mean)
    sequence = [*ids, *ANSWER[:-1]]
    states = [reference.final_state(model, embeddings, sequence, len(ids) - 1 + n) for n in range(len(ANSWER))]
    return [reference.logits_from_final_state(model, y) for y in states]


def log_probability(logits: list[Tensor]) -> float:
    return sum(float(row.log_softmax(-1)[token]) for row, token in zip(logits, ANSWER, strict=True))


# Leave one segment out


@pytest.mark.parametrize("by", GROUPINGS)
@pytest.mark.parametrize("ablation", ["zero", "mean", "remove"])
def test_a_segments_scores_sum_to_what_leaving_it_out_does(by: str, ablation: str) -> None:
    model = example_model()
    prompt = read_prompt(model, CHAT if by == "turn" else TEXT)
    method = ls.LeaveOneOut("logprob", ablation, by=by)
    att = ls.attribute(model, prompt, method, answer=ANSWER)
    groups = att.group(by)
    ids, clean = list(prompt.token_ids), log_probability(answer_logits(model, list(prompt.token_ids), [], ablation))
    assert len(groups) > 2
    for start, stop, special, score in groups[["start", "stop", "special", "score"]].itertuples(index=False):
        fall = clean - log_probability(answer_logits(model, ids, list(range(start, stop)), ablation))
        assert score == pytest.approx(0 if special else fall, rel=1e-8, abs=1e-12)
        assert_close(att.scores[start:stop], torch.full((stop - start,), score / (stop - start), dtype=torch.float64))
    assert method.by in att.contract["generative process"] and "|s|" in att.contract["score attributed"]


def test_by_token_is_as_before_and_words_of_one_token_are_tokens() -> None:
    model = example_model()
    tokens = ls.attribute(model, "The capital of France is", ls.LeaveOneOut())
    words = ls.attribute(model, "The capital of France is", ls.LeaveOneOut(by="word"))
    assert_close(words.scores, tokens.scores, **CLOSE)
    assert "by" not in tokens.spec and ls.Spec.from_options(**words.spec).objective == ls.LeaveOneOut(by="word")
    assert words.objective == "LeaveOneOut('kl', ablation='zero', by='word')"


def test_an_evaluation_counts_segments() -> None:
    model = example_model()
    prompt = read_prompt(model, TEXT)
    method = as_method("leave-one-out+by=sentence")
    found = method.score(model, prompt, 4)
    assert (found.forwards, found.backwards) == (1 + 4, 0)
    _, measured = Evaluator(model, ["leave-one-out+by=sentence"], ["loo-kl"], ["zero"]).measure(prompt, 4, index=0)
    assert {item.forwards for item in measured} == {1 + 4}


def test_special_tokens_are_never_left_out() -> None:
    """The text of a message may hold one; its segment's other tokens share the whole effect."""
    model = example_model()
    prompt = read_prompt(model, "The capital of<bos> France. Rome is")
    assert prompt.special[4]
    att = ls.attribute(model, prompt, ls.LeaveOneOut(by="sentence"))
    assert att.scores[0] == att.scores[4] == 0 and att.scores[1:4].all()


@pytest.mark.parametrize(
    ("prompt", "by", "message"),
    [
        ("The capital of France is", "sentence", "the prompt has 1; give a longer prompt, or choose by='word'"),
        ("The capital. Rome is", "paragraph", "choose by='sentence'"),
        ("The", "word", "choose by='token'"),
        ("The capital. Rome is", "turn", "give the prompt as chat messages"),
        ([0, 2, 3], "sentence", "was given as ids; give the text"),
    ],
)
def test_prompts_without_segments_are_refused(prompt: Any, by: str, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        ls.attribute(example_model(), prompt, ls.LeaveOneOut(by=by))


def test_units_of_no_such_name_are_refused() -> None:
    with pytest.raises(ObjectiveError, match="'turn'; got 'chapter'"):
        ls.LeaveOneOut(by="chapter")


# ContextCite


def lines_prompt(ids: list[int], lengths: list[int]) -> ls.Prompt:
    """Lines of so many tokens, after a special token."""
    tokens = ["<bos>", *(text for length in lengths for text in [*["a"] * (length - 1), "a\n"])]
    special = (True, *[False] * (len(ids) - 1))
    return ls.Prompt(None, tuple(ids), tuple(tokens), None, special, "ids")


def additive_model(token: int) -> tuple[Any, Any]:
    """A model whose log p − log(1 − p) of one token is linear in the embeddings: all other tokens have one logit."""
    model, jacobian = linear_toy()
    others = [index for index in range(model.cfg.d_vocab_out) if index != token]
    model.W_U.data[:, others] = model.W_U.data[:, others[:1]].clone()
    model.b_U.data[others] = model.b_U.data[others[0]].clone()
    return model, jacobian


IDS, LENGTHS, TOKEN = [1, 17, 0, 8, 22, 3, 8, 11], [2, 1, 3, 1], 5


def true_weights() -> tuple[Any, Tensor]:
    model, jacobian = additive_model(TOKEN)
    x = reference.site_activation(model, IDS, "hook_embed")
    direction = model.W_U[:, TOKEN] - model.W_U[:, TOKEN - 1]
    effects = torch.einsum("o,toi,ti->t", direction, jacobian(len(IDS)), x)[1:]
    return model, torch.stack([part.sum() for part in effects.split(LENGTHS)])


def test_the_weights_of_an_additive_model_are_recovered(monkeypatch: pytest.MonkeyPatch) -> None:
    model, expected = true_weights()
    method = ls.ContextCite(40, by="line", ablation="zero")
    prompt = lines_prompt(IDS, LENGTHS)
    monkeypatch.setattr(context_cite, "_PENALTY", 0.0)
    att = ls.attribute(model, prompt, method, target=TOKEN)
    scores = torch.tensor(att.group("line")["score"].tolist(), dtype=torch.float64)
    assert_close(scores, torch.cat([torch.zeros(1), expected]), **CLOSE)
    assert_close(att.scores[1:], (expected / torch.tensor(LENGTHS)).repeat_interleave(torch.tensor(LENGTHS)), **CLOSE)


def test_the_ranking_is_that_of_leaving_one_out_where_effects_add_up() -> None:
    model, expected = true_weights()
    prompt = lines_prompt(IDS, LENGTHS)
    cited, left_out = (
        ls.attribute(model, prompt, method, target=TOKEN).group("line")["score"][1:]
        for method in (ls.ContextCite(by="line", ablation="zero"), ls.LeaveOneOut("logprob", "zero", by="line"))
    )
    assert cited.rank().tolist() == left_out.rank().tolist() == [float(r + 1) for r in expected.argsort().argsort()]


@pytest.mark.parametrize("ablation", ["zero", "mean", "remove"])
def test_an_answers_ablations_against_a_literal_loop(ablation: str) -> None:
    model = example_model()
    prompt = read_prompt(model, TEXT)
    att = ls.attribute(model, prompt, ls.ContextCite(12, "sentence", ablation, seed=3), answer=ANSWER)
    groups = att.group("sentence")
    sentences = groups[~groups["special"]]
    kept = random_subsets(12, len(sentences), 3, with_empty=True)
    outcomes = []
    for row in kept:
        gone = [
            i
            for (a, b), stays in zip(sentences[["start", "stop"]].values, row, strict=True)
            if not stays
            for i in range(a, b)
        ]
        p = math.exp(log_probability(answer_logits(model, list(prompt.token_ids), gone, ablation)))
        outcomes.append(math.log(p) - math.log1p(-p))
    expected = 3 * segment_weights(kept, torch.tensor(outcomes, dtype=torch.float64) / 3)
    assert_close(torch.tensor(sentences["score"].tolist(), dtype=torch.float64), expected, rtol=1e-7, atol=1e-10)
    assert expected.any()


def test_an_answer_of_one_token_is_the_target() -> None:
    model, method = example_model(), ls.ContextCite(16)
    target = ls.attribute(model, TEXT, method, target=8).scores
    assert_close(ls.attribute(model, TEXT, method, answer=[8]).scores, target)


def test_draws_are_seeded_and_the_global_generator_is_untouched() -> None:
    model, state = example_model(), torch.get_rng_state()
    one, again, other = (ls.attribute(model, TEXT, ls.ContextCite(8, seed=seed)).scores for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.allclose(one, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("ablation", ["zero", "remove", "resample"])
def test_it_takes_as_many_forward_passes_as_ablations(ablation: str) -> None:
    model, rows = example_model(), []
    block = model.blocks[0]
    forward = block.forward
    block.forward = lambda residual, *given, **more: rows.append(len(residual)) or forward(residual, *given, **more)
    try:
        scored = as_method(f"context-cite@9+ablation={ablation}").score(model, read_prompt(model, TEXT), 8)
    finally:
        del block.forward
    assert scored.forwards == 9
    assert sum(rows) == 1 + 9, "the prompt's own pass comes with every result"


def test_half_of_the_segments_are_kept_and_something_is_always_left() -> None:
    kept = random_subsets(4000, 3, 0, with_empty=True).double()
    assert kept.mean(0).tolist() == pytest.approx([0.5] * 3, abs=0.03)
    assert float(torch.corrcoef(kept.T).fill_diagonal_(0).abs().max()) < 0.06
    assert float((kept.sum(1) == 0).double().mean()) == pytest.approx(1 / 8, abs=0.02)
    assert bool(random_subsets(4000, 2, 0, with_empty=False).any(1).all())
    alone = ls.attribute(
        gpt2_like(), ls.Prompt(None, (3, 4), ("a\n", "b"), None, (False, False), "ids"), ls.ContextCite(20, "line")
    )
    assert bool(alone.scores.isfinite().all())


def test_a_contextcite_says_what_it_is(tmp_path: Any) -> None:
    model = example_model()
    att = ls.attribute(model, TEXT, ls.ContextCite(8, by="line"), answer=" Paris is")
    assert att.objective == "ContextCite(8, by='line', ablation='remove'), answer=' Paris is'"
    assert "P(answer | prompt) of the answer ' Paris is', of 2 tokens" in att.contract["output explained"]
    assert att.contract["generative process"].startswith("the answer's tokens are given and teacher-forced")
    assert "8 times, every line is kept with probability ½" in att.contract["generative process"]
    assert "summed over" not in att.contract["score attributed"]
    att.save(tmp_path / "cited.safetensors")
    loaded = ls.Attribution.load(tmp_path / "cited.safetensors")
    assert loaded.spec == {"scope": "context-cite", "ablations": 8, "by": "line", "answer": " Paris is"}
    assert torch.equal(ls.attribute(model, TEXT, ls.Spec.from_options(**loaded.spec)).scores, att.scores)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ls.ContextCite(1), ObjectiveError, "ablations must be an integer from 2"),
        (lambda: ls.ContextCite(True), ObjectiveError, "ablations must be an integer from 2"),
        (lambda: ls.ContextCite(by="chapter"), ObjectiveError, "got 'chapter'"),
        (lambda: ls.ContextCite(ablation="corpus-mean"), EvaluationError, "ContextCite sees one prompt alone"),
        (lambda: ls.ContextCite(ablation="delete"), EvaluationError, "unknown ablation"),
        (lambda: ls.attribute(example_model(), "The capital of", ls.ContextCite()), PromptError, "the prompt has 1"),
    ],
)
def test_bad_choices_are_refused_in_one_line(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


# The Lasso


def test_a_probability_near_one_keeps_its_digits() -> None:
    p = torch.tensor([-1e-12, -0.5, -700.0, 0.0], dtype=torch.float64)
    assert_close(logit(p)[:3], torch.tensor([math.log(1e12), -0.5 - math.log(1 - math.exp(-0.5)), -700.0]).double())
    assert bool(logit(p).isfinite().all())


def test_columns_at_right_angles_are_soft_thresholded() -> None:
    """x_jᵀx_k = n [j = k]: w_j = sign(c_j) max(|c_j| − penalty, 0) with c = xᵀy / n."""
    signs = torch.tensor([[1.0, 1], [1, -1]], dtype=torch.float64)
    hadamard = torch.kron(torch.kron(signs, signs), signs)[:, 1:]  # columns of mean zero
    y = torch.randn(8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    c = hadamard.T @ y / 8
    penalty = float(c.abs().median())
    expected = c.sign() * (c.abs() - penalty).clamp_min(0)
    assert 0 < int((expected != 0).sum()) < 7
    assert_close(lasso(hadamard, y + 3, penalty), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("n_columns", [6, 40])
def test_any_columns_meet_the_conditions_of_a_minimum(n_columns: int) -> None:
    """xᵀr / n = penalty · sign(w) where w ≠ 0, and at most the penalty elsewhere."""
    generator = torch.Generator().manual_seed(2)
    x = (torch.rand(20, n_columns, generator=generator) < 0.5).double()
    y = torch.randn(20, generator=generator, dtype=torch.float64)
    w = lasso(x, y, 0.05)
    centred = x - x.mean(0)
    pull = centred.T @ (y - y.mean() - centred @ w) / 20
    assert_close(pull[w != 0], 0.05 * w[w != 0].sign(), rtol=1e-6, atol=1e-9)
    assert float(pull.abs().max()) <= 0.05 + 1e-9 and bool((w == 0).any()) and bool((w != 0).any())


def test_a_segment_that_is_always_kept_has_no_weight() -> None:
    kept = torch.tensor([[True, True], [True, False], [True, True], [True, False]])
    weights = segment_weights(kept, torch.tensor([2.0, 0, 2, 0]))
    assert weights.tolist() == pytest.approx([0, 2 - 2 * 0.01], abs=1e-9)


# A part of the prompt alone is eligible

DOCUMENT = "Paris is of Italy. Rome is the capital. France is of Italy."
ASKED = f"The capital. {DOCUMENT} The capital of Italy is"


def test_segments_outside_the_part_stay_and_those_inside_have_the_same_effects() -> None:
    model = example_model()
    whole = ls.attribute(model, ASKED, ls.LeaveOneOut("logprob", by="sentence"), answer=ANSWER).group("sentence")
    method = ls.LeaveOneOut("logprob", by="sentence", within=DOCUMENT)
    att = ls.attribute(model, ASKED, method, answer=ANSWER)
    inside = whole[
        whole["text"].str.strip().isin(["Paris is of Italy.", "Rome is the capital.", "France is of Italy."])
    ]
    own = att.group("sentence", within=DOCUMENT)
    assert len(own) == 3 and own["label"].tolist() == inside["label"].tolist()
    assert own["score"].tolist() == pytest.approx(inside["score"].tolist(), rel=1e-9, abs=1e-12)
    start, stop = own["start"].min(), own["stop"].max()
    assert not att.scores[:start].any() and not att.scores[stop:].any() and bool(att.scores[start:stop].all())
    assert "those within 'Paris is" in att.contract["eligible features"]
    assert att.contract["held fixed"].startswith("every token outside 'Paris is")
    assert "within='Paris is" in att.objective


@pytest.mark.parametrize(
    "part", [DOCUMENT, (4, 19), range(4, 19), [4, 19], ls.Chars(13, 13 + len(DOCUMENT)), "document"]
)
def test_a_part_is_a_name_a_text_characters_or_tokens(part: Any) -> None:
    model = example_model()
    prompt = read_prompt(model, ASKED, spans={"document": DOCUMENT})
    assert prompt.spans["document"] == (4, 19)
    found = ls.attribute(model, prompt, ls.ContextCite(8, within=part), answer=ANSWER)
    assert_close(found.scores, ls.attribute(model, prompt, ls.ContextCite(8, within=(4, 19)), answer=ANSWER).scores)
    assert bool(found.scores[4:19].any()) and not found.scores[:4].any() and not found.scores[19:].any()
    assert ls.Attribution.from_dict(found.to_dict()).spec == found.spec and found.to_safetensors()
    spec = ls.Spec.read(ls.ContextCite(8, within=part))
    assert ls.Spec.from_options(**spec.to_options()) == spec and ls.Spec.parse(spec.line) == spec


def test_a_turn_can_be_the_part_and_its_edges_cut_segments() -> None:
    model = example_model()
    chat = read_prompt(model, [{"role": "user", "content": "Rome is. The capital of Italy is Paris."}, *CHAT])
    name = next(iter(chat.turns))
    start, stop = chat.turns[name]
    att = ls.attribute(model, chat, ls.LeaveOneOut(by="sentence", within=name))
    groups = att.group("sentence", within=name)
    assert groups["start"].min() == start and groups["stop"].max() == stop and len(groups) == 2
    assert not att.scores[:start].any() and not att.scores[stop:].any()
    cut = att.group("sentence", within=(start + 1, stop))
    assert cut["start"].tolist()[0] == start + 1 and cut["label"].tolist()[0] == cut["text"].tolist()[0].strip()


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("Berlin", "within='Berlin' is neither a span's name nor a part of the prompt's text"),
        ("capital", "occurs 3 times"),
        ((4, 99), "must be 0 ≤ start < stop ≤"),
        ("Rome is the capital.", "within='Rome is the capital.' has 1; give a longer part, or choose by='word'"),
    ],
)
def test_parts_that_are_not_there_or_hold_one_segment_are_refused(part: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        ls.attribute(example_model(), ASKED, ls.LeaveOneOut(by="sentence", within=part))


@pytest.mark.parametrize("part", [5, "", (1,), range(1, 9, 2), ("a", "b")])
def test_what_is_no_part_is_refused_before_a_model_is_seen(part: Any) -> None:
    with pytest.raises(PromptError, match="a part of a prompt is the name of a span or chat turn"):
        ls.ContextCite(within=part)


# Which part is eligible, as text


def test_a_span_of_too_many_digits_is_text() -> None:
    many = "9" * 5000
    assert read_span("3:4") == (3, 4) and read_span("chars 3:4") == ls.Chars(3, 4)
    assert read_span(f"{many}:1") == f"{many}:1" and read_span(f"chars {many}:1") == f"chars {many}:1"
