"""Prompts: tokens aligned with the text, BOS exactly once, positions, targets, spans and groups."""

import dataclasses
import json
import logging
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from lens_scopes.errors import PromptError
from lens_scopes.prompts.answer import tokenize_answer
from lens_scopes.prompts.groups import Group, group_tokens, text_of
from lens_scopes.prompts.prompt import Prompt, next_token_id, resolve_position
from lens_scopes.prompts.read import read_prompt
from lens_scopes.prompts.spans import Chars
from lens_scopes.prompts.tokens import resolve_token, token_string

TEXT = "The capital of France is Paris.\nThe dog  sleeps on the sofa."
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m.role not in ('system', 'user', 'assistant') %}"
    "{{ raise_exception('unknown role') }}{% endif %}"
    "<turn>{{ m.role }}\n{{ m.content | trim }}</turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)


def model_of(tokenizer: Any, **cfg: Any) -> Any:
    return SimpleNamespace(
        tokenizer=tokenizer,
        cfg=SimpleNamespace(**{"d_vocab": 500, "n_ctx": 128, "default_prepend_bos": True} | cfg),
    )


def byte_level(*, trim_offsets: bool = False) -> PreTrainedTokenizerFast:
    """As GPT-2: byte-level BPE, one special token that is BOS, EOS and unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end|>", "<turn>", "</turn>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT] * 4, trainer)
    end = "<|end|>"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end, unk_token=end)


def sentence_piece() -> PreTrainedTokenizerFast:
    """As LLaMA 2: a space put before the text, byte fallback, BOS and EOS added by the post-processor."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁Parisdog"]
    merges = [
        ("P", "a"),
        ("r", "i"),
        ("Pa", "ri"),
        ("Pari", "s"),
        ("▁", "Paris"),
        ("d", "o"),
        ("do", "g"),
        ("▁", "dog"),
    ]
    vocabulary = list(dict.fromkeys([*pieces, *("".join(pair) for pair in merges)]))
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: i for i, piece in enumerate(vocabulary)},
            merges=merges,
            unk_token="<unk>",
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def word_level() -> PreTrainedTokenizerFast:
    """Whole words in lower case, no BOS; white space is in no token."""
    words = ["[UNK]", "the", "dog", "sleeps", "on", "sofa", "."]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]")


@pytest.fixture(scope="module")
def gpt2() -> Any:
    return model_of(byte_level())


@pytest.fixture(scope="module")
def llama() -> Any:
    return model_of(sentence_piece())


@pytest.fixture(scope="module")
def words() -> Any:
    return model_of(word_level(), d_vocab=7)


@pytest.fixture(scope="module")
def chat() -> Any:
    tokenizer = byte_level()
    tokenizer.chat_template = CHAT_TEMPLATE
    return model_of(tokenizer)


