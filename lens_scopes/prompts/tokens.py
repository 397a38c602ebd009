"""Tokens: ids, strings, special tokens, and tokenization with character offsets."""

from __future__ import annotations

import operator
import re
from typing import Annotated, Any, Protocol, TypeAlias, runtime_checkable

from lens_scopes.errors import VALIDATED, ModelError, PromptError

TokenLike: TypeAlias = Annotated[str | int, VALIDATED]


_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@runtime_checkable
class TokenModel(Protocol):
    """What is read of a model here: its tokenizer (None: only ids are accepted) and its configuration."""

    tokenizer: Any
    cfg: Any


def check_model(model: object) -> None:
    """Raises ModelError for what has no tokenizer and no configuration, and so is no language model."""
    if not hasattr(model, "cfg") or not hasattr(model, "tokenizer"):
        raise ModelError(f"{type(model).__name__} is no language model; give one that ls.load_model loads.")


def token_string(model: TokenModel, token_id: int) -> str:
    """The string of one token of the vocabulary, as shown to readers.

    A leading space is kept (`" Paris"`), a special token is its literal (`"<bos>"`), and bytes that are no
    whole character are escaped (`"\\\\xf0\\\\x9f"`). Without a tokenizer, or for an id it lacks: `"#12"`.
    """
    return f"#{token_id}" if model.tokenizer is None else vocabulary_string(model.tokenizer, token_id)


def resolve_token(model: TokenModel, token: TokenLike) -> int:
    """The id of a token given as its exact string (`" Paris"`, with its leading space) or as an id.

    Raises:
        PromptError: for a string that is not exactly one token, showing its pieces and, where adding or
            dropping the leading space makes it one, that string; and for an id outside the output vocabulary.
    """
    if isinstance(token, str):
        if model.tokenizer is None:
            raise PromptError(f"the model has no tokenizer to read {quote(token)} with; give the token's id")
        token_id = _string_to_id(model, token)
    else:
        token_id = as_integer(token)
        if token_id is None:
            raise PromptError(f"a token is a string or an integer id, got {quote(token)}")
    d_vocab = size_of(model, "d_vocab_out") or size_of(model, "d_vocab")
    if not in_vocabulary(token_id, d_vocab):
        raise PromptError(f"token id {token_id} is outside the model's vocabulary; give {id_range(d_vocab)}")
    return token_id


def tokenize(tokenizer: Any, text: str) -> tuple[list[int], list[tuple[int, int]] | None]:
    """The ids of a text, without special tokens, and the characters of each where the tokenizer tells them."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise PromptError(
            f"character {error.start} of {quote(text)} is a lone surrogate, no valid Unicode; decode the text as UTF-8"
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


def special_token_ids(tokenizer: Any) -> frozenset[int]:
    """The ids of BOS and other control tokens; an unknown-word token is none, as it stands for text."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    ids = {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}
    names = ("bos", "eos", "pad", "sep", "cls", "mask")
    control = {getattr(tokenizer, f"{name}_token_id", None) for name in names}
    unknown = getattr(tokenizer, "unk_token_id", None)
    return frozenset(ids if unknown in control else ids - {unknown})


def vocabulary_string(tokenizer: Any, token_id: int) -> str:
    """The string of one token, as `token_string` gives it."""
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


def _string_to_id(model: TokenModel, token: str) -> int:
    if not token:
        raise PromptError("a token is given as its string or its id, got an empty string")
    tokenizer = model.tokenizer
    ids, _ = tokenize(tokenizer, token)
    token_id = _single_token(tokenizer, token, ids)
    if token_id is not None:
        return token_id
    if not ids or ids == [getattr(tokenizer, "unk_token_id", None)]:
        raise PromptError(f"{quote(token)} is not in the tokenizer's vocabulary; give one of its tokens, or an id")
    pieces = ", ".join(f"{token_string(model, i)!r} #{i}" for i in ids[:8]) + (", …" if len(ids) > 8 else "")
    other = token[1:] if token.startswith(" ") else f" {token}"
    near = _single_token(tokenizer, other, tokenize(tokenizer, other)[0]) if other else None
    cure = f"did you mean {other!r} (#{near})?" if near is not None else "give one of them, or an id"
    raise PromptError(f"{quote(token)} is {len(ids)} tokens ({pieces}), but exactly one is needed; {cure}")


def _single_token(tokenizer: Any, token: str, ids: list[int]) -> int | None:
    """The one token that reads `token`; a piece of exactly that string before one that only encodes it."""
    if len(ids) == 1 and vocabulary_string(tokenizer, ids[0]) == token:
        return ids[0]
    for piece in (token.replace(" ", "▁"), token):
        token_id = tokenizer.convert_tokens_to_ids(piece)
        if token_id is None or tokenizer.convert_ids_to_tokens(token_id) != piece:
            continue
        if vocabulary_string(tokenizer, token_id) == token:
            return token_id
    unknown = getattr(tokenizer, "unk_token_id", None)
    return ids[0] if len(ids) == 1 and ids[0] != unknown else None


def as_integer(value: Any) -> int | None:
    """The value as an int; None for a bool, a float, or anything else that is no integer."""
    if getattr(value, "ndim", None) == 0:  # a tensor or an array of one number
        value = value.item()
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def size_of(model: TokenModel, name: str) -> int | None:
    """A size in the model's configuration; None where it has none."""
    size = getattr(model.cfg, name, None)
    return size if isinstance(size, int) and size > 0 else None


def in_vocabulary(token_id: int, d_vocab: int | None) -> bool:
    """Whether an id is one of the vocabulary's, as far as its size is known."""
    return token_id >= 0 and (d_vocab is None or token_id < d_vocab)


def id_range(d_vocab: int | None) -> str:
    """The ids of a vocabulary, in words."""
    return "0 or more" if d_vocab is None else f"0 to {d_vocab - 1}"


def quote(value: Any) -> str:
    """A value as it is quoted in messages, cut where it is long."""
    try:
        quoted = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        quoted = type(value).__name__
    return quoted if len(quoted) <= 60 else f"{quoted[:57]}…{quoted[-1]}"
