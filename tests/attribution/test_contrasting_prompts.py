"""Another prompt as the baseline: attribution patching against literal Jacobians, real patches and laws."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import reference
import torch
from command_line import PROMPT, Run, as_json, tokenizer
from tiny_models import gpt2_like, linear_toy, llama_like
from torch import Tensor
from torch.testing import assert_close

import lens_scopes as ls
from lens_scopes.engine.model import ScopedModel
from lens_scopes.errors import ModelError, ObjectiveError, PromptError, ReadoutError, ResultError

IDS = [3, 17, 0, 8, 22, 3]
OTHER = [3, 9, 0, 14, 22, 7]
TOKEN = 5
CLOSE: Any = {"rtol": 1e-9, "atol": 1e-11}
SITES = ["hook_embed", "blocks.0.hook_resid_pre", "blocks.1.hook_resid_pre", "blocks.0.attn.hook_z"]
SITES += ["blocks.1.attn.hook_z", "blocks.1.attn.hook_v", "blocks.0.hook_mlp_out", "blocks.1.hook_mlp_out"]


@pytest.fixture(scope="module", params=[gpt2_like, llama_like], ids=lambda build: build.__name__)
def model(request: pytest.FixtureRequest) -> Any:
    return request.param()


def logit(model: Any, y: Tensor) -> Tensor:
    return reference.logits_from_final_state(model, y)[TOKEN]


def distance(model: Any, site: str, ids: Sequence[int] = IDS, other: Sequence[int] = OTHER) -> Tensor:
    """x − x′ at a site."""
    here, there = (reference.site_activation(model, list(tokens), site) for tokens in (ids, other))
    return here - there


# Literal references


@pytest.mark.parametrize("position", [-1, 3])
def test_scores_at_every_site_are_the_gradient_times_the_distance(model: Any, position: int) -> None:
    settings: Any = {"layers": True, "sites": SITES, "position": position}
    dot = ls.attribute(model, IDS, ls.Semantic(TOKEN), readout=ls.Dot(OTHER), **settings)
    product = ls.attribute(model, IDS, ls.Semantic(TOKEN), readout=ls.Product(OTHER), **settings)
    length, w = len(dot.tokens), model.W_U[:, TOKEN]
    for site in SITES:
        gradient = torch.einsum("o,to...->t...", w, reference.jacobian(model, IDS, position, site))
        products = (gradient * distance(model, site))[:length]
        assert_close(dot.sites[site], products.sum(-1), **CLOSE)
        assert_close(product.sites[site], products.norm(dim=-1), **CLOSE)
    assert torch.equal(dot.scores, dot.sites["hook_embed"])
    assert dot.layers is not None and torch.equal(dot.layers[1], dot.sites["blocks.1.hook_resid_pre"])
    cut = ls.attribute(model, IDS, ls.Semantic(TOKEN), readout=ls.Dot(OTHER[:length]), **settings)
    assert torch.equal(cut.scores, dot.scores)


def test_scores_are_the_slopes_of_real_patches(model: Any) -> None:
    """s_t = −d/dα f(x_t + α (x′_t − x_t)) at α = 0, by central differences, at every token of every site."""
    att = ls.attribute(model, IDS, ls.Semantic(TOKEN), sites=SITES, readout=ls.Dot(OTHER))
    step = 1e-5
    for site in SITES:
        x, change = reference.site_activation(model, IDS, site), -distance(model, site)
        for token, found in enumerate(att.sites[site].flatten(1).sum(1) if x.ndim == 3 else att.sites[site]):
            ends = []
            for sign in (1, -1):
                moved = x.clone()
                moved[token] += sign * step * change[token]
                ends.append(logit(model, reference.state_from_site(model, IDS, -1, site, moved)))
            assert_close(-found, (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-8)


def test_of_a_divergence_the_squares_are_along_each_direction(model: Any) -> None:
    att = ls.attribute(model, IDS, ls.Fisher(3), readout=ls.Dot(OTHER))
    values, columns = torch.linalg.eigh(reference.fisher_matrix(model, reference.state_of(model, IDS)))
    moved = torch.einsum("tod,td->to", reference.jacobian(model, IDS), distance(model, "hook_embed"))
    assert_close(att.scores, (moved @ columns[:, -3:]).square() @ values[-3:], rtol=1e-7, atol=1e-11)


# Answers, matrices and points


@pytest.mark.parametrize("eligible", ["prompt", "all"])
def test_an_answer_follows_both_prompts(model: Any, eligible: str) -> None:
    answer = [4, 11, 6]
    settings: Any = {"layers": True, "readout": ls.Dot(OTHER)}
    att = ls.attribute(model, IDS, ls.LogProb(), answer=answer, eligible=eligible, **settings)
    length = len(att.tokens)
    assert length == len(IDS) + (2 if eligible == "all" else 0)
    scores, layers = torch.zeros(length, dtype=torch.float64), torch.zeros(model.cfg.n_layers, length).double()
    for done, token in enumerate(answer):
        given, instead = (ids + answer[:done] for ids in (IDS, OTHER))
        one = ls.attribute(model, given, ls.LogProb(token), layers=True, readout=ls.Dot(instead))
        kept = min(length, len(given))
        scores[:kept] += one.scores[:kept]
        layers[:, :kept] += one.layers[:, :kept]  # pyright: ignore[reportOptionalSubscript]
    assert_close(att.scores, scores, **CLOSE)
    assert_close(att.layers, layers, **CLOSE)
    if eligible == "all":
        assert not att.scores[len(IDS) :].any() and att.layers is not None and att.layers[1:, len(IDS) :].all()


def test_two_answers_are_contrasted_from_the_same_baseline(model: Any) -> None:
    one, two = [4, 11, 6], [9]
    settings: Any = {"sites": "hook_z", "readout": ls.Dot(OTHER)}
    both = ls.attribute(model, IDS, ls.LogProbDiff(one, two), **settings)
    first, second = (ls.attribute(model, IDS, ls.LogProb(), answer=answer, **settings) for answer in (one, two))
    assert_close(both.scores, first.scores - second.scores, **CLOSE)
    for site, values in both.sites.items():
        assert_close(values, first.sites[site] - second.sites[site], **CLOSE)


@pytest.mark.parametrize("generate", [0, 2])
def test_rows_of_a_matrix_are_single_calls(model: Any, generate: int) -> None:
    matrix = ls.attribute_all(model, IDS, ls.Semantic(TOKEN), readout=ls.Dot(OTHER), generate=generate)
    added = matrix.token_ids[len(IDS) :]
    for row, dest in zip(matrix.matrix, matrix.destinations, strict=True):
        single = ls.attribute(
            model, IDS + added, ls.Semantic(TOKEN), position=dest, readout=ls.Dot(OTHER + added)
        ).scores
        assert_close(row[: dest + 1], single, **CLOSE)
    assert matrix.settings["readout"]["baseline_tokens"] == [f"#{token}" for token in OTHER + added]


def test_a_path_from_the_other_prompt_is_read_from_it_and_noise_keeps_it(model: Any) -> None:
    path = ls.StraightPath(OTHER, 3)
    by_name, given = (
        ls.attribute(model, IDS, ls.Semantic(TOKEN), layers=True, points=path, readout=readout)
        for readout in ("dot", ls.Dot(OTHER))
    )
    assert torch.equal(by_name.scores, given.scores) and torch.equal(by_name.layers, given.layers)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ReadoutError, match="read from its start"):
        ls.attribute(model, IDS, points=path, readout=ls.Dot(IDS))
    noise = ls.Noise(3, 0.2)
    noisy = ls.attribute(model, IDS, ls.Semantic(TOKEN), points=noise, readout=ls.Dot(OTHER))
    x = reference.site_activation(model, IDS, "hook_embed")
    gradient = torch.zeros_like(x)
    for point in noise.embeddings(x):
        point = point.clone().requires_grad_(True)
        gradient += torch.autograd.grad(logit(model, reference.final_state(model, point, IDS)), point)[0] / 3
    assert_close(noisy.scores, (gradient * distance(model, "hook_embed")).sum(-1), **CLOSE)


# Laws


def test_from_the_prompt_itself_every_score_is_zero(model: Any) -> None:
    for objective in (ls.Semantic(TOKEN), ls.Fisher(2)):
        att = ls.attribute(model, IDS, objective, layers=True, sites=SITES, readout=ls.Dot(IDS))
        assert not att.scores.any() and att.layers is not None and not att.layers.any()
        assert not any(values.any() for values in att.sites.values())
        assert any("every score is zero" in warning for warning in att.warnings)


def test_on_a_linear_model_scores_add_up_to_the_difference_of_the_outputs() -> None:
    model, _ = linear_toy()
    att = ls.attribute(model, IDS, ls.Semantic(TOKEN), layers=True, readout=ls.Dot(OTHER))
    change = logit(model, reference.state_of(model, IDS)) - logit(model, reference.state_of(model, OTHER))
    assert abs(float(change)) > 0.01
    assert_close(att.scores.sum(), change, **CLOSE)
    assert att.layers is not None
    assert_close(att.layers.sum(1), change.expand(len(att.layers)), **CLOSE)
    unchanged = [one == other for one, other in zip(IDS, OTHER, strict=True)]
    assert not att.scores[unchanged].any() and att.scores[[not same for same in unchanged]].all()


def test_a_batch_and_slices_of_layers_give_the_scores_of_single_calls(model: Any) -> None:
    settings: Any = {"layers": True, "sites": ["hook_z", "mlp_out"], "readout": ls.Dot(OTHER)}
    prompts = [IDS, [1, 2, 3, 4, 5, 6], OTHER]
    singles = [ls.attribute(model, ids, ls.Semantic(TOKEN), **settings) for ids in prompts]
    answers = [[4, 11], [9], [6, 2, 8]]
    answered = [
        ls.attribute(model, ids, ls.LogProb(), answer=answer, **settings)
        for ids, answer in zip(prompts, answers, strict=True)
    ]
    pairs = list(zip(ls.attribute_batch(model, prompts, ls.Semantic(TOKEN), **settings), singles, strict=True))
    pairs += zip(ls.attribute_batch(model, prompts, ls.LogProb(), answer=answers, **settings), answered, strict=True)
    diff = ls.LogProbDiff([4, 11], [9])
    contrasted = [ls.attribute(model, ids, diff, **settings) for ids in prompts[:2]]
    pairs += zip(ls.attribute_batch(model, prompts[:2], diff, **settings), contrasted, strict=True)
    from_zero = {**settings, "readout": "dot"}
    whole, plain = singles[0].memory, ls.attribute(model, IDS, ls.Semantic(TOKEN), **from_zero).memory
    assert whole is not None and plain is not None
    sites = ["hook_embed", *singles[0].layer_names, *singles[0].sites]
    held = sum(reference.site_activation(model, OTHER, site).nbytes for site in sites)
    assert whole.estimate == plain.estimate + held, "the other prompt's activations count too"
    sliced = ls.attribute(model, IDS, ls.Semantic(TOKEN), memory=whole.estimate - 1, **settings)
    assert sliced.memory is not None and sliced.memory.sliced
    for found, expected in [*pairs, (sliced, singles[0])]:
        assert_close(found.scores, expected.scores, **CLOSE)
        assert_close(found.layers, expected.layers, **CLOSE)
        for name, values in expected.sites.items():
            assert_close(found.sites[name], values, **CLOSE)


def test_it_takes_one_forward_pass_over_each_prompt(model: Any) -> None:
    runs: list[tuple[bool, list[int]]] = []
    handle = model.embed.register_forward_hook(
        lambda module, given, out: runs.append((torch.is_grad_enabled(), given[0][0].tolist()))
    )
    try:
        ls.attribute(model, IDS, ls.Semantic(TOKEN), layers=True, sites=["hook_z", "mlp_out"], readout=ls.Dot(OTHER))
    finally:
        handle.remove()
    assert runs == [(False, OTHER), (True, IDS)]
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_float32_agrees_with_float64(model: Any) -> None:
    rounded = {"LN": gpt2_like, "RMS": llama_like}[model.cfg.normalization_type](dtype=torch.float32)
    exact, found = (
        ls.attribute(one, IDS, ls.Semantic(TOKEN), layers=True, readout=ls.Dot(OTHER)) for one in (model, rounded)
    )
    assert found.scores.dtype == torch.float32
    assert_close(found.layers.double(), exact.layers, rtol=1e-3, atol=1e-5)  # pyright: ignore[reportOptionalMemberAccess]


# Texts, and prompts that do not stand beside each other


@pytest.fixture(scope="module")
def reader() -> Any:
    model = gpt2_like()
    model.tokenizer = tokenizer()
    return model


def test_the_other_prompt_is_text_ids_or_a_prompt(reader: Any) -> None:
    text = "The dog sleeps on the"
    other = ls.read_prompt(reader, "The sofa sleeps on the")
    forms = ["The sofa sleeps on the", list(other.token_ids), torch.tensor([other.token_ids]), other]
    found = [ls.attribute(reader, text, ls.Semantic(" sofa"), readout=ls.Dot(form)) for form in forms]
    assert found[0].scores.any() and all(torch.equal(one.scores, found[0].scores) for one in found)
    assert found[0].settings["readout"]["baseline_tokens"] == list(other.tokens)
    assert "under the prompt 'The sofa sleeps on the'" in found[0].contract["score attributed"]
    assert "under the prompt of the tokens #0, #2, #7" in found[1].contract["score attributed"]


def test_the_other_prompt_of_a_chat_is_a_chat(tmp_path: Any) -> None:
    model = gpt2_like()
    model.tokenizer = tokenizer()
    model.tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}.{% endfor %}"
    chat, other = ([{"role": "user", "content": text}] for text in ("The dog", "The sofa"))
    ids = ls.read_prompt(model, other).token_ids
    for settings in ({"readout": ls.Dot(other)}, {"points": ls.StraightPath(other, 2), "readout": "dot"}):
        found = ls.attribute(model, chat, layers=True, **settings)
        by_ids = {"readout": ls.Dot(ids)} if "points" not in settings else {"points": ls.StraightPath(ids, 2)}
        assert torch.equal(found.scores, ls.attribute(model, chat, **{**settings, **by_ids}).scores)
        found.save(tmp_path / "chat.safetensors")
        loaded = ls.Attribution.load(tmp_path / "chat.safetensors")
        spec = ls.Spec.from_options(**loaded.spec)
        assert spec == ls.Spec.parse(spec.line) and spec.other_prompt(ScopedModel.of(model)) is not None
        assert torch.equal(ls.attribute(model, chat, spec).scores, found.scores)
        assert ls.patch_cells(model, loaded, 2).baseline_tokens == ls.patch_cells(model, found, 2).baseline_tokens
    left_out = ls.attribute(model, chat, ls.LeaveOneOut(ablation=other))
    assert torch.equal(left_out.scores, ls.attribute(model, chat, ls.LeaveOneOut(ablation=ids)).scores)
    assert ls.Spec.from_options(**left_out.spec) == ls.Spec(ls.LeaveOneOut(ablation=other))
    heads = ls.inspect_heads(model, chat, baseline=other, verify=0)
    assert torch.equal(heads.effect, ls.inspect_heads(model, chat, baseline=ids, verify=0).effect)
    (batch, *_) = ls.attribute_batch(model, [chat, chat], against=other)
    assert_close(batch.scores, ls.attribute(model, chat, readout=ls.Dot(other)).scores, **CLOSE)


@pytest.mark.parametrize("content", ["The sofa", 'a "quote" + [x] {y} \\ @3 -held', "line\nbreak", ""])
def test_a_chat_as_text_is_read_back(content: str) -> None:
    chat = [{"role": "user", "content": content}, {"role": "assistant", "content": "#2"}]
    for spec in (
        ls.Spec(ls.Fisher(), readout=ls.Dot(chat)),
        ls.Spec(ls.Fisher(), readout=ls.Dot(), points=ls.StraightPath(chat, 4, hold_special=True)),
        ls.Spec(ls.LeaveOneOut(ablation=chat)),
    ):
        assert ls.Spec.parse(spec.line) == spec == ls.Spec.from_options(**spec.to_options())
        assert eval(f"ls.Spec.read({', '.join(spec.to_python())})", {"ls": ls}) == spec
    as_typed = json.dumps(chat, indent=1)  # as of a file: --against "$(cat other.json)"
    assert ls.Spec.from_options(scope="fisher", against=as_typed) == ls.Spec(ls.Fisher(), readout=ls.Dot(chat))
    assert ls.Spec.from_options(against="[a list]") == ls.Spec.read(readout=ls.Dot("[a list]"))


def test_what_is_no_chat_is_no_other_prompt(reader: Any) -> None:
    named = {"role": "user", "content": "The sofa", "name": "Ann"}
    for wrong in ([{"role": "user"}], [{"role": "user", "content": 3}], [named], [{}]):
        with pytest.raises(ReadoutError, match="or another prompt .text, chat messages, ids"):
            ls.Dot(wrong)
    with pytest.raises(ReadoutError, match="is no chat; a message of one is"):
        ls.Spec.parse('semantic+dot-["a"]')
    with pytest.raises(PromptError, match="no chat template"):
        ls.attribute(reader, PROMPT, readout=ls.Dot([{"role": "user", "content": "The sofa"}]))


def test_a_result_is_saved_with_the_other_prompt_and_asked_for_again(reader: Any, tmp_path: Any) -> None:
    text = "The dog sleeps on the"
    first = ls.attribute(reader, text, ls.Semantic(" sofa"), readout=ls.Dot("The sofa sleeps on the"))
    first.save(tmp_path / "a.safetensors")
    loaded = ls.Attribution.load(tmp_path / "a.safetensors")
    assert loaded.settings == first.settings and loaded.contract == first.contract
    again = ls.attribute(reader, text, ls.Spec.from_options(**loaded.spec))
    assert torch.equal(again.scores, first.scores)


@pytest.mark.parametrize("ask", ["readout", "points"])
@pytest.mark.parametrize(
    ("other", "words"),
    [
        ("The dog sleeps the", "has 5 tokens (BOS included) but the prompt 6; they part at position 4: "
         "' on' (1 token) | nothing; write as many tokens there."),
        ("The sofa. sleeps on the", "has 7 tokens (BOS included) but the prompt 6; they part at position 2: "
         "' dog' (1 token) | ' sofa', '.' (2 tokens); write as many tokens there."),
        ("The sofa sleeps on the sofa.", "they part at position 6: nothing | ' sofa', '.' (2 tokens);"),
    ],
)  # fmt: skip
def test_prompts_of_other_lengths_are_shown_side_by_side(reader: Any, ask: str, other: str, words: str) -> None:
    given: Any = {"readout": ls.Dot(other)} if ask == "readout" else {"points": ls.StraightPath(other, 2)}
    for call in (ls.attribute, ls.attribute_batch):
        prompt: Any = PROMPT if call is ls.attribute else [PROMPT, PROMPT]
        with pytest.raises(PromptError) as caught:
            call(reader, prompt, ls.Semantic(" sofa"), **given)
        assert words in str(caught.value) and "\n" not in str(caught.value)


def test_the_command_line_takes_it_as_a_readout(run: Callable[..., Run], loader: Any) -> None:
    got = as_json(run("attribute", PROMPT, "--layers", "--readout", 'dot-"The sofa sleeps on the"', "--json"))
    expected = ls.attribute(loader.model, PROMPT, layers=True, readout=ls.Dot("The sofa sleeps on the"))
    assert got["scores"] == pytest.approx(expected.scores.tolist())
    result = run("attribute", PROMPT, "--readout", 'dot-"The sofa sleeps"')
    assert result.status == 2 and "they part at position" in result.err


# Heads and MLPs, predicted and patched


def patched_logit(model: Any, layer: int, head: int | None, other: Sequence[int] = OTHER) -> Tensor:
    """The logit when one component's output is that of the other prompt at every position."""
    site = f"blocks.{layer}.hook_mlp_out" if head is None else f"blocks.{layer}.attn.hook_z"
    moved, there = (reference.site_activation(model, list(ids), site) for ids in (IDS, other))
    if head is None:
        moved = there
    else:
        moved[:, head] = there[:, head]
    return logit(model, reference.state_from_site(model, IDS, -1, site, moved))


