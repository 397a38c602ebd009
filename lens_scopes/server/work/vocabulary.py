"""Token completion: tokens that begin with the typed text, then tokens that contain it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from lens_scopes.prompts.tokens import TokenModel, token_string
from lens_scopes.server.api.schemas import VocabularyEntry
from lens_scopes.views.words.token_text import printable_token


class Vocabulary:
    """The strings of all tokens, in the order of their ids."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = tokens
        # Without regard to case and to spaces before: most targets begin with a space that nobody types.
        self._order = sorted((token.strip().casefold(), index) for index, token in enumerate(tokens))

    @classmethod
    def of(cls, model: TokenModel) -> Vocabulary:
        """The output vocabulary of a model; empty where it has no tokenizer."""
        if model.tokenizer is None:
            return cls([])
        return cls([token_string(model, index) for index in range(model.cfg.d_vocab)])

    def search(
        self, typed: str, most: int, probabilities: Float[Tensor, " d_vocab"] | None = None
    ) -> list[VocabularyEntry]:
        """What was typed exactly, then tokens that begin with it, the shortest first, then tokens that hold it.

        With the probabilities of the next token, tokens that begin with what was typed come from the most probable on:
        what is typed exactly is seldom what the model predicts, as in most vocabularies `Mary` and ` Mary` are two.
        """
        needle = typed.strip().casefold()
        if not needle:
            return []
        # Tokens that begin with it stand together in the sorted list, up to where U+10FFFF would follow it.
        start = bisect_left(self._order, (needle, -1))
        stop = bisect_left(self._order, (needle + "\U0010ffff", -1))
        matches = [index for _, index in self._order[start:stop]]
        begins = set(matches)
        if len(matches) < most:
            holds = (index for text, index in self._order if needle in text and index not in begins)
            matches += [index for _, index in zip(range(most - len(matches)), holds, strict=False)]
        if probabilities is None:
            matches.sort(key=lambda index: self._rank(index, typed, needle))
            return [self._entry(index) for index in matches[:most]]
        chances = probabilities[matches].tolist()
        in_order = sorted(
            zip(matches, chances, strict=True), key=lambda item: (item[0] not in begins, -item[1], item[0])
        )
        return [self._entry(index, probability) for index, probability in in_order[:most]]

    def _rank(self, index: int, typed: str, needle: str) -> tuple[bool, bool, bool, int, bool, int]:
        token = self._tokens[index]
        bare = token.strip()
        begins = bare.casefold().startswith(needle)
        return token != typed, not begins, bare != typed.strip(), len(bare), not token.startswith(" "), index

    def _entry(self, index: int, probability: float | None = None) -> VocabularyEntry:
        token = self._tokens[index]
        return VocabularyEntry(token_id=index, token=token, label=printable_token(token), probability=probability)
