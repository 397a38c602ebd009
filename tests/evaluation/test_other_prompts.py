"""Another prompt as an ablation, one for each prompt of a batch, and one for each passage of an evaluation."""

import json
from pathlib import Path
from typing import Any

import pytest
import reference
import torch
from command_line import PROMPT, tokenizer
from tiny_models import gpt2_like
from torch import Tensor
from torch.testing import assert_close

import lens_scopes as ls
from lens_scopes.engine.model import ScopedModel
from lens_scopes.engine.token_ablation import AblatedPrompt
from lens_scopes.errors import EvaluationError, FileError, LensScopesError, ObjectiveError, PromptError, ReadoutError
from lens_scopes.evaluation.passages.read import Passage, read_passages
from lens_scopes.evaluation.passages.selection import PassagePrompt, read_passage

OTHER = "The sofa sleeps on the"
CLOSE: Any = {"rtol": 1e-9, "atol": 1e-11}


@pytest.fixture(scope="module")
def model() -> Any:
    built = gpt2_like()
    built.tokenizer = tokenizer()
    return built


def ids_of(model: Any, text: str) -> list[int]:
    return list(ls.read_prompt(model, text).token_ids)


def replaced(model: Any, here: list[int], there: list[int], places: list[int], target: int) -> Tensor:
    """The logit with the other prompt's embeddings put at some places, by a run of its own."""
    x = reference.site_activation(model, here, "hook_embed")
    x[places] = reference.site_activation(model, there, "hook_embed")[places]
    return reference.logits_from_final_state(model, reference.state_from_site(model, here, -1, "hook_embed", x))[target]


# The ablation


@pytest.mark.parametrize("position", [-1, 3])
def test_a_token_left_out_is_that_of_the_other_prompt(model: Any, position: int) -> None:
    here, there = (ids_of(model, text) for text in (PROMPT, OTHER))
    length = len(here) if position == -1 else position + 1
    here, there = here[:length], there[:length]
    before = replaced(model, here, here, [], 5)
    expected = [before - replaced(model, here, there, [place], 5) for place in range(length)]
    att = ls.attribute(model, PROMPT, ls.LeaveOneOut("logit", ablation=OTHER), target=5, position=position)
    assert_close(att.scores[1:], torch.stack(expected)[1:], **CLOSE)
    assert att.scores[0] == 0 and att.scores[2].abs() > 0.01
    assert f"the token in its place in the prompt {OTHER!r}" in att.contract["generative process"]


def test_the_same_from_text_ids_a_prompt_and_options(model: Any) -> None:
    ids = ids_of(model, OTHER)
    first, *others = (
        ls.attribute(model, PROMPT, ls.LeaveOneOut(ablation=form))
        for form in (OTHER, ids, torch.tensor(ids), ls.read_prompt(model, OTHER))
    )
    assert first.scores.any() and all(torch.equal(one.scores, first.scores) for one in others)
    for one in (first, others[0]):
        spec = ls.Spec.from_options(**json.loads(json.dumps(one.spec)))
        assert torch.equal(ls.attribute(model, PROMPT, spec).scores, first.scores)
    assert others[0].spec["ablation"] == "".join(f"#{token}" for token in ids)
    line = ls.Spec.parse(f'leave-one-out+ablation="{OTHER}"')
    assert line == ls.Spec(ls.LeaveOneOut(ablation=OTHER)) and ls.Spec.parse(line.line) == line


def test_segments_are_replaced_as_a_whole_and_context_cite_takes_it_too(model: Any) -> None:
    prompt, other = "The dog sleeps. The sofa on", "The sofa on. The sofa the"
    here, there = (ids_of(model, text) for text in (prompt, other))
    by_sentence = ls.attribute(model, prompt, ls.LeaveOneOut("logit", ablation=other, by="sentence"), target=5)
    for places in ([1, 2, 3, 4], [5, 6, 7]):
        fall = replaced(model, here, here, [], 5) - replaced(model, here, there, places, 5)
        assert float(by_sentence.scores[places].sum()) == pytest.approx(float(fall), rel=1e-9)
    cited = ls.attribute(model, PROMPT, ls.ContextCite(32, by="token", ablation=OTHER))
    assert cited.scores[2] != 0 and not cited.scores[[0, 1, 3, 4, 5]].any(), "elsewhere nothing is replaced"


def test_from_the_prompt_itself_nothing_changes(model: Any) -> None:
    att = ls.attribute(model, PROMPT, ls.LeaveOneOut(ablation=PROMPT))
    assert not att.scores.any(), "exactly: no forward pass is run"