def test_effects_of_heads_and_mlps_are_predicted_and_patched_for_real(model: Any) -> None:
    heads = ls.inspect_heads(model, IDS, ls.Semantic(TOKEN), baseline=OTHER, mlp_rules=None)
    att = ls.attribute(model, IDS, ls.Semantic(TOKEN), sites=["hook_z", "mlp_out"], readout=ls.Dot(OTHER))
    before = logit(model, reference.state_of(model, IDS))
    for layer in range(model.cfg.n_layers):
        assert_close(heads.effect[layer], -att.sites[f"blocks.{layer}.attn.hook_z"].sum(0), **CLOSE)
        assert_close(heads.mlp_effect[layer], -att.sites[f"blocks.{layer}.hook_mlp_out"].sum(), **CLOSE)
    assert len(heads.ablations) == model.cfg.n_layers * (model.cfg.n_heads + 1)
    for item in heads.ablations:
        expected = float(patched_logit(model, item.layer, item.head) - before)
        assert item.actual == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert heads.baseline == "prompt" and heads.baseline_tokens == [f"#{token}" for token in OTHER]
    assert "output under the prompt of the tokens #3, #9" in heads.contract["generative process"]
    cut = ls.inspect_heads(model, IDS, ls.Semantic(TOKEN), position=3, baseline=OTHER, verify=2)
    assert len(cut.baseline_tokens) == len(cut.tokens) == 4


