"""Attacks by files: damaged results, byte by byte and field by field, and hostile texts, chats and passages."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Iterator
from hashlib import sha256
from typing import Any

import torch
from functions import results_of_every_kind
from outcome import RIGHT, Outcome, Target, silence
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes

import lens_scopes as ls
from lens_scopes.errors import FileError
from lens_scopes.results.load import KINDS
from lens_scopes.results.storage import files

_WRONG: tuple[Any, ...] = (
    None,
    True,
    -1,
    10**30,
    1.5,
    float("nan"),
    "",
    "x",
    "\ud800",
    [],
    [[]],
    [1, 2],
    ["a"],
    {},
    {"a": 1},
)
"""What a field is replaced by."""

_DOCUMENTS: dict[str, bytes] = {
    "nothing": b"",
    "a BOM": b"\xef\xbb\xbf[]",
    "UTF-16": '["The dog"]'.encode("utf-16"),
    "not UTF-8": b'["\xff"]',
    "NUL": b'["a\0b"]',
    "an escaped NUL": b'["a\\u0000b"]',
    "a lone surrogate": b'["\\ud800"]',
    "nested": b"[" * 100_000,
    "nested objects": b'{"a":' * 100_000,
    "digits": b"[" + b"9" * 5000 + b"]",
    "a large exponent": b"[1e999]",
    "not a number": b"[NaN]",
    "numbers": b"[1, 2]",
    "null": b"null",
    "nulls": b"[null]",
    "true": b"[true]",
    "empty texts": b'["", ""]',
    "lists": b"[[[]]]",
    "an object": b'{"text": "The dog"}',
    "objects": b'[{"text": 1}]',
    "other objects": b'[{"a": "The dog"}]',
    "a role that is a number": b'[{"role": 1, "content": "The dog"}]',
    "a content that is a list": b'[{"role": "user", "content": ["The dog"]}]',
    "no content": b'[{"role": "user"}]',
    "a key twice": b'[{"text": "The dog", "text": 2}]',
    "half": b'["The dog',
    "lines": b'"The dog"\n"The sofa"\n{"text": ',
    "a line of 100,000 words": b'["' + b"dog " * 100_000 + b'"]',
}


Attack = tuple[str, Callable[[], str]]
"""A case, and what becomes of it."""


def attacks(target: Target, share: float) -> Iterator[Outcome]:
    """The outcome of every file."""
    draw = random.Random(0)
    for kind, result in results_of_every_kind(target.model).items():
        yield from _bytes(target, kind, result, share, draw)
        yield from _fields(target, kind, result, share, draw)
        for attack in _headers(target, kind, result):
            if draw.random() < 8 * share:
                yield target.ended(*attack)
    for name, content in _DOCUMENTS.items():
        for attack in _documents(target, name, content):
            if draw.random() < 8 * share:
                yield target.watched(*attack)


def _bytes(target: Target, kind: str, result: Any, share: float, draw: random.Random) -> Iterator[Outcome]:
    """Each byte changed, and the file cut, doubled and filled at places."""
    content = result.to_safetensors()

    def changed(place: int) -> bytes:
        damaged = bytearray(content)
        damaged[place] ^= 1 << draw.randrange(8)
        return bytes(damaged)

    ways: list[Callable[[int], bytes]] = [
        changed,
        lambda place: content[:place],
        lambda place: content[:place] + content[place + 1 :],
        lambda place: content[:place] + b"\0" * 64 + content[place + 64 :],
        lambda place: content[:place] + content[place // 2 : place] + content[place:],
    ]
    for place in range(len(content)):
        way = changed if draw.random() < share else draw.choice(ways[1:])
        if draw.random() < share:
            yield target.ended(
                f"{kind} at byte {place}", lambda place=place, way=way: _opened(target, result, way(place))
            )


def _opened(target: Target, result: Any, damaged: bytes) -> str:
    """Refused, or what was written."""
    path = target.folder / "damaged.safetensors"
    path.write_bytes(damaged)
    read = ls.load(path)
    assert json.dumps(read.to_dict()) == json.dumps(result.to_dict()), "other contents than were written"
    return RIGHT


def _fields(target: Target, kind: str, result: Any, share: float, draw: random.Random) -> Iterator[Outcome]:
    """Every field of the record replaced by what it is not, with the checksum that belongs to that."""
    record = json.loads(load_record(result))
    for place in _places(record):
        for value in (*_WRONG, ...):
            if draw.random() < share / 2:
                case = f"{kind} {'.'.join(map(str, place))} {value!r}"
                yield target.ended(
                    case, lambda place=place, value=value: _used(target, kind, result, _replaced(record, place, value))
                )


def load_record(result: Any) -> str:
    """The record in the file of a result."""
    content = result.to_safetensors()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return header["__metadata__"]["record"]


def _places(record: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something stands in a record; of a list the first two entries."""
    items = (
        record.items() if isinstance(record, dict) else list(enumerate(record))[:2] if isinstance(record, list) else ()
    )
    for key, value in items:
        yield (*place, key)
        yield from _places(value, (*place, key))