def refusal(call: Any) -> str:
    with pytest.raises(PromptError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Text


def test_text_has_one_string_one_id_and_one_slice_for_each_token(gpt2: Any) -> None:
    prompt = read_prompt(gpt2, TEXT)
    assert prompt.text == TEXT and prompt.source == "text" and prompt.spans == {}
    assert prompt.token_ids == (0, *gpt2.tokenizer.encode(TEXT, add_special_tokens=False))
    assert prompt.tokens[0] == "<|end|>" and prompt.special == (True, *[False] * (len(prompt) - 1))
    assert prompt.offsets is not None and prompt.offsets[0] == (0, 0)
    assert [TEXT[a:b] for a, b in prompt.offsets[1:]] == list(prompt.tokens[1:])
    assert " Paris" in prompt.tokens and "".join(prompt.tokens[1:]) == TEXT


@pytest.mark.parametrize("trim_offsets", [False, True])
def test_strings_join_to_the_text_for_any_spacing(trim_offsets: bool) -> None:
    model, draw = model_of(byte_level(trim_offsets=trim_offsets)), random.Random(0)
    for _ in range(200):
        text = "".join(draw.choices(["The", "dog", "Paris", " ", "  ", "\n", "\r\n", "\t", ".", "<turn>"], k=12))
        assert "".join(read_prompt(model, text).tokens[1:]) == text


def test_white_space_that_no_token_covers_goes_to_the_next_token(words: Any) -> None:
    prompt = read_prompt(words, "The dog\nsleeps .")
    assert prompt.tokens == ("The", " dog", "\nsleeps", " .")
    assert prompt.token_ids == (1, 2, 3, 6)
    assert token_string(words, 2) == "dog"


def test_an_unknown_word_is_shown_as_the_model_reads_it_and_is_not_special(words: Any) -> None:
    prompt = read_prompt(words, "the cat sleeps")
    assert prompt.tokens == ("the", " [UNK]", " sleeps") and prompt.special == (False, False, False)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_fragments_of_a_character_read_as_their_bytes(name: str, request: pytest.FixtureRequest) -> None:
    prompt = read_prompt(request.getfixturevalue(name), "Paris 😀 dog")
    at = prompt.tokens.index("\\xf0")
    assert prompt.tokens[at : at + 4] == ("\\xf0", "\\x9f", "\\x98", "\\x80")
    assert prompt.offsets is not None and prompt.offsets[at : at + 4] == ((6, 7),) * 4
    assert prompt.tokens[-1] == " dog"


def test_bos_is_there_exactly_once(gpt2: Any, llama: Any, words: Any) -> None:
    for model, bos in ((gpt2, "<|end|>"), (llama, "<s>")):
        for text in ("Paris dog", bos + "Paris dog"):
            prompt = read_prompt(model, text)
            assert prompt.token_ids.count(model.tokenizer.bos_token_id) == 1
            assert prompt.tokens[0] == bos and "".join(prompt.tokens[1:]) == "Paris dog"
            assert prompt.special == (True, *[False] * (len(prompt) - 1))
        assert read_prompt(model, bos + "Paris").offsets[0] == (0, len(bos))  # type: ignore[index]
    assert read_prompt(words, "the dog").token_ids == (1, 2)


def test_the_tokenizers_own_eos_is_left_out(llama: Any) -> None:
    assert llama.tokenizer.encode("Paris")[-1] == llama.tokenizer.eos_token_id
    assert read_prompt(llama, "Paris").tokens == ("<s>", "Paris")


def test_bos_follows_the_models_default() -> None:
    model = model_of(byte_level(), default_prepend_bos=False)
    assert read_prompt(model, "The dog").tokens[0] == "The"
    assert read_prompt(model, "<|end|>The dog").tokens[:2] == ("<|end|>", "The")


def test_a_bos_string_that_the_vocabulary_lacks_is_not_prepended() -> None:
    tokenizer = word_level()
    tokenizer._special_tokens_map["bos_token"] = "<nowhere>"
    assert tokenizer.bos_token_id == tokenizer.unk_token_id
    assert read_prompt(model_of(tokenizer), "the dog").tokens == ("the", " dog")


def test_a_slow_tokenizer_gives_strings_without_offsets(llama: Any) -> None:
    class Slow:
        is_fast = False

        def __getattr__(self, name: str) -> Any:
            return getattr(llama.tokenizer, name)

        def __call__(self, text: str, **options: Any) -> dict[str, Any]:
            if options.get("return_offsets_mapping"):
                raise NotImplementedError
            return {"input_ids": llama.tokenizer(text, **options)["input_ids"]}

    prompt = read_prompt(model_of(Slow()), "dog Paris")
    assert prompt.tokens == ("<s>", " dog", " Paris") and prompt.offsets is None
    assert "fast" in refusal(lambda: read_prompt(model_of(Slow()), "dog Paris", spans={"city": "Paris"}))


def test_white_space_alone_is_a_prompt_where_it_has_tokens(gpt2: Any, words: Any) -> None:
    assert read_prompt(gpt2, " \n").tokens[1:] == (" ", "\n")
    assert "no token" in refusal(lambda: read_prompt(words, " \n"))


def test_text_is_refused_when_empty_too_long_or_not_unicode(gpt2: Any) -> None:
    assert "empty" in refusal(lambda: read_prompt(gpt2, ""))
    assert len(read_prompt(gpt2, "." * 127)) == 128
    message = refusal(lambda: read_prompt(gpt2, "." * 128))
    assert "129 tokens" in message and "128" in message
    assert "character 4" in refusal(lambda: read_prompt(gpt2, "dog \udc80"))


def test_the_tokenizers_own_length_warning_stays_quiet(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = logging.getLogger("transformers")
    monkeypatch.setattr(library, "propagate", True)
    caplog.set_level(logging.WARNING, logger="transformers")
    tokenizer = byte_level()
    tokenizer.model_max_length = 4
    read_prompt(model_of(tokenizer), TEXT)
    assert caplog.text == ""
    tokenizer(TEXT)
    assert "longer than" in caplog.text


def test_without_a_tokenizer_only_ids_are_read() -> None:
    model = model_of(None, d_vocab=20)
    assert "ids" in refusal(lambda: read_prompt(model, "dog"))
    assert "id" in refusal(lambda: resolve_token(model, "dog"))
    prompt = read_prompt(model, [3, 12])
    assert prompt.tokens == ("#3", "#12") and prompt.special == (False, False)
    assert resolve_token(model, 12) == 12


# Ids


@pytest.mark.parametrize(
    "ids",
    [
        [5, 0, 7],
        (5, 0, 7),
        torch.tensor([5, 0, 7]),
        torch.tensor([[5, 0, 7]]),
        np.array([5, 0, 7]),
        list(np.array([5, 0, 7])),
    ],
    ids=["list", "tuple", "tensor", "row", "array", "numpy integers"],
)
def test_ids_are_taken_as_they_are(gpt2: Any, ids: Any) -> None:
    prompt = read_prompt(gpt2, ids)
    assert prompt.token_ids == (5, 0, 7) and all(type(i) is int for i in prompt.token_ids)
    assert prompt.tokens == tuple(token_string(gpt2, i) for i in (5, 0, 7))
    assert prompt.special == (False, True, False)
    assert (prompt.text, prompt.offsets, prompt.source) == (None, None, "ids")


@pytest.mark.parametrize(
    ("ids", "index", "value"),
    [
        ([1, 500], "item 1", "500"),
        ([1, 2, -1], "item 2", "-1"),
        ([True, 2], "item 0", "True"),
        ([1, 2.0], "item 1", "2.0"),
        ([1, None], "item 1", "None"),
        (torch.tensor([True, False]), "item 0", "True"),
        (torch.tensor([1.0]), "item 0", "1.0"),
        ([torch.tensor(True)], "item 0", "tensor(True)"),
        ([torch.tensor(1.0)], "item 0", "tensor(1.)"),
    ],
)
def test_an_id_that_is_none_is_refused_by_index_value_and_range(gpt2: Any, ids: Any, index: str, value: str) -> None:
    message = refusal(lambda: read_prompt(gpt2, ids))
    assert index in message and value in message and "0 to 499" in message


def test_other_things_are_no_prompts(gpt2: Any) -> None:
    for empty in ([], (), torch.tensor([], dtype=torch.long)):
        assert "empty" in refusal(lambda empty=empty: read_prompt(gpt2, empty))
    assert "[2, 3]" in refusal(lambda: read_prompt(gpt2, torch.zeros(2, 3, dtype=torch.long)))
    assert "[]" in refusal(lambda: read_prompt(gpt2, torch.tensor(3)))
    assert "bytes" in refusal(lambda: read_prompt(gpt2, b"dog"))
    assert "NoneType" in refusal(lambda: read_prompt(gpt2, None))
    assert "'dog'" in refusal(lambda: read_prompt(gpt2, ["dog", "sofa"]))


def test_a_prompt_is_checked_against_the_model_and_returned(gpt2: Any) -> None:
    prompt = read_prompt(gpt2, TEXT)
    assert read_prompt(gpt2, prompt) is prompt
    assert "vocabulary" in refusal(lambda: read_prompt(model_of(gpt2.tokenizer, d_vocab=50), prompt))
    assert "context" in refusal(lambda: read_prompt(model_of(gpt2.tokenizer, n_ctx=3), prompt))
    assert "tokenizer" in refusal(lambda: read_prompt(model_of(gpt2.tokenizer, d_vocab=50), TEXT))
    assert "entries of special" in refusal(lambda: dataclasses.replace(prompt, special=(True,)))


# Chat


def test_chat_is_rendered_by_the_template_with_one_bos_and_a_span_a_message(chat: Any) -> None:
    # contents that the template's own text also holds would mislead a search
    messages = [
        {"role": "system", "content": "system"},
        {"role": "user", "content": " user "},
        {"role": "assistant", "content": "user"},
        {"role": "user", "content": "assistant\nThe dog"},
    ]
    prompt = read_prompt(chat, messages)
    assert prompt.source == "chat" and prompt.text is not None
    assert prompt.text.endswith("<turn>user\nassistant\nThe dog</turn>\n<turn>assistant\n")
    assert prompt.token_ids.count(0) == 1 and "".join(prompt.tokens[1:]) == prompt.text
    assert {name: "".join(prompt.tokens[a:b]) for name, (a, b) in prompt.spans.items()} == {
        "system": "system",
        "user 1": "user",
        "assistant 1": "user",
        "user 2": "assistant\nThe dog",
    }
    # each stands in its own turn, after the role's line
    assert [start for start, _ in prompt.spans.values()] == sorted(start for start, _ in prompt.spans.values())
    assert all(prompt.tokens[start - 1] == "\n" for start, _ in prompt.spans.values())
    assert all(prompt.tokens[stop] == "</turn>" for _, stop in prompt.spans.values())
    turns = [i for i, token in enumerate(prompt.tokens) if token == "<turn>"]
    assert len(turns) == 5 and all(prompt.special[i] for i in turns)


def test_a_bos_written_by_the_template_is_not_doubled(chat: Any) -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = "{{ bos_token }}" + CHAT_TEMPLATE
    ask = [{"role": "user", "content": "dog"}]
    assert read_prompt(model_of(tokenizer), ask).token_ids == read_prompt(chat, ask).token_ids


def test_a_last_assistant_message_is_left_open(chat: Any) -> None:
    prompt = read_prompt(chat, [{"role": "user", "content": "dog"}, {"role": "assistant", "content": "The sofa"}])
    assert prompt.text is not None and prompt.text.endswith("<turn>assistant\nThe sofa")
    start, stop = prompt.spans["assistant 1"]
    assert "".join(prompt.tokens[start:stop]) == "The sofa" and stop == len(prompt)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{{ m.content | upper }}", "user: DOG\n"),
        ("{{ m.content }}\n{{ '!' if 'dog' in m.content }}", "user: dog\n!"),
        ("{{ '!' if 'dog' in m.content }}{{ m.content }}", "user: !dog"),
        ("{{ m.content if 'dog' in m.content else raise_exception('no dog') }}", "user: dog"),
    ],
    ids=["rewrites", "adds after", "adds before", "refuses placeholders"],
)
def test_a_template_that_looks_into_contents_gives_no_spans(content: str, text: str) -> None:
    tokenizer = byte_level()
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: " + content + "{% endfor %}"
    prompt = read_prompt(model_of(tokenizer), [{"role": "user", "content": "dog"}])
    assert prompt.text is not None and prompt.text.rstrip() == text.rstrip() and prompt.spans == {}


