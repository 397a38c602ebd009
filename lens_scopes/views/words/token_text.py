"""How a token is written in a view: nothing invisible, nothing that acts on the page or the terminal."""

from __future__ import annotations

import unicodedata

_BIDI_CONTROLS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable_token(token: str) -> str:
    """The token for a table or an axis: leading and trailing spaces as ␣, line breaks as ↵, tabs as ⇥.

    Control characters, characters that reorder text, and tokens with nothing to see are written as code
    points such as ⟨U+200B⟩. A combining mark gets a dotted circle to sit on. The empty token is ∅.

    >>> printable_token(" Sofa"), printable_token("a b"), printable_token(chr(10) * 2), printable_token(chr(0x202E))
    ('␣Sofa', 'a b', '↵↵', '⟨U+202E⟩')
    """
    body = token.strip(" ")
    if not body:
        return "␣" * len(token) or "∅"
    start = token.index(body)
    base = "◌" if unicodedata.category(body[0]).startswith("M") and not _is_unseen(body[0]) else ""
    return "␣" * start + base + _spell_token(body) + "␣" * (len(token) - start - len(body))


def inline_token(token: str) -> str:
    """The token for running text: spaces as they are, a line break as ↵ followed by the break.

    >>> inline_token(" Sofa"), inline_token(chr(10))
    (' Sofa', '↵\\n')
    """
    if not token:
        return "∅"
    return token if token.isspace() and set(token) == {" "} else _spell_token(token, line_break="↵\n")


def _spell_token(text: str, line_break: str = "↵") -> str:
    if all(_is_unseen(character) for character in text):
        return "".join(_code_point(c) if _is_unseen(c) else c for c in text)
    return "".join(_spell(character, line_break) for character in text)


def _spell(character: str, line_break: str) -> str:
    if character == "\n":
        return line_break
    if character == "\t":
        return "⇥"
    if character in _BIDI_CONTROLS or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
        return _code_point(character)
    return character


def _is_unseen(character: str) -> bool:
    """Format characters, variation selectors and spaces other than U+0020: they draw nothing of their own."""
    if "\ufe00" <= character <= "\ufe0f":
        return True
    return unicodedata.category(character) in ("Cf", "Cs", "Zs", "Zl", "Zp") and character != " "


def _code_point(character: str) -> str:
    return f"⟨U+{ord(character):04X}⟩"
