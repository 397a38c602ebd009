"""Lenses: the last layer reads as the model predicts, every cell as the formula says; both backends; fitted lenses."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tiny_models import gemma_like, linear_toy, llama_like
from torch import Tensor
from transformer_lens.tools.analysis import JacobianLens

import lens_scopes as ls
from lens_scopes.engine.model import BridgeModel, ScopedModel
from lens_scopes.errors import FileError, ModelError, ObjectiveError, ReadoutError

IDS = [3, 7, 1, 7, 4, 9, 2]


def by_hand(model: Any, residual: Tensor) -> Tensor:
    """The logit lens by TransformerLens' own modules: norm, unembedding and soft-cap, cell by cell."""
    normed = residual if model.cfg.normalization_type is None else model.ln_final(residual[None, None])[0, 0]
    logits = normed @ model.W_U + model.b_U
    cap = getattr(model.cfg, "output_logits_soft_cap", None)
    return (cap * torch.tanh(logits / cap) if cap and cap > 0 else logits).softmax(-1)


def residuals(model: Any, ids: list[int], names: list[str]) -> list[Tensor]:
    kept: dict[str, Tensor] = {}
    hooks = [(name, lambda value, hook: kept.update({hook.name: value[0]})) for name in names]
    with torch.no_grad():
        model.run_with_hooks(torch.tensor([ids]), fwd_hooks=hooks)
    return [kept[name] for name in names]


@pytest.mark.parametrize("site", ["resid_pre", "resid_post"])
def test_every_cell_reads_as_the_formula_says(tiny: Any, site: str) -> None:
    att = ls.attribute(tiny, IDS, ls.Semantic(), layers=site, lens=ls.LogitLens(4))
    assert att.lens.lens == "logit" and att.lens.probabilities.shape == (tiny.cfg.n_layers, len(IDS), 4)
    for row, stream in enumerate(residuals(tiny, IDS, att.layer_names)):
        for index, residual in enumerate(stream):
            expected = by_hand(tiny, residual).topk(4)
            assert att.lens.token_ids[row][index] == expected.indices.tolist()
            torch.testing.assert_close(att.lens.probabilities[row, index], expected.values, rtol=1e-9, atol=1e-12)


def test_the_last_layer_reads_as_the_model_predicts(tiny: Any) -> None:
    att = ls.attribute(tiny, IDS, ls.Fisher(), layers="resid_post", lens=True)
    read, predicted = att.lens.at(-1, -1), att.prediction.top[:5]
    assert [item.token_id for item in read] == [item.token_id for item in predicted]
    assert [item.token for item in read] == [item.token for item in predicted]
    assert [item.probability for item in read] == pytest.approx([item.probability for item in predicted], rel=1e-12)


def test_in_closed_form_on_a_linear_model() -> None:
    """No norm: a cell of the embedding reads as the softmax of its product with W_U."""
    model, _ = linear_toy()
    att = ls.attribute(model, IDS, ls.Semantic(), layers=True, lens="logit@3")
    expected = (model.W_E[IDS] @ model.W_U + model.b_U + model.W_pos[: len(IDS)] @ model.W_U).softmax(-1).topk(3)
    torch.testing.assert_close(att.lens.probabilities[0], expected.values)
    assert att.lens.token_ids[0] == expected.indices.tolist()


def test_it_takes_one_forward_pass_more_and_leaves_scores_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model, passes = llama_like(), []
    run = ScopedModel.final_states
    monkeypatch.setattr(ScopedModel, "final_states", lambda self, batch: (passes.append(1), run(self, batch))[1])
    plain = ls.attribute(model, IDS, ls.Fisher(), layers=True)
    assert plain.lens is None
    before = len(passes)
    read = ls.attribute(model, IDS, ls.Fisher(), layers=True, lens=True)
    assert len(passes) - before == before + 1 or len(passes) - before == 1
    assert torch.equal(read.layers, plain.layers) and torch.equal(read.scores, plain.scores)
    assert read.settings["lens"] == "logit" and "lens" not in plain.settings
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_batches_points_answers_and_lenses_go_together() -> None:
    model = gemma_like()
    prompts = [IDS, IDS[:4], IDS[2:]]
    for att, ids in zip(ls.attribute_batch(model, prompts, ls.Semantic(), lens=True), prompts, strict=True):
        single = ls.attribute(model, ids, ls.Semantic(), lens=True)
        assert att.lens.token_ids == single.lens.token_ids
        torch.testing.assert_close(att.lens.probabilities, single.lens.probabilities)
    plain = ls.attribute(model, IDS, ls.LogProb(), lens=True)
    for more in ({"points": "path@4"}, {"answer": [1, 2, 3]}, {"through": "0"}):
        again = ls.attribute(model, IDS, ls.LogProb(), lens=True, **more)
        assert again.lens.token_ids == plain.lens.token_ids and len(again.lens.tokens[0]) == len(IDS)
    own = ls.attribute(model, IDS, ls.LogProb(), answer=[1, 2, 3], eligible="all", lens=True)
    assert len(own.lens.tokens[0]) == len(own) == len(IDS) + 2


