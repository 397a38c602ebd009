"""Groups of consecutive tokens (words, lines, sentences, paragraphs, chat turns or named spans), for summed scores."""

from __future__ import annotations

import itertools
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from lens_scopes.errors import VALIDATED, PromptError
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.prompts.spans import SpanLike, resolve_spans
from lens_scopes.prompts.tokens import quote

GroupName: TypeAlias = Literal["word", "line", "sentence", "paragraph", "turn"]
Grouping: TypeAlias = Annotated[GroupName | Mapping[str, SpanLike] | Sequence[str], VALIDATED]

GROUPINGS = ("word", "line", "sentence", "paragraph", "turn")
"""The groupings that have a name."""

UNITS = ("token", *GROUPINGS)
"""What can be left out as a whole, by name."""

_OTHER = "(other)"
_MAY_END_SENTENCE = re.compile(r"""[.!?…]+["'”’»)\]]*(?=\s|$)|[。！？]+[”’」』）]*|[\r\n]""")
_MARK_OF_LIST = re.compile(r"\(?(?:[0-9]{1,3}|[A-Za-z]|[ivx]{1,4}|[IVX]{1,4})")
_LAST_WORD = re.compile(r"(?:\w+\.)*\w+$")
_NEVER_LAST = re.compile(
    r"mr|mrs|ms|dr|prof|st|gen|sen|rep|gov|capt|lt|col|sgt|rev|hon|messrs|e\.g|i\.e|cf|vs|viz|ca|approx", re.IGNORECASE
)
_BEFORE_NUMBER = re.compile(r"nos?|figs?|eqs?|secs?|ch|chap|vol|pp?|art", re.IGNORECASE)
_SELDOM_LAST = re.compile(r"etc|al|inc|ltd|co|corp|jr|sr|u\.s|u\.k|a\.m|p\.m|dept|est", re.IGNORECASE)
_FAR = 80  # characters of a text that are looked at on either side of a mark
_ENDS_PARAGRAPH = re.compile(r"(?:\r\n|\r(?!\n)|\n)[^\S\r\n]*[\r\n]")


@dataclass(frozen=True)
class Group:
    """A run of tokens whose scores are summed: tokens `start` to `stop`, `stop` left out, under one label."""

    label: str
    start: int
    stop: int


def group_tokens(prompt: Prompt, by: Grouping, within: SpanLike | None = None) -> list[Group]:
    """Group consecutive tokens, to sum their scores.

    - `by="word"`: a word begins at a token that starts with white space, or that follows one which ends with
      it. Spaces before a word belong to it; tokens of line breaks are a group of their own. Scripts that
      write no spaces stay one run.
    - `by="line"`: a line ends with the token that holds its line break.
    - `by="sentence"`: a sentence ends with `.`, `!`, `?` or `…` and the closing quotes and brackets after it, where
      white space follows; with `。`, `！` or `？`; and with its line. Not after the mark of a list ("1. Milk"), an
      abbreviation ("Dr. Smith", "e.g. milk", "Fig. 3"), the initial of a name ("J. S. Bach"), nor where a lower-case
      letter follows "…" or a closing quote (“Why?” she asked). What is seldom last, such as "etc.", ends it unless a
      lower-case letter follows. These are English habits; other languages' abbreviations end a sentence.
    - `by="paragraph"`: a paragraph ends at a blank line.
    - `by="turn"`: the messages of a chat, by role and number; `"(other)"` for the template's tokens between them.
    - `by=` a sequence of texts, or a mapping of name → text, `Chars(start, stop)` or `(start, stop)` in tokens, as
      in `read_prompt(spans=…)`: one group each, and `"(other)"` for each run of tokens under no name. Named spans
      that overlap each count the tokens they share.

    A token belongs to the sentence or paragraph of its first character that is not white space; tokens of white space
    alone to the one before them. A special token is a group of its own unless a named span holds it. Groups come in
    the order of the text and, but for named spans that overlap, cover every token exactly once. The label of a group
    without a name is its text without the white space around it.

    Args:
        prompt: the prompt.
        by: what a group is.
        within: the part of the prompt whose groups are returned, as `eligible_range` reads it; None for all of it.
            Groups that reach over its edges are cut there.

    Raises:
        PromptError: for another `by`, for a span that is missing, ambiguous or outside the tokens, for sentences and
            paragraphs of a prompt given as ids, and for turns of a prompt that is no chat.
    """
    groups = _group_all(prompt, by)
    if within is None:
        return groups
    first, last = eligible_range(prompt, within)
    return [
        _cut(prompt, group, max(group.start, first), min(group.stop, last))
        for group in groups
        if group.start < last and group.stop > first
    ]