def test_from_the_prompt_itself_no_head_has_an_effect(model: Any) -> None:
    heads = ls.inspect_heads(model, IDS, ls.Semantic(TOKEN), baseline=IDS)
    for effect in (heads.effect, heads.mlp_effect, heads.direct_effect):
        assert float(effect.abs().max()) < 1e-14  # attention in blocks, where no pattern is read, rounds otherwise
    assert all(item.actual == pytest.approx(0, abs=1e-12) for item in heads.ablations)


def test_where_the_model_is_linear_in_a_head_the_patch_does_what_was_predicted() -> None:
    model, _ = linear_toy()
    heads = ls.inspect_heads(model, IDS, ls.Semantic(TOKEN), baseline=OTHER)
    assert len(heads.ablations) == 6 and max(abs(item.actual) for item in heads.ablations) > 0.01
    for item in heads.ablations:
        assert item.actual == pytest.approx(item.predicted, rel=1e-9, abs=1e-12)


def test_heads_say_where_prompts_part_and_keep_the_other_one(reader: Any, tmp_path: Any) -> None:
    with pytest.raises(PromptError, match="part at position 2: ' dog'"):
        ls.inspect_heads(reader, PROMPT, baseline="The sofa. sleeps on the")
    heads = ls.inspect_heads(reader, PROMPT, baseline="The sofa sleeps on the", verify=3)
    heads.save(tmp_path / "heads.safetensors")
    assert ls.HeadInspection.load(tmp_path / "heads.safetensors").baseline_tokens == heads.baseline_tokens
    assert "under the prompt 'The sofa sleeps on the'" in heads.contract["generative process"]
    assert "output under the other prompt" in heads.to_html()


