"""What one would use instead: the scopes from Transformers and autograd alone, and captum.

The plain versions follow the paper's own code: logits at every position, F by a product over the whole vocabulary and
an SVD of it, one backward pass a direction. The model runs with the attention that Transformers chooses by default.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from benchmark.measurements import Case


def transformers_model(name: str, like: Any) -> Any:
    """The Transformers model with the weights that `load_model(name)` takes, in the dtype and place of `like`."""
    from lens_scopes.models.names import find_source
    from lens_scopes.models.pretrained import Reader
    from lens_scopes.models.quiet import quiet_libraries

    parameter = next(like.parameters())
    with quiet_libraries():
        model = Reader(find_source(name), None, False).read_weights(parameter.dtype).to(parameter.device)
        model.set_attn_implementation("sdpa")
    return model


def paper_style(model: Any, token_ids: Sequence[int], scope: str, rank: int = 1) -> Float[Tensor, " pos"]:
    """Scores of "semantic" (of the model's own top token), "temperature" or "fisher", by plain autograd."""
    ids = torch.tensor([token_ids], device=model.device)
    embeddings = model.get_input_embeddings()(ids).detach().requires_grad_(True)
    out = model(inputs_embeds=embeddings, use_cache=False, output_hidden_states=True)
    logits, y = out.logits[0, -1], out.hidden_states[-1][0, -1]
    if scope == "semantic":
        (gradient,) = torch.autograd.grad(logits.max(), embeddings)
        return gradient[0].norm(dim=-1)
    if scope == "temperature":
        (gradient,) = torch.autograd.grad(y.norm(), embeddings)
        return gradient[0].norm(dim=-1)
    W = model.get_output_embeddings().weight.detach()
    p = logits.detach().softmax(-1)
    mean = p @ W
    F = W.T @ (p[:, None] * W) - torch.outer(mean, mean)
    U, S, _ = torch.linalg.svd(F)
    scores = torch.zeros(len(token_ids), device=model.device, dtype=embeddings.dtype)
    for index in range(rank):
        (gradient,) = torch.autograd.grad(y @ U[:, index], embeddings, retain_graph=index + 1 < rank)
        scores += S[index] * gradient[0].square().sum(-1)
    return scores


def captum_cases(model: Any, tokenizer: Any, token_ids: Sequence[int], steps: int) -> list[Case]:
    """captum's `LayerIntegratedGradients` at the embedding, and `LLMGradientAttribution` with gradient × activation.

    Both attribute to one layer at a time.
    """
    names = (f"captum LayerIntegratedGradients, {steps} steps", "captum LLMGradientAttribution")
    try:
        import captum.attr  # noqa: F401
    except ImportError:
        return [Case(name, None, "pip install 'captum>=0.8,<1'") for name in names]
    layered = Case(names[0], _integrated_gradients(model, token_ids, steps), "one layer")
    if tokenizer is None:
        return [layered, Case(names[1], None, "needs a tokenizer, which this model lacks")]
    return [layered, Case(names[1], _llm_gradient(model, tokenizer, token_ids), "one layer, gradient × activation")]


def _integrated_gradients(model: Any, token_ids: Sequence[int], steps: int) -> Callable[[], Tensor]:
    from captum.attr import LayerIntegratedGradients

    ids = torch.tensor([token_ids], device=model.device)

    def last_logits(inputs: Tensor) -> Tensor:
        return model(inputs, use_cache=False).logits[:, -1]

    method = LayerIntegratedGradients(last_logits, model.get_input_embeddings())
    with torch.no_grad():
        target = int(last_logits(ids)[0].argmax())

    def run() -> Tensor:
        # Where parameters are frozen nothing has a gradient until the layer's output is given one.
        with torch.enable_grad():
            found: Any = method.attribute(
                ids, torch.zeros_like(ids), target=target, n_steps=steps, internal_batch_size=1
            )
        return found.norm(dim=-1)[0]

    return run


def _llm_gradient(model: Any, tokenizer: Any, token_ids: Sequence[int]) -> Callable[[], Tensor]:
    from captum.attr import LayerGradientXActivation, LLMGradientAttribution, TextTokenInput

    method = LLMGradientAttribution(LayerGradientXActivation(model, model.get_input_embeddings()), tokenizer)
    inputs = TextTokenInput(tokenizer.decode(token_ids, skip_special_tokens=True), tokenizer)
    with torch.no_grad():
        target = model(torch.tensor([token_ids], device=model.device), use_cache=False).logits[0, -1:].argmax(-1)

    def run() -> Tensor:
        return method.attribute(inputs, target=target).seq_attr

    return run
