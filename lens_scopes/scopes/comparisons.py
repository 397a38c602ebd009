"""What a scope is compared with: explanations that take no gradient, through the same `attribute`.

Leaving tokens out (the effect a scope predicts, really brought about), attention carried back through the layers,
chance, and scores from outside. Input × Gradient, Integrated Gradients and SmoothGrad are scopes with another readout
or other points: `readout="dot"`, `points=StraightPath()`, `points=Noise()`.
"""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.ablations import ABLATIONS, TokenAblation, ablation_named
from lens_scopes.engine.final_state import FinalState
from lens_scopes.engine.model import ScopedModel
from lens_scopes.engine.token_ablation import AblatedPrompt, check_draws
from lens_scopes.errors import VALIDATED, EvaluationError, ObjectiveError, check_seed
from lens_scopes.prompts.alignment import read_aligned
from lens_scopes.prompts.groups import UNITS, segments
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.prompts.spans import SpanLike, as_span, write_span
from lens_scopes.prompts.tokens import quote
from lens_scopes.scopes.contract import OF_ANSWER, contract
from lens_scopes.scopes.objectives import Explanation, log_probability_of_answer
from lens_scopes.scopes.other_prompt import EACH, OtherPrompt, as_baseline, describe_other_prompt

if TYPE_CHECKING:
    from numpy.typing import NDArray

Measure: TypeAlias = Annotated["Literal['kl', 'logit', 'logprob']", VALIDATED]
OutsideArray: TypeAlias = Annotated["Tensor | Sequence[float] | NDArray[Any]", VALIDATED]
OutsideFunction: TypeAlias = Annotated["Callable[[Any, Sequence[int]], OutsideArray]", VALIDATED]
Ablation: TypeAlias = Annotated["str | Sequence[int] | Tensor | Prompt", VALIDATED]


class Baseline(Explanation):
    """Base of the methods to compare with, which have no site, path, readout or points."""

    process: ClassVar[str]
    """The generative process assumed, for the contract."""

    held: ClassVar[str]
    """What is held fixed, for the contract."""

    takes_answer: ClassVar[bool] = False
    """Whether a whole answer can be explained."""

    of_answer: ClassVar[str] = OF_ANSWER
    """What becomes of the score of a whole answer, for the contract."""

    why_alone: ClassVar[str] = "takes no gradient"
    """Why it has no site, path, readout or points."""

    @property
    def part(self) -> SpanLike | None:
        """The part of the prompt whose tokens alone are eligible, for methods with a field `within`; None for all."""
        return getattr(self, "within", None)

    @property
    def other_prompt(self) -> OtherPrompt | None:
        """Another prompt that tokens are replaced from; None for none."""
        return None

    def against(self, other: OtherPrompt) -> Baseline:
        """The same with tokens replaced by another prompt's.

        Raises:
            ObjectiveError: for a method that replaces no tokens.
        """
        raise ObjectiveError(f"{self.scope} replaces no tokens, so there is no place for another prompt in it.")

    @abstractmethod
    def scores(self, model: ScopedModel, prompt: Prompt, states: Sequence[FinalState]) -> Float[Tensor, " pos"]:
        """One score a token of the prompt.

        Args:
            model: the model.
            prompt: the tokens up to the position explained.
            states: the final state after the last of them; of an answer, that of each of its predictions, whose targets
                are the answer's tokens.
        """

    def contract(self, output: str, position: int, n_tokens: int, answer_process: str = "") -> dict[str, str]:
        """The five elements of the attribution contract.

        Args:
            output: the output explained, in words.
            position: after which it comes.
            n_tokens: how many tokens have scores.
            answer_process: how the tokens of the answer explained come about; empty for the next token.
        """
        features, process, held, score = (
            f"the {n_tokens} tokens up to that position",
            self.process,
            self.held,
            self.equation,
        )
        if answer_process:
            features, process = f"the prompt's {n_tokens} tokens", f"{answer_process}; {process}"
            held, score = f"the answer's tokens, {held}", f"{score}{self.of_answer}"
        if self.part is not None:
            part = quote(write_span(self.part))
            features, held = f"of {features}, those within {part}", f"every token outside {part}, {held}"
        return contract(
            output=f"{output}, after position {position}", features=features, process=process, held=held, score=score
        )


