"""Computes the result of a request, as the command line does; the computation can be cancelled."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lens_scopes.attribution.attribute import attribute
from lens_scopes.attribution.cells import patch_cells
from lens_scopes.attribution.flow import check_directions, information_flow
from lens_scopes.attribution.heads import inspect_heads
from lens_scopes.attribution.matrix import attribute_all
from lens_scopes.attribution.modes import inspect_modes
from lens_scopes.attribution.series import inspect_series
from lens_scopes.engine.final_state import FinalState, compute_dtype
from lens_scopes.engine.model import Batch, ModelLike, ScopedModel
from lens_scopes.errors import PathError, PromptError
from lens_scopes.prompts.alignment import read_aligned
from lens_scopes.prompts.answer import AnswerLike, tokenize_answer
from lens_scopes.prompts.prompt import Prompt, resolve_position
from lens_scopes.prompts.read import read_prompt
from lens_scopes.scopes.lens import FittedLens, LogitLens
from lens_scopes.scopes.objectives import Fisher
from lens_scopes.scopes.spec import Spec
from lens_scopes.scopes.text.options import options
from lens_scopes.scopes.text.values import read_text_or_ids, read_whole_prompt
from lens_scopes.server.api.problems import Refusal
from lens_scopes.server.api.schemas import (
    Alignment,
    AlignmentRequest,
    AttributeRequest,
    CellsRequest,
    FlowRequest,
    HeadsRequest,
    InfluenceRequest,
    MatrixRequest,
    ModesRequest,
    PromptRequest,
    SeriesRequest,
    SuggestionsRequest,
)
from lens_scopes.server.settings import Limits
from lens_scopes.server.work.interruption import interruptible
from lens_scopes.server.work.queue import Job
from lens_scopes.views.words.pages.parts.alignment import alignment_blocks

Explanation = (
    AttributeRequest | CellsRequest | HeadsRequest | MatrixRequest | ModesRequest | FlowRequest | SeriesRequest
)


def refuse_early(request: PromptRequest, limits: Limits) -> None:
    """Refuses what can be refused without a model, as the command line does, before it takes a place in the queue.

    Raises:
        Refusal: 413 for a prompt or a continuation beyond the limits.
        LensScopesError: for choices that do not fit.
    """
    _refuse_long_prompt(request, limits)
    n_generated = getattr(request, "generate", None) or 0
    if n_generated > limits.generated_tokens:
        raise Refusal(413, f"{n_generated} tokens were to be generated; this server takes {limits.generated_tokens}.")
    choices: Any = request
    _refuse_costly(choices.spec(), limits)


def _refuse_long_prompt(request: PromptRequest, limits: Limits) -> None:
    if request.length > limits.prompt_characters:
        raise Refusal(413, f"the prompt has {request.length} characters; this server takes {limits.prompt_characters}.")


def _refuse_costly(spec: Spec, limits: Limits) -> None:
    """Refuses what a line of text may say though no field of a request may."""
    table = options()
    for name, value in spec.to_options().items():
        most = table[name].maximum
        if most is not None and isinstance(value, int) and value > most:
            raise Refusal(413, f"{name} is {value}; this server takes {most}.")
    if spec.points is not None and spec.points.count > limits.points:
        raise Refusal(
            413, f"gradients were asked for at {spec.points.count} points; this server takes {limits.points}."
        )
    if isinstance(spec.lens, FittedLens):
        raise Refusal(422, "this server reads no files, a fitted lens among them; ask for the lens logit.")
    if spec.lens is not None and spec.lens.cells > LogitLens.cells:
        raise Refusal(413, f"a lens was to read {spec.lens.cells} cells; this server takes {LogitLens.cells}.")
    if spec.memory is not None:
        raise Refusal(422, "memory is the server's to choose.")


def explain(model: ModelLike, request: Explanation, limits: Limits, job: Job) -> tuple[Prompt, Any]:
    """The prompt of a request as the model reads it, and the result.

    Raises:
        Refusal: 413 for a prompt of more tokens than the limit.
        LensScopesError: as the functions of the library.
        WorkCancelledError, TimeUpError: when the job is to stop.
    """
    prompt = _read_short(model, request, limits)
    if isinstance(request, AttributeRequest):
        return prompt, _attribution(model, prompt, request, limits, job)
    if isinstance(request, CellsRequest):
        return prompt, _cells(model, prompt, request, limits, job)
    if isinstance(request, HeadsRequest):
        return prompt, _heads(model, prompt, request, limits, job)
    if isinstance(request, MatrixRequest):
        matrix = _matrix(model, prompt, request, limits, job)
        return prompt, matrix.total_influence(request.of) if isinstance(request, InfluenceRequest) else matrix
    if isinstance(request, FlowRequest):
        return prompt, _flow(model, prompt, request, limits, job)
    if isinstance(request, SeriesRequest):
        return prompt, _series(model, prompt, request, limits, job)
    return prompt, _modes(model, prompt, request, job)


def _read_short(model: ModelLike, request: PromptRequest, limits: Limits) -> Prompt:
    """The prompt of a request, which has no more tokens than the limit."""
    prompt = read_prompt(model, request.prompt())
    if len(prompt) > limits.prompt_tokens:
        raise Refusal(413, f"the prompt has {len(prompt)} tokens; {_takes(limits.prompt_tokens, '--prompt-tokens')}")
    return prompt


def _takes(most: int, option: str) -> str:
    """The end of a refusal: what the server takes, and the option that it is started with to take more."""
    return f"this server takes {most} ({option})."


def _attribution(model: ModelLike, prompt: Prompt, request: AttributeRequest, limits: Limits, job: Job) -> Any:
    spec = request.spec()
    _refuse_long_answers(model, prompt, spec, limits)
    with interruptible(model, job, "directions") as progress:
        return attribute(model, prompt, spec, position=request.position, progress=progress)


def _refuse_long_answers(model: ModelLike, prompt: Prompt, spec: Spec, limits: Limits) -> None:
    """Refuses answers that are too long with their prompt, and exact divergences of too many directions."""
    for answer in spec.answers:
        length = _answer_length(model, prompt, answer, limits)
        if isinstance(spec.objective, Fisher):
            _refuse_many_directions(spec.objective, length, limits)


def _answer_length(model: ModelLike, prompt: Prompt, answer: AnswerLike, limits: Limits) -> int:
    """How many tokens an answer has, which with the prompt are not too many."""
    length = answer if isinstance(answer, int) else len(tokenize_answer(ScopedModel.of(model), prompt, answer))
    whole, most = len(prompt) + length, limits.prompt_tokens
    if whole > most:
        raise Refusal(413, f"the prompt and its answer have {whole} tokens; {_takes(most, '--prompt-tokens')}")
    return length


def _refuse_many_directions(fisher: Fisher, length: int, limits: Limits) -> None:
    if fisher.rank != "trace" and not fisher.samples and fisher.rank * length > limits.directions:
        raise Refusal(
            413,
            f"an answer of {length} tokens has {fisher.rank * length} directions at rank {fisher.rank}; this server "
            f"takes {limits.directions}. Ask for samples=16.",
        )


def _cells(model: ModelLike, prompt: Prompt, request: CellsRequest, limits: Limits, job: Job) -> Any:
    spec = request.spec()
    _refuse_long_answers(model, prompt, spec, limits)
    with interruptible(model, job, "directions") as progress:
        attribution = attribute(model, prompt, spec, position=request.position, progress=progress)
    with interruptible(model, job, "patches") as progress:
        return patch_cells(model, attribution, request.verify, progress=progress)


def _heads(model: ModelLike, prompt: Prompt, request: HeadsRequest, limits: Limits, job: Job) -> Any:
    if request.against is not None and "baseline" in request.model_fields_set:
        raise PathError("baseline and against both say what replaces an output; give one of them.")
    baseline: Any = request.baseline if request.against is None else read_whole_prompt(request.against)
    spec = request.spec()
    _refuse_long_answers(model, prompt, spec, limits)
    with interruptible(model, job, "ablations") as progress:
        return inspect_heads(
            model,
            prompt,
            spec,
            position=request.position,
            baseline=baseline,
            mlp_rules=request.mlp_rules,
            patterns=request.head or request.top,
            verify=request.verify,
            progress=progress,
        )


def _matrix(model: ModelLike, prompt: Prompt, request: MatrixRequest, limits: Limits, job: Job) -> Any:
    spans: Any = request.spans
    if spans:
        prompt = read_prompt(model, prompt, spans=spans)
    answer = None if request.answer is None else read_text_or_ids(request.answer)
    if answer is not None:
        _answer_length(model, prompt, answer, limits)
    with interruptible(model, job, "predictions") as progress:
        return attribute_all(
            model,
            prompt,
            request.spec(),
            answer=answer,
            generate=request.generate,
            progress=progress,
        )


def _modes(model: ModelLike, prompt: Prompt, request: ModesRequest, job: Job) -> Any:
    spec = request.spec()
    with interruptible(model, job, "replacements") as progress:
        return inspect_modes(
            model,
            prompt,
            request.rank,
            position=request.position,
            baseline=request.baseline,
            through=spec.through,
            matmul_dtype=spec.matmul_dtype,
            progress=progress,
        )


def _flow(model: ModelLike, prompt: Prompt, request: FlowRequest, limits: Limits, job: Job) -> Any:
    answer = None if request.answer is None else read_text_or_ids(request.answer)
    answer_like = (request.generate or None) if answer is None else answer
    predictions = 1 if answer_like is None else _answer_length(model, prompt, answer_like, limits)
    directions = sum(check_directions(model.cfg.d_model, request.rank, request.samples))
    if predictions * directions > limits.directions:
        raise Refusal(
            413,
            f"the flow to {predictions} predictions takes {predictions * directions} backward passes, {directions} for "
            f"each; this server takes {limits.directions}. Ask for a lower rank "
            "and fewer samples, or a shorter answer.",
        )
    spec = request.spec()
    with interruptible(model, job, "directions") as progress:
        return information_flow(
            model,
            prompt,
            request.named_spans() or None,
            answer=answer,
            generate=request.generate,
            position=request.position,
            sigma=request.sigma,
            rank=request.rank,
            samples=request.samples,
            seed=request.seed,
            through=spec.through,
            matmul_dtype=spec.matmul_dtype,
            progress=progress,
        )


def _series(model: ModelLike, prompt: Prompt, request: SeriesRequest, limits: Limits, job: Job) -> Any:
    spec = request.spec()
    _refuse_long_answers(model, prompt, spec, limits)
    with interruptible(model, job, "directions") as progress:
        return inspect_series(
            model,
            prompt,
            spec,
            separator=request.separator,
            width=request.width,
            least=request.least,
            longest=request.longest,
            progress=progress,
        )


def next_probabilities(
    model: ModelLike, request: SuggestionsRequest, limits: Limits, job: Job
) -> Float[Tensor, " d_vocab"]:
    """The probability of every token of the vocabulary of coming next.

    Raises:
        Refusal: 413 for a prompt beyond the limits.
        LensScopesError: for a prompt or position that does not fit.
    """
    _refuse_long_prompt(request, limits)
    scoped = ScopedModel.of(model)
    prompt = _read_short(scoped, request, limits)
    ids = prompt.token_ids[: resolve_position(prompt, request.position) + 1]
    batch = Batch.of(scoped, [ids], [(0, len(ids) - 1)])
    with torch.no_grad(), interruptible(model, job, "forward"):
        ys = scoped.final_states(batch)
        (state,) = FinalState.several(ys.to(compute_dtype(ys.dtype)), scoped.unembedding(), [None])
    return state.probabilities.float().cpu()


def align(model: ModelLike, request: AlignmentRequest, limits: Limits) -> Alignment:
    """Two prompts beside each other, as the model reads them.

    Raises:
        Refusal: 413 for a prompt beyond the limits.
        PromptError: for a text that is no prompt.
    """
    _refuse_long_prompt(request, limits)
    scoped = ScopedModel.of(model)
    prompt, other = (read_prompt(scoped, text) for text in (request.prompt(), read_whole_prompt(request.against)))
    blocks = alignment_blocks(prompt.tokens, other.tokens)
    try:
        read_aligned(scoped, prompt, other, len(prompt))
    except PromptError as error:
        return Alignment(aligned=False, problem=str(error), blocks=blocks)
    return Alignment(aligned=True, blocks=blocks)
