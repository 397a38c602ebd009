"""Tokens, layers and spans with names of hundreds of letters: no page scrolls sideways, on a phone either."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_attribution import fake_attribution
from fake_results import fake_heads, fake_matrix, fake_modes

from lens_scopes.engine.final_state import PredictedToken

LONG = "x" * 300


def long_words(result: Any) -> Any:
    changes: dict[str, Any] = {"tokens": [LONG, *result.tokens[1:]], "objective": LONG, "warnings": [LONG]}
    changes |= {"prediction": replace(result.prediction, top=[PredictedToken(1, LONG, 0.5), *result.prediction.top])}
    if getattr(result, "target", None) is not None:
        changes["target"] = PredictedToken(1, LONG, 0.5)
    if getattr(result, "layer_names", None):
        changes["layer_names"] = [f"{LONG}{index}" for index in range(len(result.layer_names))]
    return replace(result, **changes)


@pytest.mark.browser
@pytest.mark.parametrize("make", [fake_attribution, fake_heads, fake_matrix, fake_modes])
@pytest.mark.parametrize("width", [390, 1200])
def test_nothing_scrolls_sideways(make: Any, width: int, tmp_path: Path, browser: Any) -> None:
    path = tmp_path / "page.html"
    long_words(make()).to_html(path)
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(path.as_uri())
    scroll, client = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    page.close()
    assert scroll <= client
