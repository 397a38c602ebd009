"""Labelled prompts, from a JSONL file or from Python: the span of each, and whether the answer leaks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from lens_scopes.errors import VALIDATED, EvaluationError, FileError, near_names, whole_number
from lens_scopes.evaluation.passages.read import numbered_lines, parse_line, read_utf8
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.prompts.read import PromptLike
from lens_scopes.prompts.spans import Chars, SpanLike
from lens_scopes.prompts.tokens import quote
from lens_scopes.results.storage.writing import file_path

CasesLike: TypeAlias = Annotated["str | Path | Sequence[Mapping[str, Any]] | LabelledPrompts", VALIDATED]

_FIELDS = ("prompt", "chat", "span", "characters", "leaks", "generate", "group")
_SUFFIXES = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class LabelledPrompt:
    """One case.

    Attributes:
        place: where it stands, for messages: "line 3" or "case 2".
        prompt: text, chat messages, token ids or a Prompt.
        span: the part of it that may leak.
        leaks: whether the model's answer tells the span.
        generate: tokens of the answer over which flow is summed; None for the number of all cases.
        group: cases of one group are alike, and are held out together; None for the text of the span.
    """

    place: str
    prompt: PromptLike
    span: SpanLike
    leaks: bool
    generate: int | None = None
    group: str | None = None


@dataclass(frozen=True)
class LabelledPrompts:
    """All cases, leaks and others among them.

    Attributes:
        name: of their file, or "given".
        items: the cases in order.
    """

    name: str
    items: tuple[LabelledPrompt, ...]


def read_cases(source: CasesLike) -> LabelledPrompts:
    """The labelled prompts of a file of one JSON object per line, or of a list of mappings with the same fields.

    Args:
        source: the file (`.jsonl` or `.ndjson`), or the mappings. The fields of each:

            - prompt, a text, or chat, a list of messages. In Python a prompt may be all that `read_prompt` takes.
            - span, a part of the text that occurs once, or [start, stop] in tokens; or characters, [start, stop].
            - leaks: true or false.
            - generate, optional: how many tokens the model generates.
            - group, optional: what cases that are alike have in common. By default the text of the span.

            Other fields are left alone, unless their names are nearly one of these.

    Raises:
        FileError: for a file that cannot be read or is of another kind, with the number of the line.
        EvaluationError: for a case with a field that is missing, unknown or of another form.
    """
    if isinstance(source, LabelledPrompts):
        return source
    if isinstance(source, (str, Path)):
        path = file_path(source)
        if path.suffix.lower() not in _SUFFIXES:
            raise FileError(
                f"labelled prompts are a file of one JSON object per line, {' or '.join(_SUFFIXES)}; got {path}."
            )
        lines = numbered_lines(read_utf8(path))
        rows = [(f"{path} line {number}", parse_line(line, f"{path} line {number}")) for number, line in lines]
        name = path.name
    elif isinstance(source, Sequence):
        rows, name = [(f"case {index}", item) for index, item in enumerate(source)], "given"
    else:
        raise EvaluationError(f"labelled prompts are a file or a list of mappings; got {type(source).__name__}.")
    cases = tuple(_case(place, row, from_python=name == "given") for place, row in rows)
    _check_both_kinds(cases)
    return LabelledPrompts(name, cases)


def _check_both_kinds(cases: Sequence[LabelledPrompt]) -> None:
    if not cases:
        raise EvaluationError('there are no labelled prompts; give lines of {"prompt": …, "span": …, "leaks": true}.')
    n_leaks = sum(case.leaks for case in cases)
    if n_leaks in (0, len(cases)):
        finding = f"all {len(cases)} cases leak" if n_leaks else f"none of {len(cases)} cases leaks"
        cure = f'add some with "leaks": {"false" if n_leaks else "true"}'
        raise EvaluationError(f"{finding}, and a threshold needs both kinds; {cure}.")


def _case(place: str, row: Any, *, from_python: bool) -> LabelledPrompt:
    if not isinstance(row, Mapping):
        raise EvaluationError(f"{place} is {quote(row)}; expected an object with prompt, span and leaks.")
    for name in row:
        if name not in _FIELDS and (near := near_names(name, _FIELDS, cutoff=0.8)):
            raise EvaluationError(f"{place} has a field {quote(name)}; did you mean {near[0]!r}?")
    prompt = row[_name_of(place, row, "prompt", "chat")]
    if not (from_python or isinstance(prompt, str if "prompt" in row else list)):
        form = "a text" if "prompt" in row else "a list of messages"
        raise EvaluationError(f"{place} has {quote(prompt)} as its prompt; expected {form}.")
    span = _span(place, row, from_python=from_python)
    leaks = row.get("leaks")
    if not isinstance(leaks, bool):
        problem = f"has {quote(leaks)} as leaks" if "leaks" in row else "has no field 'leaks'"
        raise EvaluationError(f"{place} {problem}; expected true or false: whether the model's answer tells the span.")
    generate, group = row.get("generate"), row.get("group")
    if generate is not None:
        generate = whole_number(generate, f"{place}: the number of tokens to generate", EvaluationError)
    if not isinstance(group, str | None):
        raise EvaluationError(f"{place} has {quote(group)} as its group; expected a text.")
    return LabelledPrompt(place, prompt, span, leaks, generate, group)


def _span(place: str, row: Mapping[str, Any], *, from_python: bool) -> SpanLike:
    name = _name_of(place, row, "span", "characters")
    value = row[name]
    if name == "span" and (from_python or (isinstance(value, str) and value)):
        return tuple(value) if isinstance(value, list) else value
    pair = value if isinstance(value, list | tuple) and len(value) == 2 else ()
    if not pair or not all(isinstance(end, int) and not isinstance(end, bool) for end in pair):
        form = "a part of the prompt's text, or [start, stop] in tokens" if name == "span" else "[start, stop]"
        raise EvaluationError(f"{place} has {quote(value)} as its {name}; expected {form}.")
    start, stop = pair
    return Chars(start, stop) if name == "characters" else (start, stop)


def _name_of(place: str, row: Mapping[str, Any], first: str, second: str) -> str:
    present = [name for name in (first, second) if row.get(name) is not None]
    if len(present) != 1:
        problem = f"both {first!r} and {second!r}" if present else f"neither {first!r} nor {second!r}"
        raise EvaluationError(f"{place} has {problem}; give one of them.")
    return present[0]


def group_of(case: LabelledPrompt, prompt: Prompt, span: tuple[int, int]) -> str:
    """What a case is held out with: its own group, or the text of its span."""
    if case.group is not None:
        return case.group
    start, stop = span
    if prompt.text is None or prompt.offsets is None:
        return "".join(prompt.tokens[start:stop])
    return prompt.text[prompt.offsets[start][0] : prompt.offsets[stop - 1][1]].strip()
