"""Patched cells in every view: the map with the patched cells framed, predictions beside patches, hostile text."""

import math

import torch
from fake_attribution import HOSTILE_TOKENS, fake_attribution
from fake_results import fake_cells, fake_heads
from html_document import Document
from page_blocks import blocks, section, table, written
from rich.console import Console

from lens_scopes.results.cells import CellPatches, PatchedCell
from lens_scopes.views import attribution_page, cells_figure, page_of, to_html
from lens_scopes.views.terminal.cells import CellsReport
from lens_scopes.views.words.attribution import number


def printed(patches: CellPatches, width: int = 300) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(CellsReport(patches))
    return capture.get()


def test_the_map_has_every_cell_and_frames_those_that_were_patched() -> None:
    patches = fake_cells()
    (drawn,) = blocks(section(patches, "cells"), "map")
    data = page_of(patches).content()["parts"][0]["data"]
    assert drawn["values"] == {"at": ["effect"]} and drawn["by_all"] is True
    assert torch.tensor(data["effect"]).allclose(patches.effect.float())
    expected = [[cell.layer, cell.position, f"patched: {number(cell.actual)}"] for cell in patches.cells]
    assert drawn["marks"] == expected and drawn["marks"][0][:2] == [13, 9]


def test_the_prompts_are_shown_where_they_differ() -> None:
    part = section(fake_cells(), "cells")
    assert "differ in 1 of them" in written(part)
    (row,) = table(part, "Where the prompts differ")["rows"]
    assert [cell["value"] for cell in row] == [9, " Sofa", " Stuhl"]
    same = fake_cells(baseline_tokens=fake_cells().tokens)
    assert "The two prompts have the same" in written(section(same, "cells"))


def test_predictions_stand_beside_patches_in_a_table_and_a_scatter_plot() -> None:
    patches = fake_cells()
    part = section(patches, "patches")
    (chart,) = blocks(part, "chart")
    assert [(point["x"], point["y"]) for point in chart["points"]] == [(c.predicted, c.actual) for c in patches.cells]
    assert chart["marks"] == [("cell", "dot")] and {point["shape"] for point in chart["points"]} == {"dot"}
    rows = table(part, "Predicted and actual changes")["rows"]
    assert len(rows) == 12 and rows[0][0]["text"] == "L13 ␣Sofa" and rows[0][1]["text"] == "␣Stuhl"
    assert "Patched: the 12 strongest of" in written(part) and "ρ = 0.91" in written(part)
    (heads,) = blocks(section(fake_heads(), "ablation"), "chart")
    assert heads["marks"] == [("head", "dot"), ("mlp", "square")]


def test_a_token_that_comes_twice_is_named_with_its_position() -> None:
    patches = fake_cells(["<bos>", " a", " b", " a"], n_layers=2, patched=8)
    names = {row[0]["text"] for row in table(section(patches, "patches"), "Predicted and actual changes")["rows"]}
    assert {"L0 ␣a (1)", "L0 ␣a (3)", "L0 ␣b"} <= names


def test_cells_stand_on_the_page_of_their_attribution() -> None:
    page = attribution_page(fake_attribution(), cells=fake_cells())
    assert [part.key for part in page.sections if part.part == 1] == ["cells", "patches"]
    assert "The contract of the cells" in page.to_html()


def test_nothing_patched_broken_numbers_and_zeros_are_said() -> None:
    none = fake_cells(patched=0, spearman=None)
    assert [part.key for part in page_of(none).sections] == ["cells", "contract", "details"]
    assert "No cell was patched" in printed(none)
    effect = fake_cells().effect.clone()
    effect[3, 4] = math.nan
    broken = fake_cells(
        effect=effect, cells=[PatchedCell(0, "blocks.0.hook_resid_pre", 1, "German", "German", 1.0, math.nan)]
    )
    text = printed(broken)
    assert "1 of 324 cells have changes that are not finite" in text and "1 of 1 patches gave" in text
    cells_figure(broken)
    assert "exactly zero" in printed(fake_cells(effect=torch.zeros_like(effect)))


def test_the_terminal_fits_its_width_and_names_both_tokens() -> None:
    text = printed(fake_cells(), 72)
    assert max(map(len, text.splitlines())) <= 72
    assert "␣Sofa → ␣Stuhl" in text and "-2.5" in text and "largest magnitude of all layers" in text
    assert printed(fake_cells(scope="fisher", settings={"divergence": True, "readout": "dot"})).count("no sign") == 1


def test_the_figure_frames_the_patched_cells() -> None:
    patches = fake_cells()
    for width in (3.3, 5.5):
        axes = {one.get_label(): one for one in cells_figure(patches, width=width).axes}
        frames = {(round(patch.get_x() + 0.5), round(patch.get_y() + 0.5)) for patch in axes["cells"].patches}
        assert frames == {(cell.position, cell.layer) for cell in patches.cells}
        assert len(axes["patches"].collections[0].get_offsets()) == 12
        assert any("␣Sofa → ␣Stuhl" in label.get_text() for label in axes["cells"].get_xticklabels())


def test_text_of_tokens_is_escaped() -> None:
    plain = Document(to_html(fake_cells()))
    others = [f"{token}<i>" for token in HOSTILE_TOKENS]
    document = Document(to_html(fake_cells(HOSTILE_TOKENS, n_layers=2, baseline_tokens=others, warnings=["<b>"])))
    assert {name for name, _ in document.tags} <= {name for name, _ in plain.tags} | {"div", "ul", "li", "b"}
    assert not document.named("i") and document.open == []
