"""Loading: what comes out computes what Transformers computes, is frozen, and every wrong request is one sentence."""

from __future__ import annotations

import gc
import json
import logging
import shutil
import socket
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel

from lens_scopes.engine.model import ScopedModel, cache
from lens_scopes.errors import ModelError
from lens_scopes.models.load import DTYPES, PROCESSING_FLAGS, available_models, load_model, model_record
from lens_scopes.models.names import Source
from lens_scopes.models.pretrained import Reader
from lens_scopes.models.quiet import quiet_libraries

D_VOCAB = 47
TOKEN_IDS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 46, 0]])
UNPROCESSED = dict.fromkeys(PROCESSING_FLAGS, False)


def gpt2(**changes: Any) -> Any:
    sizes: dict[str, Any] = {"vocab_size": D_VOCAB, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 4}
    return transformers.GPT2Config(**sizes | changes)


def common(**changes: Any) -> dict[str, Any]:
    return {
        "vocab_size": D_VOCAB,
        "max_position_embeddings": 64,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    } | changes


def rope(**parameters: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 500.0} | parameters


LLAMA3_ROPE = rope(
    rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16
)

# Each config states something that TransformerLens fixes, caps or guesses from the name of the model.
CONFIGS: dict[str, Callable[[], Any]] = {
    "gpt2": gpt2,
    "gpt2 with another MLP width": lambda: gpt2(n_inner=40),
    "llama": lambda: transformers.LlamaConfig(**common(num_key_value_heads=2, rope_parameters=rope())),
    "llama with its own head width": lambda: transformers.LlamaConfig(**common(num_key_value_heads=4, head_dim=6)),
    "llama 3": lambda: transformers.LlamaConfig(**common(num_key_value_heads=1, rope_parameters=LLAMA3_ROPE)),
    "mistral": lambda: transformers.MistralConfig(**common(num_key_value_heads=2, sliding_window=5, head_dim=8)),
    "qwen3": lambda: transformers.Qwen3Config(**common(num_key_value_heads=2, head_dim=8)),
    "qwen 2 with a window": lambda: transformers.Qwen2Config(
        **common(num_key_value_heads=2, use_sliding_window=True, sliding_window=4, max_window_layers=1)
    ),
    "olmo": lambda: transformers.OlmoConfig(**common(num_key_value_heads=4, clip_qkv=0.5)),
    "olmo 2": lambda: transformers.Olmo2Config(**common(num_key_value_heads=4)),
    "neox": lambda: transformers.GPTNeoXConfig(
        **common(rope_parameters=rope(partial_rotary_factor=0.5), use_parallel_residual=True)
    ),
    "neox in sequence": lambda: transformers.GPTNeoXConfig(
        **common(rope_parameters=rope(partial_rotary_factor=1.0), use_parallel_residual=False)
    ),
    "gemma": lambda: transformers.GemmaConfig(**common(num_key_value_heads=2, head_dim=6, rope_parameters=rope())),
    "gemma 2": lambda: transformers.Gemma2Config(
        **common(num_key_value_heads=2, head_dim=6, query_pre_attn_scalar=11, sliding_window=4),
        attn_logit_softcapping=3.0,
        final_logit_softcapping=2.0,
    ),
    "gemma 3": lambda: transformers.Gemma3TextConfig(
        **common(num_key_value_heads=1, head_dim=6, query_pre_attn_scalar=11, sliding_window=4),
        layer_types=["sliding_attention", "full_attention"],
        rope_parameters={
            "sliding_attention": rope(rope_theta=50.0),
            "full_attention": rope(rope_theta=900.0, rope_type="linear", factor=8.0),
        },
    ),
}
ARCHITECTURES = list(CONFIGS)


def random_model(config: Any, seed: int = 0) -> Any:
    """A Transformers model whose parameters are drawn at random, all so large that each part shows in the logits."""
    with quiet_libraries():
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        center = 1.0 if "norm" in name and "Gemma" not in type(model).__name__ or ".ln_" in name else 0.0
        parameter.data = center + 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def save(model: Any, folder: Path) -> Path:
    with quiet_libraries():
        model.save_pretrained(folder)
    return folder


def save_tokenizer(folder: Path) -> None:
    words = ["<bos>", "<unk>", *(f"w{index}" for index in range(D_VOCAB - 2))]
    core = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()  # pyright: ignore[reportAttributeAccessIssue]
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<bos>", eos_token="<bos>", unk_token="<unk>"
    ).save_pretrained(folder)


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        output = model(TOKEN_IDS)
    return getattr(output, "logits", output)[0]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """A folder with each tiny model in turn, and the logits that Transformers computes with it."""
    model = random_model(CONFIGS[request.param]())
    return save(model, tmp_path_factory.mktemp("saved")), logits(model)