# Cells of the layers × tokens map


@pytest.mark.parametrize("layers", ["resid_pre", "resid_mid", "resid_post"])
def test_the_strongest_cells_are_patched_for_real(model: Any, layers: str) -> None:
    att = ls.attribute(model, IDS + [1], ls.LogProb(), position=5, layers=layers, readout=ls.Dot(OTHER + [2]))
    steps: list[tuple[int, int]] = []
    patches = ls.patch_cells(model, att, 5, progress=lambda *step: steps.append(step))
    assert att.layers is not None and att.target is not None and att.target.token_id == 1
    strongest = att.layers.abs().flatten().sort(descending=True).values[:5]
    assert [abs(cell.predicted) for cell in patches.cells] == pytest.approx(strongest.tolist())
    before = reference.logits_from_final_state(model, reference.state_of(model, IDS)).log_softmax(-1)[1]
    for cell in patches.cells:
        assert cell.predicted == pytest.approx(-float(att.layers[cell.layer, cell.position]))
        assert (cell.token, cell.other_token) == (f"#{IDS[cell.position]}", f"#{OTHER[cell.position]}")
        assert cell.site == f"blocks.{cell.layer}.hook_{layers}"
        moved = reference.site_activation(model, IDS, cell.site)
        moved[cell.position] = reference.site_activation(model, OTHER, cell.site)[cell.position]
        y = reference.state_from_site(model, IDS, -1, cell.site, moved)
        after = reference.logits_from_final_state(model, y).log_softmax(-1)[1]
        assert cell.actual == pytest.approx(float(after - before), rel=1e-8, abs=1e-11)
    rows = patches.to_pandas()
    assert steps[-1] == (5, 5) and len(rows) == patches.effect.numel() and rows.actual.notna().sum() == 5
    assert_close(patches.effect, -att.layers, **CLOSE)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_cells_of_a_linear_model_and_of_a_divergence_are_as_predicted() -> None:
    model, _ = linear_toy()
    att = ls.attribute(model, IDS, ls.Semantic(TOKEN), layers=True, readout=ls.Dot(OTHER))
    patches = ls.patch_cells(model, att, 12)
    assert len(patches.cells) == 8 and patches.spearman == pytest.approx(1)
    first = [cell for cell in patches.cells if cell.layer == 0]
    assert sorted(cell.position for cell in first) == [1, 3, 5], "elsewhere there is nothing to patch"
    for cell in patches.cells:
        assert cell.actual == pytest.approx(cell.predicted, rel=1e-9, abs=1e-12)
    fisher = ls.attribute(model, IDS, ls.Fisher("trace"), layers=True, readout=ls.Dot(OTHER))
    for cell in ls.patch_cells(model, fisher, 3).cells:
        assert cell.predicted > 0 and cell.actual == pytest.approx(cell.predicted, rel=0.5)
    assert ls.patch_cells(model, fisher, 0).cells == []


