"""The terminal view: fits its width, shows everything in colour and without, lets no token act on the terminal."""

import io
import math
import re

import pytest
import torch
from fake_attribution import GERMAN_TOKENS, HOSTILE_TOKENS, fake_attribution
from rich.cells import cell_len
from rich.console import Console

from lens_scopes.engine.final_state import PredictedToken
from lens_scopes.results.attribution import Attribution
from lens_scopes.results.base import AnswerRecord
from lens_scopes.views import print_result
from lens_scopes.views.terminal.attribution import TerminalReport
from lens_scopes.views.words.attribution import number, percent
from lens_scopes.views.words.colour import ink, level_colour
from lens_scopes.views.words.token_text import inline_token, printable_token


def plain(attribution: Attribution, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    print_result(attribution, console, contract=True)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def coloured(attribution: Attribution, on_dark: bool = True) -> str:
    console = Console(
        file=io.StringIO(), width=100, color_system="truecolor", force_terminal=True, legacy_windows=False
    )
    console.print(TerminalReport(attribution, on_dark=on_dark))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def background(level: int, text: str, on_dark: bool = True) -> str:
    """The escape sequence of a text on a step of the scale."""
    front, back = (
        ";".join(str(round(255 * c)) for c in colour)
        for colour in (ink(on_dark=on_dark), level_colour(level, on_dark=on_dark))
    )
    return f"\x1b[38;2;{front};48;2;{back}m{text}\x1b[0m"


def test_the_words_and_numbers_are_there() -> None:
    attribution = fake_attribution(standard_error=torch.linspace(0.1, 0.5, 18), warnings=["Mind the gap."])
    text = plain(attribution)
    assert "German: Der Hund schläft auf dem Sofa. English: The dog sleeps on the" in text
    assert "! Mind the gap." in text
    assert "14.20 = largest magnitude of the other tokens" in text
    for index, token, score in attribution.top(10):
        assert re.search(rf"{index} +{re.escape(printable_token(token))} +{re.escape(number(score))} ", text)
    assert re.search(rf"0 +<bos> +{re.escape(number(attribution.scores[0].item()))} +\S+ +outside the scale", text)
    for item in attribution.prediction.top[:5]:
        assert percent(item.probability) in text
    assert "entropy 0.8710 nats   β = ‖y‖ = 41.37" in text
    for name, value in attribution.contract.items():
        assert re.search(rf"{name} +{re.escape(value)}", text)


def test_backgrounds_are_steps_of_the_scale() -> None:
    for on_dark in (True, False):
        text = coloured(fake_attribution(), on_dark=on_dark)
        assert background(20, " Sofa", on_dark) in text
        assert background(10, " on", on_dark) in text
        assert background(20, "<bos>", on_dark) not in text


def test_signed_scores_take_both_sides_of_the_scale() -> None:
    scores = [0.0] * 18
    scores[9], scores[14] = -2.0, 1.0
    text = coloured(fake_attribution(scores=scores))
    assert background(-20, " Sofa") in text
    assert background(10, " dog") in text
    assert "-2.000" in text


def test_without_colour_heights_show_the_scale() -> None:
    scores = [1000.0] + [0.0] * 17
    scores[9], scores[16] = 8.0, 4.0
    text = plain(fake_attribution(scores=scores))
    assert "\x1b" not in text
    lines = text.splitlines()
    above = next(i for i, line in enumerate(lines) if "schläft" in line)
    heights = lines[above + 1]
    sofa, on = lines[above].index(" Sofa"), lines[above].rindex(" on")
    assert heights[sofa : sofa + 5] == "█████"
    assert heights[on : on + 3] == "▄▄▄"
    assert heights[:5] == "·····"


@pytest.mark.parametrize("width", [30, 60, 80, 200])
@pytest.mark.parametrize("n_layers", [2, 18, 120])
@pytest.mark.parametrize("tokens", [GERMAN_TOKENS, HOSTILE_TOKENS, [f" word{i}" for i in range(300)]])
def test_every_line_fits(width: int, n_layers: int, tokens: list[str]) -> None:
    text = plain(fake_attribution(tokens, n_layers=n_layers), width)
    assert max(cell_len(line) for line in text.splitlines()) <= width


def test_tokens_cannot_act_on_the_terminal() -> None:
    acting = [not token.isprintable() for token in HOSTILE_TOKENS]
    attribution = fake_attribution(
        HOSTILE_TOKENS,
        [10.0 if acts else 1.0 for acts in acting],
        warnings=["\x1b[2J[red]"],
        objective="\x1b]0;x\x07",
        contract={"\x1bkey": "\x1b[1m\u202e"},
        target=PredictedToken(5, "\x1b]2;t", 0.5),
    )
    for text in (plain(attribution, 200), coloured(attribution)):
        stripped = re.sub(r"\x1b\[[0-9;]*m", "", text)
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", stripped)
        assert "⟨U+001B⟩[2J[red]" in stripped
        for token in HOSTILE_TOKENS:
            for piece in inline_token(token).split():
                assert piece in stripped.replace("\n", "") or cell_len(piece) > 20
    assert "[bold red]" in plain(attribution)
    assert ":smile:" in plain(attribution)
    assert "\x1b[31m" not in coloured(attribution)


def test_layers_show_the_leading_token_of_each_run() -> None:
    layers = torch.full((18, 18), 0.1, dtype=torch.float64)
    layers[:, 0] = 99
    layers[:6, 9] = torch.linspace(7.0, 6.0, 6)
    layers[6:17, 17] = 3.0
    layers[17] = 0
    text = plain(fake_attribution(layers=layers))
    assert re.search(r"L0–L5 +␣Sofa +7.000 → 6.000", text)
    assert re.search(r"L6–L16 +␣the +3.000 → 3.000", text)
    assert re.search(r"L17 +none: every score is zero or not finite", text)
    assert "each layer on its own scale" in text


def test_the_layer_map_shades_every_cell_on_its_layers_scale() -> None:
    layers = torch.zeros(3, 4, dtype=torch.float64)
    layers[:, 0] = 1000
    layers[0, 1], layers[0, 2], layers[1, 3], layers[2, 2] = 4.0, 2.0, 0.01, math.nan
    attribution = fake_attribution(["<bos>", "aa", "bb", "cc"], layers=layers, n_layers=3)
    lines = plain(attribution).splitlines()
    start = next(i for i, line in enumerate(lines) if "L0" in line)
    rows = {line.split(" ")[0]: line[6:15] for line in lines[start + 1 : start + 5]}
    assert rows == {"<bos>": "·········", "aa": "███      ", "bb": "▒▒▒   ???", "cc": "   ███   "}


def test_many_layers_and_tokens_are_summarised_and_said_so() -> None:
    text = plain(fake_attribution([f" word{i}" for i in range(300)], n_layers=120), 60)
    assert "each column is the strongest of" in " ".join(text.split())
    assert "260 tokens left out, none above" in " ".join(text.split())


def test_the_contract_is_printed_where_it_is_asked_for() -> None:
    attribution = fake_attribution(contract={"held fixed": "the weights"})
    assert "held fixed  the weights" in plain(attribution) and "held fixed" not in coloured(attribution)


def test_zero_and_broken_scores_are_said_in_words() -> None:
    assert "Every score is exactly zero" in plain(fake_attribution(scores=[0.0] * 18))
    text = plain(fake_attribution(scores=[math.nan] * 9 + [1.0] * 9))
    assert "9 of 18 scores are not finite" in text


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_narrow_encodings_are_printed_without_an_error(encoding: str) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=file, width=80, color_system=None)
    console.print(TerminalReport(fake_attribution()))
    file.flush()
    assert isinstance(file.buffer, io.BytesIO)
    text = file.buffer.getvalue().decode(encoding)
    assert "schl?ft auf dem Sofa" in text
    assert "_Sofa" in text
    assert "#######" in text


@pytest.mark.parametrize(("value", "on_dark"), [("0;15", False), ("15;0", True), ("", True), ("0;default;7", False)])
def test_the_background_is_read_from_the_terminal(monkeypatch: pytest.MonkeyPatch, value: str, on_dark: bool) -> None:
    monkeypatch.setenv("COLORFGBG", value)
    assert TerminalReport(fake_attribution()).on_dark is on_dark


def test_an_answer_is_shown_with_its_probability() -> None:
    answer = AnswerRecord([" Ber", "lin"], [5, 6], [-1.0, -0.5], generated=True)
    text = coloured(fake_attribution(answer=answer)) + plain(fake_attribution(answer=answer), width=140)
    assert "→  Berlin" in text and "' Berlin'" in text
    assert "log P(answer | prompt) = -1.5" in text and "generated by the model" in text
