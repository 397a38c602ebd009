"""The tiny models and the reference formulas agree with each other, so both can be trusted elsewhere."""

from collections.abc import Callable
from typing import Any

import pytest
import reference
import torch
from tiny_models import D_VOCAB, TINY_MODELS, linear_toy
from torch import Tensor
from torch.testing import assert_close

IDS = [3, 17, 0, 8, 22, 3]


def residual_sites(model: Any) -> list[str]:
    return ["hook_embed"] + [
        name for name in model.hook_dict if name.endswith(("resid_pre", "resid_mid", "resid_post"))
    ]


def test_parameters_are_random_and_frozen(tiny: Any):
    assert not tiny.training
    for name, parameter in tiny.named_parameters():
        assert not parameter.requires_grad
        assert parameter.dtype == torch.float64
        if name == "unembed.b_U":
            continue
        assert parameter.unique().numel() > 0.9 * parameter.numel(), f"{name} is not random"


def test_builders_are_seeded_and_leave_the_global_generator_alone():
    for builder in TINY_MODELS.values():
        state = torch.get_rng_state()
        first, again, other = builder(), builder(), builder(seed=1)
        assert torch.equal(torch.get_rng_state(), state)
        assert all(
            torch.equal(one, two)
            for one, two in zip(first.state_dict().values(), again.state_dict().values(), strict=True)
        )
        assert not torch.equal(first.W_E, other.W_E)
    assert builder(dtype=torch.float32).W_E.dtype == torch.float32


def test_predictions_are_neither_flat_nor_certain(tiny: Any):
    p = tiny(torch.tensor([IDS]))[0, -1].softmax(-1)
    assert 2 / D_VOCAB < p.max() < 0.95


def test_shapes_cover_what_they_are_named_for():
    models = {name: builder() for name, builder in TINY_MODELS.items()}
    assert models["gemma_like"].cfg.output_logits_soft_cap > 0
    slope = 1 - (models["gemma_like"](torch.tensor([IDS]))[0, -1] / 3.0) ** 2
    assert slope.min() < 0.9, "the soft-cap hardly bends these logits"
    assert "blocks.0.hook_resid_mid" not in models["neox_like"].hook_dict
    assert models["attention_only"].cfg.normalization_type is None
    assert models["learned_positions_with_bU"].b_U.abs().min() > 0
    assert models["llama_like"].blocks[0].attn._W_K.shape[0] == 2


