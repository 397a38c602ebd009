"""Attacks on evaluation folders: damage, two runs started together, and kills at any moment."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas
from command_line import TEXTS
from fake_evaluation import fake_evaluation
from outcome import REFUSED, RIGHT, Outcome, Target, silence

import lens_scopes as ls
from lens_scopes.errors import EvaluationError, FileError, LensScopesError
from lens_scopes.evaluation.storage.folder import ResultFolder
from lens_scopes.evaluation.storage.records import COLUMNS, PassageRecord, session_of_line

SETTINGS: dict[str, Any] = {"methods": ["fisher", "random"], "metrics": ["aopc", "first-token"], "ablations": ["mean"]}
_forked = multiprocessing.get_context("fork")  # right as long as PyTorch has used no threads

LINE: dict[str, Any] = {"passage": 99, "status": "measured", "seconds": 1.0, "facts": {}, "measurements": []}
ROW = ["fisher", "aopc", "zero", 1.0, None, 2, 1, None]
_WRONG = (None, True, -1, 10**30, 1.5, "", "x", [], [1], [[1]], {}, {"a": 1}, ["x"] * 8, [ROW[:3]], [ROW, ROW], ...)
_LINES = (b"null", b"3", b'"x"', b"[1, 2]", b"{}", b"[" * 100_000, b"\xff", b"{", b"9" * 5000, b"\0", b"NaN", b" ")
_NAMES = ("results-abc.jsonl", "results-.jsonl", "results-0.jsonl", "results-1e3.jsonl", "results-٣٣٣.jsonl")


def attacks(target: Target, share: float) -> Iterator[Outcome]:
    """The outcome of every damage, start and kill."""
    draw = random.Random(0)
    yield from _damaged_lines(target, share, draw)
    yield from _damaged_bytes(target, share, draw)
    yield from _started_together(target, max(2, round(160 * share)))
    yield from _killed(target, max(2, round(120 * share)), draw)


# Damage


def _damaged_lines(target: Target, share: float, draw: random.Random) -> Iterator[Outcome]:
    """Lines that are no record, at any place, and files of other names."""
    folder = fake_evaluation(target.folder / "lines", passages=8)
    shard = folder / "results-000.jsonl"
    whole, rows = shard.read_bytes(), ls.load_results(folder)
    wrong = [*_LINES]
    for name in LINE:
        wrong += [_written({**LINE, name: value}) for value in _WRONG]
    for place in range(len(ROW)):
        values = [value for value in _WRONG if value is not ...]
        wrong += [_written({**LINE, "measurements": [[*ROW[:place], value, *ROW[place + 1 :]]]}) for value in values]
    wrong += [_written({"session": value}) for value in _WRONG] + [_written({**LINE, "other": 1})]
    for number, line in enumerate(wrong):
        if draw.random() > 8 * share:
            continue
        lines = whole.split(b"\n")
        lines.insert(draw.randrange(len(lines)), line)
        read = {"passage": 99} if _is_record(line) else {}
        yield target.ended(
            f"line {number} {line[:60]!r}", lambda lines=lines, read=read: _reported(folder, shard, lines, rows, read)
        )
    shard.write_bytes(whole)
    for name in _NAMES:
        (folder / name).write_bytes(b"not a line\nof ours\n")
        yield target.ended(f"a file {name}", lambda: _same(folder, rows))
        (folder / name).unlink()
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for name in manifest:
        for value in _WRONG:
            if draw.random() < 4 * share:
                (folder / "manifest.json").write_bytes(_written({**manifest, name: value}))
                yield target.ended(f"manifest {name} {value!r}", lambda: _same(folder, rows))
    shutil.rmtree(folder)


def _written(line: dict[str, Any]) -> bytes:
    return json.dumps({name: value for name, value in line.items() if value is not ...}).encode()


def _is_record(line: bytes) -> bool:
    """Whether a line is one that a run could have written: then its passage is one more."""
    try:
        read = json.loads(line)
        return bool(session_of_line(read) if "session" in read else PassageRecord.of_line(read))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return False


def _reported(folder: Path, shard: Path, lines: list[bytes], rows: pandas.DataFrame, read: dict[str, Any]) -> str:
    """Refused with the line's number by everything that reads; or the rows as they were."""
    shard.write_bytes(b"\n".join(lines))
    ends = set()
    readers: list[Callable[[], Any]] = [
        lambda: ls.load_results(folder),
        lambda: ls.report(folder),
        lambda: ResultFolder.open(folder).records(),
    ]
    for reader in readers:
        try:
            reader()
            ends.add(RIGHT)
        except FileError as error:
            assert " line " in str(error), f"refused without the line's number: {error}"
            ends.add(REFUSED)
    assert len(ends) == 1, "refused by some of what reads, and not by all"
    if ends == {RIGHT}:
        found = ls.load_results(folder)
        kept = found[~found["passage"].isin(read.values())].reset_index(drop=True)
        assert kept[[*COLUMNS]].equals(rows[[*COLUMNS]]), "other rows than were saved"
    return ends.pop()


