"""Influence through generated text: chains made by hand, every path counted by itself, sentences, refusals."""

import itertools
import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from fake_results import fake_matrix
from torch import Tensor

import lens_scopes as ls
from lens_scopes.errors import PromptError, ResultError
from lens_scopes.results.matrix import AttributionMatrix

STORY = ["<bos>", "Ann", " is", " in", " Rome", ".", " Joe", " is", " in", " Bonn", "."]
MADE = [" Ann", " waits", ".", " Joe", " sings", ".", " So", " Rome", " waits", "."]
N = len(STORY)


def by_hand(rows: Tensor, tokens: list[str] | None = None, **more: Any) -> AttributionMatrix:
    """A matrix of a generated text whose scores are given: a row for each generated token, on all tokens."""
    words = tokens or [*STORY, *MADE]
    offsets = [(0, 0), *itertools.pairwise(itertools.accumulate(map(len, words[1:]), initial=0))]
    n_made = len(rows)
    first = len(words) - n_made - 1
    matrix = torch.cat([rows, rows.new_zeros(n_made, len(words) - rows.shape[1])], 1)
    base = fake_matrix(words, generated=n_made, matrix=matrix, text="".join(words[1:]), offsets=offsets, spans={})
    assert base.destinations == list(range(first, first + n_made))
    return replace(base, **more)


