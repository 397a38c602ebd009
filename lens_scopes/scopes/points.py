"""Where gradients are taken: at the prompt itself, or averaged over points around it or on the way to it.

    ḡ_i,t = mean over α of v_iᵀ J_t(x(α))

A scope is local unless asked otherwise. Along a straight path from a start b, x(α) = b + α (x − b), and read by `dot`
from that start, the scores of a scope that is a number add up to what the path changes, f(x) − f(b) (completeness):
Integrated Gradients for a logit or log-probability, and the same for Temperature, Entropy, LogitDiff and a Custom of
one direction. A divergence (Fisher, a Custom of several directions) keeps the prompt's own axes along the path; its
scores add up to nothing. Averaged over noise around the prompt it is SmoothGrad.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, TypeAlias

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.model import ScopedModel
from lens_scopes.engine.token_ablation import text_mask, text_mean
from lens_scopes.errors import VALIDATED, PromptError, ReadoutError, check_seed
from lens_scopes.prompts.alignment import read_aligned
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.prompts.read import PromptLike
from lens_scopes.prompts.tokens import resolve_token
from lens_scopes.scopes.other_prompt import (
    OtherPrompt,
    as_other_prompt,
    no_other_prompt,
    read_other_prompt,
    write_other_prompt,
)
from lens_scopes.scopes.text.forms import NAMED_STARTS, SPECIAL_STARTS, points_form
from lens_scopes.scopes.text.values import EACH, write_token

Start: TypeAlias = Annotated[int | PromptLike, VALIDATED]
Count: TypeAlias = Annotated[int, VALIDATED]
PointsLike: TypeAlias = Annotated["Points | str | None", VALIDATED]

_POINTS = 16  # unless a number is given
_MAX_POINTS = 100_000
_LARGEST_SCALE = 1e6


class Points(ABC):
    """Base of the ways to choose where gradients are taken."""

    name: ClassVar[str]

    @property
    @abstractmethod
    def count(self) -> int:
        """How many there are."""

    def check(self, model: ScopedModel) -> None:  # noqa: B027  (most points fit every model)
        """Raises ReadoutError for points that no prompt of this model has."""

    def start_embeddings(self, model: ScopedModel, prompt: Prompt, length: int) -> Float[Tensor, "pos d_model"] | None:
        """The embeddings that points start from, which readouts then measure from; None where there is no start.

        Args:
            prompt: its first `length` tokens are explained.

        Raises:
            ReadoutError: where the start is another prompt, and there is none.
        """
        return None

    @abstractmethod
    def embeddings(
        self, embeddings: Float[Tensor, "pos d_model"], start: Float[Tensor, "pos d_model"] | None = None
    ) -> Float[Tensor, "point pos d_model"]:
        """The prompt's embeddings at every point, from those of the prompt and of the start."""

    @abstractmethod
    def describe(self) -> str:
        """The points in words, for the contract."""

    @property
    def text(self) -> str:
        """The points as text, which `as_points` reads.

        Raises:
            ReadoutError: for points of one's own, which have none.
        """
        raise ReadoutError(f"{type(self).__name__} is a value of Python alone and has no text.")


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
            - another prompt of as many tokens, as text (of more than one token), chat messages, ids or a Prompt;
            - "prompt", in an evaluation: the other prompt of each passage.
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
        if not isinstance(self.hold_special, bool):
            raise ReadoutError(f"hold_special is True or False; got {self.hold_special!r}.")
        if not _is_count(self.steps):
            raise ReadoutError(f"a path needs at least one step, a whole number of them; got {self.steps!r}.")

    @property
    def count(self) -> int:
        return self.steps

    def check(self, model: ScopedModel) -> None:
        if self.start in SPECIAL_STARTS:
            _token_ids(model, self.start)

    def other_prompt(self, model: ScopedModel) -> OtherPrompt | None:
        """The prompt that the path starts from; None where it starts from a vector or a token."""
        start: Any = self.start
        return None if start in ("zero", "mean", EACH) or _token_ids(model, start) else start

    def against(self, other: OtherPrompt) -> StraightPath:
        """The path from another prompt.

        Raises:
            ReadoutError: for a path with another start than the usual one.
        """
        if self.start not in ("zero", EACH):
            raise ReadoutError(
                f"the path starts at {self.start!r} already, so there is no place for another prompt; write "
                f"path@{self.steps}."
            )
        return replace(self, start=other)

    def start_embeddings(self, model: ScopedModel, prompt: Prompt, length: int) -> Float[Tensor, "pos d_model"]:
        if self.start == EACH:
            raise ReadoutError(no_other_prompt("the start of a path,"))
        token_ids, special = prompt.token_ids[:length], prompt.special[:length]
        embeddings = model.token_embeddings(token_ids)
        if self.start == "zero":
            start = torch.zeros_like(embeddings)
        elif self.start == "mean":
            start = text_mean(embeddings[None], text_mask([special]).to(embeddings.device))[0].to(embeddings)
        else:
            # A token stands for itself at every position; what is no token is another prompt.
            other: Any = self.start
            ids = _token_ids(model, other) or read_aligned(model, prompt, other, length).token_ids[:length]
            start = model.token_embeddings(ids)
        start = start.expand_as(embeddings)
        if self.hold_special:
            held = torch.tensor(special, device=embeddings.device)
            start = torch.where(rearrange(held, "pos -> pos 1"), embeddings, start)
        return start

    def embeddings(
        self, embeddings: Float[Tensor, "pos d_model"], start: Float[Tensor, "pos d_model"] | None = None
    ) -> Float[Tensor, "point pos d_model"]:
        assert start is not None, "a path has a start"
        alphas = (torch.arange(self.steps, device=embeddings.device, dtype=embeddings.dtype) + 0.5) / self.steps
        return start + rearrange(alphas, "point -> point 1 1") * (embeddings - start)

    def describe(self) -> str:
        held = ", special tokens held fixed" if self.hold_special else ""
        return f"{self.steps} points of the straight path from {self._start_words()} to the prompt{held}"

    @property
    def text(self) -> str:
        return f"path{_start_text(self.start)}{'-held' * self.hold_special}@{self.steps}"

    def _start_words(self) -> str:
        if self.start == "zero":
            return "the zero vector"
        if self.start == "mean":
            return "the mean embedding of the prompt's non-special tokens"
        if self.start in SPECIAL_STARTS:
            return f"the {self.start} token"
        if self.start == EACH:
            return "each prompt's other one"
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

    Example:
        >>> ls.Noise(samples=4).describe()
        '4 points with noise of 0.1 times a typical entry on every embedding (seed 0)'
    """

    samples: Count = _POINTS
    scale: float = 0.1
    seed: int = 0
    name: ClassVar[str] = "noise"

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", check_seed(self.seed))
        is_number = isinstance(self.scale, int | float) and not isinstance(self.scale, bool)
        if not _is_count(self.samples) or not (is_number and 0 < self.scale <= _LARGEST_SCALE):
            raise ReadoutError(
                "noise needs at least one sample, a whole number of them, and a positive scale; got "
                f"{self.samples!r} and {self.scale!r}."
            )

    @property
    def count(self) -> int:
        return self.samples

    def embeddings(
        self, embeddings: Float[Tensor, "pos d_model"], start: Float[Tensor, "pos d_model"] | None = None
    ) -> Float[Tensor, "point pos d_model"]:
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.randn(self.samples, *embeddings.shape, generator=generator, dtype=torch.float64)
        sigma = self.scale * embeddings.double().square().mean().sqrt()
        return embeddings + (sigma.cpu() * noise).to(embeddings)

    def describe(self) -> str:
        return (
            f"{self.samples} points with noise of {self.scale:g} times a typical entry on every embedding "
            f"(seed {self.seed})"
        )

    @property
    def text(self) -> str:
        usual = Noise()
        settings = {name: getattr(self, name) for name in ("scale", "seed")}
        more = [f",{name}={value!r}" for name, value in settings.items() if value != getattr(usual, name)]
        return f"noise@{self.samples}{''.join(more)}"


def as_points(points: PointsLike) -> Points | None:
    """Reads points given by object, or as text: "path", "path-mean@32", "path-bos-held@16" or "noise@8".

    Text is `path[-START][-held][@N]` or `noise[@N][,scale=…][,seed=…]`, with 16 points unless N is given. START is
    zero (the default), mean, bos, eos or pad, a token as its id `#9079` or its quoted string `" the"`, or a prompt as
    ids `#2#651#9079`; special tokens are held fixed after -held. None stands for the prompt itself.

    Raises:
        ReadoutError: for anything else.
    """
    if points is None or isinstance(points, Points):
        return points
    if isinstance(points, str):
        return _points_of_text(points)
    got = f"the class {points.__name__}" if isinstance(points, type) else repr(points)
    raise ReadoutError(f"points takes ls.StraightPath(), ls.Noise() or None for the prompt itself; got {got}.")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MAX_POINTS


def _points_of_text(text: str) -> Points:
    kind, parts = points_form(text)
    count = int(parts["count"] or _POINTS)
    if kind == "path":
        return StraightPath(_read_start(parts["start"] or "zero"), count, bool(parts["held"]))
    return Noise(count, _scale(parts["scale"] or Noise().scale), int(parts["seed"] or 0))


def _scale(text: str | float) -> float:
    try:
        return float(text)
    except ValueError:
        raise ReadoutError(f"the scale of noise is a positive number; got {text!r}.") from None


def _read_start(text: str) -> Start:
    if text in NAMED_STARTS:
        return text
    start = read_other_prompt(text)
    return start[0] if len(start) == 1 and isinstance(start[0], int) else start  # one id is a token's


def _start_text(start: Any) -> str:
    if start == "zero":
        return ""
    if start in NAMED_STARTS:
        return f"-{start}"
    return f"-{write_token(start) if isinstance(start, int) else write_other_prompt(start)}"


def _plain_start(start: Start) -> int | OtherPrompt:
    """A start as a value that can be compared and written down: a name or text, a token id, or a prompt's ids or
    messages."""
    if type(start) is int and start >= 0:
        return start
    other = as_other_prompt(start)
    if other is None:
        raise ReadoutError(
            'a path starts at "zero", "mean", "bos", "eos", "pad", a token (its string or id), or another prompt of as '
            f"many tokens (text, chat messages or ids); got {start!r}."
        )
    return other


def _token_ids(model: ScopedModel, start: Start) -> list[int] | None:
    """The one token that a path starts from at every position; None where it starts from another prompt.

    Raises:
        ReadoutError: for a special token that the model lacks.
        PromptError: for a token that it lacks.
    """
    if isinstance(start, str) and start in SPECIAL_STARTS:
        token_id = getattr(model.tokenizer, f"{start}_token_id", None)
        if token_id is None:
            raise ReadoutError(
                f'a path from "{start}" needs a tokenizer with such a token, and this model\'s has none; start from '
                '"mean", from a token\'s string, or from its id.'
            )
        return [int(token_id)]
    if not isinstance(start, (str, int)):
        return None
    try:
        return [resolve_token(model, start)]
    except PromptError:
        if isinstance(start, int) or model.tokenizer is None:
            raise
        return None
