"""Pieces that the sections of every page are made of: escaped text, bars, sortable tables, definitions, alerts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

from lens_scopes.views.page.document import Section
from lens_scopes.views.page.heat_table import token_html
from lens_scopes.views.words.attribution import Prompted, number, percent, prompt_text
from lens_scopes.views.words.memory import memory_words
from lens_scopes.views.words.token_text import running

if TYPE_CHECKING:
    from lens_scopes.engine.final_state import PredictedToken
    from lens_scopes.results.attribution import Attribution
    from lens_scopes.results.base import Result
    from lens_scopes.results.heads import HeadInspection


def text(value: object) -> str:
    """Any value as escaped running text."""
    return escape(running(str(value)))


def heading(result: Prompted, kind: str, following: PredictedToken | None) -> str:
    """The top of a page: what was done, the prompt, and the token that follows it, set off.

    Args:
        result: with the prompt.
        kind: what was done, as HTML.
        following: the target or most probable next token; None for none.
    """
    prompt = prompt_text(result)
    shown = escape(prompt if len(prompt) <= 240 else "…" + prompt[-239:])
    chip = ""
    if following is not None:
        word = "target" if getattr(result, "target", None) is not None else "most probable next token"
        chip = (
            f' <span class="chip" title="{word}"><bdi>{token_html(following.token)}</bdi>'
            f"<small>{percent(following.probability)}</small></span>"
        )
    return f'<p class="kind">{kind}</p><h1><bdi>{shown}</bdi>{chip}</h1>'


def about(result: Attribution | HeadInspection) -> str:
    """Objective, model and position of a result about one prediction, as HTML."""
    name = text(result.model.get("name", "a model"))
    place = f"position {result.position} of {len(result.tokens)} tokens"
    return f"<b>{text(result.objective)}</b> · {name} · {place}"


def bar(share: float, *, negative: bool = False) -> str:
    """A bar that fills `share` of its track, from 0 to 1."""
    css = "bar negative" if negative else "bar"
    return f'<span class="track"><span class="{css}" style="width:{100 * share:.2f}%"></span></span>'


def two_sided_bar(share: float) -> str:
    """A bar from the middle of its track, to the right for a positive share and to the left for a negative one.

    Args:
        share: from −1 to 1; no bar where it is not finite.
    """
    width = 50 * min(1.0, abs(share)) if math.isfinite(share) else 0.0
    css, start = ("bar negative", 50 - width) if share < 0 else ("bar", 50.0)
    drawn = f'<span class="{css}" style="margin-left:{start:.2f}%;width:{width:.2f}%"></span>' if width else ""
    return f'<span class="track middle">{drawn}</span>'


def number_cell(html: str, value: int | float | None, css: str = "n") -> str:
    """A cell of a sortable table that shows `html` and sorts by `value`."""
    sortable = "" if value is None or not math.isfinite(value) else repr(value)
    return f'<td class="{css}" data-value="{sortable}">{html}'


def text_cell(html: str, value: str, css: str = "token") -> str:
    """A cell of a sortable table that shows `html` and sorts by the text `value`."""
    return f'<td class="{css}" data-value="{escape(value)}">{html}'


def sortable_table(caption: str, headings: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]]) -> str:
    """A table whose headings are buttons that sort it.

    Args:
        caption: what it shows, as text.
        headings: name and kind of each column; kind is `number`, `text`, or empty for a column without a heading.
        rows: the cells of each row as HTML, from `number_cell` and `text_cell`.
    """
    head = "".join(
        f'<th scope="col" data-kind="{kind}"{" class=n" if kind == "number" else ""}>'
        f'<button type="button">{escape(name)}</button></th>'
        if kind
        else "<td></td>"
        for name, kind in headings
    )
    lines = ["".join(cells) for cells in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return (
        f'<div class="scroll{" large" if len(lines) > 100 else ""}" role="region" tabindex="0"'
        f' aria-label="{escape(caption)}" style="--rows:{len(lines)}"><table class="scores sortable">'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def alert(heading: str, sentences: Sequence[str]) -> str:
    """A box with sentences that a reader must not miss; nothing where there are none."""
    if not sentences:
        return ""
    items = "".join(f"<li>{text(sentence)}</li>" for sentence in sentences)
    return f'<aside class="alert" role="note"><b>{escape(heading)}</b><ul>{items}</ul></aside>'


def contract_section(
    contract: Mapping[str, str],
    key: str = "contract",
    title: str = "Contract",
    settings: Mapping[str, object] | None = None,
) -> Section:
    """The five elements of the attribution contract, and the settings of the result where they are given."""
    html = (
        '<p class="note">What this attribution claims: a score means nothing until these five are named'
        " (the attribution contract, arXiv:2605.23080).</p>"
        f"{definitions(contract)}"
    )
    if settings:
        html += f"<details><summary>Settings</summary>{definitions(flat(settings))}</details>"
    return Section(key, title, html)


def provenance_section(result: Result) -> Section:
    """Model, settings, memory and versions of a result, folded."""
    settings = {**result.settings, "memory": memory_words(result.memory)}
    return details_section(result.model, settings, result.versions)


def details_section(
    model: Mapping[str, object],
    settings: Mapping[str, object],
    versions: Mapping[str, object],
) -> Section:
    """Model, settings and versions, folded."""
    parts = [("Model", model), ("Settings", settings), ("Versions", versions)]
    inner = "".join(f"<h3>{name}</h3>{definitions(flat(mapping))}" for name, mapping in parts if mapping)
    return Section("details", "Model, settings, versions", f"<details><summary>Show</summary>{inner}</details>")


def definitions(mapping: Mapping[str, object]) -> str:
    """Names and values as a definition list."""
    pairs = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in mapping.items())
    return f"<dl>{pairs}</dl>"


def flat(mapping: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested mappings as one, their names joined by dots, values ready to be shown."""
    found: dict[str, object] = {}
    for name, value in mapping.items():
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{name} · ")
        elif isinstance(value, (list, tuple)):
            found[prefix + name] = ", ".join(number(v) if isinstance(v, float) else str(v) for v in value) or "none"
        else:
            found[prefix + name] = number(value) if isinstance(value, float) else "none" if value is None else value
    return found
