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
from lens_scopes.engine.scoring import Directions
from lens_scopes.errors import LensScopesError, ObjectiveError, PromptError, ReadoutError
from lens_scopes.prompts.prompt import Prompt
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


# Starts: a token, another prompt, special tokens held; and what "mean" averages


class Words:
    """A tokenizer of 23 words, "t0" to "t22"; t1 is BOS and t2 EOS, and there is no padding token."""

    bos_token, bos_token_id, eos_token_id, pad_token_id = "t1", 1, 2, None
    all_special_ids = (1, 2)
    is_fast = False
    padding_side = "right"

    def __call__(self, text: str, **settings: Any) -> dict[str, list[int]]:
        return {"input_ids": [int(word[1:]) for word in text.split()]}

    def convert_ids_to_tokens(self, token_id: int) -> str:
        return f"t{token_id}"

    def convert_tokens_to_ids(self, token: str) -> int | None:
        return int(token[1:]) if token[1:].isdecimal() else None

    def decode(self, token_ids: list[int], **settings: Any) -> str:
        return f"t{token_ids[0]}"


SPECIAL = (True, False, False, True, False, False)
PROMPT = Prompt(None, tuple(IDS), tuple(f"t{i}" for i in IDS), None, SPECIAL, "ids")
OTHER = [1, 9, 14, 2, 7, 11]
STARTS: dict[str, Any] = {
    "mean": "mean", "bos": "bos", "eos": "eos", "string": "t9", "id": 9, "ids": OTHER, "tensor": torch.tensor([OTHER]),
    "text": "t1 t9 t14 t2 t7 t11",
}  # fmt: skip


def literal_start(model: Any, kind: str, *, held: bool) -> Tensor:
    x = reference.site_activation(model, IDS, "hook_embed")
    if kind == "mean":
        start = x[[index for index, is_special in enumerate(SPECIAL) if not is_special]].mean(0).expand_as(x)
    else:
        ids = {"bos": [1] * 6, "eos": [2] * 6, "string": [9] * 6, "id": [9] * 6}.get(kind, OTHER)
        start = reference.site_activation(model, ids, "hook_embed")
    return torch.stack([own if held and special else b for own, b, special in zip(x, start, SPECIAL, strict=True)])


@pytest.fixture(scope="module", params=["gpt2_like", "llama_like"])
def worded(request: Any) -> Any:
    model = TINY_MODELS[request.param]()
    model.tokenizer = Words()
    return model


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("kind", STARTS)
def test_paths_from_every_start_are_complete_and_the_mean_over_their_midpoints(
    worded: Any, kind: str, held: bool
) -> None:
    x = reference.site_activation(worded, IDS, "hook_embed")
    start = literal_start(worded, kind, held=held)
    objective = ls.LogProb(TOKEN)
    few = ls.attribute(worded, PROMPT, objective, readout="dot", points=ls.StraightPath(STARTS[kind], 3, held))
    path = [start + (n + 0.5) / 3 * (x - start) for n in range(3)]
    gradient = mean_gradient(worded, path, lambda e: output(worded, e, "logprob"))
    assert_close(few.scores, (gradient * (x - start)).sum(-1), **CLOSE)
    if held:
        assert not few.scores[[0, 3]].any()
    change = float(output(worded, x, "logprob") - output(worded, start, "logprob"))
    assert abs(change) > 1e-3, "the path changes next to nothing, so it tests nothing"
    many = ls.attribute(worded, PROMPT, objective, readout="dot", points=ls.StraightPath(STARTS[kind], 300, held))
    assert float(many.scores.sum()) == pytest.approx(change, rel=1e-3, abs=1e-4)
    text = many.contract["generative process"]
    assert ("special tokens held fixed" in text) == held
    assert "against the path's start" in many.contract["score attributed"]


def test_a_start_as_long_as_the_whole_prompt_is_cut_where_the_prompt_is(worded: Any) -> None:
    cut, whole = (
        ls.attribute(worded, PROMPT, ls.Semantic(TOKEN), position=3, points=ls.StraightPath(ids, 2), readout="dot")
        for ids in (OTHER[:4], OTHER)
    )
    assert torch.equal(cut.scores, whole.scores)


