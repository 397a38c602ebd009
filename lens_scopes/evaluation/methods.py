"""What is put to the test: any scope, baseline or outside score, named by the choices that make it.

A name is a base and any of its modifications: "fisher@8+dot-mean+frozen-patterns" is the Fisher Scope of rank 8, read
as the signed effect of moving from the mean embedding, with attention patterns held fixed.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from jaxtyping import Float
from torch import Tensor

from lens_scopes.attribution.attribute import attribute
from lens_scopes.attribution.resolved import ResolvedSpec
from lens_scopes.errors import EvaluationError, LensScopesError
from lens_scopes.evaluation.path_gradients import (
    STARTS,
    PathGradients,
    path_integrated_semantic,
    weighted_integrated_gradients,
)
from lens_scopes.evaluation.randomized import RandomizedBlocks
from lens_scopes.evaluation.trivial import TRIVIAL, Closeness, EmbeddingNorm
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.scopes.comparisons import (
    AttentionRollout,
    Baseline,
    ExternalScores,
    LeaveOneOut,
    OutsideArray,
    OutsideFunction,
    RandomScores,
    ValueWeightedAttention,
)
from lens_scopes.scopes.objectives import Entropy, Fisher, FisherAtValues, LogProb, Objective, Semantic, Temperature
from lens_scopes.scopes.paths import Frozen, Path
from lens_scopes.scopes.points import POINTS, Noise, Points, StraightPath, as_points
from lens_scopes.scopes.readouts import Dot, Norm, Product, Readout, Relative

_STEPS = 16  # of ig, ig-dot and smoothgrad, unless the name says otherwise


@dataclass(frozen=True)
class Scored:
    """A method's scores of one prompt.

    Attributes:
        scores: one a token, up to the position explained.
        forwards: rows of forward passes they were made from. What an outside function runs is not known.
        backwards: rows of backward passes they were made from.
    """

    scores: Float[Tensor, " pos"]
    forwards: int
    backwards: int


@dataclass(frozen=True)
class Method:
    """A way to score the tokens of a prompt, with a name for tables.

    Attributes:
        name: as in tables.
        explanation: a scope's objective or a baseline.
        readout: how a gradient becomes a score, for scopes; None for the scope's own way.
        through: which components carry gradient, for scopes.
        points: where gradients are taken, for scopes; None for the prompt itself.
        at: where influence is read: the embedding, or an activation whose layers are added up; None for the scope's own
            place.
        redrawn: whether the scores are those of the model with all of its blocks redrawn, which has learnt nothing.
    """

    name: str
    explanation: Objective | Baseline
    readout: Readout | None = None
    through: Path | None = None
    points: Points | None = None
    at: str | None = None
    redrawn: bool = False

    def check(self, model: Any) -> None:
        """Checks the choices against the model, before any passage is scored.

        Raises:
            EvaluationError: where one of them does not fit the model.
        """
        try:
            if isinstance(self.explanation, Objective):
                ResolvedSpec.read(
                    model, self.explanation, False, (), self.through, self.readout, points=self.points, at=self.at
                ).path_hooks()
            else:
                self.explanation.prepare(model)
        except LensScopesError as error:
            raise EvaluationError(f"method {self.name!r}: {error}") from error

    def score(self, model: Any, prompt: Prompt, target: int, blocks: RandomizedBlocks | None = None) -> Scored:
        """Scores the prompt's tokens for the prediction after its last one.

        Args:
            target: the next token that methods explain which take one.
            blocks: the redrawn blocks for a method that is `redrawn`; drawn with seed 0 unless given.
        """
        if self.redrawn:
            blocks = blocks or RandomizedBlocks(model)
        with blocks.final(model.cfg.n_layers) if blocks and self.redrawn else nullcontext():
            return self._score(model, prompt, target)

    def _score(self, model: Any, prompt: Prompt, target: int) -> Scored:
        own_target = target if self.explanation.takes_target else None
        if isinstance(self.explanation, Baseline):
            result = attribute(model, prompt, self.explanation, target=own_target)
            backwards = len(self.explanation.alphas) if isinstance(self.explanation, PathGradients) else 0
            return Scored(result.scores, _baseline_forwards(self.explanation, prompt), backwards)
        result = attribute(
            model,
            prompt,
            self.explanation,
            target=own_target,
            at=self.at,
            through=self.through,
            readout=self.readout,
            points=self.points,
        )
        directions = result.settings["directions"]
        if self.points is None:
            return Scored(result.scores, 1, directions)
        return Scored(result.scores, 1 + self.points.count, self.points.count * directions)


def _baseline_forwards(baseline: Baseline, prompt: Prompt) -> int:
    if isinstance(baseline, (RandomScores, ExternalScores, Closeness, EmbeddingNorm)):
        return 0
    if isinstance(baseline, PathGradients):
        return 1 + len(baseline.alphas)
    if not isinstance(baseline, LeaveOneOut):
        return 1
    draws = baseline.draws if baseline.ablation == "resample" else 1
    return 1 + draws * (len(prompt) - sum(prompt.special))


def _integer(base: str, setting: str) -> int:
    if not setting.isdecimal():
        raise EvaluationError(f"{base}@{setting}: expected a number after @.")
    return int(setting)


def _leave_one_out(measure: Any) -> Callable[[str], Method]:
    return lambda setting: Method("", LeaveOneOut(measure, ablation=setting or "zero"))


def _fisher(kind: type[Fisher]) -> Callable[[str], Method]:
    return lambda rank: Method("", kind(rank="trace" if rank == "trace" else _integer(kind.scope, rank or "1")))


def _path_from(start: str, held: bool) -> Callable[[str], Method]:
    return lambda steps: Method(
        "", PathGradients.midpoints(_integer(f"ig-{start}", steps or str(_STEPS)), start, hold_special=held)
    )


_PATHS = {
    f"ig-{start}{'-held' * held}": _path_from(start, held)
    for start in STARTS
    for held in (False, True)
    if (start, held) != ("zero", False)  # that one is "ig"
}

_BASES: dict[str, Callable[[str], Method]] = {
    "semantic": lambda _: Method("", Semantic()),
    "logprob": lambda _: Method("", LogProb()),
    "temperature": lambda _: Method("", Temperature()),
    "entropy": lambda _: Method("", Entropy()),
    "fisher": _fisher(Fisher),
    "fisher-at-values": _fisher(FisherAtValues),
    "ixg": lambda _: Method("", Semantic(), readout=Product()),
    "ixg-dot": lambda _: Method("", Semantic(), readout=Dot()),
    "ig": lambda steps: Method(
        "", Semantic(), readout=Product(), points=StraightPath(steps=_integer("ig", steps or str(_STEPS)))
    ),
    "ig-dot": lambda steps: Method(
        "", Semantic(), readout=Dot(), points=StraightPath(steps=_integer("ig-dot", steps or str(_STEPS)))
    ),
    **_PATHS,
    "ig-weighted": lambda _: Method("", weighted_integrated_gradients()),
    "ig-semantic": lambda _: Method("", path_integrated_semantic()),
    "smoothgrad": lambda samples: Method(
        "", Semantic(), points=Noise(samples=_integer("smoothgrad", samples or str(_STEPS)))
    ),
    "loo-kl": _leave_one_out("kl"),
    "loo-logit": _leave_one_out("logit"),
    "loo-logprob": _leave_one_out("logprob"),
    "attention-rollout": lambda _: Method("", AttentionRollout()),
    "value-attention": lambda _: Method("", ValueWeightedAttention()),
    **{kind.scope: lambda _, kind=kind: Method("", kind()) for kind in TRIVIAL},
    "random": lambda seed: Method("", RandomScores(seed=_integer("random", seed or "0"))),
}

_SETTINGS = (
    *("fisher", "fisher-at-values", "ig", "ig-dot", *_PATHS, "smoothgrad"),
    *("loo-kl", "loo-logit", "loo-logprob", "random"),
)


def _frozen(part: str) -> Callable[[Method], Method]:
    def freeze(method: Method) -> Method:
        through = Frozen(part)
        return replace(method, through=through if method.through is None else method.through & through)

    return freeze


_MODIFICATIONS: dict[str, Callable[[Method], Method]] = {
    "norm": lambda method: replace(method, readout=Norm()),
    "dot": lambda method: replace(method, readout=Dot()),
    "dot-mean": lambda method: replace(method, readout=Dot("mean")),
    "product": lambda method: replace(method, readout=Product()),
    "product-mean": lambda method: replace(method, readout=Product("mean")),
    "relative": lambda method: replace(method, readout=Relative()),
    "frozen-patterns": _frozen("patterns"),
    "frozen-norms": _frozen("norms"),
    "frozen-gates": _frozen("gates"),
    "redrawn": lambda method: replace(method, redrawn=True),
    "values": lambda method: replace(method, at="hook_v", readout=Relative()),
    "keys": lambda method: replace(method, at="hook_k", readout=Relative()),
    "residuals": lambda method: replace(method, at="hook_resid_pre", readout=Relative()),
}

if TYPE_CHECKING:
    MethodLike: TypeAlias = str | Method | Baseline | Objective | tuple[str, OutsideFunction | OutsideArray]
else:  # what is none of these is answered with an EvaluationError, also under a run-time type checker
    MethodLike = Any


def method_names() -> list[str]:
    """The bases a method's name may begin with."""
    return list(_BASES)


