"""The whole of `attribute`: every objective at every site of every shape, against literal formulas and laws."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import reference
import torch
from tiny_models import TINY_MODELS, gemma_like, gpt2_like, linear_toy, llama_like
from torch import Tensor
from torch.testing import assert_close

import lens_scopes as ls
from lens_scopes.attribution import resolved as scopes
from lens_scopes.engine import backward as backprop
from lens_scopes.engine.backward import trace
from lens_scopes.engine.final_state import FinalState, Unembedding
from lens_scopes.engine.model import ScopedModel
from lens_scopes.errors import ModelError, ObjectiveError, PromptError, ReadoutError, SiteError
from lens_scopes.scopes.objectives import Objective

IDS = [3, 17, 0, 8, 22, 3]
TOKEN, OTHER = 5, 9


def literal_jacobian(model: Any, ids: list[int], position: int, site: str) -> Tensor:
    """J [pos, d_model, ...]: copy i of the prompt gives row i, the gradient of y_i."""
    activation = reference.site_activation(model, ids, site)
    copies = activation[None].repeat(model.cfg.d_model, *(1 for _ in activation.shape)).requires_grad_(True)
    states = reference.states_from_site(model, ids, position, site, copies)
    (rows,) = torch.autograd.grad(states.diagonal().sum(), copies)
    return rows.movedim(1, 0)


def sites_of(model: Any) -> list[str]:
    inner = ["hook_resid_mid", "hook_mlp_out"] if "blocks.0.hook_resid_mid" in model.hook_dict else ["hook_mlp_out"]
    inner = [] if model.cfg.attn_only else inner
    names = ["hook_resid_pre", *inner, "attn.hook_z", "hook_resid_post"]
    return ["hook_embed", *(f"blocks.{layer}.{name}" for layer in range(model.cfg.n_layers) for name in names)]


@dataclass
class Literal:
    """One prompt of one model explained at one position: y, and for every site x and J up to that position."""

    model: Any
    position: int
    y: Tensor
    x: dict[str, Tensor]
    J: dict[str, Tensor]

    @classmethod
    def of(cls, model: Any, position: int, jacobian: Callable[..., Tensor] = literal_jacobian) -> "Literal":
        until = position % len(IDS) + 1
        return cls(
            model=model,
            position=position,
            y=reference.state_of(model, IDS, position),
            x={site: reference.site_activation(model, IDS, site)[:until] for site in sites_of(model)},
            J={site: jacobian(model, IDS, position, site)[:until] for site in sites_of(model)},
        )

    def gradient(self, scalar: Callable[[Tensor], Tensor]) -> Tensor:
        y = self.y.clone().requires_grad_(True)
        return torch.autograd.grad(scalar(y), y)[0]

    def logits(self, y: Tensor) -> Tensor:
        return reference.logits_from_final_state(self.model, y)

    @property
    def next_token(self) -> int:
        following = self.position % len(IDS) + 1
        return IDS[following] if following < len(IDS) else int(self.logits(self.y).argmax())

    def fisher(self, rank: int) -> Tensor:
        """The rank leading terms of F, as a matrix."""
        eigenvalues, eigenvectors = torch.linalg.eigh(reference.fisher_matrix(self.model, self.y))
        kept = eigenvectors[:, -rank:]
        return kept @ torch.diag(eigenvalues[-rank:]) @ kept.T

    def scores(self, what: Tensor, site: str, readout: str = "norm") -> Tensor:
        """‖vᵀJ_t‖ or vᵀJ_t x_t for a vector v; tr(J_tᵀ M J_t) or x_tᵀ J_tᵀ M J_t x_t for a matrix M."""
        J, x = self.J[site], self.x[site]
        if what.ndim == 1:
            g = torch.einsum("o,to...->t...", what, J)
            return g.norm(dim=-1) if readout == "norm" else (g * x).sum(-1)
        if readout == "norm":
            return torch.einsum("to...d,op,tp...d->t...", J, what, J)
        moved = torch.einsum("to...d,t...d->to...", J, x)
        return torch.einsum("to...,op,tp...->t...", moved, what, moved)


# What is explained, and the vector v or the matrix M that the literal scores take.
Case = tuple[Callable[[Any], Objective], Callable[[Literal], Tensor]]


def two_directions(y: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    return torch.stack([y, torch.linspace(-1, 1, len(y), dtype=y.dtype)]), torch.tensor([0.5, 2.0])


def two_directions_matrix(literal: Literal) -> Tensor:
    vectors, weights = two_directions(literal.y, literal.y)
    return vectors.T @ torch.diag(weights.to(vectors)) @ vectors


CASES: dict[str, Case] = {
    "semantic": (lambda model: ls.Semantic(TOKEN), lambda at: at.gradient(lambda y: at.logits(y)[TOKEN])),
    "semantic of the next token": (
        lambda model: ls.Semantic(),
        lambda at: at.gradient(lambda y: at.logits(y)[at.next_token]),
    ),
    "log-probability": (
        lambda model: ls.LogProb(TOKEN),
        lambda at: at.gradient(lambda y: at.logits(y).log_softmax(-1)[TOKEN]),
    ),
    "logit difference": (
        lambda model: ls.LogitDiff(TOKEN, OTHER),
        lambda at: at.gradient(lambda y: at.logits(y)[TOKEN] - at.logits(y)[OTHER]),
    ),
    "temperature": (lambda model: ls.Temperature(), lambda at: at.y / at.y.norm()),
    "entropy": (
        lambda model: ls.Entropy(),
        lambda at: at.gradient(lambda y: reference.entropy_of(at.logits(y).softmax(-1))),
    ),
    "fisher 1": (lambda model: ls.Fisher(), lambda at: at.fisher(1)),
    "fisher 3": (lambda model: ls.Fisher(rank=3), lambda at: at.fisher(3)),
    "fisher of every rank": (
        lambda model: ls.Fisher(rank=model.cfg.d_model),
        lambda at: reference.fisher_matrix(at.model, at.y),
    ),
    "fisher trace": (
        lambda model: ls.Fisher(rank="trace"),
        lambda at: reference.fisher_matrix(at.model, at.y),
    ),
    "custom": (lambda model: ls.Custom(two_directions), two_directions_matrix),
}


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {name: builder() for name, builder in TINY_MODELS.items()}


@pytest.fixture(scope="module", params=[(name, position) for name in TINY_MODELS for position in (-1, 3)], ids=str)
def literal(request: pytest.FixtureRequest, models: dict[str, Any]) -> Literal:
    name, position = request.param
    return Literal.of(models[name], position)


def everywhere(literal: Literal, objective: Any, **settings: Any) -> dict[str, Tensor]:
    """Scores of one call at all sites."""
    sites = sites_of(literal.model)
    names = [name for name in sites if not name.endswith("resid_pre") and name != "hook_embed"]
    att = ls.attribute(literal.model, IDS, objective, position=literal.position, layers=True, sites=names, **settings)
    assert att.layers is not None
    found = {"hook_embed": att.scores, **dict(zip(att.layer_names, att.layers, strict=True)), **att.sites}
    assert set(found) == set(sites)
    return found


def assert_equal(found: Tensor, expected: Tensor, rtol: float, what: str = "") -> None:
    """Relative to each number, and for those that nearly vanish to the largest."""
    floor = rtol * 1e-2 * float(expected.abs().max())
    assert_close(found, expected, rtol=rtol, atol=floor, msg=lambda text: f"{what}: {text}")


# Literal formulas


@pytest.mark.parametrize("case", CASES)
def test_scores_equal_the_literal_formula_at_every_site(literal: Literal, case: str) -> None:
    objective, direction = CASES[case]
    what = direction(literal)
    for site, scores in everywhere(literal, objective(literal.model)).items():
        assert_equal(scores, literal.scores(what, site), 1e-9, site)


@pytest.mark.parametrize("case", ["semantic", "fisher 3"])
def test_dot_scores_equal_the_literal_formula_at_every_site(literal: Literal, case: str) -> None:
    objective, direction = CASES[case]
    what = direction(literal)
    for site, scores in everywhere(literal, objective(literal.model), readout="dot").items():
        assert_equal(scores, literal.scores(what, site, "dot"), 1e-9, site)


@pytest.mark.parametrize("name", TINY_MODELS)
def test_scores_equal_central_finite_differences(models: dict[str, Any], name: str) -> None:
    differences = Literal.of(models[name], 3, reference.central_difference_jacobian)
    for objective, direction in CASES.values():
        what = direction(differences)
        for site, scores in everywhere(differences, objective(differences.model)).items():
            assert_equal(scores, differences.scores(what, site), 1e-5, site)


def test_a_linear_model_gives_its_closed_form() -> None:
    model, jacobian = linear_toy()
    att = ls.attribute(model, IDS, ls.Semantic(TOKEN), layers=True)
    after = ls.attribute(model, IDS, ls.Semantic(TOKEN), layers="resid_post")
    assert att.layers is not None and after.layers is not None
    for scores, layer in ((att.scores, 0), (att.layers[0], 0), (att.layers[1], 1), (after.layers[1], 2)):
        expected = torch.einsum("o,toi->ti", model.W_U[:, TOKEN], jacobian(len(IDS), layer)).norm(dim=-1)
        assert_close(scores, expected, rtol=1e-12, atol=1e-14)


def test_each_kind_of_layer_equals_the_site_of_that_name(models: dict[str, Any]) -> None:
    for name, model in models.items():
        for kind in ("resid_pre", "resid_mid", "resid_post"):
            if kind == "resid_mid" and name in ("neox_like", "attention_only"):
                continue
            att = ls.attribute(model, IDS, "temperature", layers=kind, sites=f"hook_{kind}")
            assert att.layers is not None
            assert att.layer_names == list(att.sites) == [f"blocks.{i}.hook_{kind}" for i in range(len(att.layers))]
            assert torch.equal(att.layers, torch.stack(list(att.sites.values())))
            again = ls.attribute(model, IDS, "temperature", layers=f"hook_{kind}")
            assert again.layers is not None and torch.equal(att.layers, again.layers)


# Positions and later tokens


def test_positions_count_from_either_end_and_later_tokens_are_dropped(models: dict[str, Any]) -> None:
    for model in models.values():
        whole = ls.attribute(model, IDS, ls.Fisher(rank=2), position=3, layers=True)
        assert whole.position == 3 and len(whole) == len(whole.scores) == 4 and whole.token_ids == IDS[:4]
        for prompt, position in ((IDS, -3), (IDS[:4], -1), (IDS[:4], 3), (torch.tensor([IDS]), 3)):
            same = ls.attribute(model, prompt, ls.Fisher(rank=2), position=position, layers=True)
            assert torch.equal(same.scores, whole.scores) and same.position == 3
        assert len(ls.attribute(model, IDS, "temperature", position=0).scores) == 1
        assert len(ls.attribute(model, IDS, "temperature", position=-len(IDS)).scores) == 1


def test_later_tokens_change_nothing_but_the_default_target(models: dict[str, Any]) -> None:
    for model in models.values():
        for objective in (ls.Semantic(TOKEN), ls.Fisher(rank=2)):
            att = ls.attribute(model, IDS, objective, position=2, layers="resid_post")
            other = ls.attribute(model, [*IDS[:3], 11, 12, 1], objective, position=2, layers="resid_post")
            assert att.layers is not None and other.layers is not None
            assert torch.equal(att.scores, other.scores) and torch.equal(att.layers, other.layers)
        # and by the literal Jacobian of the whole prompt nothing flows back from them
        assert bool((literal_jacobian(model, IDS, 2, "hook_embed")[3:] == 0).all())


def test_the_target_is_the_one_given_else_the_next_token_else_the_top_one(models: dict[str, Any]) -> None:
    model = models["llama_like"]
    top = int(model(torch.tensor([IDS]))[0, -1].argmax())
    for objective in (ls.Semantic, ls.LogProb):
        for settings, target in (
            ({"objective": objective()}, top),
            ({"objective": objective(), "position": 2}, IDS[3]),
            ({"objective": objective(), "position": 2, "target": OTHER}, OTHER),
            ({"objective": objective(TOKEN), "position": 2}, TOKEN),
            ({"objective": objective}, top),
        ):
            att = ls.attribute(model, IDS, **settings)
            assert att.target is not None and att.target.token_id == target
            position = settings.get("position", -1)
            expected = ls.attribute(model, IDS, objective(target), position=position)
            assert torch.equal(att.scores, expected.scores)
            p = model(torch.tensor([IDS]))[0, position].softmax(-1)
            assert att.target.probability == pytest.approx(float(p[target]), rel=1e-9)
    assert ls.attribute(model, IDS).scope == "semantic"
    assert ls.attribute(model, IDS, ls.LogitDiff(TOKEN, OTHER)).target.token_id == TOKEN  # type: ignore[union-attr]
    for without in (ls.Temperature(), ls.Entropy(), ls.Fisher()):
        assert ls.attribute(model, IDS, without).target is None


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (ls.Semantic(TOKEN), "Semantic names its own token, so target=9 would be dropped"),
        (ls.LogProb(9), "LogProb names its own token"),
        (ls.LogitDiff(TOKEN, OTHER), "LogitDiff names its own token"),
        (ls.Temperature(), "Temperature explains no single next token"),
        (ls.Entropy(), "explains no single next token"),
        (ls.Fisher(), "explains no single next token"),
        (lambda y, logits: y, "Custom explains no single next token"),
    ],
)
def test_a_target_that_would_be_dropped_is_refused(models: dict[str, Any], objective: Any, words: str) -> None:
    model = models["gpt2_like"]
    for call in (
        lambda: ls.attribute(model, IDS, objective, target=9),
        lambda: ls.attribute_batch(model, [IDS], objective, target=9),
        lambda: ls.inspect_heads(model, IDS, objective, target=9),
    ):
        with pytest.raises(ObjectiveError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)


# Laws


@pytest.mark.parametrize("name", TINY_MODELS)
def test_kl_of_a_small_change_is_half_its_fisher_norm(models: dict[str, Any], name: str) -> None:
    """KL(p(x) ‖ p(x + εδ)) / (½ ε² δᵀJᵀFJδ) = 1 + O(ε), and the mean over ±δ is 1 + O(ε²)."""
    model = models[name]
    generator = torch.Generator().manual_seed(1)
    x = reference.site_activation(model, IDS, "hook_embed")
    p = reference.probabilities(model, reference.state_of(model, IDS))
    delta = torch.randn(x.shape, generator=generator, dtype=x.dtype)
    delta /= delta.norm()
    quadratic = fisher_norm(model, delta)

    def ratio(step: float) -> float:
        y = reference.final_state(model, x + step * delta, IDS)
        return float(reference.kl(p, reference.probabilities(model, y))) / (0.5 * step**2 * quadratic)

    for step in (0.02, 0.002):
        assert ratio(step) == pytest.approx(1, abs=20 * step)
    error, smaller = (abs((ratio(step) + ratio(-step)) / 2 - 1) for step in (0.02, 0.01))
    assert error < 0.05 and smaller == pytest.approx(error / 4, rel=0.2)


def fisher_norm(model: Any, delta: Tensor) -> float:
    """δᵀJᵀFJδ = Σ_i w_i (v_iᵀ J δ)², from the engine's own gradients in the directions of the exact Fisher trace."""
    traced = trace(ScopedModel.of(model), [IDS], [])
    state = FinalState(traced.final_states[0].detach(), ScopedModel.of(model).unembedding())
    directions = ls.Fisher(rank="trace").directions(state)
    total = 0.0
    for vector, weight in zip(directions.vectors, directions.weights, strict=True):
        gradient = traced.gradients(vector[None], keep_graph=True)["hook_embed"][0]
        total += float(weight * (gradient * delta).sum() ** 2)
    return total


