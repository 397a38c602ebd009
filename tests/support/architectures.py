"""What each architecture supports on each backend, found by trying it on tiny random models.

    python tests/support/architectures.py

writes the table into docs/pages/models.md; tests/engine/test_architectures.py checks that it is what the code does.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import reference
import torch
import transformers
from torch.testing import assert_close

import lens_scopes as ls
from lens_scopes.engine.sites import _IN_BLOCK
from lens_scopes.errors import LensScopesError, ModelError, ObjectiveError
from lens_scopes.models.pretrained import _auto_class
from lens_scopes.models.quiet import quiet_libraries

PAGE = Path(__file__).resolve().parents[2] / "docs" / "pages" / "models.md"
MARKS = ("<!-- architectures -->", "<!-- end of architectures -->")
IDS = [1, 5, 3, 7, 2, 9, 4]
SHORT = [6, 2, 8]
TARGET = 3
VOCAB = 48
# Transformers computes norms and softmax in float32 whatever the model's dtype.
CLOSE: Any = {"rtol": 2e-4, "atol": 2e-5}
SCOPES: dict[str, Any] = {"semantic": ls.Semantic(TARGET), "temperature": ls.Temperature(), "fisher": ls.Fisher()}
PATHS: dict[str, Any] = {
    "Layers": ls.Layers(1),
    "Heads": ls.Heads("L0H1"),
    "Attention": ls.Attention(),
    "MLP": ls.MLP(),
    "Skip": ls.Skip(),
    "Frozen patterns": ls.Frozen("patterns"),
    "Frozen norms": ls.Frozen("norms"),
    "Frozen gates": ls.Frozen("gates"),
}
RULES: dict[str, Any] = {name: ls.Rules(name) for name in ("half-av", "half-qk", "half-gate", "identity", "softmax")}
# From transformer-lens 4 on there is no other backend.
BACKENDS = ("hooked", "bridge") if find_spec("transformer_lens.HookedTransformer") else ("bridge",)


def _sizes(**changes: Any) -> dict[str, Any]:
    return {
        "vocab_size": VOCAB,
        "max_position_embeddings": 64,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "pad_token_id": None,
        "bos_token_id": 0,
        "eos_token_id": 0,
    } | changes


def _grouped(**changes: Any) -> dict[str, Any]:
    return _sizes(num_key_value_heads=2) | changes


_GPT = {"vocab_size": VOCAB, "n_positions": 64, "n_embd": 16, "n_layer": 2, "n_head": 4}
_ENDS = {"bos_token_id": 0, "eos_token_id": 0}

_VISION: dict[str, Any] = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16,
    "patch_size": 8,
}  # fmt: skip


def _rotation(kind: str, **choice: Any) -> dict[str, Any]:
    """Rotary positions that are scaled beyond the four that the model was trained on, as prompts here are."""
    scaling = {"rope_type": kind, "rope_theta": 1e4, "factor": 8.0, "original_max_position_embeddings": 4, **choice}
    return {"rope_parameters": scaling}


CONFIGS: dict[str, Callable[[], Any]] = {
    "GPT-2": lambda: transformers.GPT2Config(**_GPT, **_ENDS),
    "GPT-Neo": lambda: transformers.GPTNeoConfig(
        vocab_size=VOCAB, max_position_embeddings=64, hidden_size=16, num_layers=2, num_heads=4, intermediate_size=24,
        attention_types=[[["global", "local"], 1]], window_size=4, **_ENDS,
    ),
    "GPT-J": lambda: transformers.GPTJConfig(**_GPT, rotary_dim=2, **_ENDS),
    "GPT-NeoX, Pythia": lambda: transformers.GPTNeoXConfig(**_sizes(num_attention_heads=2)),
    "OPT": lambda: transformers.OPTConfig(**_sizes(ffn_dim=24, word_embed_proj_dim=16, pad_token_id=1)),
    "BLOOM": lambda: transformers.BloomConfig(vocab_size=VOCAB, hidden_size=16, n_layer=2, n_head=4, **_ENDS),
    "Falcon": lambda: transformers.FalconConfig(**_sizes(ffn_hidden_size=24, multi_query=True, parallel_attn=True)),
    "LLaMA": lambda: transformers.LlamaConfig(**_grouped()),
    "LLaMA 3.1": lambda: transformers.LlamaConfig(
        **_grouped(head_dim=8), **_rotation("llama3", low_freq_factor=1.0, high_freq_factor=4.0)
    ),
    "LLaMA, linear scaling": lambda: transformers.LlamaConfig(**_grouped(head_dim=8), **_rotation("linear")),
    "Qwen2, YaRN": lambda: transformers.Qwen2Config(**_grouped(), **_rotation("yarn")),
    "Mistral": lambda: transformers.MistralConfig(**_grouped(sliding_window=4)),
    "Mixtral": lambda: transformers.MixtralConfig(**_grouped(num_local_experts=4, num_experts_per_tok=2)),
    "Qwen3-MoE": lambda: transformers.Qwen3MoeConfig(
        **_grouped(head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=12)
    ),
    "OLMoE": lambda: transformers.OlmoeConfig(**_grouped(num_experts=4, num_experts_per_tok=2)),
    "GPT-OSS": lambda: transformers.GptOssConfig(
        **_grouped(head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=4)
    ),
    "Qwen2": lambda: transformers.Qwen2Config(**_grouped()),
    "Qwen3": lambda: transformers.Qwen3Config(**_grouped(head_dim=8)),
    "Gemma": lambda: transformers.GemmaConfig(**_grouped(head_dim=8)),
    "Gemma 2": lambda: transformers.Gemma2Config(
        **_grouped(head_dim=8, sliding_window=4, query_pre_attn_scalar=8), attn_logit_softcapping=3.0,
        final_logit_softcapping=4.0,
    ),
    "Gemma 3": lambda: transformers.Gemma3TextConfig(
        **_grouped(head_dim=8, sliding_window=4, query_pre_attn_scalar=8),
        layer_types=["sliding_attention", "full_attention"],
    ),
    "Gemma 3, images and text": lambda: transformers.Gemma3Config(
        text_config=transformers.Gemma3TextConfig(
            **_grouped(head_dim=8, sliding_window=4, query_pre_attn_scalar=8),
            layer_types=["sliding_attention", "full_attention"],
        ),
        vision_config=transformers.SiglipVisionConfig(**_VISION),
        mm_tokens_per_image=4, boi_token_index=45, eoi_token_index=46, image_token_index=47,
    ),
    "LLaVA": lambda: transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**_grouped()),
        vision_config=transformers.CLIPVisionConfig(**_VISION, projection_dim=16), image_token_index=47,
    ),
    "LLaVA-OneVision": lambda: transformers.LlavaOnevisionConfig(
        text_config=transformers.Qwen2Config(**_grouped()), vision_config=transformers.SiglipVisionConfig(**_VISION),
        image_token_index=47, video_token_index=46,
    ),
    "Mistral 3, images and text": lambda: transformers.Mistral3Config(
        text_config=transformers.MistralConfig(**_grouped(sliding_window=4)),
        vision_config=transformers.PixtralVisionConfig(**_VISION), image_token_index=47,
    ),
    "Idefics3": lambda: transformers.Idefics3Config(
        text_config=transformers.LlamaConfig(**_grouped()), vision_config=dict(_VISION), image_token_id=47
    ),
    "Phi-1, Phi-2": lambda: transformers.PhiConfig(**_sizes()),
    "Phi-3": lambda: transformers.Phi3Config(**_grouped()),
    "Phi-3, LongRoPE": lambda: transformers.Phi3Config(
        **_grouped(original_max_position_embeddings=4),
        rope_parameters={
            "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 4,
            "short_factor": [1.0, 1.5], "long_factor": [2.0, 4.0],
        },
    ),
    "OLMo": lambda: transformers.OlmoConfig(**_sizes(num_key_value_heads=4)),
    "OLMo 2": lambda: transformers.Olmo2Config(**_sizes(num_key_value_heads=4)),
    "OLMo 2, grouped queries": lambda: transformers.Olmo2Config(**_grouped()),
    "Granite": lambda: transformers.GraniteConfig(**_grouped()),
    "StableLM": lambda: transformers.StableLmConfig(**_grouped()),
    "Cohere": lambda: transformers.CohereConfig(**_grouped()),
}  # fmt: skip


@dataclass(frozen=True)
class Support:
    """What one backend does for one architecture.

    Attributes:
        refused: the sentence it was refused with, if it was.
        scopes: those of SCOPES that it refuses, by class name.
        sites: the kinds of sites inside a block that it lacks.
        paths: the kinds of paths that it lacks.
        rules: the single rules on the backward pass that it lacks.
        heads: whether heads can be inspected.
        batch: whether prompts of several lengths run together.
    """

    refused: str | None = None
    scopes: tuple[str, ...] = ()
    sites: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    heads: bool = False
    batch: bool = False

    @property
    def cells(self) -> tuple[str, ...]:
        """The columns of the table."""
        if self.refused:
            return ("refused", "–", "–", "–", "–", "–")
        marks = ("✓" if does else "–" for does in (self.heads, self.batch))
        return (*map(_all_but, (self.scopes, self.sites, self.paths, self.rules)), *marks)


def _all_but(missing: tuple[str, ...]) -> str:
    return "all but " + ", ".join(missing) if missing else "all"


def random_pretrained(name: str) -> Any:
    """A Transformers model in float64 whose parameters are drawn at random, large enough for each part to show."""
    config = CONFIGS[name]()
    with quiet_libraries(), torch.random.fork_rng(devices=[]):
        model = _auto_class(config).from_config(config, attn_implementation="eager", experts_implementation="eager")
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.data = (parameter.data + 0.3 * torch.randn(parameter.shape, generator=generator)).double()
    return model.double().eval().requires_grad_(False)


@contextmanager
def loaded(name: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The Transformers model, and what each backend makes of it: a model, or the sentence it is refused with."""
    with tempfile.TemporaryDirectory() as folder, quiet_libraries():
        pretrained = random_pretrained(name)
        pretrained.save_pretrained(folder)
        models: dict[str, Any] = {}
        for backend in BACKENDS:
            try:
                models[backend] = ls.load_model(Path(folder), backend=backend, dtype="float64")
                ls.attribute(models[backend], IDS, ls.Semantic(TARGET))
            except ModelError as error:
                models[backend] = str(error)
        yield pretrained, models