def test_chats_are_refused_with_the_message_at_fault(chat: Any, gpt2: Any) -> None:
    fine = {"role": "user", "content": "dog"}
    assert "text" in refusal(lambda: read_prompt(gpt2, [fine]))
    assert "text" in refusal(lambda: read_prompt(model_of(None), [fine]))
    assert "message 1" in refusal(lambda: read_prompt(chat, [fine, "sofa"]))
    assert "message 1" in refusal(lambda: read_prompt(chat, [fine, {"role": "user"}]))
    assert "'role'" in refusal(lambda: read_prompt(chat, [{"role": "", "content": "dog"}]))
    assert "'content'" in refusal(lambda: read_prompt(chat, [{"role": "user", "content": ["dog"]}]))
    assert "unknown role" in refusal(lambda: read_prompt(chat, [{"role": "judge", "content": "dog"}]))
    assert "empty" in refusal(lambda: read_prompt(chat, [{"role": "user", "content": ""}]))
    assert "context" in refusal(lambda: read_prompt(chat, [{"role": "user", "content": "dog " * 200}]))


# Positions and targets


def test_positions_count_from_either_end(gpt2: Any) -> None:
    prompt = read_prompt(gpt2, TEXT)
    last = len(prompt) - 1
    for position, index in (
        (0, 0),
        (last, last),
        (-1, last),
        (-last - 1, 0),
        (np.int64(2), 2),
        (torch.tensor(3), 3),
    ):
        assert resolve_position(prompt, position) == index
    for outside in (last + 1, -last - 2):
        message = refusal(lambda outside=outside: resolve_position(prompt, outside))
        assert str(outside) in message and f"{-last - 1} to {last}" in message
    for value in (True, 1.0, "1", None):
        assert repr(value) in refusal(lambda value=value: resolve_position(prompt, value))


