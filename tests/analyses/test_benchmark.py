"""The benchmark: competitors compute our scores at the cost they should have; times, goals, files and pictures."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from benchmark import cases, competitors, measurements
from benchmark.cases import LENS_BODY, LENS_FORWARD, LOWER_BOUND, Bench
from benchmark.competitors import Scope, body_scores, plain_scores, reference_scores
from benchmark.figure import benchmark_figure
from benchmark.goals import Goal, goal_result
from benchmark.measurements import Case, Measurement, clock_name, measure, peak_memory
from benchmark.passages import generated_passages, long_text
from benchmark.results import Section, file_content, read_sections
from benchmark.run import main
from benchmark.table import print_sections, seconds_text
from rich.console import Console
from torch.utils._python_dispatch import TorchDispatchMode

import lens_scopes as ls
from lens_scopes.cli.app import run_command
from lens_scopes.errors import FileError
from lens_scopes.models.quiet import quiet_libraries

IDS = [3, 1, 4, 1, 5, 9, 2, 6]
RANKS: list[tuple[Scope, int, Any]] = [
    ("semantic", 1, ls.Semantic()),
    ("temperature", 1, ls.Temperature()),
    ("fisher", 1, ls.Fisher()),
    ("fisher", 4, ls.Fisher(rank=4)),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Gemma 3 without a tokenizer; token 0 has a zero embedding."""
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
        for parameter in model.parameters():  # norms too: without weights ‖y‖ would be constant
            parameter.data.normal_(std=0.3)
        model.get_input_embeddings().weight.data[0] = 0
        model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def bench(folder: Path) -> Bench:
    model = ls.load_model(folder)
    return Bench(model, competitors.transformers_model(str(folder), model), rounds=1)


# Competitors: the same scores


@pytest.mark.parametrize("compute", [plain_scores, reference_scores])
@pytest.mark.parametrize(("scope", "rank", "objective"), RANKS)
def test_competitors_compute_our_scores(bench: Bench, compute: Any, scope: Scope, rank: int, objective: Any) -> None:
    ours = ls.attribute(bench.model, IDS, objective).scores
    torch.testing.assert_close(compute(bench.transformers, IDS, scope, rank), ours, rtol=1e-4, atol=1e-6)


def test_both_bodies_give_temperature_scope(bench: Bench) -> None:
    """The yardsticks do the work of a scope: their gradient is that of ‖y‖ at the embedding."""
    ours = ls.attribute(bench.model, IDS, ls.Temperature()).scores
    torch.testing.assert_close(body_scores(bench.transformers, IDS), ours, rtol=1e-4, atol=1e-6)
    gradient = cases.lens_body(bench.model, IDS, backward=True)()
    torch.testing.assert_close(gradient[0].norm(dim=-1), ours)
    y = cases.lens_body(bench.model, IDS, backward=False)()
    assert y.shape == (16,) and not y.requires_grad
    assert not any(point.fwd_hooks for point in bench.model.hook_dict.values())


def test_captum_computes_our_integrated_gradients(bench: Bench) -> None:
    """Token 0 has a zero embedding here, so both paths start at zero; both take midpoints."""
    path = ls.StraightPath("zero", 5)
    ours = ls.attribute(bench.model, IDS, ls.Semantic(), points=path, readout="dot").scores
    captum = competitors.integrated_gradients(bench.transformers, IDS, 5)
    torch.testing.assert_close(captum, ours, rtol=1e-4, atol=1e-4 * float(ours.abs().max()))


@pytest.mark.gemma
def test_captum_computes_our_input_times_gradient(gemma: Any) -> None:
    """On text that keeps its tokens when it is decoded and read again, BOS included."""
    model = competitors.transformers_model("gemma-3-270m", gemma)
    ids = cases.generated_prompt(gemma, 24)
    _, case = competitors.captum_cases(model, gemma.tokenizer, ids, 1)
    assert case.run is not None
    ours = ls.attribute(gemma, ids, ls.LogProb(), readout="dot").scores
    torch.testing.assert_close(case.run().cpu(), ours, rtol=0, atol=2e-3 * float(ours.abs().max()))


