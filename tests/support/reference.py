"""Slow, literal versions of every formula, sharing no code with lens_scopes.

Symbols as in Jacobian Scopes (arXiv:2601.16407): y is the input of the unembedding at the position
explained, z = W_Uᵀ y + b_U, J_t = ∂y/∂x_t with x_t the activation of a site at token t. Everything here
runs the model on all the tokens given and builds the full J. Scores come for the tokens up to the
position; `jacobian` keeps the later ones, which must be zero.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Ids = Tensor | list[int] | tuple[int, ...]


def state_from_site(model: Any, ids: Ids, position: int, site_name: str, activation: Tensor) -> Tensor:
    """y [d_model] at the position when the site's activation [pos, ...] is replaced by the one given."""
    return states_from_site(model, ids, position, site_name, activation[None])[0]


def states_from_site(model: Any, ids: Ids, position: int, site_name: str, activations: Tensor) -> Tensor:
    """y [batch, d_model] for each of the site's activations [batch, pos, ...]."""
    tokens = torch.as_tensor(ids).expand(len(activations), -1)
    caught = {}

    def replace(value: Tensor, hook: Any) -> Tensor:
        assert value.shape == activations.shape, (site_name, value.shape, activations.shape)
        return activations

    def catch(value: Tensor, hook: Any) -> None:
        caught["y"] = value[:, position]

    model.run_with_hooks(tokens, fwd_hooks=[(site_name, replace), ("unembed.hook_in", catch)])
    return caught["y"]


def final_state(model: Any, embeddings: Tensor, ids: Ids, position: int = -1) -> Tensor:
    """y [d_model] at the position, from the embeddings [pos, d_model] in place of those of the ids."""
    return state_from_site(model, ids, position, "hook_embed", embeddings)


def site_activation(model: Any, ids: Ids, site_name: str) -> Tensor:
    """The activation [pos, ...] at a hook in an untouched run."""
    caught = {}

    def catch(value: Tensor, hook: Any) -> None:
        caught["x"] = value[0].detach().clone()

    model.run_with_hooks(torch.as_tensor(ids)[None], fwd_hooks=[(site_name, catch)])
    return caught["x"]


def state_of(model: Any, ids: Ids, position: int = -1) -> Tensor:
    """y [d_model] at the position in an untouched run."""
    return site_activation(model, ids, "unembed.hook_in")[position]


def raw_logits(model: Any, y: Tensor) -> Tensor:
    """z = W_Uᵀ y + b_U, before any soft-cap."""
    return model.W_U.T @ y + model.b_U


def logits_from_final_state(model: Any, y: Tensor) -> Tensor:
    """The model's logits [d_vocab] at y: z, or c·tanh(z/c) where the model has an output soft-cap c."""
    z = raw_logits(model, y)
    cap = model.cfg.output_logits_soft_cap
    return cap * torch.tanh(z / cap) if cap is not None and cap > 0 else z


def probabilities(model: Any, y: Tensor) -> Tensor:
    """p [d_vocab], the softmax of the logits at y."""
    return torch.softmax(logits_from_final_state(model, y), dim=-1)


def jacobian(model: Any, ids: Ids, position: int = -1, site_name: str = "hook_embed") -> Tensor:
    """J [pos, d_model, ...]: the derivative of y by the site's activation at each token, by autograd."""
    site = site_activation(model, ids, site_name)
    full = torch.autograd.functional.jacobian(
        lambda activation: state_from_site(model, ids, position, site_name, activation), site
    )
    assert isinstance(full, Tensor)
    return full.movedim(1, 0)


def central_difference_jacobian(
    model: Any, ids: Ids, position: int = -1, site_name: str = "hook_embed", step: float = 1e-5
) -> Tensor:
    """J as `jacobian` gives it, from two forward passes for each number in the site; float64 only."""
    site = site_activation(model, ids, site_name)
    assert site.dtype == torch.float64
    nudges = step * torch.eye(site.numel(), dtype=site.dtype).reshape(-1, *site.shape)
    above = states_from_site(model, ids, position, site_name, site + nudges)
    below = states_from_site(model, ids, position, site_name, site - nudges)
    columns = (above - below) / (2 * step)
    return columns.T.reshape(-1, *site.shape).movedim(1, 0)


def fisher_matrix(model: Any, y: Tensor) -> Tensor:
    """F = W_U D (diag p − p pᵀ) D W_Uᵀ [d_model, d_model], D = diag(1 − tanh²(z/c)) or the identity."""
    p = probabilities(model, y)
    cap = model.cfg.output_logits_soft_cap
    slope = torch.ones_like(p)
    if cap is not None and cap > 0:
        slope = 1 - torch.tanh(raw_logits(model, y) / cap) ** 2
    D = torch.diag(slope)
    return model.W_U @ D @ (torch.diag(p) - torch.outer(p, p)) @ D @ model.W_U.T


def weighted_squares(J: Tensor, directions: Tensor, weights: Tensor) -> Tensor:
    """Σ_i w_i ‖v_iᵀJ_t‖² [pos] for directions V [k, d_model] with weights w [k]."""
    products = torch.einsum("ko,to...->kt...", directions, J)
    return (weights[:, None] * products.flatten(2).square().sum(-1)).sum(0)


