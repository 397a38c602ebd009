"""The result object: kept and read back to the bit, refused when damaged, and turned into tables."""

import dataclasses
import errno
import json
import math
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from docstring_examples import example_model
from fake_attribution import HOSTILE_TOKENS, fake_attribution
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from tiny_models import gemma_like, gpt2_like
from torch import Tensor

import lens_scopes as ls
from lens_scopes.engine.final_state import PredictedToken
from lens_scopes.errors import FileError, PromptError
from lens_scopes.results.attribution import Attribution
from lens_scopes.results.storage.files import FORMAT, VERSION
from lens_scopes.results.storage.writing import write_whole

IDS = [3, 17, 0, 8, 22, 3]
TEXT = "two words\nand 😀"
TOKENS = ["<bos>", "two", " words", "\n", "and", " 😀"]
OFFSETS = [(0, 0), (0, 3), (3, 9), (9, 10), (10, 13), (13, 15)]


@pytest.fixture(scope="module")
def sampled() -> Attribution:
    """A result with everything in it that a result can have."""
    objective = ls.Fisher(rank="trace", samples=4, exact=2)
    att = ls.attribute(gemma_like(), IDS, objective, layers="resid_post", sites=["hook_z", "hook_mlp_out"])
    return dataclasses.replace(
        att,
        text=TEXT,
        tokens=TOKENS,
        offsets=OFFSETS,
        special=[True, *[False] * 5],
        target=PredictedToken(5, " sofa", 0.1 + 0.2),
        warnings=["first, with 'quotes'", "second"],
    )


@pytest.fixture(scope="module")
def plain() -> Attribution:
    return ls.attribute(gpt2_like(dtype=torch.float32), IDS, ls.Semantic(5))


