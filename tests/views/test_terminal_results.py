"""Heads, matrices and modes in the terminal: every number, any width, no token that acts, narrow encodings."""

import io
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fake_attribution import GERMAN_TOKENS, HOSTILE_TOKENS
from fake_results import fake_cells, fake_heads, fake_influence, fake_matrix, fake_modes
from rich.cells import cell_len
from rich.console import Console

from lens_scopes.views import print_result
from lens_scopes.views.terminal.cells import CellsReport
from lens_scopes.views.terminal.heads import HeadsReport
from lens_scopes.views.terminal.matrix import MatrixReport
from lens_scopes.views.terminal.modes import ModesReport
from lens_scopes.views.words.attribution import number
from lens_scopes.views.words.colour import ink, level_colour, scale_of
from lens_scopes.views.words.numbers import short_number
from lens_scopes.views.words.token_text import printable_token

REPORTS: list[tuple[Callable[..., Any], Callable[..., Any]]] = [
    (fake_heads, HeadsReport),
    (fake_matrix, MatrixReport),
    (fake_modes, ModesReport),
]


def plain(result: Any, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_result(result, console, contract=True)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def coloured(report: Any, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, color_system="truecolor", force_terminal=True)
    console.print(report)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def background(level: int, text: str, on_dark: bool) -> str:
    front, back = (
        ";".join(str(round(255 * c)) for c in colour)
        for colour in (ink(on_dark=on_dark), level_colour(level, on_dark=on_dark))
    )
    return f"\x1b[38;2;{front};48;2;{back}m{text}\x1b[0m"


def test_every_head_and_mlp_is_a_number_where_there_is_room() -> None:
    heads = fake_heads()
    lines = plain(heads).splitlines()
    start = next(i for i, line in enumerate(lines) if re.fullmatch(r" +H0 +H1 +H2 +H3 +MLP *", line))
    for layer, line in enumerate(lines[start + 1 : start + 19]):
        values = [*heads.effect[layer].tolist(), float(heads.mlp_effect[layer])]
        assert line.split() == [f"L{layer}", *(short_number(value) for value in values)]


def test_heads_are_named_with_type_effects_and_source() -> None:
    text = plain(fake_heads(warnings=["Mind the gap."]))
    assert "! Mind the gap." in text
    assert re.search(r"L13H1 +induction head +-1.2 +-2.5 +-2 +␣Sofa -2,", text)
    assert "Ablated: all 90 components. Spearman’s ρ = 0.91 between predicted and actual changes." in text
    assert "the strongest heads, in logits" in text
    assert "all other components except as they respond" in text
    strongest = max(fake_heads().mlp_effect.tolist(), key=abs)
    assert f"predicted {number(strongest)}  actual {number(1.1 * strongest)}" in text
    assert "—" in plain(fake_heads(ablations=[], spearman=None))
    assert "type" not in plain(fake_heads(head_types={}))


@pytest.mark.parametrize("on_dark", [True, False])
def test_cells_of_heads_take_the_colours_of_the_scale(on_dark: bool) -> None:
    heads = fake_heads()
    text = coloured(HeadsReport(heads, on_dark=on_dark))
    assert background(-20, f"{'-2.5':>6} ", on_dark) in text
    value = float(heads.effect[4, 2])
    level = scale_of(heads.effect.flatten().tolist(), [False] * 72).level(value)
    assert background(level, f"{short_number(value):>6} ", on_dark) in text


def test_many_heads_are_shades_in_as_many_rows_as_it_takes() -> None:
    lines = plain(fake_heads(n_layers=2, n_heads=70, mlps=False), 40).splitlines()
    strongest = [line for line in lines if line.startswith("L1 ") and "█" in line]
    assert len(strongest) == 1 and strongest[0][3 + 1] == "█"
    assert sum(line.startswith("L0 ") for line in lines) == math.ceil(70 / 31)


def test_the_matrix_shades_each_prediction_on_its_own_scale() -> None:
    values = torch.zeros(4, 4, dtype=torch.float64)
    values[:, 0] = 1000
    values[1, 1], values[2, 1], values[2, 2], values[3, 1], values[3, 3] = 5.0, 1.0, 2.0, 0.4, math.nan
    matrix = fake_matrix(["<bos>", "aa", "bb", "cc"], matrix=values)
    lines = plain(matrix).splitlines()
    start = next(i for i, line in enumerate(lines) if re.fullmatch(r" +0 +.*", line) and "0 " in line)
    label = len("cc → ␣sofa") + 1
    assert [line[label : label + 12] for line in lines[start + 1 : start + 5]] == [
        "···         ",
        "···███      ",
        "···▒▒▒███   ",
        "···███   ???",
    ]


def test_each_prediction_names_its_sources_and_spans_their_totals() -> None:
    matrix = fake_matrix(generated=4)
    text = plain(matrix, 120)
    for dest, row in zip(matrix.destinations, matrix.matrix, strict=True):
        scores = row[: dest + 1].clone()
        scores[0] = 0
        best = ", ".join(
            f"{printable_token(GERMAN_TOKENS[i])} {number(float(scores[i]))}" for i in scores.topk(3).indices
        )
        after, following = (re.escape(printable_token(token)) for token in GERMAN_TOKENS[dest : dest + 2])
        start = rf"{dest} +{after} +{following}"
        assert re.search(rf"{start} +25.0% +{re.escape(best)}", text)
    totals = matrix.span_totals()
    for name in ("English", "generated"):
        assert re.search(name + "".join(rf" +{re.escape(number(value))}" for value in totals.loc[name]), text)
    assert not re.search(r"German +—", text)
    assert "totals over spans" in text
    assert "totals over spans" not in plain(fake_matrix(generated=4, spans={}), 120)


def test_colours_are_named_where_there_are_any() -> None:
    for result, report in ((fake_heads(), HeadsReport), (fake_modes(), ModesReport), (fake_cells(), CellsReport)):
        assert "orange" not in plain(result) and "blue" not in plain(result)
        assert "(orange)" in coloured(report(result), 400) and "(blue)" in coloured(report(result), 400)


def test_long_texts_are_summarised_and_said_so() -> None:
    text = " ".join(plain(fake_matrix(["<bos>", *[f" w{i}" for i in range(299)]]), 80).split())
    assert "each column is the strongest of 5 tokens" in text
    assert "the last 40 of 300 predictions" in text
    assert "which token predicted what, the last 24 of 300" in text


def test_modes_are_contrasts_and_words_are_sentences() -> None:
    text = plain(fake_modes())
    assert "mode 1  λ = 0.07560" in text
    assert re.search(r"␣sofa +\+0.4 +█+", text) and re.search(r"␣couch +-0.36 +█+", text)
    assert text.index("␣bed    ") > text.index("␣sofa    ")
    drop_colours = text[text.index("what replacing each word does") :]
    sentence = "Replacing ' Sofa': ' couch' +36.0 pp, ' sofa' −40.0 pp (predicted +18.0 pp, −20.0 pp)"
    assert " ".join(drop_colours.split()).split("first ")[1].startswith(sentence)
    root = math.sqrt(0.0756)
    assert f"1: {short_number(-2 * root)} 2: +{short_number(0.5 * math.sqrt(0.0217))}" in drop_colours
    assert "KL predicted 0.2, actual 0.5 nats; agreement 0.95" in drop_colours


@pytest.mark.parametrize("make", [fake_heads, fake_matrix, fake_influence, fake_modes])
@pytest.mark.parametrize("width", [30, 50, 80, 200])
@pytest.mark.parametrize("tokens", [GERMAN_TOKENS, HOSTILE_TOKENS, ["a" * 300, " b"]])
def test_every_line_fits(make: Callable[..., Any], width: int, tokens: list[str]) -> None:
    for line in plain(make(tokens), width).splitlines():
        assert cell_len(line) <= width


@pytest.mark.parametrize(("make", "report"), REPORTS)
def test_tokens_cannot_act_on_the_terminal(make: Callable[..., Any], report: Callable[..., Any]) -> None:
    fields = {"warnings": ["\x1b[2J[red]"], "model": {"name": "\x1b]0;x\x07"}}
    if make is not fake_modes:
        fields |= {"objective": "\x1b[5m", "contract": {"\x1bkey": "\x1b[1m\u202e"}}
    result = make(HOSTILE_TOKENS, **fields)
    for text in (plain(result, 200), coloured(report(result), 200)):
        stripped = re.sub(r"\x1b\[[0-9;]*m", "", text)
        assert "\x1b" not in stripped and "\x07" not in stripped and "\u202e" not in stripped and "\x00" not in stripped
        assert "[red]" in stripped


@pytest.mark.parametrize("make", [fake_heads, fake_matrix, fake_influence, fake_modes])
@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_narrow_encodings_are_printed_without_an_error(make: Callable[..., Any], encoding: str) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=file, width=80, color_system=None).print()
    print_result(make(), Console(file=file, width=80, color_system=None))
    file.flush()
    assert isinstance(file.buffer, io.BytesIO)
    assert "Sofa" in file.buffer.getvalue().decode(encoding)


