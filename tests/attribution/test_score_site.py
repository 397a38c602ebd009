"""Tokens' scores read elsewhere than at the embedding: `at`, which puts an activation's layers and heads together."""

from typing import Any

import pytest
import torch
from tiny_models import gpt2_like, llama_like
from torch.testing import assert_close

import lens_scopes as ls
from lens_scopes.errors import EvaluationError, ObjectiveError, SiteError
from lens_scopes.evaluation.methods.names import as_method

IDS = [1, 17, 0, 8, 22, 3]
OBJECTIVES: dict[str, Any] = {"semantic": ls.Semantic(5), "fisher": ls.Fisher(), "fisher@3": ls.Fisher(3)}


@pytest.fixture(scope="module")
def model() -> Any:
    return llama_like()


def put_together(attribution: ls.Attribution, squared: bool) -> torch.Tensor:
    """Σ_l √(Σ_h s_l,h,t), one token, layer and head after the other."""
    totals = []
    for token in range(len(attribution)):
        total = 0.0
        for values in attribution.sites.values():
            heads = values[token].reshape(-1).tolist()
            total += sum(value if squared else value**2 for value in heads) ** 0.5
        totals.append(total)
    return torch.tensor(totals, dtype=attribution.scores.dtype)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("at", ["hook_v", "hook_z", "hook_resid_pre", "blocks.1.attn.hook_v"])
@pytest.mark.parametrize("readout", ["norm", "relative", "product"])
def test_amplitudes_of_layers_and_heads_add_up(model: Any, name: str, at: str, readout: str) -> None:
    found = ls.attribute(model, IDS, OBJECTIVES[name], score_site=at, readout=readout)
    apart = ls.attribute(model, IDS, OBJECTIVES[name], sites=at, readout=readout)
    assert found.scores[:-1].any() and not found.sites
    assert_close(found.scores, put_together(apart, squared="fisher" in name), rtol=1e-12, atol=0)


def test_small_changes_at_all_layers_at_once_move_no_more_than_the_total() -> None:
    model, size = gpt2_like(), 1e-6
    found = ls.attribute(model, IDS, ls.Semantic(5), score_site="hook_v")
    generator = torch.Generator().manual_seed(0)
    tokens = torch.tensor([IDS])
    before = model(tokens)[0, -1, 5]
    shares = []
    for token in range(len(IDS)):
        for _ in range(8):

            def moved(value: torch.Tensor, hook: Any, token: int = token) -> torch.Tensor:
                step = torch.randn(value.shape[2:], generator=generator, dtype=value.dtype)
                value = value.clone()
                value[0, token] += step * size / step.norm()
                return value

            hooks = [(f"blocks.{layer}.attn.hook_v", moved) for layer in range(model.cfg.n_layers)]
            after = model.run_with_hooks(tokens, fwd_hooks=hooks)[0, -1, 5]
            shares.append(abs(float(after - before)) / (size * float(found.scores[token])))
    assert 0.05 < max(shares) <= 1


def test_layers_sites_points_and_batches_go_with_it(model: Any) -> None:
    settings: Any = {"objective": ls.Fisher(2), "score_site": "hook_v", "readout": "relative"}
    alone = ls.attribute(model, IDS, **settings)
    beside = ls.attribute(model, IDS, layers=True, sites="hook_v", **settings)
    assert_close(beside.scores, alone.scores, rtol=1e-12, atol=0)
    assert beside.layers is not None and len(beside.sites) == model.cfg.n_layers
    for item, ids in zip(ls.attribute_batch(model, [IDS[:3], IDS], **settings), (IDS[:3], IDS), strict=True):
        assert_close(item.scores, ls.attribute(model, ids, **settings).scores, rtol=1e-9, atol=1e-12)
    path = ls.attribute(model, IDS, points=ls.StraightPath("mean", 4), **settings)
    assert path.scores.any() and not torch.allclose(path.scores, alone.scores)
    whole = ls.attribute(model, IDS, memory=10**9, **settings)
    assert_close(whole.scores, alone.scores, rtol=1e-9, atol=1e-12)


def test_the_error_of_sampled_directions_bounds_that_of_the_total(model: Any) -> None:
    draws = [
        ls.attribute(model, IDS, ls.Fisher("trace", samples=8, exact=0, seed=seed), score_site="hook_v")
        for seed in range(60)
    ]
    spread = torch.stack([item.scores for item in draws]).std(0)
    claimed = torch.stack([item.standard_error for item in draws]).mean(0)
    assert (claimed > 0.7 * spread).all()
    assert ls.attribute(model, IDS, ls.Fisher(3), score_site="hook_v").standard_error is None


def test_the_result_says_where_it_was_read(model: Any) -> None:
    found = ls.attribute(model, IDS, ls.Fisher(), score_site="hook_v", readout="relative")
    names = [f"blocks.{layer}.attn.hook_v" for layer in range(model.cfg.n_layers)]
    assert found.settings["score_sites"] == names and found.settings["squared"] is False
    assert names[0] in found.contract["eligible features"] and "embeddings" not in found.contract["eligible features"]
    assert found.contract["score attributed"].startswith("score_t = Σ_l √(Σ_i w_i a_i,l,t²")
    usual = ls.attribute(model, IDS, ls.Fisher())
    assert usual.settings["score_sites"] == [] and "hook_embed" in usual.contract["eligible features"]


def test_signed_scores_and_baselines_have_no_such_total(model: Any) -> None:
    with pytest.raises(SiteError, match="signed scores have no total over hook_v"):
        ls.attribute(model, IDS, ls.Semantic(5), score_site="hook_v", readout="dot")
    with pytest.raises(ObjectiveError, match="score_site='hook_v' does not apply"):
        ls.attribute(model, IDS, ls.LeaveOneOut(), score_site="hook_v")
    with pytest.raises(SiteError, match="no hook named 'hook_w'"):
        ls.attribute(model, IDS, ls.Semantic(5), score_site="hook_w")
    with pytest.raises(EvaluationError, match="signed scores"):
        as_method("semantic+score_site=hook_v+dot")


@pytest.mark.parametrize("rank", [1, 3, "trace"])
def test_fisher_at_values_is_the_combination_it_names(model: Any, rank: Any) -> None:
    named, spelled = ls.FisherAtValues(rank), ls.Fisher(rank)
    found = ls.attribute(model, IDS, named)
    expected = ls.attribute(model, IDS, spelled, score_site="hook_v", readout="relative")
    assert torch.equal(found.scores, expected.scores)
    assert (found.scope, found.objective) == ("fisher", f"Fisher(rank={rank!r})")
    assert found.contract == expected.contract and found.settings["score_sites"] == expected.settings["score_sites"]
    assert torch.equal(
        ls.attribute(model, IDS, "fisher-at-values").scores, ls.attribute(model, IDS, ls.FisherAtValues).scores
    )
    at_embedding = ls.attribute(model, IDS, named, score_site="hook_embed", readout="norm")
    assert torch.equal(at_embedding.scores, ls.attribute(model, IDS, spelled).scores)


def test_what_has_sites_of_its_own_takes_fisher_instead(model: Any) -> None:
    for inspect in (ls.inspect_heads, ls.attribute_all):
        with pytest.raises(
            ObjectiveError,
            match="score_site='hook_v' does not apply to it; leave score_site out, or choose fisher alone",
        ):
            inspect(model, IDS, ls.FisherAtValues())
