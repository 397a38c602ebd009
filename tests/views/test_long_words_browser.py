"""Tokens, layers and spans with names of hundreds of letters or of a hostile kind: no page scrolls sideways."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from fake_attribution import HOSTILE_TOKENS, fake_attribution
from fake_results import fake_cells, fake_heads, fake_influence, fake_matrix, fake_modes
from tiny_models import gpt2_like

import lens_scopes as ls
from lens_scopes.engine.final_state import PredictedToken

LONG = "x" * 300
WORDS = {"long": [LONG], "hostile": HOSTILE_TOKENS, "surrogate": ["\ud800" * 80], "wide": ["漢字" * 90, "ｗ" * 200]}


def fake_flow(words: Sequence[str]) -> ls.InformationFlow:
    spans = {f"{word}{index}": range(index + 1, index + 2) for index, word in zip(range(5), cycle(words), strict=False)}
    return ls.information_flow(gpt2_like(), [3, 7, 1, 7, 4, 9, 2], spans, rank=2)


def said_in(result: Any, words: Sequence[str]) -> Any:
    """The result with these words for its tokens, its layers and all that is said of it."""
    tokens = [word for word, _ in zip(cycle(words), result.tokens, strict=False)]
    likely = [PredictedToken(index, word, 0.5) for index, word in enumerate(words)]
    changes: dict[str, Any] = {"tokens": tokens, "objective": words[0], "warnings": list(words)}
    changes |= {"prediction": replace(result.prediction, top=[*likely, *result.prediction.top])}
    if isinstance(getattr(result, "target", None), PredictedToken):
        changes["target"] = likely[0]
    if getattr(result, "layer_names", None):
        changes["layer_names"] = [f"{words[0]}{index}" for index in range(len(result.layer_names))]
    return replace(result, **changes)


@pytest.mark.browser
@pytest.mark.parametrize("words", WORDS.values(), ids=WORDS)
@pytest.mark.parametrize(
    "make",
    [fake_attribution, fake_heads, fake_cells, fake_matrix, fake_influence, fake_modes, fake_flow],
)
def test_nothing_scrolls_sideways(make: Callable[..., Any], words: Sequence[str], tmp_path: Path, browser: Any) -> None:
    path = tmp_path / "page.html"
    said_in(make(words) if make is fake_flow else make(), words).to_html(path)
    page = browser.new_page()
    for width in (390, 1200):
        page.set_viewport_size({"width": width, "height": 800})
        page.goto(path.as_uri())
        scroll, client = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert scroll <= client, width
    page.close()
