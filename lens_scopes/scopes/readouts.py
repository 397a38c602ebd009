"""How a gradient becomes a score: the amplitude a_t that one direction gives each token.

These are effects along one direction v. Over several, Σ_i w_i a_i,t² is no largest effect: with `norm` it is the trace
tr(J_tᵀ V diag(w) Vᵀ J_t), d times the mean of Σ_i w_i (v_iᵀ J_t u)² over unit changes u of d entries.

- norm: a_t = ‖vᵀJ_t‖₂, the largest first-order effect of a unit change of the activation, whatever its direction;
- dot: a_t = vᵀJ_t (x_t − b), the signed first-order effect of the activation having its value, not the baseline b;
- product: a_t = ‖(vᵀJ_t) ∘ (x_t − b)‖₂, the same effects of the activation's single entries, put together as a norm;
- relative: a_t = ‖vᵀJ_t‖₂ ‖x_t‖₂, the largest first-order effect of a change as large as the activation itself.

Along a path b is the path's start; otherwise it is zero, the mean over the prompt's non-special tokens, or x′_t, the
activation of another prompt at the same site and position. Dot from another prompt is attribution patching.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pkgutil import resolve_name
from typing import Annotated, Any, ClassVar, TypeAlias

import torch
from einops import reduce
from jaxtyping import Bool, Float
from torch import Tensor

from lens_scopes.engine.final_state import compute_dtype
from lens_scopes.engine.token_ablation import text_mean
from lens_scopes.errors import VALIDATED, ReadoutError
from lens_scopes.prompts.read import PromptLike
from lens_scopes.scopes.other_prompt import (
    OtherPrompt,
    as_baseline,
    describe_other_prompt,
    no_other_prompt,
    read_other_prompt,
    write_other_prompt,
)
from lens_scopes.scopes.points import Points, StraightPath
from lens_scopes.scopes.registry import READOUTS
from lens_scopes.scopes.text.forms import BASELINES, readout_form, unknown_readout
from lens_scopes.scopes.text.values import EACH

ReadoutBaseline: TypeAlias = Annotated[PromptLike | None, VALIDATED]

_NAMED = ("zero", "mean", "path", EACH)


class Readout(ABC):
    """Base of the readouts."""

    name: ClassVar[str]
    signed: ClassVar[bool]
    amplitude_symbol: ClassVar[str]
    from_baseline: ClassVar[bool] = False
    """Whether the score is about the activation's distance from a baseline, rather than any change of it."""

    @property
    def text(self) -> str:
        """The readout as text, which `as_readout` reads.

        Raises:
            ReadoutError: for a readout of one's own, which has none.
        """
        if self.name not in READOUTS:
            raise ReadoutError(f"{type(self).__name__} is a value of Python alone and has no text.")
        return self.name

    @property
    def other_prompt(self) -> OtherPrompt | None:
        """Another prompt whose activations are the baseline; None where the baseline is none."""
        return None

    def along(self, points: Points | None) -> Readout:
        """The readout with its baseline decided, for gradients taken at these points.

        Raises:
            ReadoutError: for a baseline that is not the start of the path.
        """
        return self

    def against(self, other: OtherPrompt) -> Readout:
        """The readout with another prompt as its baseline.

        Raises:
            ReadoutError: for a readout without a baseline, or with one of its own.
        """
        raise ReadoutError(f"the readout {self.name} has no baseline; another prompt is read by dot or product.")

    def baseline_values(
        self, activation: Float[Tensor, "batch pos *inner d"], averaged: Bool[Tensor, "batch pos"]
    ) -> Tensor:
        """b at a site, in any shape that spreads over the activation, where it is of the prompt itself; `averaged`
        marks the tokens of a mean."""
        return activation.new_zeros(())

    @abstractmethod
    def amplitude(
        self,
        gradient: Float[Tensor, "batch pos *inner d"],
        activation: Float[Tensor, "batch pos *inner d"],
        baseline: Tensor,
    ) -> Float[Tensor, "batch pos *inner"]:
        """a_t for one direction, given b."""

    @abstractmethod
    def describe(self) -> str:
        """The readout in words, for the contract."""


