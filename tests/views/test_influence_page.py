"""Influence through generated text as a page, in the terminal and as a figure: shares, hops and ways."""

import io

import pytest
from fake_attribution import HOSTILE_TOKENS
from fake_results import fake_influence, fake_matrix, fake_story
from html_document import Document
from page_blocks import blocks, plain, section, table, written
from rich.console import Console

import lens_scopes as ls
from lens_scopes.views import figure_of, page_of, to_html
from lens_scopes.views.terminal.matrix import InfluenceReport
from lens_scopes.views.words.matrix import influence_summary, segment_names
from lens_scopes.views.words.numbers import percent


def story() -> ls.TotalInfluence:
    return fake_story().total_influence()


def test_the_block_has_every_sentence_with_its_share_and_every_hop() -> None:
    influence = story()
    (chain,) = blocks(section(influence, "chain"), "chain")
    segments, flows = influence.segments(), influence.flows()
    names = ["<bos>", "prompt 1", "prompt 2", "sentence 1", "sentence 2", "answer"]
    assert [item["name"] for item in chain["segments"]] == names == segment_names(influence, segments)
    assert [item["share"] for item in chain["segments"]] == [item.share for item in segments]
    assert [item["text"] for item in chain["segments"]][1:] == [item.label for item in segments][1:]
    assert chain["target"] == 5
    found = {(i, j): flow for i, j, flow in chain["flows"]}
    assert found == {(i, j): float(flows[i, j]) for i in range(6) for j in range(6) if flows[i, j] > 0}


def test_the_strongest_ways_are_those_of_the_result() -> None:
    influence = story()
    rows = table(section(influence, "chain"), "The strongest ways from the answer to the prompt")["rows"]
    chains = influence.chains(8)
    assert [plain(row[0]["text"]) for row in rows] == [percent(chain.share) for chain in chains]
    assert [plain(row[2]["text"]) for row in rows] == [chain.segments[-1].label for chain in chains]
    assert plain(rows[0][1]["text"]).startswith("answer ← ")


def test_the_summary_adds_up() -> None:
    influence = story()
    direct = float(influence.direct.sum())
    assert percent(direct) in influence_summary(influence) and percent(1 - direct) in influence_summary(influence)
    assert "leads nowhere" not in influence_summary(influence)
    assert influence_summary(influence) in written(section(influence, "chain"))


def test_the_strip_is_of_the_prompt_alone() -> None:
    influence = story()
    (strip,) = blocks(section(influence, "chain-tokens"), "strip")
    assert strip["values"][: influence.n_prompt] == influence.scores.tolist()
    assert strip["values"][influence.n_prompt :] == [None] * len(influence.through)
    rows = table(section(influence, "chain-tokens"), "Total and direct influence of every prompt token")["rows"]
    assert [row[2]["value"] for row in rows] == influence.scores.tolist()
    assert [row[3]["value"] for row in rows] == influence.direct.tolist()


def test_a_generated_matrix_has_the_chain_on_its_page_and_a_given_one_has_not() -> None:
    assert blocks(section(fake_story(), "chain"), "chain")
    assert "chain" not in [part.key for part in page_of(fake_matrix()).sections]
    broken = fake_story()
    broken.matrix[0, 2] = float("nan")
    assert "not finite" in written(section(broken, "chain"))


def test_without_scripts_sentences_and_ways_are_there() -> None:
    text = " ".join(part for _, part in Document(to_html(story())).texts)
    for part in ("sentence 2", "So Rome waits.", "answer ← prompt"):
        assert part in text


@pytest.mark.parametrize("width", [40, 100])
def test_the_terminal_lists_sentences_ways_and_tokens(width: int) -> None:
    influence = story()
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(InfluenceReport(influence))
    drop_colours = console.export_text()
    assert "sentence 2" in drop_colours and percent(influence.chains(1)[0].share) in drop_colours
    assert max(map(len, drop_colours.splitlines())) <= width


def test_the_figure_draws_totals_and_shares_of_rows() -> None:
    influence = story()
    figure = figure_of(influence)
    bars, heat = (next(axes for axes in figure.axes if axes.get_label() == name) for name in ("tokens", "hops"))
    assert [bar.get_height() for bar in bars.patches] == influence.scores.tolist()
    rows = heat.images[0].get_array().tolist()
    assert [sum(row) for row in rows] == pytest.approx([1.0] * len(rows))
    assert [label.get_text() for label in heat.get_yticklabels()] == ["answer", "sentence 2", "sentence 1"]


def test_hostile_tokens_are_text() -> None:
    html = to_html(fake_influence(HOSTILE_TOKENS))
    assert "<img onerror" not in html and "<b>bold" not in html
