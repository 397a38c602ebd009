"""Sections of influence through generated text: the text by sentence with its hops, the strongest ways, the tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lens_scopes.views.words.attribution import prompt_text
from lens_scopes.views.words.colour import scale_of
from lens_scopes.views.words.matrix import INFLUENCE_CAVEAT, influence_summary, segment_names, target_name
from lens_scopes.views.words.numbers import number, percent
from lens_scopes.views.words.pages.attribution import prompt
from lens_scopes.views.words.pages.parts.blocks import (
    Block,
    Section,
    alerts,
    bar_cell,
    contract_section,
    fold,
    kind,
    lead,
    level,
    note,
    number_cell,
    provenance_section,
    table,
    text_cell,
    token,
)
from lens_scopes.views.words.token_text import inline_token

if TYPE_CHECKING:
    from lens_scopes.results.influence import TotalInfluence

_MAX_CHAINS = 8
_MAX_HOPS = 200


def page_title(influence: TotalInfluence) -> str:
    """The title of the window."""
    text = prompt_text(influence)
    return text if len(text) <= 80 else text[:79] + "…"


def header(influence: TotalInfluence) -> list[Block]:
    """What was followed back, and how not to read it."""
    name = inline_token(str(influence.model.get("name", "a model")))
    return [
        kind("Total influence · ", *_kind(influence), f" · {name}"),
        prompt(influence, None),
        lead(INFLUENCE_CAVEAT, quiet=True),
    ]


def sections(influence: TotalInfluence) -> list[Section]:
    """Sections `chain`, `chain-tokens`, `contract`, `details`."""
    return [
        chain_section(influence),
        _tokens(influence),
        contract_section(influence.contract),
        provenance_section(influence),
    ]


def chain_section(influence: TotalInfluence) -> Section:
    """The text by sentence, each of which leads to what it rests on, and the strongest ways to the prompt."""
    blocks = [
        kind(*_kind(influence)),
        *alerts("Warnings", influence.warnings),
        lead(influence_summary(influence)),
        chain_block(influence),
        _chains(influence),
        fold("Every hop as a table", _hops(influence)),
    ]
    return Section("chain", "Through the generated text", blocks)


def chain_block(influence: TotalInfluence) -> Block:
    """Segments with their shares, and the flow from each to each earlier one, for the scripts to follow."""
    segments = influence.segments()
    names = segment_names(influence, segments)
    flows = influence.flows().tolist()
    return {
        "type": "chain",
        "label": "The text by sentence, coloured by what the chosen sentence rests on",
        "target": next(i for i, item in enumerate(segments) if (item.start, item.stop) == influence.target),
        "segments": [
            {
                "name": name,
                "text": inline_token("".join(influence.tokens[item.start : item.stop])).strip() or item.label,
                "generated": item.generated,
                "share": item.share,
            }
            for name, item in zip(names, segments, strict=True)
        ],
        "flows": [[i, j, flow] for i, row in enumerate(flows) for j, flow in enumerate(row) if flow > 0],
    }


def _kind(influence: TotalInfluence) -> list[str | dict[str, str]]:
    return [{"bold": inline_token(influence.objective)}, f" · on {target_name(influence)}"]


def _chains(influence: TotalInfluence) -> Block:
    segments = influence.segments()
    names = segment_names(influence, segments)
    rows = []
    for chain in influence.chains(_MAX_CHAINS):
        way = " ← ".join(names[segments.index(item)] for item in chain.segments)
        ending = inline_token(chain.segments[-1].label)
        rows.append(
            [
                number_cell(percent(chain.share), chain.share),
                text_cell(way, way, "component"),
                text_cell(ending, ending, "prose"),
            ]
        )
    columns = [("share", "number"), ("way", "text"), ("where it ends", "text")]
    return table("The strongest ways from the answer to the prompt", columns, rows)


def _hops(influence: TotalInfluence) -> Block:
    segments = influence.segments()
    names = segment_names(influence, segments)
    rows = []
    for hop in influence.hops().head(_MAX_HOPS).to_dict("records"):
        source, target = int(hop["from_index"]), int(hop["to_index"])
        rows.append(
            [
                text_cell(names[source], names[source], "component"),
                text_cell(names[target], names[target], "component"),
                text_cell(inline_token(segments[target].label), segments[target].label, "prose"),
                number_cell(percent(hop["share"]), hop["share"]),
                number_cell(percent(hop["flow"]), hop["flow"]),
            ]
        )
    columns = [("segment", "text"), ("rests on", "text"), ("text", "text")]
    columns += [("share", "number"), ("of the whole", "number")]
    return table("What each sentence rests on", columns, rows)


def _tokens(influence: TotalInfluence) -> Section:
    n = influence.n_prompt
    scores, direct = influence.scores.tolist(), influence.direct.tolist()
    special = influence.special[:n]
    strip: Block = {
        "type": "strip",
        "id": "chain-strip",
        "values": [*scores, *[None] * (len(influence.tokens) - n)],
        "of": "the prompt's tokens",
        "label": "The prompt, coloured by total influence",
        "broken": "generated text",
        "strongest": 6,
    }
    scale = scale_of(scores, special)
    largest = max(scores, default=0.0) or 1.0
    rows = [
        [
            number_cell(str(i), i),
            text_cell(token(influence.tokens[i]), influence.tokens[i]),
            number_cell(number(scores[i]), scores[i], level(scores[i], special[i], scale)),
            number_cell(number(direct[i]), direct[i]),
            bar_cell(scores[i] / largest, "graph", middle=False),
        ]
        for i in range(n)
    ]
    columns = [("#", "number"), ("token", "text"), ("total", "number"), ("direct", "number"), ("", "")]
    text = "Total is the share of the influence that ends in a token by any way, direct by one step."
    numbers = table("Total and direct influence of every prompt token", columns, rows, special)
    return Section("chain-tokens", "Prompt tokens", [note(text), strip, fold("The shares as a table", numbers)])
