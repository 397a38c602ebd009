"""Sections of a source × target matrix: the map, what each prediction came from, span totals."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from lens_scopes.errors import LensScopesError, PromptError
from lens_scopes.views.words.attribution import NOT_TO_READ, interpretation, prompt_text, ranking, unit_of_score
from lens_scopes.views.words.matrix import (
    PredictionLine,
    explained_spans,
    matrix_data_warnings,
    prediction_lines,
    relative_rows,
    row_name,
)
from lens_scopes.views.words.numbers import number, percent
from lens_scopes.views.words.pages.attribution import prompt
from lens_scopes.views.words.pages.influence import chain_section
from lens_scopes.views.words.pages.parts.blocks import (
    Block,
    Section,
    alerts,
    contract_section,
    heat_map,
    join,
    kind,
    lead,
    legend,
    level,
    note,
    number_cell,
    plain_scale,
    provenance_section,
    table,
    text_cell,
    token,
)
from lens_scopes.views.words.token_text import inline_token

if TYPE_CHECKING:
    from lens_scopes.results.matrix import AttributionMatrix

MAX_ROWS = MAX_COLUMNS = 120  # a browser lays out so many cells without delay


def page_title(matrix: AttributionMatrix) -> str:
    """The title of the window."""
    text = prompt_text(matrix)
    return text if len(text) <= 80 else text[:79] + "…"


def header(matrix: AttributionMatrix) -> list[Block]:
    """What was attributed, and how not to read it."""
    name = inline_token(str(matrix.model.get("name", "a model")))
    return [
        kind("Source × target · ", *_kind(matrix), f" · {name}"),
        prompt(matrix, None),
        lead(NOT_TO_READ, quiet=True),
    ]


def sections(matrix: AttributionMatrix) -> list[Section]:
    """Sections `matrix`, `matrix-predictions`, `matrix-spans` where the text has named parts, `chain` where it was
    generated, `contract`, `details`."""
    lines = prediction_lines(matrix)
    parts = [_matrix(matrix, lines), _predictions(matrix, lines)]
    if matrix.spans:
        parts.append(_spans(matrix))
    if matrix.answer or matrix.generated:
        parts.append(_chain(matrix))
    return [
        *parts,
        contract_section(matrix.contract),
        provenance_section(matrix),
    ]


def _kind(matrix: AttributionMatrix) -> list[str | dict[str, str]]:
    """The objective, and how many predictions it was taken of."""
    count = len(matrix.destinations)
    made = f" of an answer that was {matrix.origin}" if matrix.answer else ""
    return [{"bold": inline_token(matrix.objective)}, f" · {count} prediction{'' if count == 1 else 's'}{made}"]


def _matrix(matrix: AttributionMatrix, lines: list[PredictionLine]) -> Section:
    scores, notes = _map(matrix, lines)
    text = (
        "A row is a prediction: the token it was made after → the token explained. A column is a token of the text."
        " Compare along a row, not between rows."
    )
    blocks = [
        kind(*_kind(matrix)),
        *alerts("Warnings", matrix.warnings),
        *alerts("About these scores", matrix_data_warnings(matrix)),
        lead(interpretation(matrix)),
        note(" ".join(filter(None, [text, notes]))),
        scores,
    ]
    return Section("matrix", "Source × target", blocks)


def _map(matrix: AttributionMatrix, lines: list[PredictionLine]) -> tuple[Block, str]:
    """The scores as a map of bounded size, and what was left out of it."""
    last_lines = lines[-MAX_ROWS:]
    values = matrix.matrix[-len(last_lines) :].tolist()
    columns = list(range(len(matrix.tokens)))
    notes = []
    if len(last_lines) < len(lines):
        notes.append(
            f"The last {len(last_lines)} of {len(lines)} predictions are in it; the list below has all of them."
        )
    if len(columns) > MAX_COLUMNS:
        # The tokens that matter most to any one of the predictions, each on its own scale.
        strength = [0.0] * len(columns)
        for row in relative_rows(values, matrix.special):
            strength = [max(old, 0.0 if math.isnan(new) else abs(new)) for old, new in zip(strength, row, strict=True)]
        columns = sorted(ranking(strength, [False] * len(strength))[:MAX_COLUMNS])
        notes.append(f"Of {len(matrix.tokens)} tokens it has the {len(columns)} that matter most to these predictions.")
    scores = heat_map(
        "matrix-scores",
        "Influence of each token on each prediction",
        "prediction",
        [row_name(line) for line in last_lines],
        [[row[i] for i in columns if i <= line.dest] for line, row in zip(last_lines, values, strict=True)],
        [matrix.tokens[i] for i in columns],
        [matrix.special[i] for i in columns],
        choose="position",
        unit=unit_of_score(matrix),
        positions=[line.dest for line in last_lines],
    )
    return scores, " ".join(notes)


def _predictions(matrix: AttributionMatrix, lines: list[PredictionLine]) -> Section:
    rows = []
    for line in lines:
        sources = [token(matrix.tokens[i], number(line.scores[i])) for i in line.sources]
        same = line.predicted.token_id == line.explained.token_id
        own = token(line.predicted.token, percent(line.predicted.probability))
        made = [" ", {"small": "generated"}] if matrix.generated else []
        rows.append(
            [
                number_cell(str(line.dest), line.dest),
                text_cell(token(line.after), line.after),
                text_cell([*token(line.explained.token), *made], line.explained.token),
                number_cell(percent(line.explained.probability), line.explained.probability),
                text_cell("the same" if same else own, line.predicted.token),
                text_cell(join(sources, "no token"), "".join(matrix.tokens[i] for i in line.sources[:1]), "sources"),
            ]
        )
    names = [("#", "number"), ("after", "text"), ("explained", "text"), ("probability", "number")]
    names += [("the model’s own", "text"), ("from", "text")]
    text = (
        "For every prediction: the token it was made after, the token explained with its probability, the most probable"
        " token, and the strongest sources with their scores."
    )
    strongest = table("The strongest sources of each prediction", names, rows)
    summary = f"The strongest sources of {len(lines)} predictions, and the model’s own most probable tokens."
    return Section("matrix-predictions", "Which token predicted what", [note(text), strongest], summary=summary)


def _chain(matrix: AttributionMatrix) -> Section:
    """What the end of the generated text rests on, through what was generated before it."""
    try:
        return chain_section(matrix.total_influence())
    except LensScopesError as error:  # scores that are not finite have no shares
        return Section("chain", "Through the generated text", alerts("No chains", [str(error)]))


def _spans(matrix: AttributionMatrix) -> Section:
    try:
        totals = matrix.span_totals()
    except PromptError as error:
        return Section("matrix-spans", "Spans", alerts("No totals", [str(error)]))
    lines = explained_spans(totals)
    finite = [value for _, row in lines for value in row if math.isfinite(value)]
    scale = plain_scale(finite)
    rows = [
        [
            text_cell(inline_token(name), name, "component"),
            *(
                number_cell(
                    "—" if math.isnan(value) else number(value),
                    value,
                    "" if math.isnan(value) else level(value, False, scale),
                )
                for value in row
            ),
        ]
        for name, row in lines
    ]
    text = (
        "How much each part of the text (column) mattered to the predictions of another (row): scores summed over the"
        " tokens of the one and averaged over the predictions of the other. A prediction belongs to the part that holds"
        " the token it predicts; special tokens do not count."
    )
    names = [("target \\ source", "text"), *((inline_token(str(name)), "number") for name in totals.columns)]
    blocks = [note(text), table("Influence of each span on each", names, rows), legend(scale, "these totals")]
    return Section("matrix-spans", "Totals over spans", blocks)