class Ablating(Baseline):
    """Base of the methods that ablate tokens; their field `ablation` is a name of ABLATIONS, or another prompt."""

    ablation: Any

    def _read_ablation(self) -> None:
        """Makes another prompt of the field a value that can be compared.

        Raises:
            EvaluationError: for what is neither a name nor a prompt, and for ablations that take other passages.
        """
        given = self.ablation
        other = None if isinstance(given, str) and given in ABLATIONS else as_baseline(given)
        if other is not None:
            object.__setattr__(self, "ablation", other)
        elif not isinstance(given, str):
            raise EvaluationError(
                f"an ablation is one of {', '.join(ABLATIONS)}, or another prompt as text, ids or a Prompt; got "
                f"{quote(given)}."
            )
        elif ablation_named(given).corpus == "required":
            raise EvaluationError(
                f"{type(self).__name__} sees one prompt alone, so it has no {given} to replace tokens by; choose "
                "'mean', the prompt's own, or another."
            )

    @property
    def token_ablation(self) -> TokenAblation:
        """The entry of ABLATIONS."""
        return ABLATIONS[EACH if self.other_prompt is not None else self.ablation]

    @property
    def replacement(self) -> str:
        """What a token is replaced by, in words."""
        other = self.other_prompt
        return (
            self.token_ablation.help if other is None else f"the token in its place in {describe_other_prompt(other)}"
        )

    @property
    def other_prompt(self) -> OtherPrompt | None:
        named = isinstance(self.ablation, str) and self.ablation in ABLATIONS
        return None if named else self.ablation

    def against(self, other: OtherPrompt) -> Baseline:
        if self.other_prompt is None and self.ablation != EACH:
            raise ObjectiveError(
                f"{self.scope} replaces tokens by {self.ablation!r} already, so there is no place for another prompt; "
                f"write ablation={EACH!r}."
            )
        return replace(self, ablation=other)  # pyright: ignore[reportArgumentType]

    def ablated(self, model: ScopedModel, prompt: Prompt, targets: Sequence[int], **options: Any) -> AblatedPrompt:
        """The prompt with its ablation.

        Raises:
            PromptError: for another prompt of another length.
            EvaluationError: as `AblatedPrompt`.
        """
        other, ids = self.other_prompt, None
        if other is not None:
            ids = read_aligned(model, prompt, other, len(prompt)).token_ids
        return AblatedPrompt(
            model, prompt.token_ids, prompt.special, targets, self.token_ablation.name, other=ids, **options
        )


