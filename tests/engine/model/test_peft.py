"""Adapters of the PEFT library on a bridge: scores are those of the adapted model, and results name the adapters."""

import copy
from pathlib import Path
from typing import Any

import architectures
import pytest
import reference
import torch

import lens_scopes as ls
from lens_scopes.engine.backward import trace_in_slices
from lens_scopes.engine.model import ScopedModel
from lens_scopes.engine.prefix_cache import PromptPrefix
from lens_scopes.errors import ModelError
from lens_scopes.models.backends import build_bridge
from lens_scopes.models.quiet import quiet_libraries

peft = pytest.importorskip("peft")
IDS, TARGET = architectures.IDS, architectures.TARGET
LINEAR = ["q_proj", "v_proj", "o_proj", "down_proj"]
JOINT = {"GPT-2": "c_attn", "GPT-NeoX, Pythia": "query_key_value", "Phi-3": "qkv_proj"}


def adapted(name: str, modules: list[str], **choice: Any) -> Any:
    """The Transformers model of an architecture of the table with random adapters around some of its linear layers."""
    with quiet_libraries(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=modules, init_lora_weights=False, **choice)
        return peft.get_peft_model(architectures.random_pretrained(name), config).double().eval().requires_grad_(False)


def wrapped(pretrained: Any) -> Any:
    with quiet_libraries():
        return build_bridge(pretrained, type(pretrained).__name__, None, "custom").eval().requires_grad_(False)


@pytest.mark.parametrize("name", ["LLaMA", "Qwen2", "Gemma 2", "Gemma 3", "Mixtral"])
@pytest.mark.parametrize("choice", [{}, {"use_dora": True}], ids=["LoRA", "DoRA"])
def test_scores_are_those_of_the_adapted_model(name: str, choice: dict[str, Any]) -> None:
    modules = LINEAR[:3] if name == "Mixtral" else LINEAR  # whose experts are no linear layers
    model = adapted(name, modules, **choice)
    expected = {
        scope: reference.transformers_scopes(model.get_base_model(), IDS, scope, TARGET)[0]
        for scope in ("semantic", "fisher")
    }
    with quiet_libraries():
        without = reference.transformers_scopes(copy.deepcopy(model).unload(), IDS, "semantic", TARGET)[0]
    bridge = wrapped(model.get_base_model())
    for scope, scores in expected.items():
        att = ls.attribute(bridge, IDS, architectures.SCOPES[scope], layers=True)
        torch.testing.assert_close(att.scores, scores, rtol=2e-4, atol=1e-5 * float(scores.max()))
    assert not torch.allclose(expected["semantic"], without, rtol=1e-2)
    named = "adapters blocks.0.self_attn.q_proj (Linear)"
    assert any(named in altered for altered in att.model["altered"])
    assert named in att.warnings[-1] and named in att.contract["held fixed"]


def test_slices_prefixes_and_heads_go_on_with_adapters() -> None:
    bridge = wrapped(adapted("LLaMA", LINEAR).get_base_model())
    model = ScopedModel.of(bridge)
    with model.exclusive():
        assert model.can_slice and model.unfused_layers() == {}
        states = model.run_to_final_states([IDS])
        sliced = trace_in_slices(model, [IDS], [], layers_at_once=1)
        torch.testing.assert_close(sliced.final_states, states, rtol=1e-12, atol=1e-12)
        prefixed = PromptPrefix.start(model, IDS)
        assert prefixed is not None
        torch.testing.assert_close(prefixed.final_states(3, 1, [])[0], states, rtol=1e-6, atol=1e-6)
    heads = ls.inspect_heads(bridge, IDS, ls.Semantic(TARGET), baseline="zero", verify=2)
    torch.testing.assert_close(heads.by_source.sum(-1), heads.effect, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("name", "module"), JOINT.items())
def test_an_adapter_that_a_bridge_computes_without_is_refused(name: str, module: str) -> None:
    """It splits the joint projection's own weights, and would explain the model without that adapter."""
    bridge = wrapped(adapted(name, [module]).get_base_model())
    for _ in range(2):
        with pytest.raises(ModelError, match=r"qkv and computes without the adapter on it; merge adapters"):
            ls.attribute(bridge, IDS, ls.Semantic(TARGET))


@pytest.mark.parametrize("name", ["GPT-2", "LLaMA"])
def test_merged_adapters_are_weights(name: str) -> None:
    modules = [JOINT[name]] if name in JOINT else LINEAR
    with quiet_libraries():
        model = adapted(name, modules).merge_and_unload()
    expected = reference.transformers_scopes(model, IDS, "semantic", TARGET)[0]
    att = ls.attribute(wrapped(model), IDS, ls.Semantic(TARGET))
    torch.testing.assert_close(att.scores, expected, rtol=2e-4, atol=1e-5 * float(expected.max()))
    assert att.model["altered"] is None


def test_adapters_that_lie_beside_the_weights_are_read_with_them(tmp_path: Path) -> None:
    """As Transformers reads them; a HookedTransformer would be the model without them, and is refused."""
    model = adapted("LLaMA", LINEAR)
    with quiet_libraries():
        model.save_pretrained(tmp_path)
        copy.deepcopy(model).unload().save_pretrained(tmp_path)
        bridge = ls.load_model(tmp_path, backend="bridge", dtype="float64")
    expected = reference.transformers_scopes(model.get_base_model(), IDS, "semantic", TARGET)[0]
    att = ls.attribute(bridge, IDS, ls.Semantic(TARGET))
    torch.testing.assert_close(att.scores, expected, rtol=2e-4, atol=1e-5 * float(expected.max()))
    assert "blocks.0.self_attn.q_proj (Linear)" in att.model["altered"][0]
    if "hooked" in architectures.BACKENDS:
        with pytest.raises(ModelError, match='does not compute .* as Transformers does.*backend="bridge"'):
            ls.load_model(tmp_path, backend="hooked", dtype="float64")
