"""Reads text, chat messages or token ids as a Prompt with token strings, character offsets and named spans.

The beginning-of-sequence token (BOS) is there exactly once: it is prepended when the tokenizer has one, the
model wants it (`cfg.default_prepend_bos`), and the text does not already begin with it. Token ids are taken
as they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeAlias

from torch import Tensor

from lens_scopes.errors import VALIDATED, PromptError
from lens_scopes.prompts.chat import check_messages, is_chat, message_spans, render
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.prompts.spans import SpanLike, resolve_spans
from lens_scopes.prompts.tokens import (
    TokenModel,
    as_integer,
    check_model,
    id_range,
    in_vocabulary,
    quote,
    size_of,
    special_token_ids,
    token_string,
    tokenize,
    vocabulary_string,
)

PromptLike: TypeAlias = Annotated[str | Sequence[Mapping[str, str]] | Sequence[int] | Tensor | Prompt, VALIDATED]


def read_prompt(model: TokenModel, prompt: PromptLike, *, spans: Mapping[str, SpanLike] | None = None) -> Prompt:
    """Tokenizes a text, a chat or token ids for a model, and names parts of it.

    Args:
        model: a HookedTransformer, TransformerBridge, or anything with their `tokenizer` and `cfg`.
        prompt: one of

            - a text. BOS is prepended once; other tokens that a tokenizer adds (a final EOS) are not.
            - a chat: a list of `{"role": …, "content": …}`, rendered by the tokenizer's template up to the model's
              answer. A last message by the assistant stays open, for the model to continue.
            - token ids: integers, or an integer tensor [pos] or [1, pos]. Nothing is added.
            - a Prompt, which is checked against the model and returned.
        spans: parts of the prompt by name: the part's text, which must occur exactly once; `Chars(start, stop)` in
            characters; or `(start, stop)` or `range(start, stop)` in tokens. White space at a token's edge does not
            matter: the span "dog" takes the token " dog". Spans may overlap.

    Returns:
        A Prompt with the id, the string, the character offsets and the special flag of each of its `pos` tokens, and
        the spans as `[start, stop)` in tokens.

    Raises:
        PromptError: for an empty prompt, one beyond the context window, text that is not valid Unicode, ids
            outside the vocabulary, malformed messages, a chat without a template, and a span that is missing,
            ambiguous or cuts a token.

    Example:
        >>> ls.read_prompt(model, "The capital of France is", spans={"country": "France", "verb": (5, 6)}).spans
        {'country': (4, 5), 'verb': (5, 6)}
        >>> ls.read_prompt(model, [{"role": "user", "content": "The capital of France is"}]).spans
        {'user 1': (3, 8)}
    """
    check_model(model)
    if isinstance(prompt, Prompt):
        result = prompt
    elif isinstance(prompt, str):
        result = _read_text(model, prompt, source="text")
    elif is_chat(prompt):
        result = _read_chat(model, prompt)
    else:
        result = _read_ids(model, prompt)
    _check_fits(model, result)
    if spans is not None:
        result = replace(result, spans={**result.spans, **resolve_spans(result, spans)})
    return result


def extended(model: TokenModel, prompt: Prompt, token_ids: Sequence[int]) -> Prompt:
    """The prompt with tokens added at its end, such as those a model generated.

    Raises:
        PromptError: when the result is beyond the context window.
    """
    added = [token_string(model, token_id) for token_id in token_ids]
    special_ids = frozenset() if model.tokenizer is None else special_token_ids(model.tokenizer)
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


def continued(model: TokenModel, prompt: Prompt, text: str) -> Prompt:
    """The prompt with a text after it, read as one text.

    A tokenizer may join the first characters of what follows to the prompt's last token, or read a text otherwise where
    it stands alone. The tokens are those of the whole text, and the prompt must keep its own. How many the context
    window holds is not checked.

    Raises:
        PromptError: for a prompt of ids, and where the prompt's tokens are not those that the whole text begins with.
    """
    if prompt.text is None:
        raise PromptError("the prompt was given as ids, so the answer must be too; got text.")
    source = "chat" if prompt.source == "chat" else "text"
    own, whole = (_read_text(model, read, source=source) for read in (prompt.text, prompt.text + text))
    if own.token_ids != prompt.token_ids:
        raise PromptError(
            "the prompt's tokens are not those of its text, as after generation or a cut, so no text can be read after "
            "them; give the answer as token ids."
        )
    if whole.token_ids[: len(own)] != own.token_ids:
        raise PromptError(
            f"the answer {quote(text)} joins the prompt's last token, {prompt.tokens[-1]!r}, to another one; begin it "
            "with a space or a line break, or move text between the two."
        )
    _check_vocabulary(model, whole)
    return replace(whole, spans=prompt.spans, turns=prompt.turns)


def _consecutive(start: int, strings: Sequence[str]) -> list[tuple[int, int]]:
    stops = list(itertools.accumulate(map(len, strings), initial=start))
    return list(itertools.pairwise(stops))


def _read_text(model: TokenModel, text: str, *, source: Literal["text", "chat"]) -> Prompt:
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise PromptError("the model has no tokenizer to read text with; give the prompt as token ids")
    if not text:
        raise PromptError("the prompt is empty; give at least one token of text")
    _refuse_far_too_long(model, text)
    ids, offsets = tokenize(tokenizer, text)
    if not ids:
        raise PromptError(f"the prompt {quote(text)} holds no token for this tokenizer; give some text")
    special_ids = special_token_ids(tokenizer)
    # Tokens as they stand in the text where the tokenizer says where, else as the vocabulary writes them.
    strings = {i: vocabulary_string(tokenizer, i) for i in set(ids)}
    tokens = [strings[i] for i in ids]
    if offsets is not None:
        offsets = _with_leading_space(text, tokens, offsets)
        unknown = getattr(tokenizer, "unk_token_id", None)
        tokens = _text_strings(text, ids, tokens, offsets, special_ids, unknown)
    bos = _bos_to_prepend(model, ids)
    if bos is not None:
        ids, tokens = [bos, *ids], [vocabulary_string(tokenizer, bos), *tokens]
        offsets = None if offsets is None else [(0, 0), *offsets]
    return Prompt(
        text=text,
        token_ids=tuple(ids),
        tokens=tuple(tokens),
        offsets=None if offsets is None else tuple(offsets),
        special=tuple(i in special_ids for i in ids),
        source=source,
    )


def _refuse_far_too_long(model: TokenModel, text: str) -> None:
    """Refuses at once a text whose beginning alone is beyond the context window: 30 MB take a minute to tokenize."""
    n_ctx = size_of(model, "n_ctx")
    start = text[: 8 * (n_ctx or 0) + 10_000]
    if n_ctx is None or len(text) < 2 * len(start):
        return
    count = len(tokenize(model.tokenizer, start)[0])
    if count > n_ctx + len(start) - len(start.rstrip()) + 16:  # the last few may join with what follows
        raise PromptError(
            f"the prompt has more than {count} tokens, but the model's context window holds {n_ctx}; shorten it"
        )


def _read_ids(model: TokenModel, prompt: Any) -> Prompt:
    # Tensors and arrays become a list.
    if hasattr(prompt, "shape"):
        shape = tuple(prompt.shape)
        if len(shape) == 2 and shape[0] == 1:
            prompt = prompt[0]
        elif len(shape) != 1:
            raise PromptError(f"token ids have the shape [pos] or [1, pos], got {list(shape)}; give one prompt")
        prompt = prompt.tolist()
    if not isinstance(prompt, Sequence) or isinstance(prompt, (bytes, bytearray)):
        kind = type(prompt).__name__
        raise PromptError(f"a prompt is a text, a list of messages or token ids, got {kind} {quote(prompt)}")
    # Every item must be an id of the vocabulary.
    d_vocab = size_of(model, "d_vocab")
    ids: list[int] = []
    for index, value in enumerate(prompt):
        if isinstance(value, str):
            raise PromptError(f"item {index} of the prompt is the string {quote(value)}; give one text, or ids")
        token_id = as_integer(value)
        if token_id is None:
            raise PromptError(
                f"item {index} of the prompt is {quote(value)}, no token id; give integers from {id_range(d_vocab)}"
            )
        if not in_vocabulary(token_id, d_vocab):
            raise PromptError(
                f"item {index} of the prompt is the token id {token_id}, outside the model's vocabulary; "
                f"give {id_range(d_vocab)}"
            )
        ids.append(token_id)
    # Strings and special tokens; without a text there are no offsets.
    special_ids = frozenset() if model.tokenizer is None else special_token_ids(model.tokenizer)
    strings = {i: token_string(model, i) for i in set(ids)}
    return Prompt(
        text=None,
        token_ids=tuple(ids),
        tokens=tuple(strings[i] for i in ids),
        offsets=None,
        special=tuple(i in special_ids for i in ids),
        source="ids",
    )


def _read_chat(model: TokenModel, messages: Any) -> Prompt:
    check_messages(model, messages)
    prompt = _read_text(model, render(model.tokenizer, messages), source="chat")
    turns = message_spans(model.tokenizer, messages, prompt)
    return replace(prompt, spans=turns, turns=turns)


def _check_fits(model: TokenModel, prompt: Prompt) -> None:
    if not prompt.token_ids:
        raise PromptError("the prompt is empty; give at least one token")
    _check_vocabulary(model, prompt)
    n_ctx = size_of(model, "n_ctx")
    if n_ctx is not None and len(prompt) > n_ctx:
        raise PromptError(
            f"the prompt has {len(prompt)} tokens, but the model's context window holds {n_ctx}; shorten it"
        )


def _check_vocabulary(model: TokenModel, prompt: Prompt) -> None:
    d_vocab = size_of(model, "d_vocab")
    for index, token_id in enumerate(prompt.token_ids):
        if not in_vocabulary(token_id, d_vocab):
            raise PromptError(
                f"token {index} of the prompt, {quote(prompt.tokens[index])}, has the id {token_id}, "
                f"outside the model's vocabulary ({id_range(d_vocab)}); use the model's own tokenizer"
            )


def _with_leading_space(text: str, strings: Sequence[str], offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Offsets in which white space that no token covers belongs to the token after it.

    Some tokenizers trim the space off a token's offsets, and others have it in no token; words would then run
    together. A token whose string begins with space takes what the string holds, any other all that is left.
    """
    wider: list[tuple[int, int]] = []
    covered = 0
    for string, (start, stop) in zip(strings, offsets, strict=True):
        if string[:1].isspace() and text.startswith(string, covered) and covered + len(string) >= stop:
            start, stop = covered, covered + len(string)
        elif text[covered:start].isspace():
            start = covered
        wider.append((start, stop))
        covered = max(covered, stop)
    return wider


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


def _bos_to_prepend(model: TokenModel, ids: list[int]) -> int | None:
    tokenizer = model.tokenizer
    bos = getattr(tokenizer, "bos_token_id", None)
    if bos is None or not getattr(model.cfg, "default_prepend_bos", True) or ids[0] == bos:
        return None
    # a BOS string that the vocabulary lacks is mapped to the unknown token
    return bos if tokenizer.convert_ids_to_tokens(bos) == str(tokenizer.bos_token) else None
