"""A request and its model → the result, computed as the command line computes it and stoppable anywhere."""

from __future__ import annotations

from typing import Any

from lens_scopes.attribution.attribute import attribute
from lens_scopes.attribution.heads import inspect_heads
from lens_scopes.attribution.matrix import attribute_all
from lens_scopes.attribution.modes import inspect_modes
from lens_scopes.prompts.prompt import Prompt
from lens_scopes.prompts.read import read_prompt
from lens_scopes.scopes.paths import read_path
from lens_scopes.scopes.readouts import as_readout
from lens_scopes.server.commands import objective_of
from lens_scopes.server.interruption import interruptible
from lens_scopes.server.problems import Refusal
from lens_scopes.server.schemas import AttributeRequest, HeadsRequest, MatrixRequest, ModesRequest, PromptRequest
from lens_scopes.server.settings import Limits
from lens_scopes.server.work import Job

Explanation = AttributeRequest | HeadsRequest | MatrixRequest | ModesRequest


def refuse_early(request: PromptRequest, limits: Limits) -> None:
    """Refuses what can be refused without a model, as the command line does, before it takes a place in the queue.

    Raises:
        Refusal: 413 for a prompt or a continuation beyond the limits.
        LensScopesError: for choices that do not fit.
    """
    if request.characters > limits.prompt_characters:
        raise Refusal(
            413, f"the prompt has {request.characters} characters; this server takes {limits.prompt_characters}."
        )
    if isinstance(request, MatrixRequest) and request.generate > limits.generated_tokens:
        raise Refusal(
            413, f"{request.generate} tokens were to be generated; this server takes {limits.generated_tokens}."
        )
    if isinstance(request, AttributeRequest | HeadsRequest | MatrixRequest):
        objective_of(request)
    if isinstance(request, AttributeRequest) and request.readout is not None:
        as_readout(request.readout)
    choices: Any = request
    read_path(choices.through, choices.freeze)


def explain(model: Any, request: Explanation, limits: Limits, job: Job) -> tuple[Prompt, Any]:
    """The prompt of a request as the model reads it, and the result.

    Raises:
        Refusal: 413 for a prompt of more tokens than the limit.
        LensScopesError: as the functions of the library.
        WorkCancelledError, TimeUpError: when the job is to stop.
    """
    prompt = read_prompt(model, request.prompt())
    if len(prompt) > limits.prompt_tokens:
        raise Refusal(413, f"the prompt has {len(prompt)} tokens; this server takes {limits.prompt_tokens}.")
    if isinstance(request, AttributeRequest):
        return prompt, _attribution(model, prompt, request, job)
    if isinstance(request, HeadsRequest):
        return prompt, _heads(model, prompt, request, job)
    if isinstance(request, MatrixRequest):
        return prompt, _matrix(model, prompt, request, job)
    return prompt, _modes(model, prompt, request, job)


def _attribution(model: Any, prompt: Prompt, request: AttributeRequest, job: Job) -> Any:
    with interruptible(model, job, "directions") as progress:
        return attribute(
            model,
            prompt,
            objective_of(request),
            position=request.position,
            layers=request.layer_site or request.layers,
            through=read_path(request.through, request.freeze),
            readout=request.readout,
            progress=progress,
        )


def _heads(model: Any, prompt: Prompt, request: HeadsRequest, job: Job) -> Any:
    baseline: Any = request.baseline
    with interruptible(model, job, "ablations") as progress:
        return inspect_heads(
            model,
            prompt,
            objective_of(request),
            position=request.position,
            baseline=baseline,
            through=read_path(request.through, request.freeze),
            patterns=request.head or request.top,
            verify=request.verify,
            progress=progress,
        )


def _matrix(model: Any, prompt: Prompt, request: MatrixRequest, job: Job) -> Any:
    spans: Any = request.spans
    if spans:
        prompt = read_prompt(model, prompt, spans=spans)
    with interruptible(model, job, "predictions") as progress:
        return attribute_all(
            model,
            prompt,
            objective_of(request),
            generate=request.generate,
            through=read_path(request.through, request.freeze),
            progress=progress,
        )


def _modes(model: Any, prompt: Prompt, request: ModesRequest, job: Job) -> Any:
    with interruptible(model, job, "replacements") as progress:
        return inspect_modes(
            model,
            prompt,
            request.rank,
            position=request.position,
            baseline=request.baseline,
            through=read_path(request.through, request.freeze),
            progress=progress,
        )
