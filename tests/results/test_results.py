"""All six kinds of results: kept to the bit, refused when damaged, ranked alike, and subtracted."""

import json
import math
import random
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from docstring_examples import example_model
from fake_attribution import fake_attribution
from fake_results import fake_heads, fake_matrix, fake_modes
from number_models import SERIES, with_numbers
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from tiny_models import gemma_like, llama_like
from torch import Tensor

import lens_scopes as ls
from lens_scopes.errors import FileError, ResultError
from lens_scopes.results.load import KINDS
from lens_scopes.results.storage import files
from lens_scopes.scopes.contract import ELEMENTS

IDS = [3, 17, 0, 8, 22, 3]
OTHER_IDS = [3, 5, 0, 8, 22, 3]


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    """One result of each kind, of one model and prompt."""
    model = gemma_like()
    found = [
        ls.attribute(model, IDS, ls.Fisher(rank=2), layers=True, sites=["hook_z"]),
        ls.inspect_heads(model, IDS, ls.Semantic(5)),
        ls.patch_cells(model, ls.attribute(model, IDS, ls.Semantic(5), layers=True, readout=ls.Dot(OTHER_IDS)), 4),
        ls.attribute_all(model, IDS, ls.Semantic()),
        ls.attribute_all(model, IDS, ls.Semantic(), generate=3).total_influence((8, 9)),
        ls.inspect_modes(model, IDS, 2),
        ls.inspect_series(with_numbers(llama_like()), SERIES, ls.Fisher()),
        ls.information_flow(model, IDS, {"first": range(1, 3), "second": range(3, 5)}, rank=4, samples=4),
    ]
    return {result.kind: result for result in found}


kinds = pytest.mark.parametrize("kind", list(KINDS))


