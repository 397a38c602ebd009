"""A source × target matrix as sections of a page: the chart or map, what each prediction came from, span totals."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING

from lens_scopes.errors import PromptError
from lens_scopes.views.page.attention import MOST_TOKENS_OF_ONE, pattern_view
from lens_scopes.views.page.circuitsvis import View
from lens_scopes.views.page.document import Page, Section
from lens_scopes.views.page.heat_table import cell_class, heat_table, legend, marks, token_html
from lens_scopes.views.page.parts import (
    alert,
    contract_section,
    heading,
    number_cell,
    provenance_section,
    sortable_table,
    text,
    text_cell,
)
from lens_scopes.views.words.attribution import NOT_TO_READ, number, percent, prompt_text, ranking, reading
from lens_scopes.views.words.colour import scale_of
from lens_scopes.views.words.matrix import (
    PredictionLine,
    explained_spans,
    matrix_oddities,
    prediction_lines,
    relative_rows,
    row_name,
)

if TYPE_CHECKING:
    from lens_scopes.results.matrix import AttributionMatrix

_MOST_ROWS = 40
_MOST_CELLS = 2500


def matrix_page(matrix: AttributionMatrix) -> Page:
    """The matrix as a page of its own."""
    name = text(matrix.model.get("name", "a model"))
    prompt = prompt_text(matrix)
    top = heading(matrix, f"Source × target · {_kind(matrix)} · {name}", None)
    return Page(
        title=f"{prompt if len(prompt) <= 80 else prompt[:79] + '…'} · lens_scopes",
        header=f'{top}<p class="lead caution">{escape(NOT_TO_READ)}</p>',
        sections=(
            *matrix_sections(matrix),
            contract_section(matrix.contract),
            provenance_section(matrix),
        ),
    )


def matrix_sections(matrix: AttributionMatrix) -> list[Section]:
    """Sections `matrix`, `predictions`, and `spans` where the text has named parts."""
    lines = prediction_lines(matrix)
    sections = [_matrix(matrix, lines), _predictions(matrix, lines)]
    if matrix.spans or matrix.generated:
        sections.append(_spans(matrix))
    return sections


def _matrix(matrix: AttributionMatrix, lines: list[PredictionLine]) -> Section:
    table, notes = _table(matrix, lines)
    chart = _chart(matrix)
    html = (
        f'<p class="kind">{_kind(matrix)}</p>{alert("Warnings", matrix.warnings)}'
        f"{alert('About these scores', matrix_oddities(matrix))}"
        f'<p class="lead">{escape(reading(matrix))}</p>'
    )
    if chart is None:
        large = f"Charts of more than {MOST_TOKENS_OF_ONE} tokens are slow, so this is a table. "
        html += (
            '<p class="note">A row is a prediction: the token it was made after → the token explained. A column is a'
            f" token of the text. {large if len(matrix.tokens) > MOST_TOKENS_OF_ONE else ''}{notes}</p>{table}"
        )
        return Section("matrix", "Source × target", html)
    left = (
        "" if len(matrix.destinations) == len(matrix.tokens) else " Rows of tokens that were not explained are blank."
    )
    aside = " Columns of special tokens are blank: they are outside the scale." if any(matrix.special) else ""
    html += (
        '<p class="note">A row is the prediction made after its token, a column a token it was made from. Colours are'
        " relative to the largest magnitude in the same row, outside the special tokens: compare along a row, not"
        f" between rows.{aside}{left} Point at a cell for its relative score.</p>"
        f'<div class="charts single">{chart.html}</div>'
        f'<details><summary>The scores as a table</summary><p class="note">{notes}</p>{table}</details>'
    )
    return Section("matrix", "Source × target", html, (chart,))


def _kind(matrix: AttributionMatrix) -> str:
    """The objective, and how many predictions it was taken of, as HTML."""
    count = len(matrix.destinations)
    made = f", {matrix.generated} tokens generated" if matrix.generated else ""
    return f"<b>{text(matrix.objective)}</b> · {count} prediction{'' if count == 1 else 's'}{made}"


def _chart(matrix: AttributionMatrix) -> View | None:
    """A square chart, where the text is short enough and most of its rows are there."""
    n = len(matrix.tokens)
    if n > MOST_TOKENS_OF_ONE or 2 * len(matrix.destinations) < n:
        return None
    rows: list[list[float]] = [[] for _ in range(n)]
    for dest, row in zip(matrix.destinations, relative_rows(matrix.matrix.tolist(), matrix.special), strict=True):
        rows[dest] = row
    return pattern_view("matrix-chart", rows, matrix.tokens, 1.0)


def _table(matrix: AttributionMatrix, lines: list[PredictionLine]) -> tuple[str, str]:
    """The scores as a heat table of bounded size, and what was left out of it."""
    kept = lines[-_MOST_ROWS:]
    values = matrix.matrix[-len(kept) :].tolist()
    columns = list(range(len(matrix.tokens)))
    notes = []
    if len(kept) < len(lines):
        notes.append(f"The last {len(kept)} of {len(lines)} predictions are in it; the list below has all of them.")
    room = max(1, _MOST_CELLS // len(kept))
    if len(columns) > room:
        strength = [0.0] * len(columns)
        for row in relative_rows(values, matrix.special):
            strength = [max(old, 0.0 if math.isnan(new) else abs(new)) for old, new in zip(strength, row, strict=True)]
        columns = sorted(ranking(strength, [False] * len(strength))[:room])
        notes.append(f"Of {len(matrix.tokens)} tokens it has the {len(columns)} that matter most to these predictions.")
    table = heat_table(
        "matrix-scores",
        "Influence of each token on each prediction",
        [row_name(line) for line in kept],
        "prediction",
        [matrix.tokens[i] for i in columns],
        [matrix.special[i] for i in columns],
        [[row[i] for i in columns] for row in values],
    )
    return table, " ".join(notes)


def _predictions(matrix: AttributionMatrix, lines: list[PredictionLine]) -> Section:
    rows = []
    first = len(matrix.tokens) - matrix.generated
    for line in lines:
        sources = ", ".join(
            f"<bdi>{token_html(matrix.tokens[i])}</bdi> <small>{number(line.scores[i])}</small>" for i in line.sources
        )
        own = f"<bdi>{token_html(line.predicted.token)}</bdi> <small>{percent(line.predicted.probability)}</small>"
        same = line.predicted.token_id == line.explained.token_id
        made = " <small>generated</small>" if line.dest + 1 >= first and matrix.generated else ""
        rows.append(
            (
                number_cell(str(line.dest), line.dest),
                text_cell(f"<bdi>{token_html(line.after)}</bdi>", line.after),
                text_cell(f"<bdi>{token_html(line.explained.token)}</bdi>{made}", line.explained.token),
                number_cell(percent(line.explained.probability), line.explained.probability),
                text_cell("the same" if same else own, line.predicted.token),
                text_cell(sources or "no token", "".join(matrix.tokens[i] for i in line.sources[:1]), "sources"),
            )
        )
    headings = [("#", "number"), ("after", "text"), ("explained", "text"), ("probability", "number")]
    table = sortable_table(
        "The strongest sources of each prediction", [*headings, ("the model’s own", "text"), ("from", "text")], rows
    )
    html = (
        '<p class="note">For every prediction: the token it was made after, the token explained with its probability,'
        f" the most probable token, and the strongest sources with their scores.</p>{table}"
    )
    return Section("predictions", "Which token predicted what", html)


def _spans(matrix: AttributionMatrix) -> Section:
    try:
        totals = matrix.span_totals()
    except PromptError as error:
        return Section("spans", "Spans", alert("No totals", [str(error)]))
    names = [str(name) for name in totals.columns]
    shown = explained_spans(totals)
    finite = [value for _, row in shown for value in row if math.isfinite(value)]
    scale = scale_of(finite, [False] * len(finite))
    rows = ""
    for name, row in shown:
        cells = ""
        for value in row:
            css = "" if math.isnan(value) else cell_class(value, False, scale)
            cells += f'<td class="{css}"><span>{"—" if math.isnan(value) else number(value)}</span>'
        rows += f'<tr><th scope="row"><bdi>{text(name)}</bdi>{cells}'
    head = "".join(f'<th scope="col"><bdi>{text(name)}</bdi>' for name in names)
    html = (
        '<p class="note">How much each part of the text (column) mattered to the predictions of another (row): scores'
        " summed over the tokens of the one and averaged over the predictions of the other. A prediction belongs to the"
        " part that holds the token it predicts; special tokens do not count.</p>"
        '<div class="scroll" role="region" tabindex="0" aria-label="Totals over spans"><table class="cells spans">'
        f'<caption>Totals over spans</caption><thead><tr><th scope="col">target \\ source{head}</thead>'
        f"<tbody>{rows}</tbody></table></div>{legend(scale, marks(finite, []), 'these totals')}"
    )
    return Section("spans", "Totals over spans", html)