def test_other_sites_are_read_from_their_activation_at_the_start(worded: Any) -> None:
    site = "blocks.1.hook_resid_pre"
    att = ls.attribute(worded, PROMPT, ls.Semantic(TOKEN), layers=True, points=ls.StraightPath(9, 2), readout="dot")
    plain = ls.attribute(worded, PROMPT, ls.Semantic(TOKEN), layers=True, points=ls.StraightPath(9, 2))
    x, b = (reference.site_activation(worded, ids, site) for ids in (IDS, [9] * 6))
    assert att.layers is not None and plain.layers is not None
    # Cauchy–Schwarz, tight only where gradient and distance are parallel: a wrong baseline breaks it at once.
    assert bool((att.layers[1].abs() <= plain.layers[1] * (x - b).norm(dim=-1) * (1 + 1e-9)).all())
    same = ls.attribute(worded, PROMPT, ls.Semantic(TOKEN), layers=True, points=ls.StraightPath(IDS, 2), readout="dot")
    assert same.layers is not None and not same.layers.any() and not same.scores.any()


@pytest.mark.parametrize("objective", [ls.Temperature(), ls.Entropy(), ls.LogitDiff(5, 9)], ids=lambda o: o.scope)
def test_scopes_that_are_numbers_are_complete(worded: Any, objective: Any) -> None:
    def value(embeddings: Tensor) -> float:
        y = reference.final_state(worded, embeddings, IDS)
        logits = reference.logits_from_final_state(worded, y)
        numbers = {
            "temperature": y.norm(), "entropy": torch.special.entr(logits.softmax(-1)).sum(),
            "logit-diff": logits[5] - logits[9],
        }  # fmt: skip
        return float(numbers[objective.scope])

    x, start = reference.site_activation(worded, IDS, "hook_embed"), literal_start(worded, "id", held=False)
    att = ls.attribute(worded, PROMPT, objective, readout="dot", points=ls.StraightPath(9, 300))
    assert float(att.scores.sum()) == pytest.approx(value(x) - value(start), rel=2e-3, abs=2e-4)


def test_a_custom_number_has_its_own_direction_at_every_point(worded: Any) -> None:
    """f(y) = ‖y‖⁴/4 has the gradient ‖y‖² y: held at the prompt's own, its path would not add up to its change."""
    x, start = reference.site_activation(worded, IDS, "hook_embed"), literal_start(worded, "id", held=False)
    values = [float(reference.final_state(worded, e, IDS).norm() ** 4) / 4 for e in (x, start)]
    path = ls.StraightPath(9, 300)
    direct = ls.attribute(worded, PROMPT, lambda y, logits: y.norm() ** 2 * y, readout="dot", points=path)
    assert float(direct.scores.sum()) == pytest.approx(values[0] - values[1], rel=2e-3, abs=1e-3)
    weighted = ls.attribute(  # √w v is the same direction, with the weight of each point
        worded,
        PROMPT,
        lambda y, logits: Directions(y[None], (y.norm() ** 4)[None]),
        readout="dot",
        points=path,
    )
    assert_close(weighted.scores, direct.scores, **CLOSE)

    calls: list[int] = []

    def sometimes(y: Tensor, logits: Tensor) -> Tensor:
        calls.append(1)
        return y if len(calls) < 3 else torch.stack([y, y])

    with pytest.raises(ObjectiveError, match="one direction at the prompt and 2 at a point"):
        ls.attribute(worded, PROMPT, sometimes, points=path)


