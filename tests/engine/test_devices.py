"""Devices and number formats: scores on a GPU are those on the processor, models spread over devices and quantized
ones give theirs or are refused in a sentence."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from architectures import random_pretrained
from tiny_models import TINY_MODELS, random_transformer
from torch.testing import assert_close

import lens_scopes as ls
from lens_scopes.engine import memory
from lens_scopes.engine.memory import plan as planning
from lens_scopes.engine.model import ScopedModel
from lens_scopes.errors import ModelError, NumericsError
from lens_scopes.models import backends
from lens_scopes.models.quiet import quiet_libraries
from lens_scopes.views.words.pages.parts.memory import memory_words

IDS = [1, 5, 3, 7, 2, 9, 4]
DEVICE = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else None
on_a_device = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE is None, reason="no CUDA or MPS device is available here"),
]


def gpu(*more: Any) -> Any:
    """Marks a test that needs a GPU; it is skipped, with the reason, where there is none."""

    def mark(test: Any) -> Any:
        for one in (*more, *on_a_device):
            test = one(test)
        return test

    return mark


@pytest.fixture
def llama_folder(tmp_path: Path) -> Path:
    with quiet_libraries():
        random_pretrained("LLaMA").float().save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


# On a GPU


@gpu()
@pytest.mark.parametrize("name", TINY_MODELS)
def test_a_device_gives_the_scores_of_the_processor(name: str) -> None:
    here = TINY_MODELS[name](dtype=torch.float32)
    there = copy.deepcopy(here).to(DEVICE)
    close: Any = {"rtol": 2e-3, "atol": 1e-4}
    for objective in (ls.Semantic(3), ls.Temperature(), ls.Fisher(2), ls.Fisher("trace", samples=3, exact=2)):
        expected, found = (
            ls.attribute(model, IDS, objective, layers=True, sites="hook_z", readout="norm") for model in (here, there)
        )
        assert found.scores.device.type == "cpu" and found.model["device"].startswith(str(DEVICE))
        assert_close(found.scores, expected.scores, **close)
        assert_close(found.layers, expected.layers, **close)
    for through in (ls.Heads("L0H1"), ls.Frozen("patterns", "gates") if name != "attention_only" else ls.Layers(1)):
        expected, found = (ls.attribute(model, IDS, ls.Semantic(3), through=through) for model in (here, there))
        assert_close(found.scores, expected.scores, **close)
    batches = [ls.attribute_batch(model, [IDS, IDS[:3]], ls.Fisher()) for model in (here, there)]
    for expected, found in zip(*batches, strict=True):
        assert_close(found.scores, expected.scores, **close)
    matrices = [ls.attribute_all(model, IDS, ls.Fisher(2)).matrix for model in (here, there)]
    assert_close(matrices[1], matrices[0], **close)
    heads = [ls.inspect_heads(model, IDS, ls.Semantic(3), patterns=["L0H0"]) for model in (here, there)]
    assert_close(heads[1].effect, heads[0].effect, **close)
    assert_close(heads[1].by_source, heads[0].by_source, **close)
    modes = [ls.inspect_modes(model, IDS, rank=2) for model in (here, there)]
    nats = [[item.actual_nats for item in found.replacements] for found in modes]
    assert nats[1] == pytest.approx(nats[0], rel=1e-2, abs=1e-4)


@gpu(pytest.mark.parametrize("backend", ["hooked", "bridge"]))
def test_models_are_loaded_onto_a_device(llama_folder: Path, backend: Any) -> None:
    here, there = (ls.load_model(llama_folder, backend=backend, device=device) for device in ("cpu", DEVICE))
    expected, found = (ls.attribute(model, IDS, ls.Fisher(), layers=True) for model in (here, there))
    assert_close(found.scores, expected.scores, rtol=2e-3, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is available here")
def test_running_out_of_a_devices_memory_goes_on_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: dict[str, Any] = {"n_layers": 8, "d_model": 256, "d_head": 64, "n_heads": 4, "d_mlp": 1024, "act_fn": "gelu"}
    model = random_transformer(0, torch.float32, **sizes).to("cuda")
    model.cfg.n_ctx = 1024
    model.pos_embed.W_pos = torch.nn.Parameter(torch.randn(1024, 256, device="cuda"), requires_grad=False)
    prompt = [index % 20 for index in range(1024)]
    whole = ls.attribute(model, prompt, ls.Fisher(2))
    monkeypatch.setattr(planning, "free_bytes", lambda model: 10**12)
    torch.cuda.empty_cache()
    room = torch.cuda.memory_reserved() + memory.Budget(ScopedModel.of(model)).whole(1024) // 2
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.get_device_properties(0).total_memory)
    try:
        cut = ls.attribute(model, prompt, ls.Fisher(2))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "memory ran out" in memory_words(cut.memory)
    assert_close(cut.scores, whole.scores, rtol=1e-3, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices are available here")
@pytest.mark.parametrize(("backend", "spread"), [("hooked", {"n_devices": 2}), ("bridge", {"device_map": "auto"})])
def test_a_model_on_several_gpus(llama_folder: Path, backend: Any, spread: dict[str, Any]) -> None:
    here, there = (ls.load_model(llama_folder, backend=backend, **where) for where in ({"device": "cpu"}, spread))
    expected, found = (ls.attribute(model, IDS, ls.Fisher(), layers=True) for model in (here, there))
    assert_close(found.scores, expected.scores, rtol=2e-3, atol=1e-4)
    heads = [ls.inspect_heads(model, IDS, ls.Semantic(3), patterns=["L0H0"]) for model in (here, there)]
    assert_close(heads[1].effect, heads[0].effect, rtol=2e-3, atol=1e-4)


# Anywhere


@pytest.mark.parametrize("device_map", [{"": "cpu"}, "auto"], ids=str)
def test_a_bridge_with_a_device_map(llama_folder: Path, device_map: Any) -> None:
    if device_map == "auto" and DEVICE is not None:
        pytest.skip("a device map of its own choice puts the model on the device, which other tests check")
    plain = ls.load_model(llama_folder, backend="bridge", device="cpu")
    mapped = ls.load_model(llama_folder, backend="bridge", device_map=device_map)
    scores = [ls.attribute(model, IDS, ls.Fisher(), layers=True).layers for model in (plain, mapped)]
    assert_close(scores[1], scores[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device_map": "auto"}, 'device_map is for backend="bridge"'),
        ({"device_map": "auto", "device": "cpu", "backend": "bridge"}, "both given"),
        ({"n_devices": 2, "backend": "bridge"}, 'device_map="auto"'),
        ({"n_devices": 2, "device": "cpu"}, "n_devices is a number of GPUs"),
        ({"n_devices": 0, "device": "cpu"}, "n_devices is a number of GPUs"),
    ],
)
def test_placements_that_do_not_fit(llama_folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        ls.load_model(llama_folder, **options)
    assert "\n" not in str(caught.value)


class Int8Linear(torch.nn.Module):
    """Weights as int8 with a scale for each output, as quantized checkpoints hold them."""

    def __init__(self, linear: torch.nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.abs().amax(1, keepdim=True) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("codes", (linear.weight / scale).round().to(torch.int8))

    @property
    def weight(self) -> torch.Tensor:
        return self.codes * self.scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.weight)


class GraphlessLinear(Int8Linear):
    """As kernels that know only the forward pass."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return super().forward(x)


