"""A head inspection as sections of a page: the heads × layers map, what each head carries from which token, where the
strongest look, and the ablations that confirm them or do not."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from lens_scopes.views.page.attention import cropping, heads_view
from lens_scopes.views.page.circuitsvis import Strips, safe_token
from lens_scopes.views.page.document import Page, Section
from lens_scopes.views.page.heat_table import cell_class, legend, marks, token_html
from lens_scopes.views.page.parts import (
    about,
    alert,
    contract_section,
    heading,
    number_cell,
    provenance_section,
    sortable_table,
    text,
    text_cell,
    two_sided_bar,
)
from lens_scopes.views.page.svg_scatter import scatter
from lens_scopes.views.words.attribution import is_divergence, next_token, number, percent, title
from lens_scopes.views.words.axis import axis_of
from lens_scopes.views.words.colour import NEGATIVE, POSITIVE, Scale, scale_of
from lens_scopes.views.words.heads import (
    HeadLine,
    agreement,
    head_lines,
    heads_caution,
    heads_oddities,
    heads_reading,
    unit_of_change,
)
from lens_scopes.views.words.numbers import short_number
from lens_scopes.views.words.token_text import running

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Float
    from torch import Tensor

    from lens_scopes.results.heads import HeadInspection

OPEN = 4
_MOST_VALUES = 40_000  # numbers in all strips together: 72 heads × 500 tokens


def heads_page(heads: HeadInspection) -> Page:
    """The inspection as a page of its own."""
    sections = [
        *heads_sections(heads),
        contract_section(heads.contract),
        provenance_section(heads),
    ]
    return Page(
        title=f"Heads: {title(heads)} · lens_scopes",
        header=heading(heads, f"Heads · {about(heads)}", next_token(heads)),
        sections=tuple(sections),
    )


def heads_sections(heads: HeadInspection) -> list[Section]:
    """Sections `heads`, `head-strips`, `attention` and `ablation`; the last two only where there is something to show.

    Every head has a strip, as far as they stay light; the rows of the map have the ids `heads-l0`, `heads-l1`, …
    """
    lines = head_lines(heads)
    strips = lines[: max(1, _MOST_VALUES // max(1, len(heads.tokens)))]
    links = {line.name: line.key for line in strips}
    sections = [_map(heads, lines, links), _strips(heads, strips, len(lines) - len(strips))]
    if heads.patterns:
        sections.append(_attention(heads))
    if heads.ablations:
        sections.append(_ablation(heads, links))
    return sections


def _map(heads: HeadInspection, lines: list[HeadLine], links: dict[str, str]) -> Section:
    change = heads.effect.tolist()
    mlps = heads.mlp_effect.tolist()
    scale = _scale([value for row in change for value in row])
    mlp_scale = _scale(mlps)
    columns = "".join(f'<th scope="col">H{head}' for head in range(heads.effect.shape[1]))
    columns += '<th scope="col" class="apart">MLP' if mlps else ""
    rows = ""
    for layer, row in enumerate(change):
        cells = "".join(_map_cell(f"L{layer}H{head}", value, scale, links) for head, value in enumerate(row))
        if mlps:
            css = cell_class(mlps[layer], False, mlp_scale)
            about = f"L{layer} MLP · {number(mlps[layer])}"
            cells += f'<td class="apart {css}" title="{about}"><span>{short_number(mlps[layer])}</span>'
        rows += f'<tr id="heads-l{layer}"><th scope="row">L{layer}{cells}'
    below = legend(scale, marks((value for row in change for value in row), []), "all heads")
    if mlps:
        below += legend(mlp_scale, marks(mlps, []), "all MLPs, which have a scale of their own")
    odd = heads_oddities(heads)
    html = (
        f'<p class="kind"><b>{text(heads.objective)}</b> · baseline {text(heads.baseline)}</p>'
        f"{alert('Warnings', heads.warnings)}{alert('About these changes', odd)}"
        f'<p class="lead">{escape(heads_reading(heads))}</p><p class="lead caution">{escape(heads_caution())}</p>'
        '<div class="two"><div><h3>Heads × layers</h3><p class="note">A number leads to what that head carries.</p>'
        '<div class="scroll" role="region" tabindex="0" aria-label="Change by head and layer"><table class="cells">'
        "<caption>Predicted change when a head or an MLP is set to its baseline</caption>"
        f'<thead><tr><th scope="col">layer{columns}</thead><tbody>{rows}</tbody></table></div>{below}</div>'
        f"<div>{_strongest(heads, lines, links)}</div></div>"
    )
    return Section("heads", "Heads", html)


def _map_cell(name: str, value: float, scale: Scale, links: dict[str, str]) -> str:
    css = cell_class(value, False, scale)
    about = f"{name} · {number(value)}"
    shown = short_number(value)
    link = links.get(name)
    inner = f"<span>{shown}</span>" if link is None else f'<a href="#{link}" aria-label="{about}">{shown}</a>'
    return f'<td class="{css}" title="{about}">{inner}'


def _scale(values: list[float]) -> Scale:
    return scale_of(values, [False] * len(values))


def _strongest(heads: HeadInspection, lines: list[HeadLine], links: dict[str, str], most: int = 10) -> str:
    rows = [
        (
            text_cell(_named(line.name, links), line.name, "component"),
            text_cell(escape(line.kind or "—"), line.kind or ""),
            number_cell(number(line.direct), line.direct),
            number_cell(number(line.effect), line.effect),
            number_cell("—" if line.actual is None else number(line.actual), line.actual),
            text_cell(
                _carried(heads, line, 1), "".join(heads.tokens[i] for i in line.carriers(heads.special, 1)), "sources"
            ),
        )
        for line in lines[:most]
    ]
    headings = [("head", "text"), ("type", "text"), ("direct", "number"), ("predicted", "number")]
    table = sortable_table("The strongest heads", [*headings, ("actual", "number"), ("mostly from", "text")], rows)
    return f'<h3>The strongest</h3><p class="note">In {escape(unit_of_change(heads))}.</p>{table}'


def _named(name: str, links: dict[str, str]) -> str:
    link = links.get(name)
    return name if link is None else f'<a href="#{link}">{name}</a>'


def _carried(heads: HeadInspection, line: HeadLine, most: int = 3) -> str:
    best = line.carriers(heads.special, most)
    parts = [f"<bdi>{token_html(heads.tokens[i])}</bdi> <small>{number(line.sources[i])}</small>" for i in best]
    return ", ".join(parts) or "nothing"


def _strips(heads: HeadInspection, lines: list[HeadLine], without: int) -> Section:
    scales = {line.key: scale_of(line.sources, heads.special) for line in lines}
    special = [i for i, outside in enumerate(heads.special) if outside]
    strips = Strips(
        id="strips",
        tokens=[safe_token(running(token)) for token in heads.tokens],
        rows={line.key: [float(f"{v:.3g}") if math.isfinite(v) else number(v) for v in line.sources] for line in lines},
        bounds={line.key: scales[line.key].bound for line in lines},
        colours=(POSITIVE, NEGATIVE),
        unscaled=special,
    )
    folds = [_fold(heads, line, scales[line.key], strips, i < OPEN) for i, line in enumerate(lines)]
    others = ""
    if len(folds) > OPEN:
        others = f"<details><summary>All other heads ({len(folds) - OPEN})</summary>{''.join(folds[OPEN:])}</details>"
    left = f" {without} weaker heads have no strip, which keeps the page light." if without else ""
    parts = "The part of a head’s change that comes through each source token it attends to, against zero."
    if is_divergence(heads):
        parts += " Divergences do not add up: the parts are those of each token alone."
    html = (
        f'<p class="note">{parts} Each head has its own colour scale. Point at a token for its number.{left}</p>'
        f'<div id="strips">{"".join(folds[:OPEN])}{others}</div>'
    )
    return Section("head-strips", "What each head carries", html, (strips,))


def _fold(heads: HeadInspection, line: HeadLine, scale: Scale, strips: Strips, is_open: bool) -> str:
    kind = f" · <em>{escape(line.kind)}</em> ({percent(line.share)} of its attention)" if line.kind else ""
    actual = "not ablated" if line.actual is None else f"actual {number(line.actual)}"
    rest = "the other tokens" if any(heads.special) else "these tokens"
    broken = sum(not math.isfinite(value) for value in line.sources)
    note = f'<p class="note">Not finite, without colour: {broken} of these numbers.</p>' if broken else ""
    return (
        f'<details class="fold" id="{line.key}"{" open" if is_open else ""}><summary><b>{line.name}</b>{kind}'
        f' <span class="numbers">predicted {number(line.effect)} · {actual} · direct {number(line.direct)}</span>'
        f'</summary><p class="note">Carries most from {_carried(heads, line)}.</p>{note}'
        f"{strips.place(line.key)}{legend(scale, marks([], heads.special), rest)}</details>"
    )


def _attention(heads: HeadInspection) -> Section:
    special = [i for i, outside in enumerate(heads.special) if outside]
    gradients = {}
    for name, matrix in heads.pattern_gradients.items():
        shown = matrix.clone()
        shown[:, special] = 0
        gradients[name] = shown.nan_to_num(0.0, 0.0, 0.0)
    bound = max((float(matrix.abs().max()) for matrix in gradients.values()), default=0.0)
    patterns = heads_view("patterns", heads.patterns, heads.tokens, 1.0)
    edges = heads_view("pattern-gradients", gradients, heads.tokens, bound)
    notes = " ".join(cropping(len(heads.patterns), len(heads.tokens)))
    aside = " Its column of special tokens is left blank, outside the scale." if special else ""
    blank = "" if bound else " Every edge is zero."
    html = (
        '<p class="note">Rows are the tokens that attend, columns the tokens attended to. Point at a head to see it,'
        f" choose it to keep it: both charts follow. Cells under 0.5% of the full colour are blank. {notes}</p>"
        '<div class="two even pair">'
        '<div class="charts"><h3>Attention pattern</h3><p class="note">From 0 to 1 (full colour).</p>'
        f"{patterns.html}</div>"
        '<div class="charts"><h3>Pattern × gradient</h3><p class="note">Which edges carry the change'
        f" (full colour: ±{number(bound)}, the same for all heads).{aside}{blank}</p>{edges.html}</div></div>"
        f"{_edge_table(heads, gradients)}"
    )
    return Section("attention", "Where the strongest heads look", html, (patterns, edges))


def _edge_table(heads: HeadInspection, gradients: Mapping[str, Float[Tensor, "dest src"]], most: int = 3) -> str:
    rows = ""
    for name, pattern in heads.patterns.items():
        looks = pattern[-1].nan_to_num(0.0).topk(min(most, len(heads.tokens)))
        seen = ", ".join(
            f"<bdi>{token_html(heads.tokens[i])}</bdi> <small>{percent(share)}</small>"
            for share, i in zip(looks.values.tolist(), looks.indices.tolist(), strict=True)
            if share > 0
        )
        matrix = gradients[name]
        largest = matrix.abs().flatten().topk(min(most, matrix.numel())).indices.tolist()
        pairs = [(*divmod(index, matrix.shape[1]), float(matrix.flatten()[index])) for index in largest]
        edges = ", ".join(
            f"<bdi>{token_html(heads.tokens[dest])}</bdi> ← <bdi>{token_html(heads.tokens[src])}</bdi>"
            f" <small>{number(value)}</small>"
            for dest, src, value in pairs
            if value
        )
        rows += f'<tr><th scope="row">{text(name)}<td>{seen or "nothing"}<td>{edges or "none"}'
    return (
        '<div class="scroll" role="region" tabindex="0" aria-label="What stands out in the charts">'
        '<table class="words"><caption>What stands out in the charts</caption><thead><tr><th scope="col">head'
        '<th scope="col">looks most at, from the last token<th scope="col">edges that carry most</thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _ablation(heads: HeadInspection, links: dict[str, str]) -> Section:
    finite = [v for item in heads.ablations for v in (item.predicted, item.actual) if math.isfinite(v)]
    axis = axis_of(finite)
    rows = [
        (
            text_cell(_named(item.name, links), item.name, "component"),
            number_cell(number(item.predicted), item.predicted),
            f'<td class="little">{two_sided_bar(axis.share(item.predicted))}',
            number_cell(number(item.actual), item.actual),
            f'<td class="little">{two_sided_bar(axis.share(item.actual))}',
        )
        for item in heads.ablations
    ]
    headings = [("component", "text"), ("predicted", "number"), ("", ""), ("actual", "number"), ("", "")]
    unit = unit_of_change(heads)
    html = (
        f'<p class="lead">{escape(agreement(heads))}</p><p class="note">Change in {escape(unit)} when a component is'
        f" set to its {text(heads.baseline)} baseline: predicted from the gradient, and found by doing it. The buttons"
        f" in the headings sort.{' Bars and axes are on a square-root scale.' if axis.square_root else ''}</p>"
        f'<div class="two even"><div>{sortable_table("Predicted and actual changes", headings, rows)}</div>'
        f"<div>{scatter(heads.ablations, unit, links)}</div></div>"
    )
    return Section("ablation", "Checked by ablation", html)