@dataclass(frozen=True)
class Norm(Readout):
    """a_t = ‖vᵀJ_t‖₂ (Jacobian Scopes, arXiv:2601.16407).

    With one direction it is the largest first-order effect of a unit change. With several, Σ_i w_i a_i,t² sums the
    squared effects over the directions and over an orthonormal basis of changes: a trace, and for Fisher Scope twice
    the summed divergence in nats.

    Example:
        >>> ls.attribute(model, "The capital of France is", readout=ls.Norm()).scores.min() >= 0
        tensor(True)
    """

    name: ClassVar[str] = "norm"
    signed: ClassVar[bool] = False
    amplitude_symbol: ClassVar[str] = "‖vᵀJ_t‖₂"

    def amplitude(self, gradient, activation, baseline):
        return torch.linalg.vector_norm(gradient, dim=-1, dtype=compute_dtype(gradient.dtype))

    def describe(self) -> str:
        return "the largest first-order effect of a unit change of the activation, in any direction"


@dataclass(frozen=True)
class Relative(Readout):
    """a_t = ‖vᵀJ_t‖₂ ‖x_t‖₂, ≥ 0: comparable between sites whose activations differ in size, such as layers.

    Example:
        >>> ls.attribute(model, "The capital of France is", layers=True, readout=ls.Relative()).layers.shape
        torch.Size([2, 6])
    """

    name: ClassVar[str] = "relative"
    signed: ClassVar[bool] = False
    amplitude_symbol: ClassVar[str] = "‖vᵀJ_t‖₂ ‖x_t‖₂"

    def amplitude(self, gradient, activation, baseline):
        dtype = compute_dtype(gradient.dtype)
        return torch.linalg.vector_norm(gradient, dim=-1, dtype=dtype) * torch.linalg.vector_norm(
            activation, dim=-1, dtype=dtype
        )

    def describe(self) -> str:
        return "the largest first-order effect of a change as large as the activation itself, in any direction"


@dataclass(frozen=True)
class _FromBaseline(Readout):
    """Base of the readouts that take a gradient together with the activation's distance x_t − b from a baseline."""

    baseline: ReadoutBaseline = None
    from_baseline: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.baseline is None or isinstance(self.baseline, str) and self.baseline in _NAMED:
            return
        other = as_baseline(self.baseline)
        if other is None:
            raise ReadoutError(
                f'{self.name} baseline must be "zero", "mean" or another prompt (text, chat messages, ids or a '
                f"Prompt; one word as ids or a Prompt), and along a path it is the path's start; got {self.baseline!r}."
            )
        object.__setattr__(self, "baseline", other)

    @property
    def other_prompt(self) -> OtherPrompt | None:
        baseline: Any = self.baseline
        return None if baseline is None or baseline in _NAMED else baseline

    @property
    def text(self) -> str:
        if self.other_prompt is not None:
            return f"{self.name}-{write_other_prompt(self.other_prompt)}"
        return self.name if self.baseline in (None, "path", "zero") else f"{self.name}-{self.baseline}"

    def along(self, points: Points | None) -> Readout:
        if isinstance(points, StraightPath):
            if self.baseline not in (None, "path", points.start):
                raise ReadoutError(
                    f"a path from {points.start!r} is read from its start, and the readout {self.name} asks for the "
                    f'baseline {self.baseline!r}: write readout="{self.name}", or '
                    f"StraightPath({self.baseline!r}, {points.steps})."
                )
            return replace(self, baseline="path")
        if self.baseline == "path":
            raise ReadoutError(
                f'there is no path whose start the readout {self.name} could take; give points=StraightPath("mean"), '
                'or the baseline "zero" or "mean".'
            )
        return replace(self, baseline=self.baseline or "zero")

    def against(self, other: OtherPrompt) -> Readout:
        if self.baseline not in (None, "zero", EACH):
            raise ReadoutError(
                f"the readout {self.text} has a baseline already, so there is no place for another prompt; write "
                f"{self.name}."
            )
        return replace(self, baseline=other)

    def baseline_values(self, activation: Tensor, averaged: Tensor) -> Tensor:
        assert self.other_prompt is None, "another prompt's activations come from a run of it"
        if self.baseline == EACH:
            raise ReadoutError(no_other_prompt(f"the baseline of {self.name},"))
        return text_mean(activation, averaged) if self.baseline == "mean" else activation.new_zeros(())

    def _products(self, gradient: Tensor, activation: Tensor, baseline: Tensor) -> Tensor:
        dtype = compute_dtype(gradient.dtype)
        return gradient.to(dtype) * (activation.to(dtype) - baseline.to(activation.device, dtype))

    def _baseline_words(self) -> str:
        if self.other_prompt is not None:
            return f"its value under {describe_other_prompt(self.other_prompt)}"
        if self.baseline == EACH:
            return "its value under each prompt's other one"
        return "the path's start" if self.baseline == "path" else f"the {self.baseline or 'zero'} baseline"