@cache
def examine(name: str) -> dict[str, Support]:
    """What each backend supports. What it does must be right: scopes at the embedding and at every layer equal those
    of Transformers' autograd; sites, paths and heads those of the other backend, and laws that hold on any model.

    Raises:
        AssertionError: where a backend gives a wrong number instead of an error.
    """
    with loaded(name) as (pretrained, models):
        found, answers = {}, {}
        for backend, model in models.items():
            if isinstance(model, str):
                found[backend] = Support(refused=model)
                continue
            refused = _check_scopes(pretrained, model)
            support, answers[backend] = _try(model)
            found[backend] = replace(support, scopes=refused)
        if len(answers) == 2:
            for key in answers["hooked"].keys() & answers["bridge"].keys():
                assert_close(answers["bridge"][key], answers["hooked"][key], **CLOSE, msg=lambda m, k=key: f"{k}: {m}")
        return found


def _check_scopes(pretrained: Any, model: Any) -> tuple[str, ...]:
    """The scopes refused, by class name; the others equal Transformers' autograd."""
    layers = next(part for part in pretrained.modules() if isinstance(part, torch.nn.ModuleList) and len(part) == 2)
    # TransformerLens takes BLOOM's norm of the embedding into its embedding.
    norm = getattr(pretrained.base_model, "word_embeddings_layernorm", None)
    refused = []
    for scope, objective in SCOPES.items():
        try:
            attribution = ls.attribute(model, IDS, objective, layers=True)
        except ObjectiveError:
            refused.append(type(objective).__name__)
            continue
        expected = reference.transformers_scopes(pretrained, IDS, scope, TARGET, list(layers), norm)
        for scores, row in zip((attribution.scores, *attribution.layers), expected, strict=True):
            assert float(row.max()) > 0
            assert_close(scores, row, rtol=CLOSE["rtol"], atol=1e-5 * float(row.max()))
    return tuple(refused)


