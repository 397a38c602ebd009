"""The evaluation page in Chromium: it opens offline without a complaint, sorts, fits, and is accessible."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chromium import browser_marks, texts
from fake_evaluation import fake_evaluation

from lens_scopes.evaluation.report import report

pytestmark = browser_marks


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return report(fake_evaluation(tmp_path_factory.mktemp("evaluation") / "results")).to_html()


@pytest.mark.parametrize("width", [390, 1280])
def test_it_fits_and_nothing_executes(visit: Callable[..., Any], page: str, width: int) -> None:
    tab = visit(page, viewport={"width": width, "height": 800})
    assert tab.evaluate("document.documentElement.scrollWidth") == width
    assert texts(tab, "nav a") == [
        "Means",
        "Compared with fisher",
        "Curves",
        "Sanity checks",
        "Cost",
        "Passages left out",
        "Model, settings, versions",
    ]


def test_comparisons_sort_by_their_numbers(visit: Callable[..., Any], page: str) -> None:
    tab = visit(page)
    column = "#compared tbody td:nth-child(5)"
    tab.click("#compared th:nth-child(5) button")
    values = tab.eval_on_selector_all(column, "cells => cells.map(c => c.value)")
    shown = [float(value) for value in values if value is not None]
    assert shown == sorted(shown, reverse=True) and len(shown) > 8


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_accessible(visit: Callable[..., Any], page: str, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    tab = visit(page, color_scheme=scheme)
    tab.evaluate("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    found = axe.Axe().run(tab)
    assert found.response["violations"] == [], [
        (item["id"], item["nodes"][0]["html"][:120]) for item in found.response["violations"]
    ]


def test_a_curve_has_a_line_for_each_method(visit: Callable[..., Any], page: str, tmp_path: Path) -> None:
    tab = visit(page)
    assert tab.eval_on_selector_all(
        "#curves svg[role=img]", "charts => charts.map(c => c.querySelectorAll('polyline').length)"
    ) == [4, 4]
    assert "fisher at 0.5: −" in texts(tab, "#curves svg[role=img] title")[2]