ANSWER, SECOND = [4, 11, 6], [9]


def patched_log_probability(model: Any, answer: Sequence[int], cell: Any) -> float:
    """log P(answer | prompt) with one cell of the prompt and answer set to its value under the other prompt."""
    whole, instead = ([*ids, *answer[:-1]] for ids in (IDS, OTHER))
    moved = reference.site_activation(model, whole, cell.site)
    moved[cell.position] = reference.site_activation(model, instead, cell.site)[cell.position]
    total = 0.0
    for index, token in enumerate(answer):
        y = reference.state_from_site(model, whole, len(IDS) - 1 + index, cell.site, moved)
        total += float(reference.logits_from_final_state(model, y).log_softmax(-1)[token])
    return total


def unpatched_log_probability(model: Any, answer: Sequence[int]) -> float:
    states = [reference.state_of(model, [*IDS, *answer[:done]]) for done in range(len(answer))]
    logs = [reference.logits_from_final_state(model, y).log_softmax(-1) for y in states]
    return sum(float(log[token]) for log, token in zip(logs, answer, strict=True))


@pytest.mark.parametrize("eligible", ["prompt", "all"])
def test_cells_of_an_answer_are_patched_for_all_of_its_predictions(model: Any, eligible: str) -> None:
    settings: Any = {"layers": "resid_post", "readout": ls.Dot(OTHER), "eligible": eligible}
    att = ls.attribute(model, IDS, ls.LogProb(), answer=ANSWER, **settings)
    patches = ls.patch_cells(model, att, 40)
    before = unpatched_log_probability(model, ANSWER)
    assert patches.answer == att.answer and patches.other_answer is None and patches.target is None
    assert len(patches.cells) >= 10 and any(cell.position >= len(IDS) for cell in patches.cells) == (eligible == "all")
    for cell in patches.cells:
        after = patched_log_probability(model, ANSWER, cell)
        assert cell.actual == pytest.approx(after - before, rel=1e-8, abs=1e-11)
    assert att.layers is not None
    assert_close(patches.effect, -att.layers, **CLOSE)
    own = ANSWER[:-1] if eligible == "all" else []
    assert patches.baseline_tokens == [f"#{token}" for token in [*OTHER, *own]]
    assert "follow either prompt; one cell at a time" in patches.contract["generative process"]
    features = patches.contract["eligible features"]
    assert f"the prompt's {len(IDS)} tokens" in features and ("first 2 of the answer" in features) == bool(own)