def test_the_next_token_is_the_one_in_the_text(gpt2: Any) -> None:
    prompt = read_prompt(gpt2, TEXT)
    assert [next_token_id(prompt, p) for p in range(len(prompt))] == [*prompt.token_ids[1:], None]
    assert next_token_id(prompt, -1) is None and next_token_id(prompt, -2) == prompt.token_ids[-1]


def test_a_target_is_one_token(gpt2: Any, llama: Any) -> None:
    for text in (" Paris", "The", "<|end|>", "\n"):
        assert token_string(gpt2, resolve_token(gpt2, text)) == text
    assert resolve_token(gpt2, 0) == 0 and resolve_token(gpt2, np.int64(499)) == 499
    # with and without the space are two tokens, also where the tokenizer writes one before every text
    vocabulary = llama.tokenizer.get_vocab()
    assert (
        resolve_token(llama, " Paris") == vocabulary["▁Paris"] and token_string(llama, vocabulary["▁Paris"]) == " Paris"
    )
    assert resolve_token(llama, "Paris") == vocabulary["Paris"] and token_string(llama, vocabulary["Paris"]) == "Paris"


def test_a_target_of_several_tokens_is_refused_with_its_pieces(gpt2: Any) -> None:
    message = refusal(lambda: resolve_token(gpt2, "Paris dog"))
    for token_id in gpt2.tokenizer.encode("Paris dog", add_special_tokens=False):
        assert f"{token_string(gpt2, token_id)!r} #{token_id}" in message
    spaced = gpt2.tokenizer.get_vocab()["ĠParis"]
    assert f"' Paris' (#{spaced})" in refusal(lambda: resolve_token(gpt2, "Paris"))
    unspaced = gpt2.tokenizer.get_vocab()["The"]
    assert f"'The' (#{unspaced})" in refusal(lambda: resolve_token(gpt2, " The"))


