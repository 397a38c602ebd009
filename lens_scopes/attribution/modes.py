"""What the directions mean: each Fisher mode as a contrast over the vocabulary, and what each source token does
along it.

A small change δ of the final state moves probability by Δp_j = p_j (w_j − w̄)ᵀδ. Along mode u_i some tokens rise and
others fall: the mode's contrast. A source token t that is moved to its baseline b changes y by J_t (b − x_t), that is
by a_i,t = u_iᵀJ_t (b − x_t) along mode i, so that Δp_j = p_j (w_j − w̄)ᵀ Σ_i u_i a_i,t: "this word moves mass from Paris
to London".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.attribution.component_ablation import changed_final_states
from lens_scopes.attribution.resolved import PromptPosition, ResolvedSpec
from lens_scopes.attribution.scoring import check_gradients
from lens_scopes.engine.backward import Progress, trace_within
from lens_scopes.engine.final_state import FinalState, compute_dtype
from lens_scopes.engine.fisher import LeadingTerms, PredictiveGeometry
from lens_scopes.engine.forward import Hook
from lens_scopes.engine.sites import EMBEDDING
from lens_scopes.engine.text_mean import averaged_mask, text_mean
from lens_scopes.errors import ReadoutError
from lens_scopes.prompts.read import PromptLike
from lens_scopes.results.modes import FisherMode, ModeInspection, ProbabilityChange, TokenReplacement
from lens_scopes.scopes.contract import contract
from lens_scopes.scopes.objectives import Fisher, solver_warnings
from lens_scopes.scopes.paths import PathLike


def inspect_modes(
    model: Any,
    prompt: PromptLike,
    rank: int = 4,
    *,
    position: int = -1,
    baseline: str = "mean",
    through: PathLike = None,
    shown: int = 6,
    memory: str | int | None = None,
    progress: Progress | None = None,
) -> ModeInspection:
    """Decodes the leading Fisher modes of a prediction and checks what each source token does along them.

    One forward and `rank` backward passes give the predicted shifts; one more forward pass for each token, batched,
    replaces its embedding by the baseline and gives the actual ones.

    Args:
        model, prompt, position, through, memory: as for `attribute`.
        rank: how many modes.
        baseline: what an embedding is moved to: "zero", or "mean", the mean embedding of the prompt's non-special
            tokens.
        shown: how many tokens of the vocabulary to name on each side.
        progress: called with (tokens replaced, tokens in all).

    Raises:
        LensScopesError: as `attribute`; ReadoutError for another baseline.
    """
    if baseline not in ("zero", "mean"):
        raise ReadoutError(f'the baseline must be "zero" or "mean"; got {baseline!r}.')
    resolved = ResolvedSpec.read(model, Fisher(rank=rank), False, (), through, "norm", memory)
    place = PromptPosition.read(model, prompt, position, None)
    budget = resolved.budget()
    plan = budget.plan(len(place.token_ids))
    traced = trace_within(model, [place.token_ids], [], plan, resolved.path_hooks())
    state = resolved.final_states(traced, [place.target])[0]
    terms = PredictiveGeometry(state).leading(rank)
    read: list[tuple[Tensor, Tensor]] = []
    traced.backward(
        terms.vectors[:, None], lambda index, name, gradient, activation: read.append((gradient[0], activation[0]))
    )
    embeddings = read[0][1]
    target = (
        torch.zeros_like(embeddings)
        if baseline == "zero"
        else text_mean(embeddings[None], averaged_mask([place.special]).to(embeddings.device))[0]
        .to(embeddings)
        .expand_as(embeddings)
    )
    dtype = compute_dtype(embeddings.dtype)
    moved = (target - embeddings).to(dtype)
    amounts = torch.stack([(gradient.to(dtype) * moved).sum(-1) for gradient, _ in read]).to(terms.vectors.device)
    check_gradients(amounts, EMBEDDING, embeddings.dtype)
    contrasts = state.probability_changes(terms.vectors)
    signs = torch.where(contrasts.amax(1) >= -contrasts.amin(1), 1.0, -1.0).to(contrasts)[:, None]
    contrasts, amounts = signs * contrasts, signs.to(amounts) * amounts
    decoded = [
        FisherMode(value, *(_sides(resolved, contrast / value**0.5, shown) if is_clear else ([], [])), is_clear)
        for value, contrast, is_clear in zip(terms.eigenvalues.tolist(), contrasts, terms.resolved, strict=True)
    ]
    after = changed_final_states(
        model,
        place.token_ids,
        range(len(place.token_ids)),
        lambda indices: [(EMBEDDING, _replace(indices, target))],
        progress,
        budget,
    )
    replacements = [
        _removal(
            resolved,
            place,
            index,
            state,
            FinalState(y, resolved.unembedding),
            amounts[:, index],
            terms.eigenvalues,
            contrasts,
            shown,
        )
        for index, y in enumerate(after.to(state.y))
    ]
    return ModeInspection(
        modes=decoded,
        replacements=replacements,
        baseline=baseline,
        **resolved.record(place.prompt, place.position, state),
        contract=_contract(resolved, place, state, baseline, len(decoded)),
        settings=resolved.settings(
            place.position,
            rank=rank,
            baseline=baseline,
            divergence=True,
            residual=terms.residual,
            gap=terms.gap,
            share=terms.share,
            converged=terms.converged,
        ),
        memory=traced.outcome(plan, rank),
        warnings=[*solver_warnings(terms), *_unresolved(terms)],
    )


def _contract(
    resolved: ResolvedSpec, place: PromptPosition, state: FinalState, baseline: str, n_modes: int
) -> dict[str, str]:
    held = "the weights, the embeddings of all other tokens, the positions and the modes u_i"
    if resolved.path is not None:
        held += f"; gradient flows only {resolved.path}, all else keeps its value"
    return contract(
        output=f"{resolved.objective.describe(resolved.label, state)}, after position {place.position}",
        features=f"the embeddings ({EMBEDDING}) of the {len(place.token_ids)} tokens up to that position",
        process=f"one token's embedding at a time is replaced by the {baseline} one; predicted to first order, checked "
        "by doing it",
        held=held,
        score=f"a_i,t = u_iᵀ J_t (b − x_t) along {n_modes} leading modes; predicted KL = ½ Σ_i λ_i a_i,t², "
        "actual KL(before ‖ after), in nats",
    )


def _unresolved(terms: LeadingTerms) -> list[str]:
    """Which modes are too small for the solver to tell from noise."""
    small = [str(index) for index, resolved in enumerate(terms.resolved, start=1) if not resolved]
    if not small:
        return []
    return [
        f"mode{'s' if len(small) > 1 else ''} {', '.join(small)} of {len(terms.eigenvalues)}: λ is not above the "
        "solver's error or rounding, so the direction may be any and is not decoded."
    ]


def _sides(
    resolved: ResolvedSpec, change: Float[Tensor, " d_vocab"], shown: int
) -> tuple[list[ProbabilityChange], list[ProbabilityChange]]:
    shown = min(shown, len(change))
    rising = [_shift(resolved, change, token) for token in change.topk(shown).indices.tolist()]
    falling = [_shift(resolved, change, token) for token in (-change).topk(shown).indices.tolist()]
    return [item for item in rising if item.change > 0], [item for item in falling if item.change < 0]


def _shift(resolved: ResolvedSpec, change: Float[Tensor, " d_vocab"], token_id: int) -> ProbabilityChange:
    return ProbabilityChange(token_id, resolved.token(token_id), float(change[token_id]))


def _removal(
    resolved: ResolvedSpec,
    place: PromptPosition,
    index: int,
    before: FinalState,
    after: FinalState,
    amounts: Float[Tensor, " k"],
    eigenvalues: Float[Tensor, " k"],
    contrasts: Float[Tensor, "k d_vocab"],
    shown: int,
) -> TokenReplacement:
    predicted = amounts.to(contrasts) @ contrasts
    # p_j (e^d − 1): the difference of two probabilities near one would cancel.
    actual = (before.probabilities * torch.expm1(before.log_probability_change(after))).to(predicted)
    norms = float(predicted.norm()) * float(actual.norm())
    chosen = predicted.abs().topk(min(shown, len(predicted))).indices.tolist()
    largest = torch.maximum(predicted.abs(), actual.abs()).topk(min(shown, len(predicted))).indices.tolist()
    return TokenReplacement(
        index=index,
        token=place.prompt.tokens[index],
        amounts=amounts.tolist(),
        predicted=[_shift(resolved, predicted, token) for token in chosen],
        actual=[_shift(resolved, actual, token) for token in largest],
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
