"""The benchmark: every case runs on a tiny model, and ratios, medians and verdicts are right on made-up times."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from benchmark import measurements, workloads
from benchmark.figure import benchmark_figure
from benchmark.measurements import Case, Measurement, measure, peak_memory
from benchmark.passages import long_text, made_passages, read_passages
from benchmark.results import Benchmark, Section, benchmark_of, merged, read_benchmark
from benchmark.rivals import paper_style, transformers_model
from benchmark.run import bench as bench_command
from benchmark.targets import Target, judged
from benchmark.terminal import print_benchmark, seconds
from benchmark.workloads import (
    FORWARD,
    LIMIT,
    Bench,
    batch_section,
    body_pass,
    long_section,
    matrix_section,
    prompt_of,
    scope_section,
)
from rich.console import Console

import lens_scopes as ls
from lens_scopes.cli.app import run_command
from lens_scopes.errors import FileError, PromptError
from lens_scopes.models.quiet import quiet_libraries

IDS = [3, 1, 4, 1, 5, 9, 2, 6]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Gemma 3 without a tokenizer."""
    config = transformers.Gemma3TextConfig(
        vocab_size=47,
        max_position_embeddings=64,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        sliding_window=64,
    )
    path = tmp_path_factory.mktemp("gemma")
    with quiet_libraries(), torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():  # norms too, without whose weights β would be constant
            parameter.data.normal_(std=0.3)
        model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def bench(folder: Path) -> Bench:
    model = ls.load_model(folder)
    return Bench(model, transformers_model(str(folder), model), turns=1)


# What is run


def test_every_case_of_every_section_runs(bench: Bench) -> None:
    scopes = scope_section(bench, 12)
    names = [item.name for item in scopes.measurements]
    assert names[:3] == [FORWARD, LIMIT, "Semantic"]
    assert {"Temperature", "Temperature, every layer", "Fisher rank 1", "Fisher rank 8", "Fisher trace"} <= set(names)
    assert sum(name.startswith("paper-style") for name in names) == 4
    assert sum(name.startswith("captum") for name in names) == 2
    batch = batch_section(bench, [IDS, IDS[:5], IDS[2:]])
    matrix = matrix_section(bench, 10)
    long = long_section(bench, 20)
    for section in (scopes, batch, matrix, long):
        for item in section.measurements:
            if "LLMGradientAttribution" in item.name:
                assert item.seconds is None and "tokenizer" in item.note
            else:
                assert item.seconds is not None and item.seconds > 0, item.name
                assert section.ratio(item.name) == pytest.approx(item.seconds / section.seconds(section.unit))
        assert section.targets and all(verdict.met is not None for verdict in section.verdicts()), section.name
    precision = workloads.precision_section(bench, [IDS, IDS[2:]])
    assert len(precision.figures) == 6 and all(0.5 < value <= 1 for value in precision.figures.values())
    assert [verdict.reached for verdict in precision.verdicts()] == list(precision.figures.values())[:3]
    assert all(item.items == 3 for item in batch.measurements)
    assert all(item.items == 10 for item in matrix.measurements)


def test_the_limit_is_the_gradient_of_the_norm_of_the_final_state(bench: Bench) -> None:
    """What is timed as the limit does the work of Temperature Scope."""
    gradient = body_pass(bench.model, IDS, backward=True)()
    torch.testing.assert_close(gradient[0].norm(dim=-1), ls.attribute(bench.model, IDS, "temperature").scores)
    y = body_pass(bench.model, IDS, backward=False)()
    assert y.shape == (16,) and not y.requires_grad
    assert not any(point.fwd_hooks for point in bench.model.hook_dict.values())


@pytest.mark.parametrize("scope", ["semantic", "temperature", "fisher"])
def test_the_plain_version_gives_the_same_scores(bench: Bench, scope: str) -> None:
    ours = ls.attribute(bench.model, IDS, scope).scores
    torch.testing.assert_close(paper_style(bench.transformers, IDS, scope), ours, rtol=1e-3, atol=1e-6)


def test_the_plain_version_of_several_directions(bench: Bench) -> None:
    ours = ls.attribute(bench.model, IDS, ls.Fisher(rank=4)).scores
    torch.testing.assert_close(paper_style(bench.transformers, IDS, "fisher", 4), ours, rtol=1e-3, atol=1e-6)


def test_captum_agrees_where_it_computes_the_same(bench: Bench) -> None:
    """Gradients integrated from nothing rank tokens otherwise, but must be of the model's own logit: complete."""
    cases = {case.name.split(",")[0]: case for case in workloads.rivals.captum_cases(bench.transformers, None, IDS, 64)}
    run = cases["captum LayerIntegratedGradients"].run
    assert run is not None
    found = run()
    assert found.shape == (len(IDS),) and bool(found.isfinite().all()) and bool((found > 0).any())


