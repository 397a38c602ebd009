"""Span information flow: how much noise on a span's embeddings could tell through the predictions made after it.

    M = diag(√λ) Uᵀ J_S,   F = Σ_i λ_i u_i u_iᵀ,   bound = ½ σ² tr(M Mᵀ),   channel = ½ log det(I + σ² M Mᵀ)

MᵀM is the Fisher information of the prediction about the span's embeddings. M Mᵀ, the Gram matrix of the span's
gradients along √λ_i u_i, has the same non-zero eigenvalues and is k × k, whatever the length of the span and the width
of the model; each gradient takes one backward pass. Where k directions leave some of F out, n random rows
b_s/√n with E[b_s b_sᵀ] = the rest of F stand for it: the trace is then without bias, and log det is too low on average,
since it is concave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.attribution.provenance import record_alterations
from lens_scopes.attribution.resolved import ResolvedSpec
from lens_scopes.engine.backward import Progress, SlicedTrace, trace_within
from lens_scopes.engine.final_state import FinalState, PredictedToken, compute_dtype
from lens_scopes.engine.fisher import PredictiveGeometry
from lens_scopes.engine.model import MatmulDtype, ModelLike, ScopedModel, one_at_a_time
from lens_scopes.engine.scoring import check_gradients
from lens_scopes.engine.sites import EMBEDDING
from lens_scopes.errors import ObjectiveError, PromptError, check_seed, whole_number
from lens_scopes.prompts.answer import Answer, AnswerLike, one_answer, read_answer
from lens_scopes.prompts.prompt import Prompt, next_token_id, resolve_position
from lens_scopes.prompts.read import PromptLike, read_prompt
from lens_scopes.prompts.spans import SpanLike
from lens_scopes.results.flow import InformationFlow, Sigma, check_sigma
from lens_scopes.scopes.contract import answer_process, contract
from lens_scopes.scopes.objectives import EXACT_TRACE_LIMIT, Fisher
from lens_scopes.scopes.paths import PathLike
from lens_scopes.scopes.spec import Spec

_RANK, _SAMPLES = 16, 16
_MAX_SAMPLES = 100_000
_TOKENS_AT_ONCE = 8192  # of the vocabulary, when the norms of its embeddings are taken
_MAX_OMITTED = 0.5  # share of the bound beyond the leading directions from which the result says so
_NOISY = 0.2  # a standard error above this share of the bound is worth a warning


@one_at_a_time
@record_alterations
def information_flow(
    model: ModelLike,
    prompt: PromptLike,
    spans: Mapping[str, SpanLike] | None = None,
    *,
    answer: AnswerLike | None = None,
    generate: int = 0,
    position: int = -1,
    sigma: Sigma = 0.1,
    rank: int | None = None,
    samples: int | None = None,
    seed: int = 0,
    through: PathLike = None,
    memory: str | int | None = None,
    matmul_dtype: MatmulDtype = None,
    progress: Progress | None = None,
) -> InformationFlow:
    """How many nats a span of the prompt (a secret, a retrieved document) could tell through what is predicted next.

    Noise ε ~ N(0, σ²I) on the embeddings of one span S at a time moves the prediction. With
    F = W_U (diag p − p pᵀ) W_Uᵀ = Σ_i λ_i u_i u_iᵀ and M = diag(√λ) Uᵀ J_S, for each span and prediction:

    - bound: ½ σ² tr(M Mᵀ), to second order in σ the value of E_ε KL(p_ε ‖ p_0). That divergence, and not its
      second-order value, is at least the mutual information I(ε; Y);
    - channel: ½ log det(I + σ² M Mᵀ), the mutual information of the matching Gaussian channel: never above the bound,
      and no bound itself where σ is large.

    The ratio of each to I(ε; Y) tends to 1 as σ → 0. Where F has more than `rank` directions, `samples` random ones
    stand for the others.

    The objective is the whole distribution, so there is no `target`; noise is isotropic and small around the prompt
    itself, so there are no `readout` and `points`.

    Args:
        model, through, memory, matmul_dtype, progress: as for `attribute`.
        prompt: text, chat messages, token ids or a Prompt.
        spans: names → a part of the text, `Chars(start, stop)`, or (start, stop) in tokens; they must not overlap. By
            default the messages of a chat.
        answer: as for `attribute`: the predictions of its tokens are explained, and values summed.
        generate: the same as a number in `answer`.
        position: without an answer, the token after which the one prediction is explained, negative from the end.
        sigma: σ in units of the typical root mean square coordinate of an embedding, r/√d_model with r the median of
            ‖x‖₂ over the vocabulary: at 1 the noise on a token is as long as that median. Curves over σ come with
            the result.
        rank: k, leading directions of F taken exactly, at most d_model; by default all of them up to d_model = 128,
            else 16.
        samples: random directions, at least 2, that stand for what the rank leaves out, with a standard error; by
            default 16. With rank d_model nothing is left out and none are drawn.
        seed: of the random directions; the global generator is not touched.

    Returns:
        An InformationFlow. It costs (rank + samples) backward passes a prediction; the predictions of an answer share
        one forward pass.

    Raises:
        LensScopesError: PromptError for spans that are missing, overlap or cut a token, for an answer that does not
            follow the prompt or does not fit the window; ObjectiveError for σ ≤ 0, ranks and samples; others as
            `attribute`.

    Source: the bound after GIF, arXiv:2606.23277; the directions are those of Fisher Scope, arXiv:2601.16407.

    Example:
        >>> flow = ls.information_flow(model, "The capital of France is", {"country": " France"}, answer=" Paris.")
        >>> flow.bound().shape, bool((flow.channel() <= flow.bound()).all())
        (torch.Size([1, 2]), True)
    """
    # All that can be refused, before the one pass over what may be a long text.
    relative, seed = check_sigma(sigma), check_seed(seed)
    generate = whole_number(generate, "the number of tokens to generate", PromptError)
    resolved = ResolvedSpec.of(
        model, Spec.read(Fisher("trace"), through=through, memory=memory, matmul_dtype=matmul_dtype)
    )
    scoped = resolved.model
    rank, samples = check_directions(scoped.cfg.d_model, rank, samples)
    text, resolved_answer = _with_answer(scoped, prompt, spans, one_answer(answer, generate or None), position)
    n_answer, generated = (0, False) if resolved_answer is None else (len(resolved_answer), resolved_answer.generated)
    span_ranges = _check_spans(text)
    destinations = _destinations(text, n_answer, position)
    ids = text.token_ids[: destinations[-1] + 1]

    # One forward pass for all predictions, and √λ_i u_i of each.
    plan = resolved.budget().plan(len(ids))
    reads = [(0, destination) for destination in destinations]
    graph = trace_within(scoped, [ids], [], plan, resolved.path_hooks(), reads)
    with torch.no_grad():
        states = resolved.final_states(graph, [next_token_id(text, destination) for destination in destinations])
        # One generator for all predictions: were it made anew, their errors would not be independent.
        generator = torch.Generator().manual_seed(seed)
        directions = torch.stack([_directions(state, rank, samples, generator) for state in states])

    # M of each span, one backward pass per row.
    gradients = _span_gradients(graph, directions, [range(*span) for span in span_ranges.values()], progress)
    omitted, errors = zip(*(_omitted_trace(rows[:, rank:]) for rows in gradients), strict=True)
    result = InformationFlow(
        spans=span_ranges,
        sigma=relative,
        embedding_norm=_embedding_norm(scoped),
        d_model=scoped.cfg.d_model,
        rank=rank,
        samples=samples,
        eigenvalues=torch.stack([_gram_eigenvalues(rows) for rows in gradients]),
        # Stacked: one M whose rows are those of all predictions.
        joint_eigenvalues=torch.stack([_gram_eigenvalues(rows.flatten(0, 1)) for rows in gradients]),
        omitted=torch.stack(omitted),
        omitted_error=torch.stack(errors),
        leading=torch.stack([rows[:, 0].double().square().sum(-1).cpu() for rows in gradients]),
        destinations=destinations,
        targets=[_target(resolved, state) if n_answer else None for state in states],
        predicted=[resolved.prediction(state).top[0] for state in states],
        answer=n_answer,
        generated=generated,
        **resolved.record(text, destinations[-1], states[-1], whole=True),
        contract=_contract(resolved, destinations, span_ranges, resolved_answer, relative, rank, samples),
        settings=resolved.settings(
            destinations[-1],
            sigma=relative,
            rank=rank,
            samples=samples,
            seed=seed,
            answer_tokens=n_answer,
            generated=generated,
            matmul_dtype=scoped.matmul_dtype,
        ),
        memory=graph.outcome(plan, len(destinations) * (rank + samples)),
    )
    result.warnings.extend(_warnings(result))
    return result


def _destinations(text: Prompt, n_answer: int, position: int) -> list[int]:
    """The positions before each token of the answer; without an answer, the one asked for."""
    if n_answer == 0:
        return [resolve_position(text, position)]
    return list(range(len(text) - 1 - n_answer, len(text) - 1))


def check_directions(d_model: int, rank: Any, samples: Any) -> tuple[int, int]:
    """Leading and random directions of each prediction, where None stands for the usual number.

    Raises:
        ObjectiveError: for numbers that are out of range.
    """
    if rank is None:
        rank = d_model if d_model <= EXACT_TRACE_LIMIT else _RANK
    rank = whole_number(rank, "the rank", ObjectiveError, least=1, most=d_model)
    if samples is not None:
        subject = "samples, for an estimate with a standard error,"
        samples = whole_number(samples, subject, ObjectiveError, least=2, most=_MAX_SAMPLES)
    if rank == d_model:
        return rank, 0
    return rank, _SAMPLES if samples is None else samples


def _with_answer(
    model: ScopedModel,
    prompt: PromptLike,
    spans: Mapping[str, SpanLike] | None,
    answer: AnswerLike | None,
    position: int,
) -> tuple[Prompt, Answer | None]:
    """The prompt with named spans, the answer at its end, and that answer."""
    if answer is not None and position != -1:
        raise PromptError(f"an answer follows the whole prompt, and position {position} was asked for; leave it out.")
    text = read_prompt(model, prompt)
    if spans is not None:
        named_spans = read_prompt(model, text, spans=spans).spans
        text = Prompt(**{**vars(text), "spans": {name: named_spans[name] for name in spans}})
    if answer is None:
        return text, None
    resolved_answer = read_answer(model, text, answer)
    return resolved_answer.prompt, resolved_answer


def _check_spans(prompt: Prompt) -> dict[str, tuple[int, int]]:
    if not prompt.spans:
        raise PromptError(
            "information flows from a span to a prediction, and no span was named; give spans={'name': 'its text'}, "
            "or a chat."
        )
    in_order = sorted(prompt.spans.items(), key=lambda item: item[1])
    for (name, span), (other, next_span) in zip(in_order, in_order[1:], strict=False):
        if span[1] > next_span[0]:
            first, second = _span_words(prompt, name, span), _span_words(prompt, other, next_span)
            raise PromptError(
                f"the spans {first} and {second} overlap; the tokens they share would count twice. Move one, or ask "
                "for them one at a time."
            )
    return dict(prompt.spans)


def _span_words(prompt: Prompt, name: str, span: tuple[int, int]) -> str:
    start, stop = span
    text = "".join(prompt.tokens[start:stop])
    place = f"tokens {start} to {stop}"
    if prompt.offsets is not None:
        place = f"characters {prompt.offsets[start][0]} to {prompt.offsets[stop - 1][1]}, {place}"
    return f"{name!r} ({text if len(text) <= 40 else text[:39] + '…'!r}, {place})"


def _directions(
    state: FinalState, rank: int, samples: int, generator: torch.Generator
) -> Float[Tensor, "direction d_model"]:
    """The rows √λ_i u_i of F = Σ_i λ_i u_i u_iᵀ, then the random ones: their squares sum to F, on average."""
    geometry = PredictiveGeometry(state)
    if not samples:
        terms = geometry.leading(rank)
        return terms.eigenvalues.sqrt()[:, None] * terms.vectors
    leading, random = geometry.split_trace(rank, samples, generator)
    missing = leading.new_zeros(rank - len(leading), leading.shape[1])  # F may have fewer directions than asked for
    return torch.cat([leading, missing, random / samples**0.5])


def _span_gradients(
    graph: SlicedTrace,
    directions: Float[Tensor, "dest direction d_model"],
    spans: Sequence[range],
    progress: Progress | None,
) -> list[Float[Tensor, "dest direction width"]]:
    """M of each span: the rows vᵀ J_S for every direction of every prediction."""
    # Every direction is zero at all final states but its own prediction's, whose gradient alone it carries.
    n_dest, n_directions, d_model = directions.shape
    vectors = torch.zeros(n_dest, n_directions, n_dest, d_model).to(directions)
    for dest in range(n_dest):
        vectors[dest, :, dest] = directions[dest]
    rows: dict[int, list[Tensor]] = {}

    def visit(index: int, name: str, gradient: Tensor, activation: Tensor) -> None:
        check_gradients(gradient, name, gradient.dtype)
        # A span after the prediction, whose tokens were not run, gets no column.
        rows[index] = [gradient[0, span.start : span.stop].flatten().to(directions) for span in spans]

    graph.backward(vectors.flatten(0, 1), visit, progress)
    by_span = zip(*(rows[index] for index in range(n_dest * n_directions)), strict=True)
    return [torch.stack(gradients).unflatten(0, (n_dest, n_directions)) for gradients in by_span]


def _gram_eigenvalues(rows: Float[Tensor, "*batch n width"]) -> Float[Tensor, "*batch n"]:
    """Eigenvalues of M Mᵀ, largest first. Rounding may leave those of a Gram matrix just below zero."""
    return torch.linalg.eigvalsh((rows @ rows.mT).double()).flip(-1).clamp_min(0).cpu()


def _omitted_trace(rows: Float[Tensor, "dest samples width"]) -> tuple[Float[Tensor, " dest"], Float[Tensor, " dest"]]:
    """The trace that the random rows stand for, and its standard error; zeros where there are none.

    The rows are b_s/√n, so the trace is the sum of their squares x_s, and its error √n times the deviation of x_s.
    """
    squares = rows.double().square().sum(-1).cpu()
    samples = squares.shape[1]
    if not samples:
        return squares.sum(1), squares.sum(1)
    return squares.sum(1), squares.std(1) * samples**0.5


def _embedding_norm(model: ScopedModel) -> float:
    """The median of ‖x‖₂ over the vocabulary, x as the model embeds a token (Gemma scales W_E)."""
    ids = torch.arange(model.cfg.d_vocab, device=model.device)
    with torch.no_grad():
        parts = (model.module.embed(part[None])[0] for part in ids.split(_TOKENS_AT_ONCE))
        norms = torch.cat([part.to(compute_dtype(part.dtype)).norm(dim=-1) for part in parts])
    return float(norms.median())


def _target(resolved: ResolvedSpec, state: FinalState) -> PredictedToken | None:
    if state.target is None:
        return None
    return PredictedToken(state.target, resolved.token(state.target), float(state.probabilities[state.target]))


def _contract(
    resolved: ResolvedSpec,
    destinations: Sequence[int],
    spans: Mapping[str, tuple[int, int]],
    answer: Answer | None,
    sigma: float,
    rank: int,
    samples: int,
) -> dict[str, str]:
    after = f"after position {destinations[-1]}"
    process = f"noise ε ~ N(0, σ²I) on one span's embeddings, σ = {sigma:g} times the typical root mean square "
    process += "coordinate of an embedding, to second order"
    if answer is not None:
        after = f"after positions {destinations[0]} to {destinations[-1]}, those of the answer {answer.text!r}, summed"
        process = f"{answer_process([answer])}; {process}"
    span_list = ", ".join(f"{name!r} ({start} to {stop - 1})" for name, (start, stop) in spans.items())
    answer_held = "" if answer is None else "the answer's own tokens, "
    held = f"{answer_held}the weights, all other embeddings and the positions"
    if resolved.path is not None:
        held += f"; {resolved.path.held}"
    remainder = f", and {samples} random ones for the rest" if samples else ", which are all"
    return contract(
        output=f"the whole next-token distribution, {after}",
        features=f"the embeddings ({EMBEDDING}) of all tokens of one span together: {span_list}",
        process=process,
        held=held,
        score="bound = ½ σ² tr(M Mᵀ) and channel = ½ log det(I + σ² M Mᵀ) with M = diag(√λ) Uᵀ J_S and "
        f"F = W_U (diag p − p pᵀ) W_Uᵀ = U diag(λ) Uᵀ; {rank} directions a prediction{remainder}",
    )


def _warnings(flow: InformationFlow) -> list[str]:
    warnings: list[str] = []
    totals = flow.totals()
    for item in totals:
        if item.start > flow.destinations[-1]:
            warnings.append(f"the span {item.name!r} comes after every prediction explained: nothing flows from it.")
    incomplete = [item for item in totals if item.omitted > _MAX_OMITTED * item.bound]
    if incomplete:
        share = max(item.omitted / item.bound for item in incomplete)
        warnings.append(
            f"{flow.rank} directions leave out up to {share:.0%} of the trace, which {flow.samples} random ones stand "
            "for: the bound is right on average, the channel too low at large σ. Ask for a higher rank."
        )
    noisy = [item for item in totals if item.bound_error > _NOISY * item.bound]
    if noisy:
        share = max(item.bound_error / item.bound for item in noisy)
        warnings.append(f"the standard error is up to {share:.0%} of the bound; ask for more samples.")
    return warnings
