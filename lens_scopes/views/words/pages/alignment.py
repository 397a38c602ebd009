"""Two prompts token by token: where they differ."""

from __future__ import annotations

from collections.abc import Sequence

from lens_scopes.views.words.pages.blocks import Block, note, number_cell, table, text_cell, token

_MOST_ROWS = 60


def alignment_blocks(tokens: Sequence[str], other_tokens: Sequence[str]) -> list[Block]:
    """The tokens of two prompts that stand beside each other, where they differ."""
    pairs = list(zip(tokens, other_tokens, strict=True))
    places = [place for place, (mine, other) in enumerate(pairs) if mine != other]
    if not places:
        return [note(f"The two prompts have the same {len(pairs)} tokens.")]
    rows = [
        [
            number_cell(str(place), place),
            text_cell(token(pairs[place][0]), pairs[place][0]),
            text_cell(token(pairs[place][1]), pairs[place][1]),
        ]
        for place in places[:_MOST_ROWS]
    ]
    more = f" The first {_MOST_ROWS} are listed." if len(places) > _MOST_ROWS else ""
    which = "1 of them" if len(places) == 1 else f"{len(places)} of them"
    text = f"The two prompts have {len(pairs)} tokens each and differ in {which}.{more}"
    return [
        note(text),
        table("Where the prompts differ", [("#", "number"), ("this prompt", "text"), ("the other", "text")], rows),
    ]