def test_a_missing_captum_is_a_row_that_says_how_to_get_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    cases = workloads.rivals.captum_cases(bench.transformers, None, IDS, 4)
    assert len(cases) == 2 and all(case.run is None and "pip install" in case.note for case in cases)
    assert [item.seconds for item in measure(cases, turns=2)] == [None, None]


def test_prompts_have_the_length_asked_for(bench: Bench) -> None:
    assert len(prompt_of(bench.model, 30)) == 30
    assert all(0 < token < 47 for token in prompt_of(bench.model, 60))


@pytest.mark.gemma
def test_prompts_of_the_embedded_model_are_text(gemma: Any) -> None:
    ids = prompt_of(gemma, 300)
    assert len(ids) == 300 and gemma.tokenizer.bos_token_id == ids[0]
    lengths = [gemma.to_tokens(text).shape[1] for text in made_passages(64)]
    assert 50 < min(lengths) < max(lengths) < 150


# Text


def test_passages_repeat_and_differ() -> None:
    passages = made_passages(64)
    assert passages == made_passages(64) and len(set(passages)) == 64
    assert made_passages(3) == passages[:3] and made_passages(3, seed=1) != passages[:3]
    assert all(text[0].isupper() and text.endswith(".") for text in passages)
    assert len(long_text(400).split()) >= 400