def test_mean_averages_the_tokens_that_are_not_special(worded: Any) -> None:
    x, mean = reference.site_activation(worded, IDS, "hook_embed"), literal_start(worded, "mean", held=False)
    dot = ls.attribute(worded, PROMPT, ls.Semantic(TOKEN), readout=ls.Dot("mean"))
    gradient = mean_gradient(worded, [x], lambda e: output(worded, e, "logit"))
    assert_close(dot.scores, (gradient * (x - mean)).sum(-1), **CLOSE)
    batch = ls.attribute_batch(worded, [PROMPT, [3, 4]], ls.Semantic(TOKEN), readout=ls.Dot("mean"))
    assert_close(batch[0].scores, dot.scores, **CLOSE)
    rows = ls.attribute_all(worded, PROMPT, ls.Semantic(TOKEN), readout=ls.Dot("mean"))
    assert_close(rows.matrix[-1], dot.scores, **CLOSE)
    moved = x.clone()
    moved[2] = mean[2]
    after = reference.logits_from_final_state(worded, reference.final_state(worded, moved, IDS)).log_softmax(-1)
    before = reference.logits_from_final_state(worded, reference.final_state(worded, x, IDS)).log_softmax(-1)
    kl = float((before.exp() * (before - after)).sum())
    left_out = ls.attribute(worded, PROMPT, ls.LeaveOneOut("kl", ablation="mean"))
    assert float(left_out.scores[2]) == pytest.approx(kl, rel=1e-6)
    modes = ls.inspect_modes(worded, PROMPT, baseline="mean")
    assert modes.replacements[2].actual_nats == pytest.approx(kl, rel=1e-6)


def test_starts_that_do_not_fit_are_refused(worded: Any) -> None:
    for start, error in (("pad", ReadoutError), ("t40", PromptError), (40, PromptError), ("t3 t4", PromptError)):
        with pytest.raises(LensScopesError) as caught:
            ls.attribute(worded, PROMPT, points=ls.StraightPath(start))
        assert isinstance(caught.value, error) and "\n" not in str(caught.value), start


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
    from_zero = ls.StraightPath("zero", steps=2).embeddings(own, torch.zeros_like(own))
    assert_close(from_zero, torch.stack([0.25 * own, 0.75 * own]))
    from_mean = ls.StraightPath("mean", steps=1).embeddings(own, own.mean(0).expand_as(own))
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

        def embeddings(self, own: Tensor, start: Tensor | None = None) -> Tensor:
            assert start is None, "points that are no path have no start"
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
        literal(one.embeddings(x, start_of(x, "mean"))[0]),
        **CLOSE,
    )


def test_points_are_told_in_the_contract_and_the_settings(models: dict[str, Any]) -> None:
    att = ls.attribute(models["gpt2_like"], IDS, ls.Semantic(TOKEN), points=ls.StraightPath("mean", steps=8))
    assert (
        "8 points of the straight path from the mean embedding of the prompt's non-special tokens"
        in att.contract["generative process"]
    )
    assert att.settings["points"] == {"name": "path", "start": "mean", "steps": 8, "hold_special": False}
    assert "averaged over other prompts" in att.to_html() and "first order and local" not in att.to_html()
    noisy = ls.attribute(models["gpt2_like"], IDS, ls.Semantic(TOKEN), points=ls.Noise(2, 0.5, 3))
    assert "2 points with noise of 0.5 times a typical entry on every embedding (seed 3)" in str(noisy.contract)
    assert ls.attribute(models["gpt2_like"], IDS).settings["points"] is None


def test_points_may_be_written_as_text(models: dict[str, Any]) -> None:
    for text, points in (
        ("path", ls.StraightPath("zero", 16)),
        ("path-mean@3", ls.StraightPath("mean", 3)),
        ("path-held@2", ls.StraightPath("zero", 2, hold_special=True)),
        ("path-mean-held", ls.StraightPath("mean", 16, hold_special=True)),
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
        (lambda: ls.StraightPath(None), "a path starts at"),
        (lambda: ls.StraightPath(""), "a path starts at"),
        (lambda: ls.StraightPath([0.5]), "a path starts at"),
        (lambda: ls.StraightPath(-1), "a path starts at"),
        (lambda: ls.attribute(gpt2_like(), IDS, points="path-bos"), "needs a tokenizer with such a token"),
        (lambda: ls.attribute(gpt2_like(), IDS, readout=ls.Dot("path")), "there is no path"),
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
