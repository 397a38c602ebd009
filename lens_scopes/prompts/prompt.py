"""Text, chat messages or token ids → Prompt: ids, the string of each token, character offsets, named spans.

The beginning-of-sequence token (BOS) is there exactly once: it is prepended when the tokenizer has one, the
model wants it (`cfg.default_prepend_bos`), and the text does not already begin with it. Token ids are taken
as they are.
"""

from __future__ import annotations

import itertools
import operator
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from lens_scopes.errors import PromptError

if TYPE_CHECKING:
    PromptLike: TypeAlias = "str | Sequence[Mapping[str, str]] | Sequence[int] | Tensor | Prompt"
    SpanLike: TypeAlias = "str | Chars | tuple[int, int] | range"
    Grouping: TypeAlias = "Literal['word', 'line'] | Mapping[str, tuple[int, int]]"
    Index: TypeAlias = int
    TokenLike: TypeAlias = "str | int"
else:  # a wrong type is answered with a PromptError that says what to do, also under a run-time type checker
    PromptLike = SpanLike = Grouping = Index = TokenLike = Any

_OTHER = "(other)"
_PLACEHOLDER = "\ue000{}\ue001"  # private-use characters: no template holds them
_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@runtime_checkable
class TokenModel(Protocol):
    """What is read of a model here: its tokenizer (None: only ids are accepted) and its configuration."""

    tokenizer: Any
    cfg: Any


@dataclass(frozen=True)
class Prompt:
    """What the model reads, token by token; every sequence is aligned with `token_ids`.

    Attributes:
        text: the text read; for a chat, the one its template renders; None for a prompt given as ids.
        token_ids: the ids, BOS included.
        tokens: the string of each token, leading space included (`" Paris"`), special tokens as `"<bos>"`.
            Joined, the strings after an added BOS give the text back, except where tokens hold fragments of a
            character (a fragment reads as its bytes, `"\\\\xf0\\\\x9f"`) or stand for an unknown word, and where
            the tokenizer writes a space of its own or drops the text's last ones.
        offsets: `[start, stop)` of each token in `text`, in characters; `(0, 0)` for a BOS that was added.
            None where the tokenizer gives none, or the prompt was given as ids.
        special: whether the token is BOS or another control token. An unknown-word token is none: it stands
            for text.
        source: what the prompt was given as: `"text"`, `"chat"` or `"ids"`.
        spans: name → `[start, stop)` in tokens. Chat messages are named by role (`"system"`, `"user 1"`, …).
    """

    text: str | None
    token_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    offsets: tuple[tuple[int, int], ...] | None
    special: tuple[bool, ...]
    source: Literal["text", "chat", "ids"]
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        for name in ("tokens", "special", "offsets"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.token_ids):
                raise PromptError(
                    f"a Prompt holds {len(self.token_ids)} token ids but {len(values)} entries of {name}; "
                    "build it with read_prompt"
                )

    def __len__(self) -> int:
        """The number of tokens."""
        return len(self.token_ids)


@dataclass(frozen=True)
class Chars:
    """A part of a prompt in characters of its text, `[start, stop)`: `spans={"name": Chars(4, 9)}`.

    A pair of integers is a range of tokens everywhere; characters are named.
    """

    start: int
    stop: int


@dataclass(frozen=True)
class Group:
    """A run of tokens whose scores are summed: tokens `start` to `stop`, `stop` left out, under one label."""

    label: str
    start: int
    stop: int


def read_prompt(model: TokenModel, prompt: PromptLike, *, spans: Mapping[str, SpanLike] | None = None) -> Prompt:
    """Tokenise a prompt for `model`.

    `prompt` is one of

    - a text. BOS is prepended once; what else a tokenizer adds by itself (a final EOS) is not.
    - a chat: a list of `{"role": …, "content": …}`, rendered by the tokenizer's own template up to where the
      model is to answer. A last message by the assistant is left open, to be continued.
    - token ids: integers, or an integer tensor `[pos]` or `[1, pos]`. Nothing is added.
    - a Prompt, which is checked against the model and returned.

    `spans` names parts of the prompt: name → the part's text, which must occur exactly once, `Chars(start, stop)` in
    characters, or `(start, stop)` (or `range(start, stop)`) in tokens. White space at a token's edge does not count
    as cut: the span `"dog"` takes the token `" dog"`. Spans may overlap.

    Raises:
        PromptError: for an empty prompt, one beyond the context window, text that is not valid Unicode, ids
            outside the vocabulary, malformed messages, a chat without a template, and a span that is missing,
            ambiguous or cuts a token.
    """
    if isinstance(prompt, Prompt):
        result = prompt
    elif isinstance(prompt, str):
        result = _read_text(model, prompt, source="text")
    elif _is_chat(prompt):
        result = _read_chat(model, prompt)
    else:
        result = _read_ids(model, prompt)
    _check_fits(model, result)
    if spans:
        result = replace(result, spans={**result.spans, **_resolve_spans(result, spans)})
    return result


