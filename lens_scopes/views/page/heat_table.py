"""A matrix over tokens as a plain HTML table: rows are layers, heads or sites, columns are tokens.

Every cell carries its number as text, read by screen readers and copied into spreadsheets, and as a title for
the pointer. Colours are two classes a cell, its step on its row's scale and on the scale shared by all rows,
so that one radio button without any script chooses between them and a map of 18 layers × 500 tokens stays
light.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from lens_scopes.views.words.attribution import ranking
from lens_scopes.views.words.colour import Scale, joint_scale, scale_of
from lens_scopes.views.words.numbers import number, percent, short_number
from lens_scopes.views.words.token_text import visible

# Cells above which a browser lays the table out only when it comes into view.
LARGE = 2000


def heat_table(
    key: str,
    caption: str,
    row_names: Sequence[str],
    row_noun: str,
    tokens: Sequence[str],
    special: Sequence[bool],
    values: Sequence[Sequence[float]],
    standard_errors: Sequence[Sequence[float]] | None = None,
    row_links: Sequence[str] | None = None,
) -> str:
    """HTML of the table with its colour choice and legends.

    Args:
        key: a word unique on the page, used for the ids of the controls.
        caption: what the table shows, as text.
        row_names: one name per row.
        row_noun: what a row is, in the singular, such as `layer` or `head`.
        tokens: one token per column.
        special: which columns stay outside the colour scale.
        values: one row of scores per name, each as long as `tokens`.
        standard_errors: the same shape, shown in the titles.
        row_links: ids on the page that the names of the rows lead to.

    Returns:
        An HTML fragment; all text in it is escaped.
    """
    shared = joint_scale(values, special)
    lines = [
        _row(
            name,
            row,
            tokens,
            special,
            shared,
            None if standard_errors is None else standard_errors[i],
            None if row_links is None else row_links[i],
        )
        for i, (name, row) in enumerate(zip(row_names, values, strict=True))
    ]
    head = "".join(
        f'<th scope="col" title="#{i}"{" class=special" if special[i] else ""}>'
        f"<span><bdi>{token_html(token)}</bdi></span>"
        for i, token in enumerate(tokens)
    )
    noun = escape(row_noun)
    longest = max(map(len, row_names), default=0)
    large = " large" if len(row_names) * len(tokens) > LARGE else ""
    outside = marks((score for row in values for score in row), special)
    own = _bar(
        f"−largest of the {noun}" if shared.signed else "0",
        f"largest magnitude in the same {noun}, so colours of different {noun}s do not compare",
        shared.signed,
        outside,
    )
    return (
        f'<div class="heat">'
        f'<input type="radio" name="{key}-scale" id="{key}-by-row" class="by-row" checked>'
        f'<label for="{key}-by-row">colour by {noun}</label>'
        f'<input type="radio" name="{key}-scale" id="{key}-by-all" class="by-all">'
        f'<label for="{key}-by-all">one scale for all {noun}s</label>'
        f'<input type="checkbox" id="{key}-numbers" class="with-numbers">'
        f'<label for="{key}-numbers">numbers</label>'
        f'<div class="row-legend">{own}</div>'
        f'<div class="all-legend">{legend(shared, outside, f"all {row_noun}s")}</div>'
        f'<div class="scroll{large}" role="region" tabindex="0" aria-label="{escape(caption)}"'
        f' style="--tokens:{len(tokens)};--rows:{len(row_names)};--name:{longest}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>"
        f'<th scope="col" class="name">{noun}<th scope="col" class="top">largest'
        f"{head}<tbody>{''.join(lines)}</table></div></div>"
    )


def legend(scale: Scale, marks: str, of: str = "these tokens") -> str:
    """The colour scale as a bar with its end values, and the `marks` for what lies outside it."""
    if scale.bound == 0:
        return f'<p class="legend"><span>No colour: no score of {escape(of)} differs from zero.</span>{marks}</p>'
    low = number(-scale.bound) if scale.signed else "0"
    return _bar(low, f"{number(scale.bound)} = largest magnitude of {escape(of)}", scale.signed, marks)


def marks(scores: Iterable[float], special: Sequence[bool]) -> str:
    """Legend entries for the hatched cells, as far as there are any."""
    entries = ""
    if any(special):
        entries += '<span class="mark"><b class="s"></b>special token, outside the scale</span>'
    if not all(map(math.isfinite, scores)):
        entries += '<span class="mark"><b class="x"></b>not finite</span>'
    return entries


def token_html(token: str) -> str:
    """`visible(token)`, escaped, with its marks for white space set back from the text."""
    text = escape(visible(token))
    for mark in "␣↵⇥":
        text = text.replace(mark, f"<i>{mark}</i>")
    return text


def cell_class(score: float, is_special: bool, scale: Scale, prefix: str = "") -> str:
    """CSS class of a score: `s` special, `x` not finite, else `p0`…`p20`, `n1`…`n20` behind the prefix."""
    if is_special:
        return "s"
    if not math.isfinite(score):
        return "x"
    level = scale.level(score)
    return f"{prefix}{'n' if level < 0 else 'p'}{abs(level)}"


def _bar(low: str, high: str, signed: bool, marks: str) -> str:
    ramp = "diverging" if signed else "sequential"
    about = "from orange through no colour to blue" if signed else "from no colour to blue"
    return (
        f'<p class="legend"><span>{low}</span><span class="ramp {ramp}" role="img" aria-label="{about}"></span>'
        f"<span>{high}</span>{marks}</p>"
    )


def _row(
    name: str,
    row: Sequence[float],
    tokens: Sequence[str],
    special: Sequence[bool],
    shared: Scale,
    errors: Sequence[float] | None,
    link: str | None,
) -> str:
    own = scale_of(row, special)
    cells = []
    for i, score in enumerate(row):
        css = cell_class(score, special[i], own, "r")
        if css not in ("s", "x"):
            css += " " + cell_class(score, False, shared, "a")
        about = f"{name} · {visible(tokens[i])} · {number(score)}"
        if errors is not None and math.isfinite(errors[i]):
            about += f" ± {number(errors[i])}"
        if own.bound and css != "s" and math.isfinite(score):
            about += f" · {percent(abs(score) / own.bound)} of row"
        cells.append(f'<td class="{css}" title="{escape(about)}">{short_number(score)}')
    best = ranking(row, special)
    top = "—" if not best else f"<bdi>{token_html(tokens[best[0]])}</bdi> <span>{number(row[best[0]])}</span>"
    label = f"<bdi>{escape(name)}</bdi>" if link is None else f'<a href="#{link}">{escape(name)}</a>'
    return f'<tr><th scope="row" class="name">{label}<td class="top">{top}{"".join(cells)}'
