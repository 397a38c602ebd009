"""The conventions of an evaluation as one value: ours, and those of arXiv:2601.16407.

What a paper's number means is decided by small choices: which token is explained, whether BOS is there, how many tokens
a fraction is, how blocks are redrawn. `Protocol` holds them, and everything that measures reads them from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from lens_scopes.errors import VALIDATED, EvaluationError, find_entry

if TYPE_CHECKING:
    from lens_scopes.engine.model import ModelLike

ProtocolLike: TypeAlias = Annotated["Protocol | str | None", VALIDATED]


@dataclass(frozen=True)
class Protocol:
    """What an evaluation takes for granted; the defaults are this package's own.

    Attributes:
        name: as `evaluate(protocol=…)` takes it.
        explained: what methods of one token explain: the model's own "top" token, or the "true" next one. The change
            of log p is that of the top token either way.
        target_ranked: whether the token after the prompt counts among those ranked. Nothing depends on it, so its
            score and its effect are 0.
        count_rounding: a fraction f of n tokens is the "nearest" whole number to f·n, or the next one "down".
        overlap_rounding: the same for the top 10% of the Jaccard index: "nearest", or the next one "up".
        redraw: how blocks are redrawn; see `RandomizedBlocks`.
        redrawn_passages: which passages the redrawn blocks are tried on: "all", or those predicted "correct"ly.
        bos_families: the model families whose prompts begin with BOS, those of all others having none; None leaves
            prompts as the tokenizer makes them.
        redrawn_bos: whether prompts keep their BOS while blocks are redrawn.
        meanings: what a method's name stands for where it is not the usual one.
        tables: the methods of each metric that the protocol knows; empty where it knows all.
    """

    name: str = "lens_scopes"
    explained: Literal["top", "true"] = "top"
    target_ranked: bool = False
    count_rounding: Literal["nearest", "down"] = "nearest"
    overlap_rounding: Literal["nearest", "up"] = "nearest"
    redraw: Literal["spread", "initializer"] = "spread"
    redrawn_passages: Literal["all", "correct"] = "all"
    bos_families: tuple[str, ...] | None = None
    redrawn_bos: bool = True
    meanings: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def count(self, fraction: float, n: int) -> int:
        """How many of n tokens a fraction of them is: at least one unless the fraction is 0, at most all."""
        whole = round(fraction * n) if self.count_rounding == "nearest" else int(fraction * n)
        return 0 if fraction == 0 else min(n, max(1, whole))

    def overlap_count(self, n: int, fraction: float = 0.1) -> int:
        """How many of n tokens the top fraction of the Jaccard index is."""
        whole = round(fraction * n) if self.overlap_rounding == "nearest" else math.ceil(fraction * n)
        return min(n, max(1, whole))

    def token_to_explain(self, top: int, true: int | None) -> int:
        """The token that methods of one token explain.

        Raises:
            EvaluationError: where the protocol explains the true next token and none is known.
        """
        if self.explained == "top":
            return top
        if true is None:
            raise EvaluationError(
                f"protocol {self.name!r} explains the true next token, and this passage has none; use target='last'."
            )
        return true

    def check_answers(self) -> None:
        """Raises EvaluationError where the protocol is about next tokens alone."""
        if self.explained != "top" or self.target_ranked:
            raise EvaluationError(
                f"protocol {self.name!r} explains next tokens, and says nothing of answers; leave the protocol out."
            )

    def check_parts(self) -> None:
        """Raises EvaluationError where the protocol ranks other tokens than an eligible part."""
        if self.target_ranked or self.bos_families is not None:
            raise EvaluationError(
                f"protocol {self.name!r} ranks all tokens of a passage, so no part of it alone is eligible; leave the "
                "protocol, or the parts, out."
            )

    def prompt_tokens(self, model: ModelLike, token_ids: Sequence[int]) -> tuple[int, ...]:
        """A passage's tokens with BOS where the model's family has it, and without where it has none."""
        bos = getattr(model.tokenizer, "bos_token_id", None)
        if self.bos_families is None or bos is None:
            return tuple(token_ids)
        return (*((bos,) if _family_of(model, self.bos_families) else ()), *_without_bos(token_ids, bos))

    def redrawn_prompt_tokens(self, model: ModelLike, token_ids: Sequence[int]) -> tuple[int, ...]:
        """The tokens of a prompt while blocks are redrawn."""
        bos = getattr(model.tokenizer, "bos_token_id", None)
        return tuple(token_ids) if self.redrawn_bos or bos is None else _without_bos(token_ids, bos)

    def check_metrics(self, names: Sequence[str]) -> None:
        """Raises EvaluationError for a metric of which the protocol says nothing."""
        unknown = [name for name in names if self.tables and name not in self.tables]
        if unknown:
            raise EvaluationError(
                f"protocol {self.name!r} says nothing of {', '.join(unknown)}; it knows {', '.join(self.tables)}."
            )

    def methods_of(self, metrics: Sequence[str]) -> list[str]:
        """The methods of the protocol's tables of these metrics, each once."""
        return list(dict.fromkeys(name for metric in metrics for name in self.tables.get(metric, ())))

    def record(self) -> dict[str, Any]:
        """The conventions as plain values."""
        return asdict(self) | {"meanings": dict(self.meanings), "tables": {k: list(v) for k, v in self.tables.items()}}


OWN = Protocol()
"""What this package does unless another protocol is asked for."""

_AOPC_METHODS = ("random", "ig", "ixg", "semantic", "temperature", "fisher")

PAPER = Protocol(
    name="arXiv:2601.16407",
    explained="true",
    target_ranked=True,
    count_rounding="down",
    overlap_rounding="up",
    redraw="initializer",
    redrawn_passages="correct",
    bos_families=("gemma",),
    redrawn_bos=False,
    meanings={"ixg": "logprob+product", "ig": "ig-weighted"},
    tables={
        "aopc": _AOPC_METHODS,
        "loo-kl": ("random", "ig-semantic", "ixg", "semantic", "temperature", "fisher@4"),
        "randomization": ("semantic", "temperature", "fisher"),
    },
)
"""The conventions of the public code of Jacobian Scopes (arXiv:2601.16407) and its rebuttal."""

PROTOCOLS = {protocol.name: protocol for protocol in (OWN, PAPER)}


def as_protocol(protocol: ProtocolLike) -> Protocol:
    """Reads a protocol given by value or name; None stands for this package's own.

    Raises:
        EvaluationError: for an unknown one.
    """
    if protocol is None:
        return OWN
    if isinstance(protocol, Protocol):
        return protocol
    return find_entry(protocol, PROTOCOLS, "protocol", EvaluationError)


def _without_bos(token_ids: Sequence[int], bos: int) -> tuple[int, ...]:
    first = next((place for place, token in enumerate(token_ids) if token != bos), len(token_ids))
    return tuple(token_ids[first:])


def _family_of(model: ModelLike, families: Sequence[str]) -> bool:
    names = (getattr(model.cfg, name, None) for name in ("original_architecture", "architecture", "model_name"))
    return any(family in str(name).lower() for name in names if name for family in families)


def is_gemma(model: ModelLike) -> bool:
    """Whether the model's norms scale by one plus their weight, as all of the Gemma family do."""
    return _family_of(model, ("gemma",))
