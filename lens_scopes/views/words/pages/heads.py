"""Sections of a head inspection: the heads × layers map, what each head carries, where it looks, the ablations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lens_scopes.views.words.attribution import following, title
from lens_scopes.views.words.changes import (
    HeadLine,
    changes_of_heads,
    head_lines,
    heads_agreement,
    heads_caveat,
    heads_data_warnings,
    heads_interpretation,
    is_divergence,
    unit_of_change,
)
from lens_scopes.views.words.numbers import number, percent
from lens_scopes.views.words.pages.attribution import about, answer_notes, prompt
from lens_scopes.views.words.pages.parts.alignment import alignment_blocks
from lens_scopes.views.words.pages.parts.blocks import (
    Block,
    Section,
    alerts,
    columns,
    contract_section,
    heading,
    heat_map,
    join,
    kind,
    lead,
    legend,
    note,
    number_cell,
    plain_scale,
    provenance_section,
    reference,
    table,
    text_cell,
    token,
)
from lens_scopes.views.words.pages.parts.changes import Comparison
from lens_scopes.views.words.token_text import inline_token

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from lens_scopes.results.heads import HeadInspection

OPEN = 4
MAX_TOKENS_OF_HEADS = 64  # CircuitsVis draws larger charts with delay
MAX_HEADS = 12
_MAX_CELLS = 6 * MAX_TOKENS_OF_HEADS**2
_MAX_VALUES = 40_000  # numbers in all strips together: 72 heads × 500 tokens
_MIN = 0.005  # of the full colour


def page_title(heads: HeadInspection) -> str:
    """The title of the window."""
    return f"Heads: {title(heads)}"


def header(heads: HeadInspection) -> list[Block]:
    """What was inspected."""
    return [kind("Heads · ", *about(heads)), prompt(heads, following(heads))]


def sections(heads: HeadInspection) -> list[Section]:
    """Sections `heads`, `head-strips`, `attention`, `ablation`, `contract`, `details`.

    Every head has a strip, as far as they stay light; the rows of the map have the ids `heads-l0`, `heads-l1`, …
    """
    lines = head_lines(heads)
    strips = lines[: max(1, _MAX_VALUES // max(1, len(heads.tokens)))]
    links = {line.name: line.key for line in strips}
    parts = [_map(heads, lines, links), _strips(heads, strips, len(lines) - len(strips))]
    if heads.patterns:
        parts.append(_attention(heads))
    if heads.ablations:
        parts.append(_ablation(heads, links))
    return [
        *parts,
        contract_section(heads.contract),
        provenance_section(heads),
    ]


def _map(heads: HeadInspection, lines: list[HeadLine], links: dict[str, str]) -> Section:
    changes = heads.effect.flatten().tolist()
    mlps = heads.mlp_effect.tolist()
    n_layers, n_heads = heads.effect.shape
    # The map itself, MLPs in a column of their own.
    head_map = heat_map(
        "heads-map",
        "Predicted change when a head or an MLP is set to its baseline",
        "layer",
        [f"L{layer}" for layer in range(n_layers)],
        reference("effect"),
        [f"H{head}" for head in range(n_heads)],
        plain=True,
        row_ids=[f"heads-l{layer}" for layer in range(n_layers)],
        cell_links=[[links.get(f"L{layer}H{head}", "") for head in range(n_heads)] for layer in range(n_layers)],
        apart={"name": "MLP", "values": reference("mlp_effect")} if mlps else None,
        choose="head",
        unit=unit_of_change(heads),
    )
    # Heads and MLPs differ in size: one scale each.
    legends = [legend(plain_scale(changes), "all heads", broken=not all(map(math.isfinite, changes)))]
    if mlps:
        broken = not all(map(math.isfinite, mlps))
        legends.append(legend(plain_scale(mlps), "all MLPs (separate scale)", broken=broken))
    # What it means stands before it, the strongest beside it.
    map_blocks = [heading("Heads × layers"), note("A number leads to what that head carries."), head_map, *legends]
    blocks = [
        kind({"bold": inline_token(heads.objective)}, f" · baseline {inline_token(heads.baseline)}"),
        *alerts("Warnings", heads.warnings),
        *alerts("About these changes", heads_data_warnings(heads)),
        *_other_prompt(heads),
        *answer_notes(heads),
        lead(heads_interpretation(heads)),
        lead(heads_caveat(heads), quiet=True),
        columns(map_blocks, _strongest(heads, lines, links)),
    ]
    return Section("heads", "Heads", blocks)


def _other_prompt(heads: HeadInspection) -> list[Block]:
    """Where the other prompt differs from this one, where outputs are set to those under one."""
    length = heads.position + 1  # answers follow either prompt
    return alignment_blocks(heads.tokens[:length], heads.baseline_tokens[:length]) if heads.baseline_tokens else []


def _strongest(heads: HeadInspection, lines: list[HeadLine], links: dict[str, str], most: int = 10) -> list[Block]:
    typed = any(line.kind for line in lines[:most])
    rows = [
        [
            text_cell(line.name, line.name, "component", links.get(line.name, "")),
            *([text_cell(line.kind or "—", line.kind or "")] if typed else []),
            number_cell(number(line.direct), line.direct),
            number_cell(number(line.effect), line.effect),
            number_cell("—" if line.actual is None else number(line.actual), line.actual),
            text_cell(
                _carriers(heads, line, 1), "".join(heads.tokens[i] for i in line.carriers(heads.special, 1)), "sources"
            ),
        ]
        for line in lines[:most]
    ]
    names = [("head", "text"), *([("type", "text")] if typed else []), ("direct", "number"), ("predicted", "number")]
    strongest = table("The strongest heads", [*names, ("actual", "number"), ("mostly from", "text")], rows)
    return [heading("The strongest"), note(f"In {unit_of_change(heads)}."), strongest]


def _carriers(heads: HeadInspection, line: HeadLine, most: int = 3) -> list[str | dict[str, str]]:
    best = line.carriers(heads.special, most)
    return join([token(heads.tokens[i], number(line.sources[i])) for i in best], "nothing")


def _strips(heads: HeadInspection, lines: list[HeadLine], without: int) -> Section:
    parts = "The part of a head’s change that comes through each source token it attends to, against zero."
    if is_divergence(heads):
        parts += " Divergences do not add up: the parts are those of each token alone."
    rest = f" {without} weaker heads have no strip, which keeps the page light." if without else ""
    strips: Block = {
        "type": "strips",
        "id": "strips",
        "open": OPEN,
        "unit": unit_of_change(heads),
        "more": f"All other heads ({len(lines) - OPEN})",
        "of": "the other tokens" if any(heads.special) else "these tokens",
        "items": [_fold(heads, line) for line in lines],
    }
    text = f"{parts} Each head has its own colour scale. Hover over a token to see its number.{rest}"
    summaries = [[line.name, " from ", *_carriers(heads, line, 1)] for line in lines[:3]]
    return Section(
        "head-strips", "What each head carries", [note(text), strips], summary=[*join(summaries, "No head"), "."]
    )


def _fold(heads: HeadInspection, line: HeadLine) -> Block:
    kind_of_head = [f" · {line.kind} ({percent(line.share)} of its attention)"] if line.kind else []
    actual = "not ablated" if line.actual is None else f"actual {number(line.actual)}"
    numbers = f" predicted {number(line.effect)} · {actual} · direct {number(line.direct)}"
    broken = sum(not math.isfinite(value) for value in line.sources)
    notes = [note("Carries most from ", *_carriers(heads, line), ".")]
    if broken:
        notes.append(note(f"Not finite, without colour: {broken} of these numbers."))
    return {
        "key": line.key,
        "name": line.name,
        "summary": [{"bold": line.name}, *kind_of_head, {"small": numbers}],
        "blocks": notes,
        "values": reference("by_source", line.layer, line.head),
    }


def _attention(heads: HeadInspection) -> Section:
    # BOS takes most of the attention, and would leave no colour for the other tokens.
    special = [i for i, outside in enumerate(heads.special) if outside]
    # Both kinds of charts, on one scale each: all heads together.
    patterns, gradients = (
        {name: _without_columns(matrix, special) for name, matrix in matrices.items()}
        for matrices in (heads.patterns, heads.pattern_gradients)
    )
    most, bound = (
        max((float(matrix.abs().max()) for matrix in matrices.values()), default=0.0)
        for matrices in (patterns, gradients)
    )
    aside = " Its column of special tokens is left blank, outside the scale." if special else ""
    blank = "" if bound else " Every edge is zero."
    charts = {
        "type": "attention",
        "tokens": min(len(heads.tokens), MAX_TOKENS_OF_HEADS),
        "heads": list(heads.patterns)[: _most_heads(len(heads.tokens))],
        "views": [
            _view(
                "patterns",
                "Attention pattern",
                f"How much attention each token gets (full colour: {percent(most)}, the same for all heads).{aside}",
                patterns,
                most,
            ),
            _view(
                "pattern-gradients",
                "Pattern × gradient",
                f"Which edges carry the change (full colour: ±{number(bound)}, the same for all heads).{aside}{blank}",
                gradients,
                bound,
            ),
        ],
    }
    text = (
        "Rows are the tokens that attend, columns the tokens attended to. Choose a head: both charts"
        " follow. Cells under 0.5% of the full colour are blank."
    )
    notes = " ".join([text, *cropping(len(heads.patterns), len(heads.tokens))])
    blocks = [note(notes), charts, _edge_table(heads, gradients)]
    summary = [*join([[name, " at ", *_looks(heads, name, 1)] for name in list(heads.patterns)[:3]], "No head"), "."]
    return Section("attention", "Where the strongest heads look", blocks, summary=summary)


def _without_columns(matrix: Float[Tensor, "dest src"], columns: Sequence[int]) -> Float[Tensor, "dest src"]:
    """The matrix with zeros in some columns, and in place of what is not finite."""
    counted = matrix.clone()
    counted[:, columns] = 0
    return counted.nan_to_num(0.0, 0.0, 0.0)


def _looks(heads: HeadInspection, name: str, most: int) -> list[str | dict[str, str]]:
    """What a head attends to most, from the last token."""
    looks = heads.patterns[name][-1].nan_to_num(0.0).topk(min(most, len(heads.tokens)))
    pairs = zip(looks.values.tolist(), looks.indices.tolist(), strict=True)
    return join([token(heads.tokens[i], percent(part)) for part, i in pairs if part > 0], "nothing")


def _view(key: str, name: str, text: str, matrices: Mapping[str, Float[Tensor, "dest src"]], bound: float) -> Block:
    strongest = list(matrices.values())
    if strongest:
        strongest = strongest[: _most_heads(strongest[0].shape[-1])]
    last = MAX_TOKENS_OF_HEADS
    charts = [chart_cells(matrix[-last:, -last:].tolist(), bound) for matrix in strongest]
    return {"id": key, "title": name, "note": text, "matrices": charts, "bound": bound or 1.0}


def chart_cells(rows: list[list[float]], bound: float) -> list[list[int | float]]:
    """The lower triangle in three significant digits. Zero leaves a cell blank: what is not finite, and what would be
    white anyway, which makes a chart several times faster."""
    least = _MIN * (bound or 1.0)
    return [
        [float(f"{value:.3g}") if math.isfinite(value) and abs(value) >= least else 0 for value in row[: dest + 1]]
        for dest, row in enumerate(rows)
    ]


def cropping(n_heads: int, n_tokens: int) -> list[str]:
    """What the charts leave out of this many heads and tokens, in sentences; empty where they show all."""
    notes = []
    if n_heads > _most_heads(n_tokens):
        notes.append(f"The {_most_heads(n_tokens)} strongest of {n_heads} heads are drawn.")
    if n_tokens > MAX_TOKENS_OF_HEADS:
        notes.append(
            f"The last {MAX_TOKENS_OF_HEADS} of {n_tokens} tokens are drawn, because charts of more are slow; the"
            " table below is of all tokens."
        )
    return notes


def _most_heads(n_tokens: int) -> int:
    return min(MAX_HEADS, _MAX_CELLS // min(n_tokens, MAX_TOKENS_OF_HEADS) ** 2)


def _edge_table(heads: HeadInspection, gradients: Mapping[str, Float[Tensor, "dest src"]], most: int = 3) -> Block:
    rows = []
    for name, pattern in heads.patterns.items():
        matrix = gradients[name].flatten()
        pairs = [
            (*divmod(i, pattern.shape[1]), float(matrix[i]))
            for i in matrix.abs().topk(min(most, len(matrix))).indices.tolist()
        ]
        edges = [
            [*token(heads.tokens[dest]), " ← ", *token(heads.tokens[src], number(value))]
            for dest, src, value in pairs
            if value
        ]
        cells = [_looks(heads, name, most), join(edges, "none")]
        rows.append([text_cell(name, name, "component"), *(text_cell(cell, "", "prose") for cell in cells)])
    names = [("head", "text"), ("looks most at, from the last token", "plain"), ("edges that carry most", "plain")]
    return table("What stands out in the charts", names, rows)


def _ablation(heads: HeadInspection, links: dict[str, str]) -> Section:
    text = f"Change in {unit_of_change(heads)} when a component is set to its {inline_token(heads.baseline)} baseline"
    comparison = Comparison("component", unit_of_change(heads), changes_of_heads(heads), links, ("head", "mlp"))
    blocks = [lead(heads_agreement(heads)), *comparison.blocks(text)]
    return Section("ablation", "Checked by ablation", blocks, summary=heads_agreement(heads))
