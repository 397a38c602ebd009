"""Sums over segments of the text, on the page, without scripts, and on the terminal."""

import io
import math
from collections.abc import Callable
from typing import Any

import pytest
from chromium import STRIP, WORD_JOINER, browser_marks, texts
from fake_attribution import GERMAN_TOKENS, STORY_TOKENS, fake_attribution, fake_story
from html_document import Document
from rich.cells import cell_len
from rich.console import Console

import lens_scopes as ls
from lens_scopes.errors import PromptError
from lens_scopes.views import attribution_page, page_of, print_result, to_html
from lens_scopes.views.words.attribution import groupings, meaning_of_sum, segments_of
from lens_scopes.views.words.numbers import number

SENTENCES = ["Ann bakes.", "She sings.", "Bob <b>naps!"]
SUMS = [3.5, -4.75, 1.5]


def test_groupings_are_those_that_make_several_segments_of_several_tokens() -> None:
    assert list(groupings(fake_story())) == ["word", "line", "sentence"]
    assert list(groupings(fake_story(turns={"user 1": (1, 4), "model 2": (4, 12)}))) == [
        "word",
        "line",
        "sentence",
        "turn",
    ]
    assert list(groupings(fake_attribution(GERMAN_TOKENS))) == ["word"], "no offsets, and one line"
    assert groupings(fake_attribution(["<bos>", "One", " two"])) == {}, "each word is a token"


def test_segments_have_the_sums_of_group_and_shares_of_all() -> None:
    segments = segments_of(fake_story(), "sentence")
    assert [item.label for item in segments] == ["<bos>", *SENTENCES]
    assert [item.score for item in segments] == [40, *SUMS]
    assert [item.relative for item in segments] == [None, *(abs(value) / max(map(abs, SUMS)) for value in SUMS)]
    broken = fake_story()
    broken.scores[2] = math.nan
    first, second = segments_of(broken, "line")[1:]
    assert math.isnan(first.score) and first.relative is None and second.relative == 1


@pytest.mark.parametrize(
    ("readout", "divergence", "words"),
    [
        (None, False, "sum of its tokens' scores"),
        ("dot", False, "moving together"),
        ("norm", False, "upper bound"),
        ("norm", True, "independently"),
    ],
)
def test_a_sum_is_said_to_be_what_it_is(readout: str | None, divergence: bool, words: str) -> None:
    settings = {"readout": readout and {"name": readout}, "divergence": divergence}
    assert words in meaning_of_sum(fake_story(settings=settings))


def terminal(attribution: Any, group: str, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_result(attribution, console, group=group)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_terminal_ranks_segments_and_keeps_its_width() -> None:
    lines = terminal(fake_story(), "sentence").splitlines()
    table = [line for line in lines if any(sentence in line and "–" in line for sentence in SENTENCES)]
    assert [next(name for name in SENTENCES if name in line) for line in table] == [
        SENTENCES[1],
        SENTENCES[0],
        SENTENCES[2],
    ]
    assert "4–7" in table[0] and number(-4.75) in table[0]
    assert any("largest magnitude of these sentences" in line for line in lines)
    at = next(index for index, line in enumerate(lines) if line.startswith("<bos>Ann bakes. She"))
    assert lines[at + 1].startswith("·····▆▆▆▆▆▆▆▆▆▆██████████"), "heights are those of sentences"
    for width in (30, 44, 80):
        assert all(cell_len(line) <= width for line in terminal(fake_story(), "word", width).splitlines())
    with pytest.raises(PromptError, match="no turns to group by"):
        terminal(fake_story(), "turn")


def test_the_page_opens_with_the_grouping_asked_for_and_says_the_sums_without_scripts() -> None:
    text = attribution_page(fake_story(), group="sentence").to_html()
    assert not Document(text).open
    still = text[text.index("<noscript>\n<section") :]
    assert "<details open><summary>Sums by sentence" in still and "<details><summary>Sums by word" in still
    places = [
        still.index(f"<li>{name} {number(value)}") for name, value in (("She sings.", -4.75), ("Ann bakes.", 3.5))
    ]
    assert places == sorted(places) and "<li>Bob &lt;b&gt;naps!" in still
    with pytest.raises(PromptError, match="no turns"):
        attribution_page(fake_story(), group="turn")
    (block,) = [item for item in page_of(fake_story()).sections[0].blocks if item["type"] == "strip"]
    assert block["fold"] == "token" and [fold["name"] for fold in block["folds"]] == ["word", "line", "sentence"]


@pytest.mark.browser
class TestInABrowser:
    pytestmark = browser_marks

    def painted(self, tab: Any) -> list[str]:
        return [text.replace(WORD_JOINER, "").replace("\u00a0", " ") for text in texts(tab, f"{STRIP}>span")]

    def test_a_strip_is_folded_by_mouse_and_key_and_back(self, visit: Callable[..., Any]) -> None:
        tab = visit(to_html(fake_story(layer_names=[], layers=None)))
        assert texts(tab, ".folds span") == ["token", "word", "line", "sentence"]
        tab.locator(".folds label", has_text="sentence").click()
        tab.wait_for_selector(".folded .colored-tokens")
        assert [text.strip() for text in self.painted(tab)][1:] == ["Ann bakes.", "She sings.↵", "Bob <b>naps!"]
        bars = [text.split("\n") for text in texts(tab, ".bars.segments li")]
        assert ["".join(bar) for bar in bars] == [
            f"{name}{number(value)}"
            for name, value in sorted(zip(SENTENCES, SUMS, strict=True), key=lambda item: -abs(item[1]))
        ]
        assert tab.locator(".bars.segments .negative").count() == 1
        tab.keyboard.press("ArrowLeft")
        assert tab.locator(".folds input:checked").get_attribute("value") == "line"
        tab.wait_for_selector(".bars.segments li:nth-child(2)")
        assert tab.locator(".bars.segments li").count() == 2
        tab.locator(".folds label", has_text="token").click()
        tab.wait_for_selector("#token-strip:not(.folded) .colored-tokens")
        assert len(self.painted(tab)) == len(STORY_TOKENS)

    def test_layers_are_folded_too(self, visit: Callable[..., Any]) -> None:
        attribution = fake_story()
        assert attribution.layers is not None
        tab = visit(attribution_page(attribution, group="line").to_html())
        tab.locator(".switch label", has_text="L3").click()
        tab.wait_for_selector(".bars.segments li:nth-child(2)")
        own = [float(attribution.layers[3][start:stop].sum()) for start, stop in ((1, 8), (8, 12))]
        assert tab.locator(".bars.segments .value").first.inner_text() == number(max(own))


def test_a_chat_is_grouped_by_its_turns() -> None:
    story = fake_story(turns={"user 1": (1, 4), "model 2": (4, 12)})
    assert isinstance(story, ls.Attribution)
    assert [item.label for item in segments_of(story, "turn")] == ["<bos>", "user 1", "model 2"]