def test_fisher_scores_grow_with_the_rank_up_to_the_trace(models: dict[str, Any]) -> None:
    for model in models.values():
        ranks = [1, 2, model.cfg.d_model]
        scores = [ls.attribute(model, IDS, ls.Fisher(rank=rank)).scores for rank in ranks]
        for fewer, more in zip(scores, scores[1:], strict=False):
            assert bool((more >= fewer).all()) and bool((more > fewer).any())
        exact = ls.attribute(model, IDS, ls.Fisher(rank="trace")).scores
        assert_close(scores[-1], exact, rtol=1e-10, atol=0)
        assert_close(ls.attribute(model, IDS, ls.Fisher(rank="trace", samples=0)).scores, exact, rtol=0, atol=0)


def test_a_certain_prediction_has_no_fisher_or_entropy_scores(models: dict[str, Any]) -> None:
    model = gpt2_like()
    model.unembed.b_U.data[4] = 1e4
    for objective in (ls.Fisher(), ls.Fisher(rank=3), ls.Fisher(rank="trace"), ls.Entropy(), ls.LogProb(4)):
        att = ls.attribute(model, IDS, objective)
        assert att.prediction.top[0].probability == 1 and att.prediction.entropy == 0
        assert bool((att.scores == 0).all())
        assert len(att.warnings) == 1 and "every score is zero" in att.warnings[0]
    sampled = ls.attribute(model, IDS, ls.Fisher(rank="trace", samples=4))
    assert float(sampled.scores.max()) < 1e-20
    assert bool((ls.attribute(model, IDS, ls.Semantic(4)).scores > 0).all())


