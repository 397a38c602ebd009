"""What acts on a model beside its weights is recorded and named: hooks of the caller's, adapters, changed weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from bridges import bridge_of
from command_line import PROMPT, tokenizer
from entry_points import ENTRY_POINTS
from tiny_models import gpt2_like

import lens_scopes as ls
from lens_scopes.engine.model import ScopedModel
from lens_scopes.engine.model.alterations import remember
from lens_scopes.errors import EvaluationError, ModelError, NumericsError

IDS = [3, 7, 1, 7, 4]
SITE = "blocks.1.hook_resid_pre"


@pytest.fixture
def model() -> Any:
    """As `load_model` leaves one."""
    model = gpt2_like(dtype=torch.float32)
    model.tokenizer = tokenizer()
    remember(ScopedModel.of(model))
    return model


def altered(model: Any) -> list[str] | None:
    return ls.model_record(model).altered


@pytest.mark.parametrize(
    "ask",
    [
        lambda model: ls.attribute(model, IDS, ls.Fisher(rank=2)),
        lambda model: ls.attribute(model, IDS, ls.LeaveOneOut()),
        lambda model: ls.attribute_batch(model, [IDS, IDS[:3]])[1],
        lambda model: ls.attribute_all(model, IDS),
        lambda model: ls.inspect_heads(model, IDS, ls.Semantic(5)),
        lambda model: ls.inspect_modes(model, IDS, 2),
        lambda model: ls.information_flow(model, IDS, {"a": (1, 2)}, rank=2),
        lambda model: ls.patch_cells(model, ls.attribute(model, IDS, layers=True, readout=ls.Dot([3, 7, 2, 7, 4]))),
    ],
)
def test_a_result_under_a_hook_says_so(ask: Callable[[Any], Any], model: Any) -> None:
    plain = ask(model)
    with model.hooks(fwd_hooks=[(SITE, lambda x, hook: x * 0.5)]):
        under = ask(model)
    acts = f"the caller's hooks at {SITE}"
    assert under.model["altered"] == [acts] and plain.model["altered"] is None
    assert [warning for warning in under.warnings if acts in warning] == [
        f"the numbers are those of the model with {acts}."
    ]
    assert not any("hooks" in warning for warning in plain.warnings)
    if getattr(plain, "contract", None):
        assert under.contract["held fixed"] == f"{plain.contract['held fixed']}; {acts}"
    assert type(under).from_dict(under.to_dict()).model == under.model
    # It is an intervention, and gone with its hook.
    again = ask(model)
    assert again.model == plain.model and again.warnings == plain.warnings


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_hooks_of_our_own_are_not_the_callers(name: str, model: Any) -> None:
    ENTRY_POINTS[name](model)
    with ScopedModel.of(model).hooked([(SITE, lambda activation: None)]):
        assert altered(model) is None
    assert altered(model) is None


def test_hooks_that_come_with_a_bridge_are_not_the_callers() -> None:
    """Of transformer-lens 4, whose OPT names its MLP's activations by hooks that stay."""
    assert altered(bridge_of("OPT")) is None


@pytest.mark.parametrize(
    "register", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"]
)
def test_hooks_of_pytorch_are_seen_on_any_module(register: str, model: Any) -> None:
    handle = getattr(model.blocks[0].mlp, register)(lambda *_: None)
    assert altered(model) == ["the caller's hooks at blocks.0.mlp"]
    handle.remove()
    assert altered(model) is None


def test_many_hooks_are_counted(model: Any) -> None:
    model.add_hook(lambda name: name.endswith(("hook_z", "hook_q")), lambda x, hook: None)
    model.add_hook(SITE, lambda x, hook: None, dir="bwd")
    (said,) = altered(model) or []
    assert said.endswith(" and 1 more") and "blocks.0.attn.hook_q" in said


def test_adapters_are_seen(model: Any) -> None:
    class LoraLayer(torch.nn.Module):
        def __init__(self, inside: torch.nn.Module) -> None:
            super().__init__()
            self.inside, self.lora_A = inside, torch.nn.Linear(16, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inside(x)

    model.blocks[1].mlp = LoraLayer(model.blocks[1].mlp)
    said = "; ".join(altered(model) or [])
    assert "adapters blocks.1.mlp (LoraLayer)" in said
    att = ls.attribute(model, IDS)
    assert "LoraLayer" in att.warnings[-1] and "LoraLayer" in att.contract["held fixed"]


def _in_place(weight: torch.Tensor) -> None:
    weight[0, 0, 0] += 1.0


def _uncounted(weight: torch.Tensor) -> None:
    weight.data.mul_(1.01)


@pytest.mark.parametrize("change", [_in_place, _uncounted])
def test_changed_weights_are_seen(change: Callable[[torch.Tensor], None], model: Any) -> None:
    change(model.blocks[0].attn.W_O)
    said = "weights changed since they were loaded: blocks.0.attn.W_O"
    assert altered(model) == [said]
    att = ls.attribute(model, IDS)
    assert att.warnings[-1] == f"the numbers are those of the model with {said}."


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8, torch.bool])
def test_weights_of_any_dtype_are_compared(dtype: torch.dtype, model: Any) -> None:
    """`take` and `equal` do not know every dtype, and NaN differs from itself."""
    held = torch.nn.Parameter(torch.ones(3, 5).to(dtype), requires_grad=False)
    model.blocks[0].register_parameter("scales", held)
    with torch.no_grad():
        model.W_E[:, 0] = torch.nan
    remember(ScopedModel.of(model))
    assert altered(model) is None
    held.data.copy_(torch.zeros(3, 5).to(dtype))
    assert altered(model) == ["weights changed since they were loaded: blocks.0.scales"]


