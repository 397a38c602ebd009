"""The matplotlib figure: what it plots, what it leaves alone, that any text can be drawn."""

import io
import math
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import torch
from fake_attribution import GERMAN_TOKENS, HOSTILE_TOKENS, fake_attribution
from matplotlib.collections import PolyCollection
from matplotlib.image import imread

from lens_scopes.errors import FileError
from lens_scopes.results.attribution import Attribution
from lens_scopes.views import figure, figure_bytes
from lens_scopes.views.words.attribution import number
from lens_scopes.views.words.token_text import visible


def panel(attribution: Attribution, label: str) -> Any:
    (axes,) = [axes for axes in figure(attribution).axes if axes.get_label() == label]
    return axes


def test_bars_are_the_scores_and_special_tokens_are_numbers() -> None:
    attribution = fake_attribution()
    bars = panel(attribution, "tokens")
    scores = attribution.scores.tolist()
    assert [patch.get_height() for patch in bars.containers[0]] == pytest.approx(scores[1:])
    assert [round(patch.get_x() + patch.get_width() / 2) for patch in bars.containers[0]] == list(range(1, 18))
    assert bars.get_ylim() == pytest.approx((0, 1.08 * max(scores[1:])))
    assert [text.get_text() for text in bars.texts] == [number(scores[0])]
    assert any(patch.get_hatch() for patch in bars.patches)


def test_standard_errors_are_drawn_and_fit() -> None:
    errors = torch.zeros(18)
    errors[9] = 5.0
    bars = panel(fake_attribution(standard_error=errors), "tokens")
    assert bars.get_ylim()[1] > 19.2
    assert len(bars.containers) == 2


def test_signed_scores_have_a_symmetric_axis() -> None:
    scores = [1000.0, -3.0, 2.0, math.nan]
    bars = panel(fake_attribution(["<bos>", "a", "b", "c"], scores, n_layers=0), "tokens")
    low, high = bars.get_ylim()
    assert low == -high == pytest.approx(-3.24)
    assert [text.get_text() for text in bars.texts] == ["1000", "not a number"]


def test_the_map_is_relative_to_each_layer() -> None:
    attribution = fake_attribution()
    assert attribution.layers is not None
    heat = panel(attribution, "layers")
    data = heat.images[0].get_array()
    expected = attribution.layers / attribution.layers[:, 1:].abs().amax(1, keepdim=True)
    assert data.mask[:, 0].all()
    assert torch.tensor(data.data[:, 1:]) == pytest.approx(expected[:, 1:].numpy())
    assert [label.get_text() for label in heat.get_xticklabels()] == [visible(token) for token in GERMAN_TOKENS]
    hatched = [part for part in heat.collections if isinstance(part, PolyCollection) and part.get_hatch()]
    assert len(hatched) == 18


def test_the_profile_shows_the_largest_magnitude_of_each_layer() -> None:
    attribution = fake_attribution()
    assert attribution.layers is not None
    profile = panel(attribution, "magnitudes")
    assert profile.lines[0].get_xdata() == pytest.approx(attribution.layers[:, 1:].amax(1).numpy())


def test_magnitudes_that_span_decades_are_logarithmic() -> None:
    layers = torch.logspace(0, -4, 18)[:, None] * torch.rand(18, generator=torch.Generator().manual_seed(0))
    assert panel(fake_attribution(layers=layers), "magnitudes").get_xscale() == "log"
    assert panel(fake_attribution(), "magnitudes").get_xscale() == "linear"


def test_the_prediction_shows_the_target_even_when_rare() -> None:
    attribution = fake_attribution()
    rare = type(attribution.target)(5, " rare", 1e-9)
    bars = panel(fake_attribution(target=rare), "prediction")
    assert [label.get_text() for label in bars.get_yticklabels()][-1] == "␣rare"
    assert bars.containers[0].patches[0].get_width() == pytest.approx(0.7803)


@pytest.mark.parametrize(
    ("tokens", "format"),
    [(HOSTILE_TOKENS, format) for format in ("png", "pdf", "svg", "eps")]
    + [(["$", "\\", "a$b$c^{"], "png"), ([f" word{i}" for i in range(300)], "png")],
)
def test_any_text_is_drawn_without_a_warning(tokens: list[str], format: str) -> None:
    signs = torch.tensor([1.0, -1.0]).repeat(len(tokens))[: len(tokens)]
    plain = fake_attribution(tokens)
    assert plain.layers is not None
    layers = plain.layers * signs
    layers[2, 1] = math.inf
    scores = (plain.scores * signs).tolist()
    scores[1] = math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        content = figure_bytes(fake_attribution(tokens, scores, layers=layers), format, dpi=60)
    assert content.startswith({"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml", "eps": b"%!PS"}[format])


def test_zero_scores_are_drawn_and_said_in_words() -> None:
    drawn = figure(fake_attribution(scores=[0.0] * 18, layers=torch.zeros(18, 18)))
    assert "Every score is exactly zero" in " ".join(drawn.get_suptitle().split())
    drawn.savefig(io.BytesIO(), dpi=40)


def test_the_title_names_prompt_and_target() -> None:
    title = figure(fake_attribution()).get_suptitle()
    assert title.startswith("German: Der Hund")
    assert title.endswith("→ ␣sofa")


@pytest.mark.parametrize("format", ["png", "pdf", "svg"])
def test_the_same_attribution_gives_the_same_file(format: str) -> None:
    attribution = fake_attribution()
    assert figure_bytes(attribution, format, dpi=60) == figure_bytes(attribution, format, dpi=60)


def test_a_figure_is_as_wide_as_a_paper_column() -> None:
    pixels = imread(io.BytesIO(figure_bytes(fake_attribution(), dpi=100)))
    assert pixels.shape[1] == 550
    assert figure(fake_attribution(), width=3.25).get_figwidth() == 3.25


def test_nothing_is_drawn_outside_the_paper() -> None:
    pixels = imread(io.BytesIO(figure_bytes(fake_attribution(HOSTILE_TOKENS), dpi=100)))[..., :3]
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert edge.min() == 1


def test_other_formats_are_refused() -> None:
    with pytest.raises(FileError, match="'gif': choose one of png, pdf, svg, eps"):
        figure_bytes(fake_attribution(), "gif")


def test_settings_stay_as_they_were() -> None:
    before = dict(matplotlib.rcParams)
    figure_bytes(fake_attribution(), dpi=40)
    assert dict(matplotlib.rcParams) == before


def test_no_pyplot() -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests/support'); from fake_attribution import fake_attribution;"
        "from lens_scopes.views import figure_bytes; figure_bytes(fake_attribution(), dpi=40);"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "False"
