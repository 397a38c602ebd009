"""`lens-scopes evaluate`: the faithfulness of attributions on a data set."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from lens_scopes.cli.options.groups import with_option_groups
from lens_scopes.cli.options.model import ModelOptions
from lens_scopes.cli.options.report import ReportOptions
from lens_scopes.cli.progress import progress_bar
from lens_scopes.engine.ablations import ABLATIONS
from lens_scopes.evaluation.methods.table import method_names
from lens_scopes.evaluation.metrics.table import METRICS
from lens_scopes.prompts.groups import UNITS

_DATA = "Passages"
_TESTS = "What is measured"
_METHODS = "fisher,temperature,semantic,random"


def _list_entries(entries: Mapping[str, str]) -> str:
    """Names with their help, one per line (typer joins the lines of a paragraph)."""
    return "".join(f"\n\n{name}: {text}" for name, text in entries.items())


@dataclass(frozen=True)
class PassageOptions:
    """Which passages, and what is explained of each."""

    passages: Annotated[
        str,
        typer.Argument(
            metavar="PASSAGES",
            help="A file (.txt, .json, .jsonl, .parquet), or a folder or name that `datasets` loads.",
            show_default=False,
        ),
    ]
    field: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help='Field or column that holds the text. By default "text".',
            rich_help_panel=_DATA,
            show_default=False,
        ),
    ] = None
    other_field: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Field or column that holds another prompt of as many tokens for each passage: for the ablation "
            "prompt, and for methods measured from it, such as semantic+dot-prompt and loo-kl@prompt.",
            rich_help_panel=_DATA,
            show_default=False,
        ),
    ] = None
    within_field: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Field or column that holds the eligible part of each passage, such as its document: those tokens "
            "alone are ranked and ablated, and a question stays. By default all tokens but special ones.",
            rich_help_panel=_DATA,
            show_default=False,
        ),
    ] = None
    split: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Split of the data set, if it has several.", rich_help_panel=_DATA),
    ] = None
    subset: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Configuration of the data set, if it has several.", rich_help_panel=_DATA),
    ] = None
    skip: Annotated[int, typer.Option(help="Skip the first N passages.", min=0, rich_help_panel=_DATA)] = 0
    limit: Annotated[
        int | None,
        typer.Option(
            help="Measure at most N passages. By default all.", min=1, rich_help_panel=_DATA, show_default=False
        ),
    ] = None
    answer_field: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Field or column that holds an answer after each passage: explain it as a whole, and measure its "
            "log-probability and the KL summed over its predictions.",
            rich_help_panel=_DATA,
            show_default=False,
        ),
    ] = None
    generate: Annotated[
        int,
        typer.Option(
            help="Explain N tokens of the model's own continuation as the answer.", min=0, rich_help_panel=_DATA
        ),
    ] = 0
    target: Annotated[
        str | None,
        typer.Option(
            metavar="last|own",
            help="last: the model reads the passage without its last token, which shows whether the prediction is "
            "correct; own: it reads the whole passage. Methods explain the model's own top token, unless the protocol "
            "says otherwise. By default last, and own with answers.",
            rich_help_panel=_DATA,
            show_default=False,
        ),
    ] = None
    truncate: Annotated[
        bool,
        typer.Option(
            "--truncate",
            help="Cut the beginning of passages longer than the context window. By default they are skipped.",
            rich_help_panel=_DATA,
        ),
    ] = False


@dataclass(frozen=True)
class MeasureOptions:
    """Methods × metrics × ablations."""

    methods: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,…",
            help=f"Methods, separated by commas: {', '.join(method_names())}. A setting follows "
            "@, as in fisher@8; choices follow +, as in fisher@8+dot-mean+frozen-patterns. "
            f"By default {_METHODS}, or the protocol's own.",
            rich_help_panel=_TESTS,
            show_default=False,
        ),
    ] = None
    metrics: Annotated[
        str,
        typer.Option(
            metavar="NAME,…",
            help=f"Metrics, separated by commas.{_list_entries({m.name: m.sentence for m in METRICS.values()})}",
            rich_help_panel=_TESTS,
        ),
    ] = "aopc,loo-kl"
    ablations: Annotated[
        str,
        typer.Option(
            metavar="NAME,…",
            help="What replaces ablated tokens, separated by commas."
            + _list_entries({a.name: a.help for a in ABLATIONS.values()}),
            rich_help_panel=_TESTS,
        ),
    ] = "zero,mean"
    by: Annotated[
        str,
        typer.Option(
            metavar="UNIT",
            help=f"What metrics of segments (lds, top-k-drop) leave out as a whole: {', '.join(UNITS[:-1])} or "
            f"{UNITS[-1]}.",
            rich_help_panel=_TESTS,
        ),
    ] = "sentence"
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help='Conventions of the evaluation: "arXiv:2601.16407" follows the public code of that paper.',
            rich_help_panel=_TESTS,
            show_default=False,
        ),
    ] = None
    seed: Annotated[int, typer.Option(help="Random seed.", rich_help_panel=_TESTS)] = 0
    draws: Annotated[
        int, typer.Option(help="Samples to average if an ablation is random.", min=1, rich_help_panel=_TESTS)
    ] = 4


@with_option_groups
def evaluate(
    data: PassageOptions,
    measures: MeasureOptions,
    model: ModelOptions,
    output: ReportOptions,
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="Result folder. The same command continues an interrupted run.",
            show_default=False,
        ),
    ],
    retry: Annotated[bool, typer.Option("--retry", help="Retry passages that failed before.")] = False,
    mixed_commits: Annotated[
        bool,
        typer.Option(
            "--mixed-commits", help="Continue a folder that another commit of lens_scopes began; reports will say so."
        ),
    ] = False,
) -> None:
    """Measure the faithfulness of methods on a data set: ablate tokens and compare the effects with the scores.

    Each passage is saved as soon as it is measured, and the same command continues an interrupted run. Processes
    started by `accelerate launch` share the passages.

    Examples:
        lens-scopes evaluate passages.jsonl --methods fisher,temperature,random --metrics loo-kl --out results
    """
    output.check()
    with redirect_stdout(sys.stderr):  # libraries print, and standard output carries the result alone
        from lens_scopes.evaluation.passages.read import read_passages
        from lens_scopes.evaluation.passages.selection import Selection, check_target
        from lens_scopes.evaluation.processes import this_process
        from lens_scopes.evaluation.protocol import as_protocol
        from lens_scopes.evaluation.run import check_choices
        from lens_scopes.evaluation.run import evaluate as measure
        from lens_scopes.evaluation.statistics.comparison import check_reference
        from lens_scopes.evaluation.storage.folder import ResultFolder
        from lens_scopes.scopes.comparisons.ablation_method import check_unit

        # What can be refused without the model is refused before it is loaded.
        check_target(data.target)
        protocol = as_protocol(measures.protocol)
        metrics, ablations = map(_names, (measures.metrics, measures.ablations))
        protocol.check_metrics(metrics)
        if data.within_field is not None:
            protocol.check_parts()
        methods = _names(measures.methods or ",".join(protocol.methods_of(metrics)) or _METHODS)
        check_choices(methods, metrics, ablations)
        check_unit(measures.by)
        check_reference(output.reference, methods)

        # Each of several processes has a device of its own, and the first shows the progress.
        process = this_process()
        passages = read_passages(
            data.passages,
            field=data.field,
            answer_field=data.answer_field,
            other_field=data.other_field,
            within_field=data.within_field,
            split=data.split,
            subset=data.subset,
        )
        Selection.of(passages, data.skip, data.limit, target=data.target, generate=data.generate)
        loaded = replace(model, device=model.device or process.device()).load()
        with progress_bar("Evaluating") as progress:
            measure(
                loaded,
                passages,
                methods=methods,
                metrics=metrics,
                ablations=ablations,
                protocol=protocol,
                out=out,
                limit=data.limit,
                skip=data.skip,
                target=data.target,
                truncate=data.truncate,
                generate=data.generate,
                by=measures.by,
                seed=measures.seed,
                draws=measures.draws,
                retry=retry,
                mixed_commits=mixed_commits,
                progress=progress if process.rank == 0 else None,
            )

        # Of several processes, the last one to finish reports.
        selected = Selection(passages, data.skip, data.limit).indices()
        complete = process.count == 1 or set(selected) <= ResultFolder.open(out).records().keys()
    if complete:
        output.deliver(out)


def _names(text: str) -> list[str]:
    """Names separated by commas; those within parentheses belong to a name."""
    names, depth = [""], 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            names.append("")
        else:
            names[-1] += character
    return [name.strip() for name in names if name.strip()]
