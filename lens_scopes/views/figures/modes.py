"""A mode inspection as a matplotlib figure: each mode as bars of rising and falling tokens."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lens_scopes.views.charts import axis_of
from lens_scopes.views.figures.style import (
    COLUMN_INCHES,
    QUIET,
    STYLE,
    add_header,
    drawable,
    families,
    header_height,
    new_figure,
    shorten,
)
from lens_scopes.views.words.attribution import prompt_text
from lens_scopes.views.words.colour import NEGATIVE, POSITIVE
from lens_scopes.views.words.modes import (
    Contrast,
    contrasts,
    modes_data_warnings,
    replacement_words,
    strongest_replacements,
)
from lens_scopes.views.words.numbers import short_number
from lens_scopes.views.words.token_text import printable_token

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lens_scopes.results.modes import ModeInspection

_ACROSS = 4
_TOLD = 3  # words whose replacement is told in a sentence


def modes_figure(modes: ModeInspection, *, width: float = COLUMN_INCHES) -> Figure:
    """The modes as a figure of `width` inches: for each the tokens that rise and fall most, with the change of their
    probability for a step along it that costs ½ nat. Above them, what replacing the words that matter most did.

    Args:
        modes: what to draw.
        width: in inches; 5.5 is the text width of a paper.
    """
    import matplotlib

    panels = contrasts(modes)
    across = min(_ACROSS, max(1, len(panels)))
    down = math.ceil(len(panels) / across)
    with matplotlib.rc_context(STYLE):
        prompt = prompt_text(modes)
        text = prompt if len(prompt) <= 76 else "…" + prompt[-75:]
        told = [replacement_words(item) for item in strongest_replacements(modes)[:_TOLD]]
        header = (text, "Fisher modes: change of probability along each", *told, *modes_data_warnings(modes))
        figure = new_figure(width, 1.55 * max(1, down) + 0.15 + header_height(header, width))
        for place, contrast in enumerate(panels):
            _bars(figure.add_subplot(max(1, down), across, place + 1, label=f"mode {contrast.index}"), contrast)
        add_header(figure, header)
    return figure


def _bars(axes: Axes, contrast: Contrast) -> None:
    shifts = contrast.shifts
    axes.barh(
        range(len(shifts)),
        [shift.change for shift in shifts],
        height=0.7,
        color=[POSITIVE if shift.change > 0 else NEGATIVE for shift in shifts],
    )
    axes.axvline(0, color=QUIET, linewidth=0.6)
    axes.set_yticks(
        range(len(shifts)),
        [drawable(shorten(printable_token(shift.token), 12)) for shift in shifts],
        parse_math=False,
        fontfamily=families(),
    )
    # Panels of fewer words keep the same height of bars.
    axes.set_ylim(max(len(shifts), 5) - 0.5, -0.5)
    reach = 1.1 * contrast.largest or 1.0
    axes.set_xlim(-reach, reach)
    axes.tick_params(left=False, labelsize=6)
    tick = axis_of([contrast.largest]).ticks()[-1]
    places = [-tick, 0.0, tick]
    axes.set_xticks(places, [short_number(place) for place in places])
    axes.set_title(f"mode {contrast.index}, λ = {short_number(contrast.eigenvalue)}", fontsize=6.5)
    axes.spines[["top", "right", "left"]].set_visible(False)