def test_passages_are_read_from_json_and_from_lines(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('["one text", "", "another\\nwith two lines"]')
    (tmp_path / "p.txt").write_text("one\n\ntwo\n")
    assert read_passages(tmp_path / "p.json") == ["one text", "another\nwith two lines"]
    assert read_passages(tmp_path / "p.txt") == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing.txt", None, "cannot read"),
        ("p.json", "{", "cannot read"),
        ("p.json", '{"a": 1}', "not a JSON list"),
        ("p.json", "[1]", "not a JSON list"),
        ("p.txt", " \n\n", "no passage"),
    ],
)
def test_what_is_no_passage_is_refused(tmp_path: Path, name: str, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(FileError, match=words):
        read_passages(tmp_path / name)


# How it is measured


def slept(monkeypatch: pytest.MonkeyPatch, durations: dict[str, list[int]]) -> tuple[list[Case], list[str]]:
    """Cases that take the seconds given, one after the other, on a clock of their own; and the order they run in."""
    now, order = [0.0], []
    monkeypatch.setattr(measurements, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def case(name: str) -> Case:
        left = iter(durations[name])

        def run() -> None:
            order.append(name)
            now[0] += next(left)

        return Case(name, run)

    return [case(name) for name in durations], order


def test_cases_take_turns_and_medians_leave_the_warm_up_out(monkeypatch: pytest.MonkeyPatch) -> None:
    cases, order = slept(monkeypatch, {"a": [9, 1, 2, 6], "b": [9, 3, 3, 4]})
    a, b = measure(cases, turns=3, patience=100.0, memory=False)
    assert order == ["a", "b", *("a", "b") * 3]
    assert (a.times, a.seconds, b.seconds) == ([1, 2, 6], 2, 3)


def test_slow_cases_get_fewer_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    cases, order = slept(monkeypatch, {"quick": [1, 1, 1, 1], "slow": [8, 8, 7], "slowest": [30, 31]})
    quick, slow, slowest = measure(cases, turns=3, patience=20.0, memory=False)
    assert (len(quick.times), slow.times, slowest.times) == (3, [8, 7], [31])
    assert order.count("slowest") == 2


def test_progress_reaches_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    cases, _ = slept(monkeypatch, {"quick": [1] * 4, "slow": [30] * 2})
    seen: list[tuple[int, int]] = []
    measure(cases, turns=2, memory=False, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == list(range(1, 9)) and {total for _, total in seen} == {8}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the kernel counts on Linux only")
def test_peak_memory_is_what_a_run_held_and_let_go() -> None:
    def run() -> None:
        held = torch.ones(50_000_000)
        del held

    run()
    for _ in range(2):
        peak = peak_memory(run)
        assert peak is not None and 0.95 * 200e6 < peak < 1.1 * 200e6
    assert (peak_memory(lambda: time.sleep(0)) or 0) < 5e6


# What is made of it


def made(**cases: tuple[float | None, int]) -> list[Measurement]:
    return [
        Measurement(name, value, [] if value is None else [value], peak_bytes=2_000_000_000, items=items)
        for name, (value, items) in cases.items()
    ]


FOUND = made(limit=(2.0, 1), scope=(2.1, 1), rival=(5.0, 1), batch=(6.0, 4), absent=(None, 1))


@pytest.mark.parametrize(
    ("target", "reached", "met"),
    [
        (Target("scope", "ratio", 1.1, "limit"), 1.05, True),
        (Target("scope", "ratio", 1.0, "limit"), 1.05, False),
        (Target("scope", "speedup", 2.3, "rival"), 5 / 2.1, True),
        (Target("scope", "speedup", 2.5, "rival"), 5 / 2.1, False),
        (Target("batch", "ratio", 0.8, "limit"), 0.75, True),
        (Target("batch", "speedup", 1.4, "limit"), 4 / 3, False),
        (Target("scope", "seconds", 2.0), 2.1, False),
        (Target("scope", "bytes", 2.1e9), 2e9, True),
        (Target("rank correlation", "figure", 0.999), 0.9993, True),
        (Target("rank correlation", "figure", 0.9995), 0.9993, False),
        (Target("unknown figure", "figure", 1.0), None, None),
        (Target("absent", "seconds", 2.0), None, None),
        (Target("absent", "ratio", 2.0, "limit"), None, None),
        (Target("scope", "ratio", 2.0, "absent"), None, None),
        (Target("nothing", "bytes", 2.0), None, None),
    ],
    ids=lambda value: value.words() if isinstance(value, Target) else None,
)
def test_targets_are_judged(target: Target, reached: float | None, met: bool | None) -> None:
    verdict = judged(target, FOUND, {"rank correlation": 0.9993})
    assert verdict.met is met and verdict.target == target.words()
    assert verdict.reached == (None if reached is None else pytest.approx(reached))


def section(**changes: Any) -> Section:
    settings: dict[str, Any] = dict(
        name="scopes-8",
        title="One prompt of 8 tokens",
        unit="limit",
        measurements=FOUND,
        targets=[Target("scope", "ratio", 1.1, "limit"), Target("absent", "ratio", 1.1, "limit")],
        figures={"rank correlation": 0.9993},
        settings={"tokens": 8},
    )
    return Section(**settings | changes)


def test_ratios_are_to_the_unit() -> None:
    ratios = section().to_dict()["ratios"]
    assert ratios == {"limit": 1.0, "scope": 1.05, "rival": 2.5, "batch": 3.0, "absent": None}
    assert section(unit="absent").ratio("scope") is None


def test_a_benchmark_is_kept_as_json_and_parts_run_later_are_added(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    path.write_bytes(merged(path, benchmark_of([section()])))
    path.write_bytes(merged(path, benchmark_of([section(name="batch"), section(name="scopes-8", title="again")])))
    read = read_benchmark(path)
    assert {name: item.title for name, item in read.sections.items()} == {
        "scopes-8": "again",
        "batch": "One prompt of 8 tokens",
    }
    assert read.sections["batch"] == section(name="batch")
    assert read.machine["threads"] == torch.get_num_threads() and "torch" in read.versions


@pytest.mark.parametrize("content", ["{", "[]", '{"format": "other"}'])
def test_other_files_are_not_overwritten(tmp_path: Path, content: str) -> None:
    path = tmp_path / "b.json"
    path.write_text(content)
    with pytest.raises(FileError, match="remove it or name another file"):
        merged(path, benchmark_of([section()]))


def test_times_have_units() -> None:
    assert [seconds(value) for value in (0.0123, 0.9996, 12.345)] == ["12 ms", "1.00 s", "12.35 s"]


def printed(benchmark: Benchmark, width: int = 100) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        print_benchmark(benchmark, console)
    return capture.get()


def test_the_terminal_shows_ratios_and_what_was_met_or_missed() -> None:
    text = printed(benchmark_of([section()]))
    assert "1.05" in text and "2.10 s" in text and "2.00 GB" in text and "0.9993" in text
    assert "met     scope: ≤ 1.1 × the time of limit: 1.05" in text
    assert "absent: ≤ 1.1 × the time of limit: not measured" in text
    assert "missed" in printed(benchmark_of([section(targets=[Target("rival", "ratio", 1.1, "limit")])]))


def test_the_figure_has_a_bar_a_ratio() -> None:
    figure = benchmark_figure(benchmark_of([section(), section(name="startup", unit="absent")]))
    (axes,) = figure.axes
    assert [round(bar.get_width(), 6) for bar in axes.patches] == [1.0, 1.05, 2.5, 3.0]  # pyright: ignore
    with pytest.raises(PromptError, match="no ratio"):
        benchmark_figure(benchmark_of([section(unit="absent")]))


# The command


def test_the_command_writes_json_and_a_figure(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, picture = tmp_path / "b.json", tmp_path / "b.svg"
    arguments = ["--model", str(folder), "--only", "scopes", "--tokens", "6", "--turns", "1", "--json"]
    with pytest.raises(SystemExit) as exit:
        run_command(bench_command, [*arguments, "--out", str(table), "--out", str(picture)])
    assert exit.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads(table.read_text())
    assert found["sections"]["scopes-6"]["settings"]["tokens"] == 6
    assert picture.read_bytes().startswith(b"<?xml")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "scope"], "unknown part"),
        (["--passages", "missing.txt"], "cannot read"),
        (["--out", "b.html"], "suffixes"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        run_command(bench_command, arguments)
    error = capsys.readouterr().err
    assert exit.value.code == 2 and words in error and error.count("\n") == 1