@pytest.fixture
def gpt2_folder(tmp_path: Path) -> Path:
    return save(random_model(gpt2()), tmp_path / "tiny")


@pytest.mark.parametrize("backend", ["hooked", "bridge"])
def test_logits_are_those_of_transformers(saved: tuple[Path, torch.Tensor], backend: Any) -> None:
    folder, expected = saved
    model = load_model(folder, backend=backend)
    assert type(model).__name__ == {"hooked": "HookedTransformer", "bridge": "TransformerBridge"}[backend]
    assert expected.std() > 0.1
    torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)


def test_processing_leaves_the_log_probabilities(saved: tuple[Path, torch.Tensor]) -> None:
    folder, expected = saved
    model = load_model(folder, processing=True)
    torch.testing.assert_close(logits(model).log_softmax(-1), expected.log_softmax(-1), rtol=1e-4, atol=1e-4)
    done = model_record(model).processing
    assert done["fold_ln"] == (model.cfg.original_architecture != "Olmo2ForCausalLM") and done["fold_value_biases"]


def test_the_context_is_the_configs_own(saved: tuple[Path, torch.Tensor]) -> None:
    config = json.loads((saved[0] / "config.json").read_text())
    stated = config.get("max_position_embeddings") or config["n_positions"]
    assert load_model(saved[0]).cfg.n_ctx == stated == model_record(load_model(saved[0], backend="bridge")).n_ctx


@pytest.mark.parametrize("backend", ["hooked", "bridge"])
def test_parameters_are_frozen_and_the_model_is_in_eval_mode(gpt2_folder: Path, backend: Any) -> None:
    model = load_model(gpt2_folder, backend=backend)
    assert not model.training and not any(module.training for module in model.modules())
    whole = [*model.parameters(), *getattr(model, "original_model", model).parameters()]
    assert whole and not any(parameter.requires_grad for parameter in whole)


def test_tied_embeddings_are_one_matrix(gpt2_folder: Path) -> None:
    """0.5 GB less for a model of a billion parameters; a change to one is a change to the other, as in Transformers."""
    model: Any = load_model(gpt2_folder)
    assert model.unembed.W_U.T.is_contiguous() and torch.equal(model.unembed.W_U.T, model.embed.W_E)
    assert model.unembed.W_U.data_ptr() == model.embed.W_E.data_ptr()
    model.embed.W_E[:] = 0
    assert not model.unembed.W_U.any()


def test_tied_embeddings_are_parted_before_weights_are_processed_or_loaded(gpt2_folder: Path) -> None:
    """Both would be copied into one place otherwise, and the logits be another model's."""
    model: Any = load_model(gpt2_folder, dtype="float64")
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    expected = model(ids).log_softmax(-1)
    model.process_weights_()
    assert model.unembed.W_U.data_ptr() != model.embed.W_E.data_ptr()
    torch.testing.assert_close(model(ids).log_softmax(-1), expected, rtol=1e-5, atol=1e-5)
    other = load_model(gpt2_folder, processing={"fold_ln": True})
    assert other.unembed.W_U.data_ptr() != other.embed.W_E.data_ptr()


@pytest.mark.parametrize("word", ["llama", "gemma-3-270m", "bert-t5-hubert"])
def test_the_name_of_the_folder_decides_nothing(gpt2_folder: Path, tmp_path: Path, word: str) -> None:
    folder = gpt2_folder.rename(tmp_path / f"my-{word}-models")
    model = load_model(folder)
    assert model_record(model).name == f"my-{word}-models" and model.cfg.original_architecture == "GPT2LMHeadModel"


def test_nor_does_the_name_of_the_temporary_folder(
    gpt2_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = tmp_path / "llama"
    named.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(named))
    assert load_model(gpt2_folder).cfg.original_architecture == "GPT2LMHeadModel"
    assert not list(named.iterdir())


@pytest.mark.parametrize("backend", ["hooked", "bridge"])
def test_a_folder_without_a_tokenizer_explains_token_ids_only(gpt2_folder: Path, backend: Any) -> None:
    assert load_model(gpt2_folder, backend=backend).tokenizer is None