def test_a_weight_that_is_gone_or_of_another_shape_is_named(model: Any) -> None:
    model.unembed.W_U = torch.nn.Parameter(torch.zeros(16, 3), requires_grad=False)
    del model.blocks[1].ln1
    (said,) = altered(model) or []
    assert "unembed.W_U" in said and "blocks.1.ln1" in said


def test_a_cast_is_no_change_and_a_model_from_elsewhere_has_none(model: Any) -> None:
    model.double()
    assert altered(model) is None
    other = gpt2_like()
    other.W_U.data.mul_(2)
    assert altered(other) is None


def test_an_evaluation_under_a_hook_is_another_one(model: Any, tmp_path: Any) -> None:
    def evaluate() -> None:
        ls.evaluate(model, [IDS], methods=["fisher"], metrics=["first-token"], out=tmp_path / "run")

    evaluate()
    with (
        model.hooks(fwd_hooks=[(SITE, lambda x, hook: x * 0.5)]),
        pytest.raises(EvaluationError, match="model · altered"),
    ):
        evaluate()


def test_a_hook_that_detaches_or_breaks_is_named(model: Any) -> None:
    with model.hooks(fwd_hooks=[(SITE, lambda x, hook: x.detach())]):
        try:
            said = ls.attribute(model, IDS, ls.Semantic(5)).warnings[-1]
        except ModelError as error:
            said = str(error)
    assert f"Likely cause: the caller's hooks at {SITE}" in said or f"the caller's hooks at {SITE}" in said
    assert "detaches or zeroes" in said
    with model.hooks(fwd_hooks=[(SITE, lambda x, hook: x * 0.0)]):
        zeroed = ls.attribute(model, IDS, ls.Semantic(5))
        assert not bool(zeroed.scores.any()) and "detaches or zeroes" in zeroed.warnings[-1]
    nan = model.hooks(fwd_hooks=[(SITE, lambda x, hook: x / 0.0)])
    with nan, pytest.raises(NumericsError, match="Likely cause: the caller's hooks at blocks.1"):
        ls.attribute(model, IDS, ls.Semantic(5))


def test_what_is_no_hooked_model_is_told_how_to_become_one() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    bare = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=9, n_positions=8))
    with pytest.raises(ModelError, match=r"from_pretrained_no_processing\('gpt2', hf_model=model"):
        ls.attribute(bare, IDS)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"ls.load_model\('gemma-3-270m'\)"):
        ls.attribute("gemma-3-270m", PROMPT)  # type: ignore[arg-type]


def test_every_prompt_of_a_batch_has_a_target_or_an_objective_of_its_own(model: Any) -> None:
    prompts, done = [IDS, IDS[:3], IDS[:4], IDS[:2]], []
    targets = [5, 6, 5, None]
    batch = ls.attribute_batch(model, prompts, target=targets, progress=lambda *counts: done.append(counts))
    for att, prompt, target in zip(batch, prompts, targets, strict=True):
        alone = ls.attribute(model, prompt, target=target)
        torch.testing.assert_close(att.scores, alone.scores)
        assert att.target == alone.target and att.objective == alone.objective
    assert done[-1] == (4, 4) and [count for count, _ in done] == sorted(count for count, _ in done)
    objectives = [ls.Fisher(), ls.LogProb(5), ls.Fisher(), ls.Temperature()]
    for att, prompt, objective in zip(ls.attribute_batch(model, prompts, objectives), prompts, objectives, strict=True):
        torch.testing.assert_close(att.scores, ls.attribute(model, prompt, objective).scores)
    with pytest.raises(ls.LensScopesError, match="3 targets for 4 prompts"):
        ls.attribute_batch(model, prompts, target=[1, 2, 3])
    with pytest.raises(ls.LensScopesError, match="1 objectives for 4 prompts"):
        ls.attribute_batch(model, prompts, [ls.Fisher()])
