"""What a lens reads beside the influence: a cell's detail, the table, the figure and the terminal; hostile text."""

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from chromium import browser_marks, texts
from fake_attribution import GERMAN_TOKENS, HOSTILE_TOKENS, fake_attribution
from page_blocks import blocks, plain, section, table, written
from rich.console import Console

import lens_scopes as ls
from lens_scopes.results.attribution import LensReading
from lens_scopes.views import figure_of, page_of, to_html
from lens_scopes.views.terminal.attribution import TerminalReport
from lens_scopes.views.words.attribution import layer_leaders, lens_note, reading_text
from lens_scopes.views.words.numbers import percent


def read(tokens: list[str] = GERMAN_TOKENS, said: list[str] | None = None, unread: bool = False) -> ls.Attribution:
    """A fake attribution whose cell (row, index) reads as ` r{row}c{index}`, or as `said`, and two more tokens."""
    base = fake_attribution(tokens)
    rows, n = len(base.layer_names), len(tokens)
    cells = [[said or [f" r{row}c{i}", " b", " c"] for i in range(n)] for row in range(rows)]
    probabilities = torch.tensor([0.5, 0.25, 0.125], dtype=torch.float64).expand(rows, n, 3).clone()
    if unread:
        cells[-1][-1] = []
        probabilities[-1, -1] = torch.nan
    ids = [[list(range(len(cell))) for cell in line] for line in cells]
    return replace(base, lens=LensReading("logit", "softmax(W_Uᵀ norm(h) + b_U)", ids, cells, probabilities))


def test_the_compact_page_names_the_strongest_cells_alone() -> None:
    page = page_of(read()).compact()
    (heat,) = blocks([section.blocks for section in page.sections], "map")
    assert "readings" not in heat
    assert table(
        [section.blocks for section in page.sections], "The strongest cell of each layer, and what it reads as"
    )


def test_every_cell_of_the_map_has_its_reading() -> None:
    att = read()
    (heat,) = [block for block in blocks(section(att, "layers"), "map") if block["key"] == "layers"]
    assert heat["readings"]["tokens"][3][4] == ["␣r3c4", "␣b", "␣c"]
    assert heat["readings"]["probabilities"] == {"at": ["lens", "probabilities"]}
    assert lens_note(att) in written(section(att, "layers")) and "logit lens" in lens_note(att)
    plain_map = blocks(section(fake_attribution(), "layers"), "map")[0]
    assert "readings" not in plain_map and "What the layers say" not in written(section(fake_attribution(), "layers"))


def test_the_strongest_cell_of_each_layer_is_in_a_table() -> None:
    att = read()
    rows = table(section(att, "layers"), "The strongest cell of each layer, and what it reads as")["rows"]
    leaders = layer_leaders(att)
    assert len(rows) == len(att.layer_names) == len(leaders)
    for cells, (row, index, score) in zip(rows, leaders, strict=True):
        assert cells[2]["value"] == score == max(att.layers[row][1:].tolist(), key=abs)
        assert plain(cells[3]["text"]).startswith(f"␣r{row}c{index} {percent(0.5)}")


def test_cells_that_were_not_read_say_so() -> None:
    att = read(unread=True)
    assert "of" in lens_note(att) and "those with the largest scores" in lens_note(att)
    assert reading_text(att.lens.at(-1, -1)) == ""
    assert to_html(att)


def test_the_terminal_and_the_figure_say_what_the_strongest_cells_read_as() -> None:
    att = read()
    console = Console(width=90, record=True, file=io.StringIO())
    console.print(TerminalReport(att))
    drop_colours = console.export_text()
    row, index, _ = layer_leaders(att)[0]
    assert f"␣r{row}c{index} {percent(0.5)}" in drop_colours
    (heat,) = [axes for axes in figure_of(att).axes if axes.get_label() == "layers"]
    assert [text.get_text() for text in heat.texts] == [f"␣r{row}c{index}" for row, index, _ in layer_leaders(att)]


@pytest.mark.parametrize("width", [320, 1280])
@pytest.mark.parametrize("tokens", [GERMAN_TOKENS, HOSTILE_TOKENS])
class TestBrowser:
    pytestmark = browser_marks

    def test_a_cell_tells_what_it_reads_as_by_mouse_and_key(
        self, visit: Callable[..., Any], tokens: list[str], width: int
    ) -> None:
        att = read(tokens, said=["<img src=x onerror=alert(1)>", " </script>", " c"])
        tab = visit(to_html(att), viewport={"width": width, "height": 800})
        cell = tab.locator(".heat tbody tr >> nth=2").locator("td:not(.top)").nth(1)
        cell.hover()
        assert texts(tab, ".reading .token")[0] == "<img src=x onerror=alert(1)>"
        assert texts(tab, ".reading .value") == [percent(0.5), percent(0.25), percent(0.125)]
        assert tab.inner_text(".reading .readout").startswith("L2")
        cell.click()
        tab.keyboard.press("ArrowDown")
        assert tab.inner_text(".reading .readout").startswith("L3")
        cell.hover()
        assert "reads as <img" in tab.inner_text(".hover-card")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
