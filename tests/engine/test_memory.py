"""Memory plans: parts give the same scores as the whole, running out of memory halves them and loses nothing, and what
does not fit is refused with its estimate."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from budgets import smallest
from tiny_models import TINY_MODELS

import lens_scopes as ls
from lens_scopes.engine.backward import trace, trace_in_slices
from lens_scopes.engine.memory import (
    Budget,
    PeakGauge,
    in_units,
    is_out_of_memory,
    parse_memory,
    run_in_chunks,
    system,
    try_or_oom,
)
from lens_scopes.engine.memory import plan as planning
from lens_scopes.engine.memory import shortage as shortages
from lens_scopes.engine.model import Batch, ScopedModel
from lens_scopes.errors import ModelError, OutOfMemoryError, PromptError
from lens_scopes.views.words.pages.parts.memory import memory_amounts, memory_words

IDS = [3, 7, 1, 7, 4, 9, 2]
PROMPTS = [IDS, IDS[:4], IDS[::-1], [5, 6], IDS[1:]]
SHORTAGES: dict[str, Callable[[], Exception]] = {
    "cuda": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "cpu": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
        "allocate 8000000000000 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "python": MemoryError,
}
EXACT: Any = {"rtol": 1e-12, "atol": 0}


@pytest.fixture(autouse=True)
def quick_collection(monkeypatch):
    """Collecting garbage over all that a test process has imported takes longer than the tests."""
    monkeypatch.setattr(shortages.gc, "collect", lambda: 0)


@pytest.fixture(autouse=True)
def one_direction_at_a_time(monkeypatch):
    """Directions of short prompts go back together, and memory could not run out between two of them."""
    monkeypatch.setattr("lens_scopes.engine.backward.BATCH_LIMIT", 1)


@contextmanager
def room_for(model: Any, layers: int, shortage: Callable[[], Exception], *, on_the_way_back: int | None = None) -> Any:
    """Lets memory run out where a graph holds more layers than these: on the way forward, or on the way back once that
    many directions have passed a layer."""
    held = {"layers": 0}
    passed: dict[int, int] = {}

    def enter(layer: int) -> Callable[..., None]:
        def hook(activation: torch.Tensor, hook: Any) -> None:
            if not activation.requires_grad:
                return
            held["layers"] = 1 if layer == 0 or activation.is_leaf else held["layers"] + 1
            if on_the_way_back is None:
                if held["layers"] > layers:
                    raise shortage()
                return

            def leave(gradient: torch.Tensor) -> None:
                passed[layer] = passed.get(layer, 0) + 1
                if held["layers"] > layers and passed[layer] > on_the_way_back:
                    raise shortage()

            activation.register_hook(leave)

        return hook

    names = [(f"blocks.{layer}.hook_resid_pre", enter(layer)) for layer in range(model.cfg.n_layers)]
    with model.hooks(fwd_hooks=names):
        yield


@pytest.mark.parametrize("through", [None, ls.Layers(1) & ls.Frozen("patterns", "gates")], ids=["free", "path"])
def test_slices_give_the_scores_of_the_whole_graph_at_every_site(tiny, through, monkeypatch):
    monkeypatch.setattr(planning, "_DIRECTIONS_SHARE", 1e-9)
    settings = dict(layers=True, sites=["hook_z", "hook_embed"], through=through)
    objective = ls.Fisher("trace", samples=3, exact=2)
    whole = ls.attribute(tiny, IDS, objective, **settings)
    hook_names = [] if through is None else [name for name, _ in through.hooks(ScopedModel.of(tiny))]
    least = smallest(tiny, len(IDS), 2 * tiny.cfg.n_layers, hook_names)
    sliced = ls.attribute(tiny, IDS, objective, memory=least, **settings)
    patterns = "; attention unfused in all layers (a hook or the path reads its patterns)" if through else ""
    assert memory_words(whole.memory) == "the whole graph at once" + patterns
    assert memory_words(sliced.memory) == (
        f"the graph of 1 of {tiny.cfg.n_layers} layers at a time, run again on the way back, directions in groups of 1"
        + patterns
    )
    torch.testing.assert_close(sliced.scores, whole.scores, **EXACT)
    torch.testing.assert_close(sliced.layers, whole.layers, **EXACT)
    torch.testing.assert_close(sliced.standard_error, whole.standard_error, rtol=1e-9, atol=0)
    assert sliced.sites.keys() == whole.sites.keys()
    for name, values in whole.sites.items():
        torch.testing.assert_close(sliced.sites[name], values, **EXACT)


def test_the_graph_of_one_slice_is_held_at_a_time(tiny):
    """Sites of a later slice are visited, and let go, before those of an earlier one."""
    sites = [f"blocks.{layer}.hook_resid_pre" for layer in range(tiny.cfg.n_layers)]
    visited = []
    vectors = torch.ones(2, 1, tiny.cfg.d_model, dtype=torch.float64)
    trace_in_slices(ScopedModel.of(tiny), [IDS], sites, 1).backward(
        vectors, lambda index, name, *_: visited.append((name, index))
    )
    layers = [int(name.split(".")[1]) for name, _ in visited if name.startswith("blocks")]
    assert layers == sorted(layers, reverse=True)
    for traced in (
        trace(ScopedModel.of(tiny), [IDS], sites),
        trace_in_slices(ScopedModel.of(tiny), [IDS], sites, tiny.cfg.n_layers),
    ):
        steps = []
        traced.backward(vectors, lambda *_: None, lambda done, total, steps=steps: steps.append((done, total)))
        assert steps == [(1, 2), (2, 2)]


def test_as_many_layers_as_fit_are_held(tiny):
    model = ScopedModel.of(tiny)
    n_layers, whole = model.n_layers, Budget(model, 10**15).whole(len(IDS))
    assert not Budget(model, whole).plan(len(IDS), 1).sliced
    plan = Budget(model, whole - 1).plan(len(IDS), 1)
    assert plan.sliced and 1 <= plan.layers_at_once < n_layers
    assert Budget(model, smallest(tiny, len(IDS))).plan(len(IDS), 1).layers_at_once == 1
    assert Budget(model, 10**15).plan(2 * len(IDS), 3).estimate > 2 * whole
    five = Budget(model, 10**15).plan(len(IDS), 5).estimate
    assert Budget(model, five).rows(len(IDS), 64) == 5 and Budget(model, five - 1).rows(len(IDS), 64) == 4
    assert Budget(model, 1).rows(len(IDS), 64) == 1


def test_batches_are_as_large_as_memory_allows(tiny):
    two = Budget(ScopedModel.of(tiny), 10**15).plan(len(IDS), 2).estimate
    alone = ls.attribute_batch(tiny, PROMPTS)
    capped = ls.attribute_batch(tiny, PROMPTS, memory=two)
    assert "5 prompts together" in memory_words(alone[0].memory) and "2 prompts" in memory_words(capped[0].memory)
    for one, other in zip(alone, capped, strict=True):
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shortage", SHORTAGES.values(), ids=SHORTAGES)
@pytest.mark.parametrize("passed", [None, 0, 1, 3])
def test_running_out_of_memory_halves_the_slices_and_visits_nothing_twice(tiny, shortage, passed):
    objective = ls.Fisher("trace", samples=3, exact=2)
    whole = ls.attribute(tiny, IDS, objective, layers=True, sites="hook_z")
    steps = []
    with room_for(tiny, 1, shortage, on_the_way_back=passed):
        cut = ls.attribute(tiny, IDS, objective, layers=True, sites="hook_z", progress=lambda *step: steps.append(step))
    assert "the graph of 1 of" in memory_words(cut.memory) and "memory ran out" in memory_words(cut.memory)
    torch.testing.assert_close(cut.scores, whole.scores, **EXACT)
    torch.testing.assert_close(cut.layers, whole.layers, **EXACT)
    torch.testing.assert_close(cut.standard_error, whole.standard_error, rtol=1e-9, atol=0)
    for name, values in whole.sites.items():
        torch.testing.assert_close(cut.sites[name], values, **EXACT)
    assert steps == sorted(steps) and steps[-1][0] == steps[-1][1]


def test_a_visit_that_memory_runs_out_in_is_made_again(tiny, monkeypatch):
    from lens_scopes.scopes.readouts import Norm

    whole = ls.attribute(tiny, IDS, ls.Fisher(3), layers=True)
    amplitude, calls = Norm.amplitude, []

    def scarce(self, *arguments):
        calls.append(None)
        if len(calls) == 5:
            raise MemoryError
        return amplitude(self, *arguments)

    monkeypatch.setattr(Norm, "amplitude", scarce)
    cut = ls.attribute(tiny, IDS, ls.Fisher(3), layers=True)
    torch.testing.assert_close(cut.scores, whole.scores, **EXACT)
    torch.testing.assert_close(cut.layers, whole.layers, **EXACT)
    assert len(calls) == 3 * (tiny.cfg.n_layers + 1) + 1


def test_directions_that_do_not_fit_together_go_on_in_halves(tiny):
    vectors = torch.eye(tiny.cfg.d_model, dtype=torch.float64)[:5, None]
    visited = []
    traced = trace_in_slices(ScopedModel.of(tiny), [IDS], [], 1)
    together = traced._backward_together

    def scarce(upstream, progressed):
        if len(upstream) > 2:
            raise OutOfMemoryError("memory ran out")
        together(upstream, progressed)

    traced._backward_together = scarce
    traced.backward(vectors, lambda index, name, *_: visited.append((index, name)))
    assert sorted(visited) == [(index, "hook_embed") for index in range(5)] and traced.directions_at_once == 2


@pytest.mark.parametrize("shortage", SHORTAGES.values(), ids=SHORTAGES)
def test_batches_that_do_not_fit_are_halved_and_finished_prompts_stay_finished(tiny, shortage):
    alone = ls.attribute_batch(tiny, PROMPTS, ls.Fisher(2))
    seen, done = [], []

    def scarce(activation, hook):
        seen.append(len(activation))
        if len(activation) > 2:
            raise shortage()

    with tiny.hooks(fwd_hooks=[("hook_embed", scarce)]):
        halved = ls.attribute_batch(tiny, PROMPTS, ls.Fisher(2), progress=lambda *step: done.append(step))
    assert seen == [5, 2, 2, 1] and done == [(2, 5), (4, 5), (5, 5)]
    for one, other in zip(alone, halved, strict=True):
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-9, atol=1e-12)


def test_matrices_and_modes_and_heads_go_on_in_smaller_parts(tiny):
    matrix, modes = ls.attribute_all(tiny, IDS, ls.Fisher(2)), ls.inspect_modes(tiny, IDS, rank=3)
    with room_for(tiny, 1, MemoryError, on_the_way_back=1):
        cut = ls.attribute_all(tiny, IDS, ls.Fisher(2))
        cut_modes = ls.inspect_modes(tiny, IDS, rank=3)
    assert "memory ran out" in memory_words(cut.memory) and "memory ran out" in memory_words(cut_modes.memory)
    torch.testing.assert_close(cut.matrix, matrix.matrix, **EXACT)
    sliced = ls.attribute_all(tiny, IDS, ls.Fisher(2), memory=smallest(tiny, len(IDS)))
    assert "1 of" in memory_words(sliced.memory)
    torch.testing.assert_close(sliced.matrix, matrix.matrix, **EXACT)
    assert [item.amounts for item in cut_modes.replacements] == [item.amounts for item in modes.replacements]

    heads, seen = ls.inspect_heads(tiny, IDS), []

    def scarce(activation, hook):
        seen.append(len(activation))
        if len(activation) > 4:
            raise MemoryError

    with tiny.hooks(fwd_hooks=[("hook_embed", scarce)]):
        found = ls.inspect_heads(tiny, IDS)
    assert max(seen) > 4 and seen.count(max(seen)) == 1
    assert [item.actual for item in found.ablations] == pytest.approx([item.actual for item in heads.ablations])


def test_what_never_fits_is_refused_with_its_estimate(tiny, monkeypatch):
    with pytest.raises(OutOfMemoryError, match=r"1 × 7 tokens need about .* KB .* one layer at a time.*100 bytes are"):
        ls.attribute(tiny, IDS, memory=100)
    with pytest.raises(OutOfMemoryError, match="the heads of 7 tokens need about .* allow more memory"):
        ls.inspect_heads(tiny, IDS, memory=100)
    for refused in (ls.attribute_all, ls.inspect_modes):
        with pytest.raises(OutOfMemoryError, match="tokens need about .* allow more memory"):
            refused(tiny, IDS, memory=100)
    monkeypatch.setattr(planning, "free_bytes", lambda model: 100)
    with pytest.raises(OutOfMemoryError, match="100 bytes are free; free more memory"):
        ls.attribute(tiny, IDS)


def test_blocks_are_freed_at_once_where_one_layer_would_not_fit_otherwise(tiny, monkeypatch):
    """The smallest limit is then lower; scores are the same, and the result says how they were computed."""
    if not system.can_free_at_once():
        pytest.skip("this C library keeps its heap as it wants")
    least = smallest(tiny, len(IDS), tiny.cfg.n_layers)
    monkeypatch.setattr(planning, "LARGE", 1)
    monkeypatch.setattr(planning, "_SMALL_BLOCKS", 0)
    lower = smallest(tiny, len(IDS), tiny.cfg.n_layers)
    assert lower < 0.9 * least
    whole, scarce = ls.attribute(tiny, IDS, layers=True), ls.attribute(tiny, IDS, layers=True, memory=lower)
    assert not ls.attribute(tiny, IDS, layers=True, memory=least).memory.frees_at_once
    assert scarce.memory.frees_at_once and scarce.memory.layers_at_once == 1 and not whole.memory.frees_at_once
    assert "memory given back at once" in memory_words(scarce.memory)
    torch.testing.assert_close(scarce.layers, whole.layers, **EXACT)


def test_free_pages_go_back_after_every_slice_where_memory_matters(tiny, monkeypatch):
    calls = []
    monkeypatch.setattr("lens_scopes.engine.backward.return_free_pages", lambda: calls.append(1))
    ls.attribute(tiny, IDS)
    assert not calls
    sliced = ls.attribute(tiny, IDS, memory=smallest(tiny, len(IDS))).memory
    assert sliced.layers_at_once == 1 and len(calls) == tiny.cfg.n_layers


RETURNED = """
import torch
from lens_scopes.engine.memory import free_at_once, system

