"""A result as the page needs it: its own fields, its id, and the words and labels that all views share."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from lens_scopes.prompts.prompt import Prompt
from lens_scopes.results.attribution import Attribution
from lens_scopes.results.heads import HeadInspection
from lens_scopes.results.matrix import AttributionMatrix
from lens_scopes.server.schemas import (
    AttributionView,
    Command,
    HeadsView,
    LaterToken,
    LikelyToken,
    MatrixView,
    View,
)
from lens_scopes.views.words.attribution import NOT_TO_READ, likely, oddities, prompt_text, reading, short_names, title
from lens_scopes.views.words.heads import (
    agreement,
    head_lines,
    heads_caution,
    heads_oddities,
    heads_reading,
    unit_of_change,
)
from lens_scopes.views.words.matrix import matrix_oddities, prediction_lines, row_name
from lens_scopes.views.words.modes import modes_caution, modes_oddities, modes_reading
from lens_scopes.views.words.token_text import running, visible


def answer(result_id: str, prompt: Prompt, result: Any, command: Command) -> dict[str, Any]:
    """Plain values of the result, ready for JSON, with `id`, `kind` and `view` beside its own fields."""
    return {"id": result_id, "kind": result.kind, **result.to_dict(), "view": _view(prompt, result, command)}


def _view(prompt: Prompt, result: Any, command: Command) -> dict[str, Any]:
    shared = {
        "title": title(result) if hasattr(result, "target") else prompt_text(result),
        "labels": [visible(token) for token in result.tokens],
        "running": [running(token) for token in result.tokens],
        "command": command,
    }
    if isinstance(result, Attribution):
        return _attribution_view(prompt, result, shared).model_dump()
    if isinstance(result, HeadInspection):
        lines = head_lines(result)
        return HeadsView(
            **shared,
            reading=heads_reading(result),
            caution=heads_caution(),
            oddities=heads_oddities(result),
            unit=unit_of_change(result),
            agreement=agreement(result),
            kinds={line.name: line.kind for line in lines if line.kind},
        ).model_dump()
    if isinstance(result, AttributionMatrix):
        return MatrixView(
            **shared,
            reading=reading(result),
            caution=NOT_TO_READ,
            oddities=matrix_oddities(result),
            rows=[row_name(line) for line in prediction_lines(result)],
        ).model_dump()
    return View(
        **shared, reading=modes_reading(), caution=modes_caution(result), oddities=modes_oddities(result)
    ).model_dump()


def _attribution_view(prompt: Prompt, result: Attribution, shared: dict[str, Any]) -> AttributionView:
    target = None if result.target is None else result.target.token_id
    later = range(len(result.tokens), len(prompt.tokens))
    return AttributionView(
        **shared,
        reading=reading(result),
        caution=NOT_TO_READ,
        oddities=oddities(result),
        layer_labels=short_names(result.layer_names),
        later=[LaterToken(index=index, label=running(prompt.tokens[index])) for index in later],
        likely=[
            LikelyToken(**asdict(token), label=visible(token.token), target=token.token_id == target)
            for token in likely(result)
        ],
    )
