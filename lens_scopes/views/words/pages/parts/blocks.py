"""Sections and blocks of pages as plain data: the scripts draw them, and the template writes the same without scripts.

A block is a mapping with a `type` and what its type needs, all of it ready for JSON. Text is a string, or a list of
strings and of pieces: `token`, `small`, `bold`. Numbers of a result are given by reference, so that they stand on the
page once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from lens_scopes.views.words.colour import Scale, scale_of
from lens_scopes.views.words.numbers import number
from lens_scopes.views.words.pages.parts.memory import memory_amounts, memory_words
from lens_scopes.views.words.token_text import inline_token, printable_token

if TYPE_CHECKING:
    from lens_scopes.results.base import Result

Block: TypeAlias = "dict[str, Any]"
Text: TypeAlias = "str | list[str | dict[str, str]]"

LABELS = {
    "by_row": "colour by {noun}",
    "by_all": "one scale for all {noun}s",
    "numbers": "numbers",
    "largest": "largest",
    "strongest": "Strongest",
    "no_colour": "No colour: no score of {of} differs from zero.",
    "bound": "{number} = largest magnitude of {of}",
    "row_low": "−largest of the {noun}",
    "row_bound": "largest magnitude in the same {noun}, so colours of different {noun}s do not compare",
    "all_rows": "all {noun}s",
    "special": "special token, outside the scale",
    "broken": "not finite",
    "ramp_signed": "from orange through no colour to blue",
    "ramp": "from no colour to blue",
    "of_row": "{percent} of row",
    "choose_token": "Choose a token to explain what follows it.",
    "point_token": "Hover over a token to see its score.",
    "token_value": "{index} “{token}”: {number}",
    "token_relative": "{percent} of the strongest",
    "segment_value": "tokens {first} to {last}, “{text}”: {number}",
    "point_sum": "Hover over a segment to see its sum.",
    "point_segment": "Hover over a segment to see its sum. To explain what follows a token, fold by token.",
    "segments_of": "these {name}s",
    "fold_by": "Fold by",
    "unfolded": "token",
    "segments": "Sums by {name}, from the strongest",
    "other_segments": "{count} more",
    "token_special": "special token",
    "token_later": "{index} “{token}”: after the position explained; choose it to explain what follows it",
    "choose_target": "{token}, {percent}: explain this token",
    "choose_bar": "Choose a token to explain it.",
    "choose_position": "Choose a cell to explain the prediction of its row.",
    "through": "Explain through {name} alone",
    "chain_start": "Choose a sentence of the generated text to see what it rests on, then a hop, down to the prompt.",
    "chain_rests": "{name} rests on",
    "chain_ends": "{name} is in the prompt, where the way ends. These rest on it",
    "chain_way": "The way so far",
    "chain_weak": "{count} more, {percent} together",
    "chain_none": "nothing else in the text",
    "chain_prompt": "Prompt",
    "chain_made": "Generated",
    "chain_of_whole": "{percent} of the whole influence goes this way",
    "chain_share": "{name}: {percent} of the whole influence",
    "point_cell": "Hover over a cell, or go to it with the arrow keys, to read what the residual stream there says.",
    "reads_as": "reads as",
    "not_read": "was not read",
    "colour": "Colour",
    "linear": "linear",
    "root": "square root",
    "log": "logarithmic",
    "half_colour": "half the colour at {number}",
    "half_colour_of_row": "half the colour at {percent} of it",
    "apart": "last token apart",
    "special_or_last": "special or last token, outside the scale",
    "go_to_token": "token {index}, {token}, {number}: show it in the text",
    "head": "head",
    "mlp": "MLP",
    "cell": "cell",
    "sections": "Sections",
    "made_with": "Made with lens_scopes. This page is complete in itself: it loads nothing and sends nothing.",
    "no_scripts": "Scripts are off: these are the texts and tables without the charts.",
}


@dataclass(frozen=True)
class Section:
    """One part of a page.

    Args:
        key: its `id`, unique on the page: letters, digits and hyphens.
        title: its heading.
        blocks: its content.
        layout: `full` takes a whole row; `wide` and `side` share a row on wide screens, two thirds to one.
        part: which result of the page its references and tokens are of.
        summary: its finding in a sentence, for where its blocks are folded or left out.
        folded: whether its blocks open only when asked for.
    """

    key: str
    title: str
    blocks: Sequence[Block]
    layout: Literal["full", "wide", "side"] = "full"
    part: int = 0
    summary: Text = ""
    folded: bool = False


def reference(*path: str | int) -> Block:
    """Numbers of the result, by the keys of its `to_dict()` that lead to them."""
    return {"at": list(path)}


def lead(text: Text, *, quiet: bool = False) -> Block:
    """A paragraph that a reader should not miss; `quiet` for how not to read the numbers."""
    return {"type": "lead", "text": text, "quiet": quiet}


def note(*text: str | dict[str, str]) -> Block:
    """A paragraph about what follows."""
    return {"type": "note", "text": list(text)}


def heading(text: str, small: str = "") -> Block:
    """The heading of a part of a section."""
    return {"type": "heading", "text": text, "small": small}


def kind(*text: str | dict[str, str]) -> Block:
    """What was done, above a page or a section."""
    return {"type": "kind", "text": list(text)}


def alerts(title: str, sentences: Sequence[str]) -> list[Block]:
    """A box with sentences that a reader must not miss; nothing where there are none."""
    items = [inline_token(sentence) for sentence in sentences]
    return [{"type": "alert", "title": title, "items": items}] if items else []


def token(text: str, small: str = "") -> list[str | dict[str, str]]:
    """A token as it stands in running prose, and a number behind it."""
    piece: list[str | dict[str, str]] = [{"token": printable_token(text)}]
    return [*piece, " ", {"small": small}] if small else piece


def join(items: Sequence[list[str | dict[str, str]]], empty: str) -> list[str | dict[str, str]]:
    """Pieces of text with commas between them."""
    pieces = [piece for item in items for piece in (", ", *item)]
    return pieces[1:] or [empty]


def definitions(mapping: Mapping[str, object], *, compact: bool = False) -> Block:
    """Names and values; nested mappings are joined by dots."""
    pairs = [[inline_token(name), inline_token(str(value))] for name, value in _flat(mapping).items()]
    return {"type": "definitions", "pairs": pairs, "compact": compact}


def bars(items: Sequence[Block], css: str = "") -> Block:
    """A list of bars: `label` (text), `values` (texts), `shares` from −1 to 1, and `middle` for two-sided tracks."""
    return {"type": "bars", "items": list(items), "css": css}


def table(
    caption: str, columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[Block]], special: Sequence[bool] = ()
) -> Block:
    """A table whose headings sort it.

    Args:
        caption: what it shows.
        columns: name and kind of each; kind is `number`, `text`, or empty for a column without a heading.
        rows: the cells of each row, from `number_cell`, `text_cell` and `bar_cell`.
        special: which rows are set back.
    """
    return {
        "type": "table",
        "caption": caption,
        "columns": [list(column) for column in columns],
        "rows": [list(row) for row in rows],
        "special": list(special),
    }


def number_cell(text: Text, value: int | float | None, level: str = "") -> Block:
    """A cell that shows `text` and sorts by `value`; `level` is its step on the colour scale."""
    sortable = None if value is None or not math.isfinite(value) else value
    return {"text": text, "value": sortable, "css": "n"} | ({"level": level} if level else {})


def text_cell(text: Text, value: str, css: str = "token", link: str = "") -> Block:
    """A cell that shows `text`, sorts by `value`, and leads to the element with the id `link`."""
    return {"text": text, "value": value, "css": css} | ({"link": link} if link else {})


def bar_cell(share: float, css: str = "little", *, middle: bool = True) -> Block:
    """A cell with a bar of a share from −1 to 1; no bar where it is not finite."""
    return {"css": css, "bar": share if math.isfinite(share) else 0.0, "middle": middle}


def heat_map(
    key: str,
    caption: str,
    noun: str,
    rows: Sequence[str],
    values: Sequence[Sequence[float]] | Block,
    columns: Sequence[str] | None = None,
    special: Sequence[bool] | None = None,
    **more: Any,
) -> Block:
    """A map of numbers: layers × tokens, layers × heads, or targets × sources.

    Args:
        key: a word unique on the page, for the ids of its controls.
        caption: what it shows.
        noun: what a row is, in the singular.
        rows: their names.
        values: their numbers, or the reference to them; cells beyond the end of a row stay empty.
        columns: their names; the tokens of the result if not given.
        special: which columns stay outside the colour scale; those of the result if not given.
        more: `unit` (of the numbers), `errors` (as values), `row_links` and `cell_links` (ids), `row_ids`, `apart` (a
            further column with a scale of its own), `choose` (what a cell chooses), `plain` (one scale and numbers,
            without controls), `by_all` (one scale for all rows at first), `marks` (row, column and a few words of
            cells to be framed), `readings` (what each cell reads as: `tokens`, and `probabilities` as values).
    """
    if not isinstance(values, dict):
        values = [[value if math.isfinite(value) else None for value in row] for row in values]  # type: ignore[misc]
    block = {"type": "map", "key": key, "caption": caption, "noun": noun, "rows": list(rows), "values": values}
    if columns is not None:
        block |= {
            "columns": [printable_token(name) for name in columns],
            "special": list(special or [False] * len(columns)),
        }
    return block | {name: value for name, value in more.items() if value is not None}


def legend(scale: Scale, of: str, special: Sequence[bool] = (), broken: bool = False) -> Block:
    """The colour scale with its ends, and the marks for what lies outside it."""
    ends = {"bound": scale.bound, "signed": scale.signed}
    return {"type": "legend", "scale": ends, "of": of, "special": any(special), "broken": broken}


def fold(summary: Text, *blocks: Block) -> Block:
    """Blocks that open when asked for."""
    return {"type": "fold", "summary": summary, "blocks": list(blocks)}


def columns(*sides: Sequence[Block], even: bool = False) -> Block:
    """Blocks beside each other on wide screens."""
    return {"type": "columns", "items": [list(side) for side in sides], "even": even}


def cards(items: Iterable[Sequence[Block]]) -> Block:
    """Groups of blocks in as many columns as there is room for."""
    return {"type": "cards", "items": [list(item) for item in items]}


def axis(label: str, low: float, high: float, ticks: Sequence[tuple[float, str]], scale: str = "linear") -> Block:
    """An axis of a chart; the scale is `linear`, `root` (the signed square root) or `log`."""
    return {"label": label, "low": low, "high": high, "ticks": [list(tick) for tick in ticks], "scale": scale}


def level(score: float, is_special: bool, scale: Scale) -> str:
    """The step of a score: `s` special, `x` not finite, else `p0` to `p20`, `n1` to `n20`."""
    if is_special:
        return "s"
    if not math.isfinite(score):
        return "x"
    step = scale.level(score)
    return f"{'n' if step < 0 else 'p'}{abs(step)}"


def plain_scale(values: Sequence[float]) -> Scale:
    """The scale of numbers of which none is special."""
    return scale_of(values, [False] * len(values))


@dataclass(frozen=True)
class FurtherContract:
    """The contract and the settings of a further result on a page, by what it is of: `the heads`."""

    of: str
    contract: Mapping[str, str]
    settings: Mapping[str, object]


def contract_section(contract: Mapping[str, str], further: Iterable[FurtherContract] = ()) -> Section:
    """The five elements of the attribution contract; of further results, those that they name otherwise, folded."""
    text = (
        "What this attribution claims: a score means nothing until these five are named"
        " (the attribution contract, arXiv:2605.23080)."
    )
    folds = [_further_contract(contract, other) for other in further]
    return Section("contract", "Contract", [note(text), definitions(contract), *folds])


def _further_contract(contract: Mapping[str, str], other: FurtherContract) -> Block:
    differing = {name: text for name, text in other.contract.items() if contract.get(name) != text}
    summary = f" differs in: {', '.join(differing)}" if differing else " is the same"
    settings = fold("Settings", definitions(other.settings))
    return fold([{"bold": f"The contract of {other.of}"}, summary], definitions(differing), settings)


def provenance_section(result: Result) -> Section:
    """Model, settings, memory and versions of a result, folded."""
    memory = f"{memory_words(result.memory)} ({memory_amounts(result.memory)})" if result.memory else "no graph"
    return details_section(result.model, {**result.settings, "memory": memory}, result.versions)


def details_section(
    model: Mapping[str, object], settings: Mapping[str, object], versions: Mapping[str, object]
) -> Section:
    """Model, settings and versions, folded."""
    parts = [("Model", model), ("Settings", settings), ("Versions", versions)]
    inner = [block for name, mapping in parts if mapping for block in (heading(name), definitions(mapping))]
    return Section("details", "Model, settings, versions", [fold("Show", *inner)])


def _flat(mapping: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested mappings as one, their names joined by dots, values ready to be shown."""
    pairs: dict[str, object] = {}
    for name, value in mapping.items():
        if isinstance(value, Mapping) and value:
            pairs |= _flat(value, f"{prefix}{name} · ")
        elif isinstance(value, (list, tuple)):
            pairs[prefix + name] = ", ".join(number(v) if isinstance(v, float) else str(v) for v in value) or "none"
        else:
            pairs[prefix + name] = number(value) if isinstance(value, float) else "none" if value is None else value
    return pairs