def extended(model: TokenModel, prompt: Prompt, token_ids: Sequence[int]) -> Prompt:
    """The prompt with tokens added at its end, such as those a model generated.

    Raises:
        PromptError: when the result is beyond the context window.
    """
    added = [token_string(model, token_id) for token_id in token_ids]
    special_ids = frozenset() if model.tokenizer is None else _special_ids(model.tokenizer)
    result = replace(
        prompt,
        text=None if prompt.text is None else prompt.text + "".join(added),
        token_ids=(*prompt.token_ids, *token_ids),
        tokens=(*prompt.tokens, *added),
        offsets=None if prompt.offsets is None else (*prompt.offsets, *_consecutive(len(prompt.text or ""), added)),
        special=(*prompt.special, *(token_id in special_ids for token_id in token_ids)),
    )
    _check_fits(model, result)
    return result


def _consecutive(start: int, strings: Sequence[str]) -> list[tuple[int, int]]:
    stops = list(itertools.accumulate(map(len, strings), initial=start))
    return list(itertools.pairwise(stops))


def token_string(model: TokenModel, token_id: int) -> str:
    """The string of one token of the vocabulary, as shown to readers.

    A leading space is kept (`" Paris"`), a special token is its literal (`"<bos>"`), and bytes that are no
    whole character are escaped (`"\\\\xf0\\\\x9f"`). Without a tokenizer, or for an id it lacks: `"#12"`.
    """
    return f"#{token_id}" if model.tokenizer is None else _vocabulary_string(model.tokenizer, token_id)


def resolve_position(prompt: Prompt, position: Index) -> int:
    """The index, from 0, of a position in the prompt; negative positions count from the end.

    Raises:
        PromptError: when it is out of range or no integer.
    """
    index = _integer(position)
    n_pos = len(prompt)
    if index is None:
        raise PromptError(f"a position is an integer, got {position!r}; give {-n_pos} to {n_pos - 1}")
    if not -n_pos <= index < n_pos:
        raise PromptError(f"position {index} is outside the prompt of {n_pos} tokens; give {-n_pos} to {n_pos - 1}")
    return index % n_pos


def next_token_id(prompt: Prompt, position: Index) -> int | None:
    """The id of the token that follows `position` in the prompt, None at its end.

    Raises:
        PromptError: as `resolve_position`.
    """
    following = resolve_position(prompt, position) + 1
    return prompt.token_ids[following] if following < len(prompt) else None


def resolve_token(model: TokenModel, token: TokenLike) -> int:
    """The id of a token given as its exact string (`" Paris"`, with its leading space) or as an id.

    Raises:
        PromptError: for a string that is not exactly one token, showing its pieces and, where adding or
            dropping the leading space makes it one, that string; and for an id outside the output vocabulary.
    """
    if isinstance(token, str):
        if model.tokenizer is None:
            raise PromptError(f"the model has no tokenizer to read {_quote(token)} with; give the token's id")
        token_id = _string_to_id(model, token)
    else:
        token_id = _integer(token)
        if token_id is None:
            raise PromptError(f"a token is a string or an integer id, got {_quote(token)}")
    d_vocab = _size(model, "d_vocab_out") or _size(model, "d_vocab")
    if not _in_vocabulary(token_id, d_vocab):
        raise PromptError(f"token id {token_id} is outside the model's vocabulary; give {_id_range(d_vocab)}")
    return token_id


