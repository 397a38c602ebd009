"""A self-contained HTML page: sections as plain data, and the scripts that draw them, in one file."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from lens_scopes.views.page.inline import bundle, encode, join_modules, lean
from lens_scopes.views.words.colour import scale_of
from lens_scopes.views.words.numbers import number, short_number
from lens_scopes.views.words.pages.parts.blocks import LABELS, Block, Section, level, plain_scale
from lens_scopes.views.words.token_text import inline_token, printable_token

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:;"
    " base-uri 'none'; form-action 'none'"
)
STYLESHEET = Path(__file__).parent / "page.css"

_DRAWN_BY_CIRCUITSVIS = {"strip", "strips", "attention"}
# Sections that a compact page leaves out; the prediction too, where there is a map of layers.
_IN_FILES = {"tokens", "contract", "scores", "details", "head-strips", "attention", "predictions", "matrix-predictions"}
_DIGITS = 9  # which bring a float32 back as it was
_SHOWN_DIGITS = 4  # of a compact page: as many as it shows


@dataclass(frozen=True)
class Page:
    """A page of sections, in order. Pages are values: `with_section` gives a new one.

    Args:
        title: the title of the window or tab.
        header: blocks above the sections: what was done, the prompt, warnings.
        sections: the parts of the page.
        results: those whose tokens and numbers the sections refer to, by `Section.part`; the header is of the first.
        digits: of those numbers.

    Example:
        >>> page = Page("heads").with_section(Section("heads", "Heads", [{"type": "note", "text": "L3H2"}]))
        >>> [section.key for section in page.sections]
        ['heads']
    """

    title: str
    header: Sequence[Block] = ()
    sections: tuple[Section, ...] = ()
    results: tuple[Any, ...] = ()
    digits: int = _DIGITS

    def with_section(self, section: Section, *, before: str | None = None) -> Page:
        """This page with one more section, at the end or in front of the section whose key is `before`.

        Raises:
            ValueError: no section has the key `before`.
        """
        if before is None:
            return replace(self, sections=(*self.sections, section))
        keys = [present.key for present in self.sections]
        if before not in keys:
            raise ValueError(f"no section {before!r} on this page, which has {', '.join(keys) or 'none'}")
        at = keys.index(before)
        return replace(self, sections=(*self.sections[:at], section, *self.sections[at:]))

    def compact(self) -> Page:
        """What fits beside other output: the warnings, and the sections without the views of CircuitsVis (1.3 MB of
        script), folds, the contract, the settings and the table of all scores, which a file has. Of a section with a
        summary that is all."""
        keys = {section.key for section in self.sections} - _IN_FILES
        keys -= {"prediction"} if "layers" in keys else set()
        # Nothing stands beside the prediction, whose section of tokens is left out.
        sections = [
            replace(section, layout="full", blocks=[_light(block) for block in _brief(section) if not _is_heavy(block)])
            for section in self.sections
            if section.key in keys
        ]
        alerts = [block for block in self.header if block["type"] == "alert"]
        sections = [section for section in sections if section.blocks]
        return replace(self, header=alerts, sections=tuple(sections), digits=_SHOWN_DIGITS)

    def content(self) -> dict[str, Any]:
        """What the scripts draw, ready for JSON: header, sections, and the tokens and numbers of each result.

        Raises:
            ValueError: two sections share a key.
        """
        sections = [asdict(section) for section in self.sections]
        keys = [section["key"] for section in sections]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f"two sections of this page have the key {key!r}")
        parts = [part(result) for result in self.results] or [part(None)]
        for place, result in enumerate(self.results):
            blocks = [section["blocks"] for section in sections if section["part"] == place]
            # Only the numbers that a section refers to travel with the page.
            paths = [block["at"] for block in _mappings(blocks) if "at" in block]
            plain = result.to_dict() if paths else {}
            for path in paths:
                _put(parts[place]["data"], path, _round(_at(plain, path), self.digits))
        return {"header": list(self.header), "sections": _round(sections, self.digits), "parts": parts}

    def to_html(self, *, still: bool = True) -> str:
        """The whole document, with its scripts inside.

        The same page gives the same text. Its content security policy forbids every request.

        Args:
            still: whether it shows its texts and tables without scripts, too, at twice the size.

        Raises:
            ValueError: two sections share a key.
            FileError: the CircuitsVis bundle is missing.
        """
        content = self.content()
        data = encode({**content, "labels": LABELS})
        light = not _needs_circuitsvis([content["header"], content["sections"]])
        document = _template().render(
            page={**content, "title": self.title},
            still=still,
            labels=LABELS,
            policy=CONTENT_SECURITY_POLICY,
            css=lean(STYLESHEET.read_text(encoding="utf-8")),
            scripts=[*([] if light else [bundle()]), join_modules(light=light), f"_page.draw({data});"],
        )
        return document.encode("utf-8", "backslashreplace").decode("utf-8")


def part(result: Any) -> dict[str, Any]:
    """The tokens of a result as the scripts need them; its numbers are added where sections refer to them."""
    tokens = getattr(result, "tokens", [])
    return {
        "labels": [printable_token(token) for token in tokens],
        "running": [inline_token(token) for token in tokens],
        "special": list(getattr(result, "special", [])),
        "position": getattr(result, "position", None),
        "data": {},
    }


def _brief(section: Section) -> Sequence[Block]:
    return [{"type": "note", "text": section.summary}] if section.summary else section.blocks


def _light(block: Block) -> Block:
    """A block without what its cells read as: the strongest cell of each layer stands in a table of its own."""
    return {name: value for name, value in block.items() if name != "readings"}


def _is_heavy(block: Block) -> bool:
    """Whether a compact page goes without a block: what is folded, and what takes the scripts of CircuitsVis."""
    return block["type"] == "fold" or _needs_circuitsvis(block)


def _needs_circuitsvis(blocks: Any) -> bool:
    """Whether anything in blocks, however deep, is drawn by CircuitsVis."""
    return any(block.get("type") in _DRAWN_BY_CIRCUITSVIS for block in _mappings(blocks))


def _mappings(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping in a value, however deep."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _mappings(item)


def _at(plain: Any, path: Sequence[str | int]) -> Any:
    for key in path:
        plain = plain[key]
    return plain


def _put(data: dict[Any, Any], path: Sequence[str | int], value: Any) -> None:
    for key in path[:-1]:
        data = data.setdefault(key, {})
    data[path[-1]] = value


def _round(value: Any, digits: int) -> Any:
    if isinstance(value, dict):
        return {key: _round(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_round(item, digits) for item in value]
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if math.isfinite(value) else None
    return value


def _sums(fold: Mapping[str, Any], part: Mapping[str, Any], values: Sequence[float | None]) -> list[tuple[str, float]]:
    """The segments that a strip is folded into with the sums of their tokens' values, from the strongest."""
    summed = []
    for label, (start, stop) in zip(fold["labels"], fold["spans"], strict=True):
        part_values = values[start:stop]
        if None not in part_values and not all(part["special"][start:stop]):
            summed.append((label, sum(value for value in part_values if value is not None)))
    return sorted(summed, key=lambda item: -abs(item[1]))


@cache
def _template() -> Any:
    """The template of the document; the functions are for its tables without scripts."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )

    def known(values: Sequence[float | None]) -> list[float]:
        return [math.nan if value is None else value for value in values]

    environment.globals |= {
        "number": lambda value: LABELS["broken"] if value is None else number(value),
        "short": lambda value: "nan" if value is None else short_number(value),
        "level": lambda value, special, scale: level(math.nan if value is None else value, special, scale),
        "scale_of": lambda values, special: scale_of(known(values), special) if special else plain_scale(known(values)),
        "sums": _sums,
        "numbers": lambda part, values: _at(part["data"], values["at"]) if isinstance(values, dict) else values,
    }
    return environment.get_template("page.html.j2")