def modification_names() -> list[str]:
    """What may follow a base, each after a plus sign; points also with a number of them, as "path-mean@4"."""
    return [*_MODIFICATIONS, *POINTS]


def as_method(method: MethodLike, meanings: Mapping[str, str] | None = None) -> Method:
    """Reads a method given by name, as an objective or baseline, or as (name, outside scores or function).

    Args:
        meanings: of base names that a protocol defines otherwise; see `Protocol.meanings`.

    Raises:
        EvaluationError: for unknown names, with near ones, and settings that do not fit.
    """
    if isinstance(method, Method):
        return method
    if isinstance(method, (Objective, Baseline)):
        return Method(method.scope, method)
    if isinstance(method, tuple) and len(method) == 2 and isinstance(method[0], str):
        return Method(method[0], ExternalScores(method[1], name=method[0]))
    if not isinstance(method, str):
        raise EvaluationError(
            "a method is a name such as 'fisher@8', an objective, a baseline, or a pair (name, scores or function); "
            f"got {type(method).__name__}."
        )
    head, *modifications = method.split("+")
    base, at, setting = head.partition("@")
    if meanings and base in meanings:
        if at:
            raise EvaluationError(f"the protocol defines {base!r} without a setting after @; got {head!r}.")
        return replace(as_method("+".join((meanings[base], *modifications))), name=method)
    if base not in _BASES:
        raise EvaluationError(_unknown("method", base, _BASES))
    if at and base not in _SETTINGS:
        raise EvaluationError(f"method {base!r} has no setting after @; got {head!r}.")
    if at and not setting:
        raise EvaluationError(f"{head!r} has nothing after @; write a setting there, or {base!r} for the usual one.")
    try:
        result = _BASES[base](setting)
        for name in modifications:
            points = name.partition("@")[0] in POINTS
            if not points and name not in _MODIFICATIONS:
                raise EvaluationError(_unknown("modification", name, modification_names()))
            if isinstance(result.explanation, Baseline):
                raise EvaluationError(f"{base!r} takes no gradient, so +{name} does not apply to it.")
            result = replace(result, points=as_points(name)) if points else _MODIFICATIONS[name](result)
    except EvaluationError:
        raise
    except LensScopesError as error:
        raise EvaluationError(f"method {method!r}: {error}") from error
    return replace(result, name=method)


def _unknown(kind: str, name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return f"unknown {kind} {name!r}{hint} Known: {', '.join(known)}."