def group_tokens(
    tokens: Sequence[str],
    special: Sequence[bool],
    by: Grouping,
    *,
    text: str | None = None,
    offsets: Sequence[tuple[int, int]] | None = None,
) -> list[Group]:
    """Group consecutive tokens, to sum their scores.

    - `by="word"`: a word begins at a token that starts with white space, or that follows one which ends with
      it. Spaces before a word belong to it; tokens of line breaks are a group of their own. Scripts that
      write no spaces stay one run.
    - `by="line"`: a line ends with the token that holds its line break.
    - `by=` a mapping of name → `(start, stop)` in tokens, as in `Prompt.spans`: one group a name, and
      `"(other)"` for each run of tokens under no name. Named spans that overlap each count the tokens they
      share.

    A special token is a group of its own unless a named span holds it. Groups come in the order of the text;
    those of words and lines cover every token exactly once. The label of a word or line is its text without
    the white space around it; `text` and `offsets` (of the Prompt) make it right where tokens are fragments
    of characters.

    Raises:
        PromptError: for another `by`, and for a span outside the tokens.
    """
    if len(tokens) != len(special):
        raise PromptError(f"got {len(tokens)} tokens but {len(special)} entries of special; give one for each")
    if isinstance(by, Mapping):
        return _group_by_span(tokens, special, by)
    if by not in ("word", "line"):
        raise PromptError(f"cannot group by {_quote(by)}; give 'word', 'line' or name → (start, stop)")
    begins = _begins_word if by == "word" else _begins_line
    edges = [i for i in range(len(tokens)) if _is_boundary(special, i) or begins(tokens[i - 1], tokens[i])]
    groups = []
    for start, stop in itertools.pairwise([*edges, len(tokens)]):
        covered = "".join(tokens[start:stop])
        if text is not None and offsets is not None and not special[start]:
            covered = text[offsets[start][0] : offsets[stop - 1][1]]
        groups.append(Group(covered.strip() or repr(covered), start, stop))
    return groups


def _read_text(model: TokenModel, text: str, *, source: Literal["text", "chat"]) -> Prompt:
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise PromptError("the model has no tokenizer to read text with; give the prompt as token ids")
    if not text:
        raise PromptError("the prompt is empty; give at least one token of text")
    ids, offsets = _tokenize(tokenizer, text)
    if not ids:
        raise PromptError(f"the prompt {_quote(text)} holds no token for this tokenizer; give some text")
    special_ids = _special_ids(tokenizer)
    strings = {i: _vocabulary_string(tokenizer, i) for i in set(ids)}
    tokens = [strings[i] for i in ids]
    if offsets is not None:
        offsets = _with_leading_space(text, tokens, offsets)
        unknown = getattr(tokenizer, "unk_token_id", None)
        tokens = _text_strings(text, ids, tokens, offsets, special_ids, unknown)
    bos = _bos_to_prepend(model, ids)
    if bos is not None:
        ids, tokens = [bos, *ids], [_vocabulary_string(tokenizer, bos), *tokens]
        offsets = None if offsets is None else [(0, 0), *offsets]
    return Prompt(
        text=text,
        token_ids=tuple(ids),
        tokens=tuple(tokens),
        offsets=None if offsets is None else tuple(offsets),
        special=tuple(i in special_ids for i in ids),
        source=source,
    )


def _read_ids(model: TokenModel, prompt: Any) -> Prompt:
    if hasattr(prompt, "shape"):
        shape = tuple(prompt.shape)
        if len(shape) == 2 and shape[0] == 1:
            prompt = prompt[0]
        elif len(shape) != 1:
            raise PromptError(f"token ids have the shape [pos] or [1, pos], got {list(shape)}; give one prompt")
        prompt = prompt.tolist()
    if not isinstance(prompt, Sequence) or isinstance(prompt, (bytes, bytearray)):
        kind = type(prompt).__name__
        raise PromptError(f"a prompt is a text, a list of messages or token ids, got {kind} {_quote(prompt)}")
    d_vocab = _size(model, "d_vocab")
    ids: list[int] = []
    for index, value in enumerate(prompt):
        if isinstance(value, str):
            raise PromptError(f"item {index} of the prompt is the string {_quote(value)}; give one text, or ids")
        token_id = _integer(value)
        if token_id is None:
            raise PromptError(
                f"item {index} of the prompt is {_quote(value)}, no token id; give integers from {_id_range(d_vocab)}"
            )
        if not _in_vocabulary(token_id, d_vocab):
            raise PromptError(
                f"item {index} of the prompt is the token id {token_id}, outside the model's vocabulary; "
                f"give {_id_range(d_vocab)}"
            )
        ids.append(token_id)
    special_ids = frozenset() if model.tokenizer is None else _special_ids(model.tokenizer)
    strings = {i: token_string(model, i) for i in set(ids)}
    return Prompt(
        text=None,
        token_ids=tuple(ids),
        tokens=tuple(strings[i] for i in ids),
        offsets=None,
        special=tuple(i in special_ids for i in ids),
        source="ids",
    )


