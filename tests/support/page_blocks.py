"""Readers of the sections of a page, which are plain data: their blocks, tables and texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lens_scopes.views.page.pages import page_of


def section(result: Any, key: str) -> Any:
    """The section of that key on the page of a result."""
    (found,) = [part for part in page_of(result).sections if part.key == key]
    return found


def mappings(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a section, in sections or in blocks, however deep."""
    value = getattr(value, "blocks", value)
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from mappings(item)


def blocks(value: Any, kind: str) -> list[dict[str, Any]]:
    """The blocks of a type."""
    return [block for block in mappings(value) if block.get("type") == kind]


def table(value: Any, caption: str) -> dict[str, Any]:
    """The table or map of that caption."""
    (found,) = [block for block in mappings(value) if block.get("caption") == caption]
    return found


def plain(text: Any) -> str:
    """Text in pieces as it is read."""
    if isinstance(text, dict):
        return "".join(text.values())
    return text if isinstance(text, str) else "".join(plain(piece) for piece in text)


def written(value: Any) -> str:
    """Everything that blocks say, one line per text."""
    names = ("text", "items", "summary", "note", "label", "title", "caption", "values")
    lines = []
    for block in mappings(value):
        for name in names:
            part = block.get(name)
            if isinstance(part, str) or (isinstance(part, list) and all(_is_text(piece) for piece in part)):
                lines.append(plain(part))
    return "\n".join(lines)


def _is_text(piece: Any) -> bool:
    return isinstance(piece, str) or (isinstance(piece, dict) and set(piece) <= {"token", "small", "bold"})