@pytest.mark.parametrize("backend", ["hooked", "bridge"])
def test_the_tokenizer_beside_the_weights_is_used(gpt2_folder: Path, backend: Any) -> None:
    save_tokenizer(gpt2_folder)
    model: Any = load_model(str(gpt2_folder), backend=backend)
    assert model.to_tokens("w1 w0", prepend_bos=True).tolist() == [[0, 3, 2]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("backend", ["hooked", "bridge"])
def test_dtypes(gpt2_folder: Path, dtype: str, backend: Any) -> None:
    model = load_model(gpt2_folder, backend=backend, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {DTYPES[dtype]}
    assert logits(model).dtype == DTYPES[dtype] and model_record(model).dtype == dtype
    assert model_record(load_model(gpt2_folder, dtype=DTYPES[dtype])).dtype == dtype


@pytest.mark.parametrize("backend", ["hooked", "bridge"])
def test_the_record_of_a_loaded_model(gpt2_folder: Path, backend: Any) -> None:
    record = model_record(load_model(gpt2_folder, backend=backend))
    assert vars(record) == {
        "name": "tiny",
        "revision": None,
        "backend": backend,
        "dtype": "float32",
        "device": "cpu",
        "processing": UNPROCESSED,
        "n_layers": 2,
        "d_model": 16,
        "d_vocab": D_VOCAB,
        "n_ctx": 32,
        "n_heads": 4,
        "products": None,
        "rounding": None,
        "altered": None,
    }


def test_processing_flags_are_recorded(gpt2_folder: Path) -> None:
    flags = {"fold_ln": True, "center_unembed": True}
    assert model_record(load_model(gpt2_folder, processing=flags)).processing == UNPROCESSED | flags
    assert all(model_record(load_model(gpt2_folder, processing=True)).processing.values())
    unchanged = load_model(gpt2_folder, processing={"fold_ln": False})
    assert model_record(unchanged).processing == UNPROCESSED and unchanged.cfg.normalization_type == "LN"


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_the_bridge_folds_too(architecture: str, tmp_path: Path) -> None:
    reference = random_model(CONFIGS[architecture]())
    model = load_model(save(reference, tmp_path), backend="bridge", processing=True)
    expected = logits(reference).log_softmax(-1)
    torch.testing.assert_close(logits(model).log_softmax(-1), expected, rtol=1e-4, atol=1e-4)
    assert model_record(model).processing == UNPROCESSED | {
        "fold_ln": True,
        "center_writing_weights": architecture == "gpt2",
        "center_unembed": True,
        "fold_value_biases": True,
    }


def test_processing_that_would_change_the_model_is_left_out_or_refused(tmp_path: Path) -> None:
    folder = save(random_model(CONFIGS["gemma 2"]()), tmp_path)
    record = model_record(load_model(folder, processing=True))
    assert not record.processing["center_writing_weights"] and not record.processing["center_unembed"]
    for flag, reason in {"center_unembed": "soft-capped", "center_writing_weights": "mean"}.items():
        with pytest.raises(ModelError, match=f"{flag}.*{reason}"):
            load_model(folder, processing={flag: True})


def test_the_record_of_a_model_from_elsewhere_says_what_is_unknown(gpt2_folder: Path) -> None:
    from tiny_models import llama_like

    record = model_record(llama_like())
    unknown = dict.fromkeys(PROCESSING_FLAGS)
    assert (record.name, record.revision, record.backend) == ("custom", None, "hooked")
    assert record.processing == unknown | {"fold_ln": False} and record.dtype == "float64"
    folded: Any = load_model(gpt2_folder, processing={"fold_ln": True})
    ScopedModel.of(folded).cache.provenance = None
    assert model_record(folded).processing == unknown | {"fold_ln": True}


def test_records_do_not_keep_models_alive(gpt2_folder: Path) -> None:
    gc.collect()
    before = len(cache._caches)
    model = load_model(gpt2_folder)
    assert len(cache._caches) == before + 1
    del model
    gc.collect()
    assert len(cache._caches) == before


@pytest.mark.parametrize("backend", ["hooked", "bridge"])
def test_loading_is_quiet_and_leaves_no_trace(
    gpt2_folder: Path, backend: Any, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    from transformers.utils import logging as transformers_logging

    transformers_logging.enable_progress_bar()
    handlers, generator = list(logging.getLogger().handlers), torch.get_rng_state()
    levels = {name: logging.getLogger(name).level for name in ("transformers", "huggingface_hub")}
    filters = list(warnings.filters)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        load_model(gpt2_folder, backend=backend, processing=True)
    assert capfd.readouterr() == ("", "") and not heard and not caplog.records
    assert list(logging.getLogger().handlers) == handlers and not logging.getLogger().filters
    assert {name: logging.getLogger(name).level for name in levels} == levels and list(warnings.filters) == filters
    assert torch.equal(torch.get_rng_state(), generator) and transformers_logging.is_progress_bar_enabled()


# Names, and where they lead


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("gemma-3-270", "gemma-3-270m"),
        ("gemma3-270m", "gemma-3-270m"),
        ("pythia-14", "EleutherAI/pythia-14m"),
        ("gpt2-smal", "gpt2"),
    ],
)
def test_an_unknown_name_suggests_near_ones(name: str, near: str) -> None:
    with pytest.raises(ModelError, match=rf"^model '{name}' is unknown.*did you mean.*'{near}'[^\n]*\?$"):
        load_model(name)


def test_a_name_like_none_says_where_names_are_listed() -> None:
    with pytest.raises(ModelError, match="lens-scopes models"):
        load_model("zzzzqqqq")
    with pytest.raises(ModelError, match="neither a name nor a folder"):
        load_model(" ")


@pytest.mark.parametrize("name", ["pythia-14m", "someone/tiny-gpt2"])
@pytest.mark.parametrize("switched_off", [True, False])
def test_without_a_network_one_sentence_says_what_to_do(
    name: str, switched_off: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", switched_off)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    asked = []

    def unreachable(address: tuple[str, int], **_: Any) -> Any:
        asked.append(address)
        raise socket.gaierror("Name or service not known")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    with pytest.raises(ModelError, match="cache.*hub cannot be reached.*folder.*embedded 'gemma-3-270m'") as caught:
        load_model(name)
    assert "\n" not in str(caught.value) and ("did you mean" in str(caught.value)) == (name == "someone/tiny-gpt2")
    assert asked == ([] if switched_off else [("huggingface.co", 443)])


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hugging Face cache that holds a tiny model under the name of a real one."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--EleutherAI--pythia-14m"
    snapshot = save(random_model(CONFIGS["neox"]()), repository / "snapshots" / commit)
    save_tokenizer(snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return snapshot


@pytest.mark.parametrize("backend", ["hooked", "bridge"])
@pytest.mark.parametrize("name", ["EleutherAI/pythia-14m", "pythia-14m", "Pythia-14M"])
def test_the_local_cache_is_enough(hub_cache: Path, name: str, backend: Any) -> None:
    model: Any = load_model(name, backend=backend)
    record = model_record(model)
    assert (record.name, record.revision) == ("EleutherAI/pythia-14m", hub_cache.name)
    assert record.d_model == 16 and model.tokenizer is not None
    torch.testing.assert_close(logits(model), logits(random_model(CONFIGS["neox"]())), rtol=1e-5, atol=1e-5)


def test_every_part_is_of_the_commit_that_the_config_was_found_at(hub_cache: Path) -> None:
    """The repository moves on between reading the config and reading the weights."""
    later = "f" * 40
    save(random_model(CONFIGS["neox"](), seed=1), hub_cache.parent / later)
    reader = Reader(Source("pythia", "EleutherAI/pythia-14m"), None, False)
    (hub_cache.parents[1] / "refs" / "main").write_text(later)
    with quiet_libraries():
        found = logits(reader.read_weights(torch.float32))
    assert reader.revision == hub_cache.name and torch.equal(found, logits(random_model(CONFIGS["neox"]())))


def test_available_models_come_embedded_first_and_know_the_cache(hub_cache: Path, tmp_path: Path) -> None:
    known = available_models()
    by_name = {model.name: model for model in known}
    assert known[0].name == "gemma-3-270m" and len(by_name) == len(known) > 100
    assert by_name["EleutherAI/pythia-14m"].cached and not by_name["gpt2"].cached
    assert "pythia-14m" in by_name["EleutherAI/pythia-14m"].aliases
    assert sum("gemma-3-270m" in (model.name, *model.aliases) for model in known) == 1


def test_a_folder_in_the_working_directory(gpt2_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(gpt2_folder.parent)
    assert model_record(load_model("tiny")).name == model_record(load_model("./tiny")).name == "tiny"


def test_folders_that_hold_no_model(tmp_path: Path, gpt2_folder: Path) -> None:
    with pytest.raises(ModelError, match="nowhere' does not exist"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="^model folder 'nowhere' does not exist"):
        load_model("./nowhere")
    with pytest.raises(ModelError, match="no config.json"):
        load_model(str(tmp_path))
    (gpt2_folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="^'tiny' cannot be loaded: OSError.*model.safetensors"):
        load_model(gpt2_folder)


def test_damaged_weights_and_configs(gpt2_folder: Path) -> None:
    weights = gpt2_folder / "model.safetensors"
    tensors = load_file(weights)
    del tensors["transformer.h.1.mlp.c_fc.weight"]
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 are missing or of another shape, such as transformer\.h\.1\.mlp"):
        load_model(gpt2_folder)
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(ModelError, match="^'tiny' cannot be loaded: SafetensorError"):
        load_model(gpt2_folder)
    (gpt2_folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match="^'tiny' cannot be loaded: OSError.*config"):
        load_model(gpt2_folder)


def test_the_architecture_of_a_folder_that_does_not_say_it(gpt2_folder: Path) -> None:
    config = json.loads((gpt2_folder / "config.json").read_text())
    del config["model_type"], config["architectures"]
    (gpt2_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="^'tiny' cannot be loaded: ValueError.*model_type"):
        load_model(gpt2_folder)
    expected = logits(random_model(gpt2()))
    for architecture in ("gpt2", "GPT2LMHeadModel"):
        for backend in ("hooked", "bridge"):
            model = load_model(gpt2_folder, architecture=architecture, backend=backend)
            torch.testing.assert_close(logits(model), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ModelError, match="'GPT2' is no causal.*'gpt2'"):
        load_model(gpt2_folder, architecture="GPT2")


# What does not fit


def test_a_conversion_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    """TransformerLens reads Llama weights without their biases."""
    reference = random_model(transformers.LlamaConfig(**common(attention_bias=True)))
    folder = save(reference, tmp_path / "biased")
    with pytest.raises(
        ModelError, match=r"'biased' as Transformers does.*differ by \d.*by up to \d.*backend=\"bridge\""
    ):
        load_model(folder)
    torch.testing.assert_close(logits(load_model(folder, backend="bridge")), logits(reference), rtol=1e-5, atol=1e-5)


def test_a_bridge_that_computes_something_else_is_refused(gpt2_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lens_scopes.models import backends

    build = backends.build_bridge

    def build_wrongly(*arguments: Any) -> Any:
        model = build(*arguments)
        with torch.no_grad():
            model.blocks[1].mlp.original_component.c_proj.weight *= 1.01
        return model

    monkeypatch.setattr(backends, "build_bridge", build_wrongly)
    with pytest.raises(ModelError, match="^TransformerBridge does not compute 'tiny' as Transformers does"):
        load_model(gpt2_folder, backend="bridge")


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_comparison_sees_a_changed_weight_in_every_dtype(
    gpt2_folder: Path, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lens_scopes.models.hooked import build_hooked

    def build_wrongly(*arguments: Any) -> Any:
        model = build_hooked(*arguments)
        with torch.no_grad():
            model.blocks[0].attn.W_V[1] *= -1
        return model

    monkeypatch.setattr("lens_scopes.models.load.build_hooked", build_wrongly)
    with pytest.raises(ModelError, match="does not compute 'tiny'"):
        load_model(gpt2_folder, dtype=dtype)


def test_rotary_embeddings_that_differ_only_far_away_are_refused(tmp_path: Path) -> None:
    dynamic = rope(rope_type="dynamic", factor=2.0, original_max_position_embeddings=64)
    folder = save(random_model(transformers.LlamaConfig(**common(rope_parameters=dynamic))), tmp_path)
    with pytest.raises(ModelError, match="'dynamic' rotary.*backend=\"bridge\""):
        load_model(folder)


def test_architectures_that_a_backend_lacks(tmp_path: Path) -> None:
    granite = save(random_model(transformers.GraniteConfig(**common(num_key_value_heads=2))), tmp_path / "granite")
    with pytest.raises(ModelError, match='GraniteForCausalLM: load it with backend="bridge"'):
        load_model(granite)
    assert model_record(load_model(granite, backend="bridge")).d_model == 16
    ctrl = transformers.CTRLConfig(vocab_size=D_VOCAB, n_embd=16, n_layer=1, n_head=2, dff=8, n_positions=32)
    with pytest.raises(ModelError, match="TransformerBridge does not know the architecture CTRLLMHeadModel"):
        load_model(save(random_model(ctrl), tmp_path / "ctrl"), backend="bridge")
    bert = transformers.BertForMaskedLM(transformers.BertConfig(**common()))
    with pytest.raises(ModelError, match="BertForMaskedLM is not a causal language model"):
        load_model(save(bert, tmp_path / "bert"))


def test_weights_that_the_conversion_cannot_take_are_for_the_bridge(tmp_path: Path) -> None:
    """TransformerLens converts OLMo 2 without grouped queries only."""
    reference = random_model(transformers.Olmo2Config(**common(num_key_value_heads=2)))
    folder = save(reference, tmp_path)
    with pytest.raises(ModelError, match='cannot take the weights of this Olmo2ForCausalLM.*backend="bridge"'):
        load_model(folder)
    torch.testing.assert_close(logits(load_model(folder, backend="bridge")), logits(reference), rtol=1e-5, atol=1e-5)


def test_quantized_weights_are_for_the_bridge(gpt2_folder: Path) -> None:
    config = json.loads((gpt2_folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (gpt2_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match='quantized.*backend="bridge"'):
        load_model(gpt2_folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "hook"}, 'backend \'hook\' is unknown: use "hooked" or "bridge"'),
        ({"dtype": "int8"}, "dtype 'int8' is unknown: use one of float32, bfloat16, float16, float64"),
        ({"dtype": torch.int8}, "dtype 'int8' is unknown"),
        ({"device": "gpu"}, "device 'gpu' cannot hold float32.*use \"cpu\""),
        ({"device": "meta"}, "device 'meta' cannot hold"),
        ({"processing": {"fold": True}}, "flag 'fold' is unknown: use some of fold_ln"),
        ({"architecture": "GPT5"}, "architecture 'GPT5' is no causal language model"),
    ],
)
def test_options_that_do_not_fit(gpt2_folder: Path, options: dict[str, Any], message: str) -> None:
    # The annotation of backend refuses it first where types are checked, as they are in these tests.
    load = load_model.__wrapped__ if "backend" in options else load_model  # pyright: ignore[reportFunctionMemberAccess]
    with pytest.raises(ModelError, match=message) as caught:
        load(gpt2_folder, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(gpt2_folder: Path) -> None:
    with pytest.raises(ModelError, match="device 'cuda' cannot hold float32 numbers here"):
        load_model(gpt2_folder, device="cuda")


def test_logits_beyond_the_range_of_the_dtype_are_named(tmp_path: Path) -> None:
    model = random_model(gpt2())
    model.transformer.ln_f.weight.data *= 1e6
    with pytest.raises(ModelError, match='non-finite logits in float16: use dtype="float32"'):
        load_model(save(model, tmp_path), dtype="float16")


# Code and pickles run only when asked


@pytest.mark.parametrize("backend", ["hooked", "bridge"])
def test_code_beside_the_weights_does_not_run(gpt2_folder: Path, backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = gpt2_folder.parent / "ran"
    (gpt2_folder / "code.py").write_text(f"open({str(ran)!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    config = json.loads((gpt2_folder / "config.json").read_text())
    config |= {"model_type": "novel", "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}}
    (gpt2_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="'tiny' needs code from its repository to run: pass trust_remote_code=True"):
        load_model(gpt2_folder, backend=backend)
    assert not ran.exists()


def test_pickles_are_refused_unless_asked_for() -> None:
    with pytest.raises(
        ModelError, match="'NeelNanda/GELU_1L512W_C4_Code' is stored as a pickle.*trust_remote_code=True"
    ):
        load_model("gelu-1l")
    with pytest.raises(ModelError, match='own format: load it with backend="hooked"'):
        load_model("gelu-1l", backend="bridge", trust_remote_code=True)


@pytest.mark.parametrize("backend", ["hooked", "bridge"])
def test_a_config_much_larger_than_its_weights_is_refused_before_it_is_built(
    gpt2_folder: Path, tmp_path: Path, backend: Any
) -> None:
    folder = shutil.copytree(gpt2_folder, tmp_path / "large")
    config = json.loads((folder / "config.json").read_bytes())
    large = {"n_embd": 4096, "n_head": 32, "n_layer": 32, "n_inner": None}
    (folder / "config.json").write_text(json.dumps(config | large))
    with pytest.raises(ModelError, match=r"has 6,\d{3},\d{3},\d{3} parameters, and the weight files have"):
        load_model(folder, backend=backend)
    with pytest.raises(ModelError, match="do not fit its config"):
        load_model(gpt2_folder, backend=backend, architecture="llama")