@dataclass(frozen=True)
class Dot(_FromBaseline):
    """a_t = vᵀJ_t (x_t − b), signed; with b = 0 this is Input × Gradient.

    With b = x′_t, the activation of another prompt at the same site and position, it is attribution patching: the
    first-order effect of having this prompt's activation there and not the other's, at every site of one backward
    pass. Where patterns are saturated its sign may be wrong: `patch_cells` and `inspect_heads(baseline=…)` patch the
    strongest for real, and a `StraightPath` from the same prompt averages the gradients on the way.

    Args:
        baseline: b, one of

            - "zero";
            - "mean", the mean of the site's activations over the prompt's non-special tokens;
            - another prompt of as many tokens, as text, chat messages, ids or a Prompt: its activation at the same
              position. An answer that is explained follows both prompts. One word in small letters is given as ids or a
              Prompt;
            - "prompt", in an evaluation: the other prompt of each passage.

            By default the start of the path that gradients are averaged over, "zero" where there is none. Along a path
            another baseline than its start is refused.

    Raises:
        ReadoutError: for a baseline that is none of these.
        PromptError: when used, for a prompt of another length, with the place where the two part.

    Source: attribution patching, Kramár et al., AtP*, arXiv:2403.00745.

    Example:
        >>> prompt = "The capital of France is"
        >>> dot, relative = (ls.attribute(model, prompt, readout=name).scores for name in ("dot", "relative"))
        >>> bool((dot.abs() <= relative + 1e-12).all())  # |⟨g, x⟩| ≤ ‖g‖ ‖x‖
        True
        >>> patched = ls.attribute(model, prompt, layers=True, readout=ls.Dot("The capital of Italy is"))
        >>> [token for token, score in zip(patched.tokens, patched.scores) if score]  # where the prompts differ
        [' France']
    """

    name: ClassVar[str] = "dot"
    signed: ClassVar[bool] = True
    amplitude_symbol: ClassVar[str] = "vᵀJ_t (x_t − b)"

    def amplitude(self, gradient, activation, baseline):
        return reduce(self._products(gradient, activation, baseline), "... d -> ...", "sum")

    def describe(self) -> str:
        return f"the signed first-order effect of the activation's value against {self._baseline_words()}"


@dataclass(frozen=True)
class Product(_FromBaseline):
    """a_t = ‖(vᵀJ_t) ∘ (x_t − b)‖₂, ≥ 0: Input × Gradient summed up by the norm over d_model instead of the sum.

    It depends on the basis of the activations, which the other readouts do not.

    Args:
        baseline: as for Dot.

    Example:
        >>> prompt = "The capital of France is"
        >>> product, relative = (ls.attribute(model, prompt, readout=name).scores for name in ("product", "relative"))
        >>> bool((product <= relative + 1e-12).all())  # ‖g ∘ x‖ ≤ ‖g‖ ‖x‖
        True
    """

    name: ClassVar[str] = "product"
    signed: ClassVar[bool] = False
    amplitude_symbol: ClassVar[str] = "‖(vᵀJ_t) ∘ (x_t − b)‖₂"

    def amplitude(self, gradient, activation, baseline):
        return torch.linalg.vector_norm(self._products(gradient, activation, baseline), dim=-1)

    def describe(self) -> str:
        return (
            "the norm of the first-order effects of the activation's entries having their values against "
            f"{self._baseline_words()}"
        )


def as_readout(readout: Readout | str) -> Readout:
    """Reads a readout given by object or as text: a name, or one with its baseline: "dot-mean", or another prompt as in
    'dot-"The capital"' and "dot-#2#651".

    Raises:
        ReadoutError: for an unknown one.
    """
    if isinstance(readout, Readout):
        return readout
    name, baseline = readout_form(str(readout))
    kind = resolve_name(READOUTS[name].home)
    if not baseline:
        return kind()
    if not kind.from_baseline:
        raise unknown_readout(readout)
    return kind(baseline if baseline in BASELINES else read_other_prompt(baseline))
