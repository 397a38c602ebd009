"""The page in a real browser, on a tiny model: asking, clicking, comparing, taking a report away, and keeping safe."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chromium import browser_marks, texts
from command_line import PROMPT
from served import chat_model, served_model, serving

import lens_scopes as ls
from lens_scopes.scopes.registry import READOUTS
from lens_scopes.server import create_app
from lens_scopes.views.words.colour import scale_of

pytestmark = browser_marks

READY = """document.querySelector("#results").getAttribute("aria-busy") === "false"
    && !document.querySelector("#explain").disabled"""
PREDICTION = "section[aria-label=Prediction]"
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


def test_a_view_shows_what_the_library_computes(visit: Callable[..., Any], model: Any) -> None:
    expected = ls.attribute(model, PROMPT, ls.LogProb(" sofa"), layers=True)
    tab = visit(f"text={PROMPT}&scope=logprob&target=+sofa")
    shown = texts(tab, ".strip .tok")
    assert shown == ["<bos>", "The", " dog", " sleeps", " on", " the"]
    scale = scale_of(expected.scores.tolist(), expected.special)
    classes = [
        "s" if special else f"p{scale.level(score)}"
        for score, special in zip(expected.scores.tolist(), expected.special, strict=True)
    ]
    assert tab.eval_on_selector_all(".strip .tok", "e => e.map(b => b.className.split(' ')[1])") == classes
    assert tab.locator(".heat tbody tr").count() == 2
    assert tab.locator(".heat tbody td").count() == 12
    assert texts(tab, f"{PREDICTION} .token")[0] == "␣the"
    assert tab.locator(f"{PREDICTION} .target .token").inner_text() == "␣sofa"
    assert tab.title() == "The dog sleeps on the → ␣sofa · lens_scopes"
    tab.locator("summary", has_text="Every number").click()
    assert [float(text) for text in texts(tab, ".scores .cell")] == pytest.approx(expected.scores.tolist(), rel=1e-3)


def test_type_run_and_share(visit: Callable[..., Any]) -> None:
    tab = visit()
    tab.fill("textarea[name=text]", "The dog sleeps on")
    offered = tab.eval_on_selector_all("[name=readout] option", "e => e.map(one => one.value)")
    assert offered == ["", *READOUTS], "the page offers what the library has"
    tab.select_option("[name=scope]", "fisher")
    tab.fill("[name=rank]", "2")
    asked(tab, lambda: tab.click("#explain"))
    assert tab.locator(".answer .kind b").inner_text() == "Fisher(rank=2)"
    assert "text=The+dog+sleeps+on&scope=fisher&rank=2" in tab.url
    again = visit(tab.url.partition("#")[2])
    assert texts(again, ".strip .tok") == texts(tab, ".strip .tok")
    assert again.input_value("[name=rank]") == "2"
    asked(tab, tab.go_back)
    assert tab.input_value("textarea[name=text]") == PROMPT
    assert tab.locator(".answer .kind b").inner_text().startswith("Semantic")


def test_a_target_is_completed_from_the_keyboard(visit: Callable[..., Any]) -> None:
    tab = visit()
    field = tab.locator("[name=target]")
    field.press_sequentially("sofa")
    tab.wait_for_selector("[role=option]")
    assert texts(tab, "[role=option] bdi") == ["␣sofa", "␣Sofa"]
    field.press("ArrowDown")
    field.press("ArrowDown")
    assert tab.locator("[role=option][aria-selected=true] bdi").inner_text() == "␣Sofa"
    field.press("Enter")
    assert field.input_value() == " Sofa"
    asked(tab, lambda: field.press("Enter"))
    assert tab.title().endswith("→ ␣Sofa · lens_scopes")


def test_tokens_bars_layers_and_cells_lead_on(visit: Callable[..., Any]) -> None:
    tab = visit()
    asked(tab, lambda: tab.locator(".strip .tok").nth(3).click())
    assert tab.evaluate("document.activeElement.textContent").strip() == "sleeps"
    assert "position=3" in tab.url and tab.locator(".strip .tok.later").count() == 2
    assert tab.locator(".strip .tok[aria-current=true]").inner_text().strip() == "sleeps"
    asked(tab, lambda: tab.locator(".strip .tok.later").last.click())
    assert "position=5" in tab.url
    asked(tab, lambda: tab.locator(f"{PREDICTION} button").nth(6).click())
    assert (
        tab.locator(f"{PREDICTION} .target .token").inner_text()
        == tab.locator(f"{PREDICTION} .token").nth(6).inner_text()
    )
    tab.locator(".layer-switcher label", has_text="L1").click()
    assert "layer=L1" in tab.url and tab.locator("input[value=L1]").is_checked()
    tab.locator(".heat tbody tr").nth(0).locator("td").nth(2).click()
    assert "layer=L0" in tab.url and tab.locator("input[value=L0]").is_checked()
    tab.locator(".heat tbody td").first.focus()
    for key in ("ArrowDown", "ArrowRight", "Enter"):
        tab.keyboard.press(key)
    assert "layer=L1" in tab.url
    tab.locator(".layer-switcher input:checked").focus()
    tab.keyboard.press("ArrowLeft")
    assert tab.locator("input[value=L0]").is_checked()
    assert tab.evaluate("document.activeElement.value") == "L0"


def test_heads_and_the_matrix_are_looked_into(visit: Callable[..., Any]) -> None:
    tab = visit()
    asked(tab, lambda: tab.get_by_role("button", name="Inspect heads").click())
    tab.wait_for_selector(".head-detail")
    assert tab.locator(".cells tbody tr").count() == 2
    assert tab.locator(".cells tbody td").count() == 10
    tab.locator(".cells tbody td").nth(2).click()
    assert tab.locator(".head-detail h4").inner_text().startswith("L0H2") and "head=L0H2" in tab.url
    assert tab.locator(".head-detail .tok").count() == 6
    asked(tab, lambda: tab.get_by_role("button", name="Source × target").click())
    tab.wait_for_selector("section[aria-label='Source × target']")
    assert tab.locator("section[aria-label='Source × target'] tbody td:not(.none)").count() == 21
    assert "show=heads%2Cmatrix" in tab.url
    again = visit(tab.url.partition("#")[2])
    again.wait_for_selector("section[aria-label='Source × target']")
    assert again.locator(".cells tbody td").count() == 10
    assert again.locator(".head-detail h4").inner_text().startswith("L0H2")
    asked(tab, lambda: tab.locator("section[aria-label='Source × target'] tbody tr").nth(2).locator("td").first.click())
    assert "position=2" in tab.url
    tab.wait_for_selector(".head-detail")
    asked(tab, lambda: tab.get_by_role("button", name="alone").click())
    asked(tab, lambda: tab.get_by_role("button", name="Fisher modes").click())
    assert tab.frame_locator("iframe").locator("#modes").count() == 1
    tab.wait_for_selector(".head-detail")
    assert "through=L" in tab.url and "through head L" in tab.locator(".answer .kind").inner_text()


def test_two_prompts_are_compared(visit: Callable[..., Any], model: Any) -> None:
    tab = visit()
    tab.click("#compare")
    assert tab.locator("fieldset.side").count() == 2
    tab.locator("fieldset.side").nth(1).locator("[name=text]").fill("The sofa sleeps on the")
    asked(tab, lambda: tab.click("#explain"))
    assert tab.locator(".answer").count() == 2
    cells = tab.locator(".difference .tok")
    assert [text.strip() for text in cells.all_inner_texts()] == ["<bos>", "The", "dog", "sofa", "sleeps", "on", "the"]
    assert [cells.nth(i).get_attribute("class") for i in (2, 3)] == ["tok x", "tok x"]

    def share(prompt: str, index: int) -> float:
        scores = ls.attribute(model, prompt).scores
        return float(scores[index] / scores[1:].sum())

    change = share("The sofa sleeps on the", 5) - share(PROMPT, 5)
    title = cells.nth(6).get_attribute("title") or ""
    assert title.endswith(f"{'+' if change > 0 else '−'}{abs(change):.1%}") or f"{abs(change):.1%}"[:3] in title
    assert "b.text=The+sofa+sleeps+on+the" in tab.url
    again = visit(tab.url.partition("#")[2])
    assert again.locator(".answer").count() == 2
    tab.click("#compare")
    assert tab.locator(".answer").count() == 1 and tab.locator(".difference").count() == 0


def test_the_report_is_taken_away_and_opens_from_a_file(
    visit: Callable[..., Any], browser: Any, tmp_path: Path, model: Any
) -> None:
    tab = visit(f"text={PROMPT}&show=heads")
    tab.wait_for_selector(".head-detail")
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
        tab.get_by_role("link", name="safetensors").click()
    saved = tmp_path / "result.safetensors"
    download.value.save_as(saved)
    assert ls.Attribution.load(saved).tokens == ls.attribute(model, PROMPT).tokens


def test_circuitsvis_is_drawn_in_a_frame_that_reaches_nothing(visit: Callable[..., Any]) -> None:
    tab = visit(f"text={HOSTILE}")
    assert tab.locator("iframe").count() == 0
    tab.locator("summary", has_text="CircuitsVis").click()
    frame = tab.frame_locator("iframe")
    frame.locator("#token-strip .colored-tokens>span").first.wait_for()
    inner = tab.frames[1]
    assert inner.evaluate("window.executed") is None
    for reach in ("parent.document.title", "localStorage.length", "document.cookie"):
        assert inner.evaluate(f"(() => {{ try {{ return String({reach}) }} catch (e) {{ return e.name }} }})()") == (
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
    assert tab.locator("#results img, #results script").count() == 0
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


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_nothing_serious(visit: Callable[..., Any], scheme: str, width: int) -> None:
    from axe_playwright_python.sync_playwright import Axe

    options = {"color_scheme": scheme, "viewport": {"width": width, "height": 844}}
    tab = visit(f"text={PROMPT}&show=heads,matrix&b.text=The+sofa+sleeps", **options)
    tab.locator("section[aria-label='Source × target']").nth(1).wait_for()
    until(tab, READY)
    tab.eval_on_selector_all(
        "details",
        "folds => folds.forEach(fold => { if (!fold.querySelector('summary')"
        ".textContent.includes('CircuitsVis')) fold.open = true })",
    )
    tab.locator("input.numbers").first.check()
    tab.locator("[name=target]").first.press_sequentially("s")
    tab.wait_for_selector("[role=option]")
    found = Axe().run(tab).response["violations"]
    serious = [
        (item["id"], [node["html"][:120] for node in item["nodes"][:3]])
        for item in found
        if item["impact"] in ("serious", "critical")
    ]
    assert serious == []
    assert tab.evaluate("document.documentElement.scrollWidth") == width


def test_the_examples_are_there(visit: Callable[..., Any]) -> None:
    tab = visit()
    assert texts(tab, ".study") == ["Translation", "Instructions", "Time series"]
    asked(tab, lambda: tab.get_by_role("button", name="Opposite against synonym").click())
    assert tab.locator(".answer").count() == 2


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
        assert "".join(texts(tab, ".strip .tok")) == "<bos>The dog. sleeps on"
        again = visit(tab.url.partition("#")[2], at=address)
        assert again.get_by_label("Content").nth(1).input_value() == " sleeps on"
        assert texts(again, ".strip .tok") == texts(tab, ".strip .tok")