@dataclass(frozen=True)
class LeaveOneOut(Ablating):
    """What really happens when a token is ablated, one token or segment at a time; special tokens stay in place and
    score 0.

    - "kl": KL(p ‖ p without token t), nats, ≥ 0;
    - "logit", "logprob": how far the target's logit or log-probability falls (negative where it rises).

    Of a whole answer, whose own tokens stay, they are summed over its predictions: "logprob" is then the fall of
    log P(answer | prompt), and "kl" the divergence of the whole continuation along the answer.

    By sentence, line, paragraph or turn, all tokens of a segment are ablated together, and what that does is divided
    evenly over them: `att.group("sentence")` gives each sentence's own effect back.

    Args:
        measure: "kl", "logit" or "logprob".
        ablation: what a token is replaced by: "zero", "mean" (of the embeddings of the prompt's non-special
            tokens), "pad", "eos", "bos", "resample" (by tokens drawn from the prompt itself) or "remove"; or another
            prompt of as many tokens (text, ids or a Prompt): the token that it has in the same place.
        draws: random replacements averaged for "resample".
        seed: of the draws.
        by: what is ablated together: "token", or as for `Attribution.group` "word", "line", "sentence", "paragraph" or
            "turn".
        within: the eligible part of the prompt, such as a document; all else (a question) stays, and scores 0. The name
            of a span or chat turn, a part of the text, `Chars(start, stop)`, or (start, stop) in tokens; by default the
            whole prompt.

    Raises:
        ObjectiveError: for an unknown measure or unit.
        EvaluationError: for an unknown ablation, for "corpus-mean", and draws that are not a positive integer.
        PromptError: for a part of another kind; when used, for a part that the prompt has not, for one segment alone,
            and for another prompt of another length, with the place where the two part.

    Example:
        >>> att = ls.attribute(model, "The capital of France is", ls.LeaveOneOut("kl", ablation="mean"))
        >>> att.scores.shape, bool((att.scores >= 0).all())
        (torch.Size([6]), True)
    """

    measure: Measure = "kl"
    ablation: Ablation = "zero"
    draws: int = 4
    seed: int = 0
    by: str = "token"
    within: SpanLike | None = None
    scope: ClassVar[str] = "leave-one-out"
    takes_answer: ClassVar[bool] = True
    held: ClassVar[str] = "the weights, the other tokens and the positions"

    def __post_init__(self) -> None:
        if not isinstance(self.measure, str) or self.measure not in ("kl", "logit", "logprob"):
            raise ObjectiveError(f'LeaveOneOut measures "kl", "logit" or "logprob"; got {str(self.measure)[:60]!r}.')
        object.__setattr__(self, "draws", check_draws(self.draws))
        object.__setattr__(self, "seed", check_seed(self.seed))
        check_unit(self.by)
        check_part(self)
        self._read_ablation()

    @property
    def output(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        kinds = {"kl": "the whole next-token distribution", "logit": "logit of the next token"}
        return kinds.get(self.measure, "log-probability of the next token")

    @property
    def equation(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        out = "t" if self.by == "token" else "s"
        symbols = {"kl": f"KL(p ‖ p_∖{out})", "logit": f"z_target − z_target∖{out}"}
        symbol = symbols.get(self.measure, f"log p_target/p_target∖{out}")
        if self.by == "token":
            return f"score_t = {symbol}, p_∖t being the prediction without token t"
        return (
            f"score_t = ({symbol}) / |s|, p_∖s being the prediction without the {self.by} s of token t, and |s| its "
            "number of tokens"
        )

    @property
    def process(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        replaced = f"is replaced by {self.replacement}"
        if self.by == "token":
            return f"one token at a time {replaced}"
        return (
            f"one {self.by} at a time is left out: each of its tokens {replaced}; what that does is divided evenly "
            "over them"
        )

    @property
    def takes_target(self) -> bool:
        return self.measure != "kl"

    def targets(self, state: FinalState) -> list[int]:
        if self.measure == "kl":
            return []
        return [state.followed_token]

    def describe_answer(self, text: str, n_tokens: int) -> str:
        if self.measure == "logprob":
            return log_probability_of_answer(text, n_tokens)
        return super().describe_answer(text, n_tokens)

    def signature(self, label: Callable[[int], str], state: FinalState) -> str:
        by = "" if self.by == "token" else f", by={self.by!r}"
        return f"LeaveOneOut({self.measure!r}, ablation={self.ablation!r}{by}{part_argument(self)})"

    def scores(self, model: ScopedModel, prompt: Prompt, states: Sequence[FinalState]) -> Float[Tensor, " pos"]:
        targets = [state.followed_token for state in states]
        ablated = self.ablated(model, prompt, targets, draws=self.draws, seed=self.seed)
        left_out = segments(prompt, self.by, self.within)
        after = ablated.outcomes(ablated.masks(left_out), with_divergence=self.measure == "kl")
        values = {
            "kl": after.divergence,
            "logit": ablated.clean_logit - after.logit,
            "logprob": ablated.clean_log_probability - after.log_probability,
        }[self.measure]
        return spread(values, left_out, len(prompt)).to(states[0].y.dtype)


def check_unit(by: str) -> None:
    """Raises ObjectiveError for what is no unit that can be left out as a whole."""
    if not isinstance(by, str) or by not in UNITS:
        raise ObjectiveError(f"by is {', '.join(map(repr, UNITS[:-1]))} or {UNITS[-1]!r}; got {by!r}.")


def check_part(method: Any) -> None:
    """Makes a method's eligible part a plain value; PromptError for what is none."""
    if method.within is not None:
        object.__setattr__(method, "within", as_span(method.within))


def part_argument(method: Any) -> str:
    """How a method's eligible part is written in Python, after its other arguments."""
    return "" if method.within is None else f", within={quote(write_span(method.within))}"


def spread(values: Float[Tensor, " segment"], segments: Sequence[Sequence[int]], n_pos: int) -> Float[Tensor, " pos"]:
    """Scores of segments divided evenly over their tokens; the sum over a segment's tokens is its own score."""
    scores = torch.zeros(n_pos, dtype=values.dtype)
    for value, tokens in zip(values, segments, strict=True):
        scores[list(tokens)] = value / len(tokens)
    return scores


@dataclass(frozen=True)
class AttentionRollout(Baseline):
    """Attention carried back through all layers: score_t = (Ā_L ⋯ Ā_1)[last, t] with Ā_l = ½ mean_h A_lh + ½ I.

    The row sums to 1. It knows neither values nor MLPs, and not what is predicted.

    Source: Abnar and Zuidema, arXiv:2005.00928.

    Example:
        >>> round(float(ls.attribute(model, "The capital of France is", ls.AttentionRollout()).scores.sum()), 6)
        1.0
    """

    scope: ClassVar[str] = "attention-rollout"
    output: ClassVar[str] = "the residual stream at the last position, whatever is predicted from it"
    equation: ClassVar[str] = "score_t = (Ā_L ⋯ Ā_1)[last, t] with Ā_l = ½ mean_h A_lh + ½ I"
    process: ClassVar[str] = "tokens are mixed by attention alone, evenly with the residual stream"
    held: ClassVar[str] = "the attention patterns; values and MLPs are left out"

    def scores(self, model: ScopedModel, prompt: Prompt, states: Sequence[FinalState]) -> Float[Tensor, " pos"]:
        patterns, _ = attention(model, prompt.token_ids)
        return _rolled_out([pattern.mean(0) for pattern in patterns]).to(states[0].y.dtype)


@dataclass(frozen=True)
class ValueWeightedAttention(Baseline):
    """Attention weighted by the size of what it moves, carried back through all layers.

    N_l[s, t] = ‖Σ_h A_lh[s, t] v_lh,t W_O,lh‖₂, rows made to sum to 1, take the place of mean_h A_lh in the rollout.

    Source: norms of Kobayashi et al., arXiv:2004.10102, in the rollout of arXiv:2005.00928.

    Example:
        >>> round(float(ls.attribute(model, "The capital of France is", ls.ValueWeightedAttention()).scores.sum()), 6)
        1.0
    """

    scope: ClassVar[str] = "value-attention"
    output: ClassVar[str] = "the residual stream at the last position, whatever is predicted from it"
    equation: ClassVar[str] = "score_t = (N̄_L ⋯ N̄_1)[last, t] with N_l[s, t] = ‖Σ_h A_lh[s, t] v_lh,t W_O,lh‖₂"
    process: ClassVar[str] = "tokens are mixed by the sizes of what attention moves, evenly with the residual stream"
    held: ClassVar[str] = "the attention patterns and values; MLPs are left out"

    def scores(self, model: ScopedModel, prompt: Prompt, states: Sequence[FinalState]) -> Float[Tensor, " pos"]:
        patterns, values = attention(model, prompt.token_ids)
        mixed = []
        for layer, (pattern, value) in enumerate(zip(patterns, values, strict=True)):
            moved = moved_by_heads(model, layer, value)
            sizes = torch.stack([torch.einsum("ht,thm->tm", row, moved).norm(dim=-1) for row in pattern.unbind(1)])
            mixed.append(sizes / sizes.sum(1, keepdim=True).clamp_min(1e-30))
        return _rolled_out(mixed).to(states[0].y.dtype)


@dataclass(frozen=True)
class RandomScores(Baseline):
    """Scores drawn evenly from [0, 1): what chance gives. Other prompts get other draws.

    Args:
        seed: of the draws; the global generator is not touched.

    Example:
        >>> prompt = "The capital of France is"
        >>> first, again = (ls.attribute(model, prompt, ls.RandomScores(seed=7)).scores for _ in range(2))
        >>> torch.equal(first, again)
        True
    """

    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", check_seed(self.seed))

    scope: ClassVar[str] = "random"
    output: ClassVar[str] = "nothing: chance"
    equation: ClassVar[str] = "score_t ~ U[0, 1)"
    process: ClassVar[str] = "none"
    held: ClassVar[str] = "nothing"

    def scores(self, model: ScopedModel, prompt: Prompt, states: Sequence[FinalState]) -> Float[Tensor, " pos"]:
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed}:{list(prompt.token_ids)}".encode()))
        return torch.rand(len(prompt), generator=generator, dtype=torch.float32).to(states[0].y.dtype)


@dataclass(frozen=True)
class ExternalScores(Baseline):
    """Scores made elsewhere, to be shown, kept and evaluated like the suite's own.

    Args:
        source: one score a token, or a function of (model, token ids) that returns them.
        name: how results name it.

    Example:
        >>> att = ls.attribute(model, "The capital of France is", ls.ExternalScores([0, 0.1, 0.7, 0.1, 0.4, 0.2]))
        >>> [item.label for item in att.top(2)]
        [' capital', ' France']
    """

    source: OutsideFunction | OutsideArray
    name: str = "outside"
    scope: ClassVar[str] = "outside"
    output: ClassVar[str] = "what the outside scores explain"
    equation: ClassVar[str] = "score_t as given"
    process: ClassVar[str] = "as the outside scores assume"
    held: ClassVar[str] = "as the outside scores hold it"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise ObjectiveError(f"outside scores are named by a text; got {type(self.name).__name__}.")

    def settings(self) -> dict[str, Any]:
        return {"name": self.name}

    def signature(self, label: Callable[[int], str], state: FinalState) -> str:
        return self.name

    def scores(self, model: ScopedModel, prompt: Prompt, states: Sequence[FinalState]) -> Float[Tensor, " pos"]:
        given: Any = self.source(model.module, prompt.token_ids) if callable(self.source) else self.source
        try:
            values = torch.as_tensor(given).detach().to(states[0].y.dtype).cpu()
        except (TypeError, ValueError, RuntimeError) as error:
            raise ObjectiveError(f"outside scores {self.name!r} are not an array of numbers: {error}.") from error
        if values.shape != (len(prompt),):
            raise ObjectiveError(
                f"outside scores {self.name!r} have the shape {tuple(values.shape)}; expected one score for each of "
                f"the {len(prompt)} tokens up to the position explained (BOS included)."
            )
        if not bool(values.isfinite().all()):
            raise ObjectiveError(f"outside scores {self.name!r} are not all finite.")
        return values


def moved_by_heads(
    model: ScopedModel, layer: int, values: Float[Tensor, "pos value_head d_head"]
) -> Float[Tensor, "pos head d_model"]:
    """v_h,t W_O,h: what each head of a layer moves of each token, were all its attention there; several heads may share
    a value."""
    W_O = model.module.blocks[layer].attn.W_O.detach().to(values)
    return torch.einsum("thd,hdm->thm", values.repeat_interleave(len(W_O) // values.shape[1], dim=1), W_O)


def attention(model: ScopedModel, token_ids: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
    """Attention patterns [head, dest, src] and values [pos, value_head, d_head] of every layer, in float64."""
    patterns: list[Tensor] = []
    values: list[Tensor] = []
    hooks = []
    for layer in range(model.cfg.n_layers):
        hooks.append((f"blocks.{layer}.attn.hook_pattern", lambda pattern: patterns.append(_exact(pattern[0]))))
        hooks.append((f"blocks.{layer}.attn.hook_v", lambda value: values.append(_exact(value[0]))))
    with model.hooked(hooks):
        model.run_to_final_states([token_ids])
    return patterns, values


def _exact(values: Tensor) -> Tensor:
    return values.detach().double().cpu()


def _rolled_out(mixing: Sequence[Float[Tensor, "dest src"]]) -> Float[Tensor, " src"]:
    """The last row of Ā_L ⋯ Ā_1 with Ā = ½ A + ½ I."""
    row = torch.zeros(len(mixing[0]), dtype=mixing[0].dtype)
    row[-1] = 1.0
    for matrix in reversed(mixing):
        row = 0.5 * row @ matrix + 0.5 * row
    return row