def test_cells_of_two_answers_differ_by_what_patches_do_to_each(model: Any) -> None:
    settings: Any = {"layers": True, "readout": ls.Dot(OTHER)}
    att = ls.attribute(model, IDS, ls.LogProbDiff(ANSWER, SECOND), **settings)
    patches = ls.patch_cells(model, att, 40)
    before = unpatched_log_probability(model, ANSWER) - unpatched_log_probability(model, SECOND)
    assert patches.answer is not None and patches.other_answer is not None and len(patches.cells) >= 6
    for cell in patches.cells:
        after = patched_log_probability(model, ANSWER, cell) - patched_log_probability(model, SECOND, cell)
        assert cell.actual == pytest.approx(after - before, rel=1e-8, abs=1e-11)


def test_cells_of_an_answers_divergence_move_all_its_distributions(model: Any) -> None:
    att = ls.attribute(model, IDS, ls.Fisher("trace"), answer=ANSWER, layers=True, readout=ls.Dot(OTHER))
    (cell, *_) = ls.patch_cells(model, att, 1).cells
    whole, instead = ([*ids, *ANSWER[:-1]] for ids in (IDS, OTHER))
    moved = reference.site_activation(model, whole, cell.site)
    moved[cell.position] = reference.site_activation(model, instead, cell.site)[cell.position]
    expected = 0.0
    for index in range(len(ANSWER)):
        at = len(IDS) - 1 + index
        ys = reference.state_of(model, whole[: at + 1]), reference.state_from_site(model, whole, at, cell.site, moved)
        before, after = (reference.logits_from_final_state(model, y).log_softmax(-1) for y in ys)
        expected += float((before.exp() * (before - after)).sum())
    assert cell.actual == pytest.approx(expected, rel=1e-8) and cell.predicted == pytest.approx(expected, rel=0.8)