def test_targets_outside_the_vocabulary_are_refused(gpt2: Any, words: Any) -> None:
    for token_id in (-1, 500):
        message = refusal(lambda token_id=token_id: resolve_token(gpt2, token_id))
        assert str(token_id) in message and "0 to 499" in message
    assert "0 to 9" in refusal(lambda: resolve_token(model_of(gpt2.tokenizer, d_vocab_out=10), 10))
    assert "0 to 9" in refusal(lambda: resolve_token(model_of(gpt2.tokenizer, d_vocab=10), " Paris"))
    assert "'cat'" in refusal(lambda: resolve_token(words, "cat"))
    for value in (True, 1.5, None, ""):
        refusal(lambda value=value: resolve_token(gpt2, value))
    refusal(lambda: resolve_token(gpt2, "\ud800"))


def test_token_strings_of_ids_beyond_the_tokenizer(gpt2: Any) -> None:
    assert token_string(gpt2, 499) == "#499"
    assert token_string(gpt2, gpt2.tokenizer.get_vocab()["Ġ"]) == " "


# Spans


def test_spans_are_found_by_text_or_by_characters(gpt2: Any) -> None:
    dog = TEXT.index("dog")
    prompt = read_prompt(
        gpt2,
        TEXT,
        spans={
            "country": "France",
            "both": "France is Paris",
            "dog": Chars(dog, dog + 3),
            "tokens": (1, 3),
            "range": range(1, 3),
            "spaced": "  sleeps ",
            "break": "\n",
        },
    )
    found = {name: "".join(prompt.tokens[a:b]) for name, (a, b) in prompt.spans.items()}
    assert {name: text.strip() for name, text in found.items()} == {
        "country": "France", "both": "France is Paris", "dog": "dog", "spaced": "sleeps", "break": "",
        "tokens": "".join(prompt.tokens[1:3]).strip(), "range": "".join(prompt.tokens[1:3]).strip(),
    }  # fmt: skip
    assert prompt.spans["tokens"] == prompt.spans["range"] == (1, 3)
    assert found["break"] == "\n" and found["country"] == " France"
    more = read_prompt(gpt2, prompt, spans={"city": "Paris"})
    assert set(more.spans) == {*prompt.spans, "city"} and "city" not in prompt.spans


def test_a_span_takes_every_fragment_of_its_characters(gpt2: Any) -> None:
    prompt = read_prompt(gpt2, "dog 😀é dog", spans={"face": "😀"})
    start, stop = prompt.spans["face"]
    assert prompt.tokens[start:stop] == ("\\xf0", "\\x9f", "\\x98", "\\x80")


def test_spans_are_refused_when_missing_ambiguous_or_cutting(gpt2: Any, words: Any) -> None:
    def refuse(span: Any, name: Any = "part", text: str = TEXT) -> str:
        return refusal(lambda: read_prompt(gpt2, text, spans={name: span}))

    assert "'Berlin'" in refuse("Berlin")
    assert "''" in refuse("")
    message = refuse("The")
    assert "2 times" in message and f"0, {TEXT.rindex('The')}" in message
    assert "2 times" in refuse("aa", text="aaa")
    assert "' France', which is characters 14 to 21" in refuse("Fran")
    assert "' Paris'" in refuse(Chars(TEXT.index("aris"), TEXT.index(".")))
    for bad in ((3, 3), (5, 2), (-2, 3), (0, len(TEXT) + 1)):
        assert f"≤ {len(TEXT)}" in refuse(Chars(*bad))
    n_pos = len(read_prompt(gpt2, TEXT))
    for bad in ((3, 3), (5, 2), (-2, 3), (0, n_pos + 1), range(0, n_pos + 1)):
        message = refuse(bad)
        assert f"≤ {n_pos}" in message and "Chars(start, stop)" in message
    assert "without a step" in refuse(range(0, 4, 2))
    for bad in ((0, True), (0.0, 3), (1,), 7, None):
        assert "two integers" in refuse(bad)
    assert "name" in refuse("France", name="")
    assert "ids" in refusal(lambda: read_prompt(gpt2, [1, 2], spans={"part": Chars(0, 1)}))
    assert read_prompt(gpt2, [1, 2], spans={"part": (0, 1)}).spans == {"part": (0, 1)}
    assert "no token" in refusal(lambda: read_prompt(words, "the dog  ", spans={"end": Chars(7, 9)}))


def test_a_white_space_span_may_not_be_half_a_token(gpt2: Any) -> None:
    assert "' sleeps'" in refusal(
        lambda: read_prompt(gpt2, TEXT, spans={"gap": Chars(TEXT.index("  ") + 1, TEXT.index("  ") + 2)})
    )


# Groups


def prompt_of(tokens: list[str], special: list[bool]) -> Prompt:
    return Prompt(None, tuple(range(len(tokens))), tuple(tokens), None, tuple(special), "ids")


def grouped(tokens: list[str], by: Any, special: set[int] | None = None) -> list[list[str]]:
    flags = [i in (special or set()) for i in range(len(tokens))]
    return [tokens[group.start : group.stop] for group in group_tokens(prompt_of(tokens, flags), by)]