def test_logit_difference_is_the_scope_of_the_difference_of_columns(models: dict[str, Any]) -> None:
    for name, model in models.items():
        if name == "gemma_like":  # its soft-cap bends the two logits differently
            continue
        difference = model.W_U[:, TOKEN] - model.W_U[:, OTHER]
        pair = ls.attribute(model, IDS, ls.LogitDiff(TOKEN, OTHER)).scores
        assert_close(ls.attribute(model, IDS, lambda y, logits, v=difference: v).scores, pair, rtol=1e-12, atol=0)
        assert_close(ls.attribute(model, IDS, ls.LogitDiff(OTHER, TOKEN)).scores, pair, rtol=1e-12, atol=0)


def test_dot_is_input_times_gradient_and_adds_up_over_directions(models: dict[str, Any]) -> None:
    """Signed, and linear in the direction: LogitDiff is the difference of two Semantic scores, entry by entry."""
    for name, model in models.items():
        one, other, pair = (
            ls.attribute(model, IDS, objective, readout="dot").scores
            for objective in (ls.Semantic(TOKEN), ls.Semantic(OTHER), ls.LogitDiff(TOKEN, OTHER))
        )
        assert bool((pair < 0).any()) or bool((one < 0).any()), name
        assert_close(pair, one - other, rtol=1e-9, atol=1e-12)


