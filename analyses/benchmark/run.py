"""Times the scopes against a lower bound and against competing implementations.

python analyses/benchmark/run.py --tokens 128
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lens_scopes.cli.options.groups import with_option_groups
from lens_scopes.cli.options.model import ModelOptions
from lens_scopes.cli.options.output import PANEL as OUTPUT
from lens_scopes.cli.options.output import as_json, check_files
from lens_scopes.cli.progress import progress_bar
from lens_scopes.errors import PromptError

if TYPE_CHECKING:
    from benchmark.results import Section

_PANEL = "Benchmark"
_PARTS = ("scopes", "batch", "matrix", "precision", "startup")
_MATRIX_TOKENS = 128
_COMPARED = 50  # passages whose scores in two precisions are compared
_SUFFIXES = (".json", ".png", ".svg", ".pdf")


@with_option_groups
def bench(
    model: ModelOptions,
    tokens: Annotated[
        list[int] | None,
        typer.Option(
            help="Length of the prompt; may be repeated. By default 128 and 512.",
            min=2,
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    long: Annotated[
        bool, typer.Option("--long", help="Also 2,048 tokens, and 8,192 once.", rich_help_panel=_PANEL)
    ] = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="|".join(_PARTS),
            help="Run this part alone; may be repeated.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    turns: Annotated[
        int, typer.Option(help="How often each case is timed; slow ones less often.", min=1, rich_help_panel=_PANEL)
    ] = 5,
    passages: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A JSON list of texts, or one a line, for the batch; by default made-up ones.",
            rich_help_panel=_PANEL,
            show_default=False,
        ),
    ] = None,
    count: Annotated[int, typer.Option(help="Passages in the batch.", min=1, rich_help_panel=_PANEL)] = 64,
    rivals: Annotated[
        bool,
        typer.Option("--rivals/--no-rivals", help="Run plain Transformers and captum too.", rich_help_panel=_PANEL),
    ] = True,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            help="Write a file, its kind told by the suffix: .json, or .png .svg .pdf figure; may be repeated. A .json "
            "file that exists keeps the parts that are not run now.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print everything as JSON and nothing else.", rich_help_panel=OUTPUT)
    ] = False,
) -> None:
    """What the scopes cost: against one forward and backward pass, and against what one would use instead."""
    check_files(out or [], _SUFFIXES)
    for part in only or []:
        if part not in _PARTS:
            raise PromptError(f"unknown part {part!r} of the benchmark; give --only {', '.join(_PARTS)}.")
    with redirect_stdout(sys.stderr):  # libraries print, and standard output carries the result alone
        from benchmark.passages import made_passages, read_passages

        texts = (made_passages(count) if passages is None else read_passages(passages))[:count]
        lengths = [*(tokens or (128, 512)), *([2048, 8192] if long else [])]
        found = list(_sections(model, lengths, only or list(_PARTS), turns, texts, rivals))
    _deliver(found, out or [], json)


def _sections(
    model: ModelOptions, lengths: list[int], parts: list[str], turns: int, texts: list[str], rivals: bool
) -> Iterator[Section]:
    from benchmark import workloads
    from benchmark.rivals import transformers_model
    from benchmark.startup import startup_section
    from lens_scopes.models.gemma import EMBEDDED_NAME

    def shown(what: str, run: Callable[[Any], Section]) -> Section:
        with progress_bar(what) as progress:
            return run(progress)

    if "startup" in parts:
        load = model.model == EMBEDDED_NAME
        yield shown("Starting", lambda progress: startup_section(turns, load=load, progress=progress))
    if parts == ["startup"]:
        return
    loaded = model.load()
    bench = workloads.Bench(loaded, transformers_model(model.model, loaded) if rivals else None, turns)
    if "scopes" in parts:
        for length in lengths:
            section = workloads.long_section if length > workloads.LONG else workloads.scope_section
            yield shown(f"{length} tokens", lambda progress, n=length, run=section: run(bench, n, progress))
    if "batch" in parts:
        yield shown("Passages", lambda progress: workloads.batch_section(bench, texts, progress))
    if "matrix" in parts:
        yield shown("Every prediction", lambda progress: workloads.matrix_section(bench, _MATRIX_TOKENS, progress))
    if "precision" in parts:
        yield shown("Precision", lambda progress: workloads.precision_section(bench, texts[:_COMPARED], progress))


def _deliver(sections: list[Section], out: list[Path], json: bool) -> None:
    from benchmark.figure import benchmark_figure
    from benchmark.results import benchmark_of, merged
    from benchmark.terminal import print_benchmark
    from lens_scopes.results.files import write_whole
    from lens_scopes.views.figures.style import saved

    found = benchmark_of(sections)
    for path in out:
        if path.suffix.lower() == ".json":
            write_whole(path, merged(path, found))
        else:
            write_whole(path, saved(lambda: benchmark_figure(found), path.suffix[1:].lower(), 200))
        print(f"lens-scopes: wrote {path}", file=sys.stderr)
    if json:
        print(as_json(found.to_dict()))
    else:
        print_benchmark(found)


if __name__ == "__main__":
    from lens_scopes.cli.app import run_command

    run_command(bench)
