"""Line styles for pages and figures: colour first, then dashes."""

from __future__ import annotations

from dataclasses import dataclass

# At least 3 : 1 against white and against the dark card, and apart under the common colour vision deficiencies in turn
# with their dashes and markers.
_COLOURS = ("#2f6fd0", "#c9650a", "#1f8f5f", "#a64ec4", "#c23b4b", "#7a7f8a", "#168aa0", "#8f7a10")
_DASHES = ("", "6 3", "2 2")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


@dataclass(frozen=True)
class LineStyle:
    """How a line is drawn: colour, SVG dash pattern (empty for a solid line), matplotlib marker."""

    colour: str
    dashes: str
    marker: str


def line_style(index: int) -> LineStyle:
    """The style of the line with this index; after the eighth, colours repeat with other dashes."""
    again = index // len(_COLOURS)
    return LineStyle(
        _COLOURS[index % len(_COLOURS)], _DASHES[again % len(_DASHES)], _MARKERS[(index + again) % len(_MARKERS)]
    )


look = line_style  # the pages' sections import this name