def _same(folder: Path, rows: pandas.DataFrame) -> str:
    assert ls.load_results(folder).equals(rows), "other rows than were saved"
    with silence():
        ls.report(folder)
    return RIGHT


def _damaged_bytes(target: Target, share: float, draw: random.Random) -> Iterator[Outcome]:
    """Any byte of a folder that a run wrote changed, and its files cut."""
    folder = target.folder / "bytes"
    rows = ls.evaluate(target.model, list(TEXTS[:3]), out=folder, **SETTINGS)
    for name in ("results-000.jsonl", "manifest.json"):
        content = (folder / name).read_bytes()
        for place in range(len(content)):
            if draw.random() > share:
                continue
            damaged = bytearray(content)
            damaged[place] ^= 1 << draw.randrange(8)
            (folder / name).write_bytes(damaged)
            yield target.ended(f"{name} byte {place}", lambda: _same(folder, rows))
        for place in range(0, len(content), max(1, round(20 / share))):
            (folder / name).write_bytes(content[:place])
            # A run that goes on measures what was cut off.
            yield target.ended(f"{name} cut at {place}", lambda: _gone_on(target, folder, rows))
            shutil.rmtree(folder)
            ls.evaluate(target.model, list(TEXTS[:3]), out=folder, **SETTINGS)
            content = (folder / name).read_bytes()
        (folder / name).write_bytes(content)


def _gone_on(target: Target, folder: Path, rows: pandas.DataFrame) -> str:
    found = ls.evaluate(target.model, list(TEXTS[:3]), out=folder, **SETTINGS)
    assert found.equals(rows), "other rows than those of an uninterrupted run"
    return RIGHT


# Processes


def _started_together(target: Target, times: int) -> Iterator[Outcome]:
    """Two runs with other settings in one new folder: one has it, and the other is refused."""
    folder = target.folder / "together"
    alone = {seed: _rows_of(target, target.folder / f"alone-{seed}", seed) for seed in (1, 2)}
    for number in range(times):

        def both() -> str:
            shutil.rmtree(folder, ignore_errors=True)
            together = _forked.Barrier(2)
            runs = [_forked.Process(target=_run, args=(target, folder, seed, together)) for seed in (1, 2)]
            for run in runs:
                run.start()
            for run in runs:
                run.join(60)
            codes = [run.exitcode for run in runs]
            seed = json.loads((folder / "manifest.json").read_bytes())["laboratory"]["seed"]
            assert sorted(map(str, codes)) == ["0", "2"] and codes[seed - 1] == 0, f"ended with {codes}, seed {seed}"
            assert ls.load_results(folder).equals(alone[seed]), "rows of both"
            return RIGHT

        yield target.ended(f"two runs at once, {number}", both)


def _rows_of(target: Target, folder: Path, seed: int) -> pandas.DataFrame:
    return ls.evaluate(target.model, list(TEXTS[:2]), out=folder, seed=seed, **SETTINGS)


def _run(target: Target, folder: Path, seed: int, together: Any) -> None:
    """A process: ends with 0 where it had the folder, and with 2 where it was refused."""
    together.wait()
    with silence():
        try:
            _rows_of(target, folder, seed)
        except EvaluationError:
            os._exit(2)
        except LensScopesError:
            os._exit(3)
    os._exit(0)


def _killed(target: Target, times: int, draw: random.Random) -> Iterator[Outcome]:
    """A run that is killed at any moment, and killed again when it goes on."""
    texts = list(TEXTS)
    began = time.monotonic()
    rows = ls.evaluate(target.model, texts, out=target.folder / "whole", **SETTINGS)
    seconds = time.monotonic() - began
    for number in range(times):
        folder = target.folder / f"killed-{number}"
        number_of_kills = draw.randrange(1, 4)
        moments = [draw.uniform(0, seconds) for _ in range(number_of_kills)]

        def killed(folder: Path = folder, moments: list[float] = moments) -> str:
            for moment in moments:
                run = _forked.Process(target=_measure, args=(target, folder, texts))
                run.start()
                time.sleep(moment)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(run.pid or 0, signal.SIGKILL)
                run.join()
            assert ls.evaluate(target.model, texts, out=folder, **SETTINGS).equals(rows), "other rows"
            return RIGHT

        yield target.ended(f"kill {number}", killed)
        shutil.rmtree(folder, ignore_errors=True)


def _measure(target: Target, folder: Path, texts: list[str]) -> None:
    with silence():
        ls.evaluate(target.model, texts, out=folder, **SETTINGS)
    os._exit(0)