def test_a_missing_captum_is_a_row_that_says_how_to_get_it(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    rows = competitors.captum_cases(bench.transformers, None, IDS, 4)
    assert len(rows) == 2 and all(case.run is None and "pip install" in case.note for case in rows)
    assert [item.seconds for item in measure(rows, rounds=2)] == [None, None]


# Competitors: the same cost as what they stand for


@contextmanager
def counted(model: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Counts forward passes of the body, rows of logits, and calls of the backward pass with their directions."""
    counts = SimpleNamespace(forward=0, logits=[], backward=[])
    grad = torch.autograd.grad

    def counting_grad(outputs: Any, *args: Any, **kwargs: Any) -> Any:
        counts.backward.append(outputs.numel() if kwargs.get("is_grads_batched") else 1)
        return grad(outputs, *args, **kwargs)

    def count_forward(*_: Any) -> None:
        counts.forward += 1

    handles = [
        model.base_model.register_forward_hook(count_forward),
        model.get_output_embeddings().register_forward_hook(
            lambda _module, _args, logits: counts.logits.append(logits.shape[-2])
        ),
    ]
    with monkeypatch.context() as patch:
        patch.setattr(torch.autograd, "grad", counting_grad)
        yield counts
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize(
    ("compute", "scope", "rank", "forward", "logits", "backward"),
    [
        (reference_scores, "semantic", 1, 1, [8], [1]),
        (reference_scores, "temperature", 1, 1, [8], [1]),
        (reference_scores, "fisher", 1, 2, [8, 8], [1]),
        (reference_scores, "fisher", 4, 2, [8, 8], [4]),
        (plain_scores, "semantic", 1, 1, [1], [1]),
        (plain_scores, "temperature", 1, 1, [1], [1]),
        (plain_scores, "fisher", 4, 1, [1], [1, 1, 1, 1]),
    ],
)
def test_competitors_run_the_passes_they_stand_for(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    compute: Any,
    scope: Scope,
    rank: int,
    forward: int,
    logits: list[int],
    backward: list[int],
) -> None:
    """The reference: logits at every position, two forward passes for Fisher, one backward call for all directions."""
    with counted(bench.transformers, monkeypatch) as counts:
        compute(bench.transformers, IDS, scope, rank)
    assert (counts.forward, counts.logits, counts.backward) == (forward, logits, backward)


def test_the_lower_bound_has_no_logits(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    with counted(bench.transformers, monkeypatch) as counts:
        body_scores(bench.transformers, IDS)
    assert (counts.forward, counts.logits, counts.backward) == (1, [], [1])


def test_the_reference_sums_the_fisher_matrix_in_chunks(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []

    class Products(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is torch.ops.aten.mm.default and args[0].shape[0] == args[1].shape[1] == 16:
                rows.append(args[0].shape[1])
            return func(*args, **kwargs or {})

    assert competitors.CHUNK == 8192
    whole = reference_scores(bench.transformers, IDS, "fisher")
    monkeypatch.setattr(competitors, "CHUNK", 10)
    with Products():
        chunked = reference_scores(bench.transformers, IDS, "fisher")
    assert [count for count in rows if count in (10, 7)] == [10, 10, 10, 10, 7] and 47 not in rows
    torch.testing.assert_close(chunked, whole)


# Sections


def test_every_case_of_every_section_runs(bench: Bench) -> None:
    prompt = cases.prompt_section(bench, 12)
    names = [item.name for item in prompt.measurements]
    assert names[:3] == [LOWER_BOUND, LENS_BODY, LENS_FORWARD]
    for scope in ("Semantic", "Temperature", "Fisher rank 1", "Fisher rank 8"):
        assert {scope, f"{scope}, plain Transformers", f"{scope}, reference"} <= set(names)
    assert {"FisherAtValues", "Integrated Gradients, 4 steps", "Integrated Gradients, 4 steps, captum"} <= set(names)
    batch = cases.batch_section(bench, [IDS, IDS[:5], IDS[2:]])
    for section in (prompt, batch, cases.matrix_section(bench, 10), cases.long_section(bench, 20)):
        for item in section.measurements:
            if "needs a tokenizer" in item.note or "bfloat16" in item.name:
                continue
            assert len(item.times) == 1 and item.times[0] > 0, item.name
        assert all(section.seconds(name) for name in section.yardsticks)
        assert all(result.value is not None or "bfloat16" in result.goal for result in section.goal_results()), (
            section.name
        )
        assert section.settings["rounds"] == 1 and section.settings["clock"] == "processor"
    assert {item.items for item in batch.measurements} == {3}
    precision = cases.precision_section(bench, [IDS, IDS[2:]])
    assert len(precision.numbers) == 6 and all(0.5 < value <= 1 for value in precision.numbers.values())
    assert [result.value for result in precision.goal_results()] == list(precision.numbers.values())[:3]


def test_without_transformers_the_own_body_is_the_yardstick(bench: Bench) -> None:
    section = cases.prompt_section(Bench(bench.model, None, rounds=1), 6)
    assert section.yardsticks == [LENS_BODY]
    assert {item.kind for item in section.measurements} == {"body", "own"}


def test_prompts_have_the_length_asked_for(bench: Bench) -> None:
    assert len(cases.generated_prompt(bench.model, 30)) == 30
    assert all(0 < token < 47 for token in cases.generated_prompt(bench.model, 60))


@pytest.mark.gemma
def test_prompts_of_the_embedded_model_are_text(gemma: Any) -> None:
    ids = cases.generated_prompt(gemma, 300)
    assert len(ids) == 300 and gemma.tokenizer.bos_token_id == ids[0]
    lengths = [gemma.to_tokens(text).shape[1] for text in generated_passages(64)]
    assert 50 < min(lengths) < max(lengths) < 150


def test_passages_repeat_and_differ() -> None:
    passages = generated_passages(64)
    assert passages == generated_passages(64) and len(set(passages)) == 64
    assert generated_passages(3) == passages[:3] and generated_passages(3, seed=1) != passages[:3]
    assert all(text[0].isupper() and text.endswith(".") for text in passages)
    assert len(long_text(400).split()) >= 400


# Rounds, clocks, memory


def on_a_made_up_clock(
    monkeypatch: pytest.MonkeyPatch, durations: dict[str, list[int]]
) -> tuple[list[Case], list[str]]:
    """Cases that take the seconds given, one after the other, and the order they run in."""
    now, order = [0.0], []
    monkeypatch.setattr(measurements, "time", SimpleNamespace(process_time=lambda: now[0], perf_counter=lambda: -1))

    def case(name: str) -> Case:
        left = iter(durations[name])

        def run() -> None:
            order.append(name)
            now[0] += next(left)

        return Case(name, run)

    return [case(name) for name in durations], order


def test_rounds_interleave_cases_and_leave_the_warm_up_out(monkeypatch: pytest.MonkeyPatch) -> None:
    given, order = on_a_made_up_clock(monkeypatch, {"a": [9, 1, 2, 6], "b": [90, 30, 30, 40]})
    progress: list[tuple[int, int]] = []
    a, b = measure(given, rounds=3, progress=lambda done, total: progress.append((done, total)))
    assert order == ["a", "b"] * 4
    assert (a.times, a.seconds, b.seconds) == ([1, 2, 6], 2, 30), "slow cases get as many rounds as quick ones"
    assert progress == [(done, 8) for done in range(1, 9)]


def test_processor_time_is_read_where_one_thread_works(monkeypatch: pytest.MonkeyPatch) -> None:
    assert clock_name() == "processor" and clock_name("cuda:0") == "wall"
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert clock_name() == "wall"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the kernel counts on Linux only")
def test_peak_memory_is_what_a_run_allocated_and_freed() -> None:
    def run() -> None:
        tensor = torch.ones(50_000_000)
        del tensor

    run()
    for _ in range(2):
        peak = peak_memory(run)
        assert peak is not None and 0.95 * 200e6 < peak < 1.1 * 200e6
    assert (peak_memory(lambda: time.sleep(0)) or 0) < 5e6


# Goals and ratios


def made(**times: tuple[list[float], int]) -> list[Measurement]:
    return [Measurement(name, values, 2_000_000_000, items=items) for name, (values, items) in times.items()]


MADE = made(bound=([2.0], 1), scope=([2.1, 1.0, 9.0], 1), other=([5.0], 1), batch=([6.0], 4), absent=([], 1))


@pytest.mark.parametrize(
    ("goal", "value", "is_met"),
    [
        (Goal("scope", "ratio", 1.1, "bound"), 1.05, True),
        (Goal("scope", "ratio", 1.0, "bound"), 1.05, False),
        (Goal("scope", "speedup", 2.3, "other"), 5 / 2.1, True),
        (Goal("scope", "speedup", 2.5, "other"), 5 / 2.1, False),
        (Goal("batch", "ratio", 0.8, "bound"), 0.75, True),
        (Goal("batch", "speedup", 1.4, "bound"), 4 / 3, False),
        (Goal("scope", "seconds", 2.0), 2.1, False),
        (Goal("scope", "bytes", 2.1e9), 2e9, True),
        (Goal("scope", "memory", 1.2, "bound"), 1.0, True),
        (Goal("scope", "memory", 0.9, "bound"), 1.0, False),
        (Goal("scope", "memory", 1.0, "absent"), None, None),
        (Goal("rank correlation", "number", 0.999), 0.9993, True),
        (Goal("rank correlation", "number", 0.9995), 0.9993, False),
        (Goal("unknown number", "number", 1.0), None, None),
        (Goal("absent", "seconds", 2.0), None, None),
        (Goal("absent", "ratio", 2.0, "bound"), None, None),
        (Goal("scope", "ratio", 2.0, "absent"), None, None),
        (Goal("nothing", "bytes", 2.0), None, None),
    ],
    ids=lambda value: value.sentence() if isinstance(value, Goal) else None,
)
def test_goals_are_met_or_missed(goal: Goal, value: float | None, is_met: bool | None) -> None:
    result = goal_result(goal, MADE, {"rank correlation": 0.9993})
    assert result.is_met is is_met and result.goal == goal.sentence()
    assert result.value == (None if value is None else pytest.approx(value))


def section(**changes: Any) -> Section:
    values: dict[str, Any] = dict(
        name="prompt-8",
        title="One prompt of 8 tokens",
        yardsticks=["bound", "other"],
        measurements=MADE,
        goals=[Goal("scope", "ratio", 1.1, "bound"), Goal("absent", "ratio", 1.1, "bound")],
        numbers={"rank correlation": 0.9993},
        settings={"tokens": 8, "rounds": 3, "clock": "processor"},
    )
    return Section(**values | changes)


def test_every_measurement_has_its_ratio_to_both_yardsticks() -> None:
    plain = section().to_dict()
    ratios = {item["name"]: item["ratios"] for item in plain["measurements"]}
    assert ratios["scope"] == pytest.approx({"bound": 1.05, "other": 0.42})
    assert ratios["bound"] == {"bound": 1.0, "other": 0.4}
    assert ratios["absent"] == {"bound": None, "other": None}
    assert [item["seconds"] for item in plain["measurements"]] == [2.0, 2.1, 5.0, 6.0, None]
    assert plain["environment"]["threads"] == 1 and "torch" in plain["environment"]["versions"]
    assert json.loads(json.dumps(plain)) == plain


# Files, table, picture, command


def test_a_file_of_another_kind_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    assert read_sections(path) == {}
    for content in ("{", "[]", '{"format": "other"}', "[" * 100_000):
        path.write_text(content)
        with pytest.raises(FileError, match="remove it or name another file"):
            read_sections(path)


def test_times_have_units() -> None:
    assert [seconds_text(value) for value in (0.0123, 0.9996, 12.345)] == ["12 ms", "1.00 s", "12.35 s"]


def printed(*sections: Section, width: int = 110) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        print_sections({item.name: item.to_dict() for item in sections}, console)
    return capture.get()


def test_the_table_has_ratios_rounds_spread_and_goals() -> None:
    text = printed(section())
    row = next(line.split() for line in text.splitlines() if line.startswith("scope"))
    assert row == ["scope", "2.10", "s", "3", "381%", "1.05", "0.42", "2.00", "GB"]
    assert "one thread, processor time" in text and "0.9993" in text
    assert "met     scope: ≤ 1.1 × the time of bound: 1.05" in text
    assert "absent: ≤ 1.1 × the time of bound: not measured" in text
    assert "missed" in printed(section(goals=[Goal("other", "ratio", 1.1, "bound")]))


def test_the_figure_has_one_labelled_dot_per_ratio() -> None:
    plain = {"prompt-8": section().to_dict(), "startup": section(yardsticks=[]).to_dict()}
    (axes,) = benchmark_figure(plain).axes
    dots: list[Any] = [line for line in axes.lines if line.get_marker() == "o"]
    assert [round(float(dot.get_xdata()[0]), 6) for dot in dots] == [1.0, 1.05, 2.5, 3.0]
    labels = [text.get_text() for text in axes.texts]
    assert labels[1] == "1.05  (2.10 s, n = 3)" and labels[0] == "1.00  (2.00 s, n = 1)"
    with pytest.raises(FileError, match="no ratio"):
        benchmark_figure({"startup": section(yardsticks=[]).to_dict()})


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as exit:
        run_command(main, arguments)
    assert isinstance(exit.value.code, int)
    return exit.value.code


def test_the_command_saves_sections_and_draws_them_again(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, picture, again = tmp_path / "b.json", tmp_path / "b.svg", tmp_path / "again.svg"
    table.write_bytes(file_content({"batch": section(name="batch").to_dict()}))
    once = ["--model", str(folder), "--only", "prompt", "--tokens", "6", "--rounds", "1"]
    assert run(*once, "--out", str(table), "--out", str(picture)) == 0
    first = capsys.readouterr().out
    sections = read_sections(table)
    assert list(sections) == ["batch", "prompt-6"] and sections["prompt-6"]["settings"]["tokens"] == 6
    assert picture.read_bytes().startswith(b"<?xml")
    assert run("--from", str(table), "--out", str(again)) == 0
    assert first.strip() in capsys.readouterr().out and again.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only", "scope"], "unknown part"),
        (["--only", "batch", "--passages", "missing.txt"], "cannot read"),
        (["--out", "b.html"], "suffix"),
        (["--out", "nowhere/b.png"], "nowhere"),
        (["--from", "missing.json"], "does not exist"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_a_file_that_is_no_benchmark_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ls, "load_model", lambda *_args, **_kwargs: pytest.fail("a model was loaded"))
    path = tmp_path / "b.json"
    path.write_text("[]")
    assert run("--only", "prompt", "--out", str(path)) == 2
    assert "is no benchmark" in capsys.readouterr().err and path.read_text() == "[]"
