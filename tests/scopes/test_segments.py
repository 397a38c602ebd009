"""Methods that leave out whole segments: literal loops, and what grouping their scores gives back."""

from typing import Any

import pytest
import reference
import torch
from docstring_examples import example_model
from torch import Tensor
from torch.testing import assert_close

import lens_scopes as ls
from lens_scopes.errors import ObjectiveError, PromptError
from lens_scopes.evaluation.evaluator import Evaluator
from lens_scopes.evaluation.methods.names import as_method
from lens_scopes.prompts.groups import GROUPINGS
from lens_scopes.prompts.read import read_prompt

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
