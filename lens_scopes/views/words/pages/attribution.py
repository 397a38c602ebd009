"""Sections of an attribution: tokens, prediction, layers, other sites, scores."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lens_scopes.views.words import attribution as words
from lens_scopes.views.words.colour import scale_of
from lens_scopes.views.words.numbers import number, percent
from lens_scopes.views.words.pages.parts.alignment import alignment_blocks
from lens_scopes.views.words.pages.parts.blocks import (
    Block,
    Section,
    alerts,
    bar_cell,
    bars,
    contract_section,
    definitions,
    heading,
    heat_map,
    join,
    kind,
    lead,
    level,
    note,
    number_cell,
    provenance_section,
    reference,
    table,
    text_cell,
    token,
)
from lens_scopes.views.words.token_text import inline_token, printable_token

if TYPE_CHECKING:
    from lens_scopes.results.attribution import Attribution


def page_title(attribution: Attribution) -> str:
    """The title of the window."""
    return words.title(attribution)


def header(attribution: Attribution) -> list[Block]:
    """What was explained, and how to read it."""
    return [
        kind(*about(attribution)),
        prompt(attribution, words.following(attribution)),
        *alerts("Warnings", attribution.warnings),
        *alerts("About these scores", words.data_warnings(attribution)),
    ]


def sections(
    attribution: Attribution, *, with_heads: bool = False, later: Sequence[str] = (), group: str = "token"
) -> list[Section]:
    """Sections `tokens`, `prediction`, `scores`, `layers`, `sites`, `contract`, `details`.

    Args:
        attribution: the result.
        with_heads: whether the page has the heads × layers map, which the names of layers then lead to.
        later: tokens of the prompt after the position explained, which a page can offer to explain.
        group: the segments that the strip of tokens is folded by at first; "token" for none.
    """
    parts = [_tokens(attribution, later, group), _prediction(attribution), _scores(attribution)]
    if attribution.layers is not None:
        parts.append(_layers(attribution, with_heads))
    if attribution.sites:
        parts.append(_sites(attribution))
    return [*parts, contract_section(attribution.contract), provenance_section(attribution)]


def about(result: Any) -> list[str | dict[str, str]]:
    """Objective, model and position of a result about one prediction."""
    name = inline_token(str(result.model.get("name", "a model")))
    place = f"position {result.position} of {len(result.tokens)} tokens"
    path = result.settings.get("path")
    through = f" · through {inline_token(str(path))}" if path else ""
    return [{"bold": inline_token(result.objective)}, f" · {name} · {place}{through}"]


def prompt(result: Any, after: words.WhatFollows | None) -> Block:
    """The prompt as the heading of a page, and what follows it beside it."""
    text = words.prompt_text(result)
    block: Block = {"type": "prompt", "text": text if len(text) <= 240 else "…" + text[-239:]}
    return block if after is None else block | {"token": after.text, "small": after.probability, "title": after.role}


def _tokens(attribution: Attribution, later: Sequence[str], group: str) -> Section:
    strip: Block = {
        "type": "strip",
        "id": "token-strip",
        "values": reference("scores"),
        "unit": words.unit_of_score(attribution),
        "of": "the other tokens" if any(attribution.special) else "these tokens",
        "label": "The prompt, coloured by influence",
        "strongest": 6,
        "folds": [_fold(name, segments) for name, segments in words.groupings(attribution).items()],
        "fold": group,
        "sum": words.meaning_of_sum(attribution),
    }
    # Tokens after the position explained stand behind the strip, so that the reader can move the position there.
    if later:
        first = len(attribution.tokens)
        strip["later"] = [{"index": first + i, "token": inline_token(text)} for i, text in enumerate(later)]
    if attribution.layers is not None:
        strip |= {
            "choices": words.short_names(attribution.layer_names),
            "choice_values": reference("layers"),
            "first": _score_place(attribution),
            "choice_label": "Where influence is read",
            "choose": "layer",
        }
    coverage = "The text up to the position explained."
    if attribution.answer is not None:
        own = len(attribution.tokens) > attribution.position + 1
        coverage = "The prompt, and the answer's tokens but the last." if own else "The prompt."
    blocks = [note(coverage), strip, *_other_prompt(attribution)]
    blocks += [lead(words.interpretation(attribution)), lead(words.caveat(attribution), quiet=True)]
    return Section("tokens", "Tokens", blocks, layout="wide")


def _fold(name: str, segments: Sequence[words.Segment]) -> Block:
    """A grouping of the strip: its name, and the tokens of each segment, whose scores the page sums."""
    return {
        "name": name,
        "spans": [[segment.start, segment.stop] for segment in segments],
        "labels": [printable_token(segment.label) for segment in segments],
    }


def _other_prompt(attribution: Attribution) -> list[Block]:
    """The prompt that scores are measured from beside this one, where there is one."""
    readout = attribution.settings.get("readout")
    others = readout.get("baseline_tokens") if isinstance(readout, dict) else None
    return alignment_blocks(attribution.tokens[: len(others)], others) if others else []


def _score_place(attribution: Attribution) -> str:
    """Where the tokens' scores are read, in a word or two."""
    return "all sites" if attribution.settings.get("score_sites") else "embedding"


def _prediction(attribution: Attribution) -> Section:
    target = attribution.target
    items = [
        {
            "label": token(item.token),
            "values": [percent(item.probability)],
            "shares": [item.probability],
            "target": target is not None and item.token_id == target.token_id,
            "choose": {"token": item.token, "token_id": item.token_id},
        }
        for item in words.likely(attribution)
    ]
    prediction = attribution.prediction
    facts = {"entropy": f"{number(prediction.entropy)} nats", "β = ‖y‖": number(prediction.beta)}
    ending = "; the target is highlighted" if target is not None else ""
    blocks = [*_answers(attribution), note(f"The next token after {_after(attribution)}{ending}."), bars(items)]
    return Section("prediction", "Prediction", [*blocks, definitions(facts, compact=True)], layout="side")


