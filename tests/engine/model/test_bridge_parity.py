"""A TransformerBridge gives what a HookedTransformer of the same weights gives, at every site and along every path."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import lens_scopes as ls
from lens_scopes.engine.model import ScopedModel
from lens_scopes.engine.token_ablation import AblatedPrompt, Corpus
from lens_scopes.evaluation.evaluator import Evaluator

IDS = [1, 5, 3, 7, 2, 9, 4]
TARGET = 3
# Transformers computes RMSNorm in float32 whatever the model's dtype.
CLOSE: Any = {"rtol": 2e-5, "atol": 2e-5}

CONFIGS = {
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=50, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
    ),
    "llama": lambda: transformers.LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64,
    ),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=64, sliding_window=8, query_pre_attn_scalar=8,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "neox": lambda: transformers.GPTNeoXConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, bos_token_id=0, eos_token_id=0,
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=CONFIGS)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder: Path = tmp_path_factory.mktemp(request.param) / "weights"
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[request.param]())
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = parameter.data + 0.3 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    return tuple(ls.load_model(folder, backend=backend, dtype="float64") for backend in ("hooked", "bridge"))


@pytest.mark.parametrize(
    "site",
    ["hook_resid_pre", "hook_resid_post", "hook_attn_out", "hook_mlp_out", "hook_q", "hook_k", "hook_v", "hook_z"],
)
def test_sites(both: tuple[Any, Any], site: str) -> None:
    hooked, bridge = (ls.attribute(model, IDS, ls.Semantic(TARGET), sites=site).sites for model in both)
    assert hooked.keys() == bridge.keys()
    for name, scores in hooked.items():
        assert scores.any(), name
        torch.testing.assert_close(bridge[name], scores, **CLOSE)


@pytest.mark.parametrize(
    "path",
    [
        ls.Layers(1),
        ls.Heads("L0H1"),
        ls.Attention(),
        ls.MLP(),
        ls.Skip(),
        ls.Frozen("patterns"),
        ls.Frozen("norms"),
        ls.Frozen("gates"),
        ls.Attention() & ls.Layers(1) & ls.Frozen("patterns", "norms"),
        ls.Rules("attnlrp"),
        ls.Layers(1) & ls.Rules("gim"),
        ls.Rules("relp"),
    ],
    ids=str,
)
def test_paths(both: tuple[Any, Any], path: ls.Path) -> None:
    free, hooked, bridge = (
        ls.attribute(model, IDS, ls.Fisher(2), layers=True, through=through)
        for model, through in ((both[0], None), (both[0], path), (both[1], path))
    )
    assert not torch.allclose(hooked.scores, free.scores)
    torch.testing.assert_close(bridge.scores, hooked.scores, **CLOSE)
    torch.testing.assert_close(bridge.layers, hooked.layers, **CLOSE)


def test_heads(both: tuple[Any, Any]) -> None:
    hooked, bridge = (ls.inspect_heads(model, IDS, ls.Semantic(TARGET), patterns=["L1H0"]) for model in both)
    for name in ("effect", "mlp_effect", "by_source", "norms", "direct_effect"):
        torch.testing.assert_close(getattr(bridge, name), getattr(hooked, name), **CLOSE)
    torch.testing.assert_close(bridge.patterns["L1H0"], hooked.patterns["L1H0"], **CLOSE)
    actual = [{item.name: item.actual for item in found.ablations} for found in (hooked, bridge)]
    assert actual[1] == pytest.approx(actual[0], rel=2e-5, abs=2e-5)


def test_matrices_and_modes(both: tuple[Any, Any]) -> None:
    matrices = [ls.attribute_all(model, IDS, ls.Temperature(), generate=2) for model in both]
    assert matrices[1].token_ids == matrices[0].token_ids
    torch.testing.assert_close(matrices[1].matrix, matrices[0].matrix, **CLOSE)
    modes = [ls.inspect_modes(model, IDS, rank=2) for model in both]
    nats = [[item.actual_nats for item in found.replacements] for found in modes]
    assert nats[1] == pytest.approx(nats[0], rel=2e-5, abs=2e-5)


@pytest.mark.parametrize("ablation", ["zero", "mean", "corpus-mean", "resample", "remove"])
def test_ablated_prompts(both: tuple[Any, Any], ablation: str) -> None:
    """The bridge runs whole prompts where a HookedTransformer shares their beginnings."""
    masks = torch.zeros(len(IDS), len(IDS), dtype=torch.bool)
    for row in range(1, len(IDS)):
        masks[row, row :: row + 1] = True
    hooked, bridge = (
        AblatedPrompt(
            ScopedModel.of(model),
            IDS,
            [True, *[False] * 6],
            TARGET,
            ablation,
            draws=2,
            corpus=Corpus((4, 8, 8)),
            seed=1,
        )
        for model in both
    )
    for before, after in (
        (hooked.outcomes(masks), bridge.outcomes(masks)),
        (hooked.leave_one_out(), bridge.leave_one_out()),
    ):
        for name in ("log_probability", "probability", "logit", "divergence"):
            torch.testing.assert_close(getattr(after, name), getattr(before, name), **CLOSE)
    assert hooked.forwards == bridge.forwards
    assert bool(hooked.leave_one_out().divergence.all())


@pytest.mark.parametrize(
    "what",
    [
        {"objective": ls.AttentionRollout()},
        {"objective": ls.ValueWeightedAttention()},
        {"objective": ls.GradEllm(), "target": TARGET},
        {"objective": ls.BalancedValues(2)},
        {"objective": ls.KernelShap(ablations=12), "target": TARGET},
        {"objective": ls.Semantic(TARGET), "score_site": "values"},
        {"objective": ls.LeaveOneOut("logprob", ablation="mean")},
        {"objective": ls.Fisher(2), "points": ls.StraightPath("mean", steps=3), "layers": True},
        {"objective": ls.Temperature(), "points": ls.Noise(samples=3), "readout": "product"},
    ],
    ids=lambda what: type(what["objective"]).__name__,
)
def test_baselines_and_points(both: tuple[Any, Any], what: dict[str, Any]) -> None:
    hooked, bridge = (ls.attribute(model, IDS, **what) for model in both)
    assert hooked.scores.any()
    torch.testing.assert_close(bridge.scores, hooked.scores, **CLOSE)
    if hooked.layers is not None:
        torch.testing.assert_close(bridge.layers, hooked.layers, **CLOSE)


def test_evaluators(both: tuple[Any, Any]) -> None:
    found = []
    for model in both:
        before = [parameter.detach().clone() for parameter in model.parameters()]
        evaluator = Evaluator(
            model,
            ["fisher@2+values", "random"],
            ["aopc", "loo-kl", "infidelity", "stability", "randomization"],
            ["zero"],
        )
        found.append(evaluator.measure(evaluator.passage(IDS), None, index=0)[1])
        for parameter, was in zip(model.parameters(), before, strict=True):
            assert torch.equal(parameter, was)
    for bridge, hooked in zip(found[1], found[0], strict=True):
        assert (bridge.method, bridge.metric, bridge.forwards) == (hooked.method, hooked.metric, hooked.forwards)
        if not hooked.metric.startswith("randomization"):  # blocks hold other parameters, so other ones are drawn
            assert bridge.value == pytest.approx(hooked.value, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("alphas", [(1.0,), (0.25, 0.75)])
def test_segments_whose_attention_fades(both: tuple[Any, Any], alphas: tuple[float, ...]) -> None:
    lines = ls.Prompt(None, tuple(IDS), ("a", "a\n", "a", "a\n", "a\n", "a", "a"), None, (False,) * len(IDS), "ids")
    faded = ls.FadedAttention(by="line", alphas=alphas)
    hooked, bridge = (ls.attribute(model, lines, faded, answer=[TARGET, 7, 2]) for model in both)
    assert hooked.scores.any() and len({round(float(score), 12) for score in hooked.scores}) >= 4
    torch.testing.assert_close(bridge.scores, hooked.scores, **CLOSE)
    context = ls.ContextCite(ablations=8, by="line")
    scores = [ls.attribute(model, lines, context, answer=[TARGET, 7]).scores for model in both]
    torch.testing.assert_close(scores[1], scores[0], **CLOSE)


def test_cells_of_an_answer_under_another_prompt(both: tuple[Any, Any]) -> None:
    other = [*IDS[:3], IDS[3] + 1, *IDS[4:]]
    hooked, bridge = (
        ls.patch_cells(
            model, ls.attribute(model, IDS, ls.LogProb(), answer=[TARGET, 7], layers=True, readout=ls.Dot(other)), 20
        )
        for model in both
    )
    torch.testing.assert_close(bridge.effect, hooked.effect, **CLOSE)
    actual = [{(cell.layer, cell.position): cell.actual for cell in found.cells} for found in (hooked, bridge)]
    assert actual[0] and actual[1] == pytest.approx(actual[0], rel=2e-5, abs=2e-5)
