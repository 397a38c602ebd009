"""Strips of several attributions of one prompt, and the analysis that draws them."""

import importlib.util
import json
from pathlib import Path

import pytest
from tiny_models import llama_like

import lens_scopes as ls
from lens_scopes.errors import PromptError
from lens_scopes.views.figure_strips import strips_figure

IDS = [3, 7, 1, 7, 4, 9, 2]
ANALYSES = Path(__file__).resolve().parent.parent / "analyses"


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


def test_the_analysis_writes_its_pictures_and_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("through_layers", ANALYSES / "through_layers.py")
    assert spec is not None and spec.loader is not None
    analysis = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(analysis)
    monkeypatch.setattr(analysis, "FIGURES", tmp_path)
    monkeypatch.setattr(analysis, "PROMPT", IDS)
    monkeypatch.setattr(ls, "load_model", llama_like, raising=False)
    analysis.main()
    assert {path.name for path in tmp_path.iterdir()} == {f"through_layers.{kind}" for kind in ("png", "svg", "json")}
    record = json.loads((tmp_path / "through_layers.json").read_text(encoding="utf-8"))
    assert list(record) == ["all layers", "early, 0–0", "middle, 1–1", "late, 2–2"]
    expected = ls.attribute(llama_like(), IDS, ls.Fisher(), through=ls.Layers(1)).top(5)
    assert record["middle, 1–1"]["top"] == [list(item) for item in expected]
    assert "all layers" in capsys.readouterr().out
