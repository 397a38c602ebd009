"""Tiny models that read series of numbers."""

from typing import Any

from tokenizers import Regex, Tokenizer
from tokenizers import models as tokenizer_models
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast

PIECES = ["<bos>", "<unk>", *"0123456789", ",", "-", ".", " ", "x", "12", "34", "5,", "<a>", "<b>", "<c>"]
SERIES = "12,34,50,12,34,50,12,"


def with_numbers(model: Any, pattern: str = r"[0-9]|[^0-9]") -> Any:
    """A tiny model that reads digits one by one, though its vocabulary holds longer pieces too."""
    core = Tokenizer(tokenizer_models.WordLevel({piece: i for i, piece in enumerate(PIECES)}, unk_token="<unk>"))
    core.pre_tokenizer = Split(Regex(pattern), "isolated")
    model.tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<bos>", unk_token="<unk>")
    return model
