"""Two prompts token by token: where they differ, and where one has more tokens than the other."""

from __future__ import annotations

from collections.abc import Sequence

from lens_scopes.prompts.alignment import differences
from lens_scopes.views.words.pages.parts.blocks import Block, Text, join, note, number_cell, table, text_cell, token

_MAX_ROWS = 60


def alignment_blocks(tokens: Sequence[str], other_tokens: Sequence[str]) -> list[Block]:
    """The tokens of two prompts where they differ; prompts of one length are compared place by place."""
    places = differences(tokens, other_tokens)
    aligned = len(tokens) == len(other_tokens)
    if not places:
        return [note(f"The two prompts have the same {len(tokens)} tokens.")]
    rows = [
        [
            number_cell(str(start), start),
            text_cell(_list(tokens[start:stop]), "".join(tokens[start:stop])),
            text_cell(_list(other_tokens[first:last]), "".join(other_tokens[first:last])),
            *([] if aligned else [text_cell(_lengths(stop - start, last - first), "", "prose")]),
        ]
        for start, stop, first, last in places[:_MAX_ROWS]
    ]
    names = [("#", "number"), ("this prompt", "text"), ("the other", "text")]
    names += [] if aligned else [("tokens", "plain")]
    which = "1 of them" if len(places) == 1 else f"{len(places)} of them"
    text = f"The two prompts have {len(tokens)} tokens each and differ in {which}."
    if not aligned:
        text = f"This prompt has {len(tokens)} tokens and the other {len(other_tokens)}; they must have as many."
    text += f" The first {_MAX_ROWS} places are listed." if len(places) > _MAX_ROWS else ""
    return [note(text), table("Where the prompts differ", names, rows)]


def _list(tokens: Sequence[str]) -> Text:
    return join([token(one) for one in tokens], "nothing")


def _lengths(mine: int, theirs: int) -> Text:
    return f"{mine} | {theirs}" if mine == theirs else [{"bold": f"{mine} | {theirs}"}]