def _replaced(record: Any, place: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(record)
    inside = changed
    for key in place[:-1]:
        inside = inside[key]
    if value is ...:
        del inside[place[-1]]
    else:
        inside[place[-1]] = value
    return changed


def sealed(metadata: dict[str, str], tensors: dict[str, Any]) -> bytes:
    """A file with the checksum of what is in it."""
    blank = save_bytes(tensors, metadata | {"checksum": "0" * 64})
    return blank.replace(b"0" * 64, sha256(blank).hexdigest().encode(), 1)


def _used(target: Target, named: str, result: Any, record: Any, **other: Any) -> str:
    """Refused by name, or a result that every view takes."""
    metadata = {"format": files.FORMAT, "version": str(files.VERSION), "kind": named, "record": json.dumps(record)}
    tensors = load_bytes(result.to_safetensors()) | other.pop("tensors", {})
    path = target.folder / "damaged.safetensors"
    path.write_bytes(sealed({**metadata, **other}, tensors))
    with silence():
        read = ls.load(path)
        assert repr(read) and read.to_html() and read.entries() is not None
        read.to_pandas().to_csv()
        read.top(3)
        read.show()
        path.write_bytes(read.to_safetensors())
        assert json.dumps(ls.load(path).to_dict()) == json.dumps(read.to_dict()), "saved as something else"
    return RIGHT


def _headers(target: Target, kind: str, result: Any) -> Iterator[Attack]:
    """Another format, version or kind, and tensors of other shapes and kinds."""
    record = json.loads(load_record(result))
    for name in ("format", "version", "kind"):
        for value in ("", "x", "9" * 5000, "-1", "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), "٣"):
            case = f"{kind} {name}={value[:20]!r}"
            yield (case, lambda name=name, value=value: _used(target, kind, result, record, **{name: value}))
    for other in KINDS.keys() - {kind}:
        yield (f"{kind} as {other}", lambda other=other: _used(target, other, result, record))
    for name, tensor in load_bytes(result.to_safetensors()).items():
        for what, wrong in (
            ("one more dimension", tensor[..., None]),
            ("integers", tensor.round().int() if tensor.isfinite().all() else tensor.nan_to_num().int()),
            ("switches", tensor > 0),
            ("complex numbers", tensor.to(torch.complex64)),
            ("nothing", tensor.flatten()[:0]),
            ("twice as many", tensor.repeat(2, *[1] * (tensor.ndim - 1)) if tensor.ndim else tensor[None]),
            ("half precision", tensor.bfloat16()),
        ):
            case = f"{kind} {name} of {what}"
            tensors = {"tensors": {name: wrong}}
            yield (case, lambda tensors=tensors: _used(target, kind, result, record, **tensors))


def _documents(target: Target, name: str, content: bytes) -> Iterator[Attack]:
    """A hostile document wherever a file is read."""
    from commands import run

    for suffix in (".json", ".jsonl", ".txt", ".safetensors", ".parquet", ".html"):
        path = target.folder / f"document{suffix}"

        def passages(path: Any = path) -> str:
            path.write_bytes(content)
            with silence():
                rows = ls.evaluate(target.model, str(path), methods=["fisher"], metrics=["first-token"])
            assert len(rows) and rows["value"].notna().any()
            return RIGHT

        def loaded(path: Any = path) -> str:
            path.write_bytes(content)
            raise AssertionError(f"read as {ls.load(path)!r}")

        yield (f"passages {suffix} {name}", passages)
        yield (f"result {suffix} {name}", loaded)
        for words in (["attribute", "--file"], ["attribute", "--chat"], ["show"], ["attribute", "The", "--lens"]):

            def shown(words: list[str] = words, path: Any = path) -> str:
                path.write_bytes(content)
                status, out, err = run(target, target.model, [*words, path.name])
                assert status != 2 or not out, "refused after an output"
                if status == 2 and "Traceback" not in err:
                    raise FileError(err)
                assert status == 0 and out, f"status {status}"
                return RIGHT

            yield (f"{' '.join(words)} {suffix} {name}", shown)