def test_cells_of_an_answer_that_the_model_wrote_are_saved_and_come_back(model: Any, tmp_path: Any) -> None:
    att = ls.attribute(model, IDS, answer=3, layers=True, readout=ls.Dot(OTHER))
    patches = ls.patch_cells(model, att, 2)
    patches.save(tmp_path / "cells.safetensors")
    again = ls.CellPatches.load(tmp_path / "cells.safetensors")
    assert again.answer == patches.answer == att.answer and patches.answer is not None and patches.answer.generated
    assert "generated by the model" in again.contract["generative process"]


def test_cells_of_a_path_from_the_other_prompt_are_patched_from_it(model: Any) -> None:
    """At the embedding a path is complete: of prompts that differ in one token its cell is the patch itself."""
    other = [*IDS[:3], 14, *IDS[4:]]
    settings: Any = {"layers": True, "readout": "dot"}
    exact = ls.attribute(model, IDS, ls.Semantic(TOKEN), points=ls.StraightPath(other, 200), **settings)
    (first,) = [cell for cell in ls.patch_cells(model, exact, 12).cells if cell.layer == 0 and cell.predicted]
    assert (first.position, first.token, first.other_token) == (3, "#8", "#14")
    assert first.actual == pytest.approx(first.predicted, rel=1e-3, abs=1e-6)
    local = ls.attribute(model, IDS, ls.Semantic(TOKEN), readout=ls.Dot(other), layers=True)
    (plain,) = [cell for cell in ls.patch_cells(model, local, 12).cells if cell.layer == 0 and cell.predicted]
    assert plain.actual == pytest.approx(first.actual) and plain.predicted != pytest.approx(first.actual, rel=0.01)


