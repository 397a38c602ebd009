"""The bases of objectives and comparison methods, and the directions of a whole answer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.engine.final_state import FinalState
from lens_scopes.engine.fisher import random_signs
from lens_scopes.engine.model import ScopedModel
from lens_scopes.engine.scoring import Directions
from lens_scopes.errors import ObjectiveError
from lens_scopes.prompts.tokens import as_integer

if TYPE_CHECKING:
    from typing_extensions import Self

_MAX_NUMBERS = 2**28  # in the directions of one answer: 1 GB


class Explanation(ABC):
    """Base of everything that `attribute` can be asked for. Subclasses are frozen dataclasses whose fields are their
    settings."""

    scope: ClassVar[str]
    """The short name used on the command line."""

    equation: ClassVar[str]
    """How the score is made, as an equation in the paper's symbols."""

    output: ClassVar[str]
    """The output explained, in words, before the names of its tokens."""

    def prepare(self, model: ScopedModel) -> Self:
        """Checks the settings against the model and turns token strings into ids.

        Raises:
            ObjectiveError, PromptError: when a setting does not fit the model.
        """
        return self

    def targets(self, state: FinalState) -> list[int]:
        """The tokens the explanation is about, as ids; none for those of the whole distribution.

        Raises:
            ObjectiveError: for token strings, before `prepare` has turned them into ids.
        """
        return []

    @property
    def takes_target(self) -> bool:
        """Whether the explanation is about the next token that `target=` names."""
        return False

    def check_target(self, target: str | int | None) -> None:
        """Refuses a target that the explanation would drop.

        Raises:
            ObjectiveError: where a target is given and the explanation takes none.
        """
        if target is None or self.takes_target:
            return
        name = type(self).__name__
        if getattr(self, "token", None) is not None:
            raise ObjectiveError(
                f"{name} names its own token, so target={target!r} would be dropped; give the token in one place: in "
                f"{name}(…), or as target."
            )
        raise ObjectiveError(
            f"{name} explains no single next token, so target={target!r} would be dropped; leave target out, or choose "
            "Semantic() or LogProb()."
        )

    @property
    def contrasted(self) -> tuple[Any, Any] | None:
        """The two answers that the explanation contrasts, where it names any."""
        return None

    def check_answer(self, has_answer: bool) -> None:
        """Refuses an answer that has no place, and settings that need one.

        Raises:
            ObjectiveError: where the explanation names tokens of its own, or answers of its own.
        """
        if has_answer and getattr(self, "token", None) is not None:
            raise ObjectiveError(
                f"{self!r} names its own token, so the answer's would be dropped; write {type(self).__name__}()."
            )

    def describe_answer(self, text: str, n_tokens: int) -> str:
        """The output explained, summed over the tokens of an answer, in words."""
        return f"{self.output}, summed over the predictions of the {n_tokens} tokens of the answer {text!r}"

    def settings(self) -> dict[str, Any]:
        """The fields, as plain values for records."""
        return {item.name: getattr(self, item.name) for item in fields(self)}  # pyright: ignore[reportArgumentType]

    def describe(self, label: Callable[[int], str], state: FinalState) -> str:
        """The output explained, in words."""
        named = " and ".join(label(token) for token in self.targets(state))
        return f"{self.output} {named}".strip()

    def signature(self, label: Callable[[int], str], state: FinalState) -> str:
        """The explanation as it would be written in Python, with its tokens resolved."""
        return f"{type(self).__name__}({', '.join(label(token) for token in self.targets(state))})"


class Objective(Explanation):
    """Base of every objective: an output explained by its gradients at one final state.

    Example:
        >>> isinstance(ls.Fisher(), ls.Objective), isinstance(ls.LeaveOneOut(), ls.Objective)
        (True, False)
    """

    @abstractmethod
    def directions(self, state: FinalState) -> Directions:
        """The weighted directions that explain this objective at one final state.

        Raises:
            ObjectiveError: where it has none there: y is zero, a function returns none, or it explains whole answers.
        """

    def answer_directions(self, states: Sequence[FinalState]) -> Directions:
        """The weighted directions that explain this objective summed over an answer, one final state a token."""
        return over_answer([self.directions(state) for state in states])

    @abstractmethod
    def change(self, before: FinalState, after: FinalState) -> float:
        """What an intervention really did to the output explained, in the units of `predicted_change`.

        Raises:
            ObjectiveError: for an objective that explains whole answers alone.
        """

    def answer_change(self, before: Sequence[FinalState], after: Sequence[FinalState]) -> float:
        """The same of an answer, summed over its predictions: a divergence by the chain rule, along this answer."""
        return sum(self.change(*pair) for pair in zip(before, after, strict=True))

    def predicted_change(self, directions: Directions, amounts: Float[Tensor, "k ..."]) -> Float[Tensor, ...]:
        """What a small change of y is predicted to do, from its amounts v_iᵀδ along the directions.

        First order, v_1ᵀδ, for an objective that is a number; second order, ½ Σ_i w_i (v_iᵀδ)², for one of several
        directions, which measures a divergence.
        """
        if not directions.squared:
            return directions.weights[0].sqrt() * amounts[0]
        return 0.5 * torch.einsum("k,k...->...", directions.weights.to(amounts), amounts**2)