def test_of_many_cells_those_with_the_largest_scores_are_read() -> None:
    model = llama_like()
    whole = ls.attribute(model, IDS, ls.Semantic(), lens=True)
    some = ls.attribute(model, IDS, ls.Semantic(), lens=ls.LogitLens(cells=5))
    read = {(row, index) for row, line in enumerate(some.lens.tokens) for index, cell in enumerate(line) if cell}
    largest = whole.layers.flatten().topk(5).indices.tolist()
    assert read == {(place // len(IDS), place % len(IDS)) for place in largest}
    for row, index in read:
        assert some.lens.token_ids[row][index] == whole.lens.token_ids[row][index]
        torch.testing.assert_close(some.lens.probabilities[row, index], whole.lens.probabilities[row, index])
    (row, index) = next((r, i) for r in range(3) for i in range(len(IDS)) if (r, i) not in read)
    assert some.lens.at(row, index) == [] and bool(some.lens.probabilities[row, index].isnan().all())


def test_cells_as_a_table_and_a_file(tmp_path: Path) -> None:
    att = ls.attribute(llama_like(), IDS, ls.Semantic(), lens=True)
    table = att.cells()
    assert len(table) == att.layers.numel() and table["score"].abs().is_monotonic_decreasing
    first = table.iloc[0]
    best = att.lens.at(att.layer_names.index(first["layer"]), int(first["index"]))[0]
    assert (first["reads_as"], first["probability"]) == (best.token, best.probability)
    att.save(tmp_path / "a")
    again = ls.Attribution.load(tmp_path / "a")
    assert again.lens.tokens == att.lens.tokens and torch.equal(again.lens.probabilities, att.lens.probabilities)
    assert ls.Spec.from_options(**att.spec).lens == ls.LogitLens()
    assert "reads_as" not in ls.attribute(llama_like(), IDS, ls.Semantic(), layers=True).cells(2)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A tiny Gemma 3 on both backends."""
    folder: Path = tmp_path_factory.mktemp("gemma3") / "weights"
    config = transformers.Gemma3TextConfig(
        vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8, max_position_embeddings=64, sliding_window=8, query_pre_attn_scalar=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = parameter.data + 0.3 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    hooked, bridge = (ls.load_model(folder, backend=backend, dtype="float32") for backend in ("hooked", "bridge"))
    return hooked, bridge


def test_both_backends_read_alike(pair: tuple[Any, Any]) -> None:
    for layers in (True, "resid_post"):
        hooked, bridge = (ls.attribute(model, IDS, ls.Semantic(3), layers=layers, lens=True) for model in pair)
        torch.testing.assert_close(bridge.lens.probabilities, hooked.lens.probabilities, rtol=2e-4, atol=2e-5)
        assert bridge.lens.token_ids[-1][-1] == hooked.lens.token_ids[-1][-1]


def test_a_fitted_lens_reads_as_transformer_lens_reads_with_it(pair: tuple[Any, Any], tmp_path: Path) -> None:
    hooked, bridge = pair
    generator = torch.Generator().manual_seed(1)
    matrices = {layer: torch.randn(16, 16, generator=generator) for layer in (0, 1)}
    fitted = JacobianLens(matrices, n_prompts=3, d_model=16)
    expected = fitted.readout(bridge, torch.tensor([IDS]), top_k=5, return_full_logits=True)
    fitted.save(str(tmp_path / "lens.pt"), dtype=torch.float32)
    for model in (hooked, bridge):
        for lens in (fitted, str(tmp_path / "lens.pt"), tmp_path / "lens.pt"):
            att = ls.attribute(model, IDS, ls.Semantic(3), layers="resid_post", lens=lens)
            assert att.lens.lens == "jacobian" and "J_l" in att.lens.equation
            for layer in range(3):
                wanted = expected.lens_logits[layer].softmax(-1).topk(5)
                torch.testing.assert_close(att.lens.probabilities[layer], wanted.values, rtol=1e-3, atol=1e-5)
    before = ls.attribute(hooked, IDS, ls.Semantic(3), layers=True, lens=fitted)
    after = ls.attribute(hooked, IDS, ls.Semantic(3), layers="resid_post", lens=fitted)
    assert all(not cell for cell in before.lens.tokens[0])
    assert before.lens.token_ids[1:] == after.lens.token_ids[:2]


def test_what_cannot_be_read_is_refused_in_one_sentence(tmp_path: Path) -> None:
    model = llama_like()
    (tmp_path / "no.pt").write_text("nothing")
    cases: list[tuple[Any, type[Exception], str]] = [
        ({"lens": "tuned"}, ReadoutError, "unknown lens 'tuned'"),
        ({"lens": 3}, ReadoutError, "give True"),
        ({"lens": ls.LogitLens}, ReadoutError, "unknown lens"),
        ({"lens": "logit@" + "9" * 5000}, ReadoutError, "unknown lens"),
        ({"lens": str(tmp_path / "none.pt")}, FileError, "no fitted JacobianLens"),
        ({"lens": str(tmp_path / "no.pt")}, FileError, "no fitted JacobianLens"),
        ({"lens": JacobianLens({0: torch.eye(4)}, n_prompts=1, d_model=4)}, ReadoutError, "d_model=4"),
        (
            {"lens": JacobianLens({0: torch.eye(16)}, n_prompts=1, d_model=16), "layers": "resid_mid"},
            ReadoutError,
            "inside one",
        ),
        ({"lens": JacobianLens({2: torch.eye(16)}, n_prompts=1, d_model=16)}, ReadoutError, "lens of this model"),
    ]
    for arguments, error, words in cases:
        with pytest.raises(error, match=words) as caught:
            ls.attribute(model, IDS, ls.Semantic(), **arguments)
        assert "\n" not in str(caught.value)
    with pytest.raises(ReadoutError, match="from 1 to 100"):
        ls.LogitLens(0)
    with pytest.raises(ObjectiveError, match="lens"):
        ls.attribute(model, IDS, ls.RandomScores(), lens=True)
    with pytest.raises(ObjectiveError, match="does not apply"):
        ls.attribute_all(model, IDS, ls.Spec(ls.Semantic(), lens=ls.LogitLens()))


def test_a_model_that_does_more_than_a_norm_before_its_unembedding_is_refused(
    pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BridgeModel, "apply_final_norm", lambda self, residual: residual)
    with pytest.raises(ModelError, match="final norm of the last layer differs"):
        ls.attribute(pair[1], IDS, ls.Semantic(3), lens=True)


def test_spec_reads_and_writes_lenses() -> None:
    for text, lens in (("logit", ls.LogitLens()), ("logit@7", ls.LogitLens(7)), ("logit@5@9", ls.LogitLens(5, 9))):
        spec = ls.Spec.parse(f"fisher+lens={text}")
        assert spec.lens == lens and spec.layers == "resid_pre"
        assert ls.Spec.parse(spec.line) == spec and ls.Spec.from_options(**spec.to_options()) == spec
        assert f"lens='{text}'" in spec.to_python() and spec.to_cli()[-1] == text
    assert ls.Spec.read("fisher", lens="my/lens.pt").lens == ls.FittedLens(lens="my/lens.pt")
    assert ls.Spec.parse("fisher+lens=logit").without_sites().lens is None


def test_gemma_reads_as_its_answer_where_the_influence_arrives(gemma: Any) -> None:
    prompt = "German: Der Hund schläft auf dem Sofa. English: The dog sleeps on the"
    att = ls.attribute(gemma, prompt, ls.Semantic(" sofa"), layers="resid_post", lens=True)
    for read, predicted in zip(att.lens.at(-1, -1), att.prediction.top, strict=False):
        assert read.token == predicted.token and read.probability == pytest.approx(predicted.probability, rel=1e-4)
    readings = [att.lens.at(layer, -1)[0] for layer in range(18)]
    assert [item.token == " sofa" for item in readings] == [layer >= 11 for layer in range(18)]
    leaders = [int(row[1:].argmax()) + 1 for row in att.layers]
    assert [att.tokens[index] for index in leaders] == [" Sofa"] * 11 + [" the"] * 7