def _try(model: Any) -> tuple[Support, dict[str, torch.Tensor]]:
    answers: dict[str, torch.Tensor] = {}
    free = ls.attribute(model, IDS, ls.Semantic(TARGET))

    def works(key: str, run: Callable[[], Any]) -> bool:
        try:
            answers[key] = run()
        except LensScopesError:
            return False
        return True

    def site(name: str) -> torch.Tensor:
        read = ls.attribute(model, IDS, ls.Semantic(TARGET), sites=name).sites
        assert len(read) == model.cfg.n_layers and all(scores.any() for scores in read.values()), name
        return torch.cat([scores.flatten() for scores in read.values()])

    def path(name: str) -> torch.Tensor:
        scores = ls.attribute(model, IDS, ls.Semantic(TARGET), through=(PATHS | RULES)[name]).scores
        if not (name in ("Frozen gates", "identity") and model.cfg.act_fn == "relu"):  # with a constant gate by itself
            assert not torch.allclose(scores, free.scores), name
        if name in ("MLP", "Skip"):
            assert scores[-1] > 0 and not scores[:-1].any(), "only attention moves anything between tokens"
        return scores

    def heads() -> torch.Tensor:
        inspected = ls.inspect_heads(model, IDS, ls.Semantic(TARGET), baseline="zero", verify=3)
        assert_close(inspected.by_source.sum(-1), inspected.effect, rtol=1e-6, atol=1e-8)
        return inspected.effect

    def batch() -> torch.Tensor:
        together = ls.attribute_batch(model, [SHORT, IDS], ls.Fisher())
        for item, ids in zip(together, (SHORT, IDS), strict=True):
            alone = ls.attribute(model, ids, ls.Fisher()).scores
            assert_close(item.scores, alone, rtol=CLOSE["rtol"], atol=1e-5 * float(alone.max()))
        return together[0].scores

    sites = tuple(name for name in _IN_BLOCK if not works(f"site {name}", lambda name=name: site(name)))
    paths = tuple(name for name in PATHS if not works(f"path {name}", lambda name=name: path(name)))
    rules = tuple(name for name in RULES if not works(f"rule {name}", lambda name=name: path(name)))
    return Support(None, (), sites, paths, rules, works("heads", heads), works("batch", batch)), answers


