"""The attribution contract: five elements without which a claim about influence has no meaning (arXiv:2605.23080)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lens_scopes.engine.sites import EMBEDDING
from lens_scopes.scopes.readouts import Readout, Relative

ELEMENTS = ("output explained", "eligible features", "generative process", "held fixed", "score attributed")


@dataclass(frozen=True)
class ContractTerms:
    """What the four choices say, in words, before they are put together.

    Attributes:
        answer_process: where an answer is explained, how its tokens come about; it stands before the rest of the
            process.
        eligible_answer: how many of the tokens that have scores are the answer's own.
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


def attribution_contract(terms: ContractTerms) -> dict[str, str]:
    """The five elements of the contract, generated from objective, site, path and readout.

    Returns:
        A plain mapping with the keys of ELEMENTS, in that order.
    """
    others = f"; also read at {_named(terms.sites)}" if terms.sites else ""
    at_embedding = list(terms.at) == [EMBEDDING]
    read = f"the embeddings ({EMBEDDING})" if at_embedding else f"the activations at {_named(terms.at)}"
    if terms.readout.from_baseline:
        process = "the activation of one token at a time moves from the baseline to its value, to first order"
    else:
        size = ", in proportion to its size" if isinstance(terms.readout, Relative) else ""
        process = (
            f"the activation of one {'token' if at_embedding else 'position'} at a time is perturbed infinitesimally"
            f"{size}, equally in all directions of {_dimension(terms.at)}"
        )
    if at_embedding:
        held = "the weights, the other tokens' embeddings, the positions and the explained directions v"
        if terms.answer_process and not terms.eligible_answer:
            held = f"the answer's tokens, {held}"
    else:
        held = (
            "the weights, all embeddings, the same site's activations at other positions and heads, the positions and "
            "the explained directions v; later layers respond"
        )
    if terms.path is not None:
        held += f"; gradient flows only {terms.path}, all else keeps its value"
    if terms.points is not None:
        process += f"; gradients are means over {terms.points}"
    form = "Σ_i w_i a_i,t²" if terms.squared else "a_t"
    if not at_embedding:
        form = f"Σ_l √({'Σ_i w_i a_i,l,t²' if terms.squared else 'a_l,t²'} over the heads of layer l)"
    count = f"{terms.n_directions} direction{'s' if terms.n_directions > 1 else ''}"
    draws = f", {terms.sampled} of them random" if terms.sampled else ""
    of_answer = ", at each of the answer's predictions, whose v_nᵀJ_n,t add up" if terms.answer_process else ""
    features = f"{read} of the {terms.n_tokens} tokens up to that position{others}"
    if terms.answer_process:
        process = f"{terms.answer_process}; {process}"
        features = f"{read} of the prompt's {terms.n_tokens - terms.eligible_answer} tokens"
        features += f" and of the answer's {terms.eligible_answer} earlier ones" if terms.eligible_answer else ""
        features += others
    return contract(
        output=f"{terms.output}, after position {terms.position}",
        features=features,
        process=process,
        held=held,
        score=(
            f"score_t = {form} with a_t = {terms.readout.amplitude_symbol} ({terms.readout.describe()}); "
            f"{terms.equation}{of_answer} ({count}{draws})"
        ),
    )


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


def _named(sites: Sequence[str]) -> str:
    if len(sites) <= 2:
        return " and ".join(sites)
    return f"{sites[0]} … {sites[-1]} ({len(sites)} sites)"