def eligible_range(prompt: Prompt, within: SpanLike) -> tuple[int, int]:
    """The tokens [start, stop) of a part of a prompt: the name of one of its spans or chat turns, else a part of its
    text that occurs once, `Chars(start, stop)`, or (start, stop) in tokens.

    Raises:
        PromptError: for a part that is missing, ambiguous, outside the tokens, or cuts a token.
    """
    if isinstance(within, str):
        named = {**prompt.turns, **prompt.spans}
        if within in named:
            return named[within]
        if prompt.text is not None and within not in prompt.text:
            known = f"; it has {', '.join(map(repr, named))}" if named else ""
            raise PromptError(
                f"within={quote(within)} is neither a span's name nor a part of the prompt's text{known}; give such a "
                "part, or (start, stop) in tokens."
            )
    return resolve_spans(prompt, {"within": within})["within"]


def _cut(prompt: Prompt, group: Group, start: int, stop: int) -> Group:
    """What of a group lies between two tokens; its label is that text, unless it is whole or has a name."""
    text = text_of(prompt, group.start, group.stop)
    if (start, stop) == (group.start, group.stop) or group.label != _label(text):
        return Group(group.label, start, stop)
    return Group(_label(text_of(prompt, start, stop)), start, stop)


def _label(text: str) -> str:
    return text.strip() or repr(text)


def _group_all(prompt: Prompt, by: Grouping) -> list[Group]:
    if isinstance(by, str):
        if by == "turn":
            if not prompt.turns:
                raise PromptError(
                    "there are no turns to group by: give the prompt as chat messages, or group by 'paragraph' or "
                    "name → text."
                )
            return _group_by_span(prompt, prompt.turns)
        if by in GROUPINGS:
            return _runs(prompt, _BEGINS[by](prompt))
    elif isinstance(by, Mapping):
        return _group_by_span(prompt, resolve_spans(prompt, by))
    elif isinstance(by, Sequence) and all(isinstance(text, str) for text in by):
        return _group_by_span(prompt, resolve_spans(prompt, {text.strip() or text: text for text in by}))
    raise PromptError(
        f"cannot group by {quote(by)}; give {', '.join(map(repr, GROUPINGS))}, a list of texts, or name → text or "
        "(start, stop)"
    )


def segments(prompt: Prompt, by: str, within: SpanLike | None = None) -> list[list[int]]:
    """The tokens that can be left out together, by the name of a unit: each group's without its special tokens.

    Args:
        prompt: the prompt.
        by: "token", or the name of a grouping.
        within: the part of the prompt whose tokens can be left out, as `eligible_range` reads it; None for all of it.

    Raises:
        PromptError: as `group_tokens`, and for a prompt, or a part of it, of one segment alone.
    """
    if by == "token":
        first, last = (0, len(prompt)) if within is None else eligible_range(prompt, within)
        return [[index] for index in range(first, last) if not prompt.special[index]]
    groups = [range(group.start, group.stop) for group in group_tokens(prompt, by, within)]
    ordinary = [[index for index in group if not prompt.special[index]] for group in groups]
    ordinary = [segment for segment in ordinary if segment]
    if len(ordinary) < 2:
        finer = {"word": "token", "paragraph": "sentence", "turn": "sentence"}.get(by, "word")
        place = "the prompt" if within is None else f"within={quote(within)}"
        raise PromptError(
            f"leaving out one {by} of several takes at least two of them, and {place} has {len(ordinary)}; give a "
            f"longer {'prompt' if within is None else 'part'}, or choose by={finer!r}."
        )
    return ordinary


def text_of(prompt: Prompt, start: int, stop: int) -> str:
    """The text of a run of tokens, white space included."""
    if prompt.text is None or prompt.offsets is None or prompt.special[start]:
        return "".join(prompt.tokens[start:stop])
    return prompt.text[prompt.offsets[start][0] : prompt.offsets[stop - 1][1]]


def _runs(prompt: Prompt, begins: Callable[[int], bool]) -> list[Group]:
    """Groups that begin where a function of the token's index says so, and at special tokens."""
    edges = [i for i in range(len(prompt)) if _is_boundary(prompt.special, i) or begins(i)]
    groups = []
    for start, stop in itertools.pairwise([*edges, len(prompt)]):
        groups.append(Group(_label(text_of(prompt, start, stop)), start, stop))
    return groups


def _is_boundary(special: Sequence[bool], index: int) -> bool:
    return index == 0 or bool(special[index]) or bool(special[index - 1])


# Where a group begins, as functions of a token's index


def _words(prompt: Prompt) -> Callable[[int], bool]:
    return lambda index: _begins_word(prompt.tokens[index - 1], prompt.tokens[index])


