"""Gradients averaged over points: completeness, against literal loops over points with autograd, and laws."""

from collections.abc import Callable
from typing import Any

import pytest
import reference
import torch
from tiny_models import TINY_MODELS, gemma_like, gpt2_like, linear_toy, llama_like
from torch import Tensor
from torch.testing import assert_close

import lens_scopes as ls
from lens_scopes.attribution import averaging
from lens_scopes.errors import ReadoutError
from lens_scopes.scopes.points import Points

IDS = [3, 17, 0, 8, 22, 3]
TOKEN = 5
CLOSE: Any = {"rtol": 1e-9, "atol": 1e-11}


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {name: build() for name, build in TINY_MODELS.items()}


def start_of(x: Tensor, baseline: str) -> Tensor:
    return torch.zeros_like(x) if baseline == "zero" else x.mean(0).expand_as(x)


def output(model: Any, embeddings: Tensor, measure: str) -> Tensor:
    logits = reference.logits_from_final_state(model, reference.final_state(model, embeddings, IDS))
    return logits[TOKEN] if measure == "logit" else logits.log_softmax(-1)[TOKEN]


def mean_gradient(model: Any, embeddings: list[Tensor], scalar: Callable[[Tensor], Tensor]) -> Tensor:
    """∂scalar/∂x averaged over embeddings, one forward and one backward pass each."""
    total = torch.zeros_like(embeddings[0])
    for values in embeddings:
        point = values.clone().requires_grad_(True)
        total += torch.autograd.grad(scalar(point), point)[0]
    return total / len(embeddings)


def path_of(x: Tensor, baseline: str, steps: int) -> list[Tensor]:
    start = start_of(x, baseline)
    return [start + (n + 0.5) / steps * (x - start) for n in range(steps)]


# Completeness: scores add up to what the path changes


@pytest.mark.parametrize("baseline", ["zero", "mean"])
@pytest.mark.parametrize("measure", ["logit", "logprob"])
@pytest.mark.parametrize("name", TINY_MODELS)
def test_integrated_gradients_add_up_to_the_change_of_the_output(
    models: dict[str, Any], name: str, baseline: Any, measure: str
) -> None:
    tiny = models[name]
    if baseline == "zero" and tiny.cfg.positional_embedding_type == "rotary":
        return  # the output jumps at zero, where the first norm sees nothing: shown below
    objective = ls.Semantic(TOKEN) if measure == "logit" else ls.LogProb(TOKEN)
    x = reference.site_activation(tiny, IDS, "hook_embed")
    expected = float(output(tiny, x, measure) - output(tiny, start_of(x, baseline), measure))
    assert abs(expected) > 1e-3, "the path changes next to nothing, so it tests nothing"
    errors = []
    for steps in (4, 64):
        att = ls.attribute(
            tiny, IDS, objective, readout=ls.Dot(baseline), points=ls.StraightPath(baseline, steps=steps)
        )
        errors.append(abs(float(att.scores.sum()) - expected))
    assert errors[1] < 0.02 * abs(expected)
    assert errors[1] < errors[0] / 4 or errors[1] < 1e-9


@pytest.mark.parametrize("name", ["llama_like", "gemma_like", "neox_like"])
def test_the_output_jumps_at_zero_where_bare_embeddings_are_normalised(models: dict[str, Any], name: str) -> None:
    """Almost all of the change from zero to a tenth of the prompt happens within its first tenth."""
    x = reference.site_activation(models[name], IDS, "hook_embed")
    at_zero, near, further = (reference.final_state(models[name], alpha * x, IDS) for alpha in (0.0, 0.01, 0.1))
    assert float((near - at_zero).norm()) > 3 * float((further - near).norm())


@pytest.mark.parametrize("name", ["gpt2_like", "llama_like", "gemma_like"])
def test_fixed_directions_add_up_to_the_change_along_each(models: dict[str, Any], name: str) -> None:
    """With the prompt's own direction u held along the path, Σ_t of its mean products is u_iᵀ(y(x) − y(b))."""
    model = models[name]
    x = reference.site_activation(model, IDS, "hook_embed")
    change = reference.state_of(model, IDS) - reference.final_state(model, start_of(x, "mean"), IDS)
    generator = torch.Generator().manual_seed(1)
    for direction in torch.randn(3, model.cfg.d_model, generator=generator, dtype=torch.float64):
        att = ls.attribute(
            model,
            IDS,
            lambda y, logits, direction=direction: direction,
            readout=ls.Dot("mean"),
            points=ls.StraightPath("mean", steps=64),
        )
        assert float(att.scores.sum()) == pytest.approx(float(direction @ change), rel=0.01, abs=1e-3)


