"""The page in a real browser, on a tiny model: asking, clicking, comparing, taking a report away, and keeping safe."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import WORD_JOINER, browser_marks, rgb, texts
from command_line import PROMPT, WORDS, tokenizer
from number_models import with_numbers
from served import chat_model, served_model, serving
from tiny_models import llama_like

import lens_scopes as ls
from lens_scopes.scopes.registry import (
    FREEZABLE,
    READOUTS,
    SCORE_SITES,
    rule_choices,
)
from lens_scopes.server import create_app
from lens_scopes.views.words.colour import level_colour, scale_of
from lens_scopes.views.words.numbers import number

pytestmark = browser_marks

READY = """document.querySelector("#results").getAttribute("aria-busy") === "false"
    && !document.querySelector("#explain").disabled"""
STRIP = "#a-token-strip .colored-tokens>span>span"
PREDICTION = "#a-prediction"
HOSTILE = '<img src=x onerror="window.executed=1"> </script><script>window.executed=1</script> &amp; \u202e the'


@pytest.fixture(scope="module")
def model() -> Any:
    return served_model()


@pytest.fixture(scope="module")
def address(model: Any) -> Iterator[str]:
    with serving(create_app({"tiny": model})) as served:
        yield served


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    """Opens the page at a view; afterwards nothing has failed, executed, or left this machine."""
    opened: list[tuple[Any, list[str], list[str]]] = []

    def open_page(view: str = f"text={PROMPT}", answered: bool = True, at: str = address, **options: Any) -> Any:
        tab = browser.new_page(**({"viewport": {"width": 1280, "height": 900}} | options))
        requests: list[str] = []
        errors: list[str] = []
        tab.on("request", lambda request: requests.append(request.url))
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        tab.goto(f"{at}/#{view}")
        opened.append((tab, requests, errors))
        if answered:
            tab.wait_for_selector(".answer")
            until(tab, READY)
            tab.wait_for_selector(STRIP)
        return tab

    yield open_page
    for tab, requests, errors in opened:
        assert tab.evaluate("window.executed") is None
        # A refusal is an answer, but the browser notes its status as an error.
        assert [error for error in errors if "status of 422" not in error] == []
        assert all(url.startswith(("http://127.0.0.1:", "data:", "blob:")) for url in requests)
        tab.close()


def until(tab: Any, condition: str, seconds: float = 30) -> None:
    """Waits for a condition; the page's policy forbids Playwright's own way, which evaluates text inside the page."""
    deadline = time.monotonic() + seconds
    while not tab.evaluate(condition):
        assert time.monotonic() < deadline, condition
        time.sleep(0.02)


def asked(tab: Any, act: Callable[[], Any]) -> None:
    """Does something that asks the server, and waits for the answer."""
    tab.evaluate("document.querySelector('#results').firstElementChild.dataset.old = '1'")
    act()
    until(tab, "document.querySelector('#results > :first-child')?.dataset.old !== '1'")
    until(tab, READY)
    tab.wait_for_selector(STRIP)


def tokens(tab: Any, selector: str = STRIP) -> list[str]:
    """The tokens of a strip, as text."""
    return [text.replace(WORD_JOINER, "").replace("\u00a0", " ") for text in texts(tab, selector)]


def test_a_view_shows_what_the_library_computes(visit: Callable[..., Any], model: Any) -> None:
    expected = ls.attribute(model, PROMPT, ls.LogProb(" sofa"), layers=True)
    tab = visit(f"text={PROMPT}&scope=logprob&target=+sofa")
    assert tokens(tab) == ["<bos>", "The", " dog", " sleeps", " on", " the"]
    scale = scale_of(expected.scores.tolist(), expected.special)
    colours = tab.eval_on_selector_all(STRIP, "e => e.map(b => getComputedStyle(b).backgroundColor)")
    for css, score in list(zip(colours, expected.scores.tolist(), strict=True))[1:]:
        assert rgb(css) == pytest.approx(level_colour(scale.level(score)), abs=0.04)
    assert tab.locator(STRIP).first.get_attribute("class") == "s"
    assert tab.locator(".heat tbody tr").count() == 2
    assert tab.locator(".heat tbody td:not(.top)").count() == 12
    assert texts(tab, f"{PREDICTION} .token")[0] == "␣the"
    assert tab.locator(f"{PREDICTION} .target .token").inner_text() == "␣sofa"
    assert tab.title() == "The dog sleeps on the → ␣sofa · lens_scopes"
    assert [float(text) for text in texts(tab, "#a-scores .cell")] == pytest.approx(expected.scores.tolist(), rel=1e-3)


def test_type_run_and_share(visit: Callable[..., Any]) -> None:
    tab = visit()
    tab.fill("textarea[name=text]", "The dog sleeps on")
    offered = tab.eval_on_selector_all("[name=readout] option", "e => e.map(one => one.value)")
    assert offered == ["", *READOUTS], "the page offers what the library has"
    offered = tab.eval_on_selector_all("[name=score_site] option", "e => e.map(one => one.value)")
    assert offered == ["", *SCORE_SITES]
    assert texts(tab, ".freeze label") == [f" {words}" for words in FREEZABLE.values()]
    offered = tab.eval_on_selector_all("[name=rules] option", "e => e.map(one => one.value)")
    assert offered == ["", *rule_choices()]
    tab.select_option("[name=scope]", "fisher")
    tab.fill("[name=rank]", "2")
    tab.locator(".choices summary").click()
    tab.select_option("[name=rules]", "gim")
    asked(tab, lambda: tab.click("#explain"))
    assert tab.locator(".answer .kind b").inner_text() == "Fisher(rank=2)"
    assert "through rules gim" in tab.locator(".answer .kind").first.inner_text()
    assert "text=The+dog+sleeps+on&scope=fisher&rank=2&rules=gim" in tab.url
    again = visit(tab.url.partition("#")[2])
    assert tokens(again) == tokens(tab) == ["<bos>", "The", " dog", " sleeps", " on"]
    assert again.input_value("[name=rank]") == "2" and again.input_value("[name=rules]") == "gim"
    asked(tab, tab.go_back)
    assert tab.input_value("textarea[name=text]") == PROMPT
    assert tab.locator(".answer .kind b").inner_text().startswith("Semantic")


def test_scores_are_read_where_the_page_says(visit: Callable[..., Any], model: Any) -> None:
    tab = visit()
    tab.evaluate("document.querySelector('details.choices').open = true")
    tab.select_option("[name=scope]", "temperature")
    tab.select_option("[name=score_site]", "values")
    asked(tab, lambda: tab.click("#explain"))
    assert "scope=temperature&score_site=values" in tab.url
    expected = ls.attribute(model, PROMPT, ls.Temperature(), score_site="values")
    assert [float(text) for text in texts(tab, "#a-scores .cell")] == pytest.approx(expected.scores.tolist(), rel=1e-3)
    again = visit(tab.url.partition("#")[2])
    assert again.input_value("[name=score_site]") == "values"


def test_the_fold_stays_in_the_address_and_with_other_questions(visit: Callable[..., Any]) -> None:
    tab = visit()
    tab.fill("textarea[name=text]", "The dog sleeps on the")
    asked(tab, lambda: tab.click("#explain"))
    tab.fill("textarea[name=text]", "The dog. the sofa")
    asked(tab, lambda: tab.click("#explain"))
    tab.locator(".folds label", has_text="sentence").click()
    tab.wait_for_selector(".bars.segments li:nth-child(2)")
    assert tab.url.endswith("fold=sentence")
    assert tokens(tab) == ["<bos>", "The dog.", " the sofa"]
    assert tab.locator(f"{STRIP}[role=button]").count() == 0, "a segment is no position"
    asked(tab, lambda: tab.click("#explain"))
    assert tab.locator(".folds input:checked").get_attribute("value") == "sentence"
    again = visit(tab.url.partition("#")[2])
    assert texts(again, ".bars.segments .token") == texts(tab, ".bars.segments .token")
    again.locator(".folds label", has_text="token").click()
    again.wait_for_selector(f"{STRIP}[role=button]")
    assert "fold" not in again.url


def test_a_whole_answer_is_explained_and_left_for_a_token(visit: Callable[..., Any], model: Any) -> None:
    tab = visit()
    tab.select_option("[name=scope]", "logprob")
    tab.fill("[name=answer]", " sofa dog sleeps")
    asked(tab, lambda: tab.click("#explain"))
    answer = ls.attribute(model, PROMPT, ls.LogProb(), answer=" sofa dog sleeps").answer
    assert answer is not None
    assert tab.locator(".answer .kind b").inner_text() == "LogProb(), answer=' sofa dog sleeps'"
    assert f"log P {number(answer.log_probability)} nats" in tab.locator("#results .prompt").inner_text()
    assert "answer=+sofa+dog+sleeps" in tab.url
    again = visit(tab.url.partition("#")[2])
    assert again.input_value("[name=answer]") == " sofa dog sleeps"
    # Another number of tokens, which the model chooses.
    again.fill("[name=answer]", "")
    again.fill("[name=generate]", "3")
    asked(again, lambda: again.click("#explain"))
    assert "generated by the model" in again.inner_text("#results")
    # Two answers: none of them is generated.
    again.select_option("[name=scope]", "logprob-diff")
    assert not again.is_visible("[name=generate]")
    again.fill("[name=answer]", " sofa")
    again.fill("[name=other]", " dog sleeps")
    again.keyboard.press("Escape")
    asked(again, lambda: again.click("#explain"))
    assert "The answer contrasted" in again.inner_text("#results")
    # Modes, which are those of one prediction, leave a view of answers; a side without one keeps them.
    whole = f"text={PROMPT}&answer=+sofa&scope=fisher"
    alone = visit(f"{whole}&show=modes,heads")
    alone.wait_for_selector("#a-heads")
    assert "show=heads" in alone.url and alone.locator("#problem").is_hidden()
    beside = visit(f"{whole}&show=modes&b.text={PROMPT}")
    beside.wait_for_selector("#b-modes")
    assert "show=modes" in beside.url and beside.locator("#a-modes").count() == 0
    # A token that is chosen is explained alone.
    asked(again, lambda: again.locator("#a-prediction .bars [role=button], #a-prediction .bars button").last.click())
    assert again.input_value("[name=answer]") == ""
    assert again.locator(".answer .kind b").inner_text().startswith("Semantic")


def test_a_target_is_completed_from_the_keyboard(visit: Callable[..., Any]) -> None:
    tab = visit()
    field = tab.locator("[name=target]")
    field.press_sequentially("sofa")
    tab.wait_for_selector("[role=option]")
    # The most probable after this prompt comes first, with its probability.
    assert texts(tab, "[role=option] bdi") == ["␣Sofa", "␣sofa"]
    assert all(text.endswith("%") for text in texts(tab, "[role=option] .likely"))
    field.press("ArrowDown")
    field.press("ArrowDown")
    assert tab.locator("[role=option][aria-selected=true] bdi").inner_text() == "␣sofa"
    field.press("Enter")
    assert field.input_value() == " sofa"
    asked(tab, lambda: field.press("Enter"))
    assert tab.title().endswith("→ ␣sofa · lens_scopes")


def test_tokens_bars_layers_and_cells_lead_on(visit: Callable[..., Any]) -> None:
    tab = visit()
    tab.locator(STRIP).nth(2).hover()
    assert tab.locator("#a-tokens .readout").inner_text().startswith("2 “dog”: ")
    tab.locator(STRIP).nth(3).focus()
    asked(tab, lambda: tab.keyboard.press("Enter"))
    assert tab.evaluate("document.activeElement.textContent").strip() == "sleeps"
    assert "position=3" in tab.url and tab.locator(".later").count() == 2
    assert tab.locator("#a-token-strip [aria-current=true]").inner_text().strip() == "sleeps"
    asked(tab, lambda: tab.locator(".later").last.click())
    assert "position=5" in tab.url and tab.locator(".later").count() == 0
    asked(tab, lambda: tab.locator(f"{PREDICTION} button").nth(6).click())
    assert (
        tab.locator(f"{PREDICTION} .target .token").inner_text()
        == tab.locator(f"{PREDICTION} .token").nth(6).inner_text()
    )
    tab.locator(".switch label", has_text="L1").click()
    assert "layer=L1" in tab.url and tab.locator("input[value=L1]").is_checked()
    tab.locator(".heat tbody tr").nth(0).locator("td:not(.top)").nth(2).click()
    assert "layer=L0" in tab.url and tab.locator("input[value=L0]").is_checked()
    assert [row.get_attribute("data-chosen") for row in tab.locator(".heat tbody tr").all()] == ["", None]
    tab.locator(".heat tbody td:not(.top)").first.focus()
    for key in ("ArrowDown", "ArrowRight", "Enter"):
        tab.keyboard.press(key)
    assert "layer=L1" in tab.url
    tab.locator(".switch input:checked").focus()
    tab.keyboard.press("ArrowLeft")
    assert tab.locator("input[value=L0]").is_checked()
    assert tab.evaluate("document.activeElement.value") == "L0"
    again = visit(tab.url.partition("#")[2])
    assert again.locator("input[value=L0]").is_checked()
    assert [row.get_attribute("data-chosen") for row in again.locator(".heat tbody tr").all()] == ["", None]


LONG_PROMPT = " ".join(["The dog sleeps on the sofa."] * 17)  # 121 tokens with <bos>


@pytest.fixture(scope="module")
def long_model() -> Any:
    return served_model(n_ctx=128)


@pytest.fixture(scope="module")
def long_address(long_model: Any) -> Iterator[str]:
    with serving(create_app({"tiny": long_model})) as served:
        yield served


def test_the_focus_stays_on_a_part_that_a_link_led_to(visit: Callable[..., Any]) -> None:
    tab = visit()
    asked(tab, lambda: tab.locator(STRIP).nth(3).click())
    tab.get_by_role("link", name="Through the layers").click()
    assert tab.evaluate("document.activeElement.id") == "a-layers"
    asked(tab, tab.go_back)
    assert tab.locator(".later").count() == 0 and not tab.locator("#problem").is_visible()
    assert tab.evaluate("document.activeElement.id") == "a-layers"


def test_a_long_prompt_shows_where_its_weight_is(visit: Callable[..., Any], long_model: Any, long_address: str) -> None:
    expected = ls.attribute(long_model, LONG_PROMPT)
    scores = expected.scores.tolist()
    largest = max(scores[1:])
    best = scores.index(largest)
    tab = visit(f"text={LONG_PROMPT}", at=long_address, viewport={"width": 900, "height": 700})
    # Square roots at first: the legend says so, and a token has the square root of its share of the colour.
    assert f"half the colour at {number(largest / 4)}" in tab.inner_text("#a-tokens .legend")
    weak = scores.index(min(scores[1:]))
    tint = tab.eval_on_selector_all(STRIP, "(cells, i) => cells[i].style.backgroundColor", weak)
    assert float(tint.partition("%")[0].split()[-1]) == pytest.approx(100 * (scores[weak] / largest) ** 0.5, abs=0.06)
    # The map opens at its end, and all of it is above it, with the part in view framed.
    scroll = tab.locator("#a-layers .scroll")
    scroll.scroll_into_view_if_needed()
    until(tab, "document.querySelector('#a-layers .scroll').scrollLeft > 1000")
    tab.wait_for_selector("#a-layers .overview .seen")
    assert tab.eval_on_selector_all("#a-layers .overview .lines > div", "lines => lines.length") == 2
    box = tab.locator("#a-layers .overview").bounding_box()
    tab.mouse.click(box["x"] + 2, box["y"] + 4)
    until(tab, "document.querySelector('#a-layers .scroll').scrollLeft < 100")
    # The strongest token has its index, and leads to its place in the text.
    strongest = tab.locator("#a-tokens .bars button").first
    assert strongest.locator("small").inner_text().strip() == f"#{best}"
    strongest.click()
    assert tab.eval_on_selector_all(STRIP, "cells => cells.findIndex(cell => cell.matches('.pointed'))") == best
    assert tab.evaluate("document.activeElement.matches('.pointed')")
    # Another spacing, and the last token outside the scale, for the strip and the map alike and in the address.
    tab.select_option("#a-tokens .colouring select", "log")
    tab.locator("#a-layers .colouring input").check()
    assert "colour=log&apart=last" in tab.url
    assert tab.input_value("#a-layers .colouring select") == "log" and tab.is_checked("#a-tokens .colouring input")
    tab.wait_for_selector("#a-token-strip span.s:nth-child(n+1)")
    until(tab, f"document.querySelectorAll('{STRIP}.s').length === 2")
    assert f"half the colour at {number(max(scores[1:-1]) * 10**-1.5)}" in tab.inner_text("#a-tokens .legend")
    assert "special or last token" in tab.inner_text("#a-layers .row-legend")
    again = visit(tab.url.partition("#")[2], at=long_address)
    assert again.input_value("#a-tokens .colouring select") == "log" and again.is_checked("#a-layers .colouring input")


def test_cells_tell_at_once_when_pointed_at_and_by_key(visit: Callable[..., Any], model: Any) -> None:
    tab = visit()
    layers = ls.attribute(model, PROMPT, layers=True).layers
    assert layers is not None
    cell = tab.locator("#a-layers .heat tbody tr").nth(1).locator("td:not(.top)").nth(3)
    cell.hover()
    told = tab.locator(".hover-card > *")
    assert told.all_inner_texts()[:2] == ["L1 · #3 ␣sleeps", f"{number(layers[1, 3].item())} logits per unit of norm"]
    cell.focus()
    tab.keyboard.press("ArrowLeft")
    assert told.all_inner_texts()[:2] == ["L1 · #2 ␣dog", f"{number(layers[1, 2].item())} logits per unit of norm"]
    assert tab.evaluate("document.activeElement.getAttribute('aria-label')").startswith("L1 · #2 ␣dog · ")
    tab.keyboard.press("Escape")
    assert not tab.locator(".hover-card").is_visible()


def test_heads_and_the_matrix_are_looked_into(visit: Callable[..., Any]) -> None:
    tab = visit()
    asked(tab, lambda: tab.get_by_role("button", name="Inspect heads").click())
    assert tab.evaluate("document.activeElement.textContent") == "Source × target", "the focus stays in its section"
    assert tab.locator("#a-heads .cells tbody tr").count() == 2
    assert tab.locator("#a-heads .cells tbody td").count() == 10
    tab.locator("#a-heads .cells td button").first.focus()
    for key in ("ArrowRight", "ArrowRight", "Enter"):
        tab.keyboard.press(key)
    assert tab.evaluate("document.activeElement.id") == "a-head-l0h2" and "head=L0H2" in tab.url
    fold = tab.locator("#a-head-l0h2")
    fold.locator(".colored-tokens").wait_for()
    assert fold.locator("summary").inner_text().startswith("L0H2")
    assert fold.locator("[role=button]").count() == 6
    asked(tab, lambda: tab.get_by_role("button", name="Source × target").click())
    cells = "#a-matrix tbody td:not(.none,.top)"
    assert tab.locator(cells).count() == 21
    assert "show=heads%2Cmatrix" in tab.url
    again = visit(tab.url.partition("#")[2])
    again.wait_for_selector(cells)
    assert again.locator("#a-heads .cells tbody td").count() == 10
    assert again.locator("#a-head-l0h2").get_attribute("open") is not None
    view = tab.url
    tab.locator("#a-heads td.component a").first.click()
    assert tab.url == view, "links within the page leave the view in the address"
    asked(tab, lambda: tab.locator("#a-matrix tbody tr").nth(2).locator("td:not(.top)").first.click())
    assert "position=2" in tab.url
    tab.wait_for_selector("#a-heads")
    # Within one head: the tokens alone, in view, and nothing that would be compared with ablations of the whole model.
    asked(tab, lambda: tab.get_by_role("button", name="alone").first.click())
    until(tab, "document.activeElement.id === 'a-tokens'")
    top = tab.locator("#a-tokens").bounding_box()["y"]
    assert -5 < top < 900 and "show=" not in tab.url and "head=" not in tab.url
    assert tab.locator("#a-heads, #a-matrix").count() == 0
    assert texts(tab, "#a-further button") == ["Source × target", "Information flow", "Fisher modes"]
    asked(tab, lambda: tab.get_by_role("button", name="Fisher modes").click())
    assert tab.locator("#a-modes .card").count() > 0 and tab.locator("#a-replacements").count() == 1
    assert "through=L" in tab.url and "through head L" in tab.locator(".answer .kind").first.inner_text()


def test_influence_is_followed_through_what_was_generated(visit: Callable[..., Any]) -> None:
    tab = visit()
    assert tab.get_by_role("button", name="Through the generated text").count() == 0
    tab = visit(f"text={PROMPT}&generate=4")
    asked(tab, lambda: tab.get_by_role("button", name="Through the generated text").click())
    tab.wait_for_selector("#a-chain .sentences button")
    assert texts(tab, "#a-chain .way button")[0] in ("answer", "generated")
    tab.locator("#a-chain .hops .bars button").first.click()
    assert len(texts(tab, "#a-chain .way button")) == 2 and "show=influence" in tab.url
    again = visit(tab.url.partition("#")[2])
    again.wait_for_selector("#a-chain .sentences button")
    asked(again, lambda: again.get_by_role("button", name="Source × target").click())
    assert again.locator("#a-matrix").count() == again.locator("#a-chain").count() == 1


def test_cells_tell_what_they_read_as(visit: Callable[..., Any]) -> None:
    tab = visit(f"text={PROMPT}&lens=logit")
    assert (
        tab.locator("[name=lens]").input_value() == "logit"
        and tab.locator("details.choices").get_attribute("open") is not None
    )
    tab.locator("#a-layers .heat tbody td:not(.top)").nth(2).hover()
    assert len(texts(tab, "#a-layers .reading .token")) == 5
    assert visit().locator("#a-layers .reading").count() == 0


def test_charts_of_circuitsvis_are_drawn(visit: Callable[..., Any]) -> None:
    tab = visit(f"text={PROMPT}&show=heads,matrix")
    for chart in ("#a-patterns", "#a-pattern-gradients"):
        tab.locator(chart).scroll_into_view_if_needed()
        tab.locator(f"{chart} canvas").first.wait_for()


def test_two_prompts_are_compared(visit: Callable[..., Any], model: Any) -> None:
    tab = visit()
    tab.click("#compare")
    assert tab.locator("fieldset.side").count() == 2
    tab.locator("fieldset.side").nth(1).locator("[name=text]").fill("The sofa sleeps on the")
    asked(tab, lambda: tab.click("#explain"))
    assert tab.locator(".answer").count() == 2
    cells = "#difference .colored-tokens>span>span"
    tab.wait_for_selector(cells)
    assert [text.strip() for text in tokens(tab, cells)] == ["<bos>", "The", "dog", "sofa", "sleeps", "on", "the"]
    assert [tab.locator(cells).nth(i).get_attribute("class") for i in (2, 3)] == ["x", "x"]
    assert "only in one prompt" in tab.locator("#difference .legend").inner_text()

    def relative(prompt: str) -> float:
        scores = ls.attribute(model, prompt).scores[1:]
        return float(scores[3] / scores.max())

    change = relative("The sofa sleeps on the") - relative(PROMPT)
    tab.locator(cells).nth(5).hover()
    said = tab.locator("#difference .readout").inner_text()
    assert abs(change) > 0.01 and said.startswith("“on”: A ")
    assert said.endswith(f"{'+' if change > 0 else '−'}{abs(change):.1%}")
    assert said.endswith(texts(tab, "#difference tr:nth-last-child(2) td:last-child")[0])
    tab.locator("#a-tokens .switch label", has_text="L1").click()
    assert tab.locator("#b-tokens input[value=L1]").is_checked()
    assert not tab.locator("#difference .readout").inner_text().startswith("“on”"), "the difference is of that layer"
    same = visit(f"text={PROMPT}&b.text={PROMPT}&b.scope=entropy")
    assert "only in one prompt" not in same.locator("#difference .legend").inner_text()
    assert "b.text=The+sofa+sleeps+on+the" in tab.url
    again = visit(tab.url.partition("#")[2])
    assert again.locator(".answer").count() == 2
    tab.click("#compare")
    assert tab.locator(".answer").count() == 1 and tab.locator("#difference").count() == 0


def test_the_report_is_taken_away_and_opens_from_a_file(
    visit: Callable[..., Any], browser: Any, tmp_path: Path, model: Any
) -> None:
    tab = visit(f"text={PROMPT}&show=heads")
    tab.wait_for_selector("#a-heads")
    with tab.expect_download() as download:
        tab.get_by_role("link", name="Report").click()
    file = tmp_path / "report.html"
    download.value.save_as(file)
    report = browser.new_page()
    requests: list[str] = []
    report.on("request", lambda request: requests.append(request.url))
    report.goto(file.as_uri())
    report.wait_for_selector("#token-strip .colored-tokens")
    assert report.locator("#heads").count() == 1 and requests == [file.as_uri()]
    report.close()
    with tab.expect_download() as download:
        tab.get_by_role("link", name="Tokens: Result (safetensors)").click()
    saved = tmp_path / "result.safetensors"
    download.value.save_as(saved)
    assert ls.Attribution.load(saved).tokens == ls.attribute(model, PROMPT).tokens


def test_a_report_that_is_opened_here_reaches_nothing(visit: Callable[..., Any], address: str) -> None:
    tab = visit(f"text={HOSTILE}")
    report = tab.get_by_role("link", name="Report").get_attribute("href").replace("download=true", "")
    tab.goto(f"{address}/{report}")
    tab.locator("#token-strip .colored-tokens>span").first.wait_for()
    assert tab.evaluate("window.executed") is None
    for reach in ("localStorage.length", "document.cookie"):
        assert tab.evaluate(f"(() => {{ try {{ return String({reach}) }} catch (e) {{ return e.name }} }})()") == (
            "SecurityError"
        )


def test_hostile_text_is_text(visit: Callable[..., Any], model: Any) -> None:
    tab = visit(f"text={HOSTILE}&target=<b>{HOSTILE}&show=heads,matrix", answered=False)
    tab.wait_for_selector("#problem:not([hidden])")
    assert "<b>" in tab.locator("#problem").inner_text()
    tab.fill("[name=target]", "")
    tab.click("#explain")
    tab.wait_for_selector(".answer")
    until(tab, READY)
    tab.wait_for_selector(STRIP)
    assert tab.locator("#results img, #results script").count() == 0
    assert tokens(tab)[1] == "<unk>", "what looks like markup is text in a strip too"
    assert HOSTILE[:20] in tab.input_value("textarea[name=text]")


def test_a_problem_is_said_and_the_page_goes_on(visit: Callable[..., Any]) -> None:
    tab = visit()
    tab.fill("[name=target]", "sofa")
    tab.click("#explain")
    tab.wait_for_selector("#problem:not([hidden])")
    assert "'sofa'" in tab.locator("#problem").inner_text()
    assert tab.locator(".answer").count() == 1
    tab.fill("[name=target]", " sofa")
    asked(tab, lambda: tab.click("#explain"))
    assert not tab.locator("#problem").is_visible()


def test_what_is_written_survives_a_reload_and_old_answers_step_back(visit: Callable[..., Any]) -> None:
    tab = visit()
    tab.fill("textarea[name=text]", "The dog on the")
    tab.fill("[name=target]", "sofa")
    tab.keyboard.press("Escape")
    tab.click("#explain")
    tab.wait_for_selector("#problem:not([hidden])")
    assert tab.locator("#results.old").count() == 1
    assert tab.inner_text("#stale").endswith(f"the question before: {PROMPT} → ␣the")
    view = tab.url
    tab.reload()
    tab.wait_for_selector(STRIP)
    until(tab, READY)
    assert tab.url == view and "".join(tokens(tab)) == f"<bos>{PROMPT}"
    assert tab.input_value("textarea[name=text]") == "The dog on the" and tab.input_value("[name=target]") == "sofa"
    # More of what is shown is asked of the question that it answers, whatever is being written.
    asked(tab, lambda: tab.get_by_role("button", name="Inspect heads").click())
    assert tab.locator("#a-heads .alert").count() == 0 and "text=The+dog+sleeps" in tab.url
    assert tab.input_value("textarea[name=text]") == "The dog on the"
    tab.fill("[name=target]", "")
    asked(tab, lambda: tab.click("#explain"))
    assert not tab.is_visible("#stale") and tab.locator("#results.old").count() == 0
    tab.reload()
    tab.wait_for_selector(STRIP)
    assert "".join(tokens(tab)) == "<bos>The dog on the"
    # The last questions, the latest first, until they are forgotten.
    tab.locator("#recent summary").click()
    assert [text.partition(" →")[0] for text in texts(tab, "#recent li")] == ["The dog on the", PROMPT]
    asked(tab, lambda: tab.locator("#recent a").nth(1).click())
    assert tab.input_value("textarea[name=text]") == PROMPT
    tab.locator("#recent button").click()
    assert not tab.is_visible("#recent")


def test_hostile_questions_are_remembered_as_text(visit: Callable[..., Any]) -> None:
    tab = visit()
    tab.evaluate(
        """title => localStorage.setItem("lens_scopes recent", JSON.stringify([
            {address: "#text=The", title}, {address: "javascript:window.executed=1", title}, null, 3]))""",
        HOSTILE,
    )
    tab.reload()
    tab.wait_for_selector(STRIP)
    tab.locator("#recent summary").click()
    assert texts(tab, "#recent li")[1:] == [HOSTILE], "what is no view of this page is no link"
    assert tab.locator("#recent img, #recent script").count() == 0


def test_an_answer_shows_the_sources_of_each_of_its_tokens(visit: Callable[..., Any], model: Any) -> None:
    tab = visit(f"text={PROMPT}&generate=3&show=matrix")
    tab.wait_for_selector("#a-sources-strip .colored-tokens")
    until(tab, READY)
    matrix = ls.attribute_all(model, PROMPT, ls.Semantic(), generate=3)
    options = tab.locator("#a-sources .switch label")
    assert options.count() == 4 and options.first.inner_text() == "mean of all"
    cells = "#a-sources-strip .colored-tokens>span>span"
    for row in (0, 2):
        options.nth(row + 1).hover()
        until(tab, f"document.querySelectorAll('#a-sources .switch input')[{row + 1}].checked")
        tab.wait_for_selector(cells)
        largest = max(matrix.matrix[row, 1:].tolist())
        assert number(largest) in tab.inner_text("#a-sources .legend")
        # Tokens after the one before it are no sources.
        assert tab.locator(f"{cells}.x").count() == len(matrix.tokens) - 1 - matrix.destinations[row]
    tab.locator("#a-sources .switch input:checked").focus()
    tab.keyboard.press("ArrowLeft")
    assert tab.locator("#a-sources .switch input").nth(2).is_checked()
    assert visit(f"text={PROMPT}&show=matrix").locator("#a-sources").count() == 0


def test_a_token_is_replaced_and_the_page_says_what_changes(visit: Callable[..., Any]) -> None:
    tab = visit()
    tab.locator(STRIP).nth(2).hover()
    assert tab.input_value(".edit input[type=number]") == "2"
    assert tab.input_value(".edit input:not([type=number])") == " dog"
    tab.fill(".edit input:not([type=number])", " sofa")
    asked(tab, lambda: tab.get_by_role("button", name="See what changes").click())
    assert tab.locator("textarea[name=text]").nth(1).input_value() == "The sofa sleeps on the"
    tab.wait_for_selector("#difference .colored-tokens")
    assert "b.text=The+sofa+sleeps+on+the" in tab.url


def test_exports_give_everything_that_is_shown(visit: Callable[..., Any], tmp_path: Path) -> None:
    tab = visit(f"text={PROMPT}&scope=fisher&show=heads,matrix,modes")
    tab.wait_for_selector("#a-modes")
    until(tab, READY)
    python, shell = texts(tab, ".code pre")
    assert [line.partition(" ")[0] for line in shell.splitlines()] == ["lens-scopes"] * 4
    assert [line.split()[1] for line in shell.splitlines()] == ["attribute", "heads", "matrix", "modes"]
    assert python.count("ls.load_model") == 1
    names = [line.partition(" = ")[0] for line in python.splitlines() if " = ls." in line]
    assert names == ["model", "attribution", "heads", "matrix", "modes"]
    compile(python, "python", "exec")
    starts = {"Picture (PNG)": b"\x89PNG", "Picture (SVG)": b"<?xml", "Table (CSV)": b"", "JSON": b"{"}
    for result in ("Tokens", "Heads", "Source × target", "Fisher modes"):
        for kind, start in starts.items():
            with tab.expect_download() as download:
                tab.get_by_role("link", name=f"{result}: {kind}", exact=True).click()
            file = tmp_path / download.value.suggested_filename
            download.value.save_as(file)
            assert file.read_bytes().startswith(start) and file.stat().st_size > 200, (result, kind)
    assert {"attribution", "heads", "matrix", "modes"} == {file.name.partition("-")[0] for file in tmp_path.iterdir()}
    tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
    tab.click("#link")
    until(tab, "document.querySelector('#link').textContent === 'Copied'")
    assert tab.evaluate("navigator.clipboard.readText()") == tab.url


def test_text_from_right_to_left_is_drawn_so(visit: Callable[..., Any]) -> None:
    model = served_model()
    model.tokenizer = None  # a bridge of transformer-lens 4 rebuilds one that takes another's place, from its files
    model.tokenizer = tokenizer([*WORDS[:2], "عاصمة", " فرنسا", " هي", *WORDS[5:]])
    with serving(create_app({"tiny": model})) as address:
        tab = visit("text=عاصمة فرنسا هي", at=address)
        places = tab.eval_on_selector_all(STRIP, "e => e.map(cell => cell.getBoundingClientRect().right)")
        assert places == sorted(places, reverse=True) and len(places) == 4
        heading = tab.locator("#results .prompt")
        assert heading.get_attribute("dir") == "rtl"
        # The prediction follows the prompt: to its left.
        prompt, chip = (heading.locator(css).bounding_box() for css in ("> bdi", ".chip"))
        assert chip["x"] + chip["width"] <= prompt["x"] + 1
        direction = "getComputedStyle(document.querySelector('textarea[name=text]')).direction"
        assert tab.evaluate(direction) == "rtl"
        assert visit().evaluate("document.querySelector('#a-token-strip').dir") == "ltr"


def test_running_work_is_cancelled(visit: Callable[..., Any], model: Any, address: str) -> None:
    tab = visit()
    held = threading.Event()
    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", lambda x, hook: held.wait(10) and None)]):
        tab.fill("textarea[name=text]", "The dog on the sofa")
        tab.click("#explain")
        tab.wait_for_selector("#cancel:visible")
        tab.click("#cancel")
        until(tab, "document.querySelector('#status').textContent === 'Cancelled.'")
        assert not tab.locator("#cancel").is_visible()
        held.set()
        asked(tab, lambda: tab.click("#explain"))


def serious(tab: Any) -> list[Any]:
    """What axe finds of weight on a page."""
    from axe_playwright_python.sync_playwright import Axe

    return [
        (item["id"], [node["html"][:120] for node in item["nodes"][:3]])
        for item in Axe().run(tab).response["violations"]
        if item["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_nothing_serious(visit: Callable[..., Any], scheme: str, width: int) -> None:
    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 844}}
    spans = """[{"name":"animal","text":"dog"}]"""
    tab = visit(f"text={PROMPT}&show=heads,matrix,flow&spans={spans}&b.text=The+sofa+sleeps", **options)
    tab.locator("#a-spans").wait_for()
    tab.locator("#b-matrix").wait_for()
    until(tab, READY)
    tab.eval_on_selector_all("details", "folds => folds.forEach(fold => { fold.open = true })")
    tab.locator("input.numbers").first.check()
    tab.locator("[name=target]").first.press_sequentially("s")
    tab.wait_for_selector("[role=option]")
    assert serious(tab) == []
    assert tab.evaluate("document.documentElement.scrollWidth") == width


def test_two_prompts_are_contrasted(visit: Callable[..., Any], model: Any) -> None:
    other = "The sofa sleeps on the"
    tab = visit(f"text={PROMPT}&against={other}&show=cells,heads")
    tab.wait_for_selector("#a-patches .dot")
    until(tab, READY)
    att = ls.attribute(model, PROMPT, layers=True, readout=ls.Dot(other))
    patches = ls.patch_cells(model, att)
    frames = tab.locator("#a-cells .heat td.framed")
    assert frames.count() == len(patches.cells) == tab.locator("#a-patches .chart .dot").count()
    frames.first.hover()
    assert any(f"patched: {number(cell.actual)}" in tab.inner_text(".hover-card") for cell in patches.cells)
    assert tab.locator("#a-tokens .scores td").all_inner_texts() == ["2", "␣dog", "␣sofa"]
    assert tab.locator("#a-further").inner_text().count("Patch cells") == 0
    assert "against another prompt" in tab.inner_text("#a-cells") and tab.locator("#a-ablation .square").count()

    # Of a whole answer, which follows both prompts.
    whole = visit(f"text={PROMPT}&against={other}&scope=logprob&answer=+sofa+dog&show=cells")
    whole.wait_for_selector("#a-patches .dot")
    assert "log P(answer | prompt) = " in whole.inner_text("#a-cells")
    assert "the answer's log-probability (nats)" in whole.inner_text("#a-cells")
    both = visit(f"text={PROMPT}&against={other}&scope=logprob-diff&answer=+sofa+dog&other=+on&show=cells,heads")
    both.wait_for_selector("#a-patches .dot")
    assert "The two prompts have 6 tokens each and differ in 1" in both.inner_text("#a-heads")
    assert "Mind the difference" not in both.inner_text("#results"), "it is the same prompt, with its answers"

    # Another length: shown beside each other while it is written, and the sentence when it is asked.
    tab.fill("[name=against]", "The sofa. sleeps on the")
    tab.wait_for_selector(".alignment .problem")
    assert "they part at position 2" in tab.inner_text(".alignment")
    tab.click("#explain")
    until(tab, "!document.querySelector('#problem').hidden")
    assert "they part at position 2" in tab.inner_text("#problem")
    tab.fill("[name=against]", "")
    tab.wait_for_selector(".alignment", state="hidden")


def test_the_examples_are_there(visit: Callable[..., Any]) -> None:
    tab = visit()
    assert texts(tab, ".study") == ["Translation", "Instructions", "Time series"]
    asked(tab, lambda: tab.get_by_role("button", name="Opposite against synonym").click())
    assert tab.locator(".answer").count() == 2


def test_a_chat_is_contrasted_with_another_chat(visit: Callable[..., Any]) -> None:
    model = chat_model()
    chat, other = ([{"role": "user", "content": text}, {"role": "assistant", "content": " sleeps"}] for text in
                   ("The dog", "The sofa"))  # fmt: skip
    with serving(create_app({"chatty": model})) as address:
        tab = visit(at=address)
        tab.get_by_role("radio", name="Chat").check()
        tab.get_by_label("Content").fill("The dog")
        tab.get_by_role("button", name="Add a turn").click()
        tab.get_by_label("Role").nth(1).select_option("assistant")
        tab.get_by_label("Content").nth(1).fill(" sleeps")
        # The other chat begins as a copy, and is put beside this one while it is written.
        tab.get_by_role("button", name="Another chat of as many tokens").click()
        others = tab.locator(".contrast-chat textarea")
        assert [others.nth(i).input_value() for i in range(others.count())] == ["The dog", " sleeps"]
        others.first.fill("The sofa. dog")
        tab.wait_for_selector(".alignment .problem")
        assert "they part at position 2" in tab.inner_text(".alignment")
        others.first.fill("The sofa")
        tab.wait_for_selector(".alignment .problem", state="detached")
        asked(tab, lambda: tab.click("#explain"))
        att = ls.attribute(model, chat, layers=True, readout=ls.Dot(other))
        assert "under the chat user: 'The sofa'" in att.contract["score attributed"]
        assert att.contract["score attributed"] in tab.inner_text("#results")
        tab.get_by_role("button", name="Patch cells").click()
        tab.wait_for_selector("#a-patches .dot")
        patches = ls.patch_cells(model, att)
        assert tab.locator("#a-cells .heat td.framed").count() == len(patches.cells) > 0
        again = visit(tab.url.partition("#")[2], at=address)
        again.wait_for_selector("#a-patches .dot")
        assert again.locator(".contrast-chat textarea").first.input_value() == "The sofa"
        again.get_by_role("button", name="Contrast with nothing").click()
        asked(again, lambda: again.click("#explain"))
        assert "against=" not in again.url and "under the chat" not in again.inner_text("#results")


def test_a_chat_is_typed_turn_by_turn(visit: Callable[..., Any]) -> None:
    with serving(create_app({"chatty": chat_model()})) as address:
        tab = visit(at=address)
        tab.get_by_role("radio", name="Chat").check()
        tab.get_by_label("Content").fill("The dog")
        tab.get_by_role("button", name="Add a turn").click()
        tab.get_by_label("Role").nth(1).select_option("assistant")
        tab.get_by_label("Content").nth(1).fill(" sleeps on")
        asked(tab, lambda: tab.click("#explain"))
        # the assistant's last message is left open, to be continued
        assert "".join(tokens(tab)) == "<bos>The dog. sleeps on"
        again = visit(tab.url.partition("#")[2], at=address)
        assert again.get_by_label("Content").nth(1).input_value() == " sleeps on"
        assert tokens(again) == tokens(tab)


def test_the_flow_from_a_selected_passage_is_measured(visit: Callable[..., Any], model: Any) -> None:
    tab = visit()
    tab.get_by_role("button", name="Information flow").click()
    assert tab.evaluate("document.activeElement.ariaLabel") == "Text of the span", "without a span, one is asked for"
    tab.keyboard.type("sleeps")
    tab.locator("[name=text]").evaluate("e => e.setSelectionRange(4, 7)")
    tab.get_by_role("button", name="Add the selected passage").click()
    tab.keyboard.type("<b>animal")
    tab.fill("[name=sigma]", "0.5")
    asked(tab, lambda: tab.get_by_role("button", name="Measure").click())
    tab.wait_for_selector("#a-spans table")
    spans = {"span 1": "sleeps", "<b>animal": "dog"}
    totals = ls.information_flow(model, PROMPT, spans, sigma=0.5).totals()
    told = texts(tab, "#a-spans table tbody tr")
    assert all(item.name in row and number(item.bound) in row for item, row in zip(totals, told, strict=True))
    assert "what the predictions are sensitive to" in tab.inner_text("#a-spans")
    assert "--span 'span 1=sleeps' --span '<b>animal=dog' --sigma 0.5" in tab.locator(".codes pre").nth(1).inner_text()
    again = visit(tab.url.partition("#")[2])
    again.wait_for_selector("#a-spans table")
    assert [again.locator(".spans li input").nth(i).input_value() for i in range(4)] == [
        "span 1",
        "sleeps",
        "<b>animal",
        "dog",
    ]
    tab.get_by_role("button", name="Remove").first.click()
    assert tab.evaluate("document.activeElement.value") == "<b>animal"


def test_the_messages_of_a_chat_are_spans_by_themselves(visit: Callable[..., Any]) -> None:
    with serving(create_app({"tiny": chat_model()})) as chat_address:
        tab = visit('chat=[{"role":"user","content":"The dog"},{"role":"user","content":"sleeps on"}]', at=chat_address)
        asked(tab, lambda: tab.get_by_role("button", name="Information flow").click())
        tab.wait_for_selector("#a-spans table")
        assert len(texts(tab, "#a-spans table tbody tr")) == 2


def test_a_pasted_series_is_inspected(visit: Callable[..., Any]) -> None:
    model = with_numbers(llama_like())
    with serving(create_app({"tiny": model})) as address:
        tab = visit("text=12,34", at=address)
        assert tab.get_by_role("button", name="Series").count() == 0
        tab.locator(".numbers-in summary").click()
        tab.fill(".pasted", "price\n<b>\n3")
        assert "Number 1 of “price” is “<b>”" in tab.inner_text(".told") and tab.locator(".use").is_disabled()
        tab.set_input_files(
            ".file", {"name": "a.csv", "mimeType": "text/csv", "buffer": b"day;price\n1;0\n2;5\n3;10\n"}
        )
        until(tab, "document.querySelector('.told').textContent.startsWith('3 numbers: 10,55,99,')")
        assert tab.input_value(".column") == "price"
        tab.select_option(".column", "day")
        tab.locator(".scaled").uncheck()
        tab.locator(".use").click()
        assert tab.input_value("[name=text]") == "1,2,3," and tab.evaluate("document.activeElement.name") == "text"
        asked(tab, lambda: tab.click("#explain"))
        asked(tab, lambda: tab.get_by_role("button", name="Series", exact=True).click())
        tab.wait_for_selector("#a-series .chart circle")
        expected = ls.inspect_series(model, "1,2,3,")
        best = expected.top(1)[0]
        assert texts(tab, "#a-series .bars .token")[0].startswith(f"{best.label} · ")
        assert tab.locator("#a-series .chart circle").count() == 3 and tab.locator("#a-forecast .chart").count() == 1
        assert "--span" not in tab.inner_text(".codes") and "lens-scopes series 1,2,3," in tab.inner_text(".codes")
        assert "show=series" in tab.url
        for kind, start in (("PNG", b"\x89PNG"), ("SVG", b"<?xml")):
            with tab.expect_download() as download:
                tab.get_by_role("link", name=f"Series: Picture ({kind})").click()
            assert download.value.path().read_bytes().startswith(start)
        again = visit(tab.url.partition("#")[2], at=address)
        again.wait_for_selector("#a-forecast .chart")
        tab.eval_on_selector_all("details", "folds => folds.forEach(fold => { fold.open = true })")
        assert serious(tab) == []