def assert_identical(one: Attribution, other: Attribution) -> None:
    for field in dataclasses.fields(Attribution):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if field.name == "sites":
            assert list(a) == list(b)
            pairs = list(zip(a.values(), b.values(), strict=True))
        elif isinstance(a, Tensor) or isinstance(b, Tensor):
            pairs = [(a, b)]
        else:
            assert a == b and type(a) is type(b), field.name
            continue
        for x, y in pairs:
            assert x.dtype == y.dtype and x.shape == y.shape, field.name
            assert x.contiguous().view(torch.uint8).tolist() == y.contiguous().view(torch.uint8).tolist(), field.name


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(FileError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Keeping


def test_a_result_is_read_back_to_the_bit(sampled: Attribution, plain: Attribution, tmp_path: Path) -> None:
    assert sampled.layers is not None and sampled.standard_error is not None and len(sampled.sites) == 6
    for att in (sampled, plain, fake_attribution()):
        att.save(tmp_path / "result.safetensors")
        assert_identical(Attribution.load(tmp_path / "result.safetensors"), att)
        att.save(str(tmp_path / "by name.safetensors"))
        assert_identical(ls.Attribution.load(str(tmp_path / "by name.safetensors")), att)


def test_strange_tokens_and_numbers_survive(tmp_path: Path) -> None:
    scores = [math.nan, math.inf, -math.inf, -0.0, 5e-324, *range(len(HOSTILE_TOKENS) - 5)]
    att = fake_attribution(HOSTILE_TOKENS, scores=scores, n_layers=0)
    sites = {"a/b.c": torch.ones(len(att), 2, 3, dtype=torch.bfloat16)}
    att = dataclasses.replace(att, sites=sites, settings={"π": [1.5]})
    att.save(tmp_path / "a")
    assert_identical(Attribution.load(tmp_path / "a"), att)


def test_views_of_larger_tensors_and_shared_memory_are_kept(plain: Attribution, tmp_path: Path) -> None:
    table = torch.arange(12.0).reshape(2, 6)
    att = dataclasses.replace(plain, scores=table[0], layers=table, layer_names=["a", "b"], sites={"c": table[1]})
    att.save(tmp_path / "a")
    assert_identical(Attribution.load(tmp_path / "a"), att)


def test_results_of_a_batch_and_of_a_site_read_twice_are_kept(tmp_path: Path) -> None:
    settings = {"layers": True, "sites": ["hook_embed", "hook_resid_pre"]}
    for att in ls.attribute_batch(gpt2_like(), [IDS, IDS[:2], IDS[1:]], ls.Temperature(), **settings):
        att.save(tmp_path / "a")
        assert_identical(Attribution.load(tmp_path / "a"), att)


def test_a_file_names_its_format_and_is_plain_safetensors(sampled: Attribution, tmp_path: Path) -> None:
    sampled.save(tmp_path / "a")
    content = (tmp_path / "a").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert header["__metadata__"]["format"] == FORMAT and header["__metadata__"]["version"] == str(VERSION)
    record = json.loads(header["__metadata__"]["record"])
    assert record["tokens"] == TOKENS and record["contract"] == sampled.contract
    assert set(load_bytes(content)) == {
        "scores", "layers", "standard_error", "layers_standard_error", *(f"sites/{name}" for name in sampled.sites),
    }  # fmt: skip


# Refusing


def signed(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """A file with the right checksum, so that what else is wrong with it is found."""
    blank = save_bytes(tensors, metadata | {"checksum": "0" * 64})
    return blank.replace(b'"checksum":"' + b"0" * 64, b'"checksum":"' + sha256(blank).hexdigest().encode())


def with_metadata(content: bytes, **changes: Any) -> bytes:
    """The same tensors, with other metadata; None removes an entry."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    metadata = header["__metadata__"] | changes
    return signed(load_bytes(content), {key: value for key, value in metadata.items() if value is not None})


def with_record(content: bytes, **changes: Any) -> bytes:
    """The same tensors, with another record; ... removes an entry."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    record = json.loads(header["__metadata__"]["record"]) | changes
    return with_metadata(content, record=json.dumps({k: v for k, v in record.items() if v is not ...}))


def with_tensors(content: bytes, **changes: Tensor | None) -> bytes:
    """The same metadata, with other tensors; None removes one."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    tensors = {name: tensor for name, tensor in (load_bytes(content) | changes).items() if tensor is not None}
    return signed(tensors, header["__metadata__"])


@pytest.fixture(scope="module")
def content(sampled: Attribution, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "a"
    sampled.save(path)
    return path.read_bytes()


def test_a_truncated_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "result.safetensors"
    for length in (0, 1, 7, 8, 9, 100, len(content) // 2, len(content) - 200, len(content) - 1):
        path.write_bytes(content[:length])
        assert "result.safetensors" in refusal(lambda: Attribution.load(path))
    path.write_bytes(content + b"\0")
    refusal(lambda: Attribution.load(path))
    path.write_bytes(content)
    assert len(Attribution.load(path)) == len(IDS)


def test_other_kinds_of_files_are_refused(content: bytes, tmp_path: Path) -> None:
    draw = random.Random(0)
    path = tmp_path / "other"
    for other in (
        draw.randbytes(5000),
        b"\0" * 5000,
        b"\xff" * 5000,
        "<!doctype html>…".encode() * 100,
        json.dumps({"scores": [1.0]}).encode(),
        pickle.dumps({"scores": [1.0]}),
        save_bytes({"scores": torch.ones(3)}),
        save_bytes({"model.embed.weight": torch.ones(3)}, {"format": "pt"}),
    ):
        path.write_bytes(other)
        assert str(path) in refusal(lambda: Attribution.load(path))


def test_another_version_is_refused_with_what_to_do(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a"
    for version in (str(VERSION + 1), "99"):
        path.write_bytes(with_metadata(content, version=version))
        message = refusal(lambda: Attribution.load(path))
        assert f"version {version}" in message and "Upgrade" in message
    for version in ("", "one", "-1", "1.5", "²", None):
        path.write_bytes(with_metadata(content, version=version))
        assert "version" in refusal(lambda: Attribution.load(path))


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: with_metadata(content, record=None),
        lambda content: with_metadata(content, record="{"),
        lambda content: with_metadata(content, record="[]"),
        lambda content: with_metadata(content, record="null"),
        lambda content: with_record(content, tokens=...),
        lambda content: with_record(content, tokens=TOKENS[1:]),
        lambda content: with_record(content, special=[]),
        lambda content: with_record(content, unheard_of=1),
        lambda content: with_record(content, prediction=None),
        lambda content: with_record(content, prediction={"top": [{}], "entropy": 1.0, "beta": 1.0}),
        lambda content: with_record(content, target=[1]),
        lambda content: with_record(content, offsets=[1, 2]),
        lambda content: with_record(content, layer_names=["blocks.0.hook_resid_post"]),
        lambda content: with_tensors(content, scores=None),
        lambda content: with_tensors(content, scores=torch.ones(5)),
        lambda content: with_tensors(content, scores=torch.tensor(1.0)),
        lambda content: with_tensors(content, layers=torch.ones(3, 5)),
        lambda content: with_tensors(content, **{"sites/blocks.0.hook_mlp_out": torch.ones(5)}),
        lambda content: with_record(content, position="5"),
    ],
)
def test_a_damaged_record_is_refused(content: bytes, damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(damage(content))
    assert "damaged" in refusal(lambda: Attribution.load(path))


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path, tmp_path / ("x" * 300)):
        assert str(path) in refusal(lambda path=path: Attribution.load(path))


# Writing, whole or not at all


def test_what_cannot_be_written_is_refused(plain: Attribution, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    inside = ("no folder/a", "file/a", "x" * 300)
    for path in (tmp_path, Path("/proc/none/a"), *(tmp_path / name for name in inside)):
        assert str(path) in refusal(lambda path=path: plain.save(path))
    assert os.listdir(tmp_path) == ["file"] and (tmp_path / "file").read_text() == "in the way"


def test_special_files_are_not_replaced(plain: Attribution, tmp_path: Path) -> None:
    """A rename over a device such as /dev/null would put a plain file in its place."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert str(pipe) in refusal(lambda: plain.save(pipe))
    assert pipe.is_fifo() and os.listdir(tmp_path) == ["pipe"]


@pytest.mark.parametrize(
    ("module", "name", "error"),
    [
        (os, "open", PermissionError(errno.EACCES, "Permission denied")),
        (os, "fdopen", OSError(errno.ENOSPC, "No space left on device")),
        (os, "chmod", PermissionError(errno.EPERM, "Operation not permitted")),
        (os, "replace", PermissionError(errno.EACCES, "Permission denied")),
        (os, "fdopen", KeyboardInterrupt()),
        (os, "chmod", KeyboardInterrupt()),
        (os, "replace", KeyboardInterrupt()),
    ],
    ids=str,
)
def test_an_interrupted_write_leaves_the_earlier_file_and_nothing_else(
    plain: Attribution, tmp_path: Path, module: Any, name: str, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "result.safetensors"
    plain.save(path)
    earlier = path.read_bytes()

    def fail(*arguments: Any, **keywords: Any) -> Any:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(module, name, fail)
        if isinstance(error, KeyboardInterrupt):
            with pytest.raises(KeyboardInterrupt):
                dataclasses.replace(plain, text="another").save(path)
        else:
            assert str(error.strerror) in refusal(lambda: dataclasses.replace(plain, text="another").save(path))  # type: ignore[attr-defined]
    assert path.read_bytes() == earlier and os.listdir(tmp_path) == ["result.safetensors"]


_SAVED_AGAIN = """
import sys
sys.path.insert(0, sys.argv[1])
import lens_scopes as ls
for number in range(3):
    ls.load(sys.argv[2]).save(f"{sys.argv[3]}-{number}.safetensors")
"""


def test_equal_results_are_equal_files_in_every_process(sampled: Attribution, tmp_path: Path) -> None:
    first = tmp_path / "first.safetensors"
    sampled.save(first)
    for seed in ("1", "2"):
        words = ["-W", "ignore", "-c", _SAVED_AGAIN, str(Path(__file__).parents[2]), str(first), str(tmp_path / seed)]
        subprocess.run([sys.executable, *words], env=os.environ | {"PYTHONHASHSEED": seed}, check=True, timeout=300)
    files = [path.read_bytes() for path in tmp_path.iterdir()]
    assert len(files) == 7 and len(set(files)) == 1
    assert int.from_bytes(files[0][:8], "little") % 8 == 0


def test_a_write_that_stops_half_way_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "page.html"
    write_whole(path, b"earlier")
    opened = os.fdopen

    class Full:
        def __init__(self, descriptor: int, mode: str) -> None:
            self.file = opened(descriptor, mode)

        def __enter__(self) -> "Full":
            return self

        def __exit__(self, *error: object) -> None:
            self.file.close()

        def write(self, content: bytes) -> None:
            self.file.write(content[:3])
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fdopen", Full)
    assert "No space left" in refusal(lambda: write_whole(path, b"later and longer"))
    monkeypatch.undo()
    assert path.read_bytes() == b"earlier" and os.listdir(tmp_path) == ["page.html"]


def test_a_written_file_has_the_modes_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "a", b"1")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_relative_name_is_written_where_the_process_is(
    plain: Attribution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plain.save("a.safetensors")
    plain.save("a.safetensors")
    assert os.listdir(tmp_path) == ["a.safetensors"]


# Reading


def test_the_repr_says_what_was_explained(sampled: Attribution, plain: Attribution) -> None:
    assert "\n" not in repr(sampled)
    leading = [repr(token) for _, token, _ in sampled.top(3)]
    for part in ("Fisher(rank='trace')", "custom", "6 tokens × 3 layers", "position 5", "predicts '#", *leading):
        assert part in repr(sampled), part
    assert "<bos>" not in repr(sampled)
    assert "6 tokens," in repr(plain) and "Semantic('#5')" in repr(plain)
    nameless = dataclasses.replace(plain, model={})
    assert "on model" in repr(nameless)


def test_top_tokens_leave_special_ones_out(sampled: Attribution) -> None:
    att = dataclasses.replace(sampled, scores=torch.tensor([9.0, -3.0, 2.0, 2.0, -1.0, 0.0]))
    assert att.top(3) == [(1, "two", -3.0), (2, " words", 2.0), (3, "\n", 2.0)]
    assert att.top(2, special=True) == [(0, "<bos>", 9.0), (1, "two", -3.0)]
    assert [index for index, _, _ in att.top()] == [1, 2, 3, 4, 5]
    assert len(att.top(99)) == 5 and len(att.top(99, special=True)) == 6 and att.top(0) == []


def test_a_table_has_a_row_a_token_and_a_column_a_site(sampled: Attribution, plain: Attribution) -> None:
    table = sampled.to_pandas()
    heads = [f"blocks.{layer}.attn.hook_z.{head}" for layer in range(3) for head in range(2)]
    assert list(table) == [
        "index", "token", "token_id", "special", "score", "standard_error",
        *sampled.layer_names, *heads, *(f"blocks.{layer}.hook_mlp_out" for layer in range(3)),
    ]  # fmt: skip
    assert table["token"].tolist() == TOKENS and table["score"].tolist() == sampled.scores.tolist()
    assert sampled.layers is not None
    assert table["blocks.2.hook_resid_post"].tolist() == sampled.layers[2].tolist()
    assert table["blocks.1.attn.hook_z.0"].tolist() == sampled.sites["blocks.1.attn.hook_z"][:, 0].tolist()
    assert table["blocks.1.attn.hook_z.1"].tolist() == sampled.sites["blocks.1.attn.hook_z"][:, 1].tolist()
    assert list(plain.to_pandas()) == ["index", "token", "token_id", "special", "score"]


def test_groups_sum_their_tokens_scores(sampled: Attribution) -> None:
    att = dataclasses.replace(sampled, scores=torch.tensor([9.0, -3.0, 2.0, 2.5, -1.0, 0.25]))
    words = att.group()
    assert words["label"].tolist() == ["<bos>", "two", "words", r"'\n'", "and", "😀"]
    assert words["score"].tolist() == att.scores.tolist()
    lines = att.group("line")
    assert lines[["start", "stop", "score"]].values.tolist() == [[0, 1, 9.0], [1, 4, 1.5], [4, 6, -0.75]]
    spans = att.group({"words": (1, 3)})
    assert spans["label"].tolist() == ["<bos>", "words", "(other)"]
    assert spans["score"].tolist() == [9.0, -1.0, 1.75]
    for by in ("word", "line", {"words": (1, 3)}):
        assert float(att.group(by)["score"].sum()) == float(att.scores.sum())
    assert lines[["label", "text", "special"]].values.tolist() == [
        ["<bos>", "<bos>", True],
        ["two words", "two words\n", False],
        ["and 😀", "and 😀", False],
    ]
    named = att.group({"first": "two words"})
    assert named[["label", "score"]].values.tolist() == [["<bos>", 9.0], ["first", -1.0], ["(other)", 1.75]]
    with pytest.raises(PromptError, match="letter"):
        att.group("letter")


def test_a_result_of_a_chat_knows_its_turns(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "The capital of France"}, {"role": "assistant", "content": "Paris is"}]
    whole = ls.attribute(example_model(), chat, ls.LogProb(), answer=2, eligible="all")
    cut = ls.attribute(example_model(), chat, ls.LogProb(), position=whole.turns["user 1"][1] - 2)
    for att, labels in (
        (whole, ["(other)", "user 1", "(other)", "assistant 1", "(other)"]),
        (cut, ["(other)", "user 1"]),
    ):
        turns = att.group("turn")
        assert turns[~turns["special"]]["label"].tolist() == labels
        assert turns["score"].sum() == pytest.approx(float(att.scores.sum()))
    whole.save(tmp_path / "chat.safetensors")
    assert ls.Attribution.load(tmp_path / "chat.safetensors").turns == whole.turns


def test_words_of_fragments_are_labelled_by_the_text(sampled: Attribution) -> None:
    att = dataclasses.replace(
        sampled,
        tokens=["<bos>", "a", " \\xf0", "\\x9f", "\\x98\\x80", " b"],
        offsets=[(0, 0), (0, 1), (1, 3), (2, 3), (2, 3), (3, 5)],
        text="a 😀 b",
    )
    assert att.group()["label"].tolist() == ["<bos>", "a", "😀", "b"]


def test_a_result_is_plain_values_for_json(sampled: Attribution, plain: Attribution) -> None:
    for att in (sampled, plain):
        plain_values = att.to_dict()
        again = json.loads(json.dumps(plain_values))
        assert set(again) == {field.name for field in dataclasses.fields(Attribution)}
        assert again["scores"] == att.scores.tolist() and again["contract"] == att.contract
        assert again["layers"] == (None if att.layers is None else att.layers.tolist())
        assert again["sites"] == {name: values.tolist() for name, values in att.sites.items()}
        assert again["prediction"]["top"][0]["token_id"] == att.prediction.top[0].token_id
        assert again["standard_error"] == (None if att.standard_error is None else att.standard_error.tolist())


def test_a_result_cannot_be_changed(plain: Attribution) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        plain.position = 0  # type: ignore[misc]
    assert len(plain) == 6