def _begins_word(before: str, token: str) -> bool:
    if _breaks_line(token) and token.isspace():
        return not (_breaks_line(before) and before.isspace())
    if before.isspace():
        return _breaks_line(before)
    return token[:1].isspace() or before[-1:].isspace()


def _lines(prompt: Prompt) -> Callable[[int], bool]:
    return lambda index: _begins_line(prompt.tokens[index - 1], prompt.tokens[index])


def _begins_line(before: str, token: str) -> bool:
    return _breaks_line(before) and not (before.endswith("\r") and token.startswith("\n"))


def _breaks_line(token: str) -> bool:
    return "\n" in token or "\r" in token


def _sentence_ends(text: str) -> Iterator[int]:
    """Where sentences end, as `group_tokens` says."""
    begin, may_list = 0, True  # whether the mark of a list may come: on a new line, or after another one
    listed = False
    for match in _MAY_END_SENTENCE.finditer(text):
        sentence, mark = text[max(begin, match.start() - _FAR) : match.start()].lstrip(), match[0]
        after = text[match.end() : match.end() + _FAR].lstrip()
        if mark == "." and may_list and after and _MARK_OF_LIST.fullmatch(sentence):
            listed = True
        elif not _goes_on(sentence, mark, after):
            begin = match.end()
            listed = listed and mark[0] not in "\r\n"
            may_list = listed or mark[0] in "\r\n"
            yield begin


def _goes_on(sentence: str, mark: str, after: str) -> bool:
    """Whether a sentence, of which the last characters are given, goes on after a mark that may end one."""
    if mark[0] in "\r\n。！？":
        return False
    if mark != ".":  # “Why?” she asked; well… perhaps
        return after[:1].islower() and (mark[0] == "…" or mark[:2] == ".." or mark.strip(".!?…") != "")
    match = _LAST_WORD.search(sentence)
    word = match[0] if match else ""
    if _NEVER_LAST.fullmatch(word):
        return True
    if _BEFORE_NUMBER.fullmatch(word):
        return after[:1].isdigit()
    if _SELDOM_LAST.fullmatch(word):
        return after[:1].islower()
    # The initial of a name, at the sentence's beginning or after a word with a capital.
    before = sentence[: len(sentence) - len(word)].split()[-1:] or [word]
    return len(word) == 1 and word.isupper() and after[:1].isupper() and before[0][:1].isupper()


def _paragraph_ends(text: str) -> Iterator[int]:
    """Where paragraphs end: at blank lines."""
    return (match.end() for match in _ENDS_PARAGRAPH.finditer(text))


def _after(ends: Callable[[str], Iterator[int]], what: str) -> Callable[[Prompt], Callable[[int], bool]]:
    """Groups of which each begins with the text after an end."""

    def begins(prompt: Prompt) -> Callable[[int], bool]:
        if prompt.text is None:
            raise PromptError(
                f"{what}s are found in a prompt's text, and this one was given as ids; give the text, or group by "
                "name → (start, stop) in tokens."
            )
        if prompt.offsets is None:
            raise PromptError(f"{what}s need character offsets, which a slow tokenizer lacks; use its fast version.")
        text, offsets = prompt.text, prompt.offsets
        firsts = (_first_visible(text, end, len(text)) for end in ends(text))
        starts = sorted({start for start in firsts if text[:start].strip() and text[start:].strip()})
        # A token belongs to the last group that begins at or before its first visible character.
        numbers = [bisect_right(starts, _first_visible(text, *pair)) for pair in offsets]
        return lambda index: numbers[index] != numbers[index - 1]

    return begins


def _first_visible(text: str, start: int, stop: int) -> int:
    """Where the first character that is not white space stands; `start` where there is none."""
    part = text[start:stop]
    return start + len(part) - len(part.lstrip()) if part.strip() else start


_BEGINS: dict[str, Callable[[Prompt], Callable[[int], bool]]] = {
    "word": _words,
    "line": _lines,
    "sentence": _after(_sentence_ends, "sentence"),
    "paragraph": _after(_paragraph_ends, "paragraph"),
}


def _group_by_span(prompt: Prompt, spans: Mapping[str, tuple[int, int]]) -> list[Group]:
    n_pos = len(prompt)
    groups: list[Group] = []
    in_span = [False] * n_pos
    for name, (start, stop) in spans.items():
        groups.append(Group(name, start, stop))
        in_span[start:stop] = [True] * (stop - start)
    # Runs of tokens outside of every span are groups too, cut at special tokens.
    start = 0
    for index in range(1, n_pos + 1):
        if index == n_pos or in_span[index] != in_span[start] or _is_boundary(prompt.special, index):
            if not in_span[start]:
                label = prompt.tokens[start] if prompt.special[start] else _OTHER
                groups.append(Group(label, start, index))
            start = index
    return sorted(groups, key=lambda group: (group.start, group.stop))