@pytest.mark.parametrize(
    ("expected", "special"),
    [
        ([["<bos>"], ["German", ":"], [" Der"], [" sch", "lä", "ft"], ["<eos>"]], {0, 7}),
        ([["Sofa", "."], ["\n"], ["Eng", "lish"], [" The"], ["  ", "dog"]], set()),
        ([["a", ".\n"], ["b"], ["\n", "\n\n"], ["  ", "c"]], set()),
        ([["a "], ["b"], ["\tc"], [" ", " ", "d"], [" "]], set()),
        ([["x"], [" "], ["<turn>"], [" ", "y"]], {2}),
        ([["x"], [" ", " "], ["\n"], ["\ny"]], set()),
        ([["我", "\\xe5", "\\x96", "狗"], ["\n"], ["<eos>"]], {5}),
    ],
)
def test_words(expected: list[list[str]], special: set[int]) -> None:
    assert grouped([token for word in expected for token in word], "word", special) == expected


@pytest.mark.parametrize(
    ("expected", "special"),
    [
        ([["<bos>"], ["a", " b", "\n"], ["c", ".\n\n"], ["d"]], {0}),
        ([["\n"], ["a", "\r", "\n"], ["b", "\r"], ["c"]], set()),
        ([["a"], ["<turn>"], ["\n"], ["b"]], {1}),
    ],
)
def test_lines(expected: list[list[str]], special: set[int]) -> None:
    assert grouped([token for line in expected for token in line], "line", special) == expected


def test_named_spans_and_the_rest() -> None:
    tokens, special = (
        ["<bos>", "a", "b", "c", "<turn>", "d", "e"],
        [True, False, False, False, True, False, False],
    )
    prompt = prompt_of(tokens, special)
    assert group_tokens(prompt, {"late": (3, 5), "early": (1, 2)}) == [
        Group("<bos>", 0, 1),
        Group("early", 1, 2),
        Group("(other)", 2, 3),
        Group("late", 3, 5),
        Group("(other)", 5, 7),
    ]
    overlapping = group_tokens(prompt, {"all": (0, 7), "part": (2, 4)})
    assert overlapping == [Group("all", 0, 7), Group("part", 2, 4)]
    assert group_tokens(prompt, {})[1:3] == [Group("(other)", 1, 4), Group("<turn>", 4, 5)]


def test_words_and_lines_cover_every_token_once_in_order() -> None:
    draw = random.Random(1)
    for _ in range(300):
        tokens = draw.choices(
            ["a", " b", "c ", " ", "\n", ".\n", "\n d", "<s>", "", "\r", "\\xf0"], k=draw.randrange(9)
        )
        special = [token == "<s>" for token in tokens]
        for by in ("word", "line"):
            groups = group_tokens(prompt_of(tokens, special), by)
            assert [i for g in groups for i in range(g.start, g.stop)] == list(range(len(tokens)))
            assert all(g.stop == g.start + 1 for g in groups if special[g.start])


def test_labels_are_the_text_of_the_group(gpt2: Any) -> None:
    prompt = read_prompt(gpt2, "The 😀dog\nsleeps")
    groups = group_tokens(prompt, "word")
    assert [group.label for group in groups] == ["<|end|>", "The", "😀dog", r"'\n'", "sleeps"]
    assert group_tokens(dataclasses.replace(prompt, text=None), "word")[2].label == r"\xf0\x9f\x98\x80dog"


def test_groups_are_refused() -> None:
    prompt = prompt_of(["a", " b"], [False, False])
    for by in ("syllable", 3, ["a", 3]):
        assert f"cannot group by {by!r}" in refusal(lambda by=by: group_tokens(prompt, by))
    for span in ((0, 3), (-1, 1), (1, 1)):
        assert "≤ 2" in refusal(lambda span=span: group_tokens(prompt, {"part": span}))
    assert "two integers" in refusal(lambda: group_tokens(prompt, {"part": (0, True)}))
    for by in ("sentence", "paragraph"):
        assert f"{by}s are found in a prompt's text" in refusal(lambda by=by: group_tokens(prompt, by))
        slow = dataclasses.replace(prompt, text="a b")
        assert "use its fast version" in refusal(lambda by=by, slow=slow: group_tokens(slow, by))
    assert "give the prompt as chat messages" in refusal(lambda: group_tokens(prompt, "turn"))
    assert "was given as ids" in refusal(lambda: group_tokens(prompt, ["a"]))


def split(model: Any, text: str, by: Any) -> list[str]:
    """The texts of the groups, which must hold every token once, special ones alone."""
    prompt = read_prompt(model, text)
    groups = group_tokens(prompt, by)
    assert [i for group in groups for i in range(group.start, group.stop)] == list(range(len(prompt)))
    assert all(group.stop == group.start + 1 for group in groups if any(prompt.special[group.start : group.stop]))
    return [text_of(prompt, group.start, group.stop) for group in groups if not prompt.special[group.start]]


