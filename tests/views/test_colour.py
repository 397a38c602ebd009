"""The colour scale: contrast, colour vision deficiencies, what sets the scale, dark mode."""

import math
import re

import pytest

from lens_scopes.views.figures.style import colour_map
from lens_scopes.views.page.document import STYLESHEET
from lens_scopes.views.page.inline import SCRIPTS
from lens_scopes.views.words.colour import (
    DEEP_NEGATIVE,
    DEEP_POSITIVE,
    INVERSION,
    LEVELS,
    NEGATIVE,
    POSITIVE,
    contrast,
    dark,
    from_hex,
    ink,
    joint_scale,
    level_colour,
    scale_of,
    to_hex,
)


@pytest.mark.parametrize("on_dark", [False, True])
def test_text_is_readable_on_every_step_of_the_scale(on_dark: bool) -> None:
    for level in range(-LEVELS, LEVELS + 1):
        assert contrast(level_colour(level, on_dark=on_dark), ink(on_dark=on_dark)) >= 4.5


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("#ffffff", "#000000", 21.0),
        ("#767676", "#ffffff", 4.54),
        ("#ff0000", "#ffffff", 4.0),
        ("#123456", "#123456", 1),
    ],
)
def test_contrast_is_that_of_the_web_guidelines(a: str, b: str, expected: float) -> None:
    assert contrast(from_hex(a), from_hex(b)) == pytest.approx(expected, abs=0.005)


# Machado, Oliveira, Fernandes (2009), severity 1.0, on linear components.
DEFICIENCIES = {
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}


def _opponents(colour: tuple[float, ...], matrix: tuple[tuple[float, ...], ...]) -> tuple[float, ...]:
    """CIELAB of a colour as seen with a deficiency."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    r, g, b = (min(1.0, max(0.0, sum(m * c for m, c in zip(row, linear, strict=True)))) for row in matrix)
    x = (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.95047
    y = 0.2126 * r + 0.7152 * g + 0.0722 * b
    z = (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.08883
    x, y, z = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, y, z))
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
@pytest.mark.parametrize("on_dark", [False, True])
def test_the_ends_stay_apart_without_full_colour_vision(deficiency: str, on_dark: bool) -> None:
    seen = [
        _opponents(level_colour(level, on_dark=on_dark), DEFICIENCIES[deficiency]) for level in (-LEVELS, 0, LEVELS)
    ]
    negative, zero, positive = seen
    assert min(math.dist(negative, zero), math.dist(zero, positive), math.dist(negative, positive)) > 25


def test_steps_grow_evenly_from_the_paper() -> None:
    identity = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    for sign in (-1, 1):
        seen = [_opponents(level_colour(sign * level), identity) for level in range(LEVELS + 1)]
        steps = [math.dist(a, b) for a, b in zip(seen, seen[1:], strict=False)]
        assert max(steps) / min(steps) < 1.25
    assert level_colour(0) == pytest.approx((1, 1, 1))


def test_dark_mode_is_the_filter_written_out() -> None:
    assert to_hex(dark((1.0, 1.0, 1.0))) == "#0d0d0d"
    assert to_hex(dark((0.0, 0.0, 0.0))) == "#f2f2f2"


def test_special_and_broken_scores_do_not_set_the_scale() -> None:
    scale = scale_of([900.0, 1.0, -4.0, math.nan, math.inf], [True, False, False, False, False])
    assert scale.bound == 4.0
    assert scale.signed
    assert scale.relative(-4.0) == -1
    assert scale.relative(1.0) == 0.25
    assert scale.relative(900.0) == 1
    assert math.isnan(scale.relative(math.nan))
    assert scale.level(-4.0) == -LEVELS


def test_zero_scores_have_a_scale_without_division() -> None:
    scale = scale_of([5.0, 0.0, 0.0], [True, False, False])
    assert (scale.bound, scale.signed, scale.relative(0.0), scale.level(5.0)) == (0.0, False, 0.0, 0)


def test_a_joint_scale_spans_all_rows() -> None:
    scale = joint_scale([[9.0, 1.0], [9.0, -3.0]], [True, False])
    assert (scale.bound, scale.signed) == (3.0, True)


def test_the_stylesheet_has_the_computed_colours() -> None:
    css = STYLESHEET.read_text(encoding="utf-8")
    light, dark_mode = re.findall(r":root\{(.*?)\}", css, re.DOTALL)
    for on_dark, palette in ((False, light), (True, dark_mode)):
        for level in range(-LEVELS, LEVELS + 1):
            name = f"{'n' if level < 0 else 'p'}{abs(level)}"
            assert f"--{name}:{to_hex(level_colour(level, on_dark=on_dark))};" in palette
            assert f".{name}{{background:var(--{name})}}" in css
        assert f"--ink:{to_hex(ink(on_dark=on_dark))};" in palette
    assert f".circuitsvis{{filter:invert({INVERSION}) hue-rotate(180deg)}}" in css
    for name in ("link", "strong", "fill"):
        assert f"--{name}:{DEEP_POSITIVE};" in light


def test_figures_and_scripts_have_the_colours_of_the_page() -> None:
    for signed in (True, False):
        for level in range(-LEVELS if signed else 0, LEVELS + 1):
            place = (level + LEVELS) / (2 * LEVELS) if signed else level / LEVELS
            assert colour_map(signed=signed)(place)[:3] == pytest.approx(level_colour(level), abs=0.02)
    script = (SCRIPTS / "circuitsvis" / "render.js").read_text(encoding="utf-8")
    assert f'POSITIVE = "{POSITIVE}"' in script and f'NEGATIVE = "{NEGATIVE}"' in script
    for deep in (DEEP_POSITIVE, DEEP_NEGATIVE):
        assert contrast(from_hex(deep), (1.0, 1.0, 1.0)) >= 4.5