def same(one: Any, other: Any) -> bool:
    """Whether two values are of one type and equal to the bit."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        return one.contiguous().view(torch.uint8).tolist() == other.contiguous().view(torch.uint8).tolist()
    if is_dataclass(one):
        return all(same(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


def refusal(call: Callable[[], Any], error: type[Exception] = FileError) -> str:
    with pytest.raises(error) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Keeping


@kinds
def test_every_kind_is_read_back_to_the_bit(results: dict[str, Any], kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    results[kind].save(path)
    assert same(KINDS[kind].load(path), results[kind]) and same(ls.load(path), results[kind])


@kinds
def test_every_kind_is_read_from_its_plain_values(results: dict[str, Any], kind: str) -> None:
    plain = json.loads(json.dumps(results[kind].to_dict()))
    again = KINDS[kind].from_dict(plain)
    assert again.to_dict() == results[kind].to_dict() and again.top(3) == results[kind].top(3)


def test_null_in_plain_values_is_not_a_number() -> None:
    plain = fake_attribution().to_dict()
    plain["scores"][3] = None
    scores = ls.Attribution.from_dict(plain).scores
    assert scores.isnan().nonzero().tolist() == [[3]]


@kinds
def test_every_kind_says_what_it_claims_and_how_it_was_made(results: dict[str, Any], kind: str) -> None:
    result = results[kind]
    assert tuple(result.contract) == ELEMENTS and all(result.contract.values())
    assert result.tokens and result.prediction.top and result.versions["torch"]
    assert kind == "series" or result.token_ids[: len(IDS)] == IDS
    assert result.settings["objective"]["scope"] == result.scope and result.model["n_layers"] == 3
    assert result.memory is not None and not result.memory.sliced and result.memory.shortages == 0


def test_a_comparison_method_holds_no_graph() -> None:
    result = ls.attribute(gemma_like(), IDS, ls.RandomScores())
    assert result.memory is None and result.details is None


def test_details_are_typed_and_the_rest_is_kept(results: dict[str, Any], tmp_path: Path) -> None:
    details = results["attribution"].details
    assert len(details.eigenvalues) == 2 and details.residual >= 0 and 0 <= details.gap <= 1 and details.other == {}

    def odd(y: Tensor, logits: Tensor) -> ls.Directions:
        return ls.Directions(y[None], y.new_ones(1), details={"residual": 0.5, "why": torch.ones(2)})

    result = ls.attribute(gemma_like(), IDS, odd)
    result.save(tmp_path / "a")
    loaded = ls.Attribution.load(tmp_path / "a").details
    assert loaded is not None and loaded.residual == 0.5 and loaded.other == {"why": [1.0, 1.0]}


# Refusing


@kinds
def test_a_file_with_any_byte_changed_is_refused(results: dict[str, Any], kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    content = results[kind].to_safetensors()
    draw = random.Random(0)
    header = 8 + int.from_bytes(content[:8], "little")
    places = [*range(12), header - 1, len(content) - 1]
    places += [draw.randrange(header) for _ in range(40)] + [draw.randrange(len(content)) for _ in range(40)]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        refusal(lambda: ls.load(path))
    path.write_bytes(content)
    assert same(ls.load(path), results[kind])


@kinds
def test_a_file_of_another_kind_is_refused(results: dict[str, Any], kind: str, tmp_path: Path) -> None:
    results[kind].save(tmp_path / "a")
    for other in KINDS.keys() - {kind}:
        message = refusal(lambda other=other: KINDS[other].load(tmp_path / "a"))
        assert repr(kind) in message and other in message


def sealed(kind: str, record: str, result: Any) -> bytes:
    """A file with any record in it, and the checksum of that."""
    tensors = load_bytes(result.to_safetensors())
    metadata = {"format": files.FORMAT, "version": str(files.VERSION), "kind": kind, "record": record}
    blank = save_bytes(tensors, metadata | {"checksum": "0" * 64})
    return blank.replace(b"0" * 64, sha256(blank).hexdigest().encode(), 1)


@kinds
def test_what_is_no_record_of_a_result_is_refused(results: dict[str, Any], kind: str, tmp_path: Path) -> None:
    for record in ("[" * 100_000, "null", "[]", "1" * 5000, "{}", '{"tokens": 1e999}', "not JSON"):
        (tmp_path / "a").write_bytes(sealed(kind, record, results[kind]))
        refusal(lambda: ls.load(tmp_path / "a"))


@kinds
def test_lone_surrogates_are_kept_and_shown(results: dict[str, Any], kind: str, tmp_path: Path) -> None:
    odd = replace(results[kind], turns={"\ud800": (0, 1)}, warnings=["\udfff"])
    odd.save(tmp_path / "a.safetensors")
    read = ls.load(tmp_path / "a.safetensors")
    assert read.turns == odd.turns and read.warnings == odd.warnings
    assert "⟨U+DFFF⟩" in odd.to_html(tmp_path / "a.html").read_text(encoding="utf-8")
    (tmp_path / "a.html").read_text(encoding="utf-8")


def test_files_of_before_the_first_release_are_refused_with_what_to_do(tmp_path: Path) -> None:
    for format in ("lens_scopes.attribution", "lens_scopes.information_flow"):
        metadata = {"format": format, "version": "1", "record": "{}"}
        (tmp_path / "a").write_bytes(save_bytes({"scores": torch.ones(3)}, metadata))
        assert "compute and save it again" in refusal(lambda: ls.load(tmp_path / "a"))


WRONG: dict[str, list[tuple[str, Any]]] = {
    "attribution": [
        ("position", "5"), ("position", True), ("tokens", ["a"]), ("tokens", [1] * 6), ("special", [0] * 6),
        ("prediction", {"top": [], "entropy": "x", "beta": 1.0}), ("scores", [1.0] * 5), ("scores", "none"),
        ("layers", [[1.0] * 5] * 3), ("layer_names", ["a"]), ("contract", {"a": 1}), ("memory", {"rows": 1}),
        ("offsets", [[1, 2]]), ("details", {"residual": "small"}), ("sites", {"a": [1.0]}), ("unheard_of", 1),
        ("model", {}), ("model", None), ("turns", {"user 1": [0, "x"]}),
    ],
    "heads": [("effect", [1.0]), ("ablations", [{"layer": 0}]), ("patterns", {"L0H0": [[1.0]]}), ("spearman", "x")],
    "cells": [("effect", [1.0]), ("cells", [{"layer": 0}]), ("baseline_tokens", ["a"]), ("spearman", "x")],
    "matrix": [("destinations", [0]), ("matrix", [[1.0]]), ("spans", {"a": [1]}), ("generated", 1.5)],
    "influence": [("scores", [[1.0]]), ("through", [[1.0]]), ("target", [0, 1]), ("target", [1]), ("of", 3)],
    "modes": [("modes", [{"eigenvalue": 1.0}]), ("replacements", []), ("baseline", 3)],
    "series": [("written", ["a"]), ("spans", [[0, 1]]), ("forecast", {"values": 1}), ("separator", 3)],
    "flow": [("eigenvalues", [[[1.0]]]), ("omitted", [1.0]), ("generated", 0), ("targets", [])],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "name", "value"), [(kind, *wrong) for kind, rows in WRONG.items() for wrong in rows])
def test_a_wrong_field_is_refused_by_its_name(results: dict[str, Any], kind: str, name: str, value: Any) -> None:
    plain = results[kind].to_dict() | {name: value}
    message = refusal(lambda: KINDS[kind].from_dict(plain), ResultError)
    assert (
        name in message or {"layer_names": "layers", "tokens": "token_ids", "destinations": "targets"}[name] in message
    )


def test_a_model_without_size_is_refused(results: dict[str, Any]) -> None:
    for name in ("n_layers", "d_model", "d_vocab", "n_ctx"):
        record = results["flow"].to_dict()
        record["model"] = {**record["model"], name: -1}
        with pytest.raises(ResultError, match=rf"model\.{name} is -1"):
            type(results["flow"]).from_dict(record)


@pytest.mark.parametrize("name", ["token_ids", "tokens", "probabilities"])
def test_a_lens_of_other_layers_is_refused(name: str) -> None:
    att = ls.attribute(example_model(), "The capital of France is", layers=True, lens=True)
    record = att.to_dict()
    record["lens"] = {**record["lens"], name: record["lens"][name][:1]}
    with pytest.raises(ResultError, match=rf"lens\.{name}"):
        ls.Attribution.from_dict(record)


@kinds
def test_a_missing_field_is_refused_by_its_name(results: dict[str, Any], kind: str) -> None:
    for name in ("tokens", "prediction", "contract"):
        plain = {key: value for key, value in results[kind].to_dict().items() if key != name}
        assert f"{name} is missing" in refusal(lambda plain=plain: KINDS[kind].from_dict(plain), ResultError)


# Ranking


@kinds
def test_top_has_one_shape(results: dict[str, Any], kind: str) -> None:
    top = results[kind].top(3, special=True)
    sizes = [abs(score) for _, _, score in top]
    assert 1 <= len(top) <= 3 and sizes == sorted(sizes, reverse=True)
    assert all(isinstance(item, ls.Ranked) and isinstance(item.label, str) for item in top)
    assert sizes[0] == float(results[kind].values().abs().max())
    assert results[kind].top(0) == [] and len(results[kind].top(10**6, special=True)) == len(results[kind].entries())


def test_top_names_the_place_of_its_score() -> None:
    matrix = fake_matrix()
    for (dest, src), _, score in matrix.top(4):
        assert score == float(matrix.matrix[matrix.destinations.index(dest), src]) and not matrix.special[src]
    heads = fake_heads()
    assert heads.top(1) == [((13, 1), "L13H1", -2.5)]
    modes = fake_modes()
    assert [modes.replacements[index].actual_nats for index, _, _ in modes.top(2)] == [0.5, 0.02]


def test_what_is_not_a_number_ranks_last() -> None:
    att = fake_attribution(["a", "b", "c"], [math.nan, 1.0, -math.inf], n_layers=0)
    assert [index for index, _, _ in att.top(3)] == [2, 1, 0]


@kinds
def test_a_table_has_a_row_for_each_entry(results: dict[str, Any], kind: str) -> None:
    assert len(results[kind].to_pandas()) == len(results[kind].entries())


# Differences


@kinds
def test_a_result_minus_itself_is_zero(results: dict[str, Any], kind: str) -> None:
    difference = results[kind] - results[kind]
    assert (
        not difference.scores.any() and difference.parts and not any(part.any() for part in difference.parts.values())
    )
    assert len(difference.to_pandas()) == len(results[kind].entries())
    json.dumps(difference.to_dict())


def test_a_difference_is_that_of_the_scores_and_changes_its_sign() -> None:
    model = gemma_like()
    one, other = (ls.attribute(model, IDS, ls.Semantic(token), layers=True) for token in (5, 7))
    difference = one.difference(other)
    assert torch.equal(difference.scores, one.scores - other.scores)
    assert torch.equal(difference.parts["layers"], one.layers - other.layers)
    assert torch.equal((other - one).scores, -difference.scores)
    index, label, score = difference.top(1)[0]
    assert label == one.tokens[int(str(index))] and score == float(one.scores[index] - other.scores[index])


def test_flows_are_subtracted_at_one_sigma(results: dict[str, Any]) -> None:
    flow = results["flow"]
    assert not (flow - replace(flow, sigma=3.0)).scores.any()


def test_results_that_do_not_compare_are_refused(results: dict[str, Any]) -> None:
    att, heads = results["attribution"], results["heads"]
    assert "kind attribution" in refusal(lambda: att - heads, ResultError)
    other = replace(att, tokens=["x", *att.tokens[1:]])
    assert "'x' at index 0" in refusal(lambda: att - other, ResultError)
    assert "units" in refusal(lambda: att - replace(att, scope="semantic"), ResultError)
    model = gemma_like()
    read = [ls.attribute(model, IDS, ls.Fisher(), score_site=site, readout="relative") for site in ("hook_v", None)]
    assert "score_sites" in refusal(lambda: read[0] - read[1], ResultError)
    assert "other rows" in refusal(lambda: fake_matrix() - fake_matrix(generated=3), ResultError)
    with pytest.raises(TypeError):
        att - 1