@pytest.mark.parametrize(
    "sentences",
    [
        ["The dog sleeps.", " The sofa is on the dog!", " Is it?", " Yes…", " So"],
        ["A heading\n", "The dog (a sofa.)", ' "Is it?"', " It is 3.14 e.g.this.\n\n", "The end."],
        ["Dr. Who.", "\n1. Milk", "\n2. Eggs, e.g. brown ones.", "\n10. Bread.", " White bread."],
        ["1. Milk.", " 2. Eggs.", " (3. Bread.)", "\n(a. Tea.", "\n  iv. Salt."],
        ["How many?", " 12.", " Then she left in 1999.", " So"],
        ["Mr. and Mrs. Fox met Prof. St. John, i.e. a friend, vs. Gen. Lee.", " They ate."],
        ["See Fig. 3, Eq. 12 and No. 7.", " No.", " Yes, pp. 3 to 9.", " It is a fig.", " So"],
        ["Milk, eggs, etc. are at Fox Inc. in the U.S. at 9 a.m. today.", " And etc.", " Fox Ltd.", " Then"],
        ["J. S. Bach met George W. Bush.", " The answer is B.", " She and I.", " So"],
        ["It costs 3.14 or .5 euros.", " 2.5 is less.", " v1.2.3 is out.", " So"],
        [
            "“Why?” she asked.",
            ' "Stop!" he said, "or I leave."',
            " He left…",
            " Well… perhaps.",
            " So... no.",
            " Ah!",
            " yes.",
        ],
        ['He said: "It is so."', " She knew.", " (Or not.)", " They knew."],
        ["狗睡了。", "沙发！", "是吗？”", "是"],
        ["\n\n  The dog.", "   Sofa.  "],
        ["no end"],
        ["The dog.\r\n", "  sofa"],
    ],
)
def test_sentences(gpt2: Any, sentences: list[str]) -> None:
    groups = split(gpt2, "".join(sentences), "sentence")
    assert "".join(groups) == "".join(sentences)
    assert [group.strip() for group in groups] == [sentence.strip() for sentence in sentences]


@pytest.mark.parametrize(
    "paragraphs",
    [
        ["The dog. The sofa.\nIs on.\n\n", "  Paris\n \t\n\n", "France\n"],
        ["a\r\nb\r\n\r\n", "c"],
        ["\n\na b"],
    ],
)
def test_paragraphs(gpt2: Any, paragraphs: list[str]) -> None:
    groups = split(gpt2, "".join(paragraphs), "paragraph")
    assert [group.strip() for group in groups] == [paragraph.strip() for paragraph in paragraphs]


def test_white_space_in_no_token_and_in_one_of_its_own_belongs_somewhere(words: Any, llama: Any) -> None:
    assert split(words, "The dog. Sleeps on. \n\n The", "sentence") == ["The dog.", " Sleeps on.", " \n\n The"]
    assert split(llama, "Paris dog. 😀 dog", "sentence") == ["Paris dog. ", "😀 dog"]


def test_sentences_cover_every_token_once_in_order(gpt2: Any) -> None:
    draw = random.Random(2)
    pieces = ["dog", " sofa", ".", "! ", "?", "\n", "\n\n", " ", "”", "。", "<turn>", "😀"]
    for _ in range(300):
        text = "".join(draw.choices(pieces, k=draw.randrange(1, 12)))
        for by in ("sentence", "paragraph"):
            assert "".join(split(gpt2, text, by)) == text.replace("<turn>", "")


def test_turns_are_the_messages_of_a_chat(chat: Any) -> None:
    messages = [{"role": "system", "content": "The dog."}, {"role": "user", "content": "Is on the sofa. Is it?"}]
    prompt = read_prompt(chat, messages, spans={"place": "sofa"})
    groups = [group for group in group_tokens(prompt, "turn") if not prompt.special[group.start]]
    assert [(group.label, text_of(prompt, group.start, group.stop)) for group in groups] == [
        ("(other)", "system\n"),
        ("system", "The dog."),
        ("(other)", "\n"),
        ("(other)", "user\n"),
        ("user 1", "Is on the sofa. Is it?"),
        ("(other)", "\n"),
        ("(other)", "assistant\n"),
    ]


def test_documents_by_text_and_by_name(gpt2: Any) -> None:
    prompt = read_prompt(gpt2, TEXT)
    first, second = TEXT.split("\n")
    by_text = [
        (group.label, text_of(prompt, group.start, group.stop)) for group in group_tokens(prompt, [first, second])
    ]
    assert [item for item in by_text if item[0] in (first, second)] == [(first, first), (second, second)]
    named = group_tokens(prompt, {"two": second, "one": Chars(0, len(first))})
    assert [group.label for group in named if group.label in ("one", "two")] == ["one", "two"]
    assert "is not in the prompt" in refusal(lambda: group_tokens(prompt, ["a cat"]))
    assert "times, at characters" in refusal(lambda: group_tokens(prompt, ["s"]))