def _check_fits(model: TokenModel, prompt: Prompt) -> None:
    if not prompt.token_ids:
        raise PromptError("the prompt is empty; give at least one token")
    d_vocab, n_ctx = _size(model, "d_vocab"), _size(model, "n_ctx")
    for index, token_id in enumerate(prompt.token_ids):
        if not _in_vocabulary(token_id, d_vocab):
            raise PromptError(
                f"token {index} of the prompt, {_quote(prompt.tokens[index])}, has the id {token_id}, "
                f"outside the model's vocabulary ({_id_range(d_vocab)}); use the model's own tokenizer"
            )
    if n_ctx is not None and len(prompt) > n_ctx:
        raise PromptError(
            f"the prompt has {len(prompt)} tokens, but the model's context window holds {n_ctx}; shorten it"
        )


def _tokenize(tokenizer: Any, text: str) -> tuple[list[int], list[tuple[int, int]] | None]:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(
            f"character {error.start} of {_quote(text)} is a lone surrogate, no valid Unicode; decode the text as UTF-8"
        ) from None
    # verbose=False: the tokenizer's own length warning would come before the error about the context window
    encoding = tokenizer(
        text,
        add_special_tokens=False,
        truncation=False,
        padding=False,
        verbose=False,
        **({"return_offsets_mapping": True} if getattr(tokenizer, "is_fast", False) else {}),
    )
    ids = [int(i) for i in encoding["input_ids"]]
    if "offset_mapping" not in encoding:
        return ids, None
    return ids, encoding["offset_mapping"]


