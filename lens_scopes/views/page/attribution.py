"""An attribution as an HTML page: what was predicted, which tokens and layers made it so, and on what terms."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING

from lens_scopes.views.page.circuitsvis import View, safe_token
from lens_scopes.views.page.document import Page, Section
from lens_scopes.views.page.heat_table import cell_class, heat_table, legend, marks, token_html
from lens_scopes.views.page.parts import about, alert, bar, contract_section, heading, number_cell, provenance_section
from lens_scopes.views.words.attribution import (
    caution,
    likely,
    next_token,
    number,
    oddities,
    percent,
    prompt_text,
    ranking,
    reading,
    rows,
    short_names,
    title,
)
from lens_scopes.views.words.colour import NEGATIVE, POSITIVE, scale_of
from lens_scopes.views.words.token_text import running

if TYPE_CHECKING:
    from lens_scopes.results.attribution import Attribution
    from lens_scopes.results.heads import HeadInspection
    from lens_scopes.results.matrix import AttributionMatrix
    from lens_scopes.results.modes import ModeInspection


def attribution_page(
    attribution: Attribution,
    heads: HeadInspection | None = None,
    matrix: AttributionMatrix | None = None,
    modes: ModeInspection | None = None,
) -> Page:
    """The attribution as a page of sections: tokens, prediction, layers, heads, source × target, modes, other sites,
    scores, contract, details.

    The sections for layers and other sites are there where the attribution has them. Add your own with
    `Page.with_section`.

    Args:
        attribution: what the page is about.
        heads, matrix, modes: other results on the same prompt, each with its contract, shown on the same page. Where
            one is about another prompt, position or model, the page says so.
    """
    sections = [_tokens(attribution), _prediction(attribution)]
    if attribution.layers is not None:
        sections.append(_layers(attribution, linked=heads is not None))
    contracts = [contract_section(attribution.contract)]
    if heads is not None:
        from lens_scopes.views.page.heads import heads_sections

        sections += _noted(heads_sections(heads), _difference(attribution, heads))
        contracts.append(contract_section(heads.contract, "heads-contract", "Contract of the heads", heads.settings))
    if matrix is not None:
        from lens_scopes.views.page.matrix import matrix_sections

        sections += _noted(matrix_sections(matrix), _difference(attribution, matrix))
        contracts.append(
            contract_section(matrix.contract, "matrix-contract", "Contract of source × target", matrix.settings)
        )
    if modes is not None:
        from lens_scopes.views.page.modes import modes_sections

        sections += _noted(modes_sections(modes), _difference(attribution, modes))
        contracts.append(contract_section(modes.contract, "modes-contract", "Contract of the modes", modes.settings))
    if attribution.sites:
        sections.append(_sites(attribution))
    sections += [
        _scores(attribution),
        *contracts,
        provenance_section(attribution),
    ]
    return Page(title=f"{title(attribution)} · lens_scopes", header=_header(attribution), sections=tuple(sections))


def _difference(attribution: Attribution, other: HeadInspection | AttributionMatrix | ModeInspection) -> list[str]:
    """What a reader must know where another result is not about the same tokens of the same model."""
    notes = []
    covers_more = hasattr(other, "destinations")
    tokens = other.tokens[: len(attribution.tokens)] if covers_more else other.tokens
    if tokens != attribution.tokens:
        notes.append(f"This part is about another prompt or position: {prompt_text(other)}")
    if other.model.get("name") != attribution.model.get("name"):
        notes.append(f"This part is about another model: {other.model.get('name')}")
    return notes


def _noted(sections: list[Section], notes: list[str]) -> list[Section]:
    first, *rest = sections
    return [replace(first, html=alert("Mind the difference", notes) + first.html), *rest]


def _header(attribution: Attribution) -> str:
    return (
        f"{heading(attribution, about(attribution), next_token(attribution))}"
        f"{alert('Warnings', attribution.warnings)}{alert('About these scores', oddities(attribution))}"
        f'<p class="lead">{escape(reading(attribution))}</p><p class="lead caution">{escape(caution(attribution))}</p>'
    )


def _tokens(attribution: Attribution) -> Section:
    scores = attribution.scores.tolist()
    special = attribution.special
    scale = scale_of(scores, special)
    bound = scale.bound or 1.0
    still = "".join(
        f'<span class="{cell_class(score, is_special, scale)}">{escape(running(token))}</span>'
        for token, score, is_special in zip(attribution.tokens, scores, special, strict=True)
    )
    strip = View(
        id="token-strip",
        component="ColoredTokens",
        props={
            "tokens": [safe_token(running(token)) for token in attribution.tokens],
            "values": [float(number(s)) if math.isfinite(s) else number(s) for s in scores],
            "minValue": -bound,
            "maxValue": bound,
            "positiveColor": POSITIVE,
            "negativeColor": NEGATIVE,
        },
        fallback=f'<div class="still">{still}</div>',
        unscaled=_unscaled(special, [scores]),
    )
    html = (
        '<p class="note">The text up to the position explained. Point at a token for its score.</p>'
        f"{strip.html}{legend(scale, marks(scores, special), 'the other tokens' if any(special) else 'these tokens')}"
        f"{_strongest(attribution)}"
    )
    return Section("tokens", "Tokens", html, (strip,), layout="wide")


def _strongest(attribution: Attribution, most: int = 6) -> str:
    lines = rows(attribution)
    best = ranking([line.score for line in lines], attribution.special)[:most]
    if not best:
        return ""
    largest = abs(lines[best[0]].score)
    bars = "".join(
        f'<li><span class="token"><bdi>{token_html(line.token)}</bdi></span>'
        f"{bar(abs(line.score) / largest, negative=line.score < 0)}"
        f'<span class="value">{number(line.score)}</span></li>'
        for line in (lines[i] for i in best)
    )
    return f'<h3>Strongest</h3><ol class="bars">{bars}</ol>'


def _prediction(attribution: Attribution) -> Section:
    target = attribution.target
    prediction = attribution.prediction
    shown = likely(attribution)
    bars = "".join(
        f"<li{' class=target' if target is not None and token.token_id == target.token_id else ''}>"
        f'<span class="token"><bdi>{token_html(token.token)}</bdi></span>'
        f"{bar(token.probability)}"
        f'<span class="value">{percent(token.probability)}</span></li>'
        for token in shown
    )
    html = (
        f'<p class="note">The next token after this text{"; the target is set off" if target is not None else ""}.</p>'
        f'<ol class="bars">{bars}</ol><dl class="facts"><dt>entropy</dt><dd>{number(prediction.entropy)} nats</dd>'
        f"<dt>β = ‖y‖</dt><dd>{number(prediction.beta)}</dd></dl>"
    )
    return Section("prediction", "Prediction", html, layout="side")


def _layers(attribution: Attribution, *, linked: bool) -> Section:
    values = [] if attribution.layers is None else attribution.layers.tolist()
    names = short_names(attribution.layer_names)
    errors = attribution.layers_standard_error
    table = heat_table(
        "layers",
        "Influence of each token, read at each layer",
        names,
        "layer",
        attribution.tokens,
        attribution.special,
        values,
        None if errors is None else errors.tolist(),
        [_heads_of(name) for name in attribution.layer_names] if linked else None,
    )
    scales = [scale_of(row, attribution.special) for row in values]
    switcher = View(
        id="layer-switcher",
        component="ColoredTokensMulti",
        props={
            "tokens": [safe_token(running(token)) for token in attribution.tokens],
            "values": [
                [_relative(row[i], scale.bound) for row, scale in zip(values, scales, strict=True)]
                for i in range(len(attribution.tokens))
            ],
            "labels": names,
            "positiveBounds": [1] * len(names),
            "negativeBounds": [-1] * len(names),
        },
        unscaled=_unscaled(attribution.special, values),
    )
    html = (
        '<p class="note">Each row reads the same scores at another layer of the residual stream, from the first'
        f" ({escape(attribution.layer_names[0])}) to the last ({escape(attribution.layer_names[-1])}). Where the colour"
        " moves from a token to a later one, its information has moved along. A cell leads to the strip of its layer"
        f"{', the name of a layer to its heads' if linked else ''}.</p>"
        f'{table}<h3>One layer at a time</h3><p class="note">Point at a layer to see it, click to keep it. Numbers on'
        " hover are relative to that layer’s largest magnitude outside the special tokens.</p>"
        f'<div class="switcher">{switcher.html}</div>'
    )
    return Section("layers", "Through the layers", html, (switcher,))


def _heads_of(layer_name: str) -> str:
    """The row of the heads × layers map for a hook name; the map itself for other names."""
    match = re.match(r"blocks\.(\d+)\.", layer_name)
    return "heads" if match is None else f"heads-l{match[1]}"


def _sites(attribution: Attribution) -> Section:
    tables = ""
    flat = {name: values for name, values in attribution.sites.items() if values.ndim == 1}
    if flat:
        tables += heat_table(
            "sites",
            "Influence of each token, read at other sites",
            list(flat),
            "site",
            attribution.tokens,
            attribution.special,
            [values.tolist() for values in flat.values()],
        )
    for i, (name, values) in enumerate(attribution.sites.items()):
        if values.ndim == 2:
            tables += f"<h3>{escape(name)}</h3>" + heat_table(
                f"site-{i}",
                f"Influence of each token at each head of {name}",
                [f"H{head}" for head in range(values.shape[1])],
                "head",
                attribution.tokens,
                attribution.special,
                values.T.tolist(),
            )
    return Section("sites", "Other sites", tables)


def _scores(attribution: Attribution) -> Section:
    lines = rows(attribution)
    scale = scale_of([line.score for line in lines], attribution.special)
    with_errors = attribution.standard_error is not None
    headings = [("#", "number"), ("token", "text"), ("id", "number"), ("score", "number")]
    if with_errors:
        headings.append(("standard error", "number"))
    headings.append(("share", "number"))
    head = "".join(
        f'<th scope="col" data-kind="{kind}"{" class=n" if kind == "number" else ""}>'
        f'<button type="button">{name}</button></th>'
        for name, kind in headings
    )
    largest = max((line.share for line in lines if line.share is not None), default=0.0)
    body = ""
    for line in lines:
        css = cell_class(line.score, line.special, scale)
        cells = [
            number_cell(str(line.index), line.index),
            f'<td class="token" data-value="{escape(line.token)}"><bdi>{token_html(line.token)}</bdi>',
            number_cell(str(line.token_id), line.token_id),
            number_cell(f'<span class="cell {css}">{number(line.score)}</span>', line.score),
        ]
        if with_errors:
            error = line.standard_error
            cells.append(number_cell("—" if error is None else f"± {number(error)}", error))
        cells.append(number_cell("—" if line.share is None else percent(line.share), line.share))
        graph = "" if not line.share else bar(line.share / largest, negative=line.score < 0)
        cells.append(f'<td class="graph">{graph}')
        body += f"<tr{' class=special' if line.special else ''}>{''.join(cells)}</tr>"
    html = (
        '<p class="note">Share is |score| over the sum of |score| of all tokens but the special ones.'
        " The buttons in the headings sort.</p>"
        f'<div class="scroll{" large" if len(lines) > 100 else ""}" role="region" tabindex="0" aria-label="Scores"'
        f' style="--rows:{len(lines)}"><table class="scores sortable">'
        f"<caption>Score of every token</caption><thead><tr>{head}<td></tr></thead><tbody>{body}</tbody></table></div>"
    )
    return Section("scores", "Scores", html)


def _unscaled(special: list[bool], scores: list[list[float]]) -> list[int]:
    """Special tokens, and tokens with a score that is not finite in any row."""
    return [i for i, s in enumerate(special) if s or not all(math.isfinite(row[i]) for row in scores)]


def _relative(score: float, bound: float) -> float:
    return round(score / bound, 6) if bound and math.isfinite(score) else (score if bound else 0.0)
