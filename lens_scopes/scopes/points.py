"""Where gradients are taken: at the prompt itself, or averaged over points around it or on the way to it.

    ḡ_i,t = mean over α of v_iᵀ J_t(x(α))

A scope is local unless asked otherwise. Along a straight path from a start b, x(α) = b + α (x − b), and read by `dot`
from that start, the scores of a scope that is a number add up to what the path changes, f(x) − f(b) (completeness):
Integrated Gradients for a logit or log-probability, and the same for Temperature, Entropy, LogitDiff and a Custom of
one direction. A divergence (Fisher, a Custom of several directions) keeps the prompt's own axes along the path; its
scores add up to nothing. Averaged over noise around the prompt it is SmoothGrad.
"""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, ClassVar, TypeAlias

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.forward import token_embeddings
from lens_scopes.engine.text_mean import averaged_mask, text_mean
from lens_scopes.errors import PromptError, ReadoutError
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.prompts.read import read_prompt
from lens_scopes.prompts.tokens import resolve_token

# What is none of these is refused with a ReadoutError that says what to do, also under a run-time type checker: Any.
Start: TypeAlias = str | int | Sequence[int] | Tensor | Prompt | Any
Count: TypeAlias = int | Any
PointsLike: TypeAlias = "Points | str | None | Any"

SPECIAL_STARTS = ("bos", "eos", "pad")
_POINTS = 16  # unless a number is given


class Points(ABC):
    """Base of the ways to choose where gradients are taken."""

    name: ClassVar[str]

    @property
    @abstractmethod
    def count(self) -> int:
        """How many there are."""

    def start_embeddings(self, model: Any, prompt: Prompt, length: int) -> Float[Tensor, "pos d_model"] | None:
        """The embeddings that points start from, which readouts then measure from; None where there is no start.

        Args:
            prompt: its first `length` tokens are explained.
        """
        return None

    @abstractmethod
    def embeddings(
        self, own: Float[Tensor, "pos d_model"], start: Float[Tensor, "pos d_model"] | None = None
    ) -> Float[Tensor, "point pos d_model"]:
        """The prompt's embeddings at every point, from the prompt's own and those of the start."""

    @abstractmethod
    def describe(self) -> str:
        """The points in words, for the contract."""


@dataclass(frozen=True)
class StraightPath(Points):
    """Points on the straight line from a start to the prompt, all tokens moving together.

    x(α_n) = b + α_n (x − b) with α_n = (n − ½)/steps, n = 1 … steps (midpoint rule).

    The readouts `dot` and `product` measure from the same start, so that the scores of a scope that is a number add up
    to f(x) − f(b) up to the error of the midpoint rule. At other sites than the embedding they measure from the site's
    activation in a run of the start.

    Models that normalise the bare embeddings first (rotary positions: LLaMA, Gemma, Pythia) see hardly any difference
    between x and αx until α is next to zero, where the output jumps: no feasible number of steps catches that part of
    the change from "zero", so completeness fails there. From any other start it holds.

    Args:
        start: b, one of

            - "zero", the zero vector;
            - "mean", the mean embedding of the prompt's non-special tokens;
            - "bos", "eos" or "pad", the embedding of that token, at every position;
            - a token, as its exact string (`" the"`) or its id: its embedding at every position;
            - another prompt of as many tokens, as text (of more than one token), ids or a Prompt.
        steps: number of points.
        hold_special: whether special tokens (BOS) keep their own embeddings along the path; their `dot` is then 0.

    Raises:
        ReadoutError: for a start that is none of these, and steps that are not a positive integer.
        PromptError: when used, for a token or prompt that does not fit the model.

    Source: Integrated Gradients, Sundararajan et al., arXiv:1703.01365; the path-integrated scopes of
    arXiv:2601.16407.

    Example:
        >>> StraightPath("bos", steps=8, hold_special=True).describe()
        '8 points of the straight path from the bos token to the prompt, special tokens held fixed'
    """

    start: Start = "zero"
    steps: Count = _POINTS
    hold_special: bool = False
    name: ClassVar[str] = "path"

    def __post_init__(self) -> None:
        object.__setattr__(self, "start", _plain_start(self.start))
        if not _is_count(self.steps):
            raise ReadoutError(f"a path needs at least one step, a whole number of them; got {self.steps!r}.")

    @property
    def count(self) -> int:
        return self.steps

    def start_embeddings(self, model: Any, prompt: Prompt, length: int) -> Float[Tensor, "pos d_model"]:
        token_ids, special = prompt.token_ids[:length], prompt.special[:length]
        own = token_embeddings(model, token_ids)
        if self.start == "zero":
            start = torch.zeros_like(own)
        elif self.start == "mean":
            start = text_mean(own[None], averaged_mask([special]).to(own.device))[0].to(own)
        else:
            ids = _start_ids(model, self.start, len(prompt), length)
            start = token_embeddings(model, ids)
        start = start.expand_as(own)
        if self.hold_special:
            held = torch.tensor(special, device=own.device)
            start = torch.where(rearrange(held, "pos -> pos 1"), own, start)
        return start

    def embeddings(
        self, own: Float[Tensor, "pos d_model"], start: Float[Tensor, "pos d_model"] | None = None
    ) -> Float[Tensor, "point pos d_model"]:
        assert start is not None, "a path has a start"
        alphas = (torch.arange(self.steps, device=own.device, dtype=own.dtype) + 0.5) / self.steps
        return start + rearrange(alphas, "point -> point 1 1") * (own - start)

    def describe(self) -> str:
        held = ", special tokens held fixed" if self.hold_special else ""
        return f"{self.steps} points of the straight path from {self._start_words()} to the prompt{held}"

    def _start_words(self) -> str:
        if self.start == "zero":
            return "the zero vector"
        if self.start == "mean":
            return "the mean embedding of the prompt's non-special tokens"
        if self.start in SPECIAL_STARTS:
            return f"the {self.start} token"
        if isinstance(self.start, int):
            return f"the token #{self.start}"
        if isinstance(self.start, str):
            return f"{self.start!r}"
        return "another prompt's tokens"


