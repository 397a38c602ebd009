"""Figures of heads, matrices and modes: what they plot, any text, the same file twice, nothing outside the paper."""

import io
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fake_attribution import GERMAN_TOKENS, HOSTILE_TOKENS
from fake_results import fake_heads, fake_influence, fake_matrix, fake_modes
from matplotlib.collections import PolyCollection
from matplotlib.image import imread

from lens_scopes.results.heads import AblationEffect
from lens_scopes.views import figure_bytes, figure_of, heads_figure, matrix_figure, modes_figure
from lens_scopes.views.charts import axis_of
from lens_scopes.views.figures.interventions.scatter import _free_corner
from lens_scopes.views.words.token_text import printable_token

MAKERS = [fake_heads, fake_matrix, fake_influence, fake_modes]


def panel(figure: Any, label: str) -> Any:
    (axes,) = [axes for axes in figure.axes if axes.get_label() == label]
    return axes


def test_the_map_of_heads_is_relative_with_mlps_on_their_own_scale() -> None:
    heads = fake_heads()
    axes = panel(heads_figure(heads), "heads")
    data = torch.tensor(axes.images[0].get_array().data)
    torch.testing.assert_close(data[:, :4], heads.effect / heads.effect.abs().max())
    torch.testing.assert_close(data[:, 4], heads.mlp_effect / heads.mlp_effect.abs().max())
    assert [label.get_text() for label in axes.get_xticklabels()] == ["H0", "H1", "H2", "H3", "MLP"]
    assert "-2.5" in [text.get_text() for text in axes.texts]


def test_points_are_predicted_against_actual_changes() -> None:
    heads = fake_heads()
    axes = panel(heads_figure(heads), "ablation")
    drawn = sorted(tuple(point) for points in axes.collections for point in points.get_offsets().tolist())
    expected = sorted((item.predicted, item.actual) for item in heads.ablations)
    torch.testing.assert_close(torch.tensor(drawn), torch.tensor(expected))
    assert axes.get_xlim() == axes.get_ylim()
    assert "Spearman’s ρ = 0.91, 90 components" in axes.get_title()
    strongest = heads.ablations[0]
    assert strongest.name in [text.get_text() for text in axes.texts]
    far = [*heads.ablations[1:], AblationEffect(0, 0, 1.0, -90.0)]
    stretched = panel(heads_figure(fake_heads(ablations=far)), "ablation")
    assert stretched.get_xscale() == "function" and "square-root scale" in stretched.get_xlabel()


def test_the_matrix_is_relative_to_each_row_with_bos_hatched() -> None:
    matrix = fake_matrix(generated=4)
    axes = panel(matrix_figure(matrix), "matrix")
    data = axes.images[0].get_array()
    assert data.mask[:, 0].all()
    scores = matrix.matrix[:, 1:]
    torch.testing.assert_close(torch.tensor(data.data[:, 1:]), scores / scores.abs().amax(1, keepdim=True))
    assert [label.get_text() for label in axes.get_xticklabels()] == [printable_token(token) for token in GERMAN_TOKENS]
    assert axes.get_yticklabels()[-1].get_text() == "␣on → ␣the"
    hatched = [part for part in axes.collections if isinstance(part, PolyCollection) and part.get_hatch()]
    assert len(hatched) == 4


def test_modes_are_bars_from_rise_to_fall() -> None:
    drawn = modes_figure(fake_modes())
    first = panel(drawn, "mode 1")
    assert [bar.get_width() for bar in first.containers[0]] == [0.4, 0.005, -0.008, -0.03, -0.36]
    assert [label.get_text() for label in first.get_yticklabels()][:2] == ["␣sofa", "␣chair"]
    assert panel(drawn, "mode 2").get_title() == "mode 2, λ = 0.022"


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("format", ["png", "pdf", "svg"])
def test_any_text_is_drawn_without_a_warning_and_the_same_twice(make: Callable[..., Any], format: str) -> None:
    fields = {} if make is fake_modes else {"objective": "$x^{2$ \u202e"}
    results = [make(HOSTILE_TOKENS, **fields) for _ in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = (figure_bytes(result, format, dpi=60) for result in results)
    assert first == second
    assert first.startswith({"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[format])


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("width", [3.25, 5.5])
def test_nothing_is_drawn_outside_the_paper(make: Callable[..., Any], width: float) -> None:
    pixels = imread(io.BytesIO(figure_bytes(make(), dpi=100, width=width)))[..., :3]
    assert pixels.shape[1] == int(100 * width)
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert edge.min() == 1


@pytest.mark.parametrize(
    "result",
    [
        fake_heads(effect=torch.zeros(18, 4), mlp_effect=torch.zeros(18), ablations=[], spearman=None),
        fake_heads(effect=torch.full((18, 4), math.nan), ablations=[AblationEffect(0, 0, math.nan, 1.0)]),
        fake_heads(n_layers=40, n_heads=40),
        fake_matrix(matrix=torch.zeros(18, 18)),
        fake_matrix(matrix=torch.full((18, 18), math.inf)),
        fake_matrix(["<bos>", *[f" word{i}" for i in range(299)]]),
        fake_modes(modes=[]),
    ],
)
def test_unusual_numbers_are_drawn_and_said(result: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure_bytes(result, dpi=40)
    drawn = figure_of(result)
    said = " ".join(drawn.get_suptitle().split())
    assert ("zero" in said) == (hasattr(result, "effect") and not result.effect.any() or not _any(result))
    assert result.figure().get_suptitle() == drawn.get_suptitle()


def _any(result: Any) -> bool:
    return bool(result.matrix.any()) if hasattr(result, "matrix") else True


def test_the_legend_is_in_the_emptier_corner_off_the_diagonal() -> None:
    axis = axis_of([4.0, -4.0])
    assert _free_corner(axis, [(2.5, -3.0)], False) == "upper left"
    assert _free_corner(axis, [(-3.0, 3.5), (-2.5, 3.0), (2.5, -3.0)], True) == "lower right"
    assert (_free_corner(axis, [], False), _free_corner(axis, [], True)) == ("lower right", "upper left")