# Sampled trace


def test_the_sampled_trace_comes_with_its_seed_and_standard_error(models: dict[str, Any]) -> None:
    model = models["llama_like"]
    state = torch.get_rng_state()
    att = ls.attribute(model, IDS, ls.Fisher(rank="trace", samples=6, exact=2, seed=3), layers=True, sites="hook_z")
    assert torch.equal(torch.get_rng_state(), state), "the global generator moved"
    again = ls.attribute(model, IDS, ls.Fisher(rank="trace", samples=6, exact=2, seed=3), layers=True)
    other = ls.attribute(model, IDS, ls.Fisher(rank="trace", samples=6, exact=2, seed=4), layers=True)
    assert torch.equal(att.scores, again.scores) and not torch.equal(att.scores, other.scores)
    assert att.standard_error is not None and att.layers is not None and att.layers_standard_error is not None
    assert att.standard_error.shape == att.scores.shape and att.layers_standard_error.shape == att.layers.shape
    assert bool((att.standard_error > 0).all()) and bool((att.layers_standard_error > 0).all())
    assert_close(att.layers_standard_error[0], att.standard_error, rtol=1e-12, atol=0)  # no position embedding between
    state_explained = FinalState(reference.state_of(model, IDS), ScopedModel.of(model).unembedding())
    drawn = ls.Fisher(rank="trace", samples=6, exact=2, seed=3).directions(state_explained).vectors[2:]
    squares = torch.einsum("ko,tod->ktd", drawn, reference.jacobian(model, IDS)).square().sum(-1)
    assert_close(att.standard_error, squares.std(0) / 6**0.5, rtol=1e-8, atol=0)
    assert att.settings["objective"] == {"scope": "fisher", "rank": "trace", "samples": 6, "exact": 2, "seed": 3}
    assert att.details is not None and (att.details.exact, att.details.samples) == (2, 6)
    exact = ls.attribute(model, IDS, ls.Fisher(rank="trace"))
    assert exact.standard_error is None and exact.layers_standard_error is None
    assert bool(((att.scores - exact.scores).abs() < 6 * att.standard_error).all())