def single(vector: Float[Tensor, " d_model"], **details: Any) -> Directions:
    """One direction of weight one."""
    return Directions(vector[None], vector.new_ones(1), details=details)


def over_answer(parts: Sequence[Directions], seed: int = 0) -> Directions:
    """The directions of an answer from those of its predictions, whose objective they sum.

    Numbers add up: √w_n v_n of all predictions n travel back together. Divergences add up by the chain rule, and each
    exact direction has a backward pass of its own. One random direction of every prediction can share a pass:
    independent random signs ε_n give E‖Σ_n ε_n v_nᵀ J_n‖² = Σ_n E‖v_nᵀ J_n‖².

    Raises:
        ObjectiveError: where some predictions have a number and others a divergence, and for more directions than can
            be held.
    """
    warnings = _warnings_of_answer(parts)
    if not any(part.squared for part in parts):
        vectors = torch.cat([part.weights.sqrt()[:, None] * part.vectors for part in parts])[None]
        return Directions(vectors, vectors.new_ones(1), details=_details_of_answer(parts), warnings=warnings)
    if len({(part.squared, part.sampled) for part in parts}) > 1:
        raise ObjectiveError("the objective is a number at some of the answer's tokens and a divergence at others.")
    sampled, (d_model,) = parts[0].sampled, parts[0].vectors.shape[1:]
    n_exact = sum(len(part.vectors) - sampled for part in parts)
    if n_exact * len(parts) * d_model > _MAX_NUMBERS:
        raise ObjectiveError(
            f"an answer of {len(parts)} tokens has {n_exact} directions, each with a backward pass of its own; take a "
            "smaller rank, a shorter answer, or random directions: Fisher(rank, samples=16)."
        )
    # Exact directions: one row each, from its own prediction alone.
    vectors = parts[0].vectors.new_zeros(n_exact + sampled, len(parts), d_model)
    row = 0
    for index, part in enumerate(parts):
        exact = part.vectors[: len(part.vectors) - sampled]
        vectors[row : row + len(exact), index] = exact
        row += len(exact)
    # Random ones: a row of every prediction's, mixed by signs.
    signs = random_signs((sampled, len(parts)), torch.Generator().manual_seed(seed)).to(vectors)
    for index, part in enumerate(parts):
        vectors[row:, index] = signs[:, index, None] * part.vectors[len(part.vectors) - sampled :]
    weights = [part.weights[: len(part.weights) - sampled] for part in parts]
    weights.append(parts[0].weights[len(parts[0].weights) - sampled :])
    return Directions(
        vectors,
        torch.cat(weights),
        squared=True,
        sampled=sampled,
        details=_details_of_answer(parts),
        warnings=warnings,
    )


def contrast(first: Directions, second: Directions) -> Directions:
    """The directions of one number minus another, both of answers."""
    return replace(first, vectors=torch.cat([first.vectors, -second.vectors], dim=1))


def _details_of_answer(parts: Sequence[Directions]) -> dict[str, Any]:
    """The worst of what the predictions' directions say of themselves."""
    worst = {"residual": max, "gap": max, "share": min, "converged": all, "exact": sum, "samples": max}
    return {
        name: of(part.details[name] for part in parts)
        for name, of in worst.items()
        if all(part.details.get(name) is not None for part in parts)
    }


def _warnings_of_answer(parts: Sequence[Directions]) -> list[str]:
    """The first warning, and how many of the answer's predictions have one."""
    warned = [(index, part.warnings[0]) for index, part in enumerate(parts) if part.warnings]
    if not warned:
        return []
    index, text = warned[0]
    more = f" ({len(warned)} of the answer's {len(parts)} tokens have such a warning.)" if len(warned) > 1 else ""
    return [f"at token {index} of the answer: {text}{more}"]


def log_probability_of_answer(text: str, n_tokens: int) -> str:
    """An answer's log-probability, in words."""
    return f"log P(answer | prompt) of the answer {text!r}, the sum over its {n_tokens} tokens"


def make_plain(objective: Objective, *names: str) -> None:
    """Makes integers and arrays of other libraries Python's own, which compare and can be written."""
    for name in names:
        value = getattr(objective, name)
        number = as_integer(value)
        values = value.tolist() if hasattr(value, "tolist") else value
        plain = tuple(values) if isinstance(values, list | range) else number
        if plain is not None:
            object.__setattr__(objective, name, plain)


def is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