def returned():
    blocks = [torch.ones(2**20) for _ in range(32)]
    before = system._resident("VmRSS")
    del blocks[::2]
    return (before - system._resident("VmRSS")) / (16 * 2**22)

with free_at_once(True):
    print(returned())
print(returned())
"""


def test_large_blocks_go_back_to_the_system_when_they_are_freed():
    """Every other one of many blocks, which a heap would keep; afterwards blocks come from the heap again. In a process
    of its own: elsewhere they may come from what the heap holds already."""
    if not system.can_free_at_once() or system._resident("VmRSS") is None:
        pytest.skip("this system does not say what a process holds")
    done = subprocess.run([sys.executable, "-c", RETURNED], capture_output=True, text=True, check=True)
    at_once, later = map(float, done.stdout.split())
    assert at_once > 0.95 and later < 0.5


@pytest.mark.parametrize("shortage", SHORTAGES.values(), ids=SHORTAGES)
def test_memory_that_runs_out_for_the_smallest_part_is_one_sentence(tiny, shortage):
    with room_for(tiny, 0, shortage), pytest.raises(OutOfMemoryError, match="memory ran out") as caught:
        ls.attribute(tiny, IDS)
    assert "\n" not in str(caught.value) and str(caught.value).count("memory ran out") == 1
    with pytest.raises(OutOfMemoryError, match=rf"^1 × {len(IDS)} tokens need .* give a shorter prompt\.$"):
        ls.attribute(tiny, IDS, memory="1KB")
    with room_for(tiny, 0, shortage), pytest.raises(OutOfMemoryError, match="for the heads of this prompt"):
        ls.inspect_heads(tiny, IDS)
    with room_for(tiny, 0, shortage, on_the_way_back=1), pytest.raises(OutOfMemoryError, match="1 of"):
        ls.attribute(tiny, IDS, ls.Fisher(2))
    assert ls.attribute(tiny, IDS).scores.isfinite().all(), "the model is as before"


def test_other_errors_are_not_taken_for_a_shortage():
    for error in (RuntimeError("shapes cannot be multiplied"), ValueError("out of memory"), KeyError("x")):
        assert not is_out_of_memory(error)
        with pytest.raises(type(error)):
            try_or_oom(lambda error=error: (_ for _ in ()).throw(error))
    with pytest.raises(OutOfMemoryError, match="smallest chunk"):
        run_in_chunks(3, lambda start: 3, lambda items: (_ for _ in ()).throw(MemoryError()))


def test_a_real_allocation_that_cannot_be_made_is_recognised():
    assert "allocate" in (try_or_oom(lambda: torch.empty(2**60, dtype=torch.uint8)) or "")


def test_a_containers_limit_counts(tmp_path):
    assert system._left_to_the_container(tmp_path) == float("inf")
    for name, text in {"memory.max": "max\n", "memory.current": "300\n", "memory.stat": "anon 5\n"}.items():
        (tmp_path / name).write_text(text)
    assert system._left_to_the_container(tmp_path) == float("inf")
    (tmp_path / "memory.max").write_text("1000\n")
    assert system._left_to_the_container(tmp_path) == 700
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 120\n")
    assert system._left_to_the_container(tmp_path) == 820


@pytest.mark.parametrize(("text", "expected"), [("4GB", 4 * 10**9), ("1.5 mb", 1_500_000), (2048, 2048), (None, None)])
def test_amounts_of_memory(text, expected):
    assert parse_memory(text) == expected


@pytest.mark.parametrize("text", ["", "much", "0GB", "-4GB", "4 gigabytes", 0])
def test_malformed_amounts_are_refused(text):
    with pytest.raises(PromptError, match="4GB"):
        parse_memory(text)


def test_amounts_are_written_as_one_reads_them():
    assert [in_units(amount) for amount in (12, 4_500, 1_250_000, 3_400_000_000)] == [
        "12 bytes",
        "4.5 KB",
        "1.25 MB",
        "3.4 GB",
    ]


def test_a_bridge_without_a_list_of_blocks_cannot_be_sliced():
    class TransformerBridge(torch.nn.Linear):
        class cfg:  # noqa: N801
            n_layers = 2
            architecture = "SomeForCausalLM"

    with pytest.raises(ModelError, match="SomeForCausalLM cannot run a slice.*no list of its blocks"):
        trace_in_slices(ScopedModel.of(TransformerBridge(1, 1)), [IDS], [], 1)


def test_the_peak_is_counted_anew_in_a_process_that_held_more(tiny):
    """Freed memory goes back before the count starts; results record the peak beside the estimate."""
    held = [torch.ones(2**18) for _ in range(200)]  # 200 MB in pieces of 1 MB
    del held[::2], held
    gauge = PeakGauge(ScopedModel.of(tiny))
    block = torch.ones(10 * 2**20)
    del block
    peak = gauge.peak()
    if peak is None:
        pytest.skip("this system does not count memory")
    assert 38e6 < peak < 60e6
    for plan in (ls.attribute(tiny, IDS, memory="1GB").memory, ls.inspect_heads(tiny, IDS, memory="1GB").memory):
        assert plan.peak is not None and 0 <= plan.peak < 50e6 and plan.estimate > 0
        assert "planned, " in memory_amounts(plan) and "at the peak" in memory_amounts(plan)
    assert ls.attribute(tiny, IDS).memory.peak is None, "measuring takes time, and nothing is scarce"


def test_the_peak_is_unknown_where_the_system_does_not_count_it(tiny, monkeypatch, tmp_path):
    monkeypatch.setattr(system, "_STATUS", tmp_path / "none")
    plan = ls.attribute(tiny, IDS, memory="1GB").memory
    assert plan.peak is None and "at the peak" not in memory_amounts(plan)
    monkeypatch.undo()
    monkeypatch.setattr(system, "_CLEAR_REFS", tmp_path / "none" / "clear_refs")
    assert ls.attribute(tiny, IDS, memory="1GB").memory.peak is None


@pytest.mark.parametrize("name", ["llama_like", "gemma_like"])
def test_what_autograd_keeps_is_what_the_estimate_counts(name):
    """Of a middle layer, by PyTorch's own account; what the model holds anyway counts nothing."""
    model, ids = ScopedModel.of(TINY_MODELS[name](dtype=torch.float32)), IDS * 4
    batch = Batch.of(model, [ids])
    own = {values.untyped_storage().data_ptr() for values in [*model.module.parameters(), *model.module.buffers()]}
    kept: dict[int, torch.Tensor] = {}

    def keep(values: torch.Tensor) -> torch.Tensor:
        if values.untyped_storage().data_ptr() not in own:
            kept[values.untyped_storage().data_ptr()] = values
        return values

    start = model.run_slice(batch, batch.token_ids, 0, 1).detach().requires_grad_(True)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda values: values):
        model.run_slice(batch, start, 1, 2)
    footprint = planning.Footprint.of(model)
    actual = sum(values.untyped_storage().nbytes() for values in kept.values())
    assert footprint.block_graph(len(ids)) + footprint.weights == pytest.approx(actual, rel=0.15)