@pytest.mark.parametrize(
    ("ask", "error", "words"),
    [
        (lambda: ls.LeaveOneOut(ablation="promt"), EvaluationError, "did you mean 'prompt'"),
        (lambda: ls.LeaveOneOut(ablation=3.5), EvaluationError, "chat messages, ids or a Prompt; got 3.5"),
        (lambda: ls.LeaveOneOut(ablation="corpus-mean"), EvaluationError, "sees one prompt alone"),
        (lambda: ls.LeaveOneOut(ablation="prompt"), EvaluationError, "give each passage one, else the prompt itself"),
        (lambda: ls.LeaveOneOut(ablation="The sofa. sleeps on the"), PromptError, "they part at position 2: ' dog'"),
        (lambda: ls.Spec(readout=ls.Dot("prompt")), ReadoutError, '"prompt" stands for the other prompt of each'),
        (lambda: ls.Spec(points=ls.StraightPath("prompt", 2)), ReadoutError, '"prompt" stands for the other prompt'),
        (lambda: ls.Spec(ls.LeaveOneOut()).against(OTHER), ObjectiveError, "replaces tokens by 'zero' already"),
        (lambda: ls.Spec(ls.RandomScores()).against(OTHER), ObjectiveError, "replaces no tokens"),
        (lambda: ls.Spec.parse("fisher+relative").against(OTHER), ReadoutError, "relative has no baseline"),
        (lambda: ls.Spec.parse("fisher+dot-mean").against(OTHER), ReadoutError, "has a baseline already"),
        (lambda: ls.Spec.parse("fisher+dot+path-mean").against(OTHER), ReadoutError, "starts at 'mean' already"),
        (lambda: ls.Spec.parse("fisher+dot").against(3.5), ReadoutError, "is a text, chat messages, ids or a Prompt"),
    ],
)  # fmt: skip
def test_what_is_no_ablation_or_has_no_place_for_a_prompt_is_refused(
    model: Any, ask: Any, error: type[LensScopesError], words: str
) -> None:
    with pytest.raises(error) as caught:
        ls.attribute(model, PROMPT, ask())
    assert words in str(caught.value)


def test_the_engine_refuses_a_prompt_of_another_length(model: Any) -> None:
    with pytest.raises(EvaluationError, match="the other prompt has 2 tokens, and this one 3"):
        AblatedPrompt(ScopedModel.of(model), [1, 2, 3], [False] * 3, 5, "prompt", other=[1, 2])


# The option, and one for each prompt of a batch


def test_against_asks_for_dot_or_for_a_path_from_the_prompt() -> None:
    read = ls.Spec.from_options
    assert read(against=OTHER, layers=True) == ls.Spec.read(layers=True, readout=ls.Dot(OTHER))
    assert read(against="#2#5").readout == ls.Dot([2, 5])
    assert read(against=OTHER, readout="product").readout == ls.Product(OTHER)
    along = read(against=OTHER, points="path@4")
    assert along == ls.Spec.read(readout="dot", points=ls.StraightPath(OTHER, 4))
    assert read(**along.to_options()) == along
    assert ls.Spec.parse(f"fisher@2+against={OTHER}") == ls.Spec.read(ls.Fisher(2), readout=ls.Dot(OTHER))
    assert read(scope="leave-one-out", ablation="prompt", against=OTHER).objective == ls.LeaveOneOut(ablation=OTHER)
    with pytest.raises(ReadoutError, match="norm has no baseline"):
        read(against=OTHER, readout="norm")


@pytest.mark.parametrize("points", [None, "path@3"])
@pytest.mark.parametrize("answered", [False, True])
def test_every_prompt_of_a_batch_has_its_own_other_one(model: Any, points: str | None, answered: bool) -> None:
    pairs = [(PROMPT, OTHER), ("The dog sleeps", "The sofa on"), (OTHER, PROMPT)]
    prompts, others = map(list, zip(*pairs, strict=True))
    settings: Any = {"layers": True} | ({"answer": " the sofa"} if answered else {})
    objective = ls.LogProb() if answered else ls.Semantic(" sofa")
    batch = ls.attribute_batch(model, prompts, objective, points=points, against=others, **settings)
    for got, (prompt, other) in zip(batch, pairs, strict=True):
        asked: Any = (
            {"readout": ls.Dot(other)} if points is None else {"readout": "dot", "points": ls.StraightPath(other, 3)}
        )
        expected = ls.attribute(model, prompt, objective, **asked, **settings)
        assert_close(got.scores, expected.scores, **CLOSE)
        assert_close(got.layers, expected.layers, **CLOSE)
        assert got.spec == expected.spec and got.contract == expected.contract and got.settings == expected.settings
    assert batch[0].settings["readout"]["baseline_tokens"][2] == " sofa"


