"""Competing implementations: Transformers alone, the steps of the paper's code, and captum.

All of them run the same weights in Transformers, with its fused attention ("sdpa") and frozen parameters.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from benchmark.measurements import Case

Scope = Literal["semantic", "temperature", "fisher"]
CHUNK = 8192  # rows of the unembedding at a time in the paper's code


def transformers_model(name: str, like: Any) -> Any:
    """The Transformers model with the weights of `load_model(name)`, in the dtype and on the device of `like`."""
    from lens_scopes.models.names import find_source
    from lens_scopes.models.pretrained import Reader
    from lens_scopes.models.quiet import quiet_libraries

    parameter = next(like.parameters())
    with quiet_libraries():
        model = Reader(find_source(name), None, False).read_weights(parameter.dtype).to(parameter.device)
        model.set_attn_implementation("sdpa")
    return model


def body_scores(model: Any, token_ids: Sequence[int]) -> Float[Tensor, " pos"]:
    """One forward pass of the model's body and one backward pass to the embeddings, without logits.

    This is the lower bound of the benchmark; its scores are those of Temperature Scope. The body includes the last
    MLP at every position, where a scope needs it at one, so that a scope can take slightly less.
    """
    embeddings = _embeddings(model, token_ids)
    y = model.base_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state[0, -1]
    return _gradient(y.norm(), embeddings).norm(dim=-1)


def plain_scores(model: Any, token_ids: Sequence[int], scope: Scope, rank: int = 1) -> Float[Tensor, " pos"]:
    """What one would write with Transformers: one forward pass with `logits_to_keep=1`, then autograd.

    F = Wᵀ diag(p) W − (Wᵀp)(Wᵀp)ᵀ is one product over the whole vocabulary, its leading eigenvectors come from
    `eigh`, and every one of them takes one backward pass. "semantic" explains the model's own top token.
    """
    embeddings = _embeddings(model, token_ids)
    output = model(inputs_embeds=embeddings, use_cache=False, output_hidden_states=True, logits_to_keep=1)
    logits, y = output.logits[0, -1], output.hidden_states[-1][0, -1]
    if scope == "semantic":
        return _gradient(logits.max(), embeddings).norm(dim=-1)
    if scope == "temperature":
        return _gradient(y.norm(), embeddings).norm(dim=-1)
    W, p = _unembedding(model), logits.detach().softmax(-1)
    mean = p @ W
    eigenvalues, U = torch.linalg.eigh(W.T @ (p[:, None] * W) - torch.outer(mean, mean))
    scores = torch.zeros_like(embeddings[0, :, 0])
    for index in range(-rank, 0):
        gradient = _gradient(y @ U[:, index], embeddings, is_last=index == -1)
        scores += eigenvalues[index] * gradient.square().sum(-1)
    return scores


def reference_scores(model: Any, token_ids: Sequence[int], scope: Scope, rank: int = 1) -> Float[Tensor, " pos"]:
    """The scores by the steps of the paper's public code (arXiv:2601.16407), written anew.

    Logits are computed at every position. Fisher Scope takes two forward passes, the first for p and the second for
    the gradients. F is summed over chunks of 8,192 rows of the unembedding and decomposed by SVD. One batched backward
    call gives the gradients of all directions. Two things differ, in the reference's favour: parameters are frozen
    (less memory), and the norms of all tokens are taken at once, not in a loop. "semantic" explains the model's own
    top token, where the paper's code takes the text's next one.
    """
    embeddings = _embeddings(model, token_ids)
    y, logits = _all_logits(model, embeddings)
    if scope == "semantic":
        return _gradient(logits[-1].max(), embeddings).norm(dim=-1)
    if scope == "temperature":
        return _gradient(y @ (y / y.norm()).detach(), embeddings).norm(dim=-1)
    F = _fisher_in_chunks(_unembedding(model), logits[-1].detach().softmax(-1))
    U, eigenvalues, _ = torch.linalg.svd(F)
    y, _ = _all_logits(model, embeddings)
    with warnings.catch_warnings():  # fused attention has no batched backward pass, and PyTorch warns of its loop
        warnings.filterwarnings("ignore", message=".*performance drop")
        (gradients,) = torch.autograd.grad(
            y @ U[:, :rank], embeddings, torch.eye(rank, dtype=y.dtype, device=y.device), is_grads_batched=True
        )
    return eigenvalues[:rank] @ gradients[:, 0].square().sum(-1)


def _embeddings(model: Any, token_ids: Sequence[int]) -> Float[Tensor, "1 pos d_model"]:
    ids = torch.tensor([token_ids], device=model.device)
    return model.get_input_embeddings()(ids).detach().requires_grad_(True)


def _gradient(value: Tensor, embeddings: Tensor, *, is_last: bool = True) -> Float[Tensor, "pos d_model"]:
    """The gradient of a number; the last one of a graph frees the graph on the way."""
    return torch.autograd.grad(value, embeddings, retain_graph=not is_last)[0][0]


def _unembedding(model: Any) -> Float[Tensor, "d_vocab d_model"]:
    return model.get_output_embeddings().weight.detach()


def _all_logits(model: Any, embeddings: Tensor) -> tuple[Float[Tensor, " d_model"], Float[Tensor, "pos d_vocab"]]:
    """The final state at the last position, and the logits at every position."""
    hidden = model.base_model(inputs_embeds=embeddings, use_cache=False).last_hidden_state[0]
    return hidden[-1], model.get_output_embeddings()(hidden)


def _fisher_in_chunks(
    W: Float[Tensor, "d_vocab d_model"], p: Float[Tensor, " d_vocab"]
) -> Float[Tensor, "d_model d_model"]:
    second_moment, mean = W.new_zeros(W.shape[1], W.shape[1]), W.new_zeros(W.shape[1])
    for rows, shares in zip(W.split(CHUNK), p.split(CHUNK), strict=True):
        weighted = rows * shares[:, None]
        second_moment += rows.T @ weighted
        mean += weighted.sum(0)
    return second_moment - torch.outer(mean, mean)


def captum_cases(model: Any, tokenizer: Any, token_ids: Sequence[int], steps: int) -> list[Case]:
    """captum's `LayerIntegratedGradients` at the embedding, and `LLMGradientAttribution` with Input × Gradient.

    The former starts at token 0 at every position, takes `steps` midpoints one at a time, and computes the logits at
    the last position alone. The latter calls the model itself, which computes them at every position.
    """
    names = (f"Integrated Gradients, {steps} steps, captum", "Input × Gradient, captum")
    try:
        import captum.attr  # noqa: F401
    except ImportError:
        return [Case(name, None, "competitor", "pip install 'captum>=0.8,<1'") for name in names]
    integrated = Case(
        names[0],
        lambda: integrated_gradients(model, token_ids, steps),
        "competitor",
        "LayerIntegratedGradients from token 0",
    )
    if tokenizer is None:
        return [integrated, Case(names[1], None, "competitor", "needs a tokenizer, which this model lacks")]
    method = _llm_gradient(model, tokenizer, token_ids)
    return [integrated, Case(names[1], method, "competitor", "LLMGradientAttribution, LayerGradientXActivation")]


def integrated_gradients(model: Any, token_ids: Sequence[int], steps: int) -> Float[Tensor, " pos"]:
    """captum's Integrated Gradients of the top token's logit, from token 0 at every position, by midpoints."""
    from captum.attr import LayerIntegratedGradients

    def last_logits(ids: Tensor) -> Tensor:
        return model(ids, use_cache=False, logits_to_keep=1).logits[:, -1]

    ids = torch.tensor([token_ids], device=model.device)
    with torch.no_grad():
        target = int(last_logits(ids)[0].argmax())
    method = LayerIntegratedGradients(last_logits, model.get_input_embeddings())
    with torch.enable_grad():  # with frozen parameters nothing needs a gradient until captum asks for it
        attributions: Any = method.attribute(
            ids, torch.zeros_like(ids), target=target, n_steps=steps, method="riemann_middle", internal_batch_size=1
        )
    return attributions.sum(-1)[0]


def _llm_gradient(model: Any, tokenizer: Any, token_ids: Sequence[int]) -> Callable[[], Tensor]:
    from captum.attr import LayerGradientXActivation, LLMGradientAttribution, TextTokenInput

    method = LLMGradientAttribution(LayerGradientXActivation(model, model.get_input_embeddings()), tokenizer)
    inputs = TextTokenInput(tokenizer.decode(token_ids, skip_special_tokens=True), tokenizer)
    with torch.no_grad():
        logits = model(torch.tensor([token_ids], device=model.device), use_cache=False, logits_to_keep=1).logits
    target = logits[0, -1:].argmax(-1)
    return lambda: method.attribute(inputs, target=target).seq_attr