def test_on_a_linear_model_every_point_gives_the_local_gradient() -> None:
    model, jacobian = linear_toy()
    J = jacobian(len(IDS))
    w = model.W_U[:, TOKEN]
    for points in (ls.StraightPath("zero", steps=3), ls.StraightPath("mean", steps=1), ls.Noise(samples=3, scale=2.0)):
        att = ls.attribute(model, IDS, ls.Semantic(TOKEN), points=points)
        assert_close(att.scores, torch.einsum("o,toi->ti", w, J).norm(dim=-1), **CLOSE)


# Literal references


@pytest.mark.parametrize("baseline", ["zero", "mean"])
def test_a_path_is_the_mean_over_its_midpoints(tiny: Any, baseline: Any) -> None:
    x = reference.site_activation(tiny, IDS, "hook_embed")
    path, start = path_of(x, baseline, 3), start_of(x, baseline)
    points = ls.StraightPath(baseline, steps=3)
    for objective, scalar in (
        (ls.Semantic(TOKEN), lambda e: output(tiny, e, "logit")),
        (ls.LogProb(TOKEN), lambda e: output(tiny, e, "logprob")),
        (ls.Temperature(), lambda e: reference.final_state(tiny, e, IDS).norm()),
    ):
        expected = mean_gradient(tiny, path, scalar)
        for readout, scores in (
            ("norm", expected.norm(dim=-1)),
            ("dot", (expected * (x - start)).sum(-1)),
            (ls.Dot(baseline), (expected * (x - start)).sum(-1)),
            ("product", (expected * (x - start)).norm(dim=-1)),
            (ls.Product(baseline), (expected * (x - start)).norm(dim=-1)),
            ("relative", expected.norm(dim=-1) * x.norm(dim=-1)),
        ):
            att = ls.attribute(tiny, IDS, objective, points=points, readout=readout)
            assert_close(att.scores, scores, **CLOSE)
        for readout in (ls.Dot, ls.Product):
            other = readout("mean" if baseline == "zero" else "zero")
            with pytest.raises(ReadoutError, match=f"a path from '{baseline}' is read from its start"):
                ls.attribute(tiny, IDS, objective, points=points, readout=other)