def _with_leading_space(text: str, strings: Sequence[str], offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Offsets in which white space that no token covers belongs to the token after it.

    Some tokenizers trim the space off a token's offsets, and others have it in no token; words would then run
    together. A token whose string begins with space takes what the string holds, any other all that is left.
    """
    extended: list[tuple[int, int]] = []
    covered = 0
    for string, (start, stop) in zip(strings, offsets, strict=True):
        if string[:1].isspace() and text.startswith(string, covered) and covered + len(string) >= stop:
            start, stop = covered, covered + len(string)
        elif text[covered:start].isspace():
            start = covered
        extended.append((start, stop))
        covered = max(covered, stop)
    return extended


def _bos_to_prepend(model: TokenModel, ids: list[int]) -> int | None:
    tokenizer = model.tokenizer
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is None or not getattr(model.cfg, "default_prepend_bos", True) or ids[0] == bos:
        return None
    # a BOS string that the vocabulary lacks is mapped to the unknown token
    return bos if tokenizer.convert_ids_to_tokens(bos) == str(tokenizer.bos_token) else None


def _is_chat(prompt: Any) -> bool:
    return (
        isinstance(prompt, Sequence)
        and not isinstance(prompt, (bytes, bytearray))
        and any(isinstance(message, Mapping) for message in prompt)
    )


def _read_chat(model: TokenModel, messages: Any) -> Prompt:
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise PromptError(f"message {index} of the chat is {_quote(message)}; give its role and content")
        for key in ("role", "content"):
            value = message.get(key)
            if not isinstance(value, str) or (key == "role" and not value):
                raise PromptError(f"message {index} of the chat needs a string as {key!r}, got {_quote(value)}")
    if not getattr(model.tokenizer, "chat_template", None):
        raise PromptError("the model's tokenizer has no chat template; give the prompt as text")
    if not any(message["content"] for message in messages):
        raise PromptError("the chat is empty; give at least one message with content")
    text = _render(model.tokenizer, messages)
    prompt = _read_text(model, text, source="chat")
    if prompt.offsets is None:
        return prompt
    found = _message_ranges(model.tokenizer, messages, text)
    total = Counter(message["role"] for message in messages)
    seen: Counter[str] = Counter()
    spans: dict[str, tuple[int, int]] = {}
    for index, message in enumerate(messages):
        role = message["role"]
        seen[role] += 1
        tokens = _tokens_within(prompt, *found[index]) if index in found else None
        if tokens is not None:
            spans[role if role == "system" and total[role] == 1 else f"{role} {seen[role]}"] = tokens
    return replace(prompt, spans=spans)


def _render(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> str:
    from jinja2 import TemplateError

    continues = messages[-1]["role"] == "assistant"
    try:
        return tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=not continues,
            continue_final_message=continues,
        )
    except (TemplateError, ImportError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise PromptError(f"the chat template refuses the messages ({reason}); change them, or give text") from error


def _message_ranges(tokenizer: Any, messages: Sequence[Mapping[str, str]], text: str) -> dict[int, tuple[int, int]]:
    """Where each message's content stands in the rendered text.

    The template is rendered with placeholders for the contents: searching for a content such as "user" would
    find the template's own words. Empty where the template does more to contents than place and strip them.
    """
    placeholders = [{**message, "content": _PLACEHOLDER.format(i)} for i, message in enumerate(messages)]
    try:
        frame = _render(tokenizer, placeholders)
    except PromptError:
        return {}
    before, *parts = re.split(_PLACEHOLDER.format(r"(\d+)"), frame)
    if not text.startswith(before):
        return {}
    ranges: dict[int, tuple[int, int]] = {}
    start = len(before)
    for index, after in zip(map(int, parts[::2]), parts[1::2], strict=True):
        content = messages[index]["content"]
        forms = (content, content.rstrip(), content.lstrip(), content.strip())
        stop = next((start + len(f) for f in forms if text.startswith(f + after, start)), None)
        if stop is None:
            return {}
        ranges.setdefault(index, (start, stop))
        start = stop + len(after)
    return ranges if start == len(text) else {}


def _text_strings(
    text: str,
    ids: Sequence[int],
    strings: Sequence[str],
    offsets: Sequence[tuple[int, int]],
    special_ids: frozenset[int],
    unknown: int | None,
) -> list[str]:
    """What each token covers of the text, or its own string where it is special or shares a character."""
    result: list[str] = []
    for index, (start, stop) in enumerate(offsets):
        piece = text[start:stop]
        shared = (index > 0 and offsets[index - 1][1] > start) or (
            index + 1 < len(offsets) and offsets[index + 1][0] < stop
        )
        if ids[index] in special_ids or not piece or shared:
            result.append(strings[index])
        elif ids[index] == unknown:  # the model reads no more than that a word stood here
            result.append(piece[: len(piece) - len(piece.lstrip())] + strings[index])
        else:
            result.append(piece)
    return result


def _vocabulary_string(tokenizer: Any, token_id: int) -> str:
    piece = tokenizer.convert_ids_to_tokens(token_id)
    if piece is None:
        return f"#{token_id}"
    string = tokenizer.decode([token_id], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if "\ufffd" in string:
        fragment = _piece_bytes(piece)
        return string if fragment is None else fragment.decode("utf-8", errors="backslashreplace")
    if "▁" in piece and "▁" not in string:  # SentencePiece decoders drop the space of a first piece
        return piece.replace("▁", " ")
    return string or piece


def _piece_bytes(piece: str) -> bytes | None:
    """The bytes of a byte-fallback piece (`<0xF0>`) or of a byte-level one (`ðŁ`), None for any other."""
    if match := _BYTE_PIECE.fullmatch(piece):
        return bytes.fromhex(match[1])
    try:
        return bytes(_BYTE_OF_LETTER[letter] for letter in piece)
    except KeyError:
        return None


def _byte_letters() -> dict[str, int]:
    # GPT-2's alphabet: printable Latin-1 bytes are their own letters, the rest follow from U+0100 on
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_OF_LETTER = _byte_letters()


def _special_ids(tokenizer: Any) -> frozenset[int]:
    added = getattr(tokenizer, "added_tokens_decoder", {})
    ids = {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}
    names = ("bos", "eos", "pad", "sep", "cls", "mask")
    control = {getattr(tokenizer, f"{name}_token_id", None) for name in names}
    unknown = getattr(tokenizer, "unk_token_id", None)
    return frozenset(ids if unknown in control else ids - {unknown})


def _string_to_id(model: TokenModel, token: str) -> int:
    if not token:
        raise PromptError("a token is given as its string or its id, got an empty string")
    tokenizer = model.tokenizer
    ids, _ = _tokenize(tokenizer, token)
    found = _single_token(tokenizer, token, ids)
    if found is not None:
        return found
    if not ids or ids == [getattr(tokenizer, "unk_token_id", None)]:
        raise PromptError(f"{_quote(token)} is not in the tokenizer's vocabulary; give one of its tokens, or an id")
    pieces = ", ".join(f"{token_string(model, i)!r} #{i}" for i in ids[:8]) + (", …" if len(ids) > 8 else "")
    other = token[1:] if token.startswith(" ") else f" {token}"
    near = _single_token(tokenizer, other, _tokenize(tokenizer, other)[0]) if other else None
    cure = f"did you mean {other!r} (#{near})?" if near is not None else "give one of them, or an id"
    raise PromptError(f"{_quote(token)} is {len(ids)} tokens ({pieces}), but exactly one is needed; {cure}")


def _single_token(tokenizer: Any, token: str, ids: list[int]) -> int | None:
    """The one token that reads `token`; a piece of exactly that string before one that only encodes it."""
    if len(ids) == 1 and _vocabulary_string(tokenizer, ids[0]) == token:
        return ids[0]
    for piece in (token.replace(" ", "▁"), token):
        token_id = tokenizer.convert_tokens_to_ids(piece)
        if token_id is None or tokenizer.convert_ids_to_tokens(token_id) != piece:
            continue
        if _vocabulary_string(tokenizer, token_id) == token:
            return token_id
    unknown = getattr(tokenizer, "unk_token_id", None)
    return ids[0] if len(ids) == 1 and ids[0] != unknown else None


def _resolve_spans(prompt: Prompt, spans: Mapping[str, SpanLike]) -> dict[str, tuple[int, int]]:
    resolved: dict[str, tuple[int, int]] = {}
    for name, span in spans.items():
        if not isinstance(name, str) or not name:
            raise PromptError(f"a span's name is a string with a character in it, got {name!r}")
        in_text = isinstance(span, (str, Chars))
        resolved[name] = _span(prompt, name, span) if in_text else _token_range(prompt, name, span)
    return resolved


def _token_range(prompt: Prompt, name: str, span: Any) -> tuple[int, int]:
    if isinstance(span, range) and span.step != 1:
        raise PromptError(f"the span {name!r} is {span} of tokens; give a range without a step")
    start, stop = (span.start, span.stop) if isinstance(span, range) else _pair(name, span)
    _check_tokens(name, start, stop, len(prompt))
    return start, stop


def _check_tokens(name: str, start: int, stop: int, n_pos: int) -> None:
    if not 0 <= start < stop <= n_pos:
        raise PromptError(
            f"the span {name!r} is tokens {start} to {stop}, but must be 0 ≤ start < stop ≤ {n_pos}; characters are "
            "given as Chars(start, stop)"
        )


def _span(prompt: Prompt, name: str, span: str | Chars) -> tuple[int, int]:
    if prompt.text is None:
        raise PromptError(
            f"the span {name!r} is part of a text, but the prompt was given as ids; give (start, stop) in tokens"
        )
    if prompt.offsets is None:
        raise PromptError("spans need character offsets, which a slow tokenizer lacks; use its fast version")
    start, stop = _character_range(prompt.text, name, span)
    cut = _cut_token(prompt, start, stop)
    if cut is not None:
        token_start, token_stop = prompt.offsets[cut]
        raise PromptError(
            f"the span {name!r}, characters {start} to {stop}, cuts token {cut}, {prompt.tokens[cut]!r}, "
            f"which is characters {token_start} to {token_stop}; move the span to a token's edge"
        )
    tokens = _tokens_within(prompt, start, stop)
    if tokens is None:
        raise PromptError(f"the span {name!r}, characters {start} to {stop}, holds no token; widen it")
    return tokens


def _character_range(text: str, name: str, span: Any) -> tuple[int, int]:
    if isinstance(span, str):
        found = [match.start() for match in re.finditer(f"(?={re.escape(span)})", text)] if span else []
        if not found:
            raise PromptError(f"the span {name!r}, {_quote(span)}, is not in the prompt; give a part of its text")
        if len(found) > 1:
            shown = ", ".join(map(str, found[:5])) + (", …" if len(found) > 5 else "")
            raise PromptError(
                f"the span {name!r}, {_quote(span)}, occurs {len(found)} times, at characters {shown}; "
                "give more of the text, or Chars(start, stop)"
            )
        return found[0], found[0] + len(span)
    start, stop = _pair(name, (span.start, span.stop))
    if not 0 <= start < stop <= len(text):
        raise PromptError(
            f"the span {name!r} is characters {start} to {stop}, but must be 0 ≤ start < stop ≤ {len(text)}"
        )
    return start, stop


def _pair(name: str, span: Any) -> tuple[int, int]:
    if isinstance(span, Sequence) and not isinstance(span, (str, bytes)) and len(span) == 2:
        start, stop = map(_integer, span)
        if start is not None and stop is not None:
            return start, stop
    raise PromptError(f"the span {name!r} must be two integers (start, stop) in tokens, got {_quote(span)}")


def _cut_token(prompt: Prompt, start: int, stop: int) -> int | None:
    """The first token that is partly inside [start, stop) and has more than white space outside it."""
    text = prompt.text or ""
    start, stop = _without_space(text, start, stop)
    for index, (token_start, token_stop) in enumerate(prompt.offsets or ()):
        if max(start, token_start) < min(stop, token_stop):
            outside = text[token_start:start] + text[stop:token_stop]
            if outside.strip() or (outside and text[start:stop].isspace()):
                return index
    return None


def _tokens_within(prompt: Prompt, start: int, stop: int) -> tuple[int, int] | None:
    """The range of tokens that hold any character of [start, stop), white space at its ends aside."""
    start, stop = _without_space(prompt.text or "", start, stop)
    held = [i for i, (a, b) in enumerate(prompt.offsets or ()) if max(start, a) < min(stop, b)]
    return (held[0], held[-1] + 1) if held else None


def _without_space(text: str, start: int, stop: int) -> tuple[int, int]:
    part = text[start:stop]
    if part.isspace():
        return start, stop
    return start + len(part) - len(part.lstrip()), stop - len(part) + len(part.rstrip())


def _is_boundary(special: Sequence[bool], index: int) -> bool:
    return index == 0 or bool(special[index]) or bool(special[index - 1])


def _begins_word(before: str, token: str) -> bool:
    if _breaks_line(token) and token.isspace():
        return not (_breaks_line(before) and before.isspace())
    if before.isspace():
        return _breaks_line(before)
    return token[:1].isspace() or before[-1:].isspace()


def _begins_line(before: str, token: str) -> bool:
    return _breaks_line(before) and not (before.endswith("\r") and token.startswith("\n"))


def _breaks_line(token: str) -> bool:
    return "\n" in token or "\r" in token


def _group_by_span(tokens: Sequence[str], special: Sequence[bool], spans: Mapping[str, tuple[int, int]]) -> list[Group]:
    n_pos = len(tokens)
    groups: list[Group] = []
    named = [False] * n_pos
    for name, span in spans.items():
        start, stop = _pair(name, span)
        _check_tokens(name, start, stop, n_pos)
        groups.append(Group(name, start, stop))
        named[start:stop] = [True] * (stop - start)
    start = 0
    for index in range(1, n_pos + 1):
        if index == n_pos or named[index] != named[start] or _is_boundary(special, index):
            if not named[start]:
                label = tokens[start] if special[start] else _OTHER
                groups.append(Group(label, start, index))
            start = index
    return sorted(groups, key=lambda group: (group.start, group.stop))


def _integer(value: Any) -> int | None:
    """The value as an int; None for a bool, a float, or anything else that is no integer."""
    if isinstance(value, Tensor) and value.ndim == 0:
        value = value.item()
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def _size(model: TokenModel, name: str) -> int | None:
    size = getattr(model.cfg, name, None)
    return size if isinstance(size, int) and size > 0 else None


def _in_vocabulary(token_id: int, d_vocab: int | None) -> bool:
    return token_id >= 0 and (d_vocab is None or token_id < d_vocab)


def _id_range(d_vocab: int | None) -> str:
    return "0 or more" if d_vocab is None else f"0 to {d_vocab - 1}"


def _quote(value: Any) -> str:
    quoted = repr(value)
    return quoted if len(quoted) <= 60 else f"{quoted[:57]}…{quoted[-1]}"