def random_rows(seed: int = 0) -> Tensor:
    """Scores of every generated token on every earlier one, BOS far above."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.rand(len(MADE), N + len(MADE), generator=generator, dtype=torch.float64)
    rows[:, 0] *= 100
    return rows.tril(N - 1)


def every_path(shares: Tensor, n_prompt: int, target: tuple[int, int]) -> Tensor:
    """The slow reference: one path from the target to the prompt after another, and the product along each."""
    total = torch.zeros(n_prompt, dtype=shares.dtype)

    def walk(token: int, weight: float) -> None:
        if token < n_prompt:
            total[token] += weight
            return
        for source in range(token):
            step = float(shares[token - n_prompt, source])
            if step:
                walk(source, weight * step)

    for token in range(*target):
        walk(token, 1 / (target[1] - target[0]))
    return total


def edges(*pairs: tuple[int, int, float]) -> Tensor:
    """Scores of a generated token (counted from the first) on a token (counted from the prompt's first)."""
    rows = torch.zeros(len(MADE), N + len(MADE), dtype=torch.float64)
    rows[:, 5] = 1e-30  # no row is empty, and what is not said weighs nothing
    for made, source, score in pairs:
        rows[made, source] = score
    return rows


# Ground truth


def test_a_pure_chain_leads_to_its_one_beginning() -> None:
    """The last token rests on the one before it alone, and so on to a token of the prompt."""
    matrix = by_hand(edges((0, 4, 7.0), *((made, N + made - 1, 3.0) for made in range(1, len(MADE)))))
    influence = matrix.total_influence((N + 9, N + 10))
    expected = torch.zeros(N, dtype=torch.float64)
    expected[4] = 1
    torch.testing.assert_close(influence.scores, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(influence.direct, torch.zeros_like(expected), rtol=0, atol=1e-12)
    torch.testing.assert_close(influence.through, torch.ones(10, dtype=torch.float64), rtol=0, atol=1e-12)
    assert [item.label for item in influence.top(1)] == [" Rome"]


def test_a_diamond_adds_up_its_two_sides() -> None:
    """9 rests on 1 and 2 (1 : 3), 1 on prompt 4 and 9 evenly, 2 on 9 alone: 1/4·1/2 and 1/4·1/2 + 3/4."""
    influence = by_hand(edges((9, N + 1, 1.0), (9, N + 2, 3.0), (1, 4, 5.0), (1, 9, 5.0), (2, 9, 0.1))).total_influence(
        (N + 9, N + 10)
    )
    assert influence.scores[4] == pytest.approx(1 / 8) and influence.scores[9] == pytest.approx(7 / 8)
    assert influence.through.tolist() == pytest.approx([0, 1 / 4, 3 / 4, 0, 0, 0, 0, 0, 0, 1])


@pytest.mark.parametrize("target", [(N + 9, N + 10), (N + 6, N + 10), (N + 2, N + 5), (N, N + 1)])
def test_the_closed_form_is_the_sum_over_all_paths(target: tuple[int, int]) -> None:
    influence = by_hand(random_rows()).total_influence(target)
    torch.testing.assert_close(influence.scores, every_path(influence.shares, N, target), rtol=1e-12, atol=1e-15)


def test_rows_that_add_up_to_one_give_totals_that_do() -> None:
    influence = by_hand(random_rows(1)).total_influence("generated")
    torch.testing.assert_close(influence.shares.sum(1), torch.ones(10, dtype=torch.float64))
    assert float(influence.scores.sum()) == pytest.approx(1) and influence.leak < 1e-12
    assert not influence.shares[:, 0].any() and influence.scores[0] == 0 and bool((influence.scores >= 0).all())


def test_a_row_is_its_scores_over_their_sum_without_special_tokens() -> None:
    rows = random_rows(2)
    influence = by_hand(rows).total_influence("generated")
    torch.testing.assert_close(influence.shares[4, 1:], rows[4, 1:] / rows[4, 1:].sum())
    whole = by_hand(rows).total_influence("generated", special=True)
    torch.testing.assert_close(whole.shares[4], rows[4] / rows[4].sum())
    assert whole.scores[0] > 0.5 and whole.settings["total_influence"]["special"] is True


def test_the_first_generated_token_has_its_direct_influence_alone() -> None:
    influence = by_hand(random_rows(3)).total_influence((N, N + 1))
    torch.testing.assert_close(influence.scores, influence.direct)


def test_an_empty_row_leaks_what_reaches_it_and_the_result_says_so() -> None:
    rows = edges((9, N + 1, 1.0), (9, 4, 1.0))
    rows[1] = 0
    influence = by_hand(rows).total_influence((N + 9, N + 10))
    assert influence.leak == pytest.approx(0.5) and float(influence.scores.sum()) == pytest.approx(0.5)
    assert "50.0% of the influence ends" in influence.warnings[-1]


def test_signed_scores_count_by_their_magnitude_and_the_result_says_so() -> None:
    rows = random_rows(4)
    signed = rows * torch.where(torch.rand(rows.shape, generator=torch.Generator().manual_seed(5)) < 0.5, -1, 1)
    torch.testing.assert_close(
        by_hand(signed).total_influence().scores, by_hand(rows).total_influence().scores, rtol=1e-12, atol=0
    )
    assert any("signs" in note for note in by_hand(signed).total_influence().warnings)
    assert not any("signs" in note for note in by_hand(rows).total_influence().warnings)


def test_shares_do_not_depend_on_the_unit_of_the_scores() -> None:
    rows = random_rows(6)
    expected = by_hand(rows).total_influence().scores
    for scale in (1e-200, 1e200):
        torch.testing.assert_close(by_hand(rows * scale).total_influence().scores, expected, rtol=1e-9, atol=0)


# Sentences and hops


def test_the_answer_is_the_last_sentence_unless_a_span_has_that_name() -> None:
    matrix = by_hand(random_rows())
    assert matrix.total_influence().target == (N + 6, N + 10) and matrix.total_influence().of == "answer"
    assert matrix.total_influence(" So Rome waits.").target == (N + 6, N + 10)
    assert matrix.total_influence("sings").target == (N + 4, N + 5)
    assert matrix.total_influence((N + 3, N + 4)).target_text == " Joe"
    start = len("".join([*STORY[1:], *MADE[:3]])) + 1
    assert matrix.total_influence(ls.Chars(start, start + 3)).target == (N + 3, N + 4)
    named = by_hand(random_rows(), spans={"answer": (N + 7, N + 8)})
    assert named.total_influence().target_text == " Rome"


def test_segments_part_the_text_at_the_prompts_end_and_around_the_target() -> None:
    influence = by_hand(random_rows()).total_influence("Rome waits")
    labels = [(item.label, item.generated) for item in influence.segments()]
    assert labels == [
        ("<bos>", False),
        ("Ann is in Rome.", False),
        ("Joe is in Bonn.", False),
        ("Ann waits.", True),
        ("Joe sings.", True),
        ("So", True),
        ("Rome waits", True),
        (".", True),
    ]
    shares = {item.label: item.share for item in influence.segments()}
    assert shares["Rome waits"] == 1 and shares["."] == 0
    assert shares["Ann is in Rome."] == pytest.approx(float(influence.scores[1:6].sum()))
    table = influence.group()
    assert table["score"].tolist() == [item.share for item in influence.segments()]
    assert table["direct"].sum() == pytest.approx(1)


def test_a_prompt_and_its_continuation_are_parted_within_a_sentence() -> None:
    words = ["<bos>", "The", " capital", " of", " France", " is", " Paris", ".", " Yes", "."]
    rows = torch.ones(4, len(words), dtype=torch.float64).tril(5)
    segments = by_hand(rows, words).total_influence().segments()
    assert [item.label for item in segments] == ["<bos>", "The capital of France is", "Paris.", "Yes."]


def test_what_comes_into_a_segment_goes_out_of_it() -> None:
    influence = by_hand(random_rows()).total_influence()
    flows = influence.flows()
    for index, item in enumerate(influence.segments()):
        if item.generated and item.share < 1:
            assert float(flows[:, index].sum()) == pytest.approx(float(flows[index].sum()))
    assert float(flows[-1].sum()) == pytest.approx(1)
    hops = influence.hops()
    assert hops.groupby("from_index")["share"].sum().tolist() == pytest.approx([1.0] * hops["from_index"].nunique())
    nearest = hops[hops["from_index"] == hops["from_index"][0]]
    assert hops["segment"][0] == "So Rome waits." and hops["share"][0] == nearest["share"].max()


def test_chains_follow_the_sentences_and_weigh_what_their_token_paths_do() -> None:
    """answer ← Ann waits. ← Ann is in Rome., made by hand, with a weaker second way."""
    rows = edges((7, N + 1, 3.0), (7, 9, 1.0), (1, N, 1.0), (0, 4, 1.0))
    chains = by_hand(rows).total_influence((N + 7, N + 8)).chains(5)
    assert [(str(chain), chain.share) for chain in chains[:2]] == [
        ("Rome ← Ann waits. ← Ann is in Rome.", pytest.approx(0.75)),
        ("Rome ← Joe is in Bonn.", pytest.approx(0.25)),
    ]


def test_the_weights_of_all_chains_are_those_of_all_token_paths() -> None:
    """Every path of tokens, told apart by the segments it visits in turn."""
    influence = by_hand(random_rows(7)).total_influence("Rome waits")
    segments, n = influence.segments(), influence.n_prompt
    of_token = [i for i, item in enumerate(segments) for _ in range(item.start, item.stop)]
    expected: dict[tuple[int, ...], float] = {}

    def walk(token: int, way: tuple[int, ...], weight: float) -> None:
        way = way if way and way[-1] == of_token[token] else (*way, of_token[token])
        if token < n:
            expected[way] = expected.get(way, 0) + weight
            return
        for source in range(1, token):
            walk(source, way, weight * float(influence.shares[token - n, source]))

    for token in range(*influence.target):
        walk(token, (), 0.5)
    chains = influence.chains(10**6)
    found = {tuple(segments.index(item) for item in chain.segments): chain.share for chain in chains}
    assert found.keys() == expected.keys() and len(found) > 10
    assert all(found[way] == pytest.approx(weight, rel=1e-9) for way, weight in expected.items())
    weights = [chain.share for chain in chains]
    assert weights == sorted(weights, reverse=True) and sum(weights) == pytest.approx(1)
    assert [chain.share for chain in influence.chains(3)] == weights[:3] and influence.chains(0) == []


def test_other_groupings_and_tokens_by_themselves() -> None:
    influence = by_hand(random_rows()).total_influence()
    tokens = influence.segments("token")
    assert [item.share for item in tokens[:N]] == pytest.approx(influence.scores.tolist())
    named = influence.segments({"first": "Ann is in Rome.", "sung": "Joe sings."})
    assert [item.label for item in named][1:5] == ["first", "Joe is in Bonn.", "Ann waits.", "sung"]
    with pytest.raises(PromptError, match="overlap"):
        influence.hops({"a": (1, 4), "b": (3, 6)})


def test_an_answer_that_was_given_stands_for_generated_text(tiny: Any) -> None:
    given = ls.attribute_all(tiny, [3, 7, 1, 7], ls.Temperature(), answer=[2, 5, 9])
    influence = given.total_influence()
    assert given.generated == 0 and influence.target == (4, 7) and influence.n_prompt == 4
    torch.testing.assert_close(influence.scores, every_path(influence.shares, 4, (4, 7)), rtol=1e-9, atol=1e-12)


def test_ids_have_no_sentences_and_are_followed_token_by_token(tiny: Any) -> None:
    matrix = ls.attribute_all(tiny, [3, 7, 1, 7], ls.Temperature(), generate=3)
    influence = matrix.total_influence()
    assert influence.target == (4, 7) and len(influence.segments()) == 5
    torch.testing.assert_close(influence.scores, every_path(influence.shares, 4, (4, 7)), rtol=1e-9, atol=1e-12)
    for row in range(3):
        scores = ls.attribute(tiny, matrix.token_ids, ls.Temperature(), position=3 + row).scores
        scores = scores * ~torch.tensor(matrix.special[: 4 + row])
        torch.testing.assert_close(influence.shares[row, : 4 + row], scores / scores.sum(), rtol=1e-6, atol=1e-9)


# Tables, files and what is refused


def test_tables_ranks_and_plain_values() -> None:
    influence = by_hand(random_rows()).total_influence()
    frame = influence.to_pandas()
    assert (
        frame["score"].tolist() == influence.scores.tolist() and frame["direct"].tolist() == influence.direct.tolist()
    )
    assert list(frame.columns) == ["index", "token", "token_id", "special", "score", "direct"]
    told = json.loads(json.dumps(influence.to_dict()))
    assert [item["label"] for item in told["segments"]] == [item.label for item in influence.segments()]
    assert told["chains"][0]["share"] == influence.chains(1)[0].share and told["hops"][0]["segment"] == "So Rome waits."
    assert "So Rome waits." in repr(influence) and "11 prompt tokens" in repr(influence)
    other = by_hand(random_rows(9)).total_influence()
    assert torch.equal((influence - other).scores, influence.scores - other.scores)


def test_the_contract_says_what_the_walk_adds() -> None:
    contract = by_hand(random_rows()).total_influence().contract
    assert "e (I − A)⁻¹ P" in contract["score attributed"] and "tokens 17 to 20" in contract["output explained"]
    assert "that are not special" in contract["eligible features"]


def test_what_cannot_be_is_refused_in_one_sentence() -> None:
    matrix = by_hand(random_rows())
    with pytest.raises(PromptError, match=r"no generated tokens .* generate=8"):
        fake_matrix().total_influence()
    with pytest.raises(PromptError, match="generated from token 11 on"):
        matrix.total_influence("Ann is in Rome.")
    with pytest.raises(PromptError, match="occurs 2 times"):
        matrix.total_influence("Rome")
    with pytest.raises(PromptError, match="not in the prompt"):
        matrix.total_influence("nowhere")
    with pytest.raises(PromptError, match="0 ≤ start < stop"):
        matrix.total_influence((N, 99))
    rows = random_rows()
    rows[3, 2] = float("nan")
    with pytest.raises(ResultError, match="token 14 are not finite"):
        by_hand(rows).total_influence()