def _after(attribution: Attribution) -> str:
    return "this text" if attribution.answer is None else "the prompt"


def answer_notes(result: object) -> list[Block]:
    """The answers that a result explains, each with its probability."""
    return [
        note(f"{role}, ", *token(answer.text), f": {words.answer_summary(answer)}")
        for role, answer in words.answers_of(result).items()
    ]


def _answers(attribution: Attribution) -> list[Block]:
    """The answers explained, with the probability of each of their tokens."""
    blocks: list[Block] = []
    for role, answer in words.answers_of(attribution).items():
        items = [
            {"label": token(text), "values": [percent(math.exp(log_p))], "shares": [math.exp(log_p)]}
            for text, log_p in zip(answer.tokens, answer.log_probabilities, strict=True)
        ]
        blocks += [note(f"{role}, token by token. {words.answer_summary(answer)}"), bars(items)]
    return blocks


def _layers(attribution: Attribution, with_heads: bool) -> Section:
    names = attribution.layer_names
    errors = None if attribution.layers_standard_error is None else reference("layers_standard_error")
    layer_map = heat_map(
        "layers",
        "Influence of each token, read at each layer",
        "layer",
        words.short_names(names),
        reference("layers"),
        errors=errors,
        row_links=[_heads_of(name) for name in names] if with_heads else None,
        choose="layer",
        unit=words.unit_of_score(attribution),
        readings=_readings(attribution),
    )
    text = (
        "Each row reads the same scores at another layer of the residual stream, from the first"
        f" ({names[0]}) to the last ({names[-1]}). Where the colour moves from a token to a later one, its information"
        " has moved along. Click a cell to see its layer in the strip of tokens"
        f"{', the name of a layer leads to its heads' if with_heads else ''}."
    )
    blocks = [note(text), layer_map]
    if attribution.lens is not None:
        blocks += [heading("What the layers say"), note(words.lens_note(attribution)), _leaders(attribution)]
    return Section("layers", "Through the layers", blocks)


def _readings(attribution: Attribution) -> Block | None:
    """What each cell reads as: tokens as they are shown, and the reference to their probabilities."""
    if attribution.lens is None:
        return None
    tokens = [[[printable_token(text) for text in cell] for cell in line] for line in attribution.lens.tokens]
    return {"tokens": tokens, "probabilities": reference("lens", "probabilities")}


def _leaders(attribution: Attribution) -> Block:
    """The strongest cell of each layer with what it reads as, for readers without the map."""
    reading = attribution.lens
    assert reading is not None
    names = words.short_names(attribution.layer_names)
    rows = []
    for row, index, score in words.layer_leaders(attribution):
        read = reading.at(row, index)
        pieces = join([token(item.token, percent(item.probability)) for item in read[:3]], "was not read")
        rows.append(
            [
                text_cell(names[row], f"{row:04}", "component"),
                text_cell(token(attribution.tokens[index]), attribution.tokens[index]),
                number_cell(number(score), score),
                text_cell(pieces, "".join(item.token for item in read[:1]), "sources"),
            ]
        )
    columns = [("layer", "text"), ("strongest token", "text"), ("score", "number"), ("reads as", "text")]
    return table("The strongest cell of each layer, and what it reads as", columns, rows)


def _heads_of(layer_name: str) -> str:
    """The row of the heads × layers map for a hook name; the map itself for other names."""
    match = re.match(r"blocks\.(\d+)\.", layer_name)
    return "heads" if match is None else f"heads-l{match[1]}"


def _sites(attribution: Attribution) -> Section:
    blocks = []
    flat = {name: values.tolist() for name, values in attribution.sites.items() if values.ndim == 1}
    if flat:
        caption = "Influence of each token, read at other sites"
        blocks.append(heat_map("sites", caption, "site", list(flat), list(flat.values())))
    for i, (name, values) in enumerate(attribution.sites.items()):
        if values.ndim == 2:
            heads = [f"H{head}" for head in range(values.shape[1])]
            caption = f"Influence of each token at each head of {name}"
            blocks += [heading(name), heat_map(f"site-{i}", caption, "head", heads, values.T.tolist())]
    return Section("sites", "Other sites", blocks)


def _scores(attribution: Attribution) -> Section:
    lines = words.rows(attribution)
    scale = scale_of([line.score for line in lines], attribution.special)
    with_errors = attribution.standard_error is not None
    names = [("#", "number"), ("token", "text"), ("id", "number"), ("score", "number")]
    names += [("standard error", "number")] if with_errors else []
    rows = []
    for line in lines:
        cells = [
            number_cell(str(line.index), line.index),
            text_cell(token(line.token), line.token),
            number_cell(str(line.token_id), line.token_id),
            number_cell(number(line.score), line.score, level(line.score, line.special, scale)),
        ]
        if with_errors:
            error = line.standard_error
            cells.append(number_cell("—" if error is None else f"± {number(error)}", error))
        rows.append([*cells, bar_cell(math.copysign(line.relative or 0.0, line.score), "graph", middle=False)])
    text = "Bars compare with the strongest token; special tokens have none. The buttons in the headings sort."
    if attribution.layers is not None:
        text = f"Read at: {_score_place(attribution)}. {text}"
    scores = table("Score of every token", [*names, ("", "")], rows, attribution.special)
    return Section("scores", "Scores", [note(text), scores])
