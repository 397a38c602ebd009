"""Strips of several attributions of one prompt."""

import pytest
from through_layers import strips_figure
from tiny_models import llama_like

import lens_scopes as ls
from lens_scopes.errors import PromptError

IDS = [3, 7, 1, 7, 4, 9, 2]


def test_each_strip_is_relative_to_its_own_largest_magnitude_which_stands_beside_it() -> None:
    model = llama_like()
    strips = {"all": ls.attribute(model, IDS), "skip": ls.attribute(model, IDS, through=ls.Skip())}
    drawn = strips_figure(strips)
    axes = next(axes for axes in drawn.axes if axes.get_label() == "strips")
    values = axes.images[0].get_array()
    assert values.shape == (2, len(IDS))
    for row, att in zip(values, strips.values(), strict=True):
        assert row.tolist() == pytest.approx((att.scores / att.scores.max()).tolist())
    assert [label.get_text() for label in axes.get_yticklabels()] == ["all", "skip"]


def test_strips_of_different_tokens_and_no_strips_are_refused() -> None:
    model = llama_like()
    with pytest.raises(PromptError, match="same prompt"):
        strips_figure({"a": ls.attribute(model, IDS), "b": ls.attribute(model, IDS[:3])})
    with pytest.raises(PromptError, match="at least one"):
        strips_figure({})