def rows(name: str) -> list[str]:
    """The architecture's lines of the table: one where the backends support the same."""
    cells = {backend: support.cells for backend, support in examine(name).items()}
    if len(set(cells.values())) == 1:
        cells = {"both": next(iter(cells.values()))}
    return [f"| {name} | {backend} | {' | '.join(values)} |" for backend, values in cells.items()]


def table() -> list[str]:
    """The lines of the whole table."""
    head = ["| architecture | backend | scopes | sites | paths | rules | heads | batch |", "| --- |" + 7 * " --- |"]
    return head + [row for name in CONFIGS for row in rows(name)]


def written() -> dict[tuple[str, str], tuple[str, ...]]:
    """The cells of the table as docs/pages/models.md has them, by architecture and backend."""
    text = PAGE.read_text(encoding="utf-8").partition(MARKS[0])[2].partition(MARKS[1])[0]
    found = {}
    for line in text.strip().splitlines()[2:]:
        name, backend, *cells = line.strip("| ").split(" | ")
        for one in ("hooked", "bridge") if backend == "both" else (backend,):
            found[name, one] = tuple(cells)
    return found


if __name__ == "__main__":
    text = "\n".join(table())
    whole = PAGE.read_text(encoding="utf-8")
    pattern = f"(?<={re.escape(MARKS[0])}).*(?={re.escape(MARKS[1])})"
    PAGE.write_text(re.sub(pattern, lambda _: f"\n\n{text}\n\n", whole, flags=re.DOTALL), encoding="utf-8")
    print(text)