@dataclass(frozen=True)
class Noise(Points):
    """Points scattered around the prompt: x + ε with ε ~ N(0, σ² I) on every token's embedding.

    σ = scale × the root mean square entry of the prompt's embeddings.

    Args:
        samples: number of points.
        scale: the noise, in units of a typical entry.
        seed: of the noise; the global generator is not touched.

    Raises:
        ReadoutError: for samples that are not a positive integer, and a scale that is not positive.

    Source: SmoothGrad, Smilkov et al., arXiv:1706.03825.
    """

    samples: Count = _POINTS
    scale: float = 0.1
    seed: int = 0
    name: ClassVar[str] = "noise"

    def __post_init__(self) -> None:
        if not _is_count(self.samples) or not (self.scale > 0 and isfinite(self.scale)):
            raise ReadoutError(
                "noise needs at least one sample, a whole number of them, and a positive scale; got "
                f"{self.samples!r} and {self.scale!r}."
            )

    @property
    def count(self) -> int:
        return self.samples

    def embeddings(
        self, own: Float[Tensor, "pos d_model"], start: Float[Tensor, "pos d_model"] | None = None
    ) -> Float[Tensor, "point pos d_model"]:
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randn(self.samples, *own.shape, generator=generator, dtype=torch.float64)
        sigma = self.scale * own.double().square().mean().sqrt()
        return own + (sigma.cpu() * drawn).to(own)

    def describe(self) -> str:
        return (
            f"{self.samples} points with noise of {self.scale:g} times a typical entry on every embedding "
            f"(seed {self.seed})"
        )


def _path_named(start: str, hold_special: bool) -> Callable[[int], Points]:
    return lambda steps: StraightPath(start, steps, hold_special)


POINTS: dict[str, Callable[[int], Points]] = {
    f"path{'' if start == 'zero' else f'-{start}'}{'-held' if held else ''}": _path_named(start, held)
    for start in ("zero", "mean", *SPECIAL_STARTS)
    for held in (False, True)
} | {"noise": Noise}
"""The names of points in text, each with what makes them of a number of points."""


def as_points(points: PointsLike) -> Points | None:
    """Reads points given by object, or as text: "path", "path-mean@32", "path-bos-held@16" or "noise@8".

    Text is `path[-mean|-bos|-eos|-pad][-held][@N]` or `noise[@N]`: the path's start ("zero" unless it is named),
    whether special tokens are held fixed, and the number of points, 16 unless it is given. None stands for the prompt
    itself. A start that is another token or prompt is given by `StraightPath(start)`.

    Raises:
        ReadoutError: for anything else.
    """
    if points is None or isinstance(points, Points):
        return points
    if isinstance(points, str):
        return _named(points)
    got = f"the class {points.__name__}" if isinstance(points, type) else repr(points)
    raise ReadoutError(f"points takes ls.StraightPath(), ls.Noise() or None for the prompt itself; got {got}.")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _named(text: str) -> Points:
    name, _, count = text.partition("@")
    if name not in POINTS or (count and not count.isdecimal()):
        near = difflib.get_close_matches(name, POINTS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near and near[0] != name else ""
        raise ReadoutError(
            f"unknown points {text!r}{hint} (expected path, path-START with the START mean, bos, eos or pad, either "
            "followed by -held where special tokens stay fixed, or noise; each with @N for the number of points)."
        )
    return POINTS[name](int(count or _POINTS))


def _plain_start(start: Start) -> str | int | tuple[int, ...]:
    """A start as a value that can be compared and written down: a name or text, a token id, or a prompt's ids."""
    if isinstance(start, str) and start:
        return start
    if type(start) is int and start >= 0:
        return start
    if isinstance(start, Prompt):
        return start.token_ids
    if isinstance(start, Tensor):
        start = start.squeeze(0).tolist() if start.ndim == 2 and len(start) == 1 else start.tolist()
    if isinstance(start, Sequence) and not isinstance(start, (str, bytes)) and start:
        ids = tuple(start)
        if all(type(item) is int for item in ids):
            return ids
    raise ReadoutError(
        'a path starts at "zero", "mean", "bos", "eos", "pad", a token (its string or id), or another prompt of as '
        f"many tokens (text or ids); got {start!r}."
    )


def _start_ids(model: Any, start: Start, n_prompt: int, length: int) -> list[int]:
    """The token that a path starts from, for all positions; or the tokens of another prompt, one for each.

    Raises:
        ReadoutError: for a special token that the model lacks, and a prompt of another length.
    """
    if isinstance(start, str) and start in SPECIAL_STARTS:
        token_id = getattr(model.tokenizer, f"{start}_token_id", None)
        if token_id is None:
            raise ReadoutError(
                f'a path from "{start}" needs a tokenizer with such a token, and this model\'s has none; start from '
                '"mean", from a token\'s string, or from its id.'
            )
        return [int(token_id)]
    if isinstance(start, int):
        return [resolve_token(model, start)]
    if isinstance(start, str):
        try:
            return [resolve_token(model, start)]
        except PromptError:
            if model.tokenizer is None:
                raise
    ids = list(read_prompt(model, start).token_ids)
    if len(ids) not in (n_prompt, length):
        raise ReadoutError(
            f"the path's start {start!r} has {len(ids)} tokens (BOS included) but the prompt {n_prompt}; give one "
            "token, or a prompt of as many."
        )
    return ids[:length]
