"""The attribution contract: five elements without which a claim about influence has no meaning (arXiv:2605.23080)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lens_scopes.engine.sites import EMBEDDING
from lens_scopes.prompts.answer import Answer
from lens_scopes.scopes.other_prompt import describe_other_prompt
from lens_scopes.scopes.readouts import Readout, Relative

ELEMENTS = ("output explained", "eligible features", "generative process", "held fixed", "score attributed")
OF_ANSWER = ", summed over the answer's predictions"
"""What becomes of a score where a whole answer is explained."""


@dataclass(frozen=True)
class ContractTerms:
    """What the four choices say, in words, before they are put together.

    Attributes:
        answer_process: where an answer is explained, how its tokens come about; it stands before the rest of the
            process.
        eligible_answer: how many of the tokens that have scores are the answer's own.
        routed: whether the model sends each token to some of its experts.
    """

    output: str
    position: int
    n_tokens: int
    sites: Sequence[str]
    path: str | None
    equation: str
    readout: Readout
    n_directions: int
    squared: bool
    sampled: int
    points: str | None = None
    at: Sequence[str] = (EMBEDDING,)
    answer_process: str = ""
    eligible_answer: int = 0
    routed: bool = False

    @property
    def at_embedding(self) -> bool:
        """Whether the tokens' scores are read at the embedding."""
        return list(self.at) == [EMBEDDING]


def attribution_contract(terms: ContractTerms) -> dict[str, str]:
    """The five elements of the contract, generated from objective, site, path and readout.

    Returns:
        A plain mapping with the keys of ELEMENTS, in that order.
    """
    also = f"; also read at {_join_sites(terms.sites)}" if terms.sites else ""
    place = f"the embeddings ({EMBEDDING})" if terms.at_embedding else f"the activations at {_join_sites(terms.at)}"
    which = f"the {terms.n_tokens} tokens up to that position"
    if terms.answer_process:
        which = f"the prompt's {terms.n_tokens - terms.eligible_answer} tokens"
        which += f" and of the answer's {terms.eligible_answer} earlier ones" if terms.eligible_answer else ""
    return contract(
        output=f"{terms.output}, after position {terms.position}",
        features=f"{place} of {which}{also}",
        process=_process(terms),
        held=_held_fixed(terms),
        score=_score(terms),
    )


def _process(terms: ContractTerms) -> str:
    """What is imagined to vary: the activation itself, or its distance from a baseline."""
    if terms.readout.from_baseline:
        other = terms.readout.other_prompt
        start = "the baseline" if other is None else f"its value under {describe_other_prompt(other)}"
        process = f"the activation of one token at a time moves from {start} to its value, to first order"
    else:
        size = ", in proportion to its size" if isinstance(terms.readout, Relative) else ""
        process = (
            f"the activation of one {'token' if terms.at_embedding else 'position'} at a time is perturbed "
            f"infinitesimally{size}, equally in all directions of {_dimension(terms.at)}"
        )
    if terms.answer_process:
        process = f"{terms.answer_process}; {process}"
    return process if terms.points is None else f"{process}; gradients are means over {terms.points}"


def _held_fixed(terms: ContractTerms) -> str:
    if terms.at_embedding:
        held = "the weights, the other tokens' embeddings, the positions and the explained directions v"
        if terms.answer_process and not terms.eligible_answer:
            held = f"the answer's tokens, {held}"
    else:  # an activation inside: embeddings stay, and later layers are no longer held
        held = (
            "the weights, all embeddings, the same site's activations at other positions and heads, the positions and "
            "the explained directions v; later layers respond"
        )
    if terms.routed:  # a derivative does not see that another expert may come to be chosen
        held += "; which experts each token goes to, while their shares respond"
    return held if terms.path is None else f"{held}; {terms.path}"


def _score(terms: ContractTerms) -> str:
    """The formula that `scoring.score` and `scoring.total_over_sites` compute."""
    form = "Σ_i w_i a_i,t²" if terms.squared else "a_t"
    if not terms.at_embedding:
        form = f"Σ_l √({'Σ_i w_i a_i,l,t²' if terms.squared else 'a_l,t²'} over the heads of layer l)"
    count = f"{terms.n_directions} direction{'s' if terms.n_directions > 1 else ''}"
    draws = f", {terms.sampled} of them random" if terms.sampled else ""
    # Of several directions the sum is a trace: only along each of them is the amplitude an effect.
    along = " along each direction v" if terms.n_directions > 1 else ""
    of_answer = OF_ANSWER if terms.answer_process else ""
    return (
        f"score_t = {form} with a_t = {terms.readout.amplitude_symbol} ({terms.readout.describe()}{along}); "
        f"{terms.equation}{of_answer} ({count}{draws})"
    )


def answer_process(answers: Sequence[Answer]) -> str:
    """How the tokens of the answers explained come about; empty where there are none."""
    if not answers:
        return ""
    first, *others = answers
    if others:
        return "both answers' tokens are given and teacher-forced: every prediction sees its answer's earlier ones"
    origin = "generated by the model, each its most probable one," if first.generated else "given"
    return f"the answer's tokens are {origin} and teacher-forced: every prediction sees the earlier ones"


def contract(*, output: str, features: str, process: str, held: str, score: str) -> dict[str, str]:
    """The five elements of any result's contract, in the order of ELEMENTS."""
    return dict(zip(ELEMENTS, (output, features, process, held, score), strict=True))


def _dimension(sites: Sequence[str]) -> str:
    """The name of the dimension of the activations at some sites."""
    ends = {name.rsplit(".", 1)[-1] for name in sites}
    if ends <= {"hook_q", "hook_k", "hook_v", "hook_z"}:
        return "d_head"
    if ends <= {"hook_pre", "hook_pre_linear", "hook_post"}:
        return "d_mlp"
    return "d_model"


def _join_sites(sites: Sequence[str]) -> str:
    if len(sites) <= 2:
        return " and ".join(sites)
    return f"{sites[0]} … {sites[-1]} ({len(sites)} sites)"