def test_patches_are_saved_ranked_subtracted_and_refuse_what_is_no_record(reader: Any, tmp_path: Any) -> None:
    att = ls.attribute(reader, PROMPT, ls.Semantic(" sofa"), layers=True, readout=ls.Dot("The sofa sleeps on the"))
    patches = ls.patch_cells(reader, att, 3)
    patches.save(tmp_path / "cells.safetensors")
    for again in (ls.load(tmp_path / "cells.safetensors"), ls.CellPatches.from_dict(patches.to_dict())):
        assert isinstance(again, ls.CellPatches) and again.cells == patches.cells
        assert again.contract == patches.contract and again.spec == att.spec
        assert not (patches - again).parts["effect"].any()
    (first,) = patches.top(1)
    assert first.index == (patches.cells[0].layer, patches.cells[0].position)
    assert first.label == f"L{first.index[0]} {patches.cells[0].token!r}" and first.score == patches.cells[0].predicted
    rows = patches.to_pandas()
    assert len(rows) == patches.effect.numel() and sorted(rows.actual.dropna()) == sorted(
        c.actual for c in patches.cells
    )
    assert "under the prompt 'The sofa sleeps on the'" in patches.contract["generative process"]
    assert patches.contract["output explained"] == att.contract["output explained"]
    broken = patches.to_dict() | {"baseline_tokens": patches.baseline_tokens[1:]}
    with pytest.raises(ResultError, match="baseline_tokens has 5 entries for 6 tokens"):
        ls.CellPatches.from_dict(broken)


def test_cells_of_another_model_are_not_patched(reader: Any) -> None:
    att = ls.attribute(reader, PROMPT, layers=True, readout=ls.Dot("The sofa sleeps on the"))
    with pytest.raises(ModelError, match="a model whose d_model is 16"):
        ls.patch_cells(linear_toy()[0], att)


def test_patches_that_disagree_with_the_map_say_so() -> None:
    model, _ = linear_toy()
    att = ls.attribute(model, IDS, ls.Semantic(TOKEN), layers=True, readout=ls.Dot(OTHER))
    assert ls.patch_cells(model, att, 6).warnings == []
    att.layers.neg_()  # pyright: ignore[reportOptionalMemberAccess]
    (warning,) = ls.patch_cells(model, att, 6).warnings
    assert "Spearman -" in warning and "only over 6 cells: trust the patches" in warning


@pytest.mark.parametrize("asked", [{"layers": True}, {"readout": ls.Dot(OTHER)},
    {"layers": True, "readout": ls.Product(OTHER)},
    {"layers": True, "readout": "dot", "points": ls.StraightPath("mean", 2)},
    {"layers": True, "readout": "dot", "points": ls.StraightPath(3, 2)}])  # fmt: skip
def test_cells_without_another_prompt_are_refused(asked: dict[str, Any]) -> None:
    model = gpt2_like()
    with pytest.raises(ReadoutError, match=r"readout=ls\.Dot\(other_prompt\)"):
        ls.patch_cells(model, ls.attribute(model, IDS, **asked))
    nameless = ls.attribute(model, IDS, lambda y, logits: y, layers=True, readout=ls.Dot(OTHER))
    with pytest.raises(ObjectiveError, match="register_objective"):
        ls.patch_cells(model, nameless)
