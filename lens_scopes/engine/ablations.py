"""Ablations by name: what each one replaces a token, or the output of a head or MLP, by.

Help, errors, methods and contracts take names and words from here. This module imports nothing heavy, so that `--help`
is quick; the function of an entry is imported when it is first used.
"""

from __future__ import annotations

from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Any, Literal

from lens_scopes.errors import EvaluationError, find_entry, suggest

COMPONENT_BASELINES = ("zero", "mean", "shuffle")
"""What the output of a head or MLP is set to, besides its output under another prompt."""


def unknown_baseline(baseline: object) -> str:
    """The message about what is neither one of COMPONENT_BASELINES nor a prompt."""
    near = suggest(baseline, COMPONENT_BASELINES, end="")
    return (
        f"unknown ablation {baseline!r}{near} (expected {', '.join(map(repr, COMPONENT_BASELINES))} or another prompt, "
        "as text, chat messages, ids or a Prompt; one word as ids or a Prompt)."
    )


@dataclass(frozen=True)
class TokenAblation:
    """One way to ablate a token.

    Attributes:
        name: as written on the command line.
        help: what a token is replaced by, in a few words.
        function: of `lens_scopes.engine.token_ablation`, which makes the replacement embeddings; "" where tokens are
            taken out.
        corpus: whether the tokens of other passages are unused, used where there are any, or required.
        random: whether the replacement is random, and outcomes are averaged over draws.
        special_token: whether it is a special token, which a tokenizer may lack.
        other_prompt: whether it takes another prompt of as many tokens.
    """

    name: str
    help: str
    function: str = ""
    corpus: Literal["unused", "optional", "required"] = "unused"
    random: bool = False
    special_token: bool = False
    other_prompt: bool = False

    def replacements(self, prompt: Any) -> Any:
        """The replacement embeddings [draw, pos, d_model] for an AblatedPrompt; None where tokens are taken out."""
        return resolve_name(f"lens_scopes.engine.token_ablation:{self.function}")(prompt) if self.function else None


ABLATIONS = {
    ablation.name: ablation
    for ablation in (
        TokenAblation("zero", "the zero vector", "zero_vectors"),
        TokenAblation("pad", "the embedding of the padding token", "special_token", special_token=True),
        TokenAblation("eos", "the embedding of the end-of-text token", "special_token", special_token=True),
        TokenAblation("bos", "the embedding of the begin-of-text token", "special_token", special_token=True),
        TokenAblation("mean", "the mean embedding of the prompt's non-special tokens", "prompt_mean"),
        TokenAblation(
            "corpus-mean", "the mean embedding of the tokens of all passages", "corpus_mean", corpus="required"
        ),
        TokenAblation(
            "resample",
            "the embeddings of tokens drawn from all passages (from the prompt itself where there are no others)",
            "resampled_tokens",
            corpus="optional",
            random=True,
        ),
        TokenAblation(
            "prompt",
            "the embedding of the token in its place in another prompt (in an evaluation each passage brings one)",
            "other_tokens",
            other_prompt=True,
        ),
        TokenAblation("remove", "nothing: the token is taken out and later ones move up"),
    )
}


def find_ablation(name: str) -> TokenAblation:
    """The ablation of that name.

    Raises:
        EvaluationError: for an unknown one, with near names.
    """
    return find_entry(name, ABLATIONS, "ablation", EvaluationError)