def test_a_divergence_keeps_the_prompts_own_axes_at_every_point(models: dict[str, Any]) -> None:
    model = models["gemma_like"]
    x = reference.site_activation(model, IDS, "hook_embed")
    y = reference.state_of(model, IDS)
    eigenvalues, axes = torch.linalg.eigh(reference.fisher_matrix(model, y))
    expected = torch.zeros(len(IDS), dtype=torch.float64)
    for value, axis in list(zip(eigenvalues, axes.T, strict=True))[-2:]:
        mean = mean_gradient(
            model, path_of(x, "zero", 4), lambda e, axis=axis: axis @ reference.final_state(model, e, IDS)
        )
        expected += value * mean.square().sum(-1)
    att = ls.attribute(model, IDS, ls.Fisher(rank=2), points=ls.StraightPath(steps=4))
    assert_close(att.scores, expected, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("seed", [0, 7])
def test_smoothgrad_is_the_mean_over_seeded_noise(models: dict[str, Any], seed: int) -> None:
    model = models["llama_like"]
    x = reference.site_activation(model, IDS, "hook_embed")
    points = ls.Noise(samples=5, scale=0.3, seed=seed)
    around = list(points.embeddings(x))
    expected = mean_gradient(model, around, lambda e: output(model, e, "logit"))
    assert_close(ls.attribute(model, IDS, ls.Semantic(TOKEN), points=points).scores, expected.norm(dim=-1), **CLOSE)


def test_noise_has_the_size_it_names() -> None:
    own = 3.0 * torch.randn(40, 50, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    drawn = ls.Noise(samples=20, scale=0.1).embeddings(own) - own
    typical = float(own.square().mean().sqrt())
    assert float(drawn.std()) == pytest.approx(0.1 * typical, rel=0.02)
    assert abs(float(drawn.mean())) < 0.01 * typical
    assert float((drawn[0] * drawn[1]).mean().abs()) < 0.1 * float(drawn.square().mean()), "points are independent"


def test_points_of_a_path_are_midpoints_from_its_baseline() -> None:
    own = torch.tensor([[2.0, 4.0], [6.0, 0.0]])
    from_zero = ls.StraightPath("zero", steps=2).embeddings(own)
    assert_close(from_zero, torch.stack([0.25 * own, 0.75 * own]))
    from_mean = ls.StraightPath("mean", steps=1).embeddings(own)
    assert_close(from_mean[0], torch.tensor([[3.0, 3.0], [5.0, 1.0]]))


# Laws


@pytest.mark.parametrize("at_once", [1, 12, 13, 10_000])
def test_scores_do_not_depend_on_how_many_points_run_together(
    models: dict[str, Any], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models["gpt2_like"]
    settings: Any = {"layers": True, "sites": "hook_v", "points": ls.Noise(samples=5)}
    expected = ls.attribute(model, IDS, ls.Fisher(rank=2), **settings)
    monkeypatch.setattr(averaging, "_TOKENS_AT_ONCE", at_once)
    sizes: list[int] = []
    handle = model.hook_dict["blocks.0.hook_resid_pre"].register_forward_hook(
        lambda module, given, out: sizes.append(len(out))
    )
    steps: list[tuple[int, int]] = []
    try:
        found = ls.attribute(
            model, IDS, ls.Fisher(rank=2), **settings, progress=lambda done, total: steps.append((done, total))
        )
    finally:
        handle.remove()
    assert sizes[-len(steps) :] == [
        min(max(1, at_once // len(IDS)), 5 - before) for before in [0, *(s for s, _ in steps[:-1])]
    ]
    assert steps[-1] == (5, 5)
    assert_close(found.scores, expected.scores, **CLOSE)
    assert_close(found.layers, expected.layers, **CLOSE)
    for name, values in expected.sites.items():
        assert_close(found.sites[name], values, **CLOSE)


def test_layers_and_sites_come_with_points(models: dict[str, Any]) -> None:
    """A mean over one point at the prompt itself is the local gradient, at every site; the first layer of a model
    without position embeddings is its embedding."""

    class Here(Points):
        name = "here"
        count = 1

        def embeddings(self, own: Tensor) -> Tensor:
            return own[None]

        def describe(self) -> str:
            return "the prompt itself"

    model = models["llama_like"]
    for objective in (ls.Semantic(TOKEN), ls.Entropy(), ls.Fisher(rank=3)):
        local = ls.attribute(model, IDS, objective, layers=True, sites=["hook_z", "hook_v"])
        here = ls.attribute(model, IDS, objective, layers=True, sites=["hook_z", "hook_v"], points=Here())
        assert_close(here.scores, local.scores, **CLOSE)
        assert_close(here.layers, local.layers, **CLOSE)
        assert here.sites.keys() == local.sites.keys()
        for name, values in local.sites.items():
            assert_close(here.sites[name], values, **CLOSE)
    averaged = ls.attribute(model, IDS, ls.Fisher(rank=3), layers=True, points=ls.Noise(samples=3))
    assert averaged.layers is not None
    assert_close(averaged.layers[0], averaged.scores, **CLOSE)


def test_a_path_through_components_holds_at_every_point(models: dict[str, Any]) -> None:
    model = models["gpt2_like"]
    att = ls.attribute(model, IDS, ls.Semantic(TOKEN), through=ls.MLP(), points=ls.StraightPath(steps=3))
    assert not att.scores[:-1].any() and att.scores[-1] > 0
    frozen = ls.Frozen("patterns", "norms", "gates")
    x = reference.site_activation(model, IDS, "hook_embed")

    def literal(embeddings: Tensor) -> Tensor:
        """The mean over one point of the model that is linear there."""
        handles = []
        point = model.hook_dict["hook_embed"]
        point.add_hook(lambda value, hook: embeddings[None])
        handles.append(point)
        try:
            return ls.attribute(model, IDS, ls.Semantic(TOKEN), through=frozen).scores
        finally:
            point.fwd_hooks.pop().hook.remove()

    one = ls.StraightPath("mean", steps=1)
    assert_close(
        ls.attribute(model, IDS, ls.Semantic(TOKEN), through=frozen, points=one).scores,
        literal(one.embeddings(x)[0]),
        **CLOSE,
    )


def test_points_are_told_in_the_contract_and_the_settings(models: dict[str, Any]) -> None:
    att = ls.attribute(models["gpt2_like"], IDS, ls.Semantic(TOKEN), points=ls.StraightPath("mean", steps=8))
    assert "8 points of the straight path from the mean baseline" in att.contract["generative process"]
    assert att.settings["points"] == {"name": "path", "baseline": "mean", "steps": 8}
    assert "averaged over other prompts" in att.to_html() and "first order and local" not in att.to_html()
    noisy = ls.attribute(models["gpt2_like"], IDS, ls.Semantic(TOKEN), points=ls.Noise(2, 0.5, 3))
    assert "2 points with noise of 0.5 times a typical entry on every embedding (seed 3)" in str(noisy.contract)
    assert ls.attribute(models["gpt2_like"], IDS).settings["points"] is None


def test_points_may_be_written_as_text(models: dict[str, Any]) -> None:
    for text, points in (
        ("path", ls.StraightPath("zero", 16)),
        ("path-mean@3", ls.StraightPath("mean", 3)),
        ("noise@4", ls.Noise(4)),
    ):
        named, given = (ls.attribute(models["gpt2_like"], IDS, points=what) for what in (text, points))
        assert torch.equal(named.scores, given.scores) and named.settings == given.settings


def test_hooks_and_generators_are_as_before(models: dict[str, Any]) -> None:
    model = models["gemma_like"]
    state = torch.get_rng_state()
    one, again, other = (
        ls.attribute(model, IDS, ls.Semantic(TOKEN), points=ls.Noise(samples=4, seed=seed)).scores for seed in (1, 1, 2)
    )
    assert torch.equal(one, again) and not torch.allclose(one, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(point.fwd_hooks or point._forward_hooks for point in model.hook_dict.values())

    class Broken(ls.Norm):
        name = "broken"

        def amplitude(self, gradient: Any, activation: Any, real: Any) -> Any:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        ls.attribute(model, IDS, points=ls.StraightPath(steps=2), readout=Broken())
    assert not any(point.fwd_hooks or point._forward_hooks for point in model.hook_dict.values())


def test_float32_agrees_with_float64() -> None:
    for build in (gpt2_like, gemma_like, llama_like):
        exact, rounded = (
            ls.attribute(build(dtype=dtype), IDS, ls.Fisher(2), points=ls.StraightPath(steps=4))
            for dtype in (torch.float64, torch.float32)
        )
        assert rounded.scores.dtype == torch.float32
        assert_close(rounded.scores.double(), exact.scores, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ls.StraightPath("pad"), "'pad'"),
        (lambda: ls.StraightPath(steps=0), "at least one step"),
        (lambda: ls.StraightPath(steps=2.5), "2.5"),
        (lambda: ls.Noise(samples=0), "sample"),
        (lambda: ls.Noise(samples=1.5), "1.5"),
        (lambda: ls.Noise(scale=0.0), "scale"),
        (lambda: ls.Noise(scale=-0.1), "-0.1"),
        (lambda: ls.Noise(scale=float("nan")), "nan"),
        (lambda: ls.Noise(scale=float("inf")), "inf"),
        (lambda: ls.attribute(gpt2_like(), IDS, points="pth"), "did you mean 'path'"),
        (lambda: ls.attribute(gpt2_like(), IDS, points="path@x"), "@N for the number"),
        (lambda: ls.attribute(gpt2_like(), IDS, points="noise@0"), "at least one sample"),
        (lambda: ls.attribute(gpt2_like(), IDS, points=16), r"ls\.StraightPath"),
        (lambda: ls.attribute(gpt2_like(), IDS, points=ls.StraightPath), r"ls\.StraightPath"),
    ],
)
def test_bad_settings_are_refused_in_one_line(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ReadoutError, match=words) as caught:
        make()
    assert "\n" not in str(caught.value)
