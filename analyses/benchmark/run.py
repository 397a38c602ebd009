"""Times the scopes against a lower bound and against competing implementations.

    python analyses/benchmark/run.py                                    prompts of 128 and 512 tokens, batches, …
    python analyses/benchmark/run.py --only prompt --tokens 512         one part alone
    python analyses/benchmark/run.py --only long --tokens 8192          long natural text, against fused attention
    python analyses/benchmark/run.py --out b.json --out b.png           saves the results and a figure
    python analyses/benchmark/run.py --from b.json --out b.png          draws saved results again, without a model

Each case runs once for its memory and once per round; times are medians over the rounds. On a processor one thread
does the work by default, and times are processor time, so that other programs on the machine matter little. With more
threads, or on a GPU, times are wall time.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder that holds this package

from lens_scopes.errors import FileError, LensScopesError

PARTS = ("startup", "prompt", "long", "batch", "matrix", "precision")
LONG_TOKENS = [512, 2048, 8192]
MATRIX_TOKENS = 128
PRECISION_PASSAGES = 50
SUFFIXES = (".json", ".png", ".svg", ".pdf")


def main(
    model: Annotated[str, typer.Option(help="A model's name or folder, as for lens_scopes.load_model.")] = (
        "gemma-3-270m"
    ),
    device: Annotated[str | None, typer.Option(help="cpu or cuda; by default cuda if there is one.")] = None,
    tokens: Annotated[
        list[int] | None,
        typer.Option(
            help="Length of a prompt; may be repeated. By default 128 and 512; of natural text 512, 2048, 8192.",
            min=2,
        ),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help=f"One part; may be repeated: {', '.join(PARTS)}.")] = None,
    rounds: Annotated[int, typer.Option(help="Number of timed rounds.", min=1)] = 3,
    threads: Annotated[int, typer.Option(help="Threads on a processor.", min=1)] = 1,
    passages: Annotated[
        str | None, typer.Option(help="File or data set of passages for batch and precision; by default generated.")
    ] = None,
    count: Annotated[int, typer.Option(help="Number of passages in the batch.", min=1)] = 64,
    competitors: Annotated[bool, typer.Option(help="Time competing implementations too.")] = True,
    saved: Annotated[
        Path | None, typer.Option("--from", help="A saved .json file: show and draw it, and measure nothing.")
    ] = None,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            help="Write a file: .json, or a figure as .png, .svg or .pdf; may be repeated. An existing .json file "
            "keeps the parts that are not run now."
        ),
    ] = None,
) -> None:
    """Time the scopes against a lower bound and against competing implementations."""
    outputs = out or []
    _check(only or [], outputs)
    if saved is not None:
        from benchmark.results import read_sections

        sections = read_sections(saved)
        if not sections:
            raise FileError(f"{saved} does not exist or holds no measurements.")
        _show(sections)
        _write(sections, outputs)
        return
    import torch

    torch.set_num_threads(threads)
    with redirect_stdout(sys.stderr):  # libraries print, and standard output carries the results alone
        measured = {}
        for section in _sections(
            model, device, tokens or [], only or list(PARTS), rounds, passages, count, competitors
        ):
            measured[section.name] = section.to_dict()
            _write(measured, outputs)  # after every section, so that an interruption loses one at most
    _show(measured)


def _check(parts: list[str], outputs: list[Path]) -> None:
    """Refuses what could not be run or written before anything is measured."""
    from benchmark.results import read_sections
    from lens_scopes.results.storage.writing import check_writable

    for part in parts:
        if part not in PARTS:
            raise LensScopesError(f"unknown part {part!r}; give --only {', '.join(PARTS)}.")
    for path in outputs:
        if path.suffix.lower() not in SUFFIXES:
            raise FileError(f"cannot write {path}: the suffix must be one of {', '.join(SUFFIXES)}.")
        check_writable(path)
        if path.suffix.lower() == ".json":
            read_sections(path)


def _sections(
    model: str,
    device: str | None,
    lengths: list[int],
    parts: list[str],
    rounds: int,
    passages: str | None,
    count: int,
    competitors: bool,
) -> Iterator[Any]:
    """Measures the parts one after the other."""
    import lens_scopes as ls
    from benchmark import cases
    from benchmark.competitors import transformers_model
    from benchmark.passages import generated_passages
    from benchmark.startup import startup_section
    from lens_scopes.cli.progress import progress_bar
    from lens_scopes.evaluation.passages.read import read_passages
    from lens_scopes.models.gemma import EMBEDDED_NAME

    texts = generated_passages(count) if passages is None else list(read_passages(passages).texts[:count])
    if "startup" in parts:
        with progress_bar("startup") as progress:
            yield startup_section(rounds, load=model == EMBEDDED_NAME, progress=progress)
    if parts == ["startup"]:
        return
    loaded = ls.load_model(model, device=device)
    bench = cases.Bench(loaded, transformers_model(model, loaded) if competitors else None, rounds)
    for length in lengths or [128, 512] if "prompt" in parts else []:
        with progress_bar(f"{length} tokens") as progress:
            yield cases.prompt_section(bench, length, progress)
    for length in lengths or LONG_TOKENS if "long" in parts else []:
        with progress_bar(f"{length} tokens of natural text") as progress:
            yield cases.long_section(bench, length, progress)
    if "batch" in parts:
        with progress_bar("batch") as progress:
            yield cases.batch_section(bench, texts, progress)
    if "matrix" in parts:
        with progress_bar("matrix") as progress:
            yield cases.matrix_section(bench, MATRIX_TOKENS, progress)
    if "precision" in parts:
        with progress_bar("precision") as progress:
            yield cases.precision_section(bench, texts[:PRECISION_PASSAGES], progress)


def _write(sections: dict[str, Any], outputs: list[Path]) -> None:
    from benchmark.figure import benchmark_figure
    from benchmark.results import file_content, read_sections
    from lens_scopes.results.storage.writing import write_whole
    from lens_scopes.views.figures.style import draw_file

    for path in outputs:
        if path.suffix.lower() == ".json":
            write_whole(path, file_content({**read_sections(path), **sections}))
        elif any(section["yardsticks"] for section in sections.values()):
            write_whole(path, draw_file(lambda: benchmark_figure(sections), path.suffix[1:].lower(), 200))


def _show(sections: dict[str, Any]) -> None:
    from benchmark.table import print_sections

    print_sections(sections)


if __name__ == "__main__":
    from lens_scopes.cli.app import run_command

    run_command(main)
