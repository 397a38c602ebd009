"""The palette of pages, terminals and figures, and its scale: zero is the paper, blue positive, orange negative.

Blue against orange stays apart under every common colour vision deficiency. Both ends are light enough for
black text, and their dark-mode counterparts dark enough for light text, so that text on any cell of the scale
has a contrast of at least 4.5 : 1 (WCAG 2.2, level AA).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

Rgb = tuple[float, float, float]

POSITIVE = "#65a1fb"
NEGATIVE = "#f9971f"
# The same two for lines, points and text, at least 4.5 : 1 against white.
DEEP_POSITIVE = "#1f5fbf"
DEEP_NEGATIVE = "#b35900"
LEVELS = 20

# What dark mode does to a light surface: CircuitsVis always blends towards white, and this filter turns its
# strips into exactly the colours that `dark` computes for the cells drawn here.
INVERSION = 0.95

_WHITE_POINT = (0.95047, 1.0, 1.08883)
_TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
_TO_RGB = (
    (3.2404542, -1.5371385, -0.4985314),
    (-0.9692660, 1.8760108, 0.0415560),
    (0.0556434, -0.2040259, 1.0572252),
)
_LUMA = (0.213, 0.715, 0.072)


@dataclass(frozen=True)
class Scale:
    """Scores relative to the largest magnitude among the tokens that count: r = s / max|s|, in [-1, 1].

    Special tokens (BOS) and scores that are not finite do not enter the maximum. Where every remaining score
    is zero, `bound` is 0 and every relative score is 0.

    Args:
        bound: max|s| over the finite scores of non-special tokens, in the units of the score; ≥ 0.
        signed: whether any of those scores is negative, so that both sides of the scale are shown.
    """

    bound: float
    signed: bool

    def relative(self, score: float) -> float:
        """r = s / max|s|, clipped to [-1, 1]; NaN where `score` is not finite."""
        if not math.isfinite(score):
            return math.nan
        if self.bound == 0:
            return 0.0
        return max(-1.0, min(1.0, score / self.bound))

    def level(self, score: float) -> int:
        """The step of the quantised scale, -LEVELS … LEVELS, for a finite score."""
        return round(LEVELS * self.relative(score))


def scale_of(scores: Sequence[float], special: Sequence[bool]) -> Scale:
    """The scale of one row of scores; `special` marks the tokens to leave out of it."""
    counted = [s for s, is_special in zip(scores, special, strict=True) if not is_special and math.isfinite(s)]
    return Scale(bound=max((abs(s) for s in counted), default=0.0), signed=any(s < 0 for s in counted))


def joint_scale(rows: Sequence[Sequence[float]], special: Sequence[bool]) -> Scale:
    """One scale shared by several rows of scores over the same tokens."""
    scales = [scale_of(row, special) for row in rows]
    return Scale(bound=max((s.bound for s in scales), default=0.0), signed=any(s.signed for s in scales))


def level_colour(level: int, *, on_dark: bool = False) -> Rgb:
    """Colour of a step of the scale, on light paper or in dark mode.

    Args:
        level: -LEVELS … LEVELS; 0 is the paper itself.
        on_dark: the dark-mode counterpart.

    Returns:
        sRGB components in [0, 1].
    """
    end = from_hex(POSITIVE if level >= 0 else NEGATIVE)
    light = _mix((1.0, 1.0, 1.0), end, abs(level) / LEVELS)
    return dark(light) if on_dark else light


def ink(*, on_dark: bool = False) -> Rgb:
    """Colour of text on any step of the scale."""
    return dark((0.0, 0.0, 0.0)) if on_dark else (0.0, 0.0, 0.0)


def dark(colour: Rgb) -> Rgb:
    """What the CSS filter `invert(0.95) hue-rotate(180deg)` makes of a colour (Filter Effects Module Level 1)."""
    inverted = [_clip(c * (1 - 2 * INVERSION) + INVERSION) for c in colour]
    luma = sum(weight * c for weight, c in zip(_LUMA, inverted, strict=True))
    red, green, blue = (_clip(2 * luma - c) for c in inverted)
    return red, green, blue


def contrast(a: Rgb, b: Rgb) -> float:
    """WCAG 2.2 contrast ratio (L₁ + 0.05) / (L₂ + 0.05) of two colours, from 1 to 21."""
    lighter, darker = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def to_hex(colour: Rgb) -> str:
    """`#rrggbb` of sRGB components in [0, 1]."""
    return "#" + "".join(f"{round(255 * c):02x}" for c in colour)


def from_hex(text: str) -> Rgb:
    """sRGB components in [0, 1] of `#rrggbb`."""
    red, green, blue = (int(text[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def _clip(component: float) -> float:
    return max(0.0, min(1.0, component))


def _linear(component: float) -> float:
    return component / 12.92 if component <= 0.04045 else ((component + 0.055) / 1.055) ** 2.4


def _gamma(component: float) -> float:
    return 12.92 * component if component <= 0.0031308 else 1.055 * component ** (1 / 2.4) - 0.055


def _luminance(colour: Rgb) -> float:
    return sum(weight * _linear(c) for weight, c in zip(_TO_XYZ[1], colour, strict=True))


def _mix(start: Rgb, end: Rgb, amount: float) -> Rgb:
    """Linear blend in CIELAB, where equal steps look equal (and as CircuitsVis blends its tokens)."""
    a, b = _to_lab(start), _to_lab(end)
    return _from_lab(tuple(x + (y - x) * amount for x, y in zip(a, b, strict=True)))


def _to_lab(colour: Rgb) -> tuple[float, ...]:
    linear = [_linear(c) for c in colour]
    xyz = [sum(m * c for m, c in zip(row, linear, strict=True)) for row in _TO_XYZ]
    x, y, z = (
        t ** (1 / 3) if t > 216 / 24389 else (24389 / 27 * t + 16) / 116
        for t in (c / w for c, w in zip(xyz, _WHITE_POINT, strict=True))
    )
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def _from_lab(lab: tuple[float, ...]) -> Rgb:
    lightness, a, b = lab
    y = (lightness + 16) / 116
    xyz = [
        w * (t**3 if t**3 > 216 / 24389 else (116 * t - 16) * 27 / 24389)
        for t, w in zip((y + a / 500, y, y - b / 200), _WHITE_POINT, strict=True)
    ]
    red, green, blue = (_clip(_gamma(sum(m * c for m, c in zip(row, xyz, strict=True)))) for row in _TO_RGB)
    return red, green, blue