# The real tokenizer


@pytest.mark.gemma
def test_gemma_reads_text(gemma: Any) -> None:
    text = "German: Der Hund schläft auf dem Sofa.\nEnglish: The  dog 𓀀 sleeps on the"
    prompt = read_prompt(gemma, text, spans={"subject": "Der Hund"})
    assert prompt.token_ids[:3] == (2, 51423, 236787) and prompt.token_ids.count(2) == 1
    assert prompt.tokens[:5] == ("<bos>", "German", ":", " Der", " Hund") and prompt.spans == {"subject": (3, 5)}
    assert torch.equal(gemma.to_tokens(text)[0].cpu(), torch.tensor(prompt.token_ids))
    words = group_tokens(prompt, "word")
    assert [word.label for word in words if word.label != r"'\n'"] == ["<bos>", *text.split()]
    assert read_prompt(gemma, "<bos>" + text).token_ids == prompt.token_ids
    assert resolve_token(gemma, " sofa") == 27210 and resolve_token(gemma, "<eos>") == 1
    assert "(' sofas' #144848, ' and' #532)" in refusal(lambda: resolve_token(gemma, " sofas and"))


@pytest.mark.gemma
def test_every_gemma_token_has_a_string_that_leads_back_to_it(gemma: Any) -> None:
    draw = random.Random(2)
    ids = [draw.randrange(gemma.cfg.d_vocab) for _ in range(300)]
    strings = [token_string(gemma, i) for i in ids]
    assert all(strings)
    whole = [(i, s) for i, s in zip(ids, strings, strict=True) if not s.startswith("\\x")]
    assert sum(resolve_token(gemma, s) == i for i, s in whole) >= 0.99 * len(whole)
    assert json.loads(json.dumps(strings)) == strings


# An answer's text


@pytest.mark.parametrize("name", ["gpt2", "llama", "words"])
def test_an_answer_has_the_tokens_of_the_whole_text(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    prompt, answer = read_prompt(model, "The dog"), " sleeps, Paris…"
    answered = tokenize_answer(model, prompt, answer)
    whole = read_prompt(model, "The dog" + answer)
    assert answered.prompt == whole and answered.start == len(prompt)
    assert answered.token_ids == whole.token_ids[len(prompt) :] and not answered.generated
    by_ids = tokenize_answer(model, prompt, answered.token_ids)
    assert by_ids.token_ids == answered.token_ids


def test_a_text_after_a_line_is_read_otherwise_than_alone(llama: Any) -> None:
    """Alone, "dog" would get the space that this tokenizer puts before every text."""
    prompt = read_prompt(llama, "Paris\n")
    alone = llama.tokenizer.encode("dog", add_special_tokens=False)
    assert tokenize_answer(llama, prompt, "dog").tokens == ("dog",)
    assert list(tokenize_answer(llama, prompt, "dog").token_ids) != alone


def test_an_answer_after_a_chat_follows_its_template(chat: Any) -> None:
    prompt = read_prompt(chat, [{"role": "user", "content": "The dog"}])
    answered = tokenize_answer(chat, prompt, " sleeps").prompt
    assert answered.token_ids[: len(prompt)] == prompt.token_ids
    assert (answered.spans, answered.turns, answered.source) == (prompt.spans, prompt.turns, "chat")


def test_an_answer_that_changes_the_prompt_is_refused(gpt2: Any, llama: Any) -> None:
    said = refusal(lambda: tokenize_answer(gpt2, read_prompt(gpt2, "The capital of Fra"), "nce is"))
    assert "'nce is' joins the prompt's last token" in said and "begin it with a space" in said
    cut = read_prompt(llama, "Paris dog").first(2)
    assert "give the answer as token ids" in refusal(lambda: tokenize_answer(llama, cut, " dog"))
    ids = read_prompt(llama, read_prompt(llama, "Paris").token_ids)
    assert "given as ids" in refusal(lambda: tokenize_answer(llama, ids, " dog"))
    assert (
        tokenize_answer(llama, cut, tokenize_answer(llama, read_prompt(llama, "Paris"), " dog").token_ids).text
        == " dog"
    )


def test_an_answer_past_the_window_or_the_vocabulary_is_refused(gpt2: Any) -> None:
    prompt = read_prompt(gpt2, "The dog")
    assert "exceeds the context window of 128" in refusal(lambda: tokenize_answer(gpt2, prompt, " dog" * 200))
    letter = read_prompt(gpt2, "T")
    small = model_of(gpt2.tokenizer, d_vocab=max(letter.token_ids) + 1)
    assert "outside the model's vocabulary" in refusal(lambda: tokenize_answer(small, letter, " Paris"))