def test_final_state_unembeds_to_the_logits(tiny: Any):
    logits = tiny(torch.tensor([IDS]))[0]
    for position in (0, 3, -1):
        y = reference.final_state(tiny, tiny.W_E[IDS], IDS, position)
        assert_close(reference.logits_from_final_state(tiny, y), logits[position], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("position", [2, -1])
def test_jacobian_equals_central_differences(tiny: Any, position: int):
    for site in residual_sites(tiny):
        exact = reference.jacobian(tiny, IDS, position, site)
        assert exact.shape == (len(IDS), tiny.cfg.d_model, tiny.cfg.d_model)
        numeric = reference.central_difference_jacobian(tiny, IDS, position, site)
        assert_close(exact, numeric, rtol=1e-6, atol=1e-6 * float(exact.abs().max()))
        assert exact[position % len(IDS)].abs().max() > 0
        assert (exact[position % len(IDS) + 1 :] == 0).all()


def test_jacobian_of_head_outputs_equals_central_differences(tiny: Any):
    site = "blocks.0.attn.hook_z"
    exact = reference.jacobian(tiny, IDS, site_name=site)
    assert exact.shape == (len(IDS), tiny.cfg.d_model, tiny.cfg.n_heads, tiny.cfg.d_head)
    numeric = reference.central_difference_jacobian(tiny, IDS, site_name=site)
    assert_close(exact, numeric, rtol=1e-6, atol=1e-6 * float(exact.abs().max()))


def test_fisher_matrix_is_the_hessian_of_kl(tiny: Any):
    y = reference.state_of(tiny, IDS)
    p = reference.probabilities(tiny, y)
    hessian = torch.autograd.functional.hessian(lambda moved: reference.kl(p, reference.probabilities(tiny, moved)), y)
    assert_close(reference.fisher_matrix(tiny, y), hessian, rtol=1e-9, atol=1e-12)


def test_fisher_of_every_rank_sums_to_the_trace(tiny: Any):
    assert_close(
        reference.fisher_scores(tiny, IDS, rank=tiny.cfg.d_model),
        reference.fisher_scores(tiny, IDS, rank=None),
        rtol=1e-9,
        atol=1e-12,
    )


def test_scores_predict_the_largest_change_of_the_scalar(tiny: Any):
    """A step of length ε along the gradient changes the scalar by ε × score, to second order."""
    embeddings = tiny.W_E[IDS]
    scalars: dict[str, tuple[Tensor, Callable[[Tensor], Tensor]]] = {
        "semantic": (
            reference.semantic_scores(tiny, IDS, 5),
            lambda y: reference.logits_from_final_state(tiny, y)[5],
        ),
        "logit_diff": (
            reference.logit_diff(tiny, IDS, 5, 9),
            lambda y: torch.diff(reference.logits_from_final_state(tiny, y)[[9, 5]])[0],
        ),
        "log_prob": (
            reference.log_prob(tiny, IDS, 5),
            lambda y: reference.probabilities(tiny, y)[5].log(),
        ),
        "entropy": (
            reference.entropy(tiny, IDS),
            lambda y: reference.entropy_of(reference.probabilities(tiny, y)),
        ),
        "temperature": (reference.temperature_scores(tiny, IDS), torch.linalg.vector_norm),
    }
    step = 1e-5
    for name, (scores, scalar) in scalars.items():
        gradients = torch.autograd.functional.jacobian(
            lambda x, scalar=scalar: scalar(reference.final_state(tiny, x, IDS)), embeddings
        )
        for token, gradient in enumerate(gradients):
            nudge = torch.zeros_like(embeddings)
            nudge[token] = step * gradient / gradient.norm()
            above = scalar(reference.final_state(tiny, embeddings + nudge, IDS))
            below = scalar(reference.final_state(tiny, embeddings - nudge, IDS))
            assert_close((above - below) / (2 * step), scores[token], rtol=1e-6, atol=1e-8, msg=name)


def test_logit_directions_are_columns_of_the_unembedding(tiny: Any):
    """w_j, times the slope 1 − (logit/c)² under a soft-cap c."""
    J = reference.jacobian(tiny, IDS)
    slope = torch.ones(D_VOCAB, dtype=torch.float64)
    if tiny.cfg.output_logits_soft_cap > 0:
        slope -= (tiny(torch.tensor([IDS]))[0, -1] / tiny.cfg.output_logits_soft_cap) ** 2
    one, other = slope[5] * tiny.W_U[:, 5], slope[9] * tiny.W_U[:, 9]
    assert_close(reference.semantic_scores(tiny, IDS, 5), (one @ J).norm(dim=-1))
    assert_close(reference.logit_diff(tiny, IDS, 5, 9), ((one - other) @ J).norm(dim=-1))


def test_linear_toy_matches_its_closed_form():
    model, closed_form = linear_toy()
    for site, layer in (("hook_embed", 0), ("blocks.0.hook_resid_pre", 0), ("blocks.1.hook_resid_pre", 1)):
        assert_close(reference.jacobian(model, IDS, site_name=site), closed_form(len(IDS), layer), rtol=0, atol=1e-12)
    assert_close(
        reference.jacobian(model, IDS, site_name="blocks.1.hook_resid_post"),
        closed_form(len(IDS), 2),
        rtol=0,
        atol=1e-12,
    )
    y = reference.final_state(model, model.W_E[IDS], IDS)
    moved = reference.final_state(model, model.W_E[IDS] + 2.0, IDS)
    step = torch.full((len(IDS), model.cfg.d_model), 2.0, dtype=torch.float64)
    assert_close(moved - y, torch.einsum("toi,ti->o", closed_form(len(IDS), 0), step), rtol=0, atol=1e-12)


def hugging_face_models() -> dict[str, Any]:
    """Tiny Transformers models, one with scaled embeddings and a soft-cap, in float64 except the norms."""
    from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

    shape = dict(
        vocab_size=D_VOCAB,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=32,
        initializer_range=0.2,
        attn_implementation="eager",
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        models = {
            "llama": LlamaForCausalLM(LlamaConfig(**shape)),
            "gemma2": Gemma2ForCausalLM(Gemma2Config(**shape, final_logit_softcapping=2.0)),
        }
        for model in models.values():
            for name, parameter in model.named_parameters():
                if "norm" in name:  # with even weights ‖y‖ is a constant, and Temperature scores vanish
                    parameter.data += 0.5 * torch.randn_like(parameter)
    return {name: model.double().eval().requires_grad_(False) for name, model in models.items()}


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_transformers_scopes_equal_central_differences(name: str):
    model = hugging_face_models()[name]
    ids = [3, 17, 5, 8, 22, 3]
    embeddings = model.get_input_embeddings()(torch.tensor([ids])).detach()
    step = 3e-3  # Transformers computes RMSNorm in float32, which smaller steps would drown in
    nudges = step * torch.eye(embeddings.numel(), dtype=embeddings.dtype).reshape(-1, *embeddings.shape[1:])

    def final_states(x: Tensor) -> Tensor:
        return model.model(inputs_embeds=x).last_hidden_state[:, -1]

    y = final_states(embeddings)[0]
    columns = (final_states(embeddings + nudges) - final_states(embeddings - nudges)) / (2 * step)
    J = columns.T.reshape(-1, *embeddings.shape[1:]).movedim(1, 0)

    W = model.lm_head.weight
    logits = model(torch.tensor([ids])).logits[0, -1]
    slope = 1 - (logits / 2.0) ** 2 if name == "gemma2" else torch.ones_like(logits)
    p = logits.softmax(-1)
    F = W.T @ (slope[:, None] * (p.diag() - torch.outer(p, p)) * slope) @ W
    eigenvalues, eigenvectors = torch.linalg.eigh(F)
    directions = {
        "semantic": slope[7] * W[7],
        "temperature": y / y.norm(),
        "fisher": eigenvalues[-1].sqrt() * eigenvectors[:, -1],
    }
    for scope, direction in directions.items():
        scores = reference.transformers_scope(model, ids, scope, token_id=7)
        norms = (direction @ J).norm(dim=-1)
        expected = norms**2 if scope == "fisher" else norms
        assert_close(scores, expected, rtol=3e-3, atol=1e-3 * float(scores.max()))
