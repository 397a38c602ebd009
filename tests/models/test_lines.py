"""Both lines of TransformerLens: 3.9 with HookedTransformer, 4 without; the same scores of the embedded model on both.

    python tests/models/test_lines.py

writes the stored scores anew, with transformer-lens 3.9.
"""

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from budgets import smallest

import lens_scopes as ls
from lens_scopes.engine.model import has_hooked
from lens_scopes.errors import ModelError
from lens_scopes.models import hooked, load

GOLDEN = Path(__file__).parents[1] / "support" / "golden" / "gemma.json"
PROMPT = "German: Der Hund schläft auf dem Sofa. English: The dog sleeps on the"
SHORT = "The capital of France is"
PACKAGE = Path(ls.__file__).parent
REMOVED = ("HookedTransformer", "HookedTransformerConfig", "loading_from_pretrained", "components", "utils", "train")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("lines") / "tiny"
    config = transformers.GPT2Config(vocab_size=23, n_positions=32, n_embd=16, n_layer=2, n_head=4)
    transformers.GPT2LMHeadModel(config).save_pretrained(path)
    return path


@pytest.fixture
def without_hooked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with transformer-lens 4."""
    monkeypatch.setattr(load, "has_hooked", lambda: False)
    monkeypatch.setattr(hooked, "has_hooked", lambda: False)
    monkeypatch.setattr(load, "require_hooked", hooked.require_hooked)


def test_the_default_backend_is_the_one_that_the_line_has(folder: Path) -> None:
    expected = "HookedTransformer" if has_hooked() else "TransformerBridge"
    assert type(ls.load_model(folder)).__name__ == expected
    assert type(ls.load_model(folder, backend=None)).__name__ == expected


def test_without_hooked_transformer_the_default_is_a_bridge(without_hooked: None, folder: Path) -> None:
    model = ls.load_model(folder)
    assert ls.model_record(model).backend == "bridge"
    assert ls.attribute(model, [1, 2, 3], ls.Fisher(), layers=True).layers.any()


@pytest.mark.parametrize("name", ["gemma-3-270m", "gpt2", Path("somewhere")], ids=str)
def test_a_hooked_transformer_asked_for_where_there_is_none_gets_one_sentence(
    without_hooked: None, name: str | Path
) -> None:
    """Before anything of the model is read."""
    with pytest.raises(
        ModelError, match=r'^backend="hooked" needs .* transformer-lens 4 removed.*"transformer-lens<4"$'
    ):
        ls.load_model(name, backend="hooked")


def test_pickled_weights_say_what_reads_them(without_hooked: None) -> None:
    with pytest.raises(ModelError, match='own format: load it with backend="hooked" and transformer-lens below 4$'):
        ls.load_model("NeelNanda/SoLU_2L512W_C4_Code", trust_remote_code=True)


def test_what_version_4_removed_is_imported_in_one_module() -> None:
    importers = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if list(_imports(path))}
    assert importers == {"models/hooked.py"}


def _imports(path: Path) -> Iterator[str]:
    """Names that version 4 removed, where a module imports them when it runs."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for part in node.body
        for inner in ast.walk(part)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "transformer_lens":
            names = [*(node.module or "").split(".")[1:2], *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".")[1] for alias in node.names if alias.name.startswith("transformer_lens.")]
        else:
            continue
        yield from (name for name in names if name in REMOVED)


def results(model: Any) -> dict[str, Any]:
    """What a user asks of the embedded model: scopes, layers, a path, a site, heads, a batch, slices."""
    fisher = ls.attribute(model, PROMPT, ls.Fisher(2), layers=True, sites="blocks.3.attn.hook_z")
    heads = ls.inspect_heads(model, SHORT, ls.Semantic(" Paris"), verify=2)
    batch = ls.attribute_batch(model, [SHORT, PROMPT], ls.Temperature())
    limit = smallest(model, len(batch[0].tokens), model.cfg.n_layers)
    least = ls.attribute(model, SHORT, ls.Semantic(" Paris"), layers=True, memory=limit)
    assert least.memory is not None and least.memory.sliced
    return {
        "tokens": fisher.tokens,
        "fisher": fisher.scores.tolist(),
        "layers": fisher.layers[::6].tolist(),
        "values": fisher.sites["blocks.3.attn.hook_z"].tolist(),
        "through layers 5 to 9": ls.attribute(
            model, PROMPT, ls.LogProb(" sofa"), through=ls.Layers(5, 9)
        ).scores.tolist(),
        "temperature": [item.scores.tolist() for item in batch],
        "heads": heads.effect[::6].tolist(),
        "in slices": least.layers[::6].tolist(),
    }


def test_the_embedded_model_has_the_same_scores_on_both_lines(gemma: Any) -> None:
    stored = json.loads(GOLDEN.read_text(encoding="utf-8"))
    computed = results(gemma)
    assert computed.keys() == stored["results"].keys() and computed.pop("tokens") == stored["results"].pop("tokens")
    for name, values in computed.items():
        for row, expected in zip(_rows(values), _rows(stored["results"][name]), strict=True):
            torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()), msg=name)


def _rows(values: list[Any]) -> list[torch.Tensor]:
    nested = isinstance(values[0], list)
    return [torch.tensor(row) for row in (values if nested else [values])]


if __name__ == "__main__":
    numbers = json.loads(
        json.dumps(results(ls.load_model("gemma-3-270m"))), parse_float=lambda text: float(f"{float(text):.7g}")
    )
    note = "gemma-3-270m as a HookedTransformer of transformer-lens 3.9, in float32"
    GOLDEN.write_text(json.dumps({"source": note, "results": numbers}, ensure_ascii=False) + "\n", encoding="utf-8")