def test_zero_and_broken_numbers_are_said_in_words() -> None:
    zero = torch.zeros(18, 4)
    text = plain(fake_heads(effect=zero, by_source=torch.zeros(18, 4, 18), mlp_effect=torch.zeros(18)))
    assert "The change of every head is exactly zero" in text
    broken = fake_heads().effect.clone()
    broken[0, 0] = math.nan
    assert "1 of 72 heads has a change that is not finite" in plain(fake_heads(effect=broken))
    assert "Every score is exactly zero" in plain(fake_matrix(matrix=torch.zeros(18, 18)))
    assert "! span 'x'" in plain(fake_matrix(spans={"x": (3, 99)}), 200)
    assert "no word has an effect that is a number" in plain(fake_modes(GERMAN_TOKENS[:1]))


def test_the_contract_follows_where_it_is_asked_for() -> None:
    for result in (fake_heads(), fake_matrix(), fake_influence(), fake_modes()):
        console = Console(file=io.StringIO(), width=100, color_system=None)
        print_result(result, console)
        assert isinstance(console.file, io.StringIO)
        shown = console.file.getvalue()
        assert plain(result).startswith(shown) and next(iter(result.contract)) in plain(result)[len(shown) :]


def test_only_results_are_printed() -> None:
    with pytest.raises(TypeError, match="no view of a str"):
        print_result("text")  # type: ignore[arg-type]
