"""Heads and MLPs that act on a whole answer: predicted effects against autograd, and real ablations against a loop."""

from collections.abc import Callable
from typing import Any

import pytest
import reference
import torch
from tiny_models import gemma_like, gpt2_like, llama_like
from torch import Tensor
from torch.testing import assert_close

import lens_scopes as ls

PROMPT = [1, 17, 0, 8]
ANSWER = [22, 3, 5]
OTHER = [4, 9, 12, 2, 7]
OTHER_PROMPT = [1, 6, 19, 8]


def log_probability(model: Any, answer: list[int], hooks: list[Any] = []) -> Tensor:  # noqa: B006
    """log P(answer | prompt), one token after the other, while hooks change the forward pass."""
    logits = model.run_with_hooks(torch.tensor([[*PROMPT, *answer[:-1]]]), fwd_hooks=hooks)[0].log_softmax(-1)
    return sum(logits[len(PROMPT) - 1 + index, token] for index, token in enumerate(answer))  # type: ignore[return-value]


def divergence(model: Any, answer: list[int], hooks: list[Any]) -> Tensor:
    tokens = torch.tensor([[*PROMPT, *answer[:-1]]])
    before, after = (model.run_with_hooks(tokens, fwd_hooks=some)[0].log_softmax(-1) for some in ([], hooks))
    return (before.exp() * (before - after))[len(PROMPT) - 1 :].sum()


def baseline_values(model: Any, answer: list[int], name: str, kind: str) -> Tensor:
    own = reference.site_activation(model, [*PROMPT, *answer[:-1]], name)
    if kind == "zero":
        return torch.zeros_like(own)
    if kind == "mean":
        return own[: len(PROMPT)].mean(0).expand_as(own)
    return reference.site_activation(model, [*OTHER_PROMPT, *answer[:-1]], name)


def ablation(model: Any, answer: list[int], component: tuple[int, int | None], kind: str) -> list[Any]:
    layer, head = component
    name = f"blocks.{layer}.hook_mlp_out" if head is None else f"blocks.{layer}.attn.hook_z"
    values = baseline_values(model, answer, name, kind)

    def hook(activation: Tensor, hook: Any) -> Tensor:
        changed = activation.clone()
        chosen = slice(None) if head is None else (slice(None), slice(None), head)
        changed[chosen] = values if head is None else values[:, head]
        return changed

    return [(name, hook)]


def literal_effects(model: Any, number: Callable[..., Tensor], answer: list[int], kind: str) -> tuple[Tensor, Tensor]:
    """Σ g · (b − z) of every head and MLP, by autograd at one hook at a time."""

    def effect(name: str) -> Tensor:
        own = reference.site_activation(model, [*PROMPT, *answer[:-1]], name).requires_grad_(True)
        output = number(model, answer, [(name, lambda value, hook: own[None])])
        (gradient,) = torch.autograd.grad(output, own)
        return gradient * (baseline_values(model, answer, name, kind) - own.detach())

    layers = range(model.cfg.n_layers)
    heads = torch.stack([effect(f"blocks.{layer}.attn.hook_z").sum((0, 2)) for layer in layers])
    mlps = [effect(f"blocks.{layer}.hook_mlp_out").sum() for layer in layers if not model.cfg.attn_only]
    return heads, torch.stack(mlps) if mlps else heads.new_zeros(0)


@pytest.mark.parametrize("kind", ["zero", "mean", "prompt"])
def test_effects_on_an_answer_are_predicted_in_one_pass_and_verified_over_all_of_it(tiny: Any, kind: str) -> None:
    baseline = OTHER_PROMPT if kind == "prompt" else kind
    found = ls.inspect_heads(tiny, PROMPT, ls.LogProb(), answer=ANSWER, baseline=baseline, verify=40, mlp_rules=None)
    heads, mlps = literal_effects(tiny, log_probability, ANSWER, kind)
    assert_close(found.effect, heads, rtol=1e-8, atol=1e-12)
    assert_close(found.mlp_effect, mlps, rtol=1e-8, atol=1e-12)
    clean = float(log_probability(tiny, ANSWER))
    assert len(found.ablations) == heads.numel() + len(mlps)
    for item in found.ablations:
        after = float(log_probability(tiny, ANSWER, ablation(tiny, ANSWER, (item.layer, item.head), kind)))
        assert item.actual == pytest.approx(after - clean, rel=1e-7, abs=1e-11)
    assert found.answer is not None and found.answer.token_ids == ANSWER and found.target is None
    assert found.answer.log_probability == pytest.approx(clean)
    assert found.token_ids == [*PROMPT, *ANSWER[:-1]] and found.position == len(PROMPT) - 1


@pytest.mark.parametrize("build", [gpt2_like, llama_like, gemma_like])
@pytest.mark.parametrize("kind", ["zero", "mean", "prompt"])
def test_two_answers_differ_by_the_difference_of_their_effects(build: Any, kind: str) -> None:
    model, baseline = build(), OTHER_PROMPT if kind == "prompt" else kind
    found = ls.inspect_heads(model, PROMPT, ls.LogProbDiff(ANSWER, OTHER), baseline=baseline, verify=5)
    one, other = (
        ls.inspect_heads(model, PROMPT, ls.LogProb(), answer=answer, baseline=baseline, verify=40)
        for answer in (ANSWER, OTHER)
    )
    for name in ("effect", "mlp_effect", "direct_effect"):
        assert_close(getattr(found, name), getattr(one, name) - getattr(other, name), rtol=1e-8, atol=1e-12)
    actual = [{(item.layer, item.head): item.actual for item in each.ablations} for each in (one, other)]
    for item in found.ablations:
        place = (item.layer, item.head)
        assert item.actual == pytest.approx(actual[0][place] - actual[1][place], rel=1e-7, abs=1e-11)
    assert found.token_ids == [*PROMPT, *ANSWER[:-1], *OTHER[:-1]]
    assert found.answer is not None and found.other_answer is not None
    assert (found.answer.token_ids, found.other_answer.token_ids) == (ANSWER, OTHER)


