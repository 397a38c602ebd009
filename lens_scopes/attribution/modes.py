"""What the directions mean: each Fisher mode as a contrast over the vocabulary, and what each source token does
along it.

A small change δ of the final state moves probability by Δp_j = p_j (w_j − w̄)ᵀδ. Along mode u_i some tokens rise and
others fall: the mode's contrast. A source token t that is moved to its baseline b changes y by J_t (b − x_t), that is
by a_i,t = u_iᵀJ_t (b − x_t) along mode i, so that Δp_j = p_j (w_j − w̄)ᵀ Σ_i u_i a_i,t: "this word moves mass from Paris
to London".
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from lens_scopes.attribution.component_ablation import changed_final_states
from lens_scopes.attribution.prompt_position import PromptPosition
from lens_scopes.attribution.provenance import record_alterations
from lens_scopes.attribution.resolved import ResolvedSpec
from lens_scopes.engine.backward import Progress, SlicedTrace, trace_within
from lens_scopes.engine.final_state import FinalState, compute_dtype
from lens_scopes.engine.fisher import LeadingTerms, PredictiveGeometry
from lens_scopes.engine.model import Hook, MatmulDtype, ModelLike, one_at_a_time
from lens_scopes.engine.scoring import check_gradients
from lens_scopes.engine.sites import EMBEDDING
from lens_scopes.engine.token_ablation import text_mask, text_mean
from lens_scopes.errors import ObjectiveError, ReadoutError, whole_number
from lens_scopes.prompts.read import PromptLike
from lens_scopes.results.modes import FisherMode, ModeInspection, ProbabilityChange, TokenReplacement
from lens_scopes.scopes.contract import contract
from lens_scopes.scopes.objectives.fisher import Fisher, solver_warnings
from lens_scopes.scopes.paths import PathLike
from lens_scopes.scopes.spec import Spec


@one_at_a_time
@record_alterations
def inspect_modes(
    model: ModelLike,
    prompt: PromptLike,
    rank: int = 4,
    *,
    position: int = -1,
    baseline: str = "mean",
    through: PathLike = None,
    top_tokens: int = 6,
    memory: str | int | None = None,
    matmul_dtype: MatmulDtype = None,
    progress: Progress | None = None,
) -> ModeInspection:
    """Decodes the leading Fisher modes of a prediction and checks what each source token does along them.

    One forward and `rank` backward passes give the predicted shifts; one more forward pass for each token, batched,
    replaces its embedding by the baseline and gives the actual ones.

    Modes are those of the whole distribution, so there is no `target`. Nor is there an `answer`: by the chain rule its
    divergence is a sum over predictions, so over all their final states its Fisher matrix has one block for each, and
    every eigenvector lies in one block. The modes of an answer are those of its predictions, which `position` asks
    for in the prompt with the answer after it. An amount is a move to `baseline`, so there are no `readout` and
    `points`; nothing is drawn, so there is no `seed`.

    Args:
        model, prompt, position, through, memory, matmul_dtype: as for `attribute`.
        rank: how many modes.
        baseline: what an embedding is moved to: "zero", or "mean", the mean embedding of the prompt's non-special
            tokens.
        top_tokens: how many tokens of the vocabulary to name on each side.
        progress: called with (tokens replaced, tokens in all).

    Returns:
        A ModeInspection: `rank` modes, largest eigenvalue first, and one TokenReplacement per token up to the position.

    Raises:
        LensScopesError: as `attribute`; ReadoutError for another baseline.

    Example:
        >>> modes = ls.inspect_modes(model, "The capital of France is", rank=2)
        >>> [mode.resolved for mode in modes.modes], len(modes.replacements)
        ([True, True], 6)
    """
    top_tokens = whole_number(top_tokens, "the number of tokens to name", ObjectiveError)
    if not isinstance(baseline, str) or baseline not in ("zero", "mean"):
        raise ReadoutError(f'the baseline must be "zero" or "mean"; got {str(baseline)[:60]!r}.')
    fisher = Fisher(rank)
    if not isinstance(fisher.rank, int):
        raise ObjectiveError(f"the rank is a number of modes; got {fisher.rank!r}.")
    rank = fisher.rank
    resolved = ResolvedSpec.of(model, Spec.read(fisher, through=through, memory=memory, matmul_dtype=matmul_dtype))
    scoped = resolved.model

    # The modes: the leading eigenvectors of F at the prediction.
    place = PromptPosition.read(scoped, prompt, position, None)
    budget = resolved.budget()
    plan = budget.plan(len(place.token_ids))
    graph = trace_within(scoped, [place.token_ids], [], plan, resolved.path_hooks())
    state = resolved.final_states(graph, [place.target])[0]
    terms = PredictiveGeometry(state).leading(rank)

    # First order: a_i,t of every mode and token, and Δp along every mode.
    amounts, replacement = _amounts_along(graph, terms.vectors, baseline, place)
    contrasts = state.probability_changes(terms.vectors)
    signs = _signs(contrasts)  # an eigenvector's sign is arbitrary
    contrasts, amounts = signs * contrasts, signs.to(amounts) * amounts

    # The check: every token's embedding is really replaced, each alone.
    ys = changed_final_states(
        scoped,
        place,
        range(len(place.token_ids)),
        lambda indices: [(EMBEDDING, _replace(indices, replacement))],
        progress,
        budget,
    )
    after = [FinalState(y, resolved.unembedding) for y in ys[:, 0].to(state.y)]
    return ModeInspection(
        modes=[
            FisherMode(
                value, *(_sides(resolved, contrast / value**0.5, top_tokens) if is_clear else ([], [])), is_clear
            )
            for value, contrast, is_clear in zip(terms.eigenvalues.tolist(), contrasts, terms.resolved, strict=True)
        ],
        replacements=[
            _token_replacement(
                resolved, place, index, state, state_after, amounts[:, index], terms.eigenvalues, contrasts, top_tokens
            )
            for index, state_after in enumerate(after)
        ],
        baseline=baseline,
        **resolved.record(place.prompt, place.position, state),
        contract=_contract(resolved, place, state, baseline, rank),
        settings=resolved.settings(
            place.position,
            rank=rank,
            baseline=baseline,
            divergence=True,
            matmul_dtype=scoped.matmul_dtype,
            residual=terms.residual,
            gap=terms.gap,
            share=terms.share,
            converged=terms.converged,
        ),
        memory=graph.outcome(plan, rank),
        warnings=[*solver_warnings(terms), *_unresolved_warnings(terms)],
    )


def _amounts_along(
    graph: SlicedTrace, vectors: Float[Tensor, "k d_model"], baseline: str, place: PromptPosition
) -> tuple[Float[Tensor, "k pos"], Float[Tensor, "pos d_model"]]:
    """a_i,t = u_iᵀ J_t (b − x_t) of every mode and token, and the embeddings b."""
    gradients: list[Tensor] = []
    embeddings: list[Tensor] = []

    def visit(index: int, name: str, gradient: Tensor, activation: Tensor) -> None:
        gradients.append(gradient[0])
        embeddings[:] = [activation[0]]

    graph.backward(vectors[:, None], visit)
    x, dtype = embeddings[0], compute_dtype(embeddings[0].dtype)
    b = torch.zeros_like(x)
    if baseline == "mean":
        b = text_mean(x[None], text_mask([place.special]).to(x.device))[0].to(x).expand_as(x)
    move = (b - x).to(dtype)
    amounts = torch.stack([einsum(g.to(dtype), move, "pos d, pos d -> pos") for g in gradients]).to(vectors.device)
    check_gradients(amounts, EMBEDDING, x.dtype)
    return amounts, b


def _signs(contrasts: Float[Tensor, "k d_vocab"]) -> Float[Tensor, "k 1"]:
    """±1 for each mode. An eigenvector has no sign of its own: the largest change of a probability is made a rise."""
    return torch.where(contrasts.amax(1) >= -contrasts.amin(1), 1.0, -1.0).to(contrasts)[:, None]


def _contract(
    resolved: ResolvedSpec, place: PromptPosition, state: FinalState, baseline: str, n_modes: int
) -> dict[str, str]:
    held = "the weights, the embeddings of all other tokens, the positions and the modes u_i"
    if resolved.path is not None:
        held += f"; {resolved.path.held}"
    return contract(
        output=f"{resolved.objective.describe(resolved.label, state)}, after position {place.position}",
        features=f"the embeddings ({EMBEDDING}) of the {len(place.token_ids)} tokens up to that position",
        process=f"one token's embedding at a time is replaced by the {baseline} one; predicted to first order, "
        "verified by doing the same",
        held=held,
        score=f"a_i,t = u_iᵀ J_t (b − x_t) along {n_modes} leading modes; predicted KL = ½ Σ_i λ_i a_i,t², "
        "actual KL(before ‖ after), in nats",
    )


def _unresolved_warnings(terms: LeadingTerms) -> list[str]:
    """Which modes are too small for the solver to tell from noise."""
    small = [str(index) for index, resolved in enumerate(terms.resolved, start=1) if not resolved]
    if not small:
        return []
    return [
        f"mode{'s' if len(small) > 1 else ''} {', '.join(small)} of {len(terms.eigenvalues)}: λ is not above the "
        "solver's error or rounding, so the direction may be any and is not decoded."
    ]


def _sides(
    resolved: ResolvedSpec, change: Float[Tensor, " d_vocab"], n_tokens: int
) -> tuple[list[ProbabilityChange], list[ProbabilityChange]]:
    """The tokens that rise most and those that fall most."""
    n_tokens = min(n_tokens, len(change))
    rises = _changes_of(resolved, change, change.topk(n_tokens).indices)
    falls = _changes_of(resolved, change, (-change).topk(n_tokens).indices)
    return [item for item in rises if item.change > 0], [item for item in falls if item.change < 0]


def _changes_of(
    resolved: ResolvedSpec, change: Float[Tensor, " d_vocab"], token_ids: Int[Tensor, " n"]
) -> list[ProbabilityChange]:
    return [ProbabilityChange(token, resolved.token(token), float(change[token])) for token in token_ids.tolist()]


def _token_replacement(
    resolved: ResolvedSpec,
    place: PromptPosition,
    index: int,
    before: FinalState,
    after: FinalState,
    amounts: Float[Tensor, " k"],
    eigenvalues: Float[Tensor, " k"],
    contrasts: Float[Tensor, "k d_vocab"],
    n_tokens: int,
) -> TokenReplacement:
    """What one token's replacement does: Δp_j = Σ_i a_i,t p_j (w_j − w̄)ᵀu_i beside the actual change."""
    predicted = amounts.to(contrasts) @ contrasts
    # p_j (e^d − 1): the difference of two probabilities near one would cancel.
    actual = (before.probabilities * torch.expm1(before.log_probability_change(after))).to(predicted)
    norms = float(predicted.norm()) * float(actual.norm())
    n_tokens = min(n_tokens, len(predicted))
    return TokenReplacement(
        index=index,
        token=place.prompt.tokens[index],
        amounts=amounts.tolist(),
        predicted=_changes_of(resolved, predicted, predicted.abs().topk(n_tokens).indices),
        # Those that really change most are among them, whether they were predicted or not.
        actual=_changes_of(resolved, actual, torch.maximum(predicted.abs(), actual.abs()).topk(n_tokens).indices),
        agreement=float(predicted @ actual) / norms if norms > 0 else 0.0,
        predicted_nats=float(0.5 * (eigenvalues.to(amounts) * amounts**2).sum()),
        actual_nats=resolved.objective.change(before, after),
    )


def _replace(indices: Sequence[int], target: Float[Tensor, "pos d_model"]) -> Hook:
    def hook(embeddings: Tensor) -> Tensor:
        changed = embeddings.clone()
        for row, index in enumerate(indices):
            changed[row, index] = target[index]
        return changed

    return hook