def quantized(kind: type[Int8Linear]) -> Any:
    """A bridge around a LLaMA whose MLPs are quantized, and the same with the weights dequantized."""
    pretrained = random_pretrained("LLaMA").float()
    plain = copy.deepcopy(pretrained)
    for original, copied in zip(pretrained.model.layers, plain.model.layers, strict=True):
        for name in ("gate_proj", "up_proj", "down_proj"):
            layer = kind(getattr(original.mlp, name))
            setattr(original.mlp, name, layer)
            getattr(copied.mlp, name).weight.data = layer.weight
    return tuple(backends.build_bridge(model, "LlamaForCausalLM", None, "tiny") for model in (pretrained, plain))


def test_quantized_layers_that_gradients_flow_through_give_the_scores_of_their_weights() -> None:
    found, expected = (ls.attribute(model, IDS, ls.Fisher(), layers=True) for model in quantized(Int8Linear))
    assert_close(found.layers, expected.layers, rtol=1e-4, atol=1e-6)


def test_quantized_layers_that_gradients_do_not_flow_through_are_refused() -> None:
    model, _ = quantized(GraphlessLinear)
    for explain in (ls.attribute, ls.inspect_heads, ls.attribute_all, ls.inspect_modes):
        with pytest.raises(ModelError, match=r"do not flow through .*mlp.*\(GraphlessLinear\).*dequantize") as caught:
            explain(model, IDS)
        assert "\n" not in str(caught.value)
    assert not any(part._forward_hooks for part in model.modules() if isinstance(part, GraphlessLinear))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ["gpt2_like", "llama_like", "gemma_like"])
def test_low_precision_accumulates_in_float32_and_stays_near(name: str, dtype: torch.dtype) -> None:
    exact, low = (TINY_MODELS[name](dtype=kind) for kind in (torch.float64, dtype))
    for objective in (ls.Semantic(3), ls.Temperature(), ls.Fisher(2)):
        expected, found = (ls.attribute(model, IDS, objective, layers=True) for model in (exact, low))
        assert found.scores.dtype == torch.float32 == found.layers.dtype
        gap = (found.scores.double() - expected.scores).norm() / expected.scores.norm()
        assert gap < (0.08 if dtype == torch.bfloat16 else 0.01), f"{objective}: {gap}"


@pytest.mark.parametrize("explain", [ls.attribute, ls.attribute_all, ls.inspect_heads, ls.inspect_modes])
def test_gradients_beyond_the_range_of_a_dtype_are_named(explain: Any) -> None:
    model = TINY_MODELS["llama_like"](dtype=torch.float16)

    def steepen(activation: torch.Tensor, hook: Any) -> None:
        if activation.requires_grad:
            activation.register_hook(lambda gradient: gradient * 1e9)

    with (
        model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", steepen)]),
        pytest.raises(NumericsError, match=r"non-finite gradients at .*float16.*float32"),
    ):
        explain(model, IDS)


def test_transformers_reads_the_quantization_it_is_told(llama_folder: Path) -> None:
    """Whatever a quantized checkpoint lacks here, the answer is one sentence."""
    config = transformers.AutoConfig.from_pretrained(llama_folder).to_dict()
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (llama_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError) as caught:
        ls.load_model(llama_folder, backend="bridge", device="cpu")
    assert "\n" not in str(caught.value)