def test_sources_and_edges_add_up_over_the_prompt_and_both_answers() -> None:
    model = llama_like()
    for objective, answer in ((ls.LogProb(), ANSWER), (ls.LogProbDiff(ANSWER, OTHER), None)):
        found = ls.inspect_heads(model, PROMPT, objective, answer=answer, baseline="zero", patterns=12, verify=0)
        assert_close(found.by_source.sum(-1), found.effect)
        for name, edges in found.pattern_gradients.items():
            layer, head = int(name[1]), int(name[3])
            assert_close(edges.sum(0), found.by_source[layer, head])
    count, shared = len(found.tokens), len(PROMPT)
    first = shared + len(ANSWER) - 1
    for pattern in found.patterns.values():
        assert pattern.shape == (count, count)
        assert_close(pattern.sum(1), torch.ones(count))
        assert not pattern[first:, shared:first].any() and not pattern[:first, first:].any()
    whole = reference.site_activation(model, [*PROMPT, *OTHER[:-1]], "blocks.1.attn.hook_pattern")[2]
    rows = [*range(shared), *range(first, count)]
    assert_close(found.patterns["L1H2"][rows][:, rows], whole.float())


def test_a_divergence_of_an_answer_is_that_of_its_whole_continuation() -> None:
    model = gpt2_like()
    found = ls.inspect_heads(model, PROMPT, ls.Fisher("trace", samples=0), answer=ANSWER, baseline="mean", verify=40)
    for item in found.ablations:
        component = (item.layer, item.head)
        expected = divergence(model, ANSWER, ablation(model, ANSWER, component, "mean"))
        assert item.actual == pytest.approx(float(expected), rel=1e-7)
    single = [
        ls.inspect_heads(
            model, [*PROMPT, *ANSWER[:-1]], ls.Fisher("trace"), position=len(PROMPT) - 1 + n, baseline="zero", verify=0
        ).effect
        for n in range(len(ANSWER))
    ]
    whole = ls.inspect_heads(
        model, PROMPT, ls.Fisher("trace", samples=0), answer=ANSWER, baseline="zero", verify=0
    ).effect
    assert_close(whole, torch.stack(single).sum(0), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("length", [1, 2, 6])
def test_one_backward_pass_whatever_the_length(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    from lens_scopes.engine.backward import Trace

    passes: list[int] = []
    gradients = Trace.gradients

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        passes.append(1)
        return gradients(self, *args, **kwargs)

    monkeypatch.setattr(Trace, "gradients", counted)
    ls.inspect_heads(gpt2_like(), PROMPT, ls.LogProb(), answer=length, verify=0, mlp_rules=None)
    assert len(passes) == 1


def test_an_answer_of_one_token_is_the_target() -> None:
    model = gemma_like()
    for baseline in ("zero", "shuffle"):
        one = ls.inspect_heads(model, PROMPT, ls.LogProb(5), baseline=baseline)
        answered = ls.inspect_heads(model, PROMPT, ls.LogProb(), answer=[5], baseline=baseline)
        assert_close(answered.effect, one.effect)
        assert_close(answered.by_source, one.by_source)
        assert [item.actual for item in answered.ablations] == pytest.approx([item.actual for item in one.ablations])


def test_the_contract_names_the_answer_and_files_keep_it(tmp_path: Any) -> None:
    model = gpt2_like()
    found = ls.inspect_heads(model, PROMPT, ls.LogProb(), answer=2, verify=3)
    contract = found.contract
    assert contract["output explained"].startswith("log P(answer | prompt) of the answer")
    assert "of the prompt and the answer together" in contract["eligible features"]
    assert "generated by the model" in contract["generative process"]
    assert "one component at a time is set to its mean baseline" in contract["generative process"]
    assert contract["held fixed"].startswith("the answer's tokens")
    assert contract["score attributed"].endswith("summed over the answer's predictions")
    found.save(tmp_path / "heads.safetensors")
    loaded = ls.HeadInspection.load(tmp_path / "heads.safetensors")
    assert loaded.answer == found.answer and loaded.to_dict() == found.to_dict()
    again = ls.inspect_heads(model, PROMPT, ls.Spec.from_options(**loaded.spec), verify=3)
    assert torch.equal(again.effect, found.effect) and again.objective == found.objective


@pytest.mark.parametrize(
    ("objective", "more", "message"),
    [
        (ls.LogProb(), {"answer": []}, "is empty"),
        (ls.LogProb(), {"answer": ANSWER, "position": 1}, "position=1 does not apply"),
        (ls.LogProb(), {"answer": ANSWER, "target": 5}, "target=5 would be dropped"),
        (ls.Spec(ls.LogProb(), answer=3, eligible="all"), {}, "eligible='all' does not apply"),
        (ls.Semantic(5), {"answer": ANSWER}, "names its own token"),
    ],
)
def test_what_has_no_place_is_refused(objective: Any, more: dict[str, Any], message: str) -> None:
    with pytest.raises(ls.LensScopesError, match=message):
        ls.inspect_heads(gpt2_like(), PROMPT, objective, **more)