def test_a_noisy_estimate_is_said_to_be_noisy(models: dict[str, Any]) -> None:
    noisy = ls.attribute(models["llama_like"], IDS, ls.Fisher(rank="trace", samples=2, exact=0))
    assert len(noisy.warnings) == 1 and "standard error" in noisy.warnings[0]
    settled = ls.attribute(models["llama_like"], IDS, ls.Fisher(rank="trace", samples=8, exact=14))
    assert settled.warnings == []


# Batches


def mixed(y: Tensor, logits: Tensor) -> Tensor:
    """As many directions as the state says: between 1 and 4."""
    count = 1 + int(logits.argmax()) % 4
    return torch.stack([y.roll(shift) for shift in range(count)])


BATCH = [IDS, [7], [1, 2, 3], [22, 21, 20, 19, 18, 17, 16], [5, 5], [9, 0, 9], IDS[::-1]]
BATCH_OBJECTIVES = [
    ls.Semantic(),
    ls.Temperature(),
    ls.Entropy(),
    ls.Fisher(rank=3),
    ls.Fisher(rank="trace", samples=3, exact=2),
    ls.Custom(mixed),
]


def assert_same(one: Any, other: Any, rtol: float = 1e-12) -> None:
    assert (one.token_ids, one.position, one.objective, one.contract) == (
        other.token_ids, other.position, other.objective, other.contract,
    )  # fmt: skip
    pairs = [(one.scores, other.scores), (one.layers, other.layers), (one.standard_error, other.standard_error)]
    pairs += [(one.sites[name], other.sites[name]) for name in one.sites]
    pairs += [(one.layers_standard_error, other.layers_standard_error)]
    for a, b in pairs:
        assert (a is None) == (b is None)
        if a is not None:
            assert a.shape == b.shape
            assert_close(a, b, rtol=rtol, atol=rtol * max(float(b.abs().max()), 1e-3))
    assert one.prediction.entropy == pytest.approx(other.prediction.entropy, rel=1e-12)