def _scores_of_direction(model: Any, ids: Ids, position: int, site_name: str, direction: Tensor) -> Tensor:
    J = jacobian(model, ids, position, site_name)[: position % len(ids) + 1]
    return torch.stack([torch.linalg.vector_norm(torch.tensordot(direction, J_t, 1)) for J_t in J])


def semantic_scores(model: Any, ids: Ids, token_id: int, position: int = -1, site_name: str = "hook_embed") -> Tensor:
    """‖w_targetᵀ J_t‖ [pos]; under a soft-cap the direction is the gradient of the logit the model gives."""
    return gradient_scores(model, ids, lambda y: logits_from_final_state(model, y)[token_id], position, site_name)


def temperature_scores(model: Any, ids: Ids, position: int = -1, site_name: str = "hook_embed") -> Tensor:
    """‖(y/‖y‖)ᵀ J_t‖ [pos], the direction held constant."""
    y = state_of(model, ids, position)
    return _scores_of_direction(model, ids, position, site_name, y / y.norm())


def fisher_scores(
    model: Any, ids: Ids, rank: int | None = 1, position: int = -1, site_name: str = "hook_embed"
) -> Tensor:
    """Σ_i≤k λ_i ‖u_iᵀ J_t‖² [pos] for rank k, squared for rank 1 too; tr(J_tᵀ F J_t) for rank None."""
    J = jacobian(model, ids, position, site_name)[: position % len(ids) + 1]
    F = fisher_matrix(model, state_of(model, ids, position))
    if rank is None:
        per_token = J.flatten(2)
        return torch.stack([torch.trace(J_t.T @ F @ J_t) for J_t in per_token])
    eigenvalues, eigenvectors = torch.linalg.eigh(F)
    leading = eigenvalues.flip(0)[:rank]
    return weighted_squares(J, eigenvectors.flip(1)[:, :rank].T, leading)


def fisher_at_values_scores(model: Any, ids: Ids, rank: int | None = 1, position: int = -1) -> Tensor:
    """Σ_l √(Σ_h Σ_i≤k λ_i ‖u_iᵀ ∂y/∂v_lht‖² ‖v_lht‖²) [pos], h the key–value heads; all of F for rank None.

    One layer, head, token and direction after the other, each norm over d_head alone.
    """
    eigenvalues, eigenvectors = torch.linalg.eigh(fisher_matrix(model, state_of(model, ids, position)))
    k = len(eigenvalues) if rank is None else rank
    length = position % len(ids) + 1
    scores = torch.zeros(length, dtype=eigenvalues.dtype)
    for layer in range(model.cfg.n_layers):
        name = f"blocks.{layer}.attn.hook_v"
        J, values = jacobian(model, ids, position, name), site_activation(model, ids, name)
        for token in range(length):
            square = 0.0
            for head in range(values.shape[1]):
                for i in range(1, k + 1):
                    gradient = eigenvectors[:, -i] @ J[token, :, head]
                    square += float(eigenvalues[-i] * gradient.square().sum() * values[token, head].square().sum())
            scores[token] += max(square, 0.0) ** 0.5
    return scores


def gradient_scores(
    model: Any,
    ids: Ids,
    scalar: Callable[[Tensor], Tensor],
    position: int = -1,
    site_name: str = "hook_embed",
) -> Tensor:
    """‖∇_y f(y)ᵀ J_t‖ [pos] for a scalar function f of y."""
    y = state_of(model, ids, position).requires_grad_(True)
    (direction,) = torch.autograd.grad(scalar(y), y)
    return _scores_of_direction(model, ids, position, site_name, direction)


def logit_diff(
    model: Any, ids: Ids, token_id: int, other_id: int, position: int = -1, site_name: str = "hook_embed"
) -> Tensor:
    """Scores of the difference of two logits; without a soft-cap the scope of w_a − w_b."""
    return gradient_scores(
        model,
        ids,
        lambda y: logits_from_final_state(model, y)[token_id] - logits_from_final_state(model, y)[other_id],
        position,
        site_name,
    )


def log_prob(model: Any, ids: Ids, token_id: int, position: int = -1, site_name: str = "hook_embed") -> Tensor:
    """Scores of log p_target."""
    return gradient_scores(
        model,
        ids,
        lambda y: torch.log_softmax(logits_from_final_state(model, y), dim=-1)[token_id],
        position,
        site_name,
    )


def entropy(model: Any, ids: Ids, position: int = -1, site_name: str = "hook_embed") -> Tensor:
    """Scores of H(p) = −Σ p log p."""
    return gradient_scores(model, ids, lambda y: entropy_of(probabilities(model, y)), position, site_name)


def entropy_of(p: Tensor) -> Tensor:
    """H(p) in nats."""
    return -(p * p.log()).sum()


def kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p ‖ q) in nats, with 0 log 0 = 0."""
    return torch.where(p > 0, p * (p.log() - q.log()), torch.zeros_like(p)).sum(-1)


def span_information(model: Any, ids: Ids, span: range, position: int = -1) -> Tensor:
    """J_Sᵀ F J_S [width, width]: the Fisher information of the prediction about all the span's embeddings together."""
    J = jacobian(model, ids, position)[span.start : span.stop]
    J_S = J.permute(1, 0, 2).flatten(1)
    return J_S.T @ fisher_matrix(model, state_of(model, ids, position)) @ J_S


def noised_distributions(
    model: Any, ids: Ids, span: range, deviation: float, pairs: int, seed: int = 0, position: int = -1
) -> Tensor:
    """p [2·pairs, d_vocab] under draws of N(0, deviation²) noise on the span's embeddings and their opposites."""
    embeddings = site_activation(model, ids, "hook_embed")
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(pairs, len(span), embeddings.shape[-1], generator=generator, dtype=torch.float64)
    found = []
    for part in torch.cat([noise, -noise]).split(2000):
        noised = embeddings.repeat(len(part), 1, 1)
        noised[:, span.start : span.stop] += deviation * part.to(noised)
        ys = states_from_site(model, ids, position, "hook_embed", noised)
        found.append(torch.softmax(torch.stack([logits_from_final_state(model, y) for y in ys]), dim=-1))
    return torch.cat(found)


def mutual_information(draws: Tensor) -> Tensor:
    """I(ε; Y) in nats from the distributions p_ε of n draws, exact over the vocabulary.

    The mean of KL(p_ε ‖ p̄) about the draws' own mean p̄ is too small by (n − 1)/n to second order, as a variance is.
    """
    mean = draws.mean(0, keepdim=True)
    return kl(draws, mean.expand_as(draws)).mean() * len(draws) / (len(draws) - 1)


def transformers_scope(hf_model: Any, ids: Ids, scope: str, token_id: int | None = None) -> Tensor:
    """Scores [pos] of the last position's prediction from Transformers alone: embeddings in, autograd out.

    `scope` is "semantic" (of `token_id`, by default the model's top token), "temperature" or "fisher"
    (rank 1, squared: λ₁ ‖u₁ᵀ J_t‖²). The embeddings are what the embedding module
    returns, so scaled where the model scales them. The model's parameters should be frozen.
    """
    return transformers_scopes(hf_model, ids, scope, token_id)[0]


def transformers_scopes(
    hf_model: Any,
    ids: Ids,
    scope: str,
    token_id: int | None = None,
    modules: Sequence[Any] = (),
    embedding_norm: Any = None,
) -> Tensor:
    """`transformers_scope` at the embeddings (after `embedding_norm`, where one is given) and at the input of each of
    `modules`: [1 + modules, pos]."""
    embeddings = hf_model.get_input_embeddings()(torch.as_tensor(ids)[None]).detach().requires_grad_(True)
    unembedding = hf_model.get_output_embeddings()
    caught: dict[Any, Tensor] = {}

    def catch(module: Any, arguments: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        caught[module] = arguments[0] if arguments else named["hidden_states"]

    def catch_norm(module: Any, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        caught["norm"] = output

    handles = [part.register_forward_pre_hook(catch, with_kwargs=True) for part in (unembedding, *modules)]
    if embedding_norm is not None:
        handles.append(embedding_norm.register_forward_hook(catch_norm))
    try:
        logits = hf_model(inputs_embeds=embeddings, use_cache=False, logits_to_keep=1).logits[0, -1].detach()
    finally:
        for handle in handles:
            handle.remove()
    y = caught[unembedding][0, -1]
    W = unembedding.weight.detach()
    cap = getattr(hf_model.config, "final_logit_softcapping", None)
    slope = torch.ones_like(logits) if cap is None else 1 - (logits / cap) ** 2
    if scope == "semantic":
        target = int(logits.argmax()) if token_id is None else token_id
        direction = slope[target] * W[target]
    elif scope == "temperature":
        direction = (y / y.norm()).detach()
    elif scope == "fisher":
        direction = _leading_fisher_direction(W, torch.softmax(logits.double(), -1), slope.double())
    else:
        raise ValueError(scope)
    sites = [caught.get("norm", embeddings), *(caught[module] for module in modules)]
    gradients = torch.autograd.grad(y @ direction.to(y.dtype), sites)
    norms = torch.stack([gradient[0].norm(dim=-1) for gradient in gradients])
    return norms**2 if scope == "fisher" else norms


def _leading_fisher_direction(W: Tensor, p: Tensor, slope: Tensor) -> Tensor:
    """√λ₁ u₁ of F = Σ_j p_j (s_j w_j − m)(s_j w_j − m)ᵀ, m = Σ_j p_j s_j w_j; W is [d_vocab, d_model].

    Tokens with a probability under 1e-10 are left out; together they hold under 3e-5 of it.
    """
    kept = p > 1e-10
    gradients = slope[kept, None] * W[kept].double()
    mean = p[kept] @ gradients
    centred = gradients - mean
    eigenvalues, eigenvectors = torch.linalg.eigh(centred.T @ (p[kept, None] * centred))
    return eigenvalues[-1].sqrt() * eigenvectors[:, -1]