def test_a_batch_refuses_other_numbers_and_lengths(model: Any) -> None:
    with pytest.raises(PromptError, match="got 1 other prompts for 2 prompts"):
        ls.attribute_batch(model, [PROMPT, OTHER], against=[OTHER])
    with pytest.raises(PromptError, match="they part at position 2"):
        ls.attribute_batch(model, [PROMPT, "The dog"], against=OTHER)
    same = ls.attribute_batch(model, [PROMPT, OTHER], ls.Semantic(5), against=OTHER)
    assert same[0].scores.any() and not same[1].scores.any()


# One for each passage


PAIRS = [(PROMPT, OTHER), ("The dog. sofa on the", "The sofa. dog on the")]
METHODS = ["semantic+dot-prompt", "semantic+dot+path-prompt@3", "loo-logit@prompt", "loo-kl@prompt"]


def test_methods_and_ablations_use_the_passages_other_prompt(model: Any) -> None:
    rows = ls.evaluate(model, PAIRS, methods=METHODS, metrics=["loo-kl"], ablations=["prompt"], target="own")
    values = rows.set_index(["passage", "method", "metric"])["value"]
    for passage, (prompt, other) in enumerate(PAIRS):
        effects = ls.attribute(model, prompt, ls.LeaveOneOut("kl", ablation=other)).scores[1:]
        scores = ls.attribute(model, prompt, ls.Semantic(), readout=ls.Dot(other)).scores[1:].abs()
        expected = torch.corrcoef(torch.stack([ranks(effects), ranks(scores)]))[0, 1]
        assert values[passage, METHODS[0], "loo-kl-spearman"] == pytest.approx(float(expected))
        assert values[passage, METHODS[3], "loo-kl-spearman"] == pytest.approx(1)


def ranks(values: Tensor) -> Tensor:
    return torch.stack([(values < one).sum() + ((values == one).sum() + 1) / 2 for one in values]).double()


def test_without_other_prompts_the_evaluation_says_so(model: Any) -> None:
    for asked in ({"ablations": ["prompt"]}, {"methods": ["semantic+dot-prompt"]}):
        settings: Any = {"methods": ["random"], "metrics": ["aopc"], "ablations": ["zero"]} | asked
        with pytest.raises(EvaluationError, match="needs another prompt for each passage"):
            ls.evaluate(model, [PROMPT], **settings)
    with pytest.raises(EvaluationError, match="they part at position 4"):
        ls.evaluate(model, [(PROMPT, "The sofa sleeps")], methods=["random"], metrics=["aopc"], ablations=["prompt"])


def test_fields_of_files_bring_the_other_prompts(tmp_path: Path) -> None:
    rows = [{"text": prompt, "corrupted": other} for prompt, other in PAIRS]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    expected = tuple(Passage(prompt, other=other) for prompt, other in PAIRS)
    digests = set()
    for name in ("a.json", "a.jsonl"):
        read = read_passages(tmp_path / name, other="corrupted")
        assert read.items == expected
        digests |= {read.digest(), read_passages(PAIRS).digest()}
        assert not read_passages(tmp_path / name).bring("other")
    assert len(digests) == 1 and digests != {read_passages([prompt for prompt, _ in PAIRS]).digest()}
    with pytest.raises(FileError, match="line 1 has no field 'other', only 'text', 'corrupted'"):
        read_passages(tmp_path / "a.jsonl", other="other")
    (tmp_path / "a.txt").write_text("The dog\n")
    with pytest.raises(FileError, match="line 1 is a text alone, so it has no field 'other'"):
        read_passages(tmp_path / "a.txt", other="other")
    with pytest.raises(FileError, match="passage 1 brings no other prompt"):
        read_passages([PAIRS[0], PROMPT])
    assert read_passages([[1, 2], [3, 4]]).texts == ((1, 2), (3, 4)), "ids of two tokens are no pair"


def test_the_other_prompt_is_cut_as_its_passage(model: Any) -> None:
    ids, other = ids_of(model, PROMPT), ids_of(model, OTHER)
    read = read_passage(model, Passage(PROMPT, other=OTHER), "last", truncate=False)
    assert isinstance(read, PassagePrompt) and read.other == tuple(other[:-1]) and read.target == ids[-1]
    again = read_passage(model, Passage(PROMPT, other=tuple(other[:-1])), "last", truncate=False)
    assert again == read


@pytest.mark.parametrize("answer", [None, (4, 5, 6)])
def test_a_passage_beyond_the_window_and_its_other_prompt_lose_the_same_places(model: Any, answer: Any) -> None:
    here, there = (0, *range(2, 12)) * 4, (0, *range(3, 13)) * 4
    cut = read_passage(model, Passage(here, answer, there), "own", truncate=True)
    first = 44 - (32 - len(answer or ())) + 1
    expected = (here[:1] + here[first:], None, first - 1, answer, there[:1] + there[first:])
    assert cut == PassagePrompt(*expected)