@pytest.mark.parametrize("objective", BATCH_OBJECTIVES, ids=lambda objective: objective.scope)
@pytest.mark.parametrize("readout", [ls.Norm(), ls.Dot("mean")], ids=lambda readout: readout.name)
def test_a_batch_gives_the_scores_of_single_calls(models: dict[str, Any], objective: Any, readout: Any) -> None:
    for name in ("gpt2_like", "gemma_like"):
        settings = {"layers": True, "sites": "hook_z", "readout": readout}
        together = ls.attribute_batch(models[name], BATCH, objective, **settings)
        assert [att.token_ids for att in together] == BATCH
        for prompt, att in zip(BATCH, together, strict=True):
            assert_same(att, ls.attribute(models[name], prompt, objective, **settings))


def test_rows_of_a_batch_have_as_many_directions_as_their_own_state_asks_for(models: dict[str, Any]) -> None:
    counts = {att.contract["score attributed"].rpartition("(")[2] for att in
              ls.attribute_batch(models["gpt2_like"], BATCH, ls.Custom(mixed))}  # fmt: skip
    assert len(counts) > 1, "the batch does not mix direction counts, so it tests less than it says"


@pytest.mark.parametrize("tokens", [1, 6, 7, 13, 10_000])
def test_scores_do_not_depend_on_how_a_batch_is_cut(
    models: dict[str, Any], tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models["llama_like"]
    sizes: list[tuple[int, int]] = []
    hook = model.hook_dict["hook_embed"]
    handle = hook.register_forward_hook(lambda module, given, out: sizes.append(tuple(out.shape[:2])))
    steps: list[tuple[int, int]] = []
    try:
        expected = ls.attribute_batch(model, BATCH, ls.Fisher(rank=2), layers=True)
        sizes.clear()
        monkeypatch.setattr(scopes, "_BATCH_TOKENS", tokens)
        found = ls.attribute_batch(
            model, BATCH, ls.Fisher(rank=2), layers=True, progress=lambda done, total: steps.append((done, total))
        )
    finally:
        handle.remove()
    assert sum(rows for rows, _ in sizes) == len(BATCH)
    assert all(rows == 1 or rows * length <= tokens for rows, length in sizes)
    assert steps[-1] == (len(BATCH), len(BATCH)) and len(steps) == len(sizes)
    for one, other in zip(found, expected, strict=True):
        assert_same(one, other)


def test_batches_take_positions_and_targets_as_single_calls_do(models: dict[str, Any]) -> None:
    model = models["gemma_like"]
    prompts = [IDS, IDS[1:], IDS[2:]]
    for att, prompt in zip(ls.attribute_batch(model, prompts, position=-2), prompts, strict=True):
        assert att.target is not None and att.target.token_id == prompt[-1]
        assert_same(att, ls.attribute(model, prompt, position=-2))
    assert ls.attribute_batch(model, [], "temperature") == []


# Cost


@pytest.mark.parametrize("together", [False, True], ids=["a long prompt", "a short prompt"])
def test_one_forward_and_one_backward_a_direction(
    models: dict[str, Any], together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Directions of a short prompt share their backward pass."""
    monkeypatch.setattr(backprop, "BATCH_LIMIT", backprop.BATCH_LIMIT if together else 0)
    model = models["gemma_like"]
    forward: list[int] = []
    backward: list[int] = []
    unembedded: list[tuple[int, ...]] = []
    block = model.hook_dict["blocks.1.hook_resid_post"]
    handles = [
        block.register_forward_hook(lambda module, given, out: forward.append(out.shape[1])),
        block.register_full_backward_hook(lambda module, given, out: backward.append(1)),
        model.unembed.register_forward_hook(lambda module, given, out: unembedded.append(tuple(out.shape))),
    ]
    steps: list[tuple[int, int]] = []
    try:
        ls.attribute(
            model,
            IDS,
            ls.Fisher(rank=3),
            position=3,
            layers=True,
            sites=["hook_z", "resid_post"],
            progress=lambda done, total: steps.append((done, total)),
        )
    finally:
        for handle in handles:
            handle.remove()
    assert forward == [4], "one forward pass, over the tokens up to the position"
    assert len(backward) == (1 if together else 3), "one backward pass per direction, whatever the number of sites"
    assert all(shape[1] == 1 for shape in unembedded), "logits are computed at one position only"
    assert steps == [(1, 3), (2, 3), (3, 3)]


# What comes with the scores


def test_a_result_records_what_was_explained_and_how(models: dict[str, Any]) -> None:
    model = models["gemma_like"]
    att = ls.attribute(model, IDS, ls.LogProb(TOKEN), layers="resid_post", sites=["hook_z"], readout=ls.Dot("mean"))
    y = reference.state_of(model, IDS)
    p = reference.probabilities(model, y)
    assert att.prediction.beta == pytest.approx(float(y.norm()), rel=1e-12)
    assert att.prediction.entropy == pytest.approx(float(reference.entropy_of(p)), rel=1e-12)
    probabilities, tokens = p.sort(descending=True)
    assert [item.token_id for item in att.prediction.top] == tokens[:10].tolist()
    assert [item.probability for item in att.prediction.top] == pytest.approx(probabilities[:10].tolist())
    assert (att.scope, att.objective) == ("logprob", f"LogProb('#{TOKEN}')")
    assert att.tokens == [f"#{token}" for token in IDS] and att.special == [False] * len(IDS)
    assert att.offsets is None and att.text is None and att.warnings == []
    assert att.scores.dtype == torch.float64 and not att.scores.requires_grad
    assert att.sites["blocks.0.attn.hook_z"].shape == (len(IDS), model.cfg.n_heads)
    assert att.settings["objective"] == {"scope": "logprob", "token": TOKEN}
    assert att.settings["readout"] == {"name": "dot", "baseline": "mean"}
    assert att.settings["sites"] == ["hook_embed", *att.layer_names, *att.sites]
    assert att.model["n_layers"] == 3 and att.model["dtype"] == "float64"
    assert set(att.versions) >= {"torch", "transformer-lens", "transformers"}
    float32 = ls.attribute(gpt2_like(dtype=torch.float32), IDS)
    assert float32.scores.dtype == torch.float32


def test_float32_agrees_with_float64() -> None:
    for builder in (gpt2_like, gemma_like, llama_like):
        for objective in (ls.Semantic(TOKEN), ls.Temperature(), ls.Entropy(), ls.Fisher(rank=2)):
            exact = ls.attribute(builder(), IDS, objective, layers=True)
            rounded = ls.attribute(builder(dtype=torch.float32), IDS, objective, layers=True)
            assert exact.layers is not None and rounded.layers is not None
            assert_equal(rounded.scores.double(), exact.scores, 1e-3)
            assert_equal(rounded.layers.double(), exact.layers, 1e-3)


# Bad input: one line, the family's exceptions, nothing changed


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"prompt": []}, PromptError, "empty"),
        ({"prompt": list(range(23)) * 2}, PromptError, "32"),
        ({"prompt": [1, 23]}, PromptError, "vocabulary"),
        ({"prompt": [1, -1]}, PromptError, "vocabulary"),
        ({"prompt": "text"}, PromptError, "tokenizer"),
        ({"position": 6}, PromptError, "position 6"),
        ({"position": -7}, PromptError, "position -7"),
        ({"target": 23}, PromptError, "vocabulary"),
        ({"objective": ls.Semantic(23)}, PromptError, "vocabulary"),
        ({"objective": ls.LogitDiff(0, -1)}, PromptError, "vocabulary"),
        ({"objective": "semantics"}, ObjectiveError, "'semantic'"),
        ({"objective": ls.Fisher(rank=17)}, ObjectiveError, "d_model = 16"),
        ({"sites": "hook_zz"}, SiteError, "hook_zz"),
        ({"sites": "hook_pattern"}, SiteError, "hook_pattern"),
        ({"layers": "resid_after"}, SiteError, "resid_after"),
        ({"readout": "norms"}, ReadoutError, "'norm'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_bad_input_is_refused_in_one_line(
    models: dict[str, Any], settings: dict[str, Any], error: type[Exception], words: str
) -> None:
    arguments = {"prompt": IDS, **settings}
    for call in (
        lambda: ls.attribute(models["gpt2_like"], **arguments),
        lambda: ls.attribute_batch(
            models["gpt2_like"],
            [IDS, arguments["prompt"]],
            **{key: value for key, value in arguments.items() if key != "prompt"},
        ),
    ):
        with pytest.raises(error, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_site_that_a_shape_lacks_is_refused_by_name(models: dict[str, Any]) -> None:
    for name in ("neox_like", "attention_only"):
        with pytest.raises(SiteError, match=r"blocks\.0\.hook_resid_mid"):
            ls.attribute(models[name], IDS, layers="resid_mid")
    with pytest.raises(ls.LensScopesError, match=r"blocks\.0\.hook_mlp_out"):
        ls.attribute(models["attention_only"], IDS, sites="hook_mlp_out")


def test_a_model_without_an_unembedding_is_refused() -> None:
    with pytest.raises(ModelError, match="Linear has no unembedding"):
        ls.attribute(torch.nn.Linear(2, 2), IDS)


# What users may hand over by mistake


def test_one_text_is_not_taken_for_a_list_of_prompts() -> None:
    with pytest.raises(ls.LensScopesError, match="use attribute"):
        ls.attribute_batch(gpt2_like(), "one text")


def test_a_token_string_is_not_ignored_where_no_model_has_read_it() -> None:
    state = FinalState(torch.ones(4), Unembedding(torch.eye(4), None, None))
    with pytest.raises(ls.LensScopesError, match="prepare"):
        ls.Semantic(" Paris").directions(state)


def test_tensors_in_a_users_details_are_kept_as_numbers(tmp_path: Any) -> None:
    def objective(y: torch.Tensor, logits: torch.Tensor) -> ls.Directions:
        return ls.Directions(y[None], y.new_ones(1), details={"norm": y.norm()})

    att = ls.attribute(gpt2_like(), IDS, objective)
    att.save(tmp_path / "a.safetensors")
    details = ls.Attribution.load(tmp_path / "a.safetensors").details
    assert details is not None and details.other["norm"] == pytest.approx(att.prediction.beta)


def test_readouts_need_not_be_dataclasses() -> None:
    class Halved(ls.Norm):
        name = "halved"

        def amplitude(self, gradient: Any, activation: Any, real: Any) -> Any:
            return super().amplitude(gradient, activation, real) / 2

    model = gpt2_like()
    whole = ls.attribute(model, IDS, ls.Temperature(), readout=ls.Norm()).scores
    assert torch.equal(ls.attribute(model, IDS, ls.Temperature(), readout=Halved()).scores, whole / 2)
